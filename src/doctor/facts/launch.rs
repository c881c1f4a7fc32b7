//! How this process was started: by the environment and by the processes above it.

use super::Launch;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

/// Programs that start ranks. Of those that are wrappers of another program, both names.
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
/// Variables that tell how many ranks were started, and by whom.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];
/// Variables by which an MPI library finds its ranks.
const MEETING: [&str; 3] = ["PMIX_RANK", "PMI_RANK", "PMI_FD"];
/// Processes between a launcher and a rank: shells, env, profilers.
const GENERATIONS: usize = 16;

impl Launch {
    /// Reads the environment and `/proc`.
    pub fn look() -> Launch {
        let mut launch = Launch::in_environment(|name| std::env::var(name).ok());
        let processes = processes();
        let me = std::process::id();
        if let Some(launcher) = launcher_of(me, &processes) {
            launch.launcher = Some(exe(launcher).unwrap_or_else(|| processes[&launcher].name.clone()));
            let program = exe(me);
            // One that this program has started itself is the same rank.
            let is_child = |pid: &u32| exe(processes[pid].parent) == program;
            let of_ours = |pid: &&u32| {
                exe(**pid) == program && !is_child(pid) && launcher_of(**pid, &processes) == Some(launcher)
            };
            launch.together = processes.keys().filter(of_ours).count();
        }
        launch
    }

    fn in_environment(variable: impl Fn(&str) -> Option<String>) -> Launch {
        let number = |name: &str| Some((name.to_owned(), variable(name)?.trim().parse().ok()?));
        let announced = SIZES.iter().find_map(|name| number(name));
        // Slurm's count is of tasks: whether they meet is another question.
        let by_mpi = announced.as_ref().is_some_and(|(name, _)| !name.starts_with("SLURM"));
        let mpi = by_mpi || MEETING.iter().any(|name| variable(name).is_some());
        Launch { announced, mpi, pmix: variable("PMIX_RANK").is_some(), ..Launch::default() }
    }
}

struct Process {
    name: String,
    parent: u32,
}

/// The nearest launcher above a process.
fn launcher_of(pid: u32, processes: &HashMap<u32, Process>) -> Option<u32> {
    let parent = |pid: &u32| processes.get(pid).map(|process| process.parent);
    let mut above = std::iter::successors(parent(&pid), parent).take(GENERATIONS);
    above.find(|pid| processes.get(pid).is_some_and(|process| LAUNCHERS.contains(&process.name.as_str())))
}

/// All processes that this one may see.
fn processes() -> HashMap<u32, Process> {
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, process_in(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(read).collect()
}

/// The name and the parent, from a text as proc_pid_stat(5) describes it. A name may hold spaces and parentheses.
fn process_in(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    Some(Process { name, parent: after.split_whitespace().nth(1)?.parse().ok()? })
}

fn exe(pid: u32) -> Option<String> {
    let path: PathBuf = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_tells_of_ranks() {
        let launch = |variables: &[(&str, &str)]| {
            Launch::in_environment(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            })
        };
        assert_eq!(launch(&[]), Launch::default());
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
        assert!(
            processes.len() < super::processes().len()
                || launcher_of(std::process::id(), &super::processes()).is_none()
        );
    }
}
