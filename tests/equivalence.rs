//! Numbers mean the same everywhere: the same global batch gives the same loss and gradient for every split into ranks
//! and micro-batches, and a resumed run goes on as if it had never stopped.

mod common;

use common::runs::{Bench, assert_equivalent};
use serde_json::Value;
use std::fs;
use std::io::Write;
use trainer::checkpoint::run_dir::Resume;
use trainer::config::Config;
use trainer::train::planned_run::PlannedRun;

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    NO_DROPOUT.iter().chain(more).copied().collect()
}

/// Worlds 1, 2, 3, 4 x one micro-batch or several, 20 steps, dropout 0. A budget of 40 tokens makes about five
/// micro-batches of a global batch of 12 records; an epoch of 90 records ends with a short batch of 6.
#[test]
fn worlds_and_accumulation_agree() {
    let bench = Bench::new("bert-classification");
    bench.run(1, "w1", &with(&[]), &Resume::None).unwrap();
    let base = bench.steps("w1");
    assert_eq!(base.len(), 20);
    assert!(base[19].0 < base[0].0, "the loss falls: {base:?}");
    for world in [1, 2, 3, 4] {
        for tokens in ["4096", "40"] {
            let out = format!("w{world}-{tokens}");
            let budget = if tokens == "40" { "micro_batch_tokens=40" } else { "micro_batch_tokens=4096" };
            bench.run(world, &out, &with(&[budget]), &Resume::None).unwrap();
            assert_equivalent(&bench.steps(&out), &base, &format!("world {world}, {tokens} tokens a micro-batch"));
            let last = |out: &str| bench.lines(out, "eval_loss").pop().unwrap();
            let (ours, theirs) = (last(&out), last("w1"));
            assert_eq!(ours["eval_accuracy"], theirs["eval_accuracy"], "world {world}: accuracy");
            let difference = ours["eval_loss"].as_f64().unwrap() / theirs["eval_loss"].as_f64().unwrap() - 1.0;
            assert!(difference.abs() < 1e-5, "world {world}: eval_loss differs by {difference:e}");
        }
    }
}

/// Class weights and label smoothing: the mean is that of the weights of the whole batch. Evaluations are plain.
#[test]
fn weighted_losses_agree_at_every_world() {
    let bench = Bench::new("bert-classification");
    let weights = "class_weights={ science = 0.5, sport = 3.0, weather = 1.5 }";
    let more = with(&[weights, "label_smoothing_factor=0.1", "lr_scheduler_type=constant_with_warmup"]);
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    for (world, zero) in [(2, "zero_stage=0"), (2, "zero_stage=3"), (3, "zero_stage=1")] {
        let out = format!("w{world}-{zero}");
        bench.run(world, &out, &[&more[..], &[zero, "micro_batch_tokens=40"]].concat(), &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &bench.steps("w1"), &out);
    }
    let first = |out: &str, key: &str| bench.lines(out, key)[0][key].as_f64().unwrap();
    // The weights of what is evaluated do not matter: with a rate of almost 0 the models are the same.
    let still = with(&["learning_rate=1e-12", "max_steps=1", "eval_on_start=true"]);
    bench.run(1, "plain", &still, &Resume::None).unwrap();
    bench.run(1, "weighted", &[&still[..], &[weights, "label_smoothing_factor=0.1"]].concat(), &Resume::None).unwrap();
    assert_eq!(first("plain", "eval_loss"), first("weighted", "eval_loss"));
    assert!((first("plain", "loss") - first("weighted", "loss")).abs() > 1e-3);
    let balanced = with(&["class_weights=balanced", "max_steps=2"]);
    bench.run(1, "balanced", &balanced, &Resume::None).unwrap();
}

