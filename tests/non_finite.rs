//! Numbers that are not finite end a run with the cause, or cost a step: they are never averaged away.

mod common;

use common::models::{spoilt, tensors};
use common::process::{run, trainer};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::train;
use serde_json::Value;
use std::fs;
use trainer::checkpoint::run_dir::Resume;
use trainer::data::Sampler;
use trainer::error::Kind;

/// The one training sample with the word.
const SAMPLE: u32 = 41;
const WIDTH: usize = 32;
const WORDS: &str = "bert.embeddings.word_embeddings.weight";
const SKIP: &str = "train.on_non_finite=skip";

/// A bench whose model does not know one word, which only [`SAMPLE`] has: a number of its embedding is `value`. Also the
/// lengths of the training samples in tokens.
fn a_bad_word(value: f32) -> (Bench, Vec<u32>) {
    let mut bench = Bench::new("bert-classification");
    let tokenizer: Value =
        serde_json::from_str(&fs::read_to_string(bench.model.join("tokenizer.json")).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut words = vocabulary.iter().filter(|(word, _)| word.chars().all(char::is_alphabetic));
    let ((bad, id), (good, _)) = (words.next().unwrap(), words.next().unwrap());
    let mut lengths = Vec::new();
    for file in ["train.jsonl", "eval.jsonl"].map(|name| bench.path(name)) {
        let text = fs::read_to_string(&file).unwrap();
        let records = text.lines().enumerate().map(|(i, line)| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let mut text: Vec<&str> = record["text"].as_str().unwrap().split(' ').collect();
            text.iter_mut().filter(|word| *word == bad).for_each(|word| *word = good);
            if i == SAMPLE as usize && file.ends_with("train.jsonl") {
                text.push(bad);
            }
            if file.ends_with("train.jsonl") {
                // The two marks around a text are tokens.
                lengths.push(text.len() as u32 + 2);
            }
            record["text"] = text.join(" ").into();
            record.to_string()
        });
        let records: Vec<String> = records.collect();
        fs::write(file, records.join("\n") + "\n").unwrap();
    }
    bench.model = spoilt(&bench, WORDS, id.as_u64().unwrap() as usize * WIDTH + 5, value);
    (bench, lengths)
}

/// The steps of 20 that see [`SAMPLE`], from 1, and the rank that gets it.
fn seen(lengths: &[u32], world: usize) -> Vec<(usize, usize)> {
    let mut sampler = Sampler::new(42, lengths.to_vec(), 12, world, 4096).unwrap();
    let mut rank_at = |step| sampler.plan(step).shards.iter().position(|shard| shard.concat().contains(&SAMPLE));
    (0..20).filter_map(|step| Some((step as usize + 1, rank_at(step)?))).collect()
}

#[test]
fn the_message_names_step_rank_tensor_and_sample() {
    let mut ranks = Vec::new();
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let (bench, lengths) = a_bad_word(value);
        for (world, zero, more) in [
            (1, 0, ["micro_batch_tokens=4096", "parallel.precision=fp32"]),
            (1, 0, ["micro_batch_tokens=40", "parallel.precision=fp16"]),
            (2, 0, ["micro_batch_tokens=40", "parallel.precision=fp32"]),
            (2, 3, ["micro_batch_tokens=40", "parallel.recompute=all"]),
            (3, 3, ["micro_batch_tokens=4096", "parallel.precision=bf16"]),
            (4, 2, ["micro_batch_tokens=40", "parallel.precision=fp32"]),
        ] {
            let out = format!("{value}-{world}-{zero}-{}", more.concat());
            let zero = format!("parallel.zero_stage={zero}");
            let error = bench.run(world, &out, &[more[0], more[1], &zero, "seed=42"], &Resume::None).unwrap_err();
            let (step, rank) = seen(&lengths, world)[0];
            let start = format!("step {step}: the loss is NaN and the gradient norm ");
            let cause = format!(
                "the first tensor with NaN or Inf, on rank {rank}: the weight {WORDS}, over sample {SAMPLE} of \
                 data.train (counted from 0)"
            );
            let text = error.to_string();
            assert!(text.starts_with(&start) && text.contains(&cause), "{out}: {start} ... {cause}: {text}");
            assert!(error.kind() == Kind::NonFinite && error.is_shared(), "{out}: {text}");
            // It comes before the weights do.
            assert_eq!(bench.steps(&out).len(), step - 1, "{out}");
            ranks.push(rank);
        }
    }
    assert!(ranks.iter().any(|&rank| rank > 0), "the sample is on rank 0 always: {ranks:?}");
}

