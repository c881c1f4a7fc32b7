//! Which backend a process gets: what the user forces, else what the launcher and the machine suggest.

use super::{Collective, Op, mpi::Mpi, nccl::Nccl, solo::Solo};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;
use tch::{Cuda, Device};

/// The user's choice, `comm.backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// MPI where a launcher started this process, NCCL on top of it where there are GPUs; else one rank alone.
    #[default]
    Auto,
    /// One rank alone, on the GPU if there is one.
    Solo,
    /// MPI, on the CPU.
    Mpi,
    /// NCCL, on one GPU per rank.
    Nccl,
}

/// What the environment says about how this process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Launch {
    /// MPI will find its other ranks, or knows that there are none.
    mpi: bool,
    /// Ranks that an MPI launcher announced.
    ranks: Option<usize>,
    /// Tasks of the Slurm step or, in a batch script, of the job; unless an MPI launcher has announced its ranks.
    slurm: Option<usize>,
    /// Whether these tasks really run: they belong to a step of `srun`.
    step: bool,
}

impl Launch {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Launch {
        let number = |name: &str| variable(name).and_then(|value| value.trim().parse::<usize>().ok());
        let ranks =
            number("OMPI_COMM_WORLD_SIZE").or_else(|| number("PMI_SIZE")).or_else(|| number("MV2_COMM_WORLD_SIZE"));
        let mpi = ranks.is_some() || ["PMIX_RANK", "PMI_RANK", "PMI_FD"].iter().any(|name| variable(name).is_some());
        let step = number("SLURM_STEP_NUM_TASKS");
        let slurm = step.or_else(|| number("SLURM_NTASKS")).filter(|_| ranks.is_none());
        Launch { mpi, ranks, slurm, step: step.is_some_and(|tasks| tasks > 1) }
    }

    /// Several ranks for certain.
    fn several(&self) -> Option<usize> {
        self.ranks.or(self.slurm.filter(|_| self.step)).filter(|&n| n > 1)
    }

    /// The error of a process that is alone although Slurm started, or was asked for, several tasks.
    fn check_alone(&self) -> Result<()> {
        match self.slurm {
            Some(tasks) if tasks > 1 && self.step => Err(Error::input(format!(
                "Slurm started {tasks} tasks, but MPI sees one rank in each: the MPI library and Slurm do not speak the \
                 same PMI. Start with `srun --mpi=pmix` (`srun --mpi=list` shows what Slurm has), or with `mpirun` \
                 inside the allocation"
            ))),
            Some(tasks) if tasks > 1 => Err(Error::input(format!(
                "the Slurm job has {tasks} tasks, but this is a single process: start with `srun --mpi=pmix` or `mpirun`, \
                 or set comm.backend = \"solo\" for one rank on purpose"
            ))),
            _ => Ok(()),
        }
    }
}

/// Connects this process with the other ranks. An operation that gets nowhere for `timeout` is an error of kind
/// [`crate::error::Kind::Peer`].
///
/// # Errors
/// When a forced backend cannot be had (never a fallback to another), when some ranks have a GPU and others do not, and
/// when this process is alone but Slurm started several.
pub fn connect(backend: Backend, timeout: Duration) -> Result<Arc<dyn Collective>> {
    let launch = Launch::read(|name| std::env::var(name).ok());
    match backend {
        Backend::Solo => {
            if let Some(ranks) = launch.several() {
                return Err(Error::input(format!(
                    "comm.backend = \"solo\" is for one rank, but {ranks} were started: take \"auto\" or \"mpi\", or start one"
                )));
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
                n if n == mpi.world() => Ok(Arc::new(Nccl::connect(mpi, timeout)?)),
                n => Err(Error::input(format!(
                    "{n} of {} ranks see a GPU and the others do not (rank {} sees {}): repair those hosts, or set \
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
        // One rank on purpose, inside a larger allocation.
        let one = launch(&[("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "2")]);
        assert!(one.mpi && one.several().is_none() && one.check_alone().is_ok());
    }

    #[test]
    fn alone_in_a_crowd_of_slurm_tasks_is_an_error() {
        let step = launch(&[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_NTASKS", "2")]);
        assert_eq!(step.several(), Some(2));
        assert!(step.check_alone().unwrap_err().to_string().contains("srun --mpi=pmix"));
        let batch = launch(&[("SLURM_NTASKS", "2")]);
        assert_eq!(batch.several(), None);
        assert!(batch.check_alone().unwrap_err().to_string().contains("single process"));
        let pmix = launch(&[("SLURM_STEP_NUM_TASKS", "2"), ("PMIX_RANK", "1")]);
        assert!(pmix.mpi && pmix.several() == Some(2));
        assert!(launch(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_NTASKS", "2")]).check_alone().is_ok());
    }
}
