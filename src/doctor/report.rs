//! Prints facts and findings as tables, or as one JSON object.

use super::facts::{Facts, Folder, Gpus, Rank, Sweep};
use super::findings::{self, Finding, Severity};
use crate::observe::memory::human;
use crate::observe::print;
use crate::observe::table::{table, words};
use serde_json::json;

/// Maximum width of text in columns.
const WIDTH: usize = 100;

/// Format of the report, and whether this rank prints it.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub json: bool,
    pub prints: bool,
}

impl Report {
    /// Prints the facts that are known before collectives are timed.
    pub fn facts(self, facts: &Facts) {
        if self.json || !self.prints {
            return;
        }
        let mut groups = Vec::new();
        if let Some(rank) = facts.ranks.first() {
            groups.push(("Software", software(rank)));
        }
        groups.push(("GPUs", gpus_of_all(facts)));
        groups.push(("Ranks", ranks(facts)));
        if let Some(folder) = &facts.folder {
            groups.push(("Output folder", output_folder(folder)));
        }
        for (title, text) in groups {
            print(&format!("{title}\n{}\n\n", text.trim_end()));
        }
    }

    /// Prints timings and findings, or all facts as JSON. Returns the number of problems.
    pub fn findings(self, facts: &Facts) -> usize {
        let findings = findings::all(facts);
        let problems = findings::problems(&findings);
        if !self.prints {
            return problems;
        }
        if self.json {
            let object = json!({"facts": facts, "findings": findings, "problems": problems});
            print(&format!("{object}\n"));
            return problems;
        }
        let timed = match &facts.sweep {
            Some(sweep) if !sweep.rows.is_empty() => timings(sweep),
            Some(_) => "  none finished".to_owned(),
            None if facts.folder.as_ref().is_some_and(|folder| folder.error.is_some()) => "  not started".to_owned(),
            None if facts.ranks.len() < 2 => "  one rank: nothing to time (start under mpirun or srun)".to_owned(),
            None => "  skipped (--no-sweep)".to_owned(),
        };
        print(&format!("Collectives\n{timed}\n\n"));
        print(&format!("Findings\n{}\n", described(&findings).trim_end()));
        problems
    }
}

fn software(rank: &Rank) -> String {
    let (software, gpus) = (&rank.software, &rank.gpus);
    let libtorch = &software.libtorch;
    let build = libtorch.cuda.as_ref().map_or_else(|| "CPU build".to_owned(), |cuda| format!("CUDA runtime {cuda}"));
    let nccl = match (&software.nccl, &software.nccl_error) {
        (Some(nccl), _) => [nccl.version.clone(), nccl.path.clone()],
        (None, Some(_)) if gpus.driver => ["not usable".to_owned(), "-".to_owned()],
        _ => ["none".to_owned(), "-".to_owned()],
    };
    let driver = match (&software.driver, &gpus.driver_cuda) {
        _ if !gpus.driver => "none".to_owned(),
        (Some(version), Some(cuda)) => format!("{version}, up to CUDA {cuda}"),
        (None, Some(cuda)) => format!("up to CUDA {cuda}"),
        _ => "does not work".to_owned(),
    };
    let row = |name: &str, [version, place]: [String; 2]| vec![name.to_owned(), version, place];
    let started = match (&rank.launch.launcher, rank.launch.world) {
        (Some(_), 1) => "one rank".to_owned(),
        (Some(_), world) => format!("{world} ranks"),
        (None, _) => "none".to_owned(),
    };
    let mut rows = vec![
        row("trainer", [software.trainer.version.clone(), software.trainer.path.clone()]),
        row("libtorch", [format!("{}, {build}", libtorch.version), libtorch.path.clone()]),
        row("NVIDIA driver", [driver, "-".to_owned()]),
        row("NCCL", nccl),
        row("MPI", [software.mpi.version.clone(), software.mpi.path.clone()]),
        row("launcher", [started, rank.launch.launcher.clone().unwrap_or_else(|| "-".to_owned())]),
    ];
    if let Some(kernels) = &software.kernels {
        rows.insert(4, row("CUDA kernels", [kernels.clone(), "-".to_owned()]));
    }
    words(&["", "version", "path"], &rows)
}

/// Lists the GPUs of each host; hosts with the same GPUs are listed together.
fn gpus_of_all(facts: &Facts) -> String {
    let mut shown: Vec<(Vec<&str>, String)> = Vec::new();
    for (host, ranks) in facts.hosts() {
        let text = gpus(ranks[0]);
        match shown.iter_mut().find(|(_, known)| *known == text) {
            Some((hosts, _)) => hosts.push(&host.name),
            None => shown.push((vec![&host.name], text)),
        }
    }
    shown.iter().map(|(hosts, text)| format!("  {}: {text}", hosts.join(", "))).collect()
}

