//! Chooses the backend of a process: the user's choice, else by launcher and hardware.

use super::{Collective, Op, mpi::Mpi, nccl::Nccl, solo::Solo};
use crate::error::{Error, Result};
use crate::ffi::device::set_current;
use std::sync::Arc;
use std::time::Duration;
use tch::{Cuda, Device};

/// The user's choice, `comm.backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// MPI under a launcher, with NCCL if there are several ranks with GPUs; otherwise a single rank.
    #[default]
    Auto,
    /// A single rank, on the GPU if there is one.
    Solo,
    /// MPI, on the CPU.
    Mpi,
    /// NCCL, on one GPU per rank.
    Nccl,
}

/// Cause and remedy if a process that finds no other rank does not train.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
    pub remedy: String,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::input(format!("{}: {}", refusal.why, refusal.remedy))
    }
}

/// Whether [`connect`] refuses a process that finds no other rank, with these environment variables.
pub fn refuses_alone(backend: Backend, variable: impl Fn(&str) -> Option<String>) -> Option<Refusal> {
    let launch = Launch::read(variable);
    if backend == Backend::Solo { launch.refuses_solo() } else { launch.refuses_alone() }
}

/// How this process was started, according to the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Launch {
    /// MPI can connect to the other ranks, or knows that there are none.
    mpi: bool,
    /// Number of ranks in an MPI launcher's variable.
    ranks: Option<usize>,
    /// Number of tasks of the Slurm step or, in a batch script, of the job.
    slurm: Option<usize>,
    /// Whether these tasks are running: they belong to an `srun` step.
    step: bool,
    /// Whether ranks connect by PMI-1 or PMI-2, like the MPICH family and older Slurm versions.
    pmi: bool,
}

impl Launch {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Launch {
        let number = |name: &str| variable(name).and_then(|value| value.trim().parse::<usize>().ok());
        let any = |names: &[&str]| names.iter().any(|name| variable(name).is_some());
        let ranks =
            number("OMPI_COMM_WORLD_SIZE").or_else(|| number("PMI_SIZE")).or_else(|| number("MV2_COMM_WORLD_SIZE"));
        let pmi = any(&["PMI_RANK", "PMI_FD"]);
        let pmix = any(&["OMPI_COMM_WORLD_SIZE", "PMIX_RANK"]);
        let step = number("SLURM_STEP_NUM_TASKS");
        Launch {
            mpi: ranks.is_some() || pmix || pmi,
            ranks,
            slurm: step.or_else(|| number("SLURM_NTASKS")),
            step: step.is_some_and(|tasks| tasks > 1),
            pmi: pmi && !pmix,
        }
    }

    /// Returns the number of ranks if there are certainly several.
    fn several(&self) -> Option<usize> {
        self.ranks.or(self.slurm.filter(|_| self.step)).filter(|&n| n > 1)
    }

    fn refuses_solo(&self) -> Option<Refusal> {
        self.several().map(|ranks| Refusal {
            why: format!("comm.backend = \"solo\" is for one rank, but {ranks} were started"),
            remedy: "use \"auto\" or \"mpi\", or start one rank".to_owned(),
        })
    }

    /// Refuses a single process if several were started or requested.
    fn refuses_alone(&self) -> Option<Refusal> {
        let (why, remedy) = match (self.ranks, self.slurm) {
            // `srun --mpi=pmi2` sets its tasks as ranks; a step that runs another launcher has other numbers.
            (ranks, Some(tasks)) if self.step && ranks.is_none_or(|ranks| ranks == tasks) => (
                format!("Slurm started {tasks} tasks, but MPI finds only one rank in each"),
                "the MPI library and Slurm use different PMI versions. Start with `srun --mpi=pmix` (`srun --mpi=list` \
                 shows what Slurm supports), or with `mpirun` inside the allocation",
            ),
            (Some(ranks), _) if ranks > 1 => (
                format!("{ranks} ranks were started, but MPI finds only one in each"),
                "the launcher belongs to another MPI than the one that this program was built with. Start with the \
                 `mpirun` of this MPI (`ldd` shows its libmpi), or in Slurm with `srun --mpi=pmix`",
            ),
            (None, Some(tasks)) if tasks > 1 => (
                format!("the Slurm job has {tasks} tasks, but this is a single process"),
                "start with `srun --mpi=pmix` or `mpirun`, or set comm.backend = \"solo\" to train with one rank",
            ),
            _ => return None,
        };
        Some(Refusal { why, remedy: remedy.to_owned() })
    }

    fn check_alone(&self) -> Result<()> {
        // Every task has the same error.
        self.refuses_alone().map_or(Ok(()), |refusal| Err(Error::from(refusal).shared()))
    }
}

/// Connects this process to the other ranks. An operation without progress for `timeout` is an error of kind
/// [`crate::error::Kind::Peer`].
///
/// # Errors
/// If the chosen backend is not available (there is no fallback), if only some ranks have a GPU, and if this process is
/// alone but Slurm started several.
pub fn connect(backend: Backend, timeout: Duration) -> Result<Arc<dyn Collective>> {
    let comm = choose(backend, timeout)?;
    // Otherwise ranks above 0 would keep GPU 0 current and create a context there.
    set_current(comm.device())?;
    Ok(comm)
}

