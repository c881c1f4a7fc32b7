//! Tests of defaults, messages, overrides, the written form, and the documentation.

mod documentation;
mod elsewhere;
mod optimizers;
mod others;
mod pairs;
mod parallel;
mod sources;
mod trained;

use super::keys::{Key, dotted};
use super::*;
use crate::error::Kind;

const MINIMAL: &str = "output_dir = 'out'\nmodel.path = 'm'\ntask.kind = 'sequence-classification'\ndata.train = 't'\n";

fn words(overrides: &[&str]) -> Vec<String> {
    overrides.iter().map(|s| s.to_string()).collect()
}

/// The minimal configuration with overrides.
fn with(overrides: &[&str]) -> Result<Config> {
    Config::parse(MINIMAL, "run.toml", &words(overrides))
}

fn message(result: Result<Config>) -> String {
    let error = result.expect_err("a problem");
    assert_eq!(error.kind(), Kind::Input);
    error.to_string()
}

#[track_caller]
fn refused(overrides: &[&str], part: &str) {
    let message = message(with(overrides));
    assert!(message.contains(part), "{message:?} lacks {part:?}");
}

#[test]
fn defaults() {
    let config = with(&[]).unwrap();
    assert_eq!(config.seed, 42);
    assert_eq!(config.model.path, Path::new("m"));
    assert_eq!(config.task, TaskConfig::new(TaskKind::SequenceClassification));
    assert_eq!((config.data.text_column.as_str(), config.data.label_column.as_str()), ("text", "label"));
    assert_eq!((config.train.learning_rate, config.train.num_train_epochs), (5e-5, 3.0));
    assert_eq!((config.train.eval_strategy, config.train.eval_steps), (IntervalStrategy::No, None));
    assert_eq!(config.train.lr_scheduler_type, LrSchedulerType::Linear);
    assert_eq!(config.comm, CommConfig { backend: Backend::Auto, timeout_seconds: 600.0 });
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let text = "output_dir = 3\nlearning_rate = 1e-5\n[train]\nlearning_rat = 1\nmax_steps = -1\nadam_beta1 = 1.0\n\
                warmup_ratio = nan\n[trian]\n[data]\ntrain = 't'\ntext_column = ['a']\nzzz = 1\n[task]\n\
                kind = 'causal-llm'\n";
    let expected = "\
12 problems in the configuration:
  run.toml:1: output_dir: found the integer 3, expected a path in quotes
  run.toml:2: learning_rate: unknown key, did you mean train.learning_rate?
  run.toml:4: train.learning_rat: unknown key, did you mean train.learning_rate?
  run.toml:5: train.max_steps: found the integer -1, expected an integer >= 1; omit the key to use its default
  run.toml:6: train.adam_beta1: found the number 1.0, expected a number in [0, 1)
  run.toml:7: train.warmup_ratio: found the number nan, expected a number in [0, 1]
  run.toml:8: trian: unknown section, did you mean [train]?
  run.toml:11: data.text_column: found a list, expected a non-empty string
  run.toml:12: data.zzz: unknown key, and no key has a similar name: `trainer config --all` lists all keys
  run.toml:14: task.kind: found \"causal-llm\", expected \"sequence-classification\", \"multi-label\", \"regression\", \
\"token-classification\", \"question-answering\", \"multiple-choice\", \"masked-lm\", \"causal-lm\", \"chat\", \"seq2seq\" or \"embedding\" (did you mean \"causal-lm\"?)
  command line: train.logging_steps: found the integer 0, expected an integer >= 1
  run.toml: model.path: is required, and is missing";
    assert_eq!(message(Config::parse(text, "run.toml", &words(&["logging_steps=0"]))), expected);
}

#[test]
fn broken_toml_is_reported_with_its_lines_and_nothing_else() {
    let message = message(Config::parse("seed = 1\nseed = 2\n[train]\nmax_steps = = 3\n", "run.toml", &[]));
    assert!(message.contains("\n  run.toml:2: not valid TOML: duplicate key"), "{message}");
    assert!(message.contains("\n  run.toml:4: not valid TOML: "), "{message}");
    assert!(!message.contains("required"), "{message}");
}

