//! The header and the summary that rank 0 prints before and after a run.

use crate::checkpoint::TrainerState;
use crate::checkpoint::import::Report;
use crate::comm::{Collective, driver};
use crate::config::{Config, DistillConfig, MicroBatchTokens, Precision, Recompute, ShardWithin, TaskKind, ZeroStage};
use crate::data::Prepared;
use crate::machine::disk;
use crate::nn::param_builder::ParamSpec;
use crate::observe::logs::tell;
use crate::observe::memory::human;
use crate::observe::progress;
use crate::observe::table::table;
use crate::observe::{self, logs};
use crate::optim::Schedule;
use crate::plan::storage::Storage;
use crate::tasks::labels;
use crate::train::clock::Clock;
use crate::train::memory_report::MemoryReport;
use crate::train::resumed::Resumed;
use crate::train::session::{Session, cache_word};
use crate::train::teacher::Teacher;
use crate::train::trained_table::trained_table;
use crate::train::{augmentation, mixture, objective, settings};
use serde_json::{Map, Value};
use std::fmt::Display;
use tch::Device;

/// Maximum number of names shown of a list.
const SHOWN: usize = 8;

/// Prints the header of a run; `changed` are the settings that differ from the checkpoint's.
pub fn header(
    session: &Session,
    resumed: Option<&Resumed>,
    (schedule, steps_per_epoch): (&Schedule, u64),
    changed: &[String],
) {
    let comm = session.comm.as_ref();
    if !comm.is_main() {
        return;
    }
    let Session { config, loaded, data, .. } = session;
    let family = loaded.model.backbone.config_json().get("model_type").and_then(Value::as_str).unwrap_or("?");
    let parameters = count(loaded.params.numel());
    let mut lines = vec![
        format!("trainer   {}", env!("CARGO_PKG_VERSION")),
        format!("model     {} ({family}, {parameters} parameters{})", config.model.path.display(), marks(session)),
    ];
    if let Some(Resumed { from, state, .. }) = resumed {
        let (step, ranks) = (state.global_step, state.world);
        lines.push(format!("resumed   from {}: step {step}, written by {ranks} rank{}", from.display(), plural(ranks)));
        lines.extend(changed.iter().map(|line| format!("changed   {line}")));
        lines.extend(other_threads(state.threads, tch::get_num_threads() as usize, comm.device()));
    }
    lines.extend(session.teacher.as_ref().map(|teacher| self::teacher(config, teacher)));
    let positive = loaded.model.task.positive_label().map(|label| format!("; positive: {label}")).unwrap_or_default();
    let head = data.head.labels().map(|labels| format!(" ({} labels: {}{positive})", labels.len(), shortened(labels)));
    lines.push(format!("task      {}{}", config.task.kind, head.unwrap_or_default()));
    lines.push(match data.stream {
        Some(_) => format!("train     {}: a stream{}", config.data.train, remarks(&data.train)),
        None => format!("train     {}", describe(&config.data.train, &data.train)),
    });
    lines.extend(mixture::describe(&config.data, &data.train.dataset).iter().map(|line| format!("source    {line}")));
    match (config.data.eval.as_ref().unwrap_or(&config.data.train), &data.eval) {
        (files, Some(eval)) => {
            let split = config.data.eval_split.map(|split| format!(" ({split})")).unwrap_or_default();
            lines.push(format!("eval      {}", describe(format!("{files}{split}"), eval)));
        }
        (_, None) => lines.push("eval      none (neither data.eval nor data.eval_split is set)".to_owned()),
    }
    for ((name, set), (_, files)) in data.eval_sets.iter().zip(config.data.eval_sets.iter()) {
        lines.push(format!("eval      {name}: {}", describe(files, set)));
    }
    lines.push(format!(
        "batch     {} sequences per step over all ranks; micro-batches of up to {} tokens{}; max_length {}",
        config.train.global_batch_size,
        session.micro_batch_tokens,
        if config.train.micro_batch_tokens == MicroBatchTokens::Auto { " (auto)" } else { "" },
        session.max_length
    ));
    let Schedule { learning_rate, warmup_steps, total_steps, .. } = *schedule;
    let kind = config.train.lr_scheduler_type;
    lines.push(format!(
        "steps     {total_steps}; learning rate {learning_rate:e}, {kind}, {warmup_steps} warm-up step{}; {}",
        plural(warmup_steps as usize),
        optimizer(config)
    ));
    let objective =
        objective::describe(session.data.train.dataset.objective(), &config.data, session.data.head.labels());
    lines.extend(objective.map(|objective| format!("loss      {objective}")));
    lines.extend(augmentation::describe(&config.augment).map(|changes| format!("augment   {changes}")));
    let threads = tch::get_num_threads();
    let (world, backend) = (comm.world(), comm.name());
    let device = device(comm);
    lines.push(format!(
        "ranks     {world} ({backend}, {device}, {threads} thread{} per rank)",
        plural(threads as usize)
    ));
    lines.push(format!("parallel  {}", parallel(session)));
    lines.extend(hint(config.parallel.precision, comm.device(), driver::capability));
    lines.push(format!("output    {}", config.output_dir.display()));
    let specs: Vec<ParamSpec> = loaded.params.ids().map(|id| loaded.params.spec(id).clone()).collect();
    let storage = settings::storage(config, &specs, &loaded.names, (total_steps, steps_per_epoch));
    lines.extend(disk(&storage, disk::space(&config.output_dir).ok().map(|space| space.free)));
    lines.extend(weights(&loaded.report));
    lines.extend(other_labels(session).filter(|_| resumed.is_none()));
    let table = trained_table(&specs, &loaded.names, config.train.learning_rate, config.train.weight_decay);
    tell(&(lines.iter().map(|line| logs::wrap(line, 10)).collect::<Vec<_>>().join("\n") + "\n" + &table));
}

