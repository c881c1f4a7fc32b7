//! The short form of a plan: what to run or to change, and the figures behind it.

use super::details;
use super::fill::{below, count, duration, fill, labelled, of_limit, ranks, seconds, size};
use super::memory_table::{STAGE_COLUMNS, checkpointing, stage_row};
use super::report::Report;
use crate::config::{MicroBatchTokens, ZeroStage};
use crate::error::Result;
use crate::observe::memory::available_bytes;
use crate::observe::table::table;
use crate::plan::memory::MemoryEstimate;
use crate::plan::scaling::Row;
use crate::train::advice::{Advice, Change, Choice};
use crate::train::estimate::Estimate;

/// Indent of command-line arguments.
const INDENT: &str = "    ";

/// Returns what to run or, if nothing fits, what to change.
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

/// Describes ZeRO and activation checkpointing: `ZeRO 3 and activation checkpointing`.
fn way(estimate: &Estimate) -> String {
    format!("ZeRO {}{}", estimate.zero.stage(), checkpointing(estimate.config.parallel.recompute))
}

/// Describes ranks, micro-batches and precision.
fn setup(report: &Report, estimate: &Estimate) -> String {
    let auto = report.auto_tokens && estimate.tokens() == own_tokens(report);
    format!(
        "On {}, in {}, with micro-batches of up to {} tokens{}",
        ranks(estimate.ranks),
        estimate.config.parallel.precision,
        count(estimate.tokens() as u64),
        if auto { " (auto)" } else { "" }
    )
}

fn own_tokens(report: &Report) -> usize {
    match report.planned.config.train.micro_batch_tokens {
        MicroBatchTokens::Tokens(n) => n,
        MicroBatchTokens::Auto => 0,
    }
}

/// Returns the estimated time of the run, if it is known.
fn time(report: &Report, estimate: &Estimate) -> Result<String> {
    let text = |row: Row| {
        let text = format!(
            "Expected time: {} for {} steps of {} on {}, without evaluation and saving.",
            duration(row.run_seconds()),
            count(row.steps),
            seconds(row.step.seconds),
            report.device
        );
        fill("", &text)
    };
    Ok(report.time(estimate)?.map(text).unwrap_or_default())
}

