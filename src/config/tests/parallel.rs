//! Settings of `[parallel]`: sharding, dtypes, activation checkpointing.

use super::*;

fn parallel(overrides: &[&str]) -> ParallelConfig {
    with(overrides).unwrap().parallel
}

#[test]
fn defaults_change_nothing() {
    let expected = ParallelConfig {
        zero_stage: ZeroStage::Stage(0),
        shard_within: ShardWithin::World,
        offload: Offload::None,
        memory_per_rank: None,
        precision: Precision::Fp32,
        reduce_dtype: Precision::Fp32,
        loss_scale_init: None,
        loss_scale_window: None,
        tf32: None,
        recompute: Recompute::None,
        num_threads: None,
    };
    let config = with(&[]).unwrap();
    assert_eq!(config.parallel, expected);
    assert_eq!((config.model.init, config.model.freeze.len()), (ModelInit::Pretrained, 0));
    assert_eq!(config.train.on_non_finite, OnNonFinite::Stop);
}

#[test]
fn zero_stage_is_a_number_or_auto() {
    for n in 0..=3 {
        assert_eq!(parallel(&[&format!("zero_stage={n}")]).zero_stage, ZeroStage::Stage(n));
    }
    assert_eq!(parallel(&["zero_stage=auto"]).zero_stage, ZeroStage::Auto);
    let text = with(&["zero_stage=auto"]).unwrap().to_toml();
    assert!(text.contains("\nzero_stage = \"auto\"\n"), "{text}");
    assert!(with(&["zero_stage=3"]).unwrap().to_toml().contains("\nzero_stage = 3\n"));
    let expected = ", expected 0, 1, 2, 3 or \"auto\"";
    for (bad, found) in [("4", "4"), ("-1", "-1"), ("1.0", "the number 1.0")] {
        refused(&[&format!("zero_stage={bad}")], &format!("parallel.zero_stage: found {found}{expected}"));
    }
    refused(&["zero_stage=all"], &format!("found \"all\"{expected}"));
    refused(&["zero_stage=[1]"], &format!("found a list{expected}"));
}

#[test]
fn micro_batch_tokens_is_a_number_or_auto() {
    assert_eq!(with(&[]).unwrap().train.micro_batch_tokens, MicroBatchTokens::Auto);
    let set = with(&["micro_batch_tokens=64"]).unwrap();
    assert_eq!(set.train.micro_batch_tokens, MicroBatchTokens::Tokens(64));
    assert!(set.to_toml().contains("\nmicro_batch_tokens = 64\n"));
    assert!(with(&["micro_batch_tokens=auto"]).unwrap().to_toml().contains("\nmicro_batch_tokens = \"auto\"\n"));
    let expected = ", expected an integer >= 1 or \"auto\"";
    refused(&["micro_batch_tokens=0"], &format!("train.micro_batch_tokens: found 0{expected}"));
    refused(&["micro_batch_tokens=all"], &format!("found \"all\"{expected}"));
}

#[test]
fn recompute_is_a_word_or_a_number() {
    assert_eq!(parallel(&["recompute=all"]).recompute, Recompute::All);
    assert_eq!(parallel(&["recompute=none"]).recompute, Recompute::None);
    assert_eq!(parallel(&["recompute=1"]).recompute, Recompute::KeepEvery(1));
    assert!(with(&["recompute=3"]).unwrap().to_toml().contains("\nrecompute = 3\n"));
    for (word, value) in [("auto", Recompute::Auto), ("first-12", Recompute::First(12))] {
        let read = with(&[&format!("recompute={word}")]).unwrap();
        assert_eq!(read.parallel.recompute, value);
        assert!(read.to_toml().contains(&format!("\nrecompute = \"{word}\"\n")));
    }
    let expected = ", expected \"none\", \"all\", \"auto\", \"first-N\" or an integer >= 1";
    for wrong in ["first-0", "first-", "first-two", "first"] {
        refused(&[&format!("recompute={wrong}")], &format!("found \"{wrong}\"{expected}"));
    }
    refused(&["recompute=0"], &format!("parallel.recompute: found 0{expected}"));
    refused(&["recompute=true"], "found true: use \"all\"");
    refused(&["recompute=half"], &format!("found \"half\"{expected}"));
}