/// Replaces the records of a bench by texts with a match, the same words in another order, and up to two negatives.
fn write_matches(bench: &Bench, name: &str) {
    let text = fs::read_to_string(bench.path(name)).unwrap();
    let texts: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let reversed = |text: &str| text.split(' ').rev().take(9).collect::<Vec<_>>().join(" ");
    let record = |(i, text): (usize, &String)| {
        let others = [&texts[(i + 1) % texts.len()], &texts[(i + 2) % texts.len()]];
        let negatives = &others[..i % 2 + 1];
        serde_json::json!({"text": text, "text_pair": reversed(text), "n": negatives}).to_string()
    };
    fs::write(bench.path(name), texts.iter().enumerate().map(record).collect::<Vec<_>>().join("\n")).unwrap();
}

/// A loss that compares each text with all others of the global batch, on any rank and in any micro-batch: the same steps
/// and evaluations for every split and ZeRO stage, and bit-equal when resumed with dropout.
#[test]
fn losses_against_the_global_batch_agree_at_every_split() {
    let bench = Bench::new("bert-classification");
    write_matches(&bench, "train.jsonl");
    write_matches(&bench, "eval.jsonl");
    const EMBEDDING: [&str; 3] = ["task.kind=embedding", "negative_column=n", "max_steps=9"];
    let more = with(&EMBEDDING);
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    let base = bench.steps("w1");
    let last = |out: &str| bench.lines(out, "eval_loss").pop().unwrap();
    assert!(base[8].0 < base[0].0, "the loss falls: {base:?}");
    for (world, zero, changes) in [
        (1, 0, ["micro_batch_tokens=40", "recompute=all"]),
        (2, 0, ["micro_batch_tokens=90", "recompute=none"]),
        (2, 3, ["micro_batch_tokens=40", "recompute=all"]),
        (3, 1, ["micro_batch_tokens=4096", "recompute=2"]),
        (4, 2, ["micro_batch_tokens=60", "recompute=none"]),
        (4, 3, ["micro_batch_tokens=4096", "recompute=none"]),
    ] {
        let (out, zero) = (format!("w{world}-{zero}-{}", changes[0]), format!("zero_stage={zero}"));
        bench.run(world, &out, &[&more[..], &changes, &[zero.as_str()]].concat(), &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &base, &out);
        for (name, value) in last("w1").as_object().unwrap().iter().filter(|(name, _)| name.starts_with("eval_")) {
            if let (Some(ours), Some(theirs)) = (last(&out)[name].as_f64(), value.as_f64())
                && !name.ends_with("_per_second")
                && !name.ends_with("_seconds")
            {
                assert!((ours - theirs).abs() < 1e-5 * theirs.abs().max(1.0), "{out}: {name} {ours} and {theirs}");
            }
        }
    }
    let drops = [&EMBEDDING[..], &["micro_batch_tokens=60", "save_steps=4", "hidden_dropout_prob=0.2"]].concat();
    bench.run(2, "drops", &drops, &Resume::None).unwrap();
    let whole = bench.steps("drops");
    assert!((whole[0].0 - base[0].0).abs() > 1e-4, "dropout");
    for later in ["checkpoint-8", "checkpoint-9", "final"] {
        _ = fs::remove_dir_all(bench.path("drops").join(later));
    }
    bench.run(2, "drops", &drops, &Resume::Auto).unwrap();
    assert_eq!(bench.steps("drops"), whole, "resumed at step 4");
}

/// The gradient is that of the loss: a small step of gradient descent lowers it by the rate times the norm squared. An
/// evaluation has the loss of the whole set as one batch.
#[test]
fn losses_against_the_global_batch_have_their_gradient() {
    let bench = Bench::new("bert-classification");
    write_matches(&bench, "train.jsonl");
    write_matches(&bench, "eval.jsonl");
    let train = format!("data.train={}", bench.path("eval.jsonl").display());
    let descent = ["optim=sgd", "lr_scheduler_type=constant", "learning_rate=1e-3", "warmup_steps=0", "weight_decay=0"];
    let more = ["task.kind=embedding", "global_batch_size=23", "max_steps=2", "eval_on_start=true", "max_grad_norm=0"];
    let more = with(&[&more[..], &descent, &["negative_column=n", "scale=5", "micro_batch_tokens=200"]].concat());
    let more = [&more[..], &[train.as_str()]].concat();
    bench.run(2, "descent", &more, &Resume::None).unwrap();
    let [(first, norm), (second, _)] = bench.steps("descent")[..] else { panic!("two steps") };
    let (expected, found) = (1e-3 * norm * norm, first - second);
    assert!(expected > 1e-3 * first && (found / expected - 1.0).abs() < 0.05, "{found} and {expected} of {first}");
    let evaluated = bench.lines("descent", "eval_loss")[0]["eval_loss"].as_f64().unwrap();
    assert!((evaluated / first - 1.0).abs() < 1e-6, "{evaluated} and {first}");
}

