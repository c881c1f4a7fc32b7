//! Gradual unfreezing (arXiv 1801.06146, section 3.3): which step is the first that trains a weight.

use crate::config::{Config, StageConfig, Unfreeze};
use crate::error::{Error, Result};
use crate::nn::param_builder::ParamSpec;
use crate::train::selection::Catalog;
use crate::train::settings;

/// Sets for each trained weight the number of steps before the first that trains it, for a run with this many steps per
/// epoch.
///
/// # Errors
/// Exit 2 if nothing is trained in the first step, if a stage begins after the last, or if stages contradict each
/// other.
pub fn schedule(specs: &mut [ParamSpec], catalog: &Catalog, config: &Config, per_epoch: u64) -> Result<()> {
    match &config.train.unfreeze {
        None => return Ok(()),
        Some(Unfreeze::EveryEpoch(_)) => from_the_top(specs, catalog, per_epoch),
        Some(Unfreeze::EverySteps(steps)) => from_the_top(specs, catalog, *steps),
        Some(Unfreeze::Stages(stages)) => in_stages(specs, catalog, stages, per_epoch)?,
    }
    check(specs, catalog, settings::total_steps(config, per_epoch), per_epoch)
}

/// Unfreezes one layer every `steps` steps: first what is above the last layer, then the layers from the last to the
/// first, then the embeddings. Levels without a trained weight take no time.
fn from_the_top(specs: &mut [ParamSpec], catalog: &Catalog, steps: u64) {
    let depths = catalog.depths(specs);
    let mut levels: Vec<usize> =
        depths.iter().zip(specs.iter()).filter(|(_, spec)| spec.trainable).map(|(depth, _)| *depth).collect();
    levels.sort_unstable();
    levels.dedup();
    for (spec, depth) in specs.iter_mut().zip(depths).filter(|(spec, _)| spec.trainable) {
        spec.starts = steps * levels.partition_point(|&level| level < depth) as u64;
    }
}

/// Unfreezes what each stage names; the rest is trained from the first step.
fn in_stages(specs: &mut [ParamSpec], catalog: &Catalog, stages: &[StageConfig], per_epoch: u64) -> Result<()> {
    let mut owners: Vec<Option<usize>> = vec![None; specs.len()];
    for (stage, n) in stages.iter().zip(1..) {
        let key = format!("train.unfreeze, table {n}");
        let selected = catalog.select(&key, "unfreeze", &stage.params)?;
        let of_epochs = |epochs: f64| (epochs * per_epoch as f64).ceil() as u64;
        let starts = stage.at_step.or(stage.at_epoch.map(of_epochs)).unwrap_or_default();
        let mut is_trained = false;
        for i in (0..specs.len()).filter(|&i| selected[i]) {
            if let Some(other) = owners[i].replace(n) {
                let name = catalog.0[i].parts.join(", ");
                return Err(Error::input(format!("train.unfreeze: {name} is in table {other} and in table {n}")));
            }
            is_trained |= specs[i].trainable;
            specs[i].starts = if specs[i].trainable { starts } else { 0 };
        }
        if !is_trained {
            let why = "params selects only weights that model.train or model.freeze excludes";
            return Err(Error::input(format!("{key}: {why}")));
        }
    }
    Ok(())
}

