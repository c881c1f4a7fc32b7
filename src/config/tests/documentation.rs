//! `docs/configuration.md` agrees with the declarations of settings and exit codes, and its examples hold.

use super::*;
use crate::config::keys::DefaultValue;
use crate::config::sections::columns;

const DOCS: &str = include_str!("../../../docs/configuration.md");
const END: &str = "<!-- end of the generated part -->\n";

/// The generated parts of the page: the marker before each, and its text.
fn generated() -> Vec<(String, String)> {
    let marker = |what: &str| format!("<!-- {what}: generated, UPDATE_GOLDEN=1 rewrites it -->\n");
    let mut sections: Vec<&str> = Config::keys().iter().map(|key| key.section).collect();
    sections.dedup();
    let rows = |keys: Vec<&Key>| {
        let row = |key: &Key| {
            let (kind, default, help) = (key.type_name(), key.default_text(), key.help.trim());
            format!("| `{}` | {kind} | {default} | {help} |\n", key.name)
        };
        let rows = keys.into_iter().map(row).collect::<String>();
        format!("| Key | Type | Default | Meaning |\n|---|---|---|---|\n{rows}")
    };
    let keys = |section: &str| rows(Config::keys().into_iter().filter(|key| key.section == section).collect());
    let title = |section: &str| match section {
        "" => "top-level keys".to_owned(),
        section => format!("keys of [{section}]"),
    };
    let mut parts: Vec<(String, String)> =
        sections.iter().map(|section| (marker(&title(section)), keys(section))).collect();
    for name in Config::keys().iter().map(|key| key.dotted()).filter(|name| !columns(name).is_empty()) {
        parts.push((marker(&format!("keys of [[{name}]]")), rows(columns(&name))));
    }
    let codes = Kind::ALL.iter().map(|(kind, meaning)| format!("| {} | {} |\n", kind.exit_code(), meaning.trim()));
    let codes = format!("| Code | Meaning |\n|---|---|\n| 0 | Success. |\n{}", codes.collect::<String>());
    parts.push((marker("exit codes"), codes));
    parts
}

#[test]
fn the_generated_parts_of_the_documentation_are_up_to_date() {
    let mut page = DOCS.to_owned();
    for (marker, text) in generated() {
        let (before, rest) = page.split_once(&marker).unwrap_or_else(|| panic!("the page lacks {marker}"));
        let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("no end after {marker}"));
        page = format!("{before}{marker}\n{text}\n{END}{after}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md"), page).unwrap();
        return;
    }
    assert!(page == DOCS, "docs/configuration.md differs from the declarations: UPDATE_GOLDEN=1 rewrites its tables");
}

/// One declaration is enough: each key is in everything that is generated.
#[test]
fn every_key_is_everywhere() {
    let printed = with(&[]).unwrap().to_commented_toml();
    let (list, names) = (list(), names().collect::<Vec<_>>());
    let documented = documented();
    for key in Config::keys() {
        let dotted = key.dotted();
        let summary = key.summary();
        let name = key.name;

        assert!(summary.ends_with('.') && !summary.contains("docs/"), "{dotted}: {summary:?} is no summary");
        let comment = format!("\n# {summary} ");
        let lines = format!("\n{printed}");
        let (_, rest) = lines.split_once(&comment).unwrap_or_else(|| panic!("--print-config lacks {dotted}"));
        let line = rest.lines().nth(1).unwrap();
        assert!(line.trim_start_matches("# ").starts_with(&format!("{name} =")), "{dotted}: {line}");

        let mut lines = list.lines().filter(|line| line.split_whitespace().next() == Some(name));
        assert!(lines.any(|line| line.ends_with(&summary) && line.chars().count() <= 80), "{dotted}: {list}");

        // `train` is data.train; model.train is written in full.
        let is_unique = full_name(name).is_ok_and(|found| found == dotted);
        for written in [name, &dotted].into_iter().skip(usize::from(!is_unique)) {
            let explained = explain(written).unwrap();
            let labels: Vec<&str> = explained.iter().map(|(label, _)| *label).filter(|l| *l != "Other tools").collect();
            assert_eq!(labels, ["Key", "Section", "Type", "Default", ""], "{written}");
            assert!(explained.iter().all(|(_, text)| !text.contains('`') && !text.contains("](")), "{explained:?}");
            assert!(explained.last().unwrap().1.starts_with(&summary), "{explained:?}");
        }
        assert!(documented.iter().any(|(documented, _)| *documented == dotted), "the page lacks {dotted}");
        let completion = if is_unique { name } else { &dotted };
        assert!(names.iter().any(|known| known == completion), "no completion of {dotted}");

        let suggestion = format!("unknown key, did you mean {dotted}?");
        // No name is similar to one letter.
        if name.len() == 1 {
            continue;
        }
        refused(&[&format!("{completion}q=1")], &suggestion);
        let unknown = explain(&format!("{completion}q")).unwrap_err();
        assert!(unknown.kind() == Kind::Input && unknown.to_string().ends_with(&suggestion), "{unknown}");
    }
    let explained = explain("lr_scheduler_type").unwrap();
    assert!(
        explained
            .iter()
            .any(|(label, text)| *label == "Type" && text.starts_with("one of linear, cosine, cosine_with_")),
        "{explained:?}"
    );
    assert!(explained.contains(&("Default", "\"linear\"".into())), "{explained:?}");
    assert!(explained.iter().any(|(label, text)| *label == "Other tools" && text.contains("lr_scheduler,")));
    let (_, help) = explain("predict_with_generate").unwrap().pop().unwrap();
    assert!(help.contains("settings of [generation]: docs/configuration.md#generation, and"), "{help}");
    assert!(help.ends_with("(more: docs/generation.md#in-evaluations)."), "{help}");
}

