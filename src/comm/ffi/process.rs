//! Leaving at once, and which cores this process may use.

use std::io::Write;
use std::mem::{size_of, zeroed};
use std::time::Duration;

/// The variable by which `trainer launch` tells its ranks that it reads what they say.
pub const LAUNCHED: &str = "TRAINER_LAUNCHED";
/// What a rank that fails tells `trainer launch` before its exit code: mpirun may never come to tell it, where a host
/// was cut off.
pub const FAREWELL: &str = "trainer: leaving with exit code ";
/// What rank 0 tells `trainer launch` when all ranks write a checkpoint on a signal, and do not die of it.
pub const LISTENING: &str = "trainer: listening to signals";

/// Tells `trainer launch`, if it started this rank, that signals are welcome.
pub fn tell_listening() {
    tell(LISTENING);
}

/// Tells `trainer launch`, if it started this rank, how the rank ends.
pub fn tell_launcher(code: i32) {
    if code != 0 {
        tell(&format!("{FAREWELL}{code}"));
    }
}

/// Whether `trainer launch` started this rank, and reads what it says.
pub fn is_launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

fn tell(line: &str) {
    if is_launched() {
        // Nobody is left to tell where even this cannot be written.
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

/// Ends the process without running any destructor, exit handler or other thread's last words: those may wait for
/// ranks that are gone. Standard output is flushed if that goes quickly.
pub fn exit_now(code: i32) -> ! {
    flush_output();
    tell_launcher(code);
    // SAFETY: no preconditions.
    unsafe { libc::_exit(code) }
}

/// Flushes standard output, but waits no longer than a moment for whoever holds its lock.
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

/// The CPUs that the calling thread may run on, ascending. Empty when the system does not say.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set, and the kernel writes at most the size that it is told.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

/// Lets the calling thread, and threads that it starts from now on, run on these CPUs.
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
