//! Keys and values of other tools.

use super::{message, refused, words};
use crate::config::{Config, check_options, other_tool_value};

#[test]
fn values_of_other_tools_get_ours() {
    refused(&["kind=ner"], "command line: task.kind: found \"ner\": use \"token-classification\"");
    refused(&["kind=text-classification"], "task.kind: found \"text-classification\": use \"sequence-classification\"");
    refused(&["kind=SEQ_CLS"], "task.kind: found \"SEQ_CLS\": use \"sequence-classification\"");
    refused(&["kind=dpo"], "task.kind: \"dpo\" is not supported in this version: \"chat\" trains on answers");
    refused(&["precision=bfloat16"], "parallel.precision: found \"bfloat16\": use \"bf16\"");
    refused(&["precision=torch.float16"], "parallel.precision: found \"torch.float16\": use \"fp16\"");
    refused(&["precision=full"], "parallel.precision: found \"full\": use \"fp32\"");
    refused(&["precision=16"], "parallel.precision: found 16: use \"fp16\"");
    refused(&["precision=7"], "parallel.precision: found the integer 7, expected \"fp32\", \"bf16\" or \"fp16\"");
    refused(&["reduce_dtype=float32"], "parallel.reduce_dtype: found \"float32\": use \"fp32\"");
    refused(&["precision=fp8"], "parallel.precision: \"fp8\" is not supported in this version");
    refused(&["zero_stage=full_shard auto_wrap"], "parallel.zero_stage: found \"full_shard auto_wrap\": use 3");
    refused(&["recompute=true"], "parallel.recompute: found true: use \"all\"");
    refused(&["lr_scheduler_type=wsd"], "train.lr_scheduler_type: found \"wsd\": use \"warmup_stable_decay\"");
    refused(&["eval=e", "eval_strategy=epochs"], "train.eval_strategy: found \"epochs\": use \"epoch\"");
    refused(&["save_strategy=best"], "train.save_strategy: \"best\" is not supported in this version: ");
    refused(&["format=xlsx"], "data.format: \"xlsx\" is not supported in this version: write the data as JSONL");
    refused(&["format=feather"], "data.format: found \"feather\": use \"arrow\"");
    refused(&["backend=gloo"], "comm.backend: found \"gloo\": use \"mpi\"");
    refused(&["metric_for_best_model=eval_acc"], "train.metric_for_best_model: found \"acc\": use \"accuracy\"");
    // Only where the task has that metric.
    refused(&["kind=regression", "metric_for_best_model=acc"], "found \"acc\", expected loss, pearson");
    assert!(other_tool_value("--device", "H100").unwrap().starts_with("found \"H100\": use \"h100-sxm\" ("));
    assert!(other_tool_value("--device", "V100").unwrap().starts_with("\"V100\" is not supported in this version: "));
    assert_eq!(other_tool_value("--device", "abacus"), None);
}

#[test]
fn keys_in_another_language_are_reported_too() {
    let yaml = "base_model: gpt2\nadapter: lora\nsequence_len: 2048  # tokens\ndatasets:\n  - path: x\n    type: alpaca\n\
                bf16: auto\nload_in_8bit: false\nlearning_rate: 1e-5\n";
    let expected = "\
7 problems in the configuration:
  run.yaml:1: this looks like YAML, and a configuration is TOML: key = value, under [section] lines
  run.yaml:1: base_model: unknown key: use model.path = \"models/bert\" (a folder, or org/name on the Hub)
  run.yaml:2: adapter: unknown key: use lora.r = 8 (any key of [lora] turns LoRA on)
  run.yaml:3: sequence_len: unknown key: use data.max_length = 2048
  run.yaml:4: datasets: unknown key: use data.train = \"train.jsonl\" (a JSONL, CSV, TSV, Parquet or text \
file, or hf://datasets/org/name/file)
  run.yaml:7: bf16: unknown key: use parallel.precision = \"bf16\"
  run.yaml:8: load_in_8bit: unknown key: quantization is not supported in this version, so it is off: remove it";
    assert_eq!(message(Config::parse(yaml, "run.yaml", &[])), expected);
    let json = "{\n  \"zero_optimization\": {\n    \"stage\": 2,\n  },\n  \"train_batch_size\": 64\n}\n";
    let found = message(Config::parse(json, "ds.json", &[]));
    assert!(found.contains("\n  ds.json:2: zero_optimization: unknown key: use parallel.zero_stage = 2 ("), "{found}");
    assert!(found.contains("\n  ds.json:3: stage: unknown key: use parallel.zero_stage = 2 ("), "{found}");
    assert!(
        found.ends_with("\n  ds.json:5: train_batch_size: unknown key: use train.global_batch_size = 64"),
        "{found}"
    );
}

#[test]
fn settings_of_a_section_of_another_tool_are_reported() {
    let text = "output_dir = 'o'\nmodel.path = 'm'\ntask.kind = 'regression'\ndata.train = 't'\n[training]\nseq_len = 64\n\
                learning_rate = 1e-5\nunheard_of = 1\n";
    let expected = "\
3 problems in the configuration:
  run.toml:5: training: unknown section, did you mean [train]?
  run.toml:6: training.seq_len: unknown key: use data.max_length = 64
  run.toml:7: training.learning_rate: unknown key, did you mean train.learning_rate?";
    assert_eq!(message(Config::parse(text, "run.toml", &[])), expected);
}

#[test]
fn settings_are_not_options() {
    let check = |line: &str| {
        check_options(&words(&line.split_whitespace().collect::<Vec<_>>()), &["resume", "device"])
            .map_err(|e| e.to_string())
    };
    let expected = "\
4 problems in the configuration:
  command line: --per_device_train_batch_size: unknown key: use train.global_batch_size=32 (per device x ranks x \
accumulation steps: the sequences per optimizer step over all ranks)
  command line: --learning-rate: write learning_rate=3e-5
  command line: --train.max_steps: write train.max_steps=7
  command line: --bf16: unknown key: use parallel.precision=bf16";
    let line = "train run.toml --per_device_train_batch_size 8 --learning-rate=3e-5 --train.max_steps 7 --resume auto \
                --bf16 --nonsense 3";
    assert_eq!(check(line).unwrap_err(), expected);
    assert_eq!(check("train run.toml --resume auto --nonsense 3 lr=3"), Ok(()));
}

#[test]
fn the_documentation_s_example_holds() {
    const DOCS: &str = include_str!("../../../docs/other-tools.md");
    let text = "[task]\nkind = 'ner'\n\n[train]\nper_device_train_batch_size = 8\nlr = 2e-5\nload_in_4bit = true\n";
    let found = message(Config::parse(text, "run.toml", &words(&["output_dir=o", "model.path=m", "data.train=t"])));
    let told: Vec<&str> = DOCS.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(found.lines().collect::<Vec<_>>(), told);
}
