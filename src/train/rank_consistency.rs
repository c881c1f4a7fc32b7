//! Checks that all ranks train the same thing: hosts without a common file system can have other weights, other data or
//! another configuration under the same names.

use crate::config::{Config, DataFiles};
use crate::error::{Error, Result};
use crate::machine::host_name;
use crate::train::session::Session;
use std::path::PathBuf;

/// Compares what each rank has read with what rank 0 has read; `step` is the step to resume from.
///
/// # Errors
/// Exit 2 on every rank, naming the first rank that differs, and what differs.
pub fn check(session: &Session, step: u64) -> Result<()> {
    let comm = session.comm.as_ref();
    if comm.world() == 1 {
        return Ok(());
    }
    let mine = parts(session, step)?;
    let first = comm.broadcast_bytes(serde_json::to_vec(&mine)?, 0, "what rank 0 has read")?;
    let first: Vec<(String, String)> = serde_json::from_slice(&first)?;
    let differs = mine.iter().zip(&first).find(|(mine, first)| mine != first);
    let same = differs.map_or(Ok(()), |((what, mine), (_, first))| {
        let how = if what == CONFIGURATION { first_setting(mine, first) } else { String::new() };
        Err(Error::input(format!(
            "rank {} on {}: not the same as on rank 0: {what}{how}: check that all hosts see the same files and settings",
            comm.rank(),
            host_name()
        )))
    });
    comm.agree(same, "comparing what the ranks have read")
}

/// Returns the first setting in which two configurations in TOML differ, for a message.
fn first_setting(mine: &str, first: &str) -> String {
    let mut section = String::new();
    for (mine, first) in mine.lines().zip(first.lines()) {
        if let Some(name) = mine.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        }
        if mine != first {
            return format!(" ({section}{mine} here, {first} there)");
        }
    }
    String::new()
}

const CONFIGURATION: &str = "the configuration";

/// Returns everything that determines a step, each as a short text.
fn parts(session: &Session, step: u64) -> Result<Vec<(String, String)>> {
    let Session { config, loaded, teacher, data, .. } = session;
    let mut parts = vec![
        (CONFIGURATION.to_owned(), without_host_settings(config).to_toml()),
        ("the layout of the model".to_owned(), loaded.params.layout().fingerprint().to_string()),
        ("the step to resume from".to_owned(), step.to_string()),
        ("the training data".to_owned(), format!("{:?}", data.train.dataset.fingerprint())),
    ];
    parts.extend(data.evaluations().map(|(what, eval)| (what, format!("{:?}", eval.dataset.fingerprint()))));
    // Each rank reads only the weights that it keeps, so that the sums are of samples that every rank reads: dtypes,
    // shapes, all of a small tensor and 1/256 of a large one (`TensorFile::sample`). Another model, another fine-tuning
    // of it and a copy that was cut short differ there; a few damaged bytes of a large tensor may not.
    for (unit, sum) in loaded.params.layout().units().iter().zip(&loaded.sums) {
        let name = loaded.model.block_name(unit.blocks[0]);
        parts.push((format!("the weights of the {name}"), sum.clone()));
    }
    parts.extend(teacher.iter().map(|teacher| ("the weights of the teacher".to_owned(), teacher.fingerprint.clone())));
    Ok(parts)
}

fn without_host_settings(config: &Config) -> Config {
    let mut config = config.clone();
    config.output_dir = PathBuf::new();
    config.model.path = PathBuf::new();
    config.distill.teacher = config.distill.teacher.map(|_| PathBuf::new());
    config.data.train = DataFiles::default();
    for source in &mut config.data.sources {
        source.path = DataFiles::default();
        source.train_target = source.train_target.take().map(|_| DataFiles::default());
    }
    config.data.eval = None;
    config.data.eval_sets.0.values_mut().for_each(|files| *files = DataFiles::default());
    config.data.cache_dir = None;
    config.augment.synonyms = None;
    config.parallel.num_threads = None;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_of_configurations_names_the_setting() {
        let toml = |rate: &str| format!("seed = 1\n\n[data]\ntrain = \"a\"\n\n[train]\nlearning_rate = {rate}\n");
        let expected = " (train.learning_rate = 0.2 here, learning_rate = 0.1 there)";
        assert_eq!(first_setting(&toml("0.2"), &toml("0.1")), expected);
        assert_eq!(first_setting("seed = 1\n", "seed = 2\n"), " (seed = 1 here, seed = 2 there)");
        assert_eq!(first_setting("a", "a"), "");
    }
}
