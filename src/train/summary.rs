//! The lines of `metrics.jsonl` about a step and about the whole run.

use crate::checkpoint::TrainerState;
use crate::nn::Params;
use crate::observe::memory;
use crate::train::clock::Clock;
use crate::train::memory_report::MemoryReport;
use crate::train::rank_times::RankTimes;
use crate::train::resumed::Start;
use crate::train::step::{StepOutcome, Stepper};
use serde_json::{Value, json};

/// Returns the line of a step: `rate` in tokens per second, `peak` the peak bytes of rank 0's tensors so far. The times of
/// the ranks begin again.
pub fn step_line(
    state: &TrainerState,
    outcome: &StepOutcome,
    stepper: &mut Stepper,
    (rate, peak): (f64, u64),
) -> Value {
    let StepOutcome { loss, grad_norm, learning_rate, copies, .. } = *outcome;
    let mut line = json!({
        "step": state.global_step, "epoch": state.epoch, "loss": state.mean_loss(), "step_loss": loss,
        "grad_norm": grad_norm, "learning_rate": learning_rate, "tokens_per_second": rate,
        "host_to_device_copies": copies.host_to_device, "device_to_host_copies": copies.device_to_host,
        "peak_tensor_bytes": peak, "resident_bytes": memory::resident_bytes(),
    });
    if let Some([compute, wait]) = stepper.times.as_mut().and_then(RankTimes::take) {
        line["compute_seconds"] = json!(compute);
        line["wait_seconds"] = json!(wait);
    }
    if let Some(scaler) = &stepper.scaler {
        line["loss_scale"] = json!(scaler.scale());
    }
    if stepper.may_skip() {
        line["skipped_steps"] = json!(state.skipped_steps);
    }
    line
}

/// Returns the summary of a run: its speed and memory. `peaks` are the resident sets of the ranks in bytes, and the
/// memory of their tensors.
pub fn line(
    state: &TrainerState,
    clock: &Clock,
    params: &Params,
    start: &Start,
    (peaks, memory): (&[u64], &MemoryReport),
) -> Value {
    let trained = params.ids().map(|id| params.spec(id)).filter(|spec| spec.trainable);
    json!({
        "event": "summary", "step": state.global_step, "train_seconds": clock.seconds,
        "train_tokens": clock.all_tokens,
        "train_tokens_per_second": clock.all_tokens as f64 / clock.seconds.max(1e-9),
        "trained_parameters": trained.map(|spec| spec.numel()).sum::<i64>(),
        "skipped_steps": state.skipped_steps,
        "communicated_bytes_per_step": clock.communicated / clock.steps.max(1),
        "inter_host_bytes_per_step": clock.between_hosts / clock.steps.max(1),
        "seconds_to_first_step": clock.first_step, "seconds": start.began.elapsed().as_secs_f64(),
        "peak_rss_bytes": peaks, "peak_bytes": memory.peak_json(), "persistent_bytes": memory.held_json(),
        "best_metric": state.best_metric,
        "best_global_step": state.best_global_step,
    })
}