/// In a layer, every sample is hit. A tensor that nothing spoilt is not named.
#[test]
fn a_bad_weight_of_a_layer_is_named() {
    let mut bench = Bench::new("bert-classification");
    let name = "bert.encoder.layer.1.output.dense.weight";
    bench.model = spoilt(&bench, name, 77, f32::NAN);
    for (world, zero) in [(1, 0), (2, 0), (2, 3)] {
        let (out, zero) = (format!("{world}-{zero}"), format!("parallel.zero_stage={zero}"));
        let text = bench.run(world, &out, &[&zero], &Resume::None).unwrap_err().to_string();
        let cause = format!("on rank 0: the weight {name}, over samples ");
        assert!(text.starts_with("step 1: ") && text.contains(&cause), "{out}: {text}");
        let named = text.split(&cause).nth(1).unwrap().split(" of data.train").next().unwrap();
        // Twelve samples on one rank; not all are listed.
        assert!(world > 1 || (named.split(", ").count() == 8 && named.ends_with(" and 4 more")), "{text}");
        assert!(text.contains("learning_rate") && text.contains("on_non_finite = \"skip\""), "{text}");
    }
}

/// Finite numbers, the loss among them, whose squares are not: the norm is the one that tells, and no tensor is blamed.
#[test]
fn a_norm_that_overflows_ends_the_run() {
    let mut bench = Bench::new("bert-classification");
    bench.model = spoilt(&bench, "classifier.weight", 3, 2e38);
    for (world, zero) in [(1, 0), (2, 3)] {
        let (out, zero) = (format!("{world}-{zero}"), format!("parallel.zero_stage={zero}"));
        let error = bench.run(world, &out, &[&zero], &Resume::None).unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == Kind::NonFinite && text.starts_with("step 1: the loss is 35"), "{text}");
        assert!(text.contains("the gradient norm inf; the tensors of each micro-batch are finite: "), "{text}");
    }
}

/// (loss, gradient norm) of each step, none where they are not finite.
fn steps(bench: &Bench, out: &str) -> Vec<(Option<f64>, Option<f64>)> {
    bench.lines(out, "loss").iter().map(|line| (line["loss"].as_f64(), line["grad_norm"].as_f64())).collect()
}

#[test]
fn a_step_that_is_left_out_changes_nothing() {
    let (bench, lengths) = a_bad_word(f32::NAN);
    let bad: Vec<usize> = seen(&lengths, 1).into_iter().map(|(step, _)| step).collect();
    assert!(bad.len() >= 2 && bad[0] > 1 && bad[bad.len() - 1] < 20, "{bad:?}");
    let finite = |out: &str| steps(&bench, out).into_iter().filter_map(|s| Some((s.0?, s.1?))).collect::<Vec<_>>();
    for (world, zero, tokens) in [(1, 0, 4096), (2, 0, 40), (2, 1, 4096), (2, 3, 40), (4, 2, 4096)] {
        let out = format!("{world}-{zero}");
        let (stage, tokens) = (format!("parallel.zero_stage={zero}"), format!("micro_batch_tokens={tokens}"));
        let more = [SKIP, "seed=42", "save_steps=1", &stage, &tokens];
        bench.run(world, &out, &more, &Resume::None).unwrap();
        // Counted as they come.
        let mut skipped = 0;
        for (i, line) in bench.lines(&out, "loss").iter().enumerate() {
            skipped += u64::from(bad.contains(&(i + 1)));
            assert_eq!(line["loss"].is_null(), bad.contains(&(i + 1)), "{out}: {line}");
            assert_eq!(line["skipped_steps"].as_u64(), Some(skipped), "{out}: {line}");
        }
        assert_eq!(bench.summary(&out)["skipped_steps"].as_u64(), Some(skipped));
        // The very bits of the weights and of the optimizer's state stay.
        let files = ["model.safetensors", "optimizer/adamw.safetensors"];
        let saved =
            |step: usize| files.map(|file| tensors(&bench.path(&format!("{out}/checkpoint-{step}")).join(file)));
        for step in 2..=20 {
            let [same_weights, same_state] = [0, 1].map(|i| saved(step - 1)[i] == saved(step)[i]);
            let is_bad = bad.contains(&step);
            assert!(same_weights == is_bad && same_state == is_bad, "{out}: step {step}: {same_weights} {same_state}");
        }
        assert_equivalent(&finite(&out), &finite("1-0"), &out);
        let from = Resume::Path(bench.path(&format!("{out}/checkpoint-{}", bad[0])));
        let resumed = format!("{out}-resumed");
        bench.run(world, &resumed, &more, &from).unwrap();
        assert_eq!(steps(&bench, &resumed), steps(&bench, &out), "{out}: resumed after a step that was left out");
    }
    let finite = finite("1-0");
    assert!(finite[finite.len() - 1].0 < finite[0].0, "it learns: {finite:?}");
}