fn gpus(rank: &Rank) -> String {
    let Gpus { host: all, visible, links, nvml_error, .. } = &rank.gpus;
    let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
    let rows: Vec<Vec<String>> = match all.is_empty() {
        false => all
            .iter()
            .map(|gpu| {
                let node = or_unknown(gpu.numa_node.map(|node| node.to_string()));
                vec![gpu.index.to_string(), gpu.name.clone(), human(gpu.memory_bytes), node, gpu.bus_id.clone()]
            })
            .collect(),
        true => visible
            .iter()
            .enumerate()
            .map(|(i, gpu)| {
                vec![i.to_string(), gpu.name.clone(), human(gpu.memory_bytes), or_unknown(None), gpu.bus_id.clone()]
            })
            .collect(),
    };
    if rows.is_empty() {
        let why = match (&rank.gpus.driver_error, rank.gpus.driver) {
            (Some(e), _) => e.clone(),
            (None, true) => "none is visible".to_owned(),
            (None, false) => "no NVIDIA driver".to_owned(),
        };
        return format!("none ({why})\n");
    }
    let mut text = format!("\n{}\n", words(&["GPU", "name", "memory", "NUMA node", "PCI id"], &rows));
    match (links.is_empty(), nvml_error) {
        (false, _) => {
            let row = |link: &super::facts::Link| {
                let access = link.peer_access.map(|can| if can { "yes" } else { "no" }.to_owned());
                let between = format!("{} - {}", link.between.0, link.between.1);
                vec![between, or_unknown(link.way.clone()), or_unknown(access)]
            };
            let rows: Vec<_> = links.iter().map(row).collect();
            text += &format!("{}\n", words(&["GPUs", "link", "peer access"], &rows));
        }
        (true, Some(e)) if rows.len() > 1 => {
            text += &wrapped(&format!("links between them: unknown ({e})"), "  ");
        }
        _ => {}
    }
    text
}

/// Describes a rank's device; a GPU by its number in the table of its host, which lists the GPUs of `first`.
fn device(rank: &Rank, first: &Rank) -> String {
    let Some(gpu) = rank.gpu().filter(|_| rank.gpus.libtorch > 0) else { return "CPU".to_owned() };
    let Gpus { host, visible, .. } = &first.gpus;
    let number = match host.is_empty() {
        false => host.iter().find(|other| other.bus_id == gpu.bus_id).map(|other| other.index),
        true => visible.iter().position(|other| other.bus_id == gpu.bus_id),
    };
    number.map_or_else(|| format!("GPU {}", gpu.bus_id), |number| format!("GPU {number}"))
}

fn ranks(facts: &Facts) -> String {
    let hosts = facts.hosts();
    let first = |rank: &Rank| hosts.iter().find(|(host, _)| **host == rank.host).map(|(_, ranks)| ranks[0]);
    let row = |rank: &Rank| {
        let device = device(rank, first(rank).unwrap_or(rank));
        let cores = format!("{} of {}", list(&rank.cores.used), rank.cores.host);
        let memory = rank.memory.available_bytes.map_or_else(|| "unknown".to_owned(), human);
        let shared = rank.memory.shared_free_bytes.map_or_else(|| "none".to_owned(), human);
        let numbers = [rank.rank.to_string(), rank.host.name.clone(), device, cores, rank.cores.threads.to_string()];
        [numbers.to_vec(), vec![memory, shared]].concat()
    };
    let head = ["rank", "host", "device", "CPUs", "threads", "host memory", "shared memory"];
    let table = table(&head, &facts.ranks.iter().map(row).collect::<Vec<_>>());
    let slowest = facts.ranks.iter().filter_map(|rank| Some((rank, rank.cores.gigaflops?)));
    let slowest = slowest.min_by(|(_, [a, b]), (_, [c, d])| (b / a).total_cmp(&(d / c)));
    let Some((rank, [one, all])) = slowest else { return table };
    let (number, threads) = (rank.rank, rank.cores.threads);
    let speed = format!(
        "rank {number}: {threads} threads are {:.2} x as fast as one ({all:.0} and {one:.0} GFLOP/s)",
        all / one
    );
    format!("{table}\n  {speed}")
}

/// Formats a CPU list like the kernel: "0-3,8".
fn list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

