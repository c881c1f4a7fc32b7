//! The plan as JSON.

use super::report::{Correction, Report};
use crate::plan::fit::Timed;
use crate::plan::memory::KINDS;
use crate::plan::scaling::Row;
use crate::train::planned_run::Variant;
use crate::train::settings;
use serde_json::{Map, Value, json};

/// Returns the plan as one object; sizes are in bytes, times in seconds.
pub fn of(report: &Report) -> Value {
    let (lengths, padding, storage) = (&report.lengths, &report.padding, &report.storage);
    let (parameters, trained) = report.planned.parameters();
    json!({
        "data": {
            "examples": lengths.examples, "tokens": lengths.tokens, "steps": report.steps,
            "steps_per_epoch": report.steps_per_epoch,
            "global_batch_size": report.batch(),
            "micro_batch_tokens": settings::micro_batch_tokens(&report.planned.config),
            "lengths": {
                "shortest": lengths.shortest, "mean": lengths.mean(), "median": lengths.median, "p90": lengths.p90,
                "p99": lengths.p99, "longest": lengths.longest,
                "histogram": lengths.histogram.iter().map(|(from, to, n)| json!([from, to, n])).collect::<Vec<_>>(),
            },
            "padding_ratio": {"to_longest": padding.to_longest, "to_max_length": padding.to_max},
        },
        "model": {"parameters": parameters, "trained": trained},
        "ranks": report.ranks,
        "memory_limit": report.limit.as_ref().map(|limit| limit.bytes),
        "memory": report.ways.iter().map(|way| memory(report, way)).collect::<Vec<_>>(),
        "disk": {
            "model": storage.model, "checkpoint": storage.checkpoint, "checkpoints": storage.checkpoints,
            "most": storage.most, "free": report.free.as_ref().map(|(_, free)| free),
        },
        "time": {
            "zero_stage": report.zero.stage(), "device": report.device, "flops": report.speed.flops,
            "memory_bandwidth": report.speed.bytes,
            "links": [report.network.near.name, report.network.far.name],
            "ranks_per_node": report.network.ranks_per_node,
            "measured": report.measured.as_ref().map(|measured| correction(report, measured)),
            "worlds": report.rows.iter().map(row).collect::<Vec<_>>(),
        },
    })
}

fn correction(report: &Report, measured: &Correction) -> Value {
    let Correction { world, step, taken, planned, need, timed } = measured;
    let collective = |timed: &Timed| {
        let name = timed.action.name();
        let fitted = report.network.seconds(timed.action, timed.bytes, *world);
        json!({"action": name, "bytes": timed.bytes, "seconds": timed.seconds, "by_model": fitted})
    };
    json!({
        "ranks": world, "step": step, "step_seconds": taken.seconds, "planned_seconds": planned.seconds,
        "peak": taken.peak, "planned_peak": need.step.round() as u64,
        "collectives": timed.iter().map(collective).collect::<Vec<_>>(),
    })
}

fn memory(report: &Report, way: &Variant) -> Value {
    let bytes = |n: f64| n.round() as u64;
    let peak: Map<String, Value> =
        KINDS.iter().zip(way.need.peak).map(|(kind, n)| ((*kind).to_owned(), json!(bytes(n)))).collect();
    json!({
        "zero_stage": way.zero.stage(), "precision": way.precision, "recompute": way.recompute, "peak": peak,
        "total": bytes(way.need.total), "host": bytes(way.need.host), "kept": way.need.kept.map(bytes), "largest_collective": bytes(way.largest_group),
        "fits": report.fits(way), "configured": way.configured,
    })
}

fn row(row: &Row) -> Value {
    let step = &row.step;
    json!({
        "ranks": row.ranks, "global_batch_size": row.global_batch, "steps": row.steps, "step_seconds": step.seconds,
        "linear": step.linear, "attention": step.attention, "memory": step.passing + step.update, "update": step.update,
        "exposed_communication": step.exposed_communication, "collectives": step.collectives, "communicated_bytes": step.bytes,
        "inter_host_bytes": step.between_hosts,
        "tokens_per_step": row.tokens, "tokens_per_second": row.tokens_per_second,
        "tokens_per_second_per_rank": row.per_rank(), "flops": row.flops, "imbalance": row.imbalance,
        "run_seconds": row.run_seconds(),
    })
}