#[test]
fn another_language_is_reported_once() {
    for (text, language) in [
        ("{\n  \"output_dir\": \"out\"\n}\n", "JSON"),
        ("# a run\noutput_dir: out\ntrain:\n  learning_rate: 1e-5\n", "YAML"),
        ("---\n- a\n", "YAML"),
    ] {
        let found = message(Config::parse(text, "run", &[]));
        let (place, told) = found.split_once(": ").unwrap();
        let expected = format!("this looks like {language}, and a configuration is TOML: ");
        assert!(place.starts_with("run:") && told.starts_with(&expected) && found.lines().count() == 1, "{found}");
    }
    let found = message(Config::parse("seed = 1\noutput_dir: out\n", "run.toml", &[]));
    assert!(found.contains("run.toml:2: not valid TOML: "), "{found}");
}

#[test]
fn keys_of_other_tools_get_ours() {
    let text = "lr = 1e-5\n[train]\nfp16 = true\nlogging_dir = 'x'\n[optimizer]\nlr = 2e-5\nunheard_of = 1\n";
    let found = message(Config::parse(&format!("{MINIMAL}{text}"), "run.toml", &words(&["optimizer.lr=3e-5"])));
    let expected = "\
6 problems in the configuration:
  run.toml:5: lr: unknown key: use train.learning_rate = 1e-5
  run.toml:7: train.fp16: unknown key: use parallel.precision = \"fp16\"
  run.toml:8: train.logging_dir: unknown key: metrics are in output_dir/metrics.jsonl: remove it
  run.toml:9: optimizer: unknown section: use train.optim = \"adamw\"
  run.toml:10: optimizer.lr: unknown key: use train.learning_rate = 2e-5
  command line: optimizer.lr: unknown key: use train.learning_rate=3e-5";
    assert_eq!(found, expected);
}

#[test]
fn a_section_and_a_key_of_the_same_name_are_distinguished() {
    let found = message(Config::parse("train = 'a.jsonl'", "run.toml", &[]));
    let expected = "run.toml:1: train: found the string \"a.jsonl\", but [train] is a section of settings (did you mean \
                    model.train or data.train?)";
    assert!(found.contains(expected), "{found}");
}

#[test]
fn overrides_are_toml_or_strings() {
    let config = with(&[
        "output_dir=runs/x",
        "model.path=foo/bar=baz",
        "learning_rate=3e-5",
        "num_train_epochs=2",
        "labels=[\"a\", 'b']",
        "header=true",
        "eval=2024-01-31",
        "text_column=7",
        "eval_strategy=epoch",
        "seed=1",
        "seed = 0x10",
    ])
    .unwrap();
    assert_eq!(config.output_dir, Path::new("runs/x"));
    assert_eq!(config.model.path, Path::new("foo/bar=baz"));
    assert_eq!((config.train.learning_rate, config.train.num_train_epochs), (3e-5, 2.0));
    assert_eq!(config.task.labels, Some(vec!["a".to_string(), "b".into()]));
    assert_eq!(config.data.header, Some(true));
    assert_eq!(config.data.eval, Some("2024-01-31".into()), "a date is a path where one is wanted");
    assert_eq!(config.data.text_column, "7");
    assert_eq!(config.train.eval_strategy, IntervalStrategy::Epoch);
    assert_eq!(config.seed, 16, "the last one counts");
}

#[test]
fn bad_overrides() {
    refused(&["learning_rate"], "command line: learning_rate: expected key=value");
    refused(&["learnin_rate=1"], "command line: learnin_rate: unknown key, did you mean train.learning_rate?");
    refused(&["data.learning_rate=1"], "data.learning_rate: unknown key, did you mean train.learning_rate?");
    refused(&["learning_rate=fast"], "train.learning_rate: found the string \"fast\", expected a number > 0");
    refused(&["header=True"], "data.header: found the string \"True\", expected true or false");
    refused(&["max_steps=1.5"], "train.max_steps: found the number 1.5, expected an integer >= 1");
    refused(&["labels=[1]"], "task.labels: found the integer 1 in the list, expected a list of strings");
    refused(&["eval="], "data.eval: found the string \"\", expected a path in quotes");
    refused(&["seed=99999999999999999999"], "seed: found the integer 99999999999999999999, expected an integer >= 0");
    refused(
        &["backend=mpl"],
        "found \"mpl\", expected \"auto\", \"solo\", \"mpi\" or \"nccl\" (did you mean \"mpi\"?)",
    );
}