fn output_folder(folder: &Folder) -> String {
    let mut lines = vec![match folder.named == folder.path {
        true => folder.path.clone(),
        false if folder.path.is_empty() => folder.named.clone(),
        false => format!("{} (checked: {})", folder.named, folder.path),
    }];
    if let (Some(total), Some(free)) = (folder.total_bytes, folder.free_bytes) {
        let kind = folder.file_system.as_deref().unwrap_or("unknown");
        lines.push(format!("{} free of {} ({kind})", human(free), human(total)));
    }
    if let (Some(bytes), Some(seconds)) = (folder.written_bytes, folder.written_seconds) {
        lines.push(format!(
            "write speed {}/s, flushed to disk ({})",
            human((bytes as f64 / seconds) as u64),
            human(bytes)
        ));
    }
    if let Some(error) = &folder.error {
        lines.push(format!("not checked further: {error}"));
        return lines.iter().map(|line| format!("  {line}\n")).collect();
    }
    lines.push(match folder.hosts.iter().all(|host| host.not_seen.is_empty() && host.write_error.is_none()) {
        _ if folder.hosts.is_empty() => "one host: need not be shared".to_owned(),
        true => format!("the same folder on all {} hosts", folder.hosts.len()),
        false => format!("not the same folder on all {} hosts", folder.hosts.len()),
    });
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn timings(sweep: &Sweep) -> String {
    let rate = |bytes_a_second: f64| format!("{:.2}", bytes_a_second / 1e9);
    let row = |(i, row): (usize, &super::facts::Timing)| {
        let first = i == 0 || sweep.rows[i - 1].collective != row.collective;
        let name = if first { row.collective.clone() } else { String::new() };
        vec![name, size(row.bytes), time(row.seconds), rate(row.algorithm_bandwidth), rate(row.bus_bandwidth)]
    };
    let rows: Vec<_> = sweep.rows.iter().enumerate().map(row).collect();
    let head = [sweep.backend.as_str(), "buffer", "time", "algorithm GB/s", "bus GB/s"];
    table(&head, &rows)
}

/// Formats a buffer size, which is a power of two.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        ..1e-3 => format!("{:.0} us", seconds * 1e6),
        1e-3..1.0 => format!("{:.2} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

fn described(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "  no problems found".to_owned();
    }
    let text = |finding: &Finding| {
        let word = match finding.severity {
            Severity::Problem => "PROBLEM",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let lines = [("", &finding.seen), ("why: ", &finding.why), ("do: ", &finding.remedy)];
        let body: String = lines.map(|(word, text)| wrapped(&format!("{word}{text}"), "    ")).concat();
        format!("  {word}  {}\n{body}", finding.id)
    };
    findings.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Wraps text to indented lines of at most [`WIDTH`] columns; longer words get their own line.
fn wrapped(text: &str, indent: &str) -> String {
    let (mut lines, mut line) = (String::new(), indent.to_owned());
    for word in text.split_whitespace() {
        if line.len() > indent.len() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{line}\n");
            line = indent.to_owned();
        }
        if line.len() > indent.len() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted() {
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!((size(1024), size(64 << 20)), ("1 KiB".to_owned(), "64 MiB".to_owned()));
        assert_eq!([time(12e-6), time(0.0345), time(2.0)], ["12 us", "34.50 ms", "2.00 s"]);
    }

    #[test]
    fn a_gpu_has_the_number_of_the_table() {
        use crate::doctor::facts::{HostGpu, VisibleGpu};
        let bus_id = |i: usize| format!("0000:{i:02x}:00.0");
        let host_gpu = |index| HostGpu { index, bus_id: bus_id(index), ..HostGpu::default() };
        let visible_gpu = |i| VisibleGpu { bus_id: bus_id(i), ..VisibleGpu::default() };
        let rank = |visible: &[usize], mine| {
            let visible: Vec<VisibleGpu> = visible.iter().copied().map(visible_gpu).collect();
            let (libtorch, host) = (visible.len(), (0..4).map(host_gpu).collect());
            Rank { gpus: Gpus { host, visible, libtorch, mine: Some(mine), ..Gpus::default() }, ..Rank::default() }
        };
        // CUDA_VISIBLE_DEVICES=2,3
        let [zero, one] = [rank(&[2, 3], 0), rank(&[2, 3], 1)];
        assert_eq!([device(&zero, &zero), device(&one, &zero)], ["GPU 2", "GPU 3"]);
        // Without NVML the table lists the GPUs of the host's first rank.
        let [mut first, other] = [rank(&[2], 0), rank(&[3], 0)];
        first.gpus.host.clear();
        assert_eq!([device(&first, &first), device(&other, &first)], ["GPU 0", "GPU 0000:03:00.0"]);
        let blind = Rank { gpus: Gpus { libtorch: 0, ..zero.gpus.clone() }, ..Rank::default() };
        assert_eq!(device(&blind, &zero), "CPU");
    }

    #[test]
    fn long_lines_are_wrapped() {
        let text = wrapped(&"word ".repeat(50), "    ");
        assert!(
            text.lines().count() == 3 && text.lines().all(|line| line.starts_with("    word") && line.len() <= WIDTH)
        );
    }
}
