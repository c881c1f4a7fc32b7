//! The mpirun command that starts a job's ranks.

use super::job::{Job, Variable, quote};
use super::layout::Layout;
use crate::comm::LAUNCHED;
use crate::comm::cores::BIND;
use crate::error::{Context, Error, Result};
use std::process::Command;

/// Environment variables to send to ranks on other machines, whose environment is that of a non-login shell there.
/// mpirun itself sends `OMPI_MCA_*`; visible GPUs differ by host.
const SENT: [&str; 13] = [
    "CUDA_DEVICE_ORDER",
    "LD_LIBRARY_PATH",
    "MKL_*",
    "NCCL_*",
    "OMP_*",
    "PYTORCH_*",
    "RUST_BACKTRACE",
    "TORCH_*",
    "TRAINER_KERNELS",
    "TRAINER_LOG",
    "TRAINER_NCCL_PATH",
    "UCX_*",
    "XDG_CACHE_HOME",
];

/// Prefix of environment variables for Open MPI's parameters.
const MCA: &str = "OMPI_MCA_";
/// Settings that keep ranks of one host from opening ports to others: they communicate through shared memory, and NCCL
/// bootstraps on the loopback interface. The third element is another variable that overrides the setting.
const LOOPBACK: [(&str, &str, &str); 3] = [
    ("OMPI_MCA_pml", "ob1", "OMPI_MCA_btl"),
    ("OMPI_MCA_btl", "self,vader", "OMPI_MCA_pml"),
    ("NCCL_SOCKET_IFNAME", "lo", "NCCL_COMM_ID"),
];

/// Environment of the command.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// The environment variables of this process.
    pub variables: Vec<(String, String)>,
    /// Its working directory.
    pub folder: String,
    /// Whether `trainer launch` reads the ranks' messages to it.
    pub listens: bool,
}

/// Returns the whole command.
///
/// Ranks are not bound (`--bind-to none`): mpirun's default would bind dozens of threads of a rank to one core, and
/// mpirun does not know the rank's GPU. With the variable [`BIND`], each rank binds itself to its fraction of the cores
/// near its GPU (`comm::cores`). Ranks fill one host after the other (`--map-by slot`), so that ring neighbors are
/// neighbors on a host.
pub fn command(job: &Job, layout: &Layout, root: bool, here: &Here) -> Vec<String> {
    let Here { variables, folder, listens } = here;
    let mut words: Vec<String> = vec!["mpirun".into(), "-n".into(), layout.ranks.to_string()];
    let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
    if !layout.hosts.is_empty() {
        let hosts: Vec<String> = layout.hosts.iter().map(|host| format!("{}:{}", host.name, host.slots)).collect();
        add(&["--host", &hosts.join(",")]);
    }
    add(&["--map-by", &layout.map_by, "--bind-to", "none", "--tag-output"]);
    if root {
        add(&["--allow-run-as-root"]);
    }
    if layout.remote {
        add(&["--wdir", folder]);
    }
    if *listens {
        add(&["-x", &format!("{LAUNCHED}=1")]);
    }
    add(&["-x", &format!("{BIND}={}", if layout.gpus { "gpu" } else { "cpu" })]);
    let has = |name: &str| variables.iter().any(|(own, _)| own == name);
    let asked = |name: &str| job.environment.iter().any(|variable| variable.name == name);
    let message = |parameter: &str| job.mpi_args.iter().any(|word| word == parameter);
    for (name, value, instead) in LOOPBACK {
        let given = |name: &str| has(name) || asked(name) || name.strip_prefix(MCA).is_some_and(message);
        let parameter = name.strip_prefix(MCA);
        if layout.remote || (parameter.is_none() && !layout.gpus) || given(name) || given(instead) {
            continue;
        }
        match parameter {
            Some(parameter) => add(&["--mca", parameter, value]),
            None => add(&["-x", &format!("{name}={value}")]),
        }
    }
    // GPU numbers are then those of NVML, which a rank uses to find the cores near its GPU.
    if layout.gpus && ["CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"].iter().all(|name| !has(name) && !asked(name)) {
        add(&["-x", "CUDA_DEVICE_ORDER=PCI_BUS_ID"]);
    }
    if layout.remote {
        let mut names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        for name in names.into_iter().filter(|name| is_sent(name) && !asked(name)) {
            add(&["-x", name]);
        }
    }
    for Variable { name, value } in &job.environment {
        let text = value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}"));
        add(&["-x", &text]);
    }
    words.extend(job.mpi_args.iter().cloned());
    words.extend(job.rank_command());
    words
}

fn is_sent(name: &str) -> bool {
    SENT.iter().any(|known| known.strip_suffix('*').map_or(*known == name, |start| name.starts_with(start)))
}

/// Checks that there is an mpirun, and that it is Open MPI's, because the options are.
///
/// # Errors
/// Exit 2, with the remedy.
pub fn check(job: &Job) -> Result<()> {
    let said = Command::new("mpirun").arg("--version").output();
    let said = match said {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::input(
                "there is no mpirun in PATH: install Open MPI (Debian: openmpi-bin) or load its module; a single rank \
                 does not need it: `trainer train`",
            ));
        }
        said => said.input_context("mpirun --version")?,
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    if text.contains("Open MPI") || text.contains("open-mpi") {
        return Ok(());
    }
    Err(Error::input(format!(
        "the mpirun in PATH is not Open MPI's ({}), which `trainer launch` needs: start the ranks \
         yourself with `mpirun -n N {}`",
        text.lines().next().unwrap_or_default().trim(),
        quote(&job.rank_command())
    )))
}
