//! Decides which weights are trained, and with which learning rate and weight decay.

use crate::config::{Config, GroupConfig};
use crate::error::{Error, Result};
use crate::models::hf_names::HfNames;
use crate::nn::param_builder::ParamSpec;
use crate::train::selection::Catalog;
use crate::train::unfreezing;

/// Applies `model.train`, `model.freeze`, `train.layer_lr_decay`, `train.groups` and `train.unfreeze` to the weights of
/// a model, for a run with this many steps per epoch.
///
/// # Errors
/// Exit 2 if a pattern selects nothing or only a part of a fused weight, if nothing is left to train, or if groups or
/// stages contradict each other or the run.
pub fn choose(specs: &mut [ParamSpec], names: &HfNames, config: &Config, steps_per_epoch: u64) -> Result<()> {
    let catalog = Catalog::new(specs, names);
    select(specs, &catalog, config)?;
    decay_by_layer(specs, &catalog, config.train.layer_lr_decay);
    let mut owners = vec![None; specs.len()];
    for (index, group) in config.train.groups.iter().enumerate() {
        apply(specs, &catalog, (index, group), config.train.learning_rate, &mut owners)?;
    }
    unfreezing::schedule(specs, &catalog, config, steps_per_epoch)
}

/// Freezes what `model.train` does not select and what `model.freeze` selects.
fn select(specs: &mut [ParamSpec], catalog: &Catalog, config: &Config) -> Result<()> {
    if let Some(patterns) = &config.model.train {
        let trained = catalog.select("model.train", "train", patterns)?;
        specs.iter_mut().zip(trained).for_each(|(spec, trained)| spec.trainable &= trained);
        if specs.iter().all(|spec| !spec.trainable) {
            return Err(Error::input("model.train: nothing is left to train: it selects only what is never trained"));
        }
    }
    let frozen = catalog.select("model.freeze", "freeze", &config.model.freeze)?;
    for ((spec, frozen), weight) in specs.iter_mut().zip(frozen).zip(&catalog.0) {
        spec.trainable &= !frozen;
        if !spec.trainable {
            tracing::debug!("frozen: {}", weight.parts.join(", "));
        }
    }
    if specs.iter().all(|spec| !spec.trainable) {
        let why = if config.model.train.is_some() { ": it matches all that model.train selects" } else { "" };
        return Err(Error::input(format!("model.freeze: nothing is left to train{why}")));
    }
    Ok(())
}

/// Sets the factors of layer-wise learning rate decay as in BEiT (arXiv 2106.08254): the decay to the power of the
/// weight's depth, 1 for what is above the last layer.
fn decay_by_layer(specs: &mut [ParamSpec], catalog: &Catalog, decay: f64) {
    let depths = catalog.depths(specs);
    for (spec, depth) in specs.iter_mut().zip(depths) {
        spec.rate = decay.powi(depth as i32);
    }
}

/// Applies the group at an index, with the peak learning rate of the schedule. `owners` has the index of each weight's
/// group.
fn apply(
    specs: &mut [ParamSpec],
    catalog: &Catalog,
    (index, group): (usize, &GroupConfig),
    peak: f64,
    owners: &mut [Option<usize>],
) -> Result<()> {
    let key = format!("train.groups, table {}", index + 1);
    let selected = catalog.select(&key, "take", &group.params)?;
    let members: Vec<usize> = (0..specs.len()).filter(|&i| selected[i]).collect();
    for &i in &members {
        if let Some(other) = owners[i].replace(index) {
            return Err(Error::input(format!(
                "train.groups: {} is in table {} and in table {}: a weight can be in one group only",
                catalog.0[i].parts.join(", "),
                other + 1,
                index + 1
            )));
        }
    }
    if members.iter().all(|&i| !specs[i].trainable) {
        return Err(Error::input(format!("{key}: params selects only frozen weights")));
    }
    let decays = members.iter().any(|&i| specs[i].trainable && specs[i].decay);
    if group.weight_decay.is_some() && !decays {
        return Err(Error::input(format!(
            "{key}: weight_decay is not applied to biases and norms, and params selects nothing else"
        )));
    }
    for i in members {
        let spec = &mut specs[i];
        spec.rate = group.learning_rate.map_or(spec.rate, |rate| rate / peak);
        spec.weight_decay = group.weight_decay;
    }
    Ok(())
}