#[test]
fn memory_has_units() {
    let read = |size: &str| parallel(&["zero_stage=auto", &format!("memory_per_rank={size}")]).memory_per_rank;
    for (size, bytes, written) in [
        ("16GiB", 16 << 30, "\"16GiB\""),
        ("16 gib", 16 << 30, "\"16GiB\""),
        ("1TiB", 1 << 40, "\"1TiB\""),
        ("3 TB", 3_000_000_000_000, "\"3TB\""),
        ("80GB", 80_000_000_000, "\"80GB\""),
        ("1024MiB", 1 << 30, "\"1GiB\""),
        ("1500MB", 1_500_000_000, "\"1500MB\""),
        ("3KiB", 3072, "\"3KiB\""),
        ("3kB", 3000, "\"3kB\""),
        ("1000000001", 1_000_000_001, "1000000001"),
        ("'7B'", 7, "7"),
    ] {
        assert_eq!(read(size), Some(Bytes(bytes)), "{size}");
        assert_eq!(Bytes(bytes).to_string(), written);
    }
    let expected = "expected a size such as \"16GiB\"";
    for bad in ["16 apples", "GiB", "1.5GiB", "-1GiB", "0", "99999999TiB", "true", "16Gib/s"] {
        refused(&["zero_stage=auto", &format!("memory_per_rank={bad}")], expected);
    }
    assert!(with(&["zero_stage=2", "memory_per_rank=16GiB"]).is_ok(), "for micro_batch_tokens");
    let told = "parallel.memory_per_rank: is a limit for \"auto\", but zero_stage is 2, micro_batch_tokens is 64 and \
         recompute is \"none\": remove";
    refused(&["zero_stage=2", "micro_batch_tokens=64", "memory_per_rank=16GiB"], told);
    assert_eq!(message(with(&["zero_stage=7", "memory_per_rank=16GiB"])).lines().count(), 1, "one thing is wrong");
}

#[test]
fn gradients_are_reduced_in_fp32_or_in_the_computing_type() {
    for (precision, reduce) in [("bf16", "bf16"), ("bf16", "fp32"), ("fp16", "fp16"), ("fp32", "fp32")] {
        let set = parallel(&[&format!("precision={precision}"), &format!("reduce_dtype={reduce}")]);
        assert_eq!((set.precision.name(), set.reduce_dtype.name()), (precision, reduce));
    }
    assert_eq!(parallel(&["precision=bf16"]).reduce_dtype, Precision::Fp32);
    let told = "parallel.reduce_dtype: found \"fp16\" with precision = \"bf16\", expected \"fp32\" or \"bf16\"";
    refused(&["precision=bf16", "reduce_dtype=fp16"], told);
    let found = message(with(&["reduce_dtype=bf16"]));
    assert!(found.ends_with("found \"bf16\" with precision = \"fp32\", expected \"fp32\""), "{found}");
    assert_eq!(message(with(&["precision=fp8", "reduce_dtype=bf16"])).lines().count(), 1, "only the cause is told");
    refused(&["precision=best"], "found \"best\", expected \"fp32\", \"bf16\" or \"fp16\"");
}

#[test]
fn a_loss_scale_is_for_fp16() {
    let set = parallel(&["precision=fp16"]);
    assert_eq!((set.loss_scale_init, set.loss_scale_window), (Some(65536.0), Some(2000)));
    let set = parallel(&["precision=fp16", "loss_scale_init=1", "loss_scale_window=1"]);
    assert_eq!((set.loss_scale_init, set.loss_scale_window), (Some(1.0), Some(1)));
    for bad in ["0", "0.5", "3", "-2", "inf", "nan", "33554432", "65535.5"] {
        let told = ", expected a power of two from 1 to 16777216";
        refused(&["precision=fp16", &format!("loss_scale_init={bad}")], told);
    }
    let told = "is for precision = \"fp16\", and precision is \"bf16\": remove it";
    refused(&["precision=bf16", "loss_scale_init=1024"], &format!("parallel.loss_scale_init: {told}"));
    refused(&["precision=bf16", "loss_scale_window=10"], &format!("parallel.loss_scale_window: {told}"));
}

#[test]
fn tf32_is_for_fp32() {
    assert_eq!(parallel(&["tf32=true"]).tf32, Some(true));
    assert_eq!(parallel(&["tf32=false", "precision=bf16"]).tf32, Some(false));
    refused(&["tf32=true", "precision=bf16"], "parallel.tf32: is for fp32 matmuls, and precision is \"bf16\"");
}

#[test]
fn shards_within_hosts_need_something_to_shard() {
    for stage in ["1", "2", "3", "auto"] {
        let set = parallel(&["shard_within=host", &format!("zero_stage={stage}")]);
        assert_eq!(set.shard_within, ShardWithin::Host);
    }
    refused(&["shard_within=host"], "parallel.shard_within: nothing is sharded with zero_stage = 0: set it to 3");
    refused(&["shard_within=rack"], "parallel.shard_within: found \"rack\", expected \"world\" or \"host\"");
}

#[test]
fn keys_of_other_tools_get_these() {
    for (key, ours) in [
        ("gradient_checkpointing", "parallel.recompute=all"),
        ("mixed_precision", "parallel.precision"),
        ("deepspeed", "parallel.zero_stage"),
        ("sharding_strategy", "parallel.zero_stage"),
        ("optimizer_offload", "parallel.offload"),
        ("activation_offloading", "parallel.zero_stage"),
        ("initial_scale_power", "parallel.loss_scale_init"),
        ("growth_interval", "parallel.loss_scale_window"),
        ("reduce_bucket_size", "remove it"),
        ("allow_tf32", "parallel.tf32"),
        ("freeze_layers", "model.freeze"),
        ("from_scratch", "model.init=random"),
        ("skip_nan", "train.on_non_finite"),
    ] {
        let found = message(with(&[&format!("{key}=1")]));
        assert!(found.contains(ours) && !found.contains("did you mean"), "{found}");
    }
}
