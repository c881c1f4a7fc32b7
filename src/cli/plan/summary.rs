//! A plan in short: what to run or to change, and the figures behind it.

use super::Report;
use super::details;
use super::fill::{below, count, duration, fill, labelled, ranks, seconds, share, size};
use crate::config::{MicroBatchTokens, Recompute, ZeroStage};
use crate::error::Result;
use crate::observe::memory::available_bytes;
use crate::observe::table::table;
use crate::plan::memory::Need;
use crate::plan::scaling::Row;
use crate::train::advice::{Advice, Change, Choice};
use crate::train::estimate::Estimate;

/// What stands before words for a command line.
const WORDS: &str = "    ";

/// What to run; where nothing fits, what to change.
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

/// The figures behind it.
pub fn of(report: &Report, advice: &Advice) -> String {
    let measured = details::measured(report);
    let mut text = details::model(report) + &data(report) + &memory(report, advice) + &details::storage(report);
    if !measured.is_empty() {
        text += &format!("\n{measured}");
    }
    text + "\nMore: --all (lengths, padding, all precisions, time on 1 to 1,024 ranks)\n"
}

/// `ZeRO 3 and activation checkpointing`
fn way(trial: &Estimate) -> String {
    format!("ZeRO {}{}", trial.zero.stage(), recomputation(trial.config.parallel.recompute))
}

/// ` and activation checkpointing`
pub fn recomputation(recompute: Recompute) -> String {
    match recompute {
        Recompute::None => " without activation checkpointing".into(),
        Recompute::All => " and activation checkpointing".into(),
        Recompute::KeepEvery(n) => format!(" and activation checkpointing (parallel.recompute={n})"),
    }
}

