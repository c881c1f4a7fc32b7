//! How examples become the inputs and targets of a batch.

use super::dataset::Dataset;
use super::example::{Label, NO_LABEL};
use super::masking::Masking;
use serde::{Deserialize, Serialize};

/// What a data set's examples are made into.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Collation {
    /// Inputs and labels as they are.
    Plain,
    /// Each token is to be told from those before it in its sequence: of all tokens, or of those that have a label.
    NextToken,
    /// Some tokens are hidden and to be told from the others.
    Masked(Masking),
    /// The first sequence goes to the encoder; the second is to be told by the decoder, which starts from `start`.
    SourceTarget { start: u32 },
}

/// The coordinates of what is drawn for a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Draw {
    pub seed: u64,
    /// The optimizer step, from 1; 0 in an evaluation, so that each of them sees the same.
    pub step: u64,
}

/// What the model sees of an example, and what it is to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// `[n]`: the example's ids, some of them hidden maybe.
    pub ids: Vec<u32>,
    /// Places whose output is to tell a class: (token of the example, of its target with [`Collation::SourceTarget`]; class).
    pub targets: Vec<(u32, u32)>,
}

impl Collation {
    /// The inputs and the targets of example `i`; a function of the example and of `draw` alone, on every rank alike.
    pub fn inputs(&self, dataset: &Dataset, i: usize, draw: Draw) -> Inputs {
        let ids = dataset.ids(i);
        match self {
            Collation::Plain => Inputs { ids: ids.to_vec(), targets: labelled(&dataset.label(i)) },
            Collation::NextToken => Inputs { ids: ids.to_vec(), targets: next_tokens(dataset, i) },
            Collation::Masked(masking) => masking.hide(dataset, i, draw),
            Collation::SourceTarget { start } => {
                let target = dataset.sequences(i).get(1).map_or(0, |&n| n as usize);
                let (source, target) = ids.split_at(ids.len() - target);
                let shifted = [*start].into_iter().chain(target.iter().copied()).take(target.len().max(1));
                let targets = (0..).zip(target.iter().copied()).collect();
                Inputs { ids: source.iter().copied().chain(shifted).collect(), targets }
            }
        }
    }
}

/// The tokens that have a label.
fn labelled(label: &Label) -> Vec<(u32, u32)> {
    let (Label::Tokens(classes) | Label::TokensAndClass(classes, _)) = label else { return Vec::new() };
    let places = (0..).zip(classes).filter(|(_, class)| **class != NO_LABEL);
    places.map(|(place, class)| (place, class.cast_unsigned())).collect()
}

/// Every token but the last of each sequence tells the one after it, where that has a label or nothing has.
fn next_tokens(dataset: &Dataset, i: usize) -> Vec<(u32, u32)> {
    let ids = dataset.ids(i);
    let classes = match dataset.label(i) {
        Label::Tokens(classes) => classes,
        _ => ids.iter().map(|id| id.cast_signed()).collect(),
    };
    let mut targets = Vec::with_capacity(ids.len());
    let mut start = 0;
    for n in dataset.sequences(i) {
        let told = (start..start + n.saturating_sub(1)).map(|place| (place, classes[place as usize + 1]));
        targets.extend(told.filter(|(_, class)| *class != NO_LABEL).map(|(p, class)| (p, class.cast_unsigned())));
        start += n;
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::super::example::Example;
    use super::*;

    fn inputs(collation: Collation, lengths: &[u32], label: Label) -> Inputs {
        let n: u32 = lengths.iter().sum();
        let ids = (10..10 + n).collect();
        let example = Example { ids, type_ids: vec![0; n as usize], lengths: lengths.to_vec(), label };
        let dataset = Dataset::new([example], collation, [0; 32]);
        dataset.collation().inputs(&dataset, 0, Draw::default())
    }

    #[test]
    fn next_tokens_stay_in_their_sequence() {
        let all = inputs(Collation::NextToken, &[3, 1, 2], Label::None);
        assert_eq!(all.targets, [(0, 11), (1, 12), (4, 15)]);
        let some = Label::Tokens(vec![NO_LABEL, 11, NO_LABEL, 13, 14, 15]);
        assert_eq!(inputs(Collation::NextToken, &[3, 1, 2], some).targets, [(0, 11), (4, 15)]);
    }

    #[test]
    fn a_decoder_sees_its_target_one_step_late() {
        let both = inputs(Collation::SourceTarget { start: 0 }, &[2, 3], Label::None);
        assert_eq!(both, Inputs { ids: vec![10, 11, 0, 12, 13], targets: vec![(0, 12), (1, 13), (2, 14)] });
        let source = inputs(Collation::SourceTarget { start: 7 }, &[2], Label::None);
        assert_eq!(source, Inputs { ids: vec![10, 11, 7], targets: vec![] });
    }
}
