//! Finds out how this process was started, from the environment and the parent processes.

use super::Launch;
use crate::comm::select::{Backend, Refusal, refuses_alone};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

/// Programs that start ranks; for wrappers, both names.
const LAUNCHERS: [&str; 14] = [
    "mpirun",
    "mpiexec",
    "orterun",
    "orted",
    "prterun",
    "prted",
    "prte",
    "mpiexec.hydra",
    "hydra_pmi_proxy",
    "hydra_bstrap_proxy",
    "srun",
    "slurmstepd",
    "mpirun_rsh",
    "mpispawn",
];
/// Environment variables with the number of started ranks.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];
/// Variables that an MPI library uses to connect its ranks.
const PMI_VARIABLES: [&str; 3] = ["PMIX_RANK", "PMI_RANK", "PMI_FD"];
/// Variables with the rank.
const RANKS: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK"];
/// Slurm's rank variable, which ranks of other launchers inherit.
const RANK_OF_SLURM: &str = "SLURM_PROCID";
/// Maximum number of processes between a launcher and a rank: shells, env, profilers.
const MAX_DEPTH: usize = 16;

impl Launch {
    /// Reads the environment and `/proc`, for ranks that use `backend`.
    pub fn collect(backend: Backend) -> Launch {
        let mut launch = Launch::in_environment(backend, |name| std::env::var(name).ok());
        let processes = processes();
        let me = std::process::id();
        if let Some(launcher) = launcher_of(me, &processes) {
            launch.launcher = Some(exe(launcher).unwrap_or_else(|| processes[&launcher].name.clone()));
            let by_slurm = matches!(processes[&launcher].name.as_str(), "srun" | "slurmstepd");
            let program = exe(me);
            // A child process of this program is the same rank.
            let is_child = |pid: &u32| exe(processes[pid].parent) == program;
            let me = if is_child(&me) { processes[&me].parent } else { me };
            let rank = numbers(me, by_slurm);
            let of_ours = |pid: &&u32| {
                let alike = exe(**pid) == program && !is_child(pid) && launcher_of(**pid, &processes) == Some(launcher);
                alike && (**pid == me || are_ranks(&rank, &numbers(**pid, by_slurm)))
            };
            launch.together = processes.keys().filter(of_ours).count();
        }
        launch
    }

    fn in_environment(backend: Backend, variable: impl Fn(&str) -> Option<String>) -> Launch {
        let number = |name: &str| Some((name.to_owned(), variable(name)?.trim().parse().ok()?));
        let announced = SIZES.iter().find_map(|name| number(name));
        // Slurm counts tasks, which may not be connected.
        let by_mpi = announced.as_ref().is_some_and(|(name, _)| !name.starts_with("SLURM"));
        let mpi = by_mpi || PMI_VARIABLES.iter().any(|name| variable(name).is_some());
        let refused = refuses_alone(backend, &variable).map(|Refusal { why, remedy }| (why, remedy));
        let (solo, pmix) = (backend == Backend::Solo, variable("PMIX_RANK").is_some());
        Launch { announced, mpi, pmix, solo, refused, ..Launch::default() }
    }
}

struct Process {
    name: String,
    parent: u32,
}

/// Returns the nearest launcher among the parents of a process.
fn launcher_of(pid: u32, processes: &HashMap<u32, Process>) -> Option<u32> {
    let parent = |pid: &u32| processes.get(pid).map(|process| process.parent);
    let mut above = std::iter::successors(parent(&pid), parent).take(MAX_DEPTH);
    above.find(|pid| processes.get(pid).is_some_and(|process| LAUNCHERS.contains(&process.name.as_str())))
}

fn processes() -> HashMap<u32, Process> {
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, process_in(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(read).collect()
}

/// Parses name and parent from the format of proc_pid_stat(5). A name may contain spaces and parentheses.
fn process_in(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    Some(Process { name, parent: after.split_whitespace().nth(1)?.parse().ok()? })
}

/// Returns a process's rank variables; empty if a wrapper removed them.
fn numbers(pid: u32, by_slurm: bool) -> BTreeMap<String, String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variable = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let (name, value) = text.split_once('=')?;
        let counts = RANKS.contains(&name) || (by_slurm && name == RANK_OF_SLURM);
        counts.then(|| (name.to_owned(), value.to_owned()))
    };
    environment.split(|&byte| byte == 0).filter_map(variable).collect()
}