/// Describes the teacher, without the temperature where there is none.
fn teacher(config: &Config, teacher: &Teacher) -> String {
    let DistillConfig { teacher: path, temperature, alpha } = &config.distill;
    let (numel, family) = teacher.size();
    let path = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let heat = format!("temperature {temperature}, ");
    let heat = if config.task.kind == TaskKind::Regression { "" } else { &heat };
    format!("teacher   {path} ({family}, {} parameters); {heat}alpha {alpha}", count(numel))
}

/// Describes the optimizer: `adamw, moving average of the weights`.
fn optimizer(config: &Config) -> String {
    let average = if config.train.ema_decay.is_some() { ", moving average of the weights" } else { "" };
    format!("{}{average}", config.train.optim)
}

/// Describes what the run writes, and warns if the disk is too small.
fn disk(storage: &Storage, free: Option<u64>) -> Vec<String> {
    let Storage { model, checkpoint, checkpoints, most } = *storage;
    let files = match checkpoints {
        0 => format!("{} for the final model", human(model)),
        1 => format!("{} for a checkpoint of {} and the final model", human(most), human(checkpoint)),
        n => format!("{} for {n} checkpoints of {} each and the final model", human(most), human(checkpoint)),
    };
    let free_text = free.map_or_else(String::new, |free| format!("; {} free", human(free)));
    let short = free.is_some_and(|free| free < most);
    let warning = "warning   not enough disk space for what this run writes: lower train.save_total_limit";
    [format!("disk      up to {files}{free_text}")].into_iter().chain(short.then(|| warning.to_owned())).collect()
}

/// Reports that CPU results are not bit-equal with another number of threads.
fn other_threads(before: Option<usize>, now: usize, device: Device) -> Option<String> {
    let before = before.filter(|&before| before != now && device == Device::Cpu)?;
    Some(format!("changed   threads per rank = {now} (was {before}); losses may differ in the last bits"))
}

/// Reports the labels of a pretrained head that continues with other labels.
fn other_labels(session: &Session) -> Option<String> {
    let Session { loaded, data, .. } = session;
    let own = labels::of_config(loaded.model.backbone.config_json())?;
    let is_new = !loaded.report.missing.is_empty() || !loaded.report.mismatched.is_empty();
    let others = own != data.head.labels()? && !is_new;
    others
        .then(|| format!("head      was trained for other labels ({}) and continues from its weights", shortened(&own)))
}

/// Describes frozen and newly initialized weights.
fn marks(session: &Session) -> String {
    let params = &session.loaded.params;
    let frozen = params.ids().map(|id| params.spec(id)).filter(|spec| !spec.trainable).map(|spec| spec.numel()).sum();
    let frozen = if frozen > 0 { format!(", {} of them frozen", count(frozen)) } else { String::new() };
    let random = if session.starts_at_random { ", newly initialized" } else { "" };
    let layers = session.config.model.layers.as_ref().map(|layers| {
        let numbers: Vec<String> = layers.iter().map(usize::to_string).collect();
        format!(", layer{} {} of the folder's", plural(layers.len()), numbers.join(", "))
    });
    layers.unwrap_or_default() + &frozen + random
}

