//! The details of a plan (`--all`).

use super::fill::{below, count, labelled, ranks, seconds, size};
use super::memory_table::{STAGE_COLUMNS, checkpointing, stage_row};
use super::report::{Correction, Report};
use crate::config::ZeroStage;
use crate::observe::memory::{available_bytes, human};
use crate::observe::progress::clock;
use crate::observe::table::table;
use crate::plan::fit::Timed;
use crate::plan::memory::{MemoryEstimate, Phase};
use crate::plan::scaling::Row;
use crate::train::mixture;
use crate::train::planned_run::Variant;
use crate::train::settings;

pub fn of(report: &Report) -> String {
    let parts = [data(report), model(report), memory(report), storage(report), measured(report), time(report)];
    parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("\n")
}

fn data(report: &Report) -> String {
    let (lengths, padding) = (&report.lengths, &report.padding);
    let epochs = report.steps as f64 / report.steps_per_epoch as f64;
    let steps = format!("{} steps of {} examples", count(report.steps), report.batch());
    let per_epoch = count(report.steps_per_epoch);
    let (examples, tokens) = (count(lengths.examples), count(lengths.tokens));
    let mut text = labelled(
        "data",
        &match report.planned.config.data.streaming {
            true => format!("a stream, planned from its first examples; {steps}"),
            false => format!(
                "{examples} examples and {tokens} tokens per epoch; {steps}, {per_epoch} per epoch: {epochs:.2} epochs"
            ),
        },
    );
    let dataset = &report.planned.data.train.dataset;
    for source in mixture::describe(&report.planned.config.data, dataset) {
        text += &labelled("source", &source);
    }
    text += &labelled(
        "lengths",
        &format!(
            "{} to {} tokens, mean {:.1}, median {}, 90 % up to {}, 99 % up to {}",
            lengths.shortest,
            lengths.longest,
            lengths.mean(),
            lengths.median,
            lengths.p90,
            lengths.p99
        ),
    );
    text.extend(lengths.bars().into_iter().map(|bar| format!("          {bar}\n")));
    text += &labelled(
        "padding",
        &format!(
            "none; padded to the longest of each batch {:.2} positions per token, to max_length {} {:.2}",
            padding.to_longest, report.planned.max_length, padding.to_max
        ),
    );
    let tokens = count(settings::micro_batch_tokens(&report.planned.config) as u64);
    let auto = if report.auto_tokens { " (auto)" } else { "" };
    text + &labelled("batch", &format!("micro-batches of up to {tokens} tokens{auto}"))
}

pub fn model(report: &Report) -> String {
    let (all, trained) = report.planned.parameters();
    let part = if all == trained { String::new() } else { format!(", {} of them trained", count(trained)) };
    labelled("model", &format!("{}: {} parameters{part}", report.name(), count(all)))
}

/// Returns a table for each precision and activation checkpointing, and one of all-gathers and collectives.
fn memory(report: &Report) -> String {
    let ranks = if report.ranks == 1 { "one rank".into() } else { format!("each of {} ranks", report.ranks) };
    let mut text = labelled("memory", &format!("peak of {ranks} (each kind peaks at its own time)"));
    let name = |way: &Variant| format!("{}{}", way.zero.stage(), if way.configured { " *" } else { "" });
    for ways in report.ways.chunk_by(|a, b| (a.precision, a.recompute) == (b.precision, b.recompute)) {
        let how = checkpointing(ways[0].recompute).replace(" and ", " with ");
        text += &below(&format!("{}{how}", ways[0].precision));
        let row = |way: &Variant| stage_row(name(way), &way.need, report.fits(way));
        text += &table(&STAGE_COLUMNS, &ways.iter().map(row).collect::<Vec<_>>());
        text += "\n";
    }
    let auto = report.planned.config.parallel.zero_stage == ZeroStage::Auto;
    if let Some(way) = report.ways.iter().find(|way| way.configured) {
        let lowest = if auto { ", the lowest stage that fits" } else { "" };
        text += &below(&format!("* as configured{lowest}; its peak is {}", phase(report, way.need.at)));
        text += &host(report, &way.need);
    } else if auto {
        text += &below("zero_stage = \"auto\": no stage fits with the configured precision and checkpointing");
    }
    text += &limits(report);
    text += &below("All-gather for the checkpoint, and the largest collective:");
    // Activation checkpointing changes neither.
    let first = report.ways[0].recompute;
    let row = |way: &Variant| {
        let [.., gathered] = way.need.peak.map(size);
        vec![way.zero.stage().to_string(), way.precision.to_string(), gathered, size(way.largest_group)]
    };
    let rows: Vec<Vec<String>> = report.ways.iter().filter(|way| way.recompute == first).map(row).collect();
    text += &table(&["ZeRO", "precision", "checkpoint all-gather", "largest collective"], &rows);
    text + "\n"
}

/// Returns the host memory of a rank and of a node, and whether this machine has as much.
pub fn host(report: &Report, need: &MemoryEstimate) -> String {
    if need.host == 0.0 {
        return String::new();
    }
    let all = need.host * report.ranks_here as f64;
    let here = available_bytes().map_or_else(String::new, |free| {
        let verdict = if all <= free as f64 { "" } else { ", less than that" };
        format!("; this machine has {} free{verdict}", size(free as f64))
    });
    let (one, ranks) = (size(need.host), ranks(report.ranks_here));
    below(&format!("host memory for optimizer state: {one} per rank, {} for {ranks} of a node{here}", size(all)))
}

