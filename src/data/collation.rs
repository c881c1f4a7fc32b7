//! How examples become the inputs and targets of a batch.

use super::example::{Inputs, Label, NO_LABEL};
use super::masking::Masking;
use super::random::RandomKey;
use serde::{Deserialize, Serialize};

/// How a data set's examples become inputs and targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Collation {
    /// Inputs and labels as they are.
    Plain,
    /// Next-token prediction: the targets are all tokens of a sequence, or those that have a label.
    NextToken,
    /// Masked language modeling: some tokens are masked and are the targets.
    Masked(Masking),
    /// Encoder-decoder: the first sequence is the encoder's input; the second is the decoder's target, and the
    /// decoder's input is the target shifted right behind `start`.
    SourceTarget { start: u32 },
}

impl Collation {
    /// Returns the inputs and targets of an example with these `ids` and this `label`, whose sequences have these
    /// `lengths`; `key` is that of the batch's randomness.
    pub fn inputs(&self, ids: &[u32], lengths: &[u32], label: Label, key: RandomKey) -> Inputs {
        match self {
            Collation::Plain => Inputs { ids: ids.to_vec(), targets: labelled(&label) },
            Collation::NextToken => Inputs { ids: ids.to_vec(), targets: next_tokens(ids, lengths, label) },
            Collation::Masked(masking) => masking.mask(ids, lengths, label, key),
            Collation::SourceTarget { start } => {
                let target = lengths.get(1).map_or(0, |&n| n as usize);
                let (source, target) = ids.split_at(ids.len() - target);
                let shifted = [*start].into_iter().chain(target.iter().copied()).take(target.len().max(1));
                let targets = (0..).zip(target.iter().copied()).collect();
                Inputs { ids: source.iter().copied().chain(shifted).collect(), targets }
            }
        }
    }
}

/// Returns the tokens that have a label.
fn labelled(label: &Label) -> Vec<(u32, u32)> {
    let (Label::Tokens(classes) | Label::TokensAndClass(classes, _)) = label else { return Vec::new() };
    let labelled = (0..).zip(classes).filter(|(_, class)| **class != NO_LABEL);
    labelled.map(|(position, class)| (position, class.cast_unsigned())).collect()
}

/// Returns, for every token but the last of each sequence, the next token as its target. Where tokens have labels, only
/// labelled tokens are targets.
fn next_tokens(ids: &[u32], lengths: &[u32], label: Label) -> Vec<(u32, u32)> {
    let classes = match label {
        Label::Tokens(classes) => classes,
        _ => ids.iter().map(|id| id.cast_signed()).collect(),
    };
    let mut targets = Vec::with_capacity(ids.len());
    let mut start = 0;
    for n in lengths {
        let next = (start..start + n.saturating_sub(1)).map(|position| (position, classes[position as usize + 1]));
        targets.extend(next.filter(|(_, class)| *class != NO_LABEL).map(|(p, class)| (p, class.cast_unsigned())));
        start += n;
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Dataset;
    use super::super::example::Example;
    use super::*;

    fn inputs(collation: Collation, lengths: &[u32], label: Label) -> Inputs {
        let n: u32 = lengths.iter().sum();
        let ids = (10..10 + n).collect();
        let example = Example { ids, type_ids: vec![0; n as usize], lengths: lengths.to_vec(), label };
        let dataset = Dataset::new([example], collation, [0; 32]);
        dataset.inputs(0, RandomKey::default())
    }

    #[test]
    fn next_tokens_stay_in_their_sequence() {
        let all = inputs(Collation::NextToken, &[3, 1, 2], Label::None);
        assert_eq!(all.targets, [(0, 11), (1, 12), (4, 15)]);
        let some = Label::Tokens(vec![NO_LABEL, 11, NO_LABEL, 13, 14, 15]);
        assert_eq!(inputs(Collation::NextToken, &[3, 1, 2], some).targets, [(0, 11), (4, 15)]);
    }

    #[test]
    fn a_decoders_input_is_its_target_shifted_right() {
        let both = inputs(Collation::SourceTarget { start: 0 }, &[2, 3], Label::None);
        assert_eq!(both, Inputs { ids: vec![10, 11, 0, 12, 13], targets: vec![(0, 12), (1, 13), (2, 14)] });
        let source = inputs(Collation::SourceTarget { start: 7 }, &[2], Label::None);
        assert_eq!(source, Inputs { ids: vec![10, 11, 7], targets: vec![] });
    }
}