/// Augmentation is a function of (seed, epoch, example): the same steps at every world size, ZeRO stage and number of
/// micro-batches, with weights of examples and class-balanced sampling, and bit-equal when resumed within an epoch.
#[test]
fn augmented_examples_agree_at_every_world() {
    let bench = Bench::new("bert-classification");
    let text = fs::read_to_string(bench.path("train.jsonl")).unwrap();
    let weigh = |(i, line): (usize, &str)| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record["w"] = serde_json::json!((i % 4) as f64 / 2.0);
        record.to_string()
    };
    let lines: Vec<String> = text.lines().enumerate().map(weigh).collect();
    fs::write(bench.path("train.jsonl"), lines.join("\n")).unwrap();
    const CHANGES: [&str; 5] =
        ["augment.delete=0.2", "augment.swap=0.1", "augment.insert=0.2", "augment.replace=0.1", "augment.mask=0.1"];
    let more = with(&[&CHANGES[..], &["weight_column=w", "sampling=class_balanced", "save_steps=7"]].concat());
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    let whole = bench.steps("w1");
    assert_eq!(whole.len(), 20);
    for other in [&CHANGES[..], &["weight_column=w"], &["sampling=class_balanced"]] {
        let out = format!("only-{}", other[0]);
        bench.run(1, &out, &with(&[other, &["max_steps=2"]].concat()), &Resume::None).unwrap();
        assert!((bench.steps(&out)[0].0 - whole[0].0).abs() > 1e-5, "{out} and all of them");
    }
    for (world, zero) in [(2, "zero_stage=0"), (2, "zero_stage=3"), (3, "zero_stage=1")] {
        let out = format!("w{world}-{zero}");
        let more = [&more[..], &[zero, "micro_batch_tokens=40", "recompute=all"]].concat();
        bench.run(world, &out, &more, &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &whole, &out);
    }
    // Step 14 is in the second epoch of eight steps.
    for later in ["checkpoint-20", "final"] {
        fs::remove_dir_all(bench.path("w1").join(later)).unwrap();
    }
    bench.run(1, "w1", &more, &Resume::Auto).unwrap();
    assert_eq!(bench.steps("w1"), whole, "resumed at step 14");
    // Another rate, or another way to draw, is another order of the data.
    for (change, told) in
        [("augment.swap=0.3", "augment.swap = 0.3 (was 0.1)"), ("sampling=random", "data.sampling = \"random\"")]
    {
        let error = bench.run(1, "w1", &[&more[..], &[change]].concat(), &Resume::Auto).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
    // Evaluations are of the texts as they are, and are not weighted.
    let still = ["learning_rate=1e-12", "max_steps=1", "eval_on_start=true", "micro_batch_tokens=4096"];
    bench.run(1, "still", &still, &Resume::None).unwrap();
    let changed = [&still[..], &CHANGES, &["weight_column=w", "sampling=class_balanced"]].concat();
    bench.run(1, "still-changed", &changed, &Resume::None).unwrap();
    let first = |out: &str, key: &str| bench.lines(out, key)[0][key].as_f64().unwrap();
    assert_eq!(first("still", "eval_loss"), first("still-changed", "eval_loss"));
    assert!((first("still", "loss") - first("still-changed", "loss")).abs() > 1e-4);
    // With synonyms: their content is part of the data.
    let words = text.split(['"', ' ']).filter(|word| word.chars().all(char::is_lowercase) && word.len() > 2);
    let words: std::collections::BTreeSet<&str> = words.collect();
    fs::write(bench.path("synonyms.txt"), words.into_iter().collect::<Vec<_>>().join(", ")).unwrap();
    let file = format!("augment.synonyms={}", bench.path("synonyms.txt").display());
    let more = [&NO_DROPOUT[..], &["augment.replace=0.5", "max_steps=4", "save_steps=2", &file]].concat();
    bench.run(1, "synonyms", &more, &Resume::None).unwrap();
    bench.run(2, "synonyms-2", &more, &Resume::None).unwrap();
    assert_equivalent(&bench.steps("synonyms-2"), &bench.steps("synonyms"), "synonyms");
    fs::write(bench.path("synonyms.txt"), "text, science\n").unwrap();
    fs::remove_dir_all(bench.path("synonyms/checkpoint-4")).unwrap();
    let error = bench.run(1, "synonyms", &more, &Resume::Auto).unwrap_err();
    assert!(error.to_string().contains("synonyms.txt"), "{error}");
}

