//! Settings of which weights are trained, and how fast.

use super::*;

#[test]
fn what_is_frozen() {
    let frozen = with(&["freeze=['bert.embeddings.*', '*']"]).unwrap().model.freeze;
    assert_eq!(frozen, ["bert.embeddings.*", "*"]);
    refused(&["freeze=['a', '']"], "model.freeze: a pattern is an empty string");
    refused(&["freeze=['a.*', 'b', 'a.*']"], "model.freeze: the pattern \"a.*\" appears twice");
    refused(&["freeze=bert.*"], "model.freeze: found the string \"bert.*\", expected a list of strings");
}

#[test]
fn what_is_trained() {
    assert_eq!(with(&[]).unwrap().model.train, None);
    let trained = with(&["model.train=['*.bias', 'head', 'layers.8-11']"]).unwrap().model.train.unwrap();
    assert_eq!(trained, ["*.bias", "head", "layers.8-11"]);
    refused(&["model.train=[]"], "model.train: an empty list trains nothing");
    refused(&["model.train=['head', 'head']"], "model.train: the pattern \"head\" appears twice");
    refused(&["layer_lr_decay=1.1"], "train.layer_lr_decay: found the number 1.1, expected a number in (0, 1]");
}

#[test]
fn stages_are_a_word_a_number_or_tables() {
    let shown = |value: &str| {
        let config = with(&[&format!("unfreeze={value}")]).unwrap();
        assert_eq!(Config::parse(&config.to_toml(), "printed", &[]).unwrap(), config);
        let line = config.to_toml().lines().find(|line| line.starts_with("unfreeze =")).unwrap().to_owned();
        (config.train.unfreeze.unwrap(), line)
    };
    assert_eq!(shown("epoch").1, "unfreeze = \"epoch\"");
    assert_eq!(shown("50"), (Unfreeze::EverySteps(50), "unfreeze = 50".to_owned()));
    let stage = |at_step, at_epoch| StageConfig { params: vec!["layers.1".into()], at_step, at_epoch };
    let tables = "[{params=['layers.1'], at_step=5}, {params=['layers.1'], at_epoch=0.5}]";
    assert_eq!(shown(tables).0, Unfreeze::Stages(vec![stage(Some(5), None), stage(None, Some(0.5))]));
    let text = format!("{MINIMAL}[[train.unfreeze]]\nparams = ['layers.1']\nat_step = 5\nat_epoch = 1\n");
    let expected = "run.toml:5: train.unfreeze, table 1: set one of at_step and at_epoch, which say when the weights are \
                    first trained";
    assert_eq!(message(Config::parse(&text, "run.toml", &[])), expected);
    let unknown = text.replace("at_epoch", "at_epok");
    let expected = "run.toml:8: train.unfreeze.at_epok: unknown key, did you mean at_epoch?";
    assert_eq!(message(Config::parse(&unknown, "run.toml", &[])), expected);
    let expected = "expected \"epoch\", an integer >= 1 or tables [[train.unfreeze]]";
    refused(&["unfreeze=epochs"], expected);
    refused(&["unfreeze=0"], expected);
    refused(&["unfreeze=[]"], "train.unfreeze: an empty list unfreezes nothing");
}

const GROUPS: &str = "[train]
layer_lr_decay = 0.9
[[train.groups]]
params = ['head']
learning_rate = 1e-3
[[train.groups]]
params = ['layers.0-1', '*.embeddings.*']
weight_decay = 0
[comm]
timeout_seconds = 5
";

#[test]
fn groups_are_tables() {
    let config = Config::parse(&format!("{MINIMAL}{GROUPS}"), "run.toml", &[]).unwrap();
    let group = |params: &[&str], learning_rate, weight_decay| GroupConfig {
        params: params.iter().map(|&name| name.to_owned()).collect(),
        learning_rate,
        weight_decay,
    };
    let wanted = [group(&["head"], Some(1e-3), None), group(&["layers.0-1", "*.embeddings.*"], None, Some(0.0))];
    assert_eq!(config.train.groups, wanted);
    assert_eq!((config.train.layer_lr_decay, config.comm.timeout_seconds), (0.9, 5.0));
    // What is printed reads back, and so do tables on a command line.
    assert_eq!(Config::parse(&config.to_toml(), "printed", &[]).unwrap(), config);
    assert_eq!(Config::parse(&config.to_commented_toml(), "printed", &[]).unwrap(), config);
    let line = "train.groups=[{params=['head'], learning_rate=1e-3}]";
    let fewer = Config::parse(&format!("{MINIMAL}{GROUPS}"), "run.toml", &words(&[line])).unwrap();
    assert_eq!(fewer.train.groups, wanted[..1]);
    // A resumed run tells what has changed.
    let (key, now, before) = fewer.differences(&config).remove(0);
    assert_eq!(key, "train.groups");
    assert!(!now.contains("layers.0-1") && before.contains("layers.0-1") && now.contains("head"), "{now} {before}");
    let (_, help) = explain("groups").unwrap().pop().unwrap();
    assert!(help.contains("Keys of a table: params (required): The weights of the group. As in model.train"), "{help}");
}

#[test]
fn a_mistake_in_a_group_is_told_with_its_line() {
    let broken = GROUPS
        .replace("learning_rate = 1e-3", "learning_rat = 1e-3")
        .replace("params = ['layers.0-1', '*.embeddings.*']\nweight_decay = 0", "weight_decay = -0.5\nmax_steps = 3");
    let expected = "\
4 problems in the configuration:
  run.toml:9: train.groups.learning_rat: unknown key, did you mean learning_rate?
  run.toml:10: train.groups.params: is required, and is missing
  run.toml:11: train.groups.weight_decay: found the number -0.5, expected a number >= 0
  run.toml:12: train.groups.max_steps: unknown key: a table [[train.groups]] has params, learning_rate, weight_decay; \
keys of [train] are written before the first such table";
    assert_eq!(message(Config::parse(&format!("{MINIMAL}{broken}"), "run.toml", &[])), expected);
    let idle = GROUPS.replace("weight_decay = 0\n", "").replace("['head']", "[]");
    let expected = "\
2 problems in the configuration:
  run.toml:7: train.groups, table 1: params is an empty list: name the weights of the group
  run.toml:10: train.groups, table 2: has neither learning_rate nor weight_decay: set one of them, or remove the group";
    assert_eq!(message(Config::parse(&format!("{MINIMAL}{idle}"), "run.toml", &[])), expected);
    refused(
        &["groups=[{params=['head'], learning_rat=1}]"],
        "command line: train.groups.learning_rat: unknown key, did",
    );
    refused(&["groups=head"], "train.groups: found the string \"head\", expected tables [[train.groups]]");
    refused(
        &["groups=[{params=['a', 'a'], learning_rate=1}]"],
        "train.groups, table 1: the pattern \"a\" appears twice",
    );
}
