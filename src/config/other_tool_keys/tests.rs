//! Each piece of advice is true: it names keys that exist, and the assignments that it proposes are valid.

use std::fmt::Write;

use super::super::other_tool_values::{Row, VALUES};
use super::super::{Config, LrSchedulerType, Optim, TaskKind};
use super::*;
use crate::plan::device::Device;
use crate::plan::link::Link;

const MINIMAL: [&str; 3] = ["output_dir=o", "model.path=m", "data.train=t"];
/// Names of settings in other tools, which the table must have.
const NAMES: &str = include_str!("../../../tests/reference/other_tools.txt");
const DOCS: &str = "docs/other-tools.md";
const BEGIN: &str = "<!-- The rest is generated from src/config: UPDATE_GOLDEN=1 rewrites it. -->\n";

fn rows() -> impl Iterator<Item = &'static instead::Row> {
    KEYS.iter().flat_map(|(_, rows)| rows.iter())
}

fn words() -> impl Iterator<Item = (&'static [&'static str], &'static Row)> {
    VALUES.iter().flat_map(|(keys, rows)| rows.iter().map(|row| (*keys, row)))
}

/// Parses these settings, which may need others.
fn parses(settings: &[String]) -> Result<(), String> {
    let beside = |kind: TaskKind, more: &[&str]| {
        let kind = format!("task.kind={kind}");
        let words = MINIMAL.iter().chain(more).map(|word| (*word).to_owned());
        let words: Vec<String> = words.chain([kind]).chain(settings.iter().cloned()).collect();
        Config::parse("", "a test", &words)
    };
    let more: [&[&str]; 11] = [
        &[],
        &["data.eval=e"],
        &["data.eval=e", "train.eval_strategy=epoch"],
        &["task.predict_with_generate=true"],
        &["zero_stage=auto"],
        &["precision=fp16"],
        &["precision=bf16"],
        &["lr_scheduler_type=cosine_with_min_lr"],
        &["lr_scheduler_type=cosine_with_restarts"],
        &["lr_scheduler_type=polynomial"],
        &["optim=sgd"],
    ];
    let tried = TaskKind::ALL.iter().flat_map(|kind| more.iter().map(|more| beside(*kind, more)));
    let mut problems = String::new();
    for tried in tried {
        match tried {
            Ok(_) => return Ok(()),
            Err(e) => problems = e.to_string(),
        }
    }
    Err(problems)
}

fn advice_for(key: &str, value: &str) -> String {
    let value = DeValue::parse(value).unwrap().into_inner();
    advice("", key, Some(&value), Place::File).unwrap_or_else(|| panic!("{key} is not known"))
}

#[test]
fn names_are_of_other_tools_and_unique() {
    let names: Vec<&str> = rows().flat_map(|(names, _)| names.iter().copied()).collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name} is there twice");
        assert!(!Config::keys().iter().any(|key| key.dotted() == *name), "{name} is ours");
        assert!(!Config::keys().iter().any(|key| key.name == *name), "{name} is a key of ours");
        assert!(!Config::keys().iter().any(|key| key.section == *name), "{name} is a section of ours");
        assert_eq!(&normal(name), name, "is never found");
    }
}

#[test]
fn proposed_assignments_are_valid() {
    for (names, instead) in rows() {
        let (Instead::Same(example, _) | Instead::Ours(example, _) | Instead::On(example, _)) = instead else {
            continue;
        };
        let (key, value) = example.split_once(" = ").unwrap_or_else(|| panic!("{names:?}: {example} sets nothing"));
        parses(&[format!("{key}={value}")]).unwrap_or_else(|e| panic!("{names:?}: {example}: {e}"));
        // On the command line too, as a shell hands it over.
        let shell = assignment(key, value, Place::CommandLine);
        parses(&[shell.trim_matches('\'').to_owned()]).unwrap_or_else(|e| panic!("{names:?}: {shell}: {e}"));
    }
}