/// Ranks, micro-batches and precision in words.
fn held(report: &Report, trial: &Estimate) -> String {
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

/// The time of the run, where it is known.
fn time(report: &Report, trial: &Estimate) -> Result<String> {
    let told = |row: Row| {
        let text = format!(
            "Expected time: {} for {} steps of {} on {}; evaluation and saving not counted.",
            duration(row.run_seconds()),
            count(row.steps),
            seconds(row.step.seconds),
            report.device
        );
        fill("", &text)
    };
    Ok(report.time(trial)?.map(told).unwrap_or_default())
}

/// Words for a command line; those that a shell would take apart are quoted.
fn words(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=._-/".contains(c);
    let quoted = |word: &String| if word.chars().all(plain) { word.clone() } else { format!("'{word}'") };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Where no limit is known.
fn need(report: &Report, trial: &Estimate) -> Result<String> {
    let mut text = fill("", &format!("Needs {} a rank with {}.", size(trial.total()), way(trial)));
    text += &fill("", &format!("{}: as configured.", held(report, trial)));
    text += &time(report, trial)?;
    if let Some(free) = available_bytes() {
        let each = free as f64 / report.ranks_here as f64;
        let of =
            if report.ranks_here == 1 { String::new() } else { format!(" for each of {}", ranks(report.ranks_here)) };
        let verdict = if trial.total() <= each { "" } else { ", which is too little" };
        text += &fill("", &format!("This machine has {}{of} free now{verdict}.", size(each)));
    }
    Ok(text + &fill("", "What fits into a GPU: --device NAME, or --gpu-memory SIZE."))
}

fn fits(report: &Report, advice: &Advice, choice: &Choice, limit: f64) -> Result<String> {
    let (trial, configured) = (&choice.estimate, &advice.configured);
    let used = share(trial.total(), limit);
    let mut text = fill("", &format!("Fits with {}: {used} a rank.", way(trial)));
    let held = held(report, trial);
    if choice.overrides.is_empty() {
        let auto = trial.config.parallel.zero_stage == ZeroStage::Auto;
        let of = if auto { " (zero_stage = \"auto\")" } else { "" };
        text += &fill("", &format!("{held}: as configured{of}."));
        return Ok(text + &time(report, trial)?);
    }
    let (own, add) = (way(configured), fill(WORDS, &words(&choice.overrides)));
    if configured.total() > limit {
        text += &format!("{}\n{add}\n", fill("", &format!("{held}. Add:")));
        text += &time(report, trial)?;
        let need = share(configured.total(), limit);
        return Ok(text + &fill("", &format!("As configured, with {own}, it does not fit: {need}.")));
    }
    text += &fill("", &format!("{held}."));
    text += &time(report, trial)?;
    let mut also = format!("As configured, with {own}, it fits too: {} a rank", size(configured.total()));
    if let (Some(other), Some(row)) = (report.time(trial)?, report.time(configured)?) {
        let quicker = row.step.seconds < other.step.seconds;
        also += &format!(", {} a step{}", seconds(row.step.seconds), if quicker { ", which is quicker" } else { "" });
    }
    Ok(text + &fill("", &format!("{also}. To change it, add:")) + "\n" + &add)
}

fn nothing(report: &Report, advice: &Advice, limit: f64) -> String {
    let (trial, changes) = (&advice.configured, &advice.changes);
    let mut text = fill(
        "",
        &format!(
            "Nothing fits into {} a rank: no combination of ZeRO stage, activation checkpointing, micro-batches and \
             precision.",
            size(limit)
        ),
    );
    text += &fill(
        "",
        &format!("As configured, with {}, a rank needs {}. {}.", way(trial), size(trial.total()), held(report, trial)),
    );
    let Some(last) = changes.last() else {
        return text + &fill("", "No setting takes less: use a smaller model, or GPUs with more memory.");
    };
    text += "What takes less, that which saves most first:\n\n";
    for (place, change) in changes.iter().enumerate() {
        text += &told(place, change, trial.total(), limit);
    }
    text += "\n";
    let verdict = match changes.iter().position(|change| change.cumulative <= limit) {
        Some(0) => format!("The first fits by itself: {} a rank.", share(changes[0].cumulative, limit)),
        Some(place) if place + 1 < changes.len() => format!(
            "The first {} together fit: {} a rank; all together need {}.",
            place + 1,
            share(changes[place].cumulative, limit),
            size(last.cumulative)
        ),
        Some(_) => format!("All of them together fit: {} a rank.", share(last.cumulative, limit)),
        None => format!(
            "All of them together need {} and do not fit: use a smaller model, or GPUs with more memory.",
            size(last.cumulative)
        ),
    };
    text + &fill("", &verdict)
}

/// A change: what it is, its words, and what a rank needs then.
fn told(place: usize, change: &Change, before: f64, limit: f64) -> String {
    let mut options = words(&change.edit.overrides());
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

/// Memory by kind and ZeRO stage, otherwise as is recommended, or as configured where nothing is.
fn memory(report: &Report, advice: &Advice) -> String {
    let trial = advice.cheapest.as_ref().map_or(&advice.configured, |choice| &choice.estimate);
    let parallel = &trial.config.parallel;
    let of = if trial.ranks == 1 { "one rank".to_owned() } else { format!("each of {} ranks", trial.ranks) };
    let how = recomputation(parallel.recompute).replace(" and ", " with ");
    let mut text = labelled("memory", &format!("of {of}, {}{how}", parallel.precision));
    let own = usize::from(trial.zero.stage());
    let row = |(stage, need): (usize, &Need)| {
        let mark = if stage == own { " *" } else { "" };
        stage_row(format!("{stage}{mark}"), need, report.limit.as_ref().map(|limit| need.total <= limit.bytes))
    };
    // One rank shards nothing: there the stages do not differ.
    let stages = trial.needs.iter().enumerate().filter(|(stage, _)| trial.ranks > 1 || *stage == own);
    text += &table(&STAGE_COLUMNS, &stages.map(row).collect::<Vec<_>>());
    text += "\n";
    let star = match &advice.cheapest {
        Some(choice) if !choice.overrides.is_empty() => "recommended",
        _ => "as configured",
    };
    let at = details::moment(report, trial.need().at);
    text += &below(&format!("* {star}; its peak is {at} (each kind has its own)"));
    text + &details::limits(report)
}

/// The head of a table of ZeRO stages.
pub const STAGE_COLUMNS: [&str; 7] = ["ZeRO", "weights", "gradients", "optimizer", "activations", "peak", "fits"];

/// A row of it.
pub fn stage_row(name: String, need: &Need, fits: Option<bool>) -> Vec<String> {
    let [weights, gradients, optimizer, activations, _] = need.peak.map(size);
    let verdict = fits.map_or("", |fits| if fits { "yes" } else { "no" });
    vec![name, weights, gradients, optimizer, activations, size(need.total), verdict.into()]
}