#[test]
fn an_override_with_spaces_is_one_problem() {
    for spaced in [&["learning_rate", "=", "3e-5"][..], &["learning_rate", "=3e-5"], &["learning_rate=", "3e-5"]] {
        let overrides = [&["seed=1"], spaced, &["max_steps=2"]].concat();
        let expected = "command line: learning_rate: write learning_rate=3e-5, without spaces";
        assert_eq!(message(with(&overrides)), expected);
    }
    let required = words(&["output_dir", "=", "out", "model.path=m", "kind=regression", "data.train=t"]);
    assert_eq!(message(Config::load(None, &required)).lines().count(), 1, "it is not missed as well");
    refused(&["eval=", "seed=1"], "data.eval: found the string \"\"");
    refused(&["learning_rate", "="], "learning_rate: expected key=value");
}

#[test]
fn minus_one_is_not_unset() {
    refused(
        &["max_steps=-1"],
        "train.max_steps: found the integer -1, expected an integer >= 1; omit the key to use its default",
    );
    refused(&["max_steps=-2"], "train.max_steps: found the integer -2, expected an integer >= 1");
    refused(&["max_steps=0"], "train.max_steps: found the integer 0, expected an integer >= 1");
}

#[test]
fn ranges() {
    for (bad, expected) in [
        ("learning_rate=0", "number > 0"),
        ("learning_rate=inf", "number > 0"),
        ("num_train_epochs=0", "number > 0"),
        ("max_steps=0", "integer >= 1"),
        ("global_batch_size=0", "integer >= 1"),
        ("micro_batch_tokens=0", "integer >= 1"),
        ("max_length=2", "integer >= 3"),
        ("warmup_ratio=1.1", "number in [0, 1]"),
        ("weight_decay=-0.1", "number >= 0"),
        ("adam_beta2=1", "number in [0, 1)"),
        ("adam_epsilon=0", "number > 0"),
        ("max_grad_norm=-1", "number >= 0"),
        ("hidden_dropout_prob=1", "number in [0, 1)"),
        ("save_steps=0", "integer >= 1"),
        ("save_total_limit=0", "integer >= 1"),
        ("num_threads=0", "integer >= 1"),
        ("timeout_seconds=0", "number in (0, 1e9]"),
        ("timeout_seconds=1e10", "number in (0, 1e9]"),
        ("loss_scale_window=0", "integer >= 1"),
        ("memory_per_rank=0", "size such as \"16GiB\""),
    ] {
        let article = if expected.starts_with('i') { "an" } else { "a" };
        refused(&[bad], &format!(", expected {article} {expected}"));
    }
    with(&["max_grad_norm=0", "warmup_ratio=1", "hidden_dropout_prob=0", "max_length=3", "weight_decay=0"]).unwrap();
}

#[test]
fn labels_and_columns() {
    refused(&["labels=[]"], "found an empty list");
    refused(&["labels=['a','b','a']"], "the label \"a\" appears twice");
    refused(&["labels=['a','']"], "a label is an empty string");
    refused(&["kind=regression", "labels=['a']"], "regression has no labels");
    refused(&["columns=['label','x']"], "lacks \"text\", which is data.text_column");
    refused(&["columns=['label','text','x','x']"], "the column \"x\" appears twice");
    refused(&["columns=['label','text']", "header=true"], "without a header");
    with(&["columns=['label','s']", "text_column=s", "header=false"]).unwrap();
}