#[test]
fn proposed_values_are_valid_and_those_of_other_tools_are_not() {
    for (keys, (words, meaning)) in words() {
        for key in keys {
            for word in *words {
                assert_eq!(&normal(word), word, "is never found");
                let taken = match *key {
                    "--device" => Device::named(word).is_some(),
                    "--link" => Link::named(word).is_some(),
                    key => parses(&[format!("{key}={word:?}")]).is_ok(),
                };
                assert!(!taken, "{key} takes {word:?}");
            }
            let Meaning::Ours(own, _) = *meaning else { continue };
            match *key {
                "--device" => assert!(Device::named(own).is_some(), "{own} is no device"),
                "--link" => assert!(Link::named(own).is_some(), "{own} is no link"),
                key => parses(&[format!("{key}={}", shown(own))]).unwrap_or_else(|e| panic!("{key} = {own}: {e}")),
            }
        }
    }
    for (keys, rows) in VALUES {
        let words: Vec<&str> = rows.iter().flat_map(|(words, _)| words.iter().copied()).collect();
        for (i, word) in words.iter().enumerate() {
            assert!(!words[..i].contains(word), "{keys:?}: {word} is there twice");
        }
    }
}

#[test]
fn keys_that_are_named_exist() {
    let keys: Vec<String> = Config::keys().iter().map(|key| key.dotted()).collect();
    // Schedules and the arguments of schedules and optimizers.
    let schedules = LrSchedulerType::ALL.iter().flat_map(|kind| kind.arguments());
    let arguments = schedules.chain(Optim::ALL.iter().flat_map(|optim| optim.arguments()));
    let mut values: Vec<&str> = arguments.map(|(name, _)| *name).collect();
    values.extend(LrSchedulerType::ALL.iter().map(|kind| kind.name()));
    let check = |names: &[&str], text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
        for word in text.split(|c| !is_part(c)).map(|word| word.trim_matches('.')) {
            let section = word.split_once('.').map(|(section, _)| section);
            let is_key_like = word.contains('_') && word.to_lowercase() == word;
            if is_key_like || Config::keys().iter().any(|key| section == Some(key.section)) {
                assert!(
                    keys.iter().any(|key| key == word) || values.contains(&word) || word == "metrics.jsonl",
                    "{names:?}: {word} is no key"
                );
            }
        }
    };
    for (names, instead) in rows() {
        match instead {
            Instead::Same(_, note) | Instead::Ours(_, note) | Instead::On(_, note) => check(names, note),
            Instead::Missing(what, note) => [what, note].iter().for_each(|text| check(names, text)),
            Instead::Needless(why) => check(names, &why.replace("config.json", "")),
        }
    }
    for (_, (words, meaning)) in words() {
        let (Meaning::Ours(_, note) | Meaning::Missing(note)) = meaning;
        check(words, note);
    }
}

#[test]
fn settings_of_other_tools_have_an_answer() {
    let mut count = 0;
    for name in NAMES.lines().filter(|line| !line.starts_with(['#', '['])).flat_map(str::split_whitespace) {
        let (section, key) = name.rsplit_once('.').unwrap_or(("", name));
        let ours = Config::keys().iter().any(|ours| ours.name == key);
        assert!(ours || advice(section, key, None, Place::File).is_some(), "{name} has no answer");
        count += 1;
    }
    assert!(count > 400, "only {count} names were read");
}

