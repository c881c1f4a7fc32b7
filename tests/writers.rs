//! Checkpoints that all ranks write: the same tensors in several files.

mod common;

use common::models::tensors;
use common::process::names;
use common::runs::Bench;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trainer::checkpoint::run_dir::Resume;
use trainer::comm::{Collective, threads};
use trainer::config::Config;
use trainer::observe::signals::StopFlag;
use trainer::train::{Start, Trainer};

const ALL: &str = "checkpoint.writers=all";
const DROPOUT: &str = "hidden_dropout_prob=0.1";

fn bench() -> Bench {
    Bench::new("bert-classification")
}

fn go(bench: &Bench, world: usize, out: &str, more: &[&str], resume: &Resume) {
    bench.run(world, out, more, resume).unwrap_or_else(|e| panic!("{out}: {e}"));
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// The tensors of a set, of one file or of those of its index, which must have each tensor once and where it says.
fn of_set(set: &Path) -> BTreeMap<String, Vec<u8>> {
    if set.exists() {
        return tensors(set);
    }
    let index = json(&set.with_extension("safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let files: BTreeSet<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    let mut all = BTreeMap::new();
    for file in files {
        for (name, bytes) in tensors(&set.with_file_name(file)) {
            assert_eq!(map[&name], file, "{name}");
            assert!(all.insert(name, bytes).is_none());
        }
    }
    assert_eq!(map.len(), all.len());
    assert_eq!(index["metadata"]["total_size"], all.values().map(Vec::len).sum::<usize>());
    all
}

/// At every stage: the tensors of one file, divided about equally, and nothing but the weights' names differs.
#[test]
fn all_ranks_write_what_one_writes() {
    let bench = bench();
    for (world, zero, precision) in [(2, 0, "fp32"), (3, 1, "fp32"), (2, 2, "bf16"), (4, 3, "bf16"), (2, 3, "fp32")] {
        let (stage, kind) = (format!("parallel.zero_stage={zero}"), format!("parallel.precision={precision}"));
        let more = [DROPOUT, "max_steps=4", "save_steps=2", "save_total_limit=1", &stage, &kind];
        let (one, all) = (format!("one-{world}-{zero}-{precision}"), format!("all-{world}-{zero}-{precision}"));
        go(&bench, world, &one, &more, &Resume::None);
        go(&bench, world, &all, &[&more[..], &[ALL]].concat(), &Resume::None);
        assert_eq!(bench.steps(&all), bench.steps(&one), "{all}");
        let mut sets = vec!["checkpoint-4/model", "checkpoint-4/optimizer/adamw", "final/model"];
        if precision == "bf16" {
            sets.push("checkpoint-4/optimizer/master");
        }
        for set in sets {
            let path = |out: &str| bench.path(out).join(format!("{set}.safetensors"));
            assert!(of_set(&path(&all)) == of_set(&path(&one)), "{all}: {set}");
            assert!(path(&one).exists() && !path(&all).exists(), "{all}: {set}");
            let part = |i: usize| {
                path(&all)
                    .with_file_name(format!("{}-{i:05}-of-{world:05}.safetensors", &set[set.rfind('/').unwrap() + 1..]))
            };
            let sizes: Vec<u64> = (1..=world).map(|i| fs::metadata(part(i)).unwrap().len()).collect();
            // The largest tensor, the embedding matrix, is a fifth of the model.
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(*most < 2 * least, "{all}: {set}: {sizes:?}");
        }
        for folder in ["", "checkpoint-4", "checkpoint-4/optimizer", "final"] {
            let others = |out: &str| -> Vec<String> {
                let names = names(&bench.path(out).join(folder)).into_iter();
                names.filter(|name| !name.contains(".safetensors")).collect()
            };
            assert_eq!(others(&all), others(&one), "{all}: {folder}");
        }
        let (a, b) = (bench.path(&all).join("final/config.json"), bench.path(&one).join("final/config.json"));
        assert_eq!(json(&a), json(&b));
    }
}

/// From either kind of checkpoint, at any world and stage and with either kind to write, a run takes the same steps to
/// the same bits.
#[test]
fn a_run_resumes_from_either_kind_of_checkpoint() {
    let bench = bench();
    for precision in ["fp32", "bf16"] {
        let kind = format!("parallel.precision={precision}");
        let more = [DROPOUT, "max_steps=6", "save_steps=3", &kind];
        let (one, all) = (format!("one-{precision}"), format!("all-{precision}"));
        for (out, writers) in [(&one, "checkpoint.writers=rank0"), (&all, ALL)] {
            go(&bench, 4, out, &[&more[..], &["parallel.zero_stage=3", writers]].concat(), &Resume::None);
        }
        for (world, zero) in [(4, 3), (2, 3), (2, 1), (3, 2), (1, 0)] {
            let stage = format!("parallel.zero_stage={zero}");
            let mut ended = Vec::new();
            for (from, writers) in [(&one, "checkpoint.writers=rank0"), (&all, ALL), (&all, "checkpoint.writers=rank0")]
            {
                let out = format!("{from}-{world}-{zero}-{writers}");
                let resume = Resume::Path(bench.path(from).join("checkpoint-3"));
                go(&bench, world, &out, &[&more[..], &[&stage, writers]].concat(), &resume);
                let run = bench.path(&out);
                let state = of_set(&run.join("checkpoint-6/optimizer/adamw.safetensors"));
                ended.push((bench.steps(&out), of_set(&run.join("final/model.safetensors")), state));
            }
            for other in &ended[1..] {
                assert_eq!(other.0, ended[0].0, "{precision}, world {world}, ZeRO {zero}");
                assert!(*other == ended[0], "{precision}, world {world}, ZeRO {zero}: the bits differ");
            }
            if (world, zero) == (4, 3) {
                let model = of_set(&bench.path(&one).join("final/model.safetensors"));
                assert!(ended[0].1 == model, "{precision}: the run that was never stopped");
            }
        }
    }
}

/// The best checkpoint becomes the final model with all its files; an incomplete one is not resumed from.
#[test]
fn several_files_are_one_checkpoint() {
    let bench = bench();
    let best = ["load_best_model_at_end=true", "eval_strategy=steps", "eval_steps=2", "save_steps=2", "max_steps=6"];
    let more = [&best[..], &[ALL, "learning_rate=0.3"]].concat();
    go(&bench, 2, "run", &more, &Resume::None);
    let run = bench.path("run");
    let step = bench.summary("run")["best_global_step"].as_u64().unwrap();
    assert!(step < 6, "the first is better than the last: {step}");
    let chosen = run.join(format!("checkpoint-{step}"));
    assert!(of_set(&run.join("final/model.safetensors")) == of_set(&chosen.join("model.safetensors")));

    let file = run.join("checkpoint-6/model-00002-of-00002.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_dir_all(run.join("final")).unwrap();
    go(&bench, 1, "run", &more, &Resume::Auto);
    assert!(run.join("damaged-checkpoint-6").exists() && run.join("checkpoint-6").exists());
}

/// A checkpoint that is written while training goes on has the weights and the state of its step, as the checkpoint of a
/// run that ends there has.
#[test]
fn checkpoints_in_the_background_are_those_of_their_step() {
    let bench = bench();
    for (world, zero, precision, writers) in [(1, 0, "fp32", "rank0"), (2, 3, "bf16", "all"), (2, 1, "fp32", "rank0")] {
        let settings =
            [format!("zero_stage={zero}"), format!("precision={precision}"), format!("checkpoint.writers={writers}")];
        let mut more = vec![DROPOUT, "lr_scheduler_type=constant_with_warmup", "save_steps=3", "train.ema_decay=0.9"];
        more.extend(settings.iter().map(String::as_str));
        let (short, long) = (format!("short-{world}-{zero}"), format!("long-{world}-{zero}"));
        go(&bench, world, &short, &[&more[..], &["max_steps=3"]].concat(), &Resume::None);
        go(&bench, world, &long, &[&more[..], &["max_steps=9"]].concat(), &Resume::None);
        let mut sets = vec!["model", "optimizer/adamw", "optimizer/ema"];
        sets.extend((precision == "bf16").then_some("optimizer/master"));
        for set in sets {
            let of = |out: &str| of_set(&bench.path(out).join(format!("checkpoint-3/{set}.safetensors")));
            assert!(of(&short) == of(&long), "{world} ranks, ZeRO {zero}: {set}");
        }
        let events = |out: &str| {
            let lines = bench.lines(out, "event").into_iter().filter(|line| line["event"] == "checkpoint");
            lines.map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((events(&short), events(&long)), (vec![3], vec![3, 6, 9]));
    }
}

/// Rank 1 sees another folder under the name of rank 0's: said before the first step, with its host.
#[test]
fn a_folder_that_is_not_shared_is_an_error() {
    let bench = bench();
    let elsewhere = bench.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let config = |more: &[&str]| Config::load(None, &bench.settings("run", more)).unwrap();
    let other = format!("output_dir={}", elsewhere.display());
    let configs = [config(&[ALL]), config(&[ALL, &other])];
    let start = |(config, comm): (Config, Arc<dyn Collective>)| {
        std::thread::spawn(move || {
            let (resume, stop) = (Resume::None, StopFlag::new());
            let start = Start { resume, allow_new_data_order: false, began: Instant::now(), stop };
            Trainer::open(config, comm, start).err().expect("an error")
        })
    };
    let ranks: Vec<_> = configs.into_iter().zip(threads::group(2, Duration::from_secs(60))).map(start).collect();
    let host = trainer::machine::host_name();
    let message = format!("rank 1 on {host}: {} is not the folder of rank 0 on {host}: ", elsewhere.display());
    for rank in ranks {
        let error = rank.join().unwrap();
        assert_eq!(error.kind().exit_code(), 2);
        assert!(error.to_string().contains(&message), "{error}");
    }
    assert!(names(&elsewhere).is_empty());
    assert!(!names(&bench.path("run")).iter().any(|name| name == ".shared"));
}
