//! From the configuration to what the loop needs, and what a resumed run may change of it.

use crate::config::{self, Config, LrSchedulerType};
use crate::error::{Error, Result};
use crate::optim::Schedule;
use crate::optim::schedule::Shape;
use crate::text::records::{Fields, Format, OnBad, Source};
use std::path::Path;

/// The learning-rate schedule of a run of `total_steps`.
pub fn schedule(config: &Config, total_steps: u64) -> Schedule {
    let train = &config.train;
    let ratio = (train.warmup_ratio * total_steps as f64).ceil() as u64;
    let warmup = if train.warmup_steps > 0 { train.warmup_steps } else { ratio };
    let (shape, warmup_steps) = match train.lr_scheduler_type {
        LrSchedulerType::Linear => (Shape::Linear, warmup),
        LrSchedulerType::Cosine => (Shape::Cosine, warmup),
        LrSchedulerType::Constant => (Shape::Constant, 0),
        LrSchedulerType::ConstantWithWarmup => (Shape::Constant, warmup),
    };
    Schedule { shape, learning_rate: train.learning_rate, warmup_steps, total_steps }
}

/// How a data file of the configuration is read; `key` is its setting.
///
/// # Errors
/// Exit 2 when there is no such file.
pub fn source(config: &config::DataConfig, path: &Path, key: &str) -> Result<Source> {
    if !path.exists() {
        return Err(Error::input(format!("{key}: no such file: {}", path.display())));
    }
    Ok(Source {
        path: path.to_owned(),
        format: config.format.map(|format| match format {
            config::Format::Jsonl => Format::Jsonl,
            config::Format::Csv => Format::Csv,
            config::Format::Tsv => Format::Tsv,
        }),
        columns: config.columns.clone(),
        header: config.header,
        fields: Fields {
            text: config.text_column.clone(),
            text_pair: config.text_pair_column.clone(),
            label: Some(config.label_column.clone()),
        },
        on_bad_record: match config.on_bad_record {
            config::OnBadRecord::Error => OnBad::Error,
            config::OnBadRecord::Skip => OnBad::Skip,
        },
    })
}

/// Settings that the order of data follows from by themselves.
const ORDER: &[&str] = &["seed", "train.global_batch_size"];

/// Lists the settings that differ from the checkpoint's, one line each, and refuses those that change the data order
/// unless `allowed`: with another one the run would see samples twice or never. `same_data` tells whether the tokenised
/// training data is what it was, under whatever name.
///
/// # Errors
/// Exit 2, with the settings that stand in the way and the ways out.
pub fn compare(now: &Config, before: &Config, same_data: bool, allowed: bool) -> Result<Vec<String>> {
    let differences = now.differences(before);
    let line = |(key, now, before): &(String, String, String)| format!("{key} = {now} (was {before})");
    let matters =
        |key: &str| ORDER.contains(&key) || (!same_data && (key.starts_with("data.") || key == "task.labels"));
    let mut refused: Vec<String> = differences.iter().filter(|(key, ..)| matters(key)).map(line).collect();
    if !same_data {
        refused.push(format!("the content of {}, or the tokenizer, is not what it was", now.data.train.display()));
    }
    if !refused.is_empty() && !allowed {
        return Err(Error::input(format!(
            "this checkpoint cannot be resumed: the order of data would change:\n  {}\n\
             set them back, start anew in another output_dir, or insist with --allow-new-data-order",
            refused.join("\n  ")
        )));
    }
    let quiet = ["output_dir", "overwrite_output_dir"];
    Ok(differences.iter().filter(|(key, ..)| !quiet.contains(&key.as_str())).map(line).collect())
}
