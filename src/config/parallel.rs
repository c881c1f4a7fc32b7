//! Defaults and checks of `[parallel]`.

use super::choice::Precision;
use super::mixed::{MicroBatchTokens, ZeroStage};
use super::problems::Problems;
use super::raw::RawParallel;
use super::sections::ParallelConfig;

/// The section with its defaults.
pub fn settings(raw: RawParallel) -> ParallelConfig {
    let precision = raw.precision.unwrap_or_default();
    let is_fp16 = precision == Precision::Fp16;
    ParallelConfig {
        zero_stage: raw.zero_stage.unwrap_or_default(),
        memory_per_rank: raw.memory_per_rank,
        precision,
        reduce_dtype: raw.reduce_dtype.unwrap_or_default(),
        loss_scale_init: raw.loss_scale_init.or(is_fp16.then_some(65536.0)),
        loss_scale_window: raw.loss_scale_window.map(|n| n.0).or(is_fp16.then_some(2000)),
        tf32: raw.tf32,
        recompute: raw.recompute.unwrap_or_default(),
        num_threads: raw.num_threads.map(|n| n.0),
    }
}

/// Notes the settings that contradict others, or that others make meaningless: none is ignored without a word.
pub fn check(parallel: &ParallelConfig, tokens: MicroBatchTokens, problems: &mut Problems) {
    const PRECISION: &str = "parallel.precision";
    let ParallelConfig { precision, reduce_dtype, .. } = *parallel;

    if parallel.memory_per_rank.is_some()
        && parallel.zero_stage != ZeroStage::Auto
        && tokens != MicroBatchTokens::Auto
        && problems.none_with(&["parallel.zero_stage", "train.micro_batch_tokens"])
    {
        let text = format!(
            "is what \"auto\" may use, but zero_stage is {} and micro_batch_tokens is {tokens}",
            parallel.zero_stage
        );
        problems.with("parallel.memory_per_rank", format!("{text}: remove it, or set one of them to \"auto\""));
    }
    if let Some(scale) = parallel.loss_scale_init.filter(|scale| !is_loss_scale(*scale)) {
        problems.with("parallel.loss_scale_init", format!("found {scale}, expected a power of two from 1 to 16777216"));
    }
    if !problems.none_with(&[PRECISION]) {
        return;
    }
    if reduce_dtype != Precision::Fp32 && reduce_dtype != precision {
        let half = if precision == Precision::Fp32 { String::new() } else { format!(" or \"{precision}\"") };
        let text = format!("found \"{reduce_dtype}\" with precision = \"{precision}\", expected \"fp32\"{half}");
        problems.with("parallel.reduce_dtype", text);
    }
    if parallel.tf32 == Some(true) && precision != Precision::Fp32 {
        let text = format!("is for products of fp32, and precision is \"{precision}\": remove it");
        problems.with("parallel.tf32", text);
    }
    let scales = [
        ("parallel.loss_scale_init", parallel.loss_scale_init.is_some()),
        ("parallel.loss_scale_window", parallel.loss_scale_window.is_some()),
    ];
    for (key, _) in scales.into_iter().filter(|(_, set)| *set && precision != Precision::Fp16) {
        let text = format!("is for precision = \"fp16\", and precision is \"{precision}\": remove it");
        problems.with(key, text);
    }
}

/// A power of two, so that scaling rounds nothing, within what the scale is ever raised to.
fn is_loss_scale(scale: f64) -> bool {
    const FRACTION_BITS: u64 = (1 << 52) - 1;
    (1.0..=16_777_216.0).contains(&scale) && scale.to_bits() & FRACTION_BITS == 0
}
