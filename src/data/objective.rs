//! What training minimizes: the weights of the targets, and label smoothing.

use super::dataset::Dataset;
use super::example::{Label, NO_LABEL};

/// How the losses of a data set's targets are computed and averaged. The default is the plain mean, as in evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objective {
    /// Label smoothing (arXiv 1512.00567, section 7): the part of the target's probability that is spread evenly over all
    /// classes.
    pub label_smoothing: f64,
    /// The weight of each class, `[C]`. A mean loss is then the sum of the targets' weighted losses divided by the sum of
    /// their weights, as `torch.nn.CrossEntropyLoss(weight)` computes it.
    pub class_weights: Option<Vec<f32>>,
}

impl Objective {
    /// Returns the sum of the weights of targets of these classes.
    pub fn weight(&self, classes: &[i64]) -> f64 {
        let weight_of = |weights: &[f32], class: i64| {
            usize::try_from(class).ok().and_then(|class| weights.get(class)).map_or(0.0, |&weight| f64::from(weight))
        };
        match &self.class_weights {
            None => classes.len() as f64,
            Some(weights) => classes.iter().map(|&class| weight_of(weights, class)).sum(),
        }
    }
}

/// Returns the number of targets of each of `classes` classes: examples, or labelled tokens.
pub fn class_counts(dataset: &Dataset, classes: usize) -> Vec<u64> {
    let mut counts = vec![0; classes];
    let mut count = |class: u32| counts.get_mut(class as usize).into_iter().for_each(|count| *count += 1);
    for i in 0..dataset.len() {
        match dataset.label(i) {
            Label::Class(class) => count(class),
            Label::Tokens(tokens) => {
                tokens.into_iter().filter(|&class| class != NO_LABEL).for_each(|class| count(class.cast_unsigned()));
            }
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::collation::Collation;
    use super::super::example::Example;
    use super::*;

    #[test]
    fn the_weight_of_targets_is_the_sum_of_their_classes() {
        let plain = Objective::default();
        let weighted = Objective { class_weights: Some(vec![0.5, 2.0]), ..Objective::default() };
        assert_eq!((plain.weight(&[0, 1, 1]), weighted.weight(&[0, 1, 1]), weighted.weight(&[])), (3.0, 4.5, 0.0));
    }

    #[test]
    fn classes_are_counted() {
        let example = |label: Label| Example::single(vec![1, 2, 3], vec![0; 3], label);
        let of = |labels: Vec<Label>| {
            let dataset = Dataset::new(labels.into_iter().map(example), Collation::Plain, [0; 32]);
            class_counts(&dataset, 3)
        };
        assert_eq!(of(vec![Label::Class(1), Label::Class(0), Label::Class(1)]), [1, 2, 0]);
        assert_eq!(of(vec![Label::Tokens(vec![NO_LABEL, 2, 1]), Label::Tokens(vec![2, 2, 2])]), [0, 1, 4]);
    }
}