/// Sources mixed by weight are read in an order that depends on (seed, epoch) alone, with columns and classes of their
/// own. Without weights they are read as the list of their files is.
#[test]
fn mixed_sources_agree_at_every_world() {
    let bench = Bench::new("bert-classification");
    let record = |line: &str, names: [&str; 2]| {
        let record: Value = serde_json::from_str(line).unwrap();
        let label = if record["label"] == "sport" { "football" } else { "weather" };
        serde_json::json!({names[0]: record["text"], names[1]: label}).to_string() + "\n"
    };
    let eval = fs::read_to_string(bench.path("eval.jsonl")).unwrap();
    for (name, columns) in [("other.jsonl", ["sentence", "topic"]), ("same.jsonl", ["text", "label"])] {
        fs::write(bench.path(name), eval.lines().map(|line| record(line, columns)).collect::<String>()).unwrap();
    }
    let path = |name: &str| bench.path(name).display().to_string();
    let (train, other, same) = (path("train.jsonl"), path("other.jsonl"), path("same.jsonl"));
    let sources = |weights: [&str; 2]| {
        let columns = "text_column='sentence', label_column='topic'";
        format!("data.sources=[{{path='{train}'{}}}, {{path='{other}', {columns}{}}}]", weights[0], weights[1])
    };
    let mixed = sources([", weight=2", ", weight=3"]);
    let more = with(&["save_steps=7", "eval_on_start=true"]);
    let more = |sources: &str| {
        let sources: &'static str = sources.to_owned().leak();
        [&more[..], &[sources]].concat()
    };
    bench.run(1, "w1", &more(&mixed), &Resume::None).unwrap();
    let whole = bench.steps("w1");
    assert_eq!(whole.len(), 20);
    for (world, zero) in [(2, "zero_stage=0"), (2, "zero_stage=3"), (3, "zero_stage=1")] {
        let out = format!("w{world}-{zero}");
        let more = [&more(&mixed)[..], &[zero, "micro_batch_tokens=40"]].concat();
        bench.run(world, &out, &more, &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &whole, &out);
    }
    // Step 14 is in the second epoch of ten steps.
    let cut = || ["checkpoint-20", "final"].map(|later| fs::remove_dir_all(bench.path("w1").join(later)).unwrap());
    cut();
    bench.run(1, "w1", &more(&mixed), &Resume::Auto).unwrap();
    assert_eq!(bench.steps("w1"), whole, "resumed at step 14");
    // Other weights are another order of the data; the same sources at another place are not.
    cut();
    let error = bench.run(1, "w1", &more(&sources([", weight=1", ", weight=1"])), &Resume::Auto).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("the order of the data would change:\n  data.sources = ["), "{told}");
    fs::create_dir(bench.path("moved")).unwrap();
    for name in ["train.jsonl", "other.jsonl"] {
        fs::copy(bench.path(name), bench.path("moved").join(name)).unwrap();
    }
    let elsewhere = mixed.replace(&train, &path("moved/train.jsonl")).replace(&other, &path("moved/other.jsonl"));
    bench.run(1, "w1", &more(&elsewhere), &Resume::Auto).unwrap();
    assert_eq!(bench.steps("w1"), whole, "resumed with the same data elsewhere");

    bench.run(1, "plain", &more(&sources(["", ""])), &Resume::None).unwrap();
    bench.run(1, "list", &more(&format!("data.train=['{train}', '{same}']")), &Resume::None).unwrap();
    assert_eq!(bench.steps("plain"), bench.steps("list"));
    assert!(bench.steps("plain") != whole, "weights change the order");
    assert!(fs::read_to_string(bench.path("plain/final/config.json")).unwrap().contains("\"football\""));
    // A plan looks at the examples that an epoch reads.
    let planned = Config::load(None, &bench.settings("planned", &more(&mixed))).unwrap();
    let planned = PlannedRun::open(planned, None, 1, None).unwrap();
    let dataset = &planned.data.train.dataset;
    assert_eq!((dataset.sources(), dataset.mixture().unwrap().counts()), (&[90, 23][..], &[45, 68][..]));
    let read = planned.sampler(1).unwrap().epoch_order(0);
    let tokens: u64 = read.iter().map(|&i| dataset.length(i as usize) as u64).sum();
    assert_eq!(planned.lengths(1).unwrap().0.tokens, tokens);
    // What a run with sources has written reads back.
    let written = Config::load(Some(&bench.path("w1/config.toml")), &[]).unwrap();
    assert_eq!(written.data.source_weights(), Some(vec![2.0, 3.0]));
}

