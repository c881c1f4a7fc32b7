//! TCP connections of this process: they show an unreachable host long before a connection breaks.

use rustix::net::sockopt;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Interval of probes on idle connections after a suspected problem.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Number of unanswered probes after which the kernel closes a connection, its maximum. Waiting ranks give up earlier.
const PROBES: u32 = 127;
/// Number of unanswered probes that indicate an unreachable host.
const UNANSWERED: u32 = 2;

/// Returns the hosts that have not acknowledged retransmitted data or answered [`Probes`].
pub fn silent_hosts() -> Vec<IpAddr> {
    let ours: BTreeSet<u64> = sockets().into_iter().map(|(_, inode)| inode).collect();
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let silent: BTreeSet<IpAddr> = tables.iter().flat_map(|table| silent_in(table, &ours)).collect();
    silent.into_iter().collect()
}

/// Probes idle connections as long as it exists. A connection without data under way does not show an unreachable host;
/// TCP keep-alive probes do, and the kernel answers them even if the process is busy or stopped.
pub struct Probes(Vec<OwnedFd>);

impl Probes {
    /// Starts the probes. Does nothing if the kernel forbids it (a seccomp filter without `pidfd_getfd`).
    pub fn start() -> Probes {
        let Ok(this) = pidfd_open(getpid(), PidfdFlags::empty()) else { return Probes(Vec::new()) };
        let idle = |number| {
            // Duplicate the descriptor: its owner may close it.
            let socket = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok()?;
            // Do not change connections that use keep-alive already.
            (!sockopt::socket_keepalive(&socket).ok()?).then_some(())?;
            sockopt::set_tcp_keepcnt(&socket, PROBES).ok()?;
            sockopt::set_tcp_keepintvl(&socket, PROBE_EVERY).ok()?;
            sockopt::set_tcp_keepidle(&socket, PROBE_EVERY).ok()?;
            sockopt::set_socket_keepalive(&socket, true).ok()?;
            Some(socket)
        };
        Probes(sockets().into_iter().filter_map(|(number, _)| idle(number)).collect())
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for socket in &self.0 {
            // Ignore connections that broke meanwhile.
            let _ = sockopt::set_socket_keepalive(socket, false);
        }
    }
}

/// Returns the descriptors and inodes of this process's sockets.
fn sockets() -> Vec<(i32, u64)> {
    let inode = |target: &str| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    let socket = |link: fs::DirEntry| {
        Some((link.file_name().to_str()?.parse().ok()?, inode(fs::read_link(link.path()).ok()?.to_str()?)?))
    };
    fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().filter_map(socket).collect()
}

/// Parses a table of proc_pid_net(5)'s `tcp` or `tcp6`; returns the remote addresses of our sockets that retransmit or
/// whose probes are unanswered. Columns: number, local address, remote address, state, queues, timer (1:
/// retransmission, 2: keep-alive) and when, retransmissions, user, unanswered probes, inode.
fn silent_in(table: &str, ours: &BTreeSet<u64>) -> Vec<IpAddr> {
    let remote = |line: &str| {
        let column: Vec<&str> = line.split_whitespace().collect();
        let inode: u64 = column.get(9)?.parse().ok()?;
        let silent = match column.get(5)?.split_once(':')?.0 {
            "01" => u32::from_str_radix(column.get(6)?, 16).ok()? > 0,
            "02" => column.get(8)?.parse::<u32>().ok()? >= UNANSWERED,
            _ => false,
        };
        (ours.contains(&inode) && silent).then(|| address(column.get(2)?.split_once(':')?.0)).flatten()
    };
    table.lines().skip(1).filter_map(remote).collect()
}

/// Parses an address in the kernel's format: hexadecimal words of four bytes in native byte order.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[cfg(target_endian = "little")]
    #[test]
    fn a_host_that_does_not_acknowledge() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 01004D0A:A2C4 02004D0A:0400 01 00000018:00000000 01:00000A2B 00000003     0        0 41 2 0 20 4 0 1 -1\n\
            1: 01004D0A:A2C6 03004D0A:0400 01 00000000:00000000 00:00000000 00000000     0        0 42 2 0 20 4 0 1 -1\n\
            2: 01004D0A:A2C8 04004D0A:0400 01 00000018:00000000 01:00000A2B 00000003     0        0 43 2 0 20 4 0 1 -1\n\
            3: 01004D0A:A2CA 05004D0A:0400 01 00000000:00000000 02:00000A2B 00000000     0        1 44 2 0 20 4 0 1 -1\n\
            4: 01004D0A:A2CC 06004D0A:0400 01 00000000:00000000 02:00000A2B 00000000     0        2 45 2 0 20 4 0 1 -1\n";
        let silent = silent_in(table, &BTreeSet::from([41, 42, 44, 45]));
        assert_eq!(silent, [IpAddr::from([10, 77, 0, 2]), IpAddr::from([10, 77, 0, 6])]);
        let mapped = "0000000000000000FFFF00000100007F";
        assert_eq!(address(mapped), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(address("1"), None);
    }

    #[test]
    fn a_sound_connection_is_not_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let probes = Probes::start();
        if !probes.0.is_empty() {
            assert!(sockopt::socket_keepalive(&open).unwrap());
            std::thread::sleep(PROBE_EVERY.mul_f64(2.2));
        }
        assert_eq!(silent_hosts(), [] as [IpAddr; 0]);
        drop(probes);
        assert!(!sockopt::socket_keepalive(&open).unwrap());
    }
}
