//! Summary of a plan: the recommendation, and the figures behind it.

use super::Report;
use super::details;
use super::fill::{below, count, duration, fill, labelled, ranks, seconds, share, size};
use crate::config::{MicroBatchTokens, Recompute, ZeroStage};
use crate::error::Result;
use crate::observe::memory::available_bytes;
use crate::observe::table::table;
use crate::plan::memory::MemoryEstimate;
use crate::plan::scaling::Row;
use crate::train::advice::{Advice, Change, Choice};
use crate::train::trial::Trial;

/// Indentation of command-line arguments.
const WORDS: &str = "    ";

/// Returns the recommendation: the settings to use or, if nothing fits, changes that save memory.
///
/// # Errors
/// As [`crate::data::Sampler::new`].
pub fn recommendation(report: &Report, advice: &Advice) -> Result<String> {
    match (&report.limit, &advice.cheapest) {
        (None, _) => need(report, &advice.configured),
        (Some(limit), Some(choice)) => fits(report, advice, choice, limit.bytes),
        (Some(limit), None) => Ok(nothing(report, advice, limit.bytes)),
    }
}

/// Returns the figures behind the recommendation.
pub fn of(report: &Report, advice: &Advice) -> String {
    let measured = details::measured(report);
    let mut text = details::model(report) + &data(report) + &memory(report, advice) + &details::storage(report);
    if !measured.is_empty() {
        text += &format!("\n{measured}");
    }
    text + "\nMore: --all (lengths, padding, all precisions, time on 1 to 1,024 ranks)\n"
}

/// `ZeRO 3 and activation checkpointing`
fn way(trial: &Trial) -> String {
    format!("ZeRO {}{}", trial.zero.stage(), checkpointing(trial.config.parallel.recompute))
}

/// ` and activation checkpointing`
pub fn checkpointing(recompute: Recompute) -> String {
    match recompute {
        Recompute::None => " without activation checkpointing".into(),
        Recompute::All => " and activation checkpointing".into(),
        Recompute::KeepEvery(n) => format!(" and activation checkpointing (parallel.recompute={n})"),
    }
}

/// Describes ranks, micro-batches and precision.
fn held(report: &Report, trial: &Trial) -> String {
    let auto = report.auto_tokens && trial.tokens() == own_tokens(report);
    format!(
        "On {}, in {}, with micro-batches of up to {} tokens{}",
        ranks(trial.ranks),
        trial.config.parallel.precision,
        count(trial.tokens() as u64),
        if auto { " (auto)" } else { "" }
    )
}

fn own_tokens(report: &Report) -> usize {
    match report.outlook.config.train.micro_batch_tokens {
        MicroBatchTokens::Tokens(n) => n,
        MicroBatchTokens::Auto => 0,
    }
}

/// Describes the time of the run, if known.
fn time(report: &Report, trial: &Trial) -> Result<String> {
    let describe = |row: Row| {
        let text = format!(
            "Expected time: {} for {} steps of {} on {}, without evaluation and checkpoints.",
            duration(row.run_seconds()),
            count(row.steps),
            seconds(row.step.seconds),
            report.device
        );
        fill("", &text)
    };
    Ok(report.time(trial)?.map(describe).unwrap_or_default())
}