#[test]
fn a_value_of_the_same_meaning_is_carried_over() {
    for (key, value, expected) in [
        ("lr", "1e-5", "unknown key: use train.learning_rate = 1e-5"),
        ("lr", "\"auto\"", "unknown key: use train.learning_rate = 5e-5"),
        ("Num-Epochs", "4", "unknown key: use train.num_train_epochs = 4"),
        ("torch_dtype", "\"torch.bfloat16\"", "unknown key: use parallel.precision = \"bf16\" (\"bf16\", "),
        ("task_type", "\"CAUSAL_LM\"", "unknown key: use task.kind = \"causal-lm\" ("),
        ("device", "\"cuda\"", "unknown key: use comm.backend = \"nccl\" ("),
        ("label_list", "[\"a\", \"b\"]", "unknown key: use task.labels = [\"a\", \"b\"] ("),
        ("stage", "3", "unknown key: use parallel.zero_stage = 3 ("),
        ("lr_scheduler", "\"one_cycle\"", "unknown key: use train.lr_scheduler_type: \"one_cycle\" is not supported"),
        ("lr_scheduler", "\"wsd\"", "unknown key: use train.lr_scheduler_type = \"warmup_stable_decay\""),
        ("fp16", "true", "unknown key: use parallel.precision = \"fp16\""),
        ("fp16", "false", "unknown key: it is off by default: remove it"),
        ("per_device_train_batch_size", "16", "unknown key: use train.global_batch_size = 32 (per device x ranks x "),
        ("load_in_4bit", "true", "quantization is not supported in this version: parallel.precision"),
        ("load_in_4bit", "false", "unknown key: quantization is not supported in this version, so it is off: remove"),
        ("label_smoothing", "0.1", "unknown key: use train.label_smoothing_factor = 0.1"),
        ("optimizer", "\"adamw_torch_fused\"", "unknown key: use train.optim = \"adamw_torch_fused\""),
        ("optimizer", "\"adamw_bnb_8bit\"", "unknown key: use train.optim: \"adamw_bnb_8bit\" is not supported"),
        ("nesterov", "true", "unknown key: use train.optim_args = { momentum = 0.9, nesterov = true } (with "),
    ] {
        let found = advice_for(key, value);
        assert!(found.starts_with(expected), "{key} = {value}: {found}");
    }
    assert_eq!(advice("", "learning_rat", None, Place::File), None);
}

#[test]
fn a_command_line_has_no_spaces() {
    let value = DeValue::parse("['a']").unwrap().into_inner();
    let told = |key| advice("train", key, Some(&value), Place::CommandLine).unwrap();
    assert_eq!(told("label_list"), "unknown key: use 'task.labels=[\"a\"]' (or omit it to infer them from the data)");
    assert_eq!(told("max_len"), "unknown key: use data.max_length=512");
    assert!(told("bf16").ends_with("use parallel.precision=bf16"));
}

/// The tables of the documentation.
fn document() -> String {
    let code = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let and = |note: &str| if note.is_empty() { String::new() } else { format!(": {note}") };
    let mut out = String::new();
    for (group, rows) in KEYS {
        write!(out, "\n### {group}\n\n| Other tools | Here |\n|---|---|\n").unwrap();
        for (names, instead) in *rows {
            let here = match instead {
                Instead::Same(example, note) | Instead::Ours(example, note) | Instead::On(example, note) => {
                    format!("`{example}`{}", and(note))
                }
                Instead::Missing(what, instead) => format!("Not supported in this version: {what}{}", and(instead)),
                Instead::Needless(why) => format!("Nothing to set: {why}"),
            };
            writeln!(out, "| {} | {here} |", code(names)).unwrap();
        }
    }
    write!(out, "\n## Values\n").unwrap();
    for (keys, rows) in VALUES {
        let title = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" and ");
        write!(out, "\n### {title}\n\n| Other tools | Here |\n|---|---|\n").unwrap();
        for (words, meaning) in *rows {
            let here = match meaning {
                Meaning::Ours(own, note) => format!("`{}`{}", shown(own), and(note)),
                Meaning::Missing(instead) => format!("Not supported in this version{}", and(instead)),
            };
            writeln!(out, "| {} | {here} |", code(words)).unwrap();
        }
    }
    out
}

#[test]
fn the_documentation_has_the_tables() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCS);
    let text = std::fs::read_to_string(&path).unwrap();
    let (preface, tables) = text.split_once(BEGIN).expect("the line that the tables follow");
    let expected = document();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{preface}{BEGIN}{expected}")).unwrap();
        return;
    }
    assert!(tables == expected, "{DOCS} differs from the tables in src/config: UPDATE_GOLDEN=1 rewrites it");
}
