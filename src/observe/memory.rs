//! Memory of this process and of its host.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the peak resident set of this process in bytes (`ru_maxrss` of getrusage(2), in KiB on Linux).
pub fn peak_rss_bytes() -> u64 {
    // SAFETY: getrusage fills the structure that it is given; all zeros is a valid value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss.cast_unsigned() * 1024
}

/// Returns the resident set of this process in bytes (`VmRSS` of proc_pid_status(5), in KiB); `None` if unknown.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    number_after(&status, "VmRSS:").map(|kib| kib * 1024)
}

/// Returns the bytes available to this process: the minimum of the host's `MemAvailable` and what each of its control
/// groups has left below its limit. All ranks of a host share them. `None` if unknown.
pub fn available_bytes() -> Option<u64> {
    let host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = control_groups(&groups).into_iter().filter_map(|(version, folder)| left_in(version, &folder));
    left.chain(host).min()
}

/// Parses `MemAvailable` of proc_meminfo(5), which is in KiB.
fn mem_available(meminfo: &str) -> Option<u64> {
    number_after(meminfo, "MemAvailable:").map(|kib| kib * 1024)
}

/// Memory files of a control group (cgroups(7); the kernel's cgroup-v1 and cgroup-v2 documents).
#[derive(Debug, PartialEq, Eq)]
struct Version {
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// The key of `memory.stat` for cached files that the kernel can reclaim.
    cached: &'static str,
}

const V1: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: "total_inactive_file",
};
const V2: Version =
    Version { root: "/sys/fs/cgroup", limit: "memory.max", usage: "memory.current", cached: "inactive_file" };

/// Returns the folders of this process's control groups and of all their parents, whose limits also apply.
fn control_groups(text: &str) -> Vec<(&'static Version, PathBuf)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let version = match controllers {
            "" => &V2,
            list if list.split(',').any(|name| name == "memory") => &V1,
            _ => continue,
        };
        let above = Path::new(path.trim_start_matches('/'));
        found.extend(above.ancestors().map(|path| (version, Path::new(version.root).join(path))));
    }
    found
}

/// Returns the bytes left in one group; `None` without a limit.
fn left_in(version: &Version, folder: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(folder.join(name)).ok();
    let stat = read("memory.stat").unwrap_or_default();
    left(&read(version.limit)?, &read(version.usage)?, &stat, version.cached)
}

/// Computes limit minus usage without cached files. The limit `max` means none.
fn left(limit: &str, usage: &str, stat: &str, cached: &str) -> Option<u64> {
    let (limit, usage): (u64, u64) = (limit.trim().parse().ok()?, usage.trim().parse().ok()?);
    let cached = number_after(stat, cached).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(cached)))
}

/// Parses the number after `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// Formats bytes: `1.4 GB`.
pub fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read() {
        let text = "MemTotal:       24689312 kB\nMemFree:         1000000 kB\nMemAvailable:   23456789 kB\n";
        assert_eq!(mem_available(text), Some(23456789 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
        let available = available_bytes().expect("Linux reports it");
        assert!(available > 1 << 20, "{available}");
    }

    #[test]
    fn this_process_is_resident() {
        let resident = resident_bytes().expect("Linux reports it");
        assert!((1 << 20..=peak_rss_bytes() + (1 << 20)).contains(&resident), "{resident}");
    }

    #[test]
    fn groups_are_found_with_those_above() {
        let folders = |text| control_groups(text).into_iter().map(|(_, path)| path).collect::<Vec<_>>();
        let v2: Vec<PathBuf> =
            ["/sys/fs/cgroup/job/step", "/sys/fs/cgroup/job", "/sys/fs/cgroup/"].map(PathBuf::from).into();
        assert_eq!(folders("0::/job/step\n"), v2);
        let v1 = "4:cpu,cpuacct:/\n3:hugetlb,memory:/slurm\n1:name=systemd:/a:b\n";
        assert_eq!(folders(v1), ["/sys/fs/cgroup/memory/slurm", "/sys/fs/cgroup/memory/"].map(PathBuf::from));
        assert_eq!(control_groups("0::/\n"), [(&V2, PathBuf::from("/sys/fs/cgroup/"))]);
        assert!(control_groups("nonsense\n").is_empty());
    }

    #[test]
    fn what_is_left_of_a_limit() {
        let stat = "anon 100\nfile 70\ninactive_file 50\ntotal_inactive_file 60\n";
        assert_eq!(left("1000\n", "300\n", stat, V2.cached), Some(750));
        assert_eq!(left("1000\n", "300\n", stat, V1.cached), Some(760));
        assert_eq!(left("1000", "300", "", V2.cached), Some(700));
        assert_eq!(left("1000", "1200", stat, V2.cached), Some(0));
        assert_eq!(left("max\n", "300\n", stat, V2.cached), None);
        // In version 1, a very large number means no limit.
        assert_eq!(left("9223372036854771712", "300", "", V1.cached), Some(9223372036854771412));
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!((human(999), human(1_400_000_000)), ("999 B".to_owned(), "1.4 GB".to_owned()));
    }
}