/// NEFTune's noise is a function of the sequence and the step, on an encoder and on both sides of T5.
#[test]
fn noise_on_embeddings_agrees_at_every_world() {
    let noise = "neftune_noise_alpha=10";
    let bench = Bench::new("bert-classification");
    let more = with(&[noise, "save_steps=7"]);
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    bench.run(1, "plain", &with(&["save_steps=7"]), &Resume::None).unwrap();
    assert!((bench.steps("w1")[0].0 - bench.steps("plain")[0].0).abs() > 1e-4, "the noise changes the loss");
    for (world, zero) in [(2, "zero_stage=0"), (2, "zero_stage=3"), (3, "zero_stage=1")] {
        let out = format!("w{world}-{zero}");
        let more = [&more[..], &[zero, "micro_batch_tokens=40", "recompute=all"]].concat();
        bench.run(world, &out, &more, &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &bench.steps("w1"), &out);
    }
    for later in ["checkpoint-14", "checkpoint-20", "final"] {
        fs::remove_dir_all(bench.path("w1").join(later)).unwrap();
    }
    let whole = bench.steps("w1");
    bench.run(1, "w1", &more, &Resume::Auto).unwrap();
    assert_eq!(bench.steps("w1"), whole, "resumed at step 7");
    // Evaluations have none.
    let still = ["learning_rate=1e-12", "max_steps=1", "eval_on_start=true"];
    bench.run(1, "still", &still, &Resume::None).unwrap();
    bench.run(1, "still-noise", &[&still[..], &[noise]].concat(), &Resume::None).unwrap();
    assert_eq!(
        bench.lines("still", "eval_loss")[0]["eval_loss"],
        bench.lines("still-noise", "eval_loss")[0]["eval_loss"]
    );
}

/// More ranks than a global batch has records: some ranks have nothing to do and still take part.
#[test]
fn ranks_without_work() {
    let bench = Bench::new("bert-classification");
    let more = with(&["global_batch_size=2", "max_steps=6"]);
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    bench.run(4, "w4", &more, &Resume::None).unwrap();
    assert_equivalent(&bench.steps("w4"), &bench.steps("w1"), "world 4, two records a step");
}