/// Whether processes with these variables may be two ranks. Equal ones mean two programs in one launched shell.
fn are_ranks(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    one != other || one.is_empty()
}

fn exe(pid: u32) -> Option<String> {
    let path: PathBuf = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::parent_id;
    use std::process::Command;

    #[test]
    fn ranks_are_found_in_the_environment() {
        let launch = |variables: &[(&str, &str)]| {
            Launch::in_environment(Backend::Auto, |name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            })
        };
        assert_eq!(launch(&[]), Launch::default());
        // Training does not start as a single process in a job of several tasks, although perhaps no other was started.
        let batch = launch(&[("SLURM_NTASKS", "4")]);
        assert_eq!(batch.announced, None);
        assert!(batch.refused.is_some_and(|(why, _)| why.contains("4 tasks, but this is a single process")));
        let solo = |variables: &[(&str, &str)]| {
            Launch::in_environment(Backend::Solo, |name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            })
        };
        assert_eq!(solo(&[("SLURM_NTASKS", "4")]), Launch { solo: true, ..Launch::default() });
        let two = solo(&[("OMPI_COMM_WORLD_SIZE", "2")]).refused.unwrap();
        assert!(two.0.contains("for one rank, but 2 were started"), "{two:?}");
        let slurm = launch(&[("SLURM_STEP_NUM_TASKS", "2")]);
        assert_eq!((slurm.announced, slurm.mpi), (Some(("SLURM_STEP_NUM_TASKS".into(), 2)), false));
        let pmix = launch(&[("SLURM_STEP_NUM_TASKS", "2"), ("PMIX_RANK", "0")]);
        assert!(pmix.mpi && pmix.pmix);
        let both = launch(&[("SLURM_STEP_NUM_TASKS", "2"), ("OMPI_COMM_WORLD_SIZE", "4")]);
        assert_eq!(both.announced, Some(("OMPI_COMM_WORLD_SIZE".into(), 4)));
    }

    #[test]
    fn the_nearest_launcher_counts() {
        let process = |name: &str, parent| Process { name: name.into(), parent };
        let processes = HashMap::from([
            (1, process("systemd", 0)),
            (2, process("srun", 1)),
            (3, process("mpirun", 2)),
            (4, process("bash", 3)),
            (5, process("trainer", 4)),
        ]);
        assert_eq!(launcher_of(5, &processes), Some(3));
        assert_eq!(launcher_of(3, &processes), Some(2));
        assert_eq!(launcher_of(2, &processes), None);
        let odd = process_in("17 (a b) c) S 4 17 17 0").unwrap();
        assert_eq!((odd.name.as_str(), odd.parent), ("a b) c", 4));
        let here = super::processes();
        assert_eq!(here[&std::process::id()].parent, parent_id());
    }

    #[test]
    fn ranks_differ_in_their_variables() {
        let numbers_of = |variables: &[(&str, &str)], by_slurm| {
            let mut sleep = Command::new("sleep").arg("60").env_clear().envs(variables.to_vec()).spawn().unwrap();
            // A process has its environment only a moment after its start.
            while fs::read(format!("/proc/{}/environ", sleep.id())).unwrap().is_empty() {}
            let numbers = numbers(sleep.id(), by_slurm);
            sleep.kill().unwrap();
            sleep.wait().unwrap();
            numbers
        };
        let rank = |number| numbers_of(&[("PMI_RANK", number), ("SLURM_PROCID", "0"), ("HOME", "/")], false);
        assert_eq!(rank("3"), BTreeMap::from([("PMI_RANK".to_owned(), "3".to_owned())]));
        assert!(are_ranks(&rank("0"), &rank("1")));
        // A shell under `srun --pty` and its background processes.
        let task = |number| numbers_of(&[("SLURM_PROCID", number)], true);
        assert!(!are_ranks(&task("0"), &task("0")));
        assert!(are_ranks(&task("0"), &task("1")));
        // Only the batch script's variable is left, not mpirun's.
        let stripped = numbers_of(&[("SLURM_PROCID", "0")], false);
        assert!(are_ranks(&stripped, &stripped));
    }
}
