//! Generated texts against transformers', token for token, on the models under `tests/reference/cases`; on several ranks
//! and with sharded weights too. `tests/reference/generation.py` wrote the texts.

mod common;

use common::reference::folder;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;

use tch::{Device, Kind};
use trainer::comm::Collective;
use trainer::comm::solo::Solo;
use trainer::data::{Collation, Dataset, Example, Label};
use trainer::generate::{Settings, Text};
use trainer::models::registry::{self, DropoutOverrides};
use trainer::parallel::Zero;
use trainer::tasks::Head;
use trainer::train::evaluate::Evaluator;
use trainer::train::loaded::{Declared, Holding, Source};

/// What transformers wrote on one model.
#[derive(Deserialize)]
struct Wanted {
    #[serde(skip)]
    case: String,
    prompts: Vec<Vec<u32>>,
    /// For each prompt the number that each of its tokens is drawn by.
    uniforms: Vec<Vec<f64>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    settings: Map<String, Value>,
    texts: Vec<Vec<u32>>,
}

fn all() -> Vec<Wanted> {
    let entries = std::fs::read_dir(folder("generation")).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let wanted: Wanted = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        Wanted { case: format!("cases/{}", path.file_stem().unwrap().to_str().unwrap()), ..wanted }
    };
    let mut all: Vec<Wanted> = entries.map(read).collect();
    all.sort_by(|a, b| a.case.cmp(&b.case));
    assert!(!all.is_empty());
    all
}

impl Wanted {
    /// Some of the prompts.
    fn dataset(&self, prompts: &[usize]) -> Dataset {
        let config = registry::read_config(&folder(&self.case)).unwrap();
        let collation = match config["decoder_start_token_id"].as_u64() {
            Some(start) => Collation::SourceTarget { start: start as u32 },
            None => Collation::NextToken,
        };
        let example = |&i: &usize| {
            let ids = self.prompts[i].clone();
            Example::single(ids.clone(), vec![0; ids.len()], Label::None)
        };
        Dataset::new(prompts.iter().map(example), collation, [0; 32])
    }

    /// The texts of these prompts by one run's settings, on one of the ranks.
    fn texts(&self, run: &Run, prompts: &[usize], how: How, comm: &Arc<dyn Collective>) -> Vec<Text> {
        let folder = folder(&self.case);
        let json = registry::read_config(&folder).unwrap();
        let head = Head::of_config(&folder, &json).unwrap();
        let declared = Declared::read(&folder, json, DropoutOverrides::default(), head.role()).unwrap();
        let zero = Zero::ALL[how.zero];
        let holding = Holding { kind: Kind::Float, zero, trains: false, seed: 0, from: Source::Folder };
        let mut loaded = declared.with_head(&head, &[]).unwrap().load(comm, &holding).unwrap();
        let settings = Settings::read(&folder, &run.settings).unwrap();
        let dataset = self.dataset(prompts);
        let draw = |record: u64, position: usize| self.uniforms[prompts[record as usize]][position];
        let mut evaluator = Evaluator {
            model: &loaded.model,
            params: &loaded.params,
            weights: &mut loaded.weights,
            comm: comm.as_ref(),
            micro_batch_tokens: how.tokens,
            generation: None,
        };
        evaluator.texts(&dataset, &settings, &draw).unwrap()
    }

    fn indices(&self) -> Vec<usize> {
        (0..self.prompts.len()).collect()
    }
}

#[derive(Clone, Copy)]
struct How {
    zero: usize,
    /// In the cache at a time.
    tokens: usize,
}

fn solo() -> Arc<dyn Collective> {
    Arc::new(Solo::new(Device::Cpu))
}

fn ids(texts: &[Text]) -> Vec<Vec<u32>> {
    texts.iter().map(|text| text.ids.clone()).collect()
}

/// All prompts in one batch, whatever their lengths; and each alone.
#[test]
fn texts_are_those_of_transformers() {
    tch::set_num_threads(1);
    let mut wrong = Vec::new();
    for wanted in all() {
        for run in &wanted.runs {
            let settings = Value::from(run.settings.clone());
            let together = wanted.texts(run, &wanted.indices(), How { zero: 0, tokens: 100_000 }, &solo());
            if ids(&together) != run.texts {
                wrong.push(format!("{} {settings}\n{:?}\n{:?}", wanted.case, ids(&together), run.texts));
            }
            let alone = wanted.texts(run, &wanted.indices(), How { zero: 0, tokens: 1 }, &solo());
            for (a, b) in together.iter().zip(&alone) {
                let near = a.log_probs.iter().zip(&b.log_probs).all(|(x, y)| (x - y).abs() < 1e-5);
                if a.ids != b.ids || !near {
                    wrong.push(format!("{} {settings}: together {a:?}, alone {b:?}", wanted.case));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
