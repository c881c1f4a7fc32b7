//! Every optimizer makes the updates of its reference, whole and in shards, and trains the same at every world size and
//! ZeRO stage; a resumed run continues with the same bits.

mod common;

use common::runs::Bench;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tch::{Kind, Tensor};
use trainer::checkpoint::run_dir::Resume;
use trainer::checkpoint::tensors::TensorFile;
use trainer::comm::{Collective, threads};
use trainer::config::Config;
use trainer::error::Kind as ErrorKind;
use trainer::optim::{Optimizer, Part, Piece, UnitShape};
use trainer::parallel::{Zero, whole};
use trainer::train::optimizers;

/// The settings of each case of tests/reference/optimizers.py, with its learning rate, weight decay, and tolerance.
#[rustfmt::skip]
const CASES: &[(&str, &[&str], f64, f64, f64)] = &[
    ("adamw", &["optim=adamw", "adam_beta2=0.99", "adam_epsilon=1e-6"], 0.01, 0.1, 1e-6),
    ("adam", &["optim=adam", "adam_beta2=0.99", "adam_epsilon=1e-6"], 0.01, 0.1, 1e-6),
    ("sgd", &["optim=sgd"], 0.02, 0.1, 1e-6),
    ("sgd_momentum", &["optim=sgd", "optim_args=momentum=0.9"], 0.005, 0.1, 1e-6),
    ("sgd_nesterov", &["optim=sgd", "optim_args={ momentum = 0.8, nesterov = true }"], 0.005, 0.0, 1e-6),
    ("adagrad", &["optim=adagrad"], 0.05, 0.1, 1e-6),
    ("adagrad_decay", &["optim=adagrad", "optim_args={ lr_decay = 0.05, eps = 1e-6 }"], 0.05, 0.0, 1e-6),
    ("rmsprop", &["optim=rmsprop"], 0.005, 0.1, 1e-6),
    ("rmsprop_all", &["optim=rmsprop", "optim_args={ alpha = 0.9, eps = 1e-5, momentum = 0.8, centered = true }"],
     0.002, 0.0, 1e-6),
    ("lion", &["optim=lion", "adam_beta2=0.99"], 0.002, 0.3, 1e-6),
    ("adafactor", &["optim=adafactor"], 0.01, 0.1, 1e-6),
    ("muon", &["optim=muon"], 0.01, 0.1, 1e-3),
    ("muon_all", &["optim=muon",
     "optim_args={ momentum = 0.9, nesterov = false, ns_steps = 6, adjust_lr_fn = 'match_rms_adamw' }"], 0.02, 0.0, 1e-3),
    ("penalties", &["optim=adamw", "l1=0.3", "l2=0.2"], 0.01, 0.1, 1e-6),
];
const MATRICES: i64 = 3 * 80 + 192;
const ELEMENTS: i64 = MATRICES + 10;

