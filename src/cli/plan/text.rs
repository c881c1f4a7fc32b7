//! A plan for a person.

use super::Report;
use super::measured::Correction;
use crate::config::{Precision, Recompute, ZeroStage};
use crate::observe::memory::human;
use crate::observe::progress::clock;
use crate::observe::table::table;
use crate::plan::fit::Timed;
use crate::plan::memory::Moment;
use crate::plan::scaling::Row;
use crate::train::outlook::Way;
use crate::train::settings;

/// All of it.
pub fn of(report: &Report) -> String {
    let parts = [data(report), model(report), memory(report), storage(report), measured(report), time(report)];
    parts.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("\n") + "\n"
}

fn size(bytes: f64) -> String {
    human(bytes.round() as u64)
}

/// A whole number with commas.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn data(report: &Report) -> String {
    let (lengths, padding) = (&report.lengths, &report.padding);
    let epochs = report.steps as f64 / report.steps_per_epoch as f64;
    let mut lines = vec![
        format!(
            "data      {} examples, {} tokens an epoch; {} steps of {} examples, {} an epoch: {epochs:.2} epochs",
            count(lengths.examples),
            count(lengths.tokens),
            count(report.steps),
            report.batch(),
            count(report.steps_per_epoch)
        ),
        format!(
            "lengths   {} to {} tokens, mean {:.1}, median {}, 90 % up to {}, 99 % up to {}",
            lengths.shortest,
            lengths.longest,
            lengths.mean(),
            lengths.median,
            lengths.p90,
            lengths.p99
        ),
    ];
    lines.extend(lengths.bars().into_iter().map(|bar| format!("          {bar}")));
    lines.push(format!(
        "padding   none here; to the longest of each batch it would be {:.2} places a token, to max_length {} {:.2}",
        padding.to_longest, report.outlook.max_length, padding.to_max
    ));
    lines.push(format!(
        "batch     micro-batches of up to {} tokens{}",
        count(settings::micro_batch_tokens(&report.outlook.config) as u64),
        if report.auto_tokens { " (auto)" } else { "" }
    ));
    lines.join("\n") + "\n"
}

fn model(report: &Report) -> String {
    let (all, trained) = report.outlook.parameters();
    let part = if all == trained { String::new() } else { format!(", {} of them trained", count(trained)) };
    format!("model     {}: {} parameters{part}\n", report.name(), count(all))
}

fn precision(precision: Precision) -> String {
    precision.to_string()
}

fn recompute(recompute: Recompute) -> String {
    match recompute {
        Recompute::None => "none".into(),
        Recompute::All => "all".into(),
        Recompute::KeepEvery(n) => n.to_string(),
    }
}

fn memory(report: &Report) -> String {
    let row = |way: &Way| {
        let [weights, gradients, optimizer, activations, communication] = way.need.peak.map(size);
        let verdict = match report.fits(way) {
            None => "",
            Some(true) => "yes",
            Some(false) => "no",
        };
        let mark = if way.configured { " *" } else { "" };
        vec![
            format!("{}{mark}", way.zero.stage()),
            precision(way.precision),
            recompute(way.recompute),
            weights,
            gradients,
            optimizer,
            activations,
            communication,
            size(way.need.total),
            size(way.largest_group),
            verdict.into(),
        ]
    };
    let rows: Vec<Vec<String>> = report.ways.iter().map(row).collect();
    let head = [
        "ZeRO",
        "precision",
        "recompute",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "gathered to save",
        "peak",
        "largest collective",
        "fits",
    ];
    let ranks = if report.ranks == 1 { "one rank".into() } else { format!("each of {} ranks", report.ranks) };
    let mut text = format!("memory    the most that {ranks} holds (kinds have their peaks at different times)\n");
    text += &table(&head, &rows);
    text += "\n";
    let auto = report.outlook.config.parallel.zero_stage == ZeroStage::Auto;
    if let Some(way) = report.ways.iter().find(|way| way.configured) {
        let lowest = if auto { ", the lowest stage that fits" } else { "" };
        text += &format!("          * as configured{lowest}; its peak is {}\n", moment(report, way.need.at));
    } else if auto {
        text += "          zero_stage = \"auto\": at the configured precision and recomputation no stage fits\n";
    }
    if report.outlook.assumed {
        text += "          evaluation is not counted: no data is assumed for it\n";
    }
    if let Some(limit) = &report.limit {
        text += &format!("          fits: into {}, {}\n", size(limit.bytes), limit.of);
        if !report.ways.iter().any(|way| report.fits(way) == Some(true)) {
            text += &remedy(report, limit.bytes);
        }
    }
    text
}

fn moment(report: &Report, at: Moment) -> String {
    let name = |stage: usize| report.outlook.shaped.model.stage_name(stage);
    match at {
        Moment::Update => "while the optimizer updates".into(),
        Moment::Forward(stage) => format!("in the forward pass of {}", name(stage)),
        Moment::Backward(stage) => format!("in the backward pass of {}", name(stage)),
        Moment::Evaluation => "while it evaluates".into(),
        Moment::Saving => "while it saves".into(),
    }
}

