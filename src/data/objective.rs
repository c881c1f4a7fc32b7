//! What training minimizes: the weights of the targets, and label smoothing.

/// How the losses of a data set's targets are computed and averaged. The default is the plain mean, as in evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objective {
    /// Label smoothing (arXiv 1512.00567, section 7): the part of the target's probability that is spread evenly over all
    /// classes.
    pub label_smoothing: f64,
    /// The weight of each class, `[C]`. A mean loss is then the sum of the targets' weighted losses divided by the sum of
    /// their weights, as `torch.nn.CrossEntropyLoss(weight)` computes it.
    pub class_weights: Option<Vec<f32>>,
    /// NEFTune's alpha (arXiv 2310.05914): the scale of the noise on token embeddings; 0 for none.
    pub neftune_alpha: f64,
}

impl Objective {
    /// Returns the sum of the weights of targets of these classes, each multiplied by that of its example, if examples
    /// have weights.
    pub fn weight(&self, classes: &[i64], examples: Option<&[f32]>) -> f64 {
        let weight_of = |weights: &[f32], class: i64| {
            usize::try_from(class).ok().and_then(|class| weights.get(class)).map_or(0.0, |&weight| f64::from(weight))
        };
        match (&self.class_weights, examples) {
            (None, None) => classes.len() as f64,
            (None, Some(examples)) => sum(examples),
            (Some(weights), None) => classes.iter().map(|&class| weight_of(weights, class)).sum(),
            (Some(weights), Some(examples)) => {
                let of_target = |(&class, &example): (&i64, &f32)| weight_of(weights, class) * f64::from(example);
                classes.iter().zip(examples).map(of_target).sum()
            }
        }
    }
}

/// Returns the sum of weights.
pub fn sum(weights: &[f32]) -> f64 {
    weights.iter().map(|&weight| f64::from(weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_of_targets_is_the_sum_of_their_classes() {
        let plain = Objective::default();
        let weighted = Objective { class_weights: Some(vec![0.5, 2.0]), ..Objective::default() };
        let of = |objective: &Objective, classes: &[i64]| objective.weight(classes, None);
        assert_eq!((of(&plain, &[0, 1, 1]), of(&weighted, &[0, 1, 1]), of(&weighted, &[])), (3.0, 4.5, 0.0));
        let examples = Some(&[2.0, 0.0, 0.5][..]);
        assert_eq!((plain.weight(&[0, 1, 1], examples), weighted.weight(&[0, 1, 1], examples)), (2.5, 2.0));
    }
}