#[test]
fn settings_of_other_tasks() {
    for other in ["mlm_probability=0.2", "whole_word_mask=false", "next_sentence=false", "packing=true"] {
        refused(&[other], "sequence-classification does not use this, only ");
        refused(&["kind=chat", other], "chat does not use this, only ");
    }
    refused(&["kind=causal-lm", "next_sentence=true"], "task.next_sentence: causal-lm does not use this");
    refused(&["documents=lines"], "data.documents: sequence-classification does not use this");
    refused(&["format=text"], "sequence-classification does not read plain text");
    refused(&["kind=masked-lm", "mlm_probability=1"], "expected a number in (0, 1)");
    refused(&["kind=masked-lm", "next_sentence=true", "packing=true"], "each example is a pair of texts");
    refused(&["kind=masked-lm", "next_sentence=true", "documents=file"], "a document is a paragraph");
    refused(&["kind=masked-lm", "next_sentence=true", "format=csv"], "the data is plain text");
    refused(&["kind=causal-lm", "format=jsonl", "documents=file"], "only plain text is divided");
    refused(&["kind=chat", "format=conll"], "chat reads records");
    with(&["kind=masked-lm", "next_sentence=false", "packing=true", "documents=file"]).unwrap();
}

#[test]
fn when_to_evaluate() {
    let train = |overrides: &[&str]| with(&[&["eval=e"], overrides].concat()).unwrap().train;
    assert_eq!(train(&["eval_steps=20"]).eval_strategy, IntervalStrategy::Steps);
    assert_eq!(train(&["eval_strategy=steps", "logging_steps=7"]).eval_steps, Some(7));
    assert_eq!(train(&["eval_steps=20", "eval_strategy=no"]).eval_strategy, IntervalStrategy::No);
    refused(&["eval_steps=20"], "train.eval_steps: evaluation (eval_strategy = \"steps\") needs data.eval");
    refused(&["eval_strategy=epoch"], "train.eval_strategy: evaluation (eval_strategy = \"epoch\") needs data.eval");
    // Only the setting that is wrong is blamed.
    assert_eq!(message(with(&["eval=", "eval_steps=20"])).lines().count(), 1);
    assert_eq!(message(with(&["eval=e", "eval_strategy=steps", "logging_steps=0"])).lines().count(), 1);
}

#[test]
fn the_best_model() {
    let best = |overrides: &[&str]| with(&[&["eval=e", "load_best_model_at_end=true"], overrides].concat());
    best(&["eval_steps=50", "save_steps=100"]).unwrap();
    best(&["eval_strategy=epoch", "save_strategy=epoch"]).unwrap();
    best(&["eval_steps=30", "save_strategy=no"]).unwrap();
    let message = message(best(&["save_steps=100"]));
    assert!(message.contains("finding the best model needs evaluations"), "{message}");
    refused(&["load_best_model_at_end=true"], "finding the best model needs data.eval");
    refused(&["early_stopping_patience=2"], "train.early_stopping_patience: early stopping needs data.eval");
    refused(&["eval_on_start=true", "early_stopping_threshold=0.1"], "no effect without train.early_stopping_patience");
}

#[test]
fn the_metric_and_its_direction() {
    let train = |overrides: &[&str]| with(overrides).unwrap().train;
    let accuracy = train(&["metric_for_best_model=eval_accuracy"]);
    assert_eq!((accuracy.metric_for_best_model.as_str(), accuracy.is_greater_better()), ("accuracy", true));
    assert!(!train(&[]).is_greater_better());
    assert!(!train(&["kind=regression", "metric_for_best_model=mse"]).is_greater_better());
    assert!(!train(&["metric_for_best_model=f1", "greater_is_better=false"]).is_greater_better());
    refused(
        &["metric_for_best_model=mse"],
        "found \"mse\", expected loss, accuracy, f1, micro_f1, matthews_correlation, binary_f1, roc_auc, average_precision",
    );
    assert!(train(&["metric_for_best_model=roc_auc", "labels=['a', 'b']"]).is_greater_better());
    refused(
        &["metric_for_best_model=roc_auc", "labels=['a', 'b', 'c']"],
        "train.metric_for_best_model: roc_auc is for two labels, and there are 3",
    );
}