/// What would help where nothing fits.
fn remedy(report: &Report, limit: f64) -> String {
    let Some(least) = report.ways.iter().min_by(|a, b| a.need.total.total_cmp(&b.need.total)) else {
        return String::new();
    };
    let [weights, gradients, optimizer, activations, _] = least.need.peak;
    let mut ways = Vec::new();
    if activations > limit / 2.0 {
        let tokens = settings::micro_batch_tokens(&report.outlook.config);
        if report.lengths.longest as usize >= tokens {
            ways.push("a smaller data.max_length (a micro-batch is a single example already)");
        } else {
            ways.push("a smaller train.micro_batch_tokens");
        }
    }
    if weights + gradients + optimizer > limit / 2.0 {
        ways.push("more ranks (--ranks): at stage 3 what a rank keeps falls with their number");
        ways.push("model.freeze for a part of the weights");
    }
    if ways.is_empty() {
        ways.push("more memory a rank, or a smaller model");
    }
    format!("          nothing fits: the least is {}. What helps: {}\n", size(least.need.total), ways.join("; "))
}

fn storage(report: &Report) -> String {
    let storage = &report.storage;
    let mut text = format!(
        "disk      final model {}, a checkpoint {}; at most {} checkpoint{} at a time: {} in all",
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
            ": too little; set train.save_total_limit, save less often, or write elsewhere"
        };
        text += &format!("; free at {}: {}{verdict}", folder.display(), human(*free));
    }
    text + "\n"
}

fn measured(report: &Report) -> String {
    let Some(Correction { world, step, taken, planned, need, timed }) = &report.measured else { return String::new() };
    let ranks = if *world == 1 { "one rank".into() } else { format!("{world} ranks") };
    let mut text = format!(
        "measured  step {step}, the one with the longest batch, on {ranks}: {}, planned {}, off by a factor of {:.2}\n",
        seconds(taken.seconds),
        seconds(planned.seconds),
        taken.seconds / planned.seconds
    );
    text += &format!(
        "          a rank's tensors held at most {}, planned {}: off by {:+.1} %\n",
        human(taken.peak),
        size(need.step),
        100.0 * (taken.peak as f64 / need.step - 1.0)
    );
    if !timed.is_empty() {
        let network = &report.network;
        let (link, place) = match *world <= network.ranks_per_node {
            true => (&network.near, "on this machine"),
            false => (&network.far, "between machines"),
        };
        text += &format!(
            "          collectives {place}: {} a step of a ring, {:.2} GB/s, and {:.2} s to add a GB\n",
            seconds(link.latency),
            link.bandwidth / 1e9,
            network.near.adding * 1e9
        );
        let row = |timed: &Timed| {
            let name = timed.action.name();
            let fitted = report.network.seconds(timed.action, timed.bytes, *world);
            let ratio = format!("{:.2}", fitted / timed.seconds);
            vec![name.to_owned(), size(timed.bytes), seconds(timed.seconds), seconds(fitted), ratio]
        };
        let rows: Vec<Vec<String>> = timed.iter().map(row).collect();
        text += &table(&["collective", "bytes", "measured", "by the model", "ratio"], &rows);
        text += "\n";
    }
    text
}

fn time(report: &Report) -> String {
    let network = &report.network;
    let batch = match report.outlook.batch_per_rank {
        None => format!("a global batch of {} whatever the ranks", report.outlook.config.train.global_batch_size),
        Some(n) => format!("{n} examples a rank in each global batch"),
    };
    let mut text = format!(
        "time      ZeRO {}, {}: {:.3} TFLOP/s in products, {:.0} GB/s in memory; {} within machines of {} ranks, {} between\n          {batch}; evaluation and saving not counted\n",
        report.zero.stage(),
        report.device,
        report.speed.flops / 1e12,
        report.speed.bytes / 1e9,
        network.near.name,
        network.ranks_per_node,
        network.far.name
    );
    let first = report.rows.first().map_or(1.0, Row::per_rank);
    let row = |row: &Row| {
        let share = |part: f64| format!("{:.0} %", 100.0 * part / row.step.seconds);
        vec![
            row.ranks.to_string(),
            row.global_batch.to_string(),
            seconds(row.step.seconds),
            share(row.step.linear),
            share(row.step.attention),
            share(row.step.passing + row.step.update),
            share(row.step.waiting),
            size(row.step.bytes),
            count(row.tokens_per_second.round() as u64),
            count(row.per_rank().round() as u64),
            format!("{:.0} %", 100.0 * row.per_rank() / first),
            clock(row.run_seconds()),
        ]
    };
    let head = [
        "ranks",
        "batch",
        "step",
        "linear",
        "attention",
        "memory",
        "waiting",
        "sent",
        "tokens/s",
        "a rank",
        "efficiency",
        "run",
    ];
    text += &table(&head, &report.rows.iter().map(row).collect::<Vec<_>>());
    text += "\n";
    let short = |row: &&Row| row.global_batch < report.outlook.global_batch(row.ranks);
    if let Some(row) = report.rows.iter().find(short) {
        text += &format!(
            "          from {} ranks on a batch is larger than the data: all {} examples\n",
            row.ranks,
            count(row.global_batch as u64)
        );
    }
    text
}

/// A short time for a person.
fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
