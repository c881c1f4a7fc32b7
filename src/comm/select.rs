//! Which backend a process gets: what the user forces, else what the launcher and the machine suggest.

use super::{Collective, Op, mpi::Mpi, nccl::Nccl, solo::Solo};
use crate::error::{Error, Result};
use crate::ffi::device::set_current;
use std::sync::Arc;
use std::time::Duration;
use tch::{Cuda, Device};

/// The user's choice, `comm.backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// MPI where a launcher started this process, NCCL on top of it where there are several ranks with GPUs; else one
    /// rank alone.
    #[default]
    Auto,
    /// One rank alone, on the GPU if there is one.
    Solo,
    /// MPI, on the CPU.
    Mpi,
    /// NCCL, on one GPU per rank.
    Nccl,
}

/// Why a process that finds no other rank does not train.
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

/// Whether [`connect`] would refuse a process that finds no other rank, by the variables of its environment.
pub fn refuses_alone(backend: Backend, variable: impl Fn(&str) -> Option<String>) -> Option<Refusal> {
    let launch = Launch::read(variable);
    if backend == Backend::Solo { launch.refuses_solo() } else { launch.refuses_alone() }
}

/// What the environment says about how this process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Launch {
    /// MPI will find its other ranks, or knows that there are none.
    mpi: bool,
    /// Ranks that an MPI launcher announced.
    ranks: Option<usize>,
    /// Tasks of the Slurm step or, in a batch script, of the job.
    slurm: Option<usize>,
    /// Whether these tasks really run: they belong to a step of `srun`.
    step: bool,
    /// Whether ranks meet by PMI-1 or PMI-2, as the MPICH family and older Slurms do.
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

    /// Several ranks for certain.
    fn several(&self) -> Option<usize> {
        self.ranks.or(self.slurm.filter(|_| self.step)).filter(|&n| n > 1)
    }

    /// One rank was asked for, but several were started.
    fn refuses_solo(&self) -> Option<Refusal> {
        self.several().map(|ranks| Refusal {
            why: format!("comm.backend = \"solo\" is for one rank, but {ranks} were started"),
            remedy: "take \"auto\" or \"mpi\", or start one".to_owned(),
        })
    }

    /// A process is alone although others were started with it, or were asked for.
    fn refuses_alone(&self) -> Option<Refusal> {
        let (why, remedy) = match (self.ranks, self.slurm) {
            // `srun --mpi=pmi2` announces its tasks as ranks; a step that carries another launcher has other numbers.
            (ranks, Some(tasks)) if self.step && ranks.is_none_or(|ranks| ranks == tasks) => (
                format!("Slurm started {tasks} tasks, but MPI sees one rank in each"),
                "the MPI library and Slurm do not speak the same PMI. Start with `srun --mpi=pmix` (`srun --mpi=list` \
                 shows what Slurm has), or with `mpirun` inside the allocation",
            ),
            (Some(ranks), _) if ranks > 1 => (
                format!("{ranks} ranks were started, but MPI sees one in each"),
                "what started them belongs to another MPI than the one that this program is built with. Start with the \
                 `mpirun` of that one (`ldd` shows its libmpi), or in Slurm with `srun --mpi=pmix`",
            ),
            (None, Some(tasks)) if tasks > 1 => (
                format!("the Slurm job has {tasks} tasks, but this is a single process"),
                "start with `srun --mpi=pmix` or `mpirun`, or set comm.backend = \"solo\" for one rank on purpose",
            ),
            _ => return None,
        };
        Some(Refusal { why, remedy: remedy.to_owned() })
    }

    fn check_alone(&self) -> Result<()> {
        // Every one of them is as alone.
        self.refuses_alone().map_or(Ok(()), |refusal| Err(Error::from(refusal).shared()))
    }
}

/// Connects this process with the other ranks. An operation that gets nowhere for `timeout` is an error of kind
/// [`crate::error::Kind::Peer`].
///
/// # Errors
/// When a forced backend cannot be had (never a fallback to another), when some ranks have a GPU and others do not, and
/// when this process is alone but Slurm started several.
pub fn connect(backend: Backend, timeout: Duration) -> Result<Arc<dyn Collective>> {
    let comm = choose(backend, timeout)?;
    // Ranks above 0 would keep GPU 0 current, and make a context there.
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
                // Nobody to talk to: no reason to ask for NCCL.
                1 if mpi.world() == 1 => Ok(Arc::new(Solo::launched(best_device(), mpi))),
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
    if launch.pmi {
        // Open MPI without it ends the program in MPI_Init.
        tracing::info!(
            "started through PMI; if MPI does not know it, take `srun --mpi=pmix` or the `mpirun` of that MPI"
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
        // One rank on purpose, inside a larger allocation.
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
