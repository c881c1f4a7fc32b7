//! Speed of devices and links, by name.

use super::args::PlanArgs;
use crate::comm::cores;
use crate::config::{Config, Precision, other_tool_value};
use crate::error::{Error, Result};
use crate::plan::device::{DEVICES, Device, Speed};
use crate::plan::link::{LINKS, Link, Network};
use crate::train::{measure, settings};

/// Returns a named device; `None` for `cpu`.
pub(super) fn device(name: &str) -> Result<Option<&'static Device>> {
    let names: Vec<&str> = DEVICES.iter().map(|device| device.name).collect();
    match (name, Device::named(name)) {
        ("cpu", _) => Ok(None),
        (_, Some(device)) => Ok(Some(device)),
        _ => {
            let there = || format!("{name:?} is not known; expected one of cpu, {}", names.join(", "));
            Err(Error::input(format!("--device: {}", other_tool_value("--device", name).unwrap_or_else(there))))
        }
    }
}

/// Returns the links of `--link`, or the usual ones of the device.
pub(super) fn network(args: &PlanArgs, device: Option<&Device>) -> Result<Network> {
    let usual = device.map_or(["shared-memory", "eth100"], |device| device.links);
    let asked: Vec<&str> = args.link.iter().flat_map(|names| names.split(',')).map(str::trim).collect();
    let link = |place: usize| {
        let name = asked.get(place).copied().unwrap_or(usual[place]);
        let known: Vec<&str> = LINKS.iter().map(|link| link.name).collect();
        let there = || format!("{name:?} is not known; expected one of {}", known.join(", "));
        let unknown = || Error::input(format!("--link: {}", other_tool_value("--link", name).unwrap_or_else(there)));
        Link::named(name).ok_or_else(unknown)
    };
    if asked.len() > 2 {
        return Err(Error::input("--link: at most two values: on one node, and between nodes"));
    }
    Ok(Network {
        near: link(0)?,
        far: link(1)?,
        ranks_per_node: args.ranks_per_node as usize,
        overlaps: device.is_some(),
    })
}

/// Returns the speed of a rank and the name of its device.
pub(super) fn speed(
    config: &Config,
    device: Option<&Device>,
    threads: Option<usize>,
    ranks: usize,
    efficiency: f64,
) -> (Speed, String) {
    match device {
        Some(device) => {
            let name = format!("{} at {:.0} % of its peak", device.name, 100.0 * efficiency);
            (of_device(config, device, efficiency), name)
        }
        None => {
            let own = || cores::use_our_cores(0, ranks, config.parallel.num_threads).threads;
            let threads = threads.unwrap_or_else(own);
            tch::set_num_threads(threads as i32);
            let speed = measure::speed(settings::kind(config.parallel.precision));
            (speed, format!("this CPU, {threads} thread{} per rank", if threads == 1 { "" } else { "s" }))
        }
    }
}

/// Returns the speed of a named device, with TF32 unless the configuration disables it.
pub(super) fn of_device(config: &Config, device: &Device, efficiency: f64) -> Speed {
    let half = config.parallel.precision != Precision::Fp32;
    Speed::of(device, half, config.parallel.tf32.unwrap_or(!half), efficiency)
}