/// The same world: the remaining losses are bit-equal, dropout included, and so is the model.
#[test]
fn resume_is_bit_equal_at_the_same_world() {
    let bench = Bench::new("bert-classification");
    let dropout = ["hidden_dropout_prob=0.1", "attention_probs_dropout_prob=0.1", "micro_batch_tokens=60"];
    for world in [1, 2] {
        let (whole, cut) = (format!("whole-{world}"), format!("cut-{world}"));
        let saves = [&dropout[..], &["save_steps=7"]].concat();
        bench.run(world, &whole, &saves, &Resume::None).unwrap();
        bench.run(world, &cut, &saves, &Resume::None).unwrap();
        assert_eq!(bench.steps(&cut), bench.steps(&whole), "world {world}: the same run twice");
        // Back to the state of the first checkpoint, as a crash between two checkpoints leaves it.
        for later in ["checkpoint-14", "checkpoint-20", "final"] {
            fs::remove_dir_all(bench.path(&cut).join(later)).unwrap();
        }
        bench.run(world, &cut, &saves, &Resume::Auto).unwrap();
        assert_eq!(bench.steps(&cut), bench.steps(&whole), "world {world}: resumed at step 7");
        let model = |out: &str| fs::read(bench.path(out).join("final/model.safetensors")).unwrap();
        assert!(model(&cut) == model(&whole), "world {world}: the final models differ");
    }
}

/// Another world, dropout 0: losses within 1e-5 relative.
/// `loss` is the mean over the steps since the line before, `step_loss` the step's, and a run that was cut between two
/// lines writes the same ones.
#[test]
fn lines_average_the_steps_between_them() {
    let bench = Bench::new("bert-classification");
    let more = with(&["logging_steps=4", "save_strategy=steps", "save_steps=6", "max_steps=18"]);
    bench.run(1, "each", &with(&["max_steps=18"]), &Resume::None).unwrap();
    bench.run(1, "whole", &more, &Resume::None).unwrap();
    let losses: Vec<f64> = bench.steps("each").iter().map(|step| step.0).collect();
    let lines = |out: &str| -> Vec<(u64, f64, f64)> {
        let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
        let of = |line: &Value| (line["step"].as_u64().unwrap(), number(line, "loss"), number(line, "step_loss"));
        bench.lines(out, "step_loss").iter().map(of).collect()
    };
    let steps = [4, 8, 12, 16, 18];
    let mean = |first: usize, last: usize| losses[first..last].iter().sum::<f64>() / (last - first) as f64;
    let wanted: Vec<_> =
        [0].iter().chain(&steps).zip(&steps).map(|(&a, &b)| (b as u64, mean(a, b), losses[b - 1])).collect();
    assert_eq!(lines("whole"), wanted);
    for at in [6, 12] {
        let cut = format!("cut-{at}");
        bench.run(1, &cut, &more, &Resume::Path(bench.path(&format!("whole/checkpoint-{at}")))).unwrap();
        assert_eq!(lines(&cut), wanted, "resumed at {at}");
    }
}

#[test]
fn resume_at_another_world() {
    let bench = Bench::new("bert-classification");
    let saves = with(&["save_steps=10"]);
    bench.run(1, "whole", &saves, &Resume::None).unwrap();
    let from = Resume::Path(bench.path("whole/checkpoint-10"));
    for world in [2, 4] {
        let out = format!("on-{world}");
        bench.run(world, &out, &saves, &from).unwrap();
        let (ours, theirs) = (bench.steps(&out), bench.steps("whole"));
        assert_eq!(ours.len(), 20, "the history of the first ten steps came along");
        for (step, (x, y)) in ours.iter().zip(&theirs).enumerate() {
            assert!((x.0 / y.0 - 1.0).abs() < 1e-5, "world {world}: step {}: loss {} and {}", step + 1, x.0, y.0);
            assert!((x.1 / y.1 - 1.0).abs() < 1e-4, "world {world}: step {}: norm {} and {}", step + 1, x.1, y.1);
        }
    }
}

