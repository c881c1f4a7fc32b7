//! The objective of training: class weights and label smoothing from the configuration and the training data.

use crate::config::{ClassWeights, Config, DataConfig, Sampling};
use crate::data::objective::Objective;
use crate::data::{Dataset, Label, Prepared};
use crate::error::{Error, Result};

/// Returns the objective for training data with these labels.
///
/// # Errors
/// Exit 2: a weight for a label that the data does not have, no weight above zero.
pub fn objective(config: &Config, dataset: &Dataset, labels: Option<&[String]>) -> Result<Objective> {
    let labels = labels.unwrap_or_default();
    let weights = config.task.class_weights.as_ref().map(|weights| match weights {
        ClassWeights::Balanced => Ok(balanced(&dataset.class_counts(labels.len()))),
        ClassWeights::Table(table) => {
            if let Some(unknown) = table.keys().find(|label| !labels.contains(label)) {
                return Err(error(format!("no label {unknown:?} in the training data, only {}", labels.join(", "))));
            }
            Ok(labels.iter().map(|label| table.get(label).map_or(1.0, |&weight| weight as f32)).collect())
        }
    });
    let class_weights: Option<Vec<f32>> = weights.transpose()?;
    if let Some(weights) = &class_weights {
        let counts = dataset.class_counts(labels.len());
        if !weights.iter().zip(&counts).any(|(&weight, &count)| weight > 0.0 && count > 0) {
            return Err(error("the weights of all examples are 0: nothing would be learned".into()));
        }
    }
    if dataset.is_weighted() {
        let class_weight = |i: usize| match (&class_weights, dataset.label(i)) {
            (Some(weights), Label::Class(class)) => weights.get(class as usize).copied().unwrap_or_default(),
            _ => 1.0,
        };
        if (0..dataset.len()).all(|i| dataset.weight(i) * class_weight(i) == 0.0) {
            let with = if class_weights.is_some() { ", times those of task.class_weights," } else { "" };
            let why = format!("the weights of all examples{with} are 0: nothing would be learned");
            return Err(Error::input(format!("data.weight_column: {}: {why}", config.data.train)));
        }
    }
    let train = &config.train;
    let neftune_alpha = train.neftune_noise_alpha.unwrap_or(0.0);
    Ok(Objective { label_smoothing: train.label_smoothing_factor, class_weights, neftune_alpha })
}

/// Returns `n / (C n_c)` for each class c of n targets and C classes, as scikit-learn's
/// `compute_class_weight("balanced")`; 0 for classes without targets, which are not counted.
fn balanced(counts: &[u64]) -> Vec<f32> {
    let (all, classes) = (counts.iter().sum::<u64>() as f64, counts.iter().filter(|&&count| count > 0).count() as f64);
    let weight = |&count: &u64| if count == 0 { 0.0 } else { (all / (classes * count as f64)) as f32 };
    counts.iter().map(weight).collect()
}

fn error(why: String) -> Error {
    Error::input(format!("task.class_weights: {why}"))
}

/// Makes the sampler draw the classes that have examples equally often, if the configuration says so.
pub fn draw_balanced(config: &Config, train: Prepared) -> Prepared {
    match config.data.sampling {
        Sampling::Random => train,
        Sampling::ClassBalanced => Prepared { dataset: train.dataset.class_balanced(), ..train },
    }
}

