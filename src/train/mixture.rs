//! Training data of several sources ([`[[data.sources]]`](crate::config::SourceConfig)), mixed by their weights.

use crate::config::{Config, DataConfig};
use crate::data::{Dataset, Encode, Prepared};
use crate::error::{Context, Error, Result};
use crate::tasks::concatenated::Concatenated;
use crate::train::reading::Reading;

impl Reading<'_> {
    /// Returns the encoder of the training data: of `data.train`, or of all sources one after another.
    ///
    /// # Errors
    /// As [`Reading::encoder`], naming the source.
    pub fn training_encoder(&self) -> Result<Box<dyn Encode>> {
        if self.data.sources.is_empty() {
            return self.encoder(&self.data.train, "data.train");
        }
        let sources = self.data.of_sources().into_iter().map(|(name, data)| {
            let labels = self.labels.clone();
            let Reading { task, folder, max_length, purpose, seed, part, words, .. } = *self;
            let reading = Reading { task, data: &data, folder, max_length, purpose, labels, seed, part, words };
            reading.encoder(&data.train, "path").context(name)
        });
        Ok(Box::new(Concatenated::new(sources.collect::<Result<_>>()?)))
    }
}

/// Makes the sampler mix the sources, if they have weights.
///
/// # Errors
/// Exit 2: a weight that is too small for a single example in an epoch.
pub fn mix(config: &Config, train: Prepared) -> Result<Prepared> {
    let Some(weights) = config.data.source_weights() else { return Ok(train) };
    let dataset = train.dataset.mixed(&weights);
    let counts = dataset.mixture().map_or(&[][..], |mixture| mixture.counts());
    if let Some(none) = counts.iter().position(|&count| count == 0) {
        return Err(Error::input(format!(
            "data.sources, table {}: with weight = {} of {} no example of the {} in an epoch is from this source: \
             raise the weight, or remove the source",
            none + 1,
            weights[none],
            weights.iter().sum::<f64>(),
            dataset.len()
        )));
    }
    Ok(Prepared { dataset, ..train })
}

/// Describes what each source contributes to an epoch.
pub fn describe(data: &DataConfig, dataset: &Dataset) -> Vec<String> {
    let (lengths, sizes) = (dataset.lengths(), dataset.sources());
    let counts = dataset.mixture().map_or(sizes, |mixture| mixture.counts());
    let mut rest = &lengths[..];
    let tokens = sizes.iter().map(|&size| {
        let (own, others) = rest.split_at(size);
        rest = others;
        own.iter().map(|&length| f64::from(length)).sum::<f64>()
    });
    let tokens: Vec<f64> = tokens.collect();
    // Expected, if an epoch has not each example once.
    let read: Vec<f64> = (0..sizes.len()).map(|s| tokens[s] * counts[s] as f64 / sizes[s] as f64).collect();
    let (all, all_tokens) = (counts.iter().sum::<usize>() as f64, read.iter().sum::<f64>());
    let line = |s: usize| {
        let (size, count) = (sizes[s], counts[s]);
        let percent = |part: f64| format!("{:.1} %", 100.0 * part);
        let weight = data.sources[s].weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
        format!(
            "{}: {size} example{}, {} tokens{weight}; {} of an epoch's examples, {} of its tokens, each example {:.2} \
             times",
            data.sources[s].path,
            if size == 1 { "" } else { "s" },
            tokens[s],
            percent(count as f64 / all),
            percent(read[s] / all_tokens),
            count as f64 / size as f64
        )
    };
    // Without data, such as for an assumption about it, there are no sources.
    (0..sizes.len().min(data.sources.len())).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CacheUse, Collation, Example, Facts, Label};
    use serde_json::Value;

    fn config(weights: [f64; 2]) -> Config {
        let sources = format!(
            "data.sources=[{{path='a', weight={:?}}}, {{path=['b', 'c'], weight={:?}}}]",
            weights[0], weights[1]
        );
        let words = ["output_dir=o", "model.path=m", "task.kind=causal-lm", &sources].map(str::to_owned);
        Config::parse("", "a test", &words).unwrap()
    }

    fn data() -> Prepared {
        let example = |i: usize| Example::single(vec![1; 1 + i / 8], vec![0; 1 + i / 8], Label::None);
        let dataset = Dataset::new((0..10).map(example), Collation::NextToken, [0; 32]).with_sources(vec![8, 2]);
        let (skipped_reasons, remarks) = (Vec::new(), Vec::new());
        let (labels, references) = (None, Value::Null);
        let (skipped, truncated, vocab_size, segments) = (0, 0, 2, 1);
        let facts = Facts { labels, skipped, skipped_reasons, truncated, vocab_size, segments, remarks, references };
        Prepared { dataset, facts, cache: CacheUse::Built }
    }

    #[test]
    fn the_header_has_what_each_source_contributes() {
        let described = |config: &Config, data: Prepared| describe(&config.data, &data.dataset);
        let mixed = config([3.0, 2.0]);
        let lines = described(&mixed, mix(&mixed, data()).unwrap());
        let wanted = [
            "a: 8 examples, 8 tokens, weight 3; 60.0 % of an epoch's examples, 42.9 % of its tokens, each example 0.75 \
             times",
            "b, c: 2 examples, 4 tokens, weight 2; 40.0 % of an epoch's examples, 57.1 % of its tokens, each example \
             2.00 times",
        ];
        assert_eq!(lines, wanted);
        let first = described(&mixed, data()).remove(0);
        let wanted = "; 80.0 % of an epoch's examples, 66.7 % of its tokens, each example 1.00";
        assert!(first.contains(wanted), "{first}");
        let small = config([100.0, 1.0]);
        let message = mix(&small, data()).err().unwrap().to_string();
        let wanted =
            "data.sources, table 2: with weight = 1 of 101 no example of the 10 in an epoch is from this source";
        assert!(message.starts_with(wanted), "{message}");
    }
}
