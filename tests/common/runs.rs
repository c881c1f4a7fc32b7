//! Whole runs on small models and made-up data.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trainer::checkpoint::run_dir::Resume;
use trainer::comm::{Collective, threads};
use trainer::config::Config;
use trainer::error::Result;
use trainer::observe::signals::StopFlag;
use trainer::train::{Ended, Start, Trainer};

/// A small generator of its own, so that the data does not change with the program.
pub struct Lcg(pub u64);

impl Lcg {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// The words of a reference model's tokenizer.
fn words(model: &Path) -> Vec<String> {
    let json: Value = serde_json::from_str(&fs::read_to_string(model.join("tokenizer.json")).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    vocab.keys().filter(|w| w.chars().all(char::is_alphabetic)).cloned().collect()
}

/// Writes `n` labelled records of unequal lengths; a text's label follows from its words, so that it can be learnt.
pub fn write_data(path: &Path, model: &Path, n: usize, seed: u64) {
    let words = words(model);
    let mut random = Lcg(seed);
    let lines: Vec<String> = (0..n)
        .map(|_| {
            let length = 1 + random.below(24);
            let picks: Vec<u64> = (0..length).map(|_| random.below(words.len() as u64)).collect();
            let text: Vec<&str> = picks.iter().map(|&i| words[i as usize].as_str()).collect();
            let label = ["science", "sport", "weather"][(picks[0] % 3) as usize];
            serde_json::json!({"text": text.join(" "), "label": label}).to_string()
        })
        .collect();
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

/// A folder with data and what is needed to run on it.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub model: PathBuf,
}

impl Bench {
    /// 90 training and 23 evaluation records for a reference model.
    pub fn new(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = super::reference::folder(model);
        write_data(&dir.path().join("train.jsonl"), &model, 90, 1);
        write_data(&dir.path().join("eval.jsonl"), &model, 23, 2);
        Bench { dir, model }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The settings of a run into `out`, as `key=value`.
    pub fn settings(&self, out: &str, more: &[&str]) -> Vec<String> {
        let path = |p: PathBuf| p.display().to_string();
        let mut settings = vec![
            format!("output_dir={}", path(self.path(out))),
            format!("model.path={}", path(self.model.clone())),
            "task.kind=sequence-classification".into(),
            format!("data.train={}", path(self.path("train.jsonl"))),
            format!("data.eval={}", path(self.path("eval.jsonl"))),
            format!("data.cache_dir={}", path(self.path("cache"))),
            "max_steps=20".into(),
            "global_batch_size=12".into(),
            "logging_steps=1".into(),
            "learning_rate=1e-3".into(),
            "weight_decay=0.01".into(),
            "warmup_steps=2".into(),
            "num_threads=1".into(),
        ];
        // Sources are there in place of a training file.
        if more.iter().any(|s| s.starts_with("data.sources=")) {
            settings.retain(|s| !s.starts_with("data.train="));
        }
        settings.extend(more.iter().map(|&s| s.to_owned()));
        settings
    }

    /// Runs on `world` ranks as threads; returns how it ended on rank 0.
    pub fn run(&self, world: usize, out: &str, more: &[&str], resume: &Resume) -> Result<Ended> {
        self.run_on(threads::group(world, Duration::from_secs(60)), out, more, resume)
    }

    /// The same on these ranks.
    pub fn run_on(&self, group: Vec<Arc<dyn Collective>>, out: &str, more: &[&str], resume: &Resume) -> Result<Ended> {
        tch::set_num_threads(1);
        let config = Config::load(None, &self.settings(out, more)).unwrap();
        let start = |comm| {
            let (config, resume) = (config.clone(), resume.clone());
            std::thread::spawn(move || run_rank(config, comm, resume))
        };
        let ranks: Vec<_> = group.into_iter().map(start).collect();
        let ended: Vec<Result<Ended>> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        ended.into_iter().next().unwrap()
    }

    /// The lines of a run's metrics that have `key`.
    pub fn lines(&self, out: &str, key: &str) -> Vec<Value> {
        lines(&self.path(out), key)
    }

    /// The line at the end of a run.
    pub fn summary(&self, out: &str) -> Value {
        let summary = self.lines(out, "event").into_iter().rfind(|line| line["event"] == "summary");
        summary.expect("a summary")
    }

    /// (loss, gradient norm) of each step.
    pub fn steps(&self, out: &str) -> Vec<(f64, f64)> {
        self.lines(out, "loss")
            .iter()
            .map(|l| (l["loss"].as_f64().unwrap(), l["grad_norm"].as_f64().unwrap()))
            .collect()
    }
}

/// The lines of a run folder's metrics that have `key`.
pub fn lines(run: &Path, key: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|l| l.get(key).is_some()).collect()
}

fn run_rank(config: Config, comm: Arc<dyn Collective>, resume: Resume) -> Result<Ended> {
    let start = Start { resume, allow_new_data_order: false, began: Instant::now(), stop: StopFlag::new() };
    Trainer::open(config, Arc::clone(&comm), start)?.run()
}

/// Asserts that two runs took the same steps: losses within 1e-6 and gradient norms within 1e-4, relative.
pub fn assert_equivalent(a: &[(f64, f64)], b: &[(f64, f64)], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: number of steps");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        let (loss, norm) = ((x.0 - y.0).abs() / y.0.abs(), (x.1 - y.1).abs() / y.1.abs());
        assert!(loss < 1e-6, "{what}: step {}: loss {} and {} differ by {loss:e}", i + 1, x.0, y.0);
        assert!(norm < 1e-4, "{what}: step {}: gradient norm {} and {} differ by {norm:e}", i + 1, x.1, y.1);
    }
}