/// Joins command-line arguments, with shell quotes where needed.
fn arguments(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=._-/".contains(c);
    let quoted = |word: &String| if word.chars().all(plain) { word.clone() } else { format!("'{word}'") };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Returns the need of the configured run, without a known limit.
fn need(report: &Report, estimate: &Estimate) -> Result<String> {
    let mut text = fill("", &format!("Needs {} per rank with {}.", size(estimate.total()), way(estimate)));
    text += &fill("", &format!("{}: as configured.", setup(report, estimate)));
    text += &time(report, estimate)?;
    if let Some(free) = available_bytes() {
        let each = free as f64 / report.ranks_here as f64;
        let of =
            if report.ranks_here == 1 { String::new() } else { format!(" for each of {}", ranks(report.ranks_here)) };
        let verdict = if estimate.total() <= each { "" } else { ", which is not enough" };
        text += &fill("", &format!("This machine has {}{of} free now{verdict}.", size(each)));
    }
    Ok(text + &fill("", "To check whether it fits a GPU: --device NAME or --gpu-memory SIZE."))
}

fn fits(report: &Report, advice: &Advice, choice: &Choice, limit: f64) -> Result<String> {
    let (estimate, configured) = (&choice.estimate, &advice.configured);
    let used = of_limit(estimate.total(), limit);
    let mut text = fill("", &format!("Fits with {}: {used} per rank.", way(estimate)));
    let setup = setup(report, estimate);
    if choice.overrides.is_empty() {
        let auto = estimate.config.parallel.zero_stage == ZeroStage::Auto;
        let of = if auto { " (zero_stage = \"auto\")" } else { "" };
        text += &fill("", &format!("{setup}: as configured{of}."));
        return Ok(text + &time(report, estimate)?);
    }
    let (own, add) = (way(configured), fill(INDENT, &arguments(&choice.overrides)));
    if configured.total() > limit {
        text += &format!("{}\n{add}\n", fill("", &format!("{setup}. Add:")));
        text += &time(report, estimate)?;
        let need = of_limit(configured.total(), limit);
        return Ok(text + &fill("", &format!("As configured, with {own}, it does not fit: {need}.")));
    }
    text += &fill("", &format!("{setup}."));
    text += &time(report, estimate)?;
    let mut also = format!("As configured, with {own}, it also fits: {} per rank", size(configured.total()));
    if let (Some(other), Some(row)) = (report.time(estimate)?, report.time(configured)?) {
        let faster = row.step.seconds < other.step.seconds;
        also += &format!(", {} per step{}", seconds(row.step.seconds), if faster { ", which is faster" } else { "" });
    }
    Ok(text + &fill("", &format!("{also}. To use the above, add:")) + "\n" + &add)
}

fn nothing(report: &Report, advice: &Advice, limit: f64) -> String {
    let (estimate, changes) = (&advice.configured, &advice.changes);
    let mut text = fill(
        "",
        &format!(
            "Nothing fits into {} per rank: no combination of ZeRO stage, activation checkpointing, micro-batch size and \
             precision.",
            size(limit)
        ),
    );
    text += &fill(
        "",
        &format!(
            "As configured, with {}, a rank needs {}. {}.",
            way(estimate),
            size(estimate.total()),
            setup(report, estimate)
        ),
    );
    let Some(last) = changes.last() else {
        return text + &fill("", "No setting saves memory: use a smaller model or GPUs with more memory.");
    };
    text += "What saves memory, largest saving first:\n\n";
    for (place, change) in changes.iter().enumerate() {
        text += &change_text(place, change, estimate.total(), limit);
    }
    text += "\n";
    let verdict = match changes.iter().position(|change| change.cumulative <= limit) {
        Some(0) => format!("The first fits by itself: {} per rank.", of_limit(changes[0].cumulative, limit)),
        Some(place) if place + 1 < changes.len() => format!(
            "The first {} together fit: {} per rank; all of them need {}.",
            place + 1,
            of_limit(changes[place].cumulative, limit),
            size(last.cumulative)
        ),
        Some(_) => format!("All of them together fit: {} per rank.", of_limit(last.cumulative, limit)),
        None => format!(
            "All of them together need {} and do not fit: use a smaller model or GPUs with more memory.",
            size(last.cumulative)
        ),
    };
    text + &fill("", &verdict)
}

/// Describes a change: its arguments, what it is, and the memory per rank with it.
fn change_text(place: usize, change: &Change, before: f64, limit: f64) -> String {
    let mut options = arguments(&change.edit.overrides());
    for (option, value) in [("--ranks", change.edit.ranks), ("--assume-length", change.edit.length)] {
        options += &value.map(|n| format!(" {option} {n}")).unwrap_or_default();
    }
    let fits = if change.alone <= limit { ", which fits" } else { "" };
    let together = if place == 0 { String::new() } else { format!("; with all above {}", size(change.cumulative)) };
    let effect = format!(
        "{}: saves {} and leaves {}{fits}{together}",
        change.what,
        size(before - change.alone),
        size(change.alone)
    );
    fill(&format!("{:2}. ", place + 1), options.trim()) + &fill(INDENT, &effect)
}

fn data(report: &Report) -> String {
    let lengths = &report.lengths;
    if report.planned.config.data.streaming {
        let [shortest, longest] = [lengths.shortest, lengths.longest];
        let steps = format!("{} steps of {}", count(report.steps), report.batch());
        return labelled("data", &format!("a stream, its first examples of {shortest} to {longest} tokens; {steps}"));
    }
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

/// Returns the memory by kind and ZeRO stage under the recommended settings, or the configured ones if nothing fits.
fn memory(report: &Report, advice: &Advice) -> String {
    let estimate = advice.cheapest.as_ref().map_or(&advice.configured, |choice| &choice.estimate);
    let parallel = &estimate.config.parallel;
    let of = if estimate.ranks == 1 { "one rank".to_owned() } else { format!("each of {} ranks", estimate.ranks) };
    let how = checkpointing(parallel.recompute).replace(" and ", " with ");
    let mut text = labelled("memory", &format!("of {of}, {}{how}", parallel.precision));
    let own = usize::from(estimate.zero.stage());
    let row = |(stage, need): (usize, &MemoryEstimate)| {
        let mark = if stage == own { " *" } else { "" };
        stage_row(format!("{stage}{mark}"), need, report.limit.as_ref().map(|limit| need.total <= limit.bytes))
    };
    // One rank shards nothing: all stages are alike.
    let stages = estimate.needs.iter().enumerate().filter(|(stage, _)| estimate.ranks > 1 || *stage == own);
    text += &table(&STAGE_COLUMNS, &stages.map(row).collect::<Vec<_>>());
    text += "\n";
    let star = match &advice.cheapest {
        Some(choice) if !choice.overrides.is_empty() => "recommended",
        _ => "as configured",
    };
    let at = details::phase(report, estimate.need().at);
    text += &below(&format!("* {star}; its peak is {at} (each kind peaks at its own time)"));
    text += &details::host(report, estimate.need());
    text + &details::limits(report)
}