#[test]
fn the_declared_defaults_are_those_of_a_configuration() {
    for config in [with(&[]).unwrap(), with(&["kind=question-answering"]).unwrap()] {
        for (key, value) in config.settings() {
            let is_answer = AnswerConfig::keys().iter().any(|answer| answer.name == key.name);
            match key.default {
                DefaultValue::Required => assert!(value.is_some(), "{}", key.dotted()),
                DefaultValue::Value(default) if value.is_some() => {
                    assert_eq!(value, Some(default()), "{}", key.dotted())
                }
                DefaultValue::Value(_) => assert!(is_answer && config.task.answers.is_none(), "{}", key.dotted()),
                DefaultValue::Unset(_) => assert_eq!(value, None, "{}", key.dotted()),
            }
        }
    }
}

/// (dotted key, default) of the rows of the documentation's tables of keys, without the keys of lists of tables.
fn documented() -> Vec<(String, &'static str)> {
    let keys = DOCS.split("\n## ").find(|part| part.starts_with("Keys")).expect("a chapter of keys");
    let (mut section, mut is_table) = ("", false);
    let mut rows = Vec::new();
    for line in keys.lines() {
        if line.starts_with("#### ") {
            is_table = true;
        } else if let Some(title) = line.strip_prefix("### ") {
            is_table = false;
            section = title.strip_prefix('[').map_or("", |title| title.trim_end_matches(']'));
        } else if let Some(row) = line.strip_prefix("| `").filter(|_| !is_table) {
            let (key, rest) = row.split_once("` | ").expect("a key between backticks");
            rows.push((dotted(section, key), rest.split(" | ").nth(1).expect("a default")));
        }
    }
    rows
}

#[test]
fn the_documentation_has_every_key_and_no_other_in_order() {
    let documented: Vec<String> = documented().into_iter().map(|(key, _)| key).collect();
    let keys: Vec<String> = Config::keys().iter().map(|key| key.dotted()).collect();
    assert_eq!(documented, keys);
}

#[test]
fn the_documentation_has_the_defaults() {
    let config = with(&["kind=question-answering"]).unwrap();
    for ((key, default), (_, value)) in documented().into_iter().zip(config.settings()) {
        let code = default.strip_prefix('`').and_then(|d| d.strip_suffix('`')).filter(|code| !code.contains('`'));
        match code.map(|code| code.parse::<toml::Value>().unwrap()) {
            Some(default) => assert_eq!(Some(default), value, "{key}"),
            None => assert!(value.is_none() || default == "required", "{key}: {default} is not the default"),
        }
    }
}

#[test]
fn the_documentation_s_examples_hold() {
    let example = DOCS.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let config = Config::parse(example, "docs/configuration.md", &[]).unwrap();
    assert_eq!(config.train.eval_strategy, IntervalStrategy::Steps);

    let broken = "\n".repeat(10) + "[train]\nlearning_rat = 1\n";
    let found = message(Config::parse(&broken[1..], "run.toml", &words(&["max_steps=many"])));
    let told = DOCS.lines().filter_map(|line| line.strip_prefix("      "));
    assert_eq!(told.clone().count(), 2);
    told.for_each(|line| assert!(found.contains(line), "{found} lacks {line}"));
}