fn check(specs: &[ParamSpec], catalog: &Catalog, total: u64, per_epoch: u64) -> Result<()> {
    let trained = || specs.iter().zip(&catalog.0).filter(|(spec, _)| spec.trainable);
    if trained().all(|(spec, _)| spec.starts > 0) {
        return Err(Error::input(
            "train.unfreeze: nothing is trained in the first step: leave a part out of the tables",
        ));
    }
    match trained().max_by_key(|(spec, _)| spec.starts).filter(|(spec, _)| spec.starts >= total) {
        Some((spec, weight)) => Err(Error::input(format!(
            "train.unfreeze: the schedule is longer than the run: {} would be trained after step {} (epoch {:.1}), and the \
             run has {total} steps: train longer, shorten the stages, or exclude weights with model.freeze",
            weight.parts.join(", "),
            spec.starts,
            spec.starts as f64 / per_epoch as f64,
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::hf_names::{HfNames, HfParam};
    use crate::nn::{Init, ParamBuilder};

    /// Embeddings, three layers, a head.
    fn model() -> (Vec<ParamSpec>, Catalog) {
        let mut b = ParamBuilder::new();
        b.weight("words.weight", &[10, 4], Init::Zeros);
        for layer in 0..3 {
            b.block(layer + 1, |b| b.weight(&format!("layer.{layer}.weight"), &[4, 4], Init::Zeros));
        }
        b.block(4, |b| b.newly_initialized(|b| b.weight("classifier.weight", &[2, 4], Init::Zeros)));
        let specs = b.finish();
        let params = specs.iter().map(|spec| HfParam::new(spec.name.clone(), [spec.name.clone()])).collect();
        let catalog = Catalog::new(&specs, &HfNames { prefix: "", headless: false, params, legacy: &[] });
        (specs, catalog)
    }

    /// The first steps of the weights, or why there are none, in a run of 10 steps per epoch.
    fn starts(settings: &[&str], frozen: &[usize]) -> Result<Vec<u64>> {
        let words = ["output_dir=o", "model.path=m", "task.kind=causal-lm", "data.train=t"].iter().chain(settings);
        let config = Config::parse("", "a test", &words.map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap();
        let (mut specs, catalog) = model();
        frozen.iter().for_each(|&i| specs[i].trainable = false);
        schedule(&mut specs, &catalog, &config, 10)?;
        Ok(specs.iter().map(|spec| spec.starts).collect())
    }

    #[test]
    fn layers_are_unfrozen_from_the_top() {
        assert_eq!(starts(&[], &[]).unwrap(), [0; 5]);
        assert_eq!(starts(&["unfreeze=epoch", "num_train_epochs=5"], &[]).unwrap(), [40, 30, 20, 10, 0]);
        assert_eq!(starts(&["unfreeze=3", "max_steps=13"], &[]).unwrap(), [12, 9, 6, 3, 0]);
        // Frozen levels take no time.
        assert_eq!(starts(&["unfreeze=3", "max_steps=7"], &[0, 2]).unwrap(), [0, 6, 0, 3, 0]);
        assert_eq!(starts(&["unfreeze=3", "max_steps=10"], &[4]).unwrap(), [9, 6, 3, 0, 0]);
    }

    #[test]
    fn stages_say_when() {
        let stages =
            r#"unfreeze=[{params=["layers.1-2"], at_epoch=0.25}, {params=["layers.0", "words.*"], at_step=20}]"#;
        assert_eq!(starts(&[stages], &[]).unwrap(), [20, 20, 3, 3, 0]);
        assert_eq!(starts(&[stages], &[0, 2]).unwrap(), [0, 20, 0, 3, 0]);
    }

    #[test]
    fn a_schedule_that_cannot_be_is_refused() {
        for (settings, frozen, wanted) in [
            (
                &["unfreeze=epoch"][..],
                &[][..],
                "words.weight would be trained after step 40 (epoch 4.0), and the run has 30",
            ),
            (&["unfreeze=3", "max_steps=12"], &[], "the schedule is longer than the run"),
            (&[r#"unfreeze=[{params=["*"], at_step=2}]"#], &[], "nothing is trained in the first step"),
            (&[r#"unfreeze=[{params=["head"], at_step=2}]"#], &[4], "train.unfreeze, table 1: params selects only"),
            (
                &[r#"unfreeze=[{params=["head"], at_step=2}, {params=["classifier.*"], at_step=3}]"#],
                &[],
                "classifier.weight is in table 1 and in table 2",
            ),
            (&[r#"unfreeze=[{params=["layers.3"], at_step=2}]"#], &[], "\"layers.3\" exceeds this model"),
        ] {
            let error = starts(settings, frozen).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
