//! The memory of this process.

/// The largest resident set of this process so far, in bytes (`ru_maxrss` of getrusage(2), which Linux counts in KiB).
pub fn peak_rss_bytes() -> u64 {
    // SAFETY: getrusage fills the structure that it is given; all zeros is a valid value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss.cast_unsigned() * 1024
}

/// Bytes for a person: `1.4 GB`.
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

pub fn available_bytes() -> Option<u64> {
    None
}