#[test]
fn steps_that_are_left_out_are_told() {
    let (bench, lengths) = a_bad_word(f32::NAN);
    let bad = seen(&lengths, 1);
    let ended = run(trainer(&bench).args(train(&bench, "run", &[SKIP, "seed=42"]))).expect(0);
    for (step, _) in &bad {
        let told = format!("step {step:>2}/20  skipped: loss NaN, grad_norm ");
        assert_eq!(ended.stderr.matches(&told).count(), 1, "{told}: {}", ended.text());
    }
    let row = ended.stdout.lines().find(|line| line.contains("steps skipped")).expect("a row at the end");
    assert!(row.contains(&format!("{} of 20", bad.len())), "{row}");
}

/// A scale at which every gradient overflows: it is halved until they fit, by the rule of `torch.amp.GradScaler`.
#[test]
fn fp16_recovers_from_overflows() {
    let bench = Bench::new("bert-classification");
    let fp16 = ["parallel.precision=fp16", "parallel.loss_scale_init=16777216", "parallel.loss_scale_window=5"];
    // A short one that is cut amid the first overflows, and long ones that learn.
    for (world, zero, count, cut) in [(2, 1, 12, 3), (1, 0, 80, 40), (2, 3, 80, 40)] {
        let (out, stage) = (format!("{world}-{zero}"), format!("parallel.zero_stage={zero}"));
        let (steps, saves) = (format!("max_steps={count}"), format!("save_steps={cut}"));
        let more = [&stage, &steps, &saves, "learning_rate=3e-3", "hidden_dropout_prob=0.1"];
        let more = [&fp16[..], &more].concat();
        bench.run(world, &out, &more, &Resume::None).unwrap();
        let (mut scale, mut skipped, mut good) = (16_777_216.0, 0, 0);
        let mut losses = Vec::new();
        for line in bench.lines(&out, "loss") {
            if line["grad_norm"].is_null() {
                (scale, skipped, good) = (scale / 2.0, skipped + 1, 0);
            } else {
                good += 1;
                if good == 5 {
                    (scale, good) = (scale * 2.0, 0);
                }
            }
            assert_eq!(line["loss_scale"].as_f64(), Some(scale), "{out}: {line}");
            assert_eq!(line["skipped_steps"].as_u64(), Some(skipped), "{out}: {line}");
            // The scale overflows gradients, never the loss.
            losses.push(line["loss"].as_f64().unwrap_or_else(|| panic!("{out}: {line}")));
        }
        let first = bench.lines(&out, "loss").iter().take_while(|line| line["grad_norm"].is_null()).count();
        assert!((4..10).contains(&first), "{out}: {first} at the start");
        if count == 80 {
            assert!(skipped > first as u64, "{out}: {skipped} in all: the scale never rose too far");
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
            assert!(mean(&losses[60..]) < 0.9 * mean(&losses[..20]), "{out}: it learns: {losses:?}");
        }
        // The scale goes on from where it was.
        let resumed = format!("{out}-resumed");
        bench.run(world, &resumed, &more, &Resume::Path(bench.path(&format!("{out}/checkpoint-{cut}")))).unwrap();
        let lines = |out: &str| bench.lines(out, "loss").into_iter().map(without_rate).collect::<Vec<_>>();
        assert_eq!(lines(&resumed), lines(&out), "{out}: resumed at step {cut}");
    }
}

fn without_rate(mut line: Value) -> Value {
    let object = line.as_object_mut().unwrap();
    for key in ["tokens_per_second", "compute_seconds", "wait_seconds", "peak_tensor_bytes", "resident_bytes"] {
        object.remove(key);
    }
    line
}
