//! Immediate exit, and the CPU affinity of this process.

use std::io::Write;
use std::mem::{size_of, zeroed};
use std::time::Duration;

/// Environment variable by which `trainer launch` tells its ranks that it reads their output.
pub const LAUNCHED: &str = "TRAINER_LAUNCHED";
/// Message of a failed rank to `trainer launch` before its exit code, which mpirun may lose if a host is unreachable.
pub const EXIT_NOTICE: &str = "trainer: leaving with exit code ";
/// Message of rank 0 to `trainer launch` when all ranks handle signals by writing a checkpoint.
pub const LISTENING: &str = "trainer: listening to signals";

/// Tells `trainer launch`, if it started this rank, that signals are handled.
pub fn tell_listening() {
    tell(LISTENING);
}

/// Tells `trainer launch`, if it started this rank, its exit code.
pub fn tell_launcher(code: i32) {
    if code != 0 {
        tell(&format!("{EXIT_NOTICE}{code}"));
    }
}

/// Whether `trainer launch` started this rank and reads its output.
pub fn is_launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

fn tell(line: &str) {
    if is_launched() {
        // Ignore a failed write: there is no other output.
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

/// Exits the process without destructors, exit handlers or waiting for threads, which may wait for ranks that have
/// exited. Flushes standard output if that is quick.
pub fn exit_now(code: i32) -> ! {
    flush_output();
    tell_launcher(code);
    // SAFETY: no preconditions.
    unsafe { libc::_exit(code) }
}

/// Flushes standard output, but waits only briefly for its lock.
pub fn flush_output() {
    let (done, flushed) = std::sync::mpsc::channel();
    let flush = move || {
        let _ = std::io::stdout().flush();
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(flush).is_ok() {
        let _ = flushed.recv_timeout(Duration::from_millis(200));
    }
}

/// Returns the CPUs that the calling thread may run on, ascending; empty if unknown.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set, and the kernel writes at most the given size.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

/// Binds the calling thread, and threads that it starts from now on, to these CPUs.
pub fn allow_cpus(cpus: &[usize]) -> std::io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET gets numbers below CPU_SETSIZE only.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(cpu, &mut set);
        }
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}