/// Formats command-line arguments, quoted for a shell where necessary.
fn words(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=._-/".contains(c);
    let quoted = |word: &String| if word.chars().all(plain) { word.clone() } else { format!("'{word}'") };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// The recommendation without a known memory limit.
fn need(report: &Report, trial: &Trial) -> Result<String> {
    let mut text = fill("", &format!("Needs {} per rank with {}.", size(trial.total()), way(trial)));
    text += &fill("", &format!("{}: as configured.", held(report, trial)));
    text += &time(report, trial)?;
    if let Some(free) = available_bytes() {
        let each = free as f64 / report.ranks_here as f64;
        let of =
            if report.ranks_here == 1 { String::new() } else { format!(" for each of {}", ranks(report.ranks_here)) };
        let verdict = if trial.total() <= each { "" } else { ", which is too little" };
        text += &fill("", &format!("This machine has {}{of} free now{verdict}.", size(each)));
    }
    Ok(text + &fill("", "To check whether it fits on a GPU: --device NAME, or --gpu-memory SIZE."))
}

fn fits(report: &Report, advice: &Advice, choice: &Choice, limit: f64) -> Result<String> {
    let (trial, configured) = (&choice.trial, &advice.configured);
    let used = share(trial.total(), limit);
    let mut text = fill("", &format!("Fits with {}: {used} per rank.", way(trial)));
    let held = held(report, trial);
    if choice.words.is_empty() {
        let auto = trial.config.parallel.zero_stage == ZeroStage::Auto;
        let of = if auto { " (zero_stage = \"auto\")" } else { "" };
        text += &fill("", &format!("{held}: as configured{of}."));
        return Ok(text + &time(report, trial)?);
    }
    let (own, add) = (way(configured), fill(WORDS, &words(&choice.words)));
    if configured.total() > limit {
        text += &format!("{}\n{add}\n", fill("", &format!("{held}. Add:")));
        text += &time(report, trial)?;
        let need = share(configured.total(), limit);
        return Ok(text + &fill("", &format!("As configured, with {own}, it does not fit: {need}.")));
    }
    text += &fill("", &format!("{held}."));
    text += &time(report, trial)?;
    let mut also = format!("As configured, with {own}, it fits too: {} per rank", size(configured.total()));
    if let (Some(other), Some(row)) = (report.time(trial)?, report.time(configured)?) {
        let quicker = row.step.seconds < other.step.seconds;
        also += &format!(", {} per step{}", seconds(row.step.seconds), if quicker { ", which is faster" } else { "" });
    }
    Ok(text + &fill("", &format!("{also}. To change it, add:")) + "\n" + &add)
}

fn nothing(report: &Report, advice: &Advice, limit: f64) -> String {
    let (trial, changes) = (&advice.configured, &advice.changes);
    let mut text = fill(
        "",
        &format!(
            "Nothing fits into {} per rank: no combination of ZeRO stage, activation checkpointing, micro-batches and \
             precision.",
            size(limit)
        ),
    );
    text += &fill(
        "",
        &format!("As configured, with {}, a rank needs {}. {}.", way(trial), size(trial.total()), held(report, trial)),
    );
    let Some(last) = changes.last() else {
        return text + &fill("", "No setting needs less memory: use a smaller model, or GPUs with more memory.");
    };
    text += "Changes that save memory, largest saving first:\n\n";
    for (place, change) in changes.iter().enumerate() {
        text += &describe_change(place, change, trial.total(), limit);
    }
    text += "\n";
    let verdict = match changes.iter().position(|change| change.together <= limit) {
        Some(0) => format!("The first fits by itself: {} per rank.", share(changes[0].together, limit)),
        Some(place) if place + 1 < changes.len() => format!(
            "The first {} together fit: {} per rank; all of them together need {}.",
            place + 1,
            share(changes[place].together, limit),
            size(last.together)
        ),
        Some(_) => format!("All of them together fit: {} per rank.", share(last.together, limit)),
        None => format!(
            "All of them together need {} and do not fit: use a smaller model, or GPUs with more memory.",
            size(last.together)
        ),
    };
    text + &fill("", &verdict)
}

/// Describes a change: its options, its saving, and the memory per rank with it.
fn describe_change(place: usize, change: &Change, before: f64, limit: f64) -> String {
    let mut options = words(&change.edit.words());
    for (option, value) in [("--ranks", change.edit.ranks), ("--assume-length", change.edit.length)] {
        options += &value.map(|n| format!(" {option} {n}")).unwrap_or_default();
    }
    let fits = if change.alone <= limit { ", which fits" } else { "" };
    let together = if place == 0 { String::new() } else { format!("; with all above {}", size(change.together)) };
    let effect = format!(
        "{}: saves {} and leaves {}{fits}{together}",
        change.what,
        size(before - change.alone),
        size(change.alone)
    );
    fill(&format!("{:2}. ", place + 1), options.trim()) + &fill(WORDS, &effect)
}

fn data(report: &Report) -> String {
    let lengths = &report.lengths;
    labelled(
        "data",
        &format!(
            "{} examples of {} to {} tokens; {} steps of {}: {:.2} epochs",
            count(lengths.examples),
            lengths.shortest,
            lengths.longest,
            count(report.steps),
            report.batch(),
            report.steps as f64 / report.steps_per_epoch as f64
        ),
    )
}

/// Table of memory by kind and ZeRO stage, with the recommended settings, or as configured without a recommendation.
fn memory(report: &Report, advice: &Advice) -> String {
    let trial = advice.cheapest.as_ref().map_or(&advice.configured, |choice| &choice.trial);
    let parallel = &trial.config.parallel;
    let of = if trial.ranks == 1 { "one rank".to_owned() } else { format!("each of {} ranks", trial.ranks) };
    let how = checkpointing(parallel.recompute).replace(" and ", " with ");
    let mut text = labelled("memory", &format!("of {of}, {}{how}", parallel.precision));
    let own = usize::from(trial.zero.stage());
    let row = |(stage, need): (usize, &MemoryEstimate)| {
        let mark = if stage == own { " *" } else { "" };
        stage_row(format!("{stage}{mark}"), need, report.limit.as_ref().map(|limit| need.total <= limit.bytes))
    };
    // With one rank nothing is sharded, and all ZeRO stages are equal.
    let stages = trial.needs.iter().enumerate().filter(|(stage, _)| trial.ranks > 1 || *stage == own);
    text += &table(&STAGE_COLUMNS, &stages.map(row).collect::<Vec<_>>());
    text += "\n";
    let star = match &advice.cheapest {
        Some(choice) if !choice.words.is_empty() => "recommended",
        _ => "as configured",
    };
    let at = details::phase(report, trial.need().at);
    text += &below(&format!("* {star}; its peak is {at} (kinds peak at different times)"));
    text + &details::limits(report)
}

/// Header of a table of ZeRO stages.
pub const STAGE_COLUMNS: [&str; 7] = ["ZeRO", "weights", "gradients", "optimizer", "activations", "peak", "fits"];

/// Returns a row of this table.
pub fn stage_row(name: String, need: &MemoryEstimate, fits: Option<bool>) -> Vec<String> {
    let [weights, gradients, optimizer, activations, _] = need.peak.map(size);
    let verdict = fits.map_or("", |fits| if fits { "yes" } else { "no" });
    vec![name, weights, gradients, optimizer, activations, size(need.total), verdict.into()]
}