/// Describes the objective for the header of a run, if it is not the plain loss.
pub fn describe(objective: &Objective, data: &DataConfig, labels: Option<&[String]>) -> Option<String> {
    let smoothing = (objective.label_smoothing > 0.0).then(|| format!("label smoothing {}", objective.label_smoothing));
    let weights = objective.class_weights.as_ref().map(|weights| {
        let of = |(label, weight): (&String, &f32)| format!("{label} {weight:.3}");
        let each: Vec<String> = labels.unwrap_or_default().iter().zip(weights).map(of).collect();
        format!("class weights {}", each.join(", "))
    });
    let noise = (objective.neftune_alpha > 0.0).then(|| format!("NEFTune noise, alpha {}", objective.neftune_alpha));
    let of_source = || data.sources.iter().find_map(|source| source.weight_column.as_ref());
    let column = data.weight_column.as_ref().or_else(of_source);
    let examples = column.map(|column| format!("weights of examples from column {column:?}"));
    let drawn = (data.sampling != Sampling::Random).then(|| format!("{} sampling", data.sampling));
    let parts: Vec<String> = smoothing.into_iter().chain(weights).chain(examples).chain(noise).chain(drawn).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example, Label};

    fn of(setting: &str, classes: &[u32]) -> Result<Objective> {
        let words: Vec<String> = ["model.path=m", "task.kind=sequence-classification", "data.train=t", setting]
            .iter()
            .map(|&word| word.to_owned())
            .chain(["output_dir=o".to_owned()])
            .collect();
        let config = Config::parse("", "test", &words)?;
        let example = |&class: &u32| Example::single(vec![1], vec![0], Label::Class(class));
        let dataset = Dataset::new(classes.iter().map(example), Collation::Plain, [0; 32]);
        objective(&config, &dataset, Some(&["a".into(), "b".into(), "c".into()]))
    }

    #[test]
    fn weights_come_from_the_table_or_the_frequencies() {
        let balanced = of("class_weights=balanced", &[0, 1, 1, 2, 2, 2]).unwrap();
        // numpy and scikit-learn: compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 1, 1, 2, 2, 2])
        assert_eq!(balanced.class_weights, Some(vec![2.0, 1.0, 2.0 / 3.0]));
        // The same with classes=[0, 2], y=[0, 2, 2, 2].
        let without = of("class_weights=balanced", &[0, 2, 2, 2]).unwrap();
        assert_eq!(without.class_weights, Some(vec![2.0, 0.0, 2.0 / 3.0]));
        let table = of("class_weights={ b = 3, c = 0.5 }", &[0, 1, 2]).unwrap();
        assert_eq!(table.class_weights, Some(vec![1.0, 3.0, 0.5]));
        let labels = ["a", "b", "c"].map(String::from);
        let described = describe(&Objective { label_smoothing: 0.1, ..table }, &DataConfig::default(), Some(&labels));
        let described = described.unwrap();
        assert_eq!(described, "label smoothing 0.1; class weights a 1.000, b 3.000, c 0.500");
        let plain = of("label_smoothing_factor=0", &[0]).unwrap();
        assert_eq!(describe(&plain, &DataConfig::default(), None), None);
        let data =
            DataConfig { weight_column: Some("w".into()), sampling: Sampling::ClassBalanced, ..DataConfig::default() };
        let described = describe(&plain, &data, None).unwrap();
        assert_eq!(described, "weights of examples from column \"w\"; class_balanced sampling");
    }

    #[test]
    fn weights_of_examples_and_balanced_classes_need_examples() {
        let config = |settings: &[&str]| {
            let words = ["output_dir=o", "model.path=m", "task.kind=sequence-classification", "data.train=t"];
            let words: Vec<String> = words.iter().chain(settings).map(|&word| word.to_owned()).collect();
            Config::parse("", "test", &words).unwrap()
        };
        let labels = ["a".to_owned(), "b".to_owned()];
        let data = |weights: [f32; 2]| {
            let example = |class: u32| Example::single(vec![1], vec![0], Label::Class(class));
            Dataset::new([0, 1].map(example), Collation::Plain, [0; 32]).with_weights(weights)
        };
        let of = |settings: &[&str], weights| objective(&config(settings), &data(weights), Some(&labels));
        let zero = of(&["weight_column=w"], [0.0, 0.0]).unwrap_err().to_string();
        assert_eq!(zero, "data.weight_column: t: the weights of all examples are 0: nothing would be learned");
        let both = ["weight_column=w", "class_weights={ a = 0 }"];
        let zero = of(&both, [1.0, 0.0]).unwrap_err().to_string();
        assert!(zero.contains("the weights of all examples, times those of task.class_weights, are 0"), "{zero}");
        assert!(of(&both, [0.0, 1.0]).is_ok() && of(&["weight_column=w"], [1.0, 0.0]).is_ok());

        let facts = crate::data::Facts {
            labels: Some(labels.to_vec()),
            skipped: 0,
            skipped_reasons: Vec::new(),
            truncated: 0,
            vocab_size: 2,
            segments: 1,
            remarks: Vec::new(),
            references: serde_json::Value::Null,
        };
        let train = Prepared { dataset: data([1.0, 1.0]), facts, cache: crate::data::CacheUse::Built };
        assert!(draw_balanced(&config(&["sampling=class_balanced"]), train).dataset.is_class_balanced());
    }

    #[test]
    fn impossible_weights_are_errors() {
        let message = |setting: &str, classes: &[u32]| of(setting, classes).unwrap_err().to_string();
        assert!(
            message("class_weights={ d = 2.0 }", &[0]).contains("no label \"d\" in the training data, only a, b, c")
        );
        assert!(message("class_weights={ a = 0, b = 0, c = 0.0 }", &[0, 1]).contains("weights of all examples are 0"));
        assert!(message("class_weights={ a = 0 }", &[0, 0]).contains("weights of all examples are 0"));
        assert!(message("class_weights={ a = -1 }", &[0]).contains("found -1.0, expected a number >= 0"));
        assert!(message("class_weights=equal", &[0]).contains("found \"equal\", expected \"balanced\" or a table"));
        let others = ["regression", "multiple-choice", "causal-lm"];
        for kind in others {
            let words = [format!("task.kind={kind}"), "class_weights=balanced".into()];
            let error = Config::parse("", "test", &words).unwrap_err().to_string();
            assert!(error.contains("task.class_weights") && error.contains("does not use this"), "{error}");
        }
        let words = ["task.kind=regression".to_owned(), "label_smoothing_factor=0.1".into()];
        let error = Config::parse("", "test", &words).unwrap_err().to_string();
        assert!(error.contains("train.label_smoothing_factor: regression does not use this"), "{error}");
    }
}