/// All optional settings set, and characters that need escaping.
fn full() -> Config {
    with(&[
        "output_dir='''a \"b\"\\c'''",
        "seed=9223372036854775807",
        "hidden_dropout_prob=0.1",
        "attention_probs_dropout_prob=0",
        "classifier_dropout=0.30000000000000004",
        "init=random",
        "freeze=['bert.embeddings.*', '*.bias']",
        "labels=[\"neg\\n\", \"größer\"]",
        "eval=e",
        "max_length=128",
        "text_pair_column=b",
        "columns=['text','b','label']",
        "header=false",
        "on_bad_record=skip",
        "cache_dir=c",
        "format=tsv",
        "max_steps=10",
        "learning_rate=1e-300",
        "lr_scheduler_type=cosine",
        "optim=sgd",
        "ema_decay=0.99",
        "optim_args={ momentum = 0.5, nesterov = true }",
        "lr_scheduler_kwargs={ num_cycles = 0.75 }",
        "eval_steps=5",
        "save_total_limit=2",
        "greater_is_better=true",
        "on_non_finite=skip",
        "zero_stage=auto",
        "memory_per_rank=1500MiB",
        "precision=fp16",
        "reduce_dtype=fp16",
        "loss_scale_init=1024",
        "loss_scale_window=7",
        "tf32=false",
        "recompute=2",
        "num_threads=1",
        "backend=mpi",
    ])
    .unwrap()
}

#[test]
fn the_written_form_parses_back() {
    for config in [with(&[]).unwrap(), full(), pairs::full()].into_iter().chain(others::all()) {
        let text = config.to_toml();
        assert_eq!(Config::parse(&text, "config.toml", &[]).unwrap(), config, "{text}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config, "{json}");
    }
    let text = with(&[]).unwrap().to_toml();
    assert!(text.starts_with("output_dir = \"out\"\noverwrite_output_dir = false\nseed = 42\n\n[model]\n"), "{text}");
    assert!(text.contains("\n# eval =\n") && text.contains("\nlearning_rate = 5e-5\n"), "{text}");
}

#[test]
fn no_setting_is_left_out_of_the_written_form() {
    let mut in_config: Vec<String> = Vec::new();
    for config in [full(), pairs::full()].into_iter().chain(others::all()) {
        for (name, value) in &toml::Table::try_from(config).unwrap() {
            match value.as_table() {
                Some(section) => in_config.extend(section.keys().map(|key| dotted(name, key))),
                None => in_config.push(name.clone()),
            }
        }
    }
    let mut in_keys: Vec<String> = full().settings().map(|(key, _)| key.dotted()).collect();
    in_config.sort();
    in_config.dedup();
    in_keys.sort();
    assert_eq!(in_config, in_keys);
}

#[test]
fn differences_are_those_settings_in_order() {
    let (mine, other) = (with(&[]).unwrap(), with(&["seed=7", "max_steps=3", "labels=['a']"]).unwrap());
    let text = |parts: [&str; 3]| (parts[0].to_string(), parts[1].to_string(), parts[2].to_string());
    let expected =
        [text(["seed", "42", "7"]), text(["task.labels", "unset", "[\"a\"]"]), text(["train.max_steps", "unset", "3"])];
    assert_eq!(mine.differences(&other), expected);
    assert_eq!(mine.differences(&mine.clone()), []);
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    let missing = message(Config::load(Some(&path), &[]));
    assert!(missing.contains("run.toml") && missing.contains("No such file"), "{missing}");
    std::fs::write(&path, format!("\u{feff}{MINIMAL}")).unwrap();
    assert_eq!(Config::load(Some(&path), &[]).unwrap(), with(&[]).unwrap());

    let alone = words(&["output_dir=out", "model.path=m", "kind=sequence-classification", "data.train=t"]);
    assert_eq!(Config::load(None, &alone).unwrap(), with(&[]).unwrap());
    assert_eq!(message(Config::load(None, &alone[1..])), "command line: output_dir: is required, and is missing");
}

#[test]
fn task_kinds_have_names() {
    for kind in TaskKind::ALL {
        assert_eq!(kind.to_string().parse::<TaskKind>().unwrap(), *kind);
    }
    let error = "sequence-clasification".parse::<TaskKind>().unwrap_err();
    assert!(error.to_string().ends_with("(did you mean \"sequence-classification\"?)"), "{error}");
}