fn choose(backend: Backend, timeout: Duration) -> Result<Arc<dyn Collective>> {
    let launch = Launch::read(|name| std::env::var(name).ok());
    match backend {
        Backend::Solo => {
            if let Some(refusal) = launch.refuses_solo() {
                return Err(refusal.into());
            }
            Ok(Arc::new(Solo::new(best_device())))
        }
        Backend::Auto if !launch.mpi => {
            launch.check_alone()?;
            Ok(Arc::new(Solo::new(best_device())))
        }
        Backend::Mpi => mpi(&launch, timeout),
        Backend::Nccl => Ok(Arc::new(Nccl::connect(mpi(&launch, timeout)?, timeout)?)),
        Backend::Auto => {
            let mpi = mpi(&launch, timeout)?;
            let here = f64::from(u8::from(Cuda::is_available()));
            let mut gpus = [here];
            mpi.all_reduce_f64(&mut gpus, Op::Sum, "ranks with a GPU")?;
            match gpus[0] as usize {
                0 => Ok(mpi),
                // A single rank does not need NCCL.
                1 if mpi.world() == 1 => Ok(Arc::new(Solo::launched(best_device(), mpi))),
                n if n == mpi.world() => Ok(Arc::new(Nccl::connect(mpi, timeout)?)),
                n => Err(Error::input(format!(
                    "{n} of {} ranks have a GPU and the others do not (rank {} has {}): repair those hosts, or set \
                     comm.backend = \"mpi\" to train on the CPU",
                    mpi.world(),
                    mpi.rank(),
                    if here > 0.0 { "one" } else { "none" }
                ))),
            }
        }
    }
}

fn mpi(launch: &Launch, timeout: Duration) -> Result<Arc<dyn Collective>> {
    if launch.pmi {
        // Open MPI without PMI support ends the program in MPI_Init.
        tracing::info!(
            "started through PMI; if MPI does not support it, use `srun --mpi=pmix` or the `mpirun` of this MPI"
        );
    }
    let mpi: Arc<dyn Collective> = Arc::new(Mpi::connect(timeout)?);
    if mpi.world() == 1 {
        launch.check_alone()?;
    }
    Ok(mpi)
}

fn best_device() -> Device {
    if Cuda::is_available() { Device::Cuda(0) } else { Device::Cpu }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Launch {
        Launch::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn a_plain_process_is_alone() {
        let launch = launch(&[]);
        assert!(!launch.mpi && launch.several().is_none() && launch.check_alone().is_ok());
    }

    #[test]
    fn mpirun_knows_its_ranks() {
        assert_eq!(launch(&[("OMPI_COMM_WORLD_SIZE", "4")]).several(), Some(4));
        assert_eq!(launch(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).several(), Some(2));
        // One rank by intention, inside a larger allocation.
        let one = launch(&[("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "2")]);
        assert!(one.mpi && one.several().is_none() && one.check_alone().is_ok());
    }

    #[test]
    fn alone_in_a_crowd_of_slurm_tasks_is_an_error() {
        let step = launch(&[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_NTASKS", "2")]);
        assert_eq!(step.several(), Some(2));
        let error = step.check_alone().unwrap_err();
        assert!(error.to_string().contains("srun --mpi=pmix") && error.is_shared(), "{error}");
        let batch = launch(&[("SLURM_NTASKS", "2")]);
        assert_eq!(batch.several(), None);
        assert!(batch.check_alone().unwrap_err().to_string().contains("single process"));
        let pmix = launch(&[("SLURM_STEP_NUM_TASKS", "2"), ("PMIX_RANK", "1")]);
        assert!(pmix.mpi && pmix.several() == Some(2) && !pmix.pmi);
        let pmi2 = [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_NTASKS", "2"), ("PMI_RANK", "0"), ("PMI_SIZE", "2")];
        assert!(launch(&pmi2).pmi);
        assert!(launch(&pmi2).check_alone().unwrap_err().to_string().contains("Slurm started 2 tasks"));
        // A step of one task, and a job of one.
        assert!(launch(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_NTASKS", "2")]).check_alone().is_ok());
        assert!(launch(&[("SLURM_NTASKS", "1"), ("SLURM_JOB_ID", "7")]).check_alone().is_ok());
    }

    #[test]
    fn alone_among_ranks_of_another_mpi_is_an_error() {
        let error = |variables: &[(&str, &str)]| launch(variables).check_alone().unwrap_err().to_string();
        for variables in [
            [("PMI_RANK", "1"), ("PMI_SIZE", "4")],
            [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")],
            [("MV2_COMM_WORLD_RANK", "1"), ("MV2_COMM_WORLD_SIZE", "4")],
        ] {
            assert!(error(&variables).contains("4 ranks were started"), "{variables:?}");
        }
        // Hydra's proxies are a step of Slurm's, one on each node.
        let hydra = [("PMI_RANK", "1"), ("PMI_SIZE", "16"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_NTASKS", "16")];
        assert!(error(&hydra).contains("16 ranks were started"));
    }
}