/// A resumed run refuses what would change the order of data, and tells what else differs.
#[test]
fn resume_refuses_another_data_order() {
    let bench = Bench::new("bert-classification");
    bench.run(1, "a", &with(&["max_steps=4", "save_steps=2"]), &Resume::None).unwrap();
    let error = bench.run(1, "a", &with(&["max_steps=4", "seed=7"]), &Resume::Auto).unwrap_err();
    assert!(error.to_string().contains("seed = 7 (was 42)"), "{error}");
    common::runs::write_data(&bench.path("train.jsonl"), &bench.model, 90, 5);
    let error = bench.run(1, "a", &with(&["max_steps=4"]), &Resume::Auto).unwrap_err();
    assert!(error.to_string().contains("train.jsonl"), "{error}");
}

/// Three shards of 1450 records, in several compressions; returns the setting that names them.
fn shards(bench: &Bench) -> String {
    let folder = bench.path("shards");
    fs::create_dir(&folder).unwrap();
    let text = |n: usize, seed: u64| {
        let plain = bench.path("shard.jsonl");
        common::runs::write_data(&plain, &bench.model, n, seed);
        fs::read(&plain).unwrap()
    };
    fs::write(folder.join("0.jsonl"), text(700, 10)).unwrap();
    fs::write(folder.join("1.jsonl.zst"), zstd::encode_all(&text(450, 11)[..], 1).unwrap()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text(300, 12)).unwrap();
    fs::write(folder.join("2.jsonl.gz"), gzip.finish().unwrap()).unwrap();
    format!("data.train={}", folder.display())
}

const LABELS: &str = "task.labels=['science', 'sport', 'weather']";