/// Describes sharding and precision: `ZeRO 2, bf16, gradients in fp32, activation checkpointing`.
fn parallel(session: &Session) -> String {
    let Session { config, groups, loaded, .. } = session;
    let parallel = &config.parallel;
    let chosen = if parallel.zero_stage == ZeroStage::Auto { " (auto)" } else { "" };
    let within = match parallel.shard_within {
        ShardWithin::World => String::new(),
        ShardWithin::Host => {
            format!(" within each host of {} rank{}", groups.shard.world(), plural(groups.shard.world()))
        }
    };
    let stage = loaded.weights.zero().stage();
    let mut words = vec![format!("ZeRO {stage}{chosen}{within}"), parallel.precision.to_string()];
    if parallel.precision != Precision::Fp32 {
        words.push(format!("gradients in {}", parallel.reduce_dtype));
    }
    words.extend(tf32(config, session.comm.device()).map(str::to_owned));
    let auto = if parallel.recompute == Recompute::Auto { " (auto)" } else { "" };
    match session.recompute {
        Recompute::None | Recompute::Auto => {}
        Recompute::All => words.push(format!("activation checkpointing{auto}")),
        Recompute::First(n) => {
            words.push(format!("activation checkpointing of the first {n} block{}{auto}", plural(n as usize)));
        }
        Recompute::KeepEvery(n) => words.push(format!("activation checkpointing except every {n}. block")),
    }
    words.join(", ")
}

/// Describes whether fp32 matmuls on a GPU use TF32.
fn tf32(config: &Config, device: Device) -> Option<&'static str> {
    let matters = config.parallel.precision == Precision::Fp32 && device != Device::Cpu;
    matters.then(|| if settings::tf32(config, device) { "tf32" } else { "tf32 off" })
}

/// Suggests a better precision for a GPU; `capability` returns its major compute capability.
fn hint(precision: Precision, device: Device, capability: impl Fn(usize) -> Option<u32>) -> Option<String> {
    let Device::Cuda(ordinal) = device else { return None };
    let has_bf16 = capability(ordinal)? >= 8;
    (has_bf16 && precision == Precision::Fp32).then(|| {
        "hint      bf16 is faster than fp32 on this GPU and halves the activations: parallel.precision = \"bf16\""
            .to_owned()
    })
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Formats a number of parameters: `22.7 M`, `26 k`.
fn count(n: i64) -> String {
    let n = n as f64;
    if n < 1e6 { format!("{:.0} k", n / 1e3) } else { format!("{:.1} M", n / 1e6) }
}

fn describe(files: impl Display, data: &Prepared) -> String {
    let (examples, tokens) = (data.dataset.len(), data.dataset.total_tokens());
    let (these, those) = (plural(examples), plural(tokens as usize));
    format!("{files}: {examples} example{these}, {tokens} token{those}, {}{}", cache_word(data), remarks(data))
}

/// Returns remarks about the data: truncated examples, invalid records, warnings.
pub fn remarks(data: &Prepared) -> String {
    let truncated = (data.facts.truncated > 0).then(|| format!("; {} truncated to max_length", data.facts.truncated));
    let first = data.facts.skipped_reasons.first();
    let (n, s) = (data.facts.skipped, plural(data.facts.skipped));
    let skipped = first.map(|(line, why)| format!("; {n} invalid record{s} skipped (first: line {line}: {why})"));
    let others = data.facts.remarks.iter().map(|remark| format!("; {remark}"));
    truncated.into_iter().chain(skipped).chain(others).collect()
}

/// Describes the device of the ranks.
pub fn device(comm: &dyn Collective) -> &'static str {
    if comm.device() == Device::Cpu { "CPU" } else { "one GPU per rank" }
}

/// Lists newly initialized weights and unused tensors of the checkpoint.
pub fn weights(report: &Report) -> Vec<String> {
    [
        ("missing   not in the file, newly initialized", &report.missing),
        ("mismatch  another shape in the file, newly initialized", &report.mismatched),
        ("unused    unexpected keys in the file", &report.unexpected),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what}: {}", names.join(", ")))
    .collect()
}

fn shortened(names: &[String]) -> String {
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(", ... ({} more)", names.len() - SHOWN);
    }
    text
}