fn config(settings: &[&str]) -> Config {
    let words = ["output_dir=o", "model.path=m", "task.kind=regression", "data.train=t"].iter().chain(settings);
    Config::load(None, &words.map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// A parameter of three matrices, one of one, and a vector.
fn pieces() -> Vec<Piece> {
    let piece = |member, start: i64, shape: &[i64]| Piece {
        member,
        range: start..start + shape.iter().product::<i64>(),
        matrix: (shape.len() == 2).then(|| [shape[0], shape[1]]),
        hidden: shape.len() == 2,
    };
    vec![
        piece(0, 0, &[4, 20]),
        piece(0, 80, &[4, 20]),
        piece(0, 160, &[4, 20]),
        piece(1, 240, &[24, 8]),
        piece(2, MATRICES, &[10]),
    ]
}

/// Runs the updates of a case on this rank's shard of the unit; returns the whole.
fn updated(case: &(&str, &[&str], f64, f64, f64), comm: &Arc<dyn Collective>, scale: f64) -> Tensor {
    let (_, settings, rate, decay, _) = *case;
    let config = config(settings);
    let file = TensorFile::open(Path::new("tests/reference/optimizers.safetensors")).unwrap();
    let zero = Zero::new(if comm.world() > 1 { 1 } else { 0 }).unwrap();
    let shard = (ELEMENTS as u64).div_ceil(comm.world() as u64).next_multiple_of(32) as i64;
    let owned = comm.rank() as i64 * shard..(comm.rank() as i64 + 1) * shard;
    let mine = |values: &Tensor| {
        let padded = values.to_kind(Kind::Float).constant_pad_nd([0, shard * comm.world() as i64 - ELEMENTS]);
        padded.narrow(0, owned.start, shard).copy()
    };
    let weights = mine(&file.read("weights").unwrap());
    let grads = file.read("grads").unwrap();
    let shape = UnitShape { weights: &weights, owned: owned.clone(), pieces: pieces() };
    let rule = optimizers::rule(&config);
    let mut optimizer = Optimizer::new(rule, [Some(shape)]).unwrap();
    if comm.world() == 1 {
        // What is planned for memory and disk; states of single elements have the padding too.
        let of_pieces = ["adafactor", "muon"].contains(&rule.name());
        let padding = if of_pieces { 0.0 } else { (shard - ELEMENTS) as f64 * rule.bytes_of_element()[0] };
        assert_eq!(optimizer.bytes() as f64, rule.bytes_of(&pieces()) as f64 + padding, "{}", rule.name());
    }
    let gather = |own: &Tensor| whole(comm.as_ref(), zero, own, "a test");
    for step in 0..50 {
        let learning_rate = rate * (1.0 - step as f64 / 100.0);
        let part =
            |range, weight_decay, [l1, l2]: [f64; 2]| Part { range, learning_rate, weight_decay, l1, l2, began: 0 };
        let penalties = [config.train.l1, config.train.l2];
        let parts = [part(0..MATRICES, decay, penalties), part(MATRICES..ELEMENTS, 0.0, [0.0; 2])];
        optimizer.begin_step();
        let grads = mine(&grads.get(step)) * scale;
        optimizer.update(0, (&weights, &grads), &parts, scale, &gather).unwrap();
    }
    gather(&weights).unwrap().narrow(0, 0, ELEMENTS).copy()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let greatest = |t: &Tensor| t.abs().max().double_value(&[]);
    greatest(&(a.to_kind(Kind::Double) - b.to_kind(Kind::Double))) / greatest(b)
}

#[test]
fn updates_are_those_of_the_reference() {
    tch::set_num_threads(1);
    let file = TensorFile::open(Path::new("tests/reference/optimizers.safetensors")).unwrap();
    let alone = threads::group(1, Duration::from_secs(20)).remove(0);
    for case in CASES {
        let (name, _, _, _, tolerance) = *case;
        let expected = file.read(&format!("{name}.updated")).unwrap();
        // A scale such as that of clipping leaves nothing but the quotient; powers of two are exact.
        for scale in [1.0, 8.0] {
            let found = difference(&updated(case, &alone, scale), &expected);
            println!("{name}, gradients x {scale}: {found:e}");
            assert!(found < tolerance, "{name}, gradients x {scale}: differ by {found:e}");
        }
        let moved = difference(&file.read("weights").unwrap(), &expected);
        assert!(moved > 0.02, "{name}: weights have moved by {moved}");
    }
}

/// Shards cut through rows, matrices and the vector.
#[test]
fn shards_make_the_same_updates() {
    tch::set_num_threads(1);
    let alone = threads::group(1, Duration::from_secs(20)).remove(0);
    for case in CASES {
        let (name, _, _, _, tolerance) = *case;
        let expected = updated(case, &alone, 1.0);
        for world in [2, 3] {
            let ranks: Vec<_> = threads::group(world, Duration::from_secs(20))
                .into_iter()
                .map(|comm| std::thread::spawn(move || updated(case, &comm, 1.0)))
                .collect();
            for rank in ranks {
                let found = difference(&rank.join().unwrap(), &expected);
                let of_elements = !name.starts_with("ada") && !name.starts_with("muon");
                let tolerance = if of_elements { f64::EPSILON } else { tolerance };
                assert!(found < tolerance, "{name} on {world} ranks: differ by {found:e}");
            }
        }
    }
}

/// Settings of runs that learn, and the tolerance of losses at other world sizes.
#[rustfmt::skip]
const RUNS: &[(&str, &[&str], f64)] = &[
    ("adam", &["optim=adam"], 1e-6),
    ("sgd", &["optim=sgd", "learning_rate=0.01", "optim_args={ momentum = 0.9, nesterov = true }"], 1e-6),
    ("plain_sgd", &["optim=sgd", "learning_rate=0.05"], 1e-6),
    ("adagrad", &["optim=adagrad", "learning_rate=0.003"], 1e-6),
    ("rmsprop", &["optim=rmsprop", "learning_rate=3e-4", "optim_args=centered=true,momentum=0.5"], 1e-6),
    ("adafactor", &["optim=adafactor"], 1e-6),
    ("lion", &["optim=lion", "learning_rate=1e-4"], 1e-3),
    ("muon", &["optim=muon", "learning_rate=0.003"], 1e-3),
    ("penalties", &["optim=adamw", "l1=0.001", "l2=0.01"], 1e-6),
];

fn losses(bench: &Bench, out: &str) -> Vec<f64> {
    bench.steps(out).into_iter().map(|(loss, _)| loss).collect()
}

fn model(bench: &Bench, out: &str) -> Vec<u8> {
    std::fs::read(bench.path(out).join("final/model.safetensors")).unwrap()
}

#[test]
fn training_is_the_same_on_two_ranks_and_when_resumed() {
    let bench = Bench::new("bert-classification");
    let dropout = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
    for (name, settings, tolerance) in RUNS {
        let run = |world: usize, out: &str, more: &[&str], resume: &Resume| {
            let settings = [&dropout[..], settings, &["max_steps=30", "micro_batch_tokens=100"], more].concat();
            bench.run(world, out, &settings, resume).unwrap_or_else(|e| panic!("{out}: {e}"));
        };
        let base = format!("{name}-1");
        run(1, &base, &["save_strategy=no"], &Resume::None);
        let expected = losses(&bench, &base);
        let least = expected[4..].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(expected.len() == 30 && least < expected[0], "{name}: the loss falls: {expected:?}");
        for zero in [1, 3] {
            let (stage, out) = (format!("parallel.zero_stage={zero}"), format!("{name}-2-{zero}"));
            run(2, &out, &[&stage, "save_steps=25"], &Resume::None);
            for (step, (found, expected)) in losses(&bench, &out).iter().zip(&expected).enumerate() {
                let difference = (found / expected - 1.0).abs();
                assert!(difference < *tolerance, "{out}, step {}: {found} and {expected}", step + 1);
            }
            let resumed = format!("{out}-resumed");
            let from = Resume::Path(bench.path(&out).join("checkpoint-25"));
            run(2, &resumed, &[&stage, "save_steps=25"], &from);
            assert_eq!(bench.steps(&resumed), bench.steps(&out), "{resumed}");
            assert!(model(&bench, &resumed) == model(&bench, &out), "{resumed}: the final model");
        }
        // A checkpoint knows no world size.
        let (other, from) = (format!("{name}-3-0"), Resume::Path(bench.path(&format!("{name}-2-3/checkpoint-25"))));
        run(1, &other, &["save_strategy=no"], &from);
        for (found, expected) in losses(&bench, &other).iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < *tolerance, "{other}: {found} and {expected}");
        }
    }
}