/// Returns what is not counted, and the memory limit.
pub fn limits(report: &Report) -> String {
    let mut text = String::new();
    if report.planned.assumed {
        text += &below("evaluation is not counted: no evaluation data is assumed");
    }
    if let Some(limit) = &report.limit {
        text += &below(&format!("fits: within {}, {}", size(limit.bytes), limit.of));
    }
    text
}

pub fn phase(report: &Report, at: Phase) -> String {
    let name = |block: usize| report.planned.shaped.model.block_name(block);
    match at {
        Phase::Update => "in the optimizer update".into(),
        Phase::Teacher => "in the forward pass of the teacher".into(),
        Phase::Forward(block) => format!("in the forward pass of {}", name(block)),
        Phase::Backward(block) => format!("in the backward pass of {}", name(block)),
        Phase::Evaluation => "in evaluation".into(),
        Phase::Saving => "when saving".into(),
    }
}

/// Returns the disk space of the run, and whether it is available.
pub fn storage(report: &Report) -> String {
    let storage = &report.storage;
    let mut text = format!(
        "final model {}, each checkpoint {}; at most {} checkpoint{} at a time: {} in total",
        human(storage.model),
        human(storage.checkpoint),
        storage.checkpoints,
        if storage.checkpoints == 1 { "" } else { "s" },
        human(storage.most)
    );
    if let Some((folder, free)) = &report.free {
        let verdict = if *free >= storage.most {
            ""
        } else {
            ": not enough; set train.save_total_limit, save less often, or write elsewhere"
        };
        text += &format!("; free at {}: {}{verdict}", folder.display(), human(*free));
    }
    labelled("disk", &text)
}

pub fn measured(report: &Report) -> String {
    let Some(Correction { world, step, taken, planned, need, timed }) = &report.measured else { return String::new() };
    let mut text = labelled(
        "measured",
        &format!(
            "step {step} with the longest batch, on {}: {}, planned {}, off by a factor of {:.2}",
            ranks(*world),
            seconds(taken.seconds),
            seconds(planned.seconds),
            taken.seconds / planned.seconds
        ),
    );
    text += &below(&format!(
        "peak memory of a rank's tensors {}, planned {}: off by {:+.1} %",
        human(taken.peak),
        size(need.step),
        100.0 * (taken.peak as f64 / need.step - 1.0)
    ));
    if !timed.is_empty() {
        let network = &report.network;
        let (link, place) = match *world <= network.ranks_per_node {
            true => (&network.near, "within a node"),
            false => (&network.far, "between nodes"),
        };
        text += &below(&format!(
            "collectives {place}: {} latency per ring step, {:.2} GB/s, and {:.2} s per GB reduced",
            seconds(link.latency),
            link.bandwidth / 1e9,
            network.near.adding * 1e9
        ));
        let row = |timed: &Timed| {
            let name = timed.action.name();
            let fitted = report.network.seconds(timed.action, timed.bytes, *world);
            let ratio = format!("{:.2}", fitted / timed.seconds);
            vec![name.to_owned(), size(timed.bytes), seconds(timed.seconds), seconds(fitted), ratio]
        };
        let rows: Vec<Vec<String>> = timed.iter().map(row).collect();
        text += &table(&["collective", "bytes", "measured", "estimated", "ratio"], &rows);
        text += "\n";
    }
    text
}

/// Returns two tables over world sizes: times, and their parts.
fn time(report: &Report) -> String {
    let network = &report.network;
    let batch = match report.planned.batch_per_rank {
        None => format!("constant global batch of {}", report.planned.config.train.global_batch_size),
        Some(n) => format!("{n} examples per rank in each global batch"),
    };
    let mut text = labelled(
        "time",
        &format!(
            "ZeRO {}, {}: {:.3} TFLOP/s in matmuls, {:.0} GB/s of memory bandwidth; {} within nodes of {} ranks, {} between",
            report.zero.stage(),
            report.device,
            report.speed.flops / 1e12,
            report.speed.bytes / 1e9,
            network.near.name,
            network.ranks_per_node,
            network.far.name
        ),
    );
    text += &below(&format!("{batch}; without evaluation and saving"));
    let first = report.rows.first().map_or(1.0, Row::per_rank);
    let times = |row: &Row| {
        vec![
            row.ranks.to_string(),
            row.global_batch.to_string(),
            seconds(row.step.seconds),
            count(row.tokens_per_second.round() as u64),
            count(row.per_rank().round() as u64),
            format!("{:.0} %", 100.0 * row.per_rank() / first),
            clock(row.run_seconds()),
        ]
    };
    let parts = |row: &Row| {
        let percent = |part: f64| format!("{:.0} %", 100.0 * part / row.step.seconds);
        vec![
            row.ranks.to_string(),
            percent(row.step.linear),
            percent(row.step.attention),
            percent(row.step.passing + row.step.update),
            percent(row.step.exposed_communication),
            size(row.step.bytes),
            size(row.step.between_hosts),
        ]
    };
    let rows = |of: &dyn Fn(&Row) -> Vec<String>| report.rows.iter().map(of).collect::<Vec<_>>();
    text += &table(&["ranks", "batch", "step", "tokens/s", "per rank", "efficiency", "run"], &rows(&times));
    text += "\n";
    text += &table(&["ranks", "linear", "attention", "memory", "exposed comm.", "sent", "to nodes"], &rows(&parts));
    text += "\n";
    let short = |row: &&Row| row.global_batch < report.planned.global_batch(row.ranks);
    if let Some(row) = report.rows.iter().find(short) {
        let examples = count(row.global_batch as u64);
        text += &below(&format!("from {} ranks on, a batch is the whole data set: {examples} examples", row.ranks));
    }
    text
}
