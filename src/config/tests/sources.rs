//! Training data of several sources.

use super::*;

const SOURCES: &str = "output_dir = 'o'
[model]
path = 'm'
[task]
kind = 'sequence-classification'
[data]
label_column = 'y'
[[data.sources]]
path = ['a.jsonl', 'b']
weight = 3
[[data.sources]]
path = 'c.csv'
weight = 0.5
text_column = 'sentence'
label_column = 'topic'
";

#[test]
fn sources_are_tables_with_the_columns_of_data_unless_they_have_their_own() {
    let config = Config::parse(SOURCES, "run.toml", &[]).unwrap();
    assert_eq!(config.data.source_weights(), Some(vec![3.0, 0.5]));
    assert_eq!(config.data.train.to_string(), "a.jsonl, b, c.csv", "for messages");
    let read: Vec<(String, String, String, String)> = config.data.of_sources().into_iter().map(columns).collect();
    let of = |a: &str, b: &str, c: &str, d: &str| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned());
    let [first, second] = ["data.sources, table 1", "data.sources, table 2"];
    assert_eq!(read, [of(first, "a.jsonl, b", "text", "y"), of(second, "c.csv", "sentence", "topic")]);
    // What is printed reads back, and a command line replaces one by the other.
    assert_eq!(Config::parse(&config.to_toml(), "printed", &[]).unwrap(), config);
    assert_eq!(Config::parse(&config.to_commented_toml(), "printed", &[]).unwrap(), config);
    let one = Config::parse(SOURCES, "run.toml", &words(&["data.train=d"])).unwrap();
    assert!(one.data.sources.is_empty() && one.data.train.to_string() == "d");
    let line = "data.sources=[{path='d', text_column='x'}]";
    let other = Config::parse(&one.to_toml(), "printed", &words(&[line])).unwrap();
    assert_eq!((other.data.source_weights(), other.data.train.to_string()), (None, "d".to_owned()));
    assert_eq!(other.data.of_sources()[0].1.text_column, "x");
    assert_eq!(other.differences(&config)[0].0, "data.sources", "data.train follows from it");
}

fn columns((name, data): (String, DataConfig)) -> (String, String, String, String) {
    (name, data.train.to_string(), data.text_column, data.label_column)
}

#[test]
fn contradictions_of_sources_are_told_with_their_lines() {
    let text = SOURCES.replace("label_column = 'y'", "train = 't'\neval_split = 0.1\nsampling = 'class_balanced'");
    let expected = "\
3 problems in the configuration:
  run.toml:7: data.train: names the training data, and so do the tables [[data.sources]]: remove one of them
  run.toml:8: data.eval_split: holds out a part of data.train, and the training data is in [[data.sources]]: set \
data.eval instead
  run.toml:9: data.sampling: class_balanced draws examples by their classes, and weights draw them by their sources: \
remove one";
    assert_eq!(message(Config::parse(&text, "run.toml", &[])), expected);

    let broken = SOURCES.replace("weight = 3", "weight = 0\nweigh = 1").replace("path = 'c.csv'", "maximum = 1");
    let expected = "\
4 problems in the configuration:
  run.toml:10: data.sources.weight: found the integer 0, expected a number > 0
  run.toml:11: data.sources.weigh: unknown key, did you mean weight?
  run.toml:12: data.sources.path: is required, and is missing
  run.toml:13: data.sources.maximum: unknown key: a table [[data.sources]] has path, weight, train_target, ";
    let found = message(Config::parse(&broken, "run.toml", &[]));
    assert!(found.starts_with(expected), "{found}");
    assert!(found.ends_with("; keys of [data] are written before the first such table"), "{found}");

    let uneven =
        SOURCES.replace("weight = 3\n", "prompt_column = 'p'\n").replace("'topic'\n", "'topic'\ncolumns = ['z']\n");
    let expected = "\
4 problems in the configuration:
  run.toml:8: data.sources, table 1: has no weight, and other sources have one: give one to each, or to none
  run.toml:8: data.sources, table 1: prompt_column: sequence-classification does not use this, only chat: remove it
  run.toml:11: data.sources, table 2: columns: lacks \"sentence\", which is data.text_column
  run.toml:11: data.sources, table 2: columns: lacks \"topic\", which is data.label_column";
    assert_eq!(message(Config::parse(&uneven, "run.toml", &[])), expected);

    let none = message(Config::parse(SOURCES.split("[[").next().unwrap(), "run.toml", &[]));
    assert_eq!(none, "run.toml: data.train: is required, and is missing");
    let empty = message(Config::parse(SOURCES.split("[[").next().unwrap(), "run.toml", &words(&["data.sources=[]"])));
    assert_eq!(empty, "command line: data.sources: the list is empty: name at least one source, or set data.train");
    let (_, help) = explain("sources").unwrap().pop().unwrap();
    let wanted =
        "Tables [[data.sources]] in place of train, with the keys below: docs/configuration.md#datasources (more:";
    assert!(help.contains(wanted) && help.contains(" weight (each example once per epoch): Weight of the"), "{help}");
    refused(&["sources=a.jsonl"], "data.sources: found the string \"a.jsonl\", expected tables [[data.sources]]");
}
