//! `docs/configuration.md` says what is so.

use super::*;

const DOCS: &str = include_str!("../../../docs/configuration.md");

/// (dotted key, default) of the rows of the documentation's tables of keys.
fn documented() -> Vec<(String, &'static str)> {
    let keys = DOCS.split("\n## ").find(|part| part.starts_with("Keys")).expect("a chapter of keys");
    let mut section = "";
    let mut rows = Vec::new();
    for line in keys.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            section = title.strip_prefix('[').map_or("", |title| title.trim_end_matches(']'));
        } else if let Some(row) = line.strip_prefix("| `") {
            let (key, rest) = row.split_once("` | ").expect("a key between backticks");
            rows.push((dotted(section, key), rest.split(" | ").nth(1).expect("a default")));
        }
    }
    rows
}

#[test]
fn the_documentation_has_every_key_and_no_other_in_order() {
    let documented: Vec<String> = documented().into_iter().map(|(key, _)| key).collect();
    let keys: Vec<String> =
        KEYS.iter().flat_map(|(section, keys)| keys.iter().map(|key| dotted(section, key))).collect();
    assert_eq!(documented, keys);
}

#[test]
fn the_documentation_has_the_defaults() {
    for ((key, default), setting) in documented().into_iter().zip(with(&[]).unwrap().settings()) {
        let code = default.strip_prefix('`').and_then(|d| d.strip_suffix('`'));
        match code.map(|code| code.parse::<toml::Value>().unwrap()) {
            Some(value) => assert_eq!(Some(value), setting.value, "{key}"),
            None => assert!(setting.value.is_none() || default == "required", "{key}: {default} is not the default"),
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
