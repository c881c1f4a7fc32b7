//! The TCP connections of this process, from `/proc`: a host that was cut off shows there long before the connection
//! breaks.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hosts that have not acknowledged what this process sent them, although it was sent more than once.
pub fn silent_hosts() -> Vec<IpAddr> {
    let links = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let inode = |target: &str| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    let ours: BTreeSet<u64> = links.filter_map(|link| inode(fs::read_link(link.path()).ok()?.to_str()?)).collect();
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let silent: BTreeSet<IpAddr> = tables.iter().flat_map(|table| silent_in(table, &ours)).collect();
    silent.into_iter().collect()
}

/// The remote addresses of a table of proc_pid_net(5)'s `tcp` or `tcp6` for sockets of ours that retransmit. Its columns:
/// number, local address, remote address, state, queues, timer (1: retransmission) and when, retransmissions, user,
/// timeout, inode.
fn silent_in(table: &str, ours: &BTreeSet<u64>) -> Vec<IpAddr> {
    let remote = |line: &str| {
        let column: Vec<&str> = line.split_whitespace().collect();
        let inode: u64 = column.get(9)?.parse().ok()?;
        let retransmits = column.get(5)?.starts_with("01:") && u32::from_str_radix(column.get(6)?, 16).ok()? > 0;
        (ours.contains(&inode) && retransmits).then(|| address(column.get(2)?.split_once(':')?.0)).flatten()
    };
    table.lines().skip(1).filter_map(remote).collect()
}

/// An address as the kernel prints it: words of four bytes in hexadecimal, each in the machine's own order.
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
            2: 01004D0A:A2C8 04004D0A:0400 01 00000018:00000000 01:00000A2B 00000003     0        0 43 2 0 20 4 0 1 -1\n";
        assert_eq!(silent_in(table, &BTreeSet::from([41, 42])), [IpAddr::from([10, 77, 0, 2])]);
        let mapped = "0000000000000000FFFF00000100007F";
        assert_eq!(address(mapped), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(address("1"), None);
    }

    #[test]
    fn a_sound_connection_is_not_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _open = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(silent_hosts(), [] as [IpAddr; 0]);
    }
}