/// The state of another optimizer is refused, and that of older checkpoints is AdamW's.
#[test]
fn another_optimizer_is_not_resumed() {
    let bench = Bench::new("bert-classification");
    bench.run(1, "a", &["max_steps=2", "save_steps=2"], &Resume::None).unwrap();
    let from = bench.path("a/checkpoint-2");
    let error = bench.run(2, "b", &["max_steps=4", "optim=lion"], &Resume::Path(from.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    let message = error.to_string();
    assert!(message.contains("train.optim = \"adamw\" (exp_avg, exp_avg_sq), and this run's is \"lion\" (exp_avg)"));
    assert!(message.contains("or start a new run from its weights with model.path = "), "{message}");

    let file = from.join("trainer_state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state.as_object_mut().unwrap().remove("optimizer").unwrap();
    std::fs::write(&file, state.to_string()).unwrap();
    bench.run(1, "c", &["max_steps=4"], &Resume::Path(from)).unwrap();
}

/// In half precision masters are updated; the plan knows what each optimizer keeps.
#[test]
fn half_precision_resumes_bit_exactly() {
    let bench = Bench::new("bert-classification");
    for (name, settings, _) in RUNS.iter().filter(|(name, ..)| ["adafactor", "muon", "sgd"].contains(name)) {
        let more = ["precision=bf16", "reduce_dtype=bf16", "parallel.zero_stage=2", "max_steps=6", "save_steps=3"];
        let settings = [*settings, &more[..]].concat();
        bench.run(2, name, &settings, &Resume::None).unwrap();
        let (out, from) = (format!("{name}-resumed"), Resume::Path(bench.path(name).join("checkpoint-3")));
        bench.run(2, &out, &settings, &from).unwrap();
        assert_eq!(bench.steps(&out), bench.steps(name), "{name}");
        assert!(model(&bench, &out) == model(&bench, name), "{name}: the final model");
    }
}

/// The learning rate falls with the evaluations, and a resumed run continues with it.
#[test]
fn a_plateau_resumes_exactly() {
    let bench = Bench::new("bert-classification");
    // No improvement is enough: every evaluation but the first, and those in the cooldown, reduces.
    let kwargs =
        "lr_scheduler_kwargs={ patience = 0, threshold = 10.0, threshold_mode = 'abs', factor = 0.5, cooldown = 1 }";
    let settings = ["lr_scheduler_type=reduce_lr_on_plateau", kwargs, "warmup_steps=0", "eval_steps=1", "max_steps=8"];
    let settings = [&settings[..], &["save_steps=3", "hidden_dropout_prob=0.1"]].concat();
    bench.run(1, "whole", &settings, &Resume::None).unwrap();
    let rates = |out: &str| -> Vec<f64> {
        bench.lines(out, "learning_rate").iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect()
    };
    assert_eq!(rates("whole"), [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 1.25e-4]);
    for checkpoint in [3, 6] {
        let out = format!("from-{checkpoint}");
        let from = bench.path(&format!("whole/checkpoint-{checkpoint}"));
        bench.run(1, &out, &settings, &Resume::Path(from)).unwrap();
        assert_eq!(rates(&out), rates("whole"));
        assert_eq!(bench.steps(&out), bench.steps("whole"));
        assert!(model(&bench, &out) == model(&bench, "whole"));
    }
}

/// The tensors of a model's weights, by name.
fn tensors(bench: &Bench, folder: &str) -> Vec<(String, Tensor)> {
    let path = bench.path(folder);
    let path = if path.is_dir() { path.join("model.safetensors") } else { path };
    let file = TensorFile::open(&path).unwrap();
    let mut names = file.names();
    names.sort();
    names.into_iter().map(|name| (name.clone(), file.read(&name).unwrap().to_kind(Kind::Double))).collect()
}

/// Evaluations and the final model are those of the average of all steps' weights, at any ZeRO stage; training goes on
/// with the weights themselves, and a resumed run with both.
#[test]
fn the_moving_average_is_evaluated_and_exported() {
    let bench = Bench::new("bert-classification");
    let more = ["max_steps=6", "save_steps=1", "eval_steps=2", "learning_rate=3e-3", "hidden_dropout_prob=0.1"];
    bench.run(2, "plain", &more, &Resume::None).unwrap();
    let averaged = [&more[..], &["ema_decay=0.6"]].concat();
    for (world, zero) in [(2, 0), (2, 1), (2, 2), (2, 3)] {
        let (out, stage) = (format!("ema-{zero}"), format!("parallel.zero_stage={zero}"));
        let settings = [&averaged[..], &[&stage]].concat();
        bench.run(world, &out, &settings, &Resume::None).unwrap();
        if zero == 0 {
            assert_eq!(bench.steps(&out), bench.steps("plain"), "training does not see the average");
        }
        // `plain` has the weights of each step; the average starts from those before the first.
        let start = tensors(&bench, &bench.model.join("model.safetensors").display().to_string());
        let mut average: Vec<Tensor> = start.into_iter().map(|(_, values)| values).collect();
        for step in 1..=6 {
            for (average, (_, now)) in average.iter_mut().zip(tensors(&bench, &format!("{out}/checkpoint-{step}"))) {
                *average = &*average * 0.6 + now * 0.4;
            }
        }
        for (average, (name, found)) in average.iter().zip(tensors(&bench, &format!("{out}/final"))) {
            let error = (average - &found).abs().max().double_value(&[]);
            assert!(error < 1e-6, "{out}: {name} differs by {error:e}");
        }
        let last = |out: &str| bench.lines(out, "eval_loss").pop().unwrap()["eval_loss"].as_f64().unwrap();
        assert!((last(&out) - last("plain")).abs() > 1e-4, "{out}: evaluated the average");
        let resumed = format!("{out}-resumed");
        bench.run(world, &resumed, &settings, &Resume::Path(bench.path(&out).join("checkpoint-3"))).unwrap();
        assert_eq!(bench.steps(&resumed), bench.steps(&out));
        assert_eq!(bench.lines(&resumed, "eval_loss"), bench.lines(&out, "eval_loss"));
        assert!(model(&bench, &resumed) == model(&bench, &out), "{resumed}: the final model");
    }
}

/// The best model is the average of its step.
#[test]
fn the_best_average_becomes_the_final_model() {
    let bench = Bench::new("bert-classification");
    let more = ["max_steps=6", "save_strategy=no", "eval_steps=3", "ema_decay=0.5", "load_best_model_at_end=true"];
    // The metric is a loss, and a greater one is declared better: the first evaluation wins.
    let more = [&more[..], &["greater_is_better=true", "learning_rate=3e-3"]].concat();
    bench.run(2, "best", &more, &Resume::None).unwrap();
    let summary = bench.summary("best");
    assert_eq!(summary["best_global_step"], 3);
    bench
        .run(2, "short", &["max_steps=6", "save_steps=3", "ema_decay=0.5", "learning_rate=3e-3"], &Resume::None)
        .unwrap();
    let average = TensorFile::open(&bench.path("short/checkpoint-3/optimizer/ema.safetensors")).unwrap();
    let found = tensors(&bench, "best/final");
    let same = |values: &Tensor| {
        let all = average.names();
        all.iter().any(|name| average.read(name).unwrap().to_kind(Kind::Double).equal(values))
    };
    let heads = found.iter().filter(|(name, _)| name.contains("classifier") || name.contains("intermediate"));
    heads.for_each(|(name, values)| assert!(same(values), "{name} is not the average of step 3"));
}