/// A stream of shards is the same at every world size; it resumes to the bit within a shard, and at another world size.
#[test]
fn streams_agree_at_every_world_and_resume() {
    let bench = Bench::new("bert-classification");
    let data = shards(&bench);
    let stream = ["streaming=true", LABELS, "global_batch_size=290", "shuffle_buffer_size=20", data.as_str()];
    let more = [&NO_DROPOUT[..], &stream, &["max_steps=7", "save_steps=2"]].concat();
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    let whole = bench.steps("w1");
    assert_eq!(whole.len(), 7);
    let epochs: Vec<f64> = bench.lines("w1", "loss").iter().map(|line| line["epoch"].as_f64().unwrap()).collect();
    assert!(epochs[3] < 1.0 && epochs[4] == 1.0 && epochs[5] < 2.0, "five steps a pass: {epochs:?}");
    for (world, zero) in [(2, "zero_stage=0"), (3, "zero_stage=3")] {
        let out = format!("w{world}");
        bench.run(world, &out, &[&more[..], &[zero, "micro_batch_tokens=400"]].concat(), &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &whole, &out);
    }
    // The checkpoint is in the middle of a shard.
    let state = fs::read_to_string(bench.path("w1/checkpoint-4/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let number = |key: &str| state["stream"][key].as_u64().unwrap();
    assert_eq!((number("taken"), number("arrived"), number("first")), (1160, 1180, 1024));
    assert!(number("shard") > 0 && number("place") > 0, "{}", state["stream"]);
    for later in ["checkpoint-6", "checkpoint-7", "final"] {
        fs::remove_dir_all(bench.path("w1").join(later)).unwrap();
    }
    bench.run(1, "w1", &more, &Resume::Auto).unwrap();
    assert_eq!(bench.steps("w1"), whole, "resumed at step 4");
    bench.run(3, "on-3", &more, &Resume::Path(bench.path("w1/checkpoint-2"))).unwrap();
    assert_equivalent(&bench.steps("on-3"), &whole, "resumed on three ranks");
    // The order of the files is another order, and a run does not change to it.
    let files = [&more[..], &["shuffle_buffer_size=1"]].concat();
    bench.run(1, "files", &files, &Resume::None).unwrap();
    assert!((bench.steps("files")[0].0 - whole[0].0).abs() > 1e-5);
    let error = bench.run(1, "w1", &files, &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("data.shuffle_buffer_size = 1 (was 20)"), "{error}");
    // Nor do the shards.
    let shard = bench.path("shards/0.jsonl");
    let text = fs::read_to_string(&shard).unwrap();
    fs::write(&shard, format!("{text}\n")).unwrap();
    let error = bench.run(1, "w1", &more, &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("shards/0.jsonl had ") && error.contains("--allow-new-data-order"), "{error}");
    fs::remove_file(&shard).unwrap();
    let error = bench.run(1, "w1", &more, &Resume::Auto).unwrap_err().to_string();
    assert!(error.contains("0.jsonl is no longer there"), "{error}");
    // An invalid record ends the run when it is read, wherever that is.
    fs::write(&shard, format!("{text}{{\"text\": 1}}\n")).unwrap();
    let error = bench.run(1, "bad", &more, &Resume::None).unwrap_err().to_string();
    assert!(error.contains("0.jsonl:701: column \"text\" is a number"), "{error}");
    bench.run(1, "skipped", &[&more[..], &["on_bad_record=skip"]].concat(), &Resume::None).unwrap();
}

/// With a batch of all records a stream takes the steps of the same files in memory, whatever its buffer.
#[test]
fn a_stream_has_the_records_of_the_files() {
    let bench = Bench::new("bert-classification");
    let data = shards(&bench);
    let all = [&NO_DROPOUT[..], &[LABELS, "global_batch_size=2000", "max_steps=3", data.as_str()]].concat();
    bench.run(1, "memory", &all, &Resume::None).unwrap();
    for (world, buffer) in [(1, "shuffle_buffer_size=1"), (2, "shuffle_buffer_size=5000")] {
        let out = format!("stream-{world}");
        bench.run(world, &out, &[&all[..], &["streaming=true", buffer]].concat(), &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &bench.steps("memory"), &out);
    }
}

/// Documents of a stream are packed while it is read.
#[test]
fn streamed_documents_are_packed_the_same_at_every_world() {
    let bench = Bench::new("bert-classification");
    let data = shards(&bench);
    let masked = ["kind=masked-lm", "streaming=true", "data.max_length=32", "shuffle_buffer_size=30", data.as_str()];
    let more = [&NO_DROPOUT[..], &masked, &["global_batch_size=250", "max_steps=6", "save_steps=2"]].concat();
    bench.run(1, "w1", &more, &Resume::None).unwrap();
    let whole = bench.steps("w1");
    assert_eq!(whole.len(), 6);
    bench.run(2, "w2", &more, &Resume::None).unwrap();
    assert_equivalent(&bench.steps("w2"), &whole, "world 2");
    for later in ["checkpoint-4", "checkpoint-6", "final"] {
        fs::remove_dir_all(bench.path("w1").join(later)).unwrap();
    }
    bench.run(1, "w1", &more, &Resume::Auto).unwrap();
    assert_eq!(bench.steps("w1"), whole, "resumed at step 2");
}

/// The best evaluation gets a checkpoint of its own, which outlives the limit and becomes the final model.
#[test]
fn the_best_model_is_kept_and_becomes_the_final_one() {
    let bench = Bench::new("bert-classification");
    // A learning rate this high makes the loss go up again after some steps.
    let more = with(&[
        "learning_rate=0.05",
        "eval_steps=1",
        "save_steps=12",
        "save_total_limit=1",
        "load_best_model_at_end=true",
    ]);
    bench.run(2, "best", &more, &Resume::None).unwrap();
    let best = bench
        .lines("best", "eval_loss")
        .into_iter()
        .min_by(|a, b| a["eval_loss"].as_f64().unwrap().total_cmp(&b["eval_loss"].as_f64().unwrap()));
    let step = best.unwrap()["step"].as_u64().unwrap();
    assert!(step < 20, "the last step must not be the best for this test to say anything");
    let model = |folder: &str| fs::read(bench.path("best").join(folder).join("model.safetensors")).unwrap();
    assert!(model("final") == model(&format!("checkpoint-{step}")), "final/ is the model of step {step}");
}