/// Prints the tables at the end: evaluations, memory (peak resident set and tensors), then statistics of the run.
/// `best` is the step whose model became the final one.
pub fn closing(
    state: &TrainerState,
    clock: &Clock,
    peak_rss: u64,
    memory: &MemoryReport,
    config: &Config,
    best: Option<u64>,
) {
    if logs::is_json() {
        return;
    }
    let evaluations: Vec<&Map<String, Value>> =
        state.log_history.iter().filter_map(Value::as_object).filter(|line| line.contains_key("eval_loss")).collect();
    if let Some(last) = evaluations.last() {
        let names: Vec<&str> = last.keys().map(String::as_str).filter(|name| name.starts_with("eval_")).collect();
        let mut head = vec!["step"];
        head.extend(names.iter().map(|name| name.trim_start_matches("eval_")));
        let number = |v: Option<&Value>| v.and_then(Value::as_f64).map_or_else(String::new, |x| format!("{x:.4}"));
        let rows = evaluations.iter().map(|line| {
            let step = line.get("step").and_then(Value::as_u64).unwrap_or_default();
            let mark = if state.best_global_step == Some(step) { " best" } else { "" };
            let numbers = names.iter().map(|name| number(line.get(*name)));
            [format!("{step}{mark}")].into_iter().chain(numbers).collect()
        });
        show(&table(&head, &rows.collect::<Vec<Vec<String>>>()));
    }
    show(&table(&["memory per rank", "peak", "after the last step"], &memory.rows()));
    let model = config.output_dir.join("final").display().to_string();
    let mut facts = Vec::new();
    if clock.steps > 0 {
        facts.push(("training time", progress::clock(clock.seconds)));
        facts.push(("tokens per second", format!("{:.0}", clock.all_tokens as f64 / clock.seconds.max(1e-9))));
        facts.push(("seconds to first step", format!("{:.1}", clock.first_step.unwrap_or_default())));
    }
    if state.skipped_steps > 0 {
        facts.push(("steps skipped", format!("{} of {}", state.skipped_steps, state.global_step)));
    }
    facts.push(("peak memory per rank", human(peak_rss)));
    facts.push(("model", best.map_or_else(|| model.clone(), |step| format!("{model} (step {step})"))));
    let rows: Vec<Vec<String>> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    show(&table(&["run", ""], &rows));
}

/// Prints a table to standard output; logs go to standard error.
fn show(table: &str) {
    observe::print(&format!("{table}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dtypes_of_a_gpu_are_reported() {
        let config = |more: &[&str]| {
            let words = ["output_dir=o", "model.path=m", "task.kind=causal-lm", "data.train=t"].iter().chain(more);
            Config::parse("", "a test", &words.map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        let gpu = Device::Cuda(0);
        assert_eq!(tf32(&config(&[]), gpu), Some("tf32"));
        assert_eq!(tf32(&config(&["tf32=false"]), gpu), Some("tf32 off"));
        assert_eq!(tf32(&config(&["precision=bf16"]), gpu), None);
        assert_eq!(tf32(&config(&["tf32=true"]), Device::Cpu), None);
        assert!(!settings::tf32(&config(&[]), Device::Cpu) && !settings::tf32(&config(&["precision=bf16"]), gpu));

        let reported = |precision, device, major| hint(precision, device, |_| major);
        assert!(reported(Precision::Fp32, gpu, Some(9)).unwrap().contains("parallel.precision = \"bf16\""));
        assert_eq!(reported(Precision::Fp32, gpu, Some(7)), None);
        assert_eq!(reported(Precision::Fp32, gpu, None), None);
        assert_eq!(reported(Precision::Bf16, gpu, Some(9)), None);
        assert_eq!(reported(Precision::Fp32, Device::Cpu, Some(9)), None);
    }

    #[test]
    fn free_disk_space_is_reported() {
        let storage = Storage { model: 1_000_000, checkpoint: 3_000_000, checkpoints: 2, most: 10_000_000 };
        let reported = disk(&storage, Some(20_000_000));
        assert_eq!(
            reported,
            ["disk      up to 10.0 MB for 2 checkpoints of 3.0 MB each and the final model; 20.0 MB free"]
        );
        assert!(disk(&storage, Some(9_999_999))[1].contains("save_total_limit"));
        let none = disk(&Storage { checkpoints: 0, most: 1_000_000, ..storage }, None);
        assert_eq!(none, ["disk      up to 1.0 MB for the final model"]);
    }

    #[test]
    fn another_number_of_threads_is_reported() {
        let reported = |before, now| other_threads(before, now, Device::Cpu);
        let wanted = "changed   threads per rank = 2 (was 1); losses may differ in the last bits";
        assert_eq!(reported(Some(1), 2).unwrap(), wanted);
        assert_eq!(
            (reported(Some(2), 2), reported(None, 2), other_threads(Some(1), 2, Device::Cuda(0))),
            (None, None, None)
        );
    }
}
