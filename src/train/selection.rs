//! Selects weights as settings name them: by patterns of Hugging Face names, by layer ranges, as the head.

use crate::error::{Error, Result};
use crate::models::hf_names::HfNames;
use crate::nn::param_builder::ParamSpec;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use wildmatch::WildMatch;

/// The position of a weight in a stack of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What is before the number in the Hugging Face name, such as `encoder.block`: T5 has two stacks.
    pub stack: String,
    /// Counted from 0.
    pub number: usize,
}

/// A weight as settings name it.
#[derive(Debug, Clone)]
pub struct Named {
    /// The Hugging Face names of its parts; several form one weight here if it is fused.
    pub parts: Vec<String>,
    pub layer: Option<Layer>,
    pub is_head: bool,
}

/// The weights of a model, in declaration order.
#[derive(Debug)]
pub struct Catalog(pub Vec<Named>);

/// One entry of a list of patterns.
enum Selector {
    Pattern(WildMatch),
    Layers(RangeInclusive<usize>),
    Head,
}

impl Selector {
    /// Reads `head`, `layers.8`, `layers.8-11` or a pattern.
    fn parse(text: &str) -> Self {
        let range = || -> Option<RangeInclusive<usize>> {
            let (first, last) = {
                let range = text.strip_prefix("layers.")?;
                range.split_once('-').unwrap_or((range, range))
            };
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        match range() {
            _ if text == "head" => Selector::Head,
            Some(range) => Selector::Layers(range),
            None => Selector::Pattern(WildMatch::new(text)),
        }
    }

    fn matches(&self, weight: &Named, part: &str) -> bool {
        match self {
            Selector::Pattern(pattern) => pattern.matches(part),
            Selector::Layers(range) => weight.layer.as_ref().is_some_and(|layer| range.contains(&layer.number)),
            Selector::Head => weight.is_head,
        }
    }
}

/// Returns the layer that a Hugging Face name belongs to, by its first component that is a number.
fn layer(name: &str) -> Option<Layer> {
    let components: Vec<&str> = name.split('.').collect();
    let (at, number) = components.iter().enumerate().find_map(|(at, word)| Some((at, word.parse().ok()?)))?;
    Some(Layer { stack: components[..at].join("."), number })
}

impl Catalog {
    pub fn new(specs: &[ParamSpec], names: &HfNames) -> Self {
        // An adapter is a part of what its layer is a part of.
        let layer_of = |spec: &ParamSpec| -> String {
            let end = if spec.adapter { ".lora_" } else { ".weight" };
            spec.name.rsplit_once(end).map_or(&*spec.name, |(layer, _)| layer).to_owned()
        };
        let is_new = |spec: &&ParamSpec| spec.newly_initialized && !spec.adapter;
        let heads: BTreeSet<String> = specs.iter().filter(is_new).map(layer_of).collect();
        let named = |spec: &ParamSpec| {
            let parts = names.exported(names.of(&spec.name));
            let layer = parts.first().and_then(|part| layer(part));
            // The head of a language model is pretrained.
            let is_new = if spec.adapter { heads.contains(&layer_of(spec)) } else { spec.newly_initialized };
            let is_head = is_new || spec.name.starts_with("lm_head.");
            Named { parts, layer, is_head }
        };
        Catalog(specs.iter().map(named).collect())
    }

    /// Number of layers of a stack; without a `stack`, of the longest.
    pub fn layers(&self, stack: Option<&str>) -> usize {
        let layers = self.0.iter().filter_map(|weight| weight.layer.as_ref());
        let of_stack = layers.filter(|layer| stack.is_none_or(|stack| layer.stack == stack));
        of_stack.map(|layer| layer.number + 1).max().unwrap_or(0)
    }

    /// Returns for each weight its distance from the top: 0 above the last layer, L - i for layer i of L, counted from
    /// 0, and L + 1 for the embeddings. L is the number of layers of the weight's stack, for the embeddings that of the
    /// longest.
    pub fn depths(&self, specs: &[ParamSpec]) -> Vec<usize> {
        let depth = |(spec, weight): (&ParamSpec, &Named)| match &weight.layer {
            Some(layer) => self.layers(Some(&layer.stack)) - layer.number,
            // A decoder's embeddings are in a later block.
            None if spec.block == 0 || spec.name.contains("embeddings.") => self.layers(None) + 1,
            None => 0,
        };
        specs.iter().zip(&self.0).map(depth).collect()
    }

    /// Returns for each weight whether one of `patterns` selects it. `key` is the name of the setting and `verb` what
    /// it does with weights, such as `freeze`.
    ///
    /// # Errors
    /// Exit 2 if a pattern selects nothing, a layer range exceeds the model, or only a part of a fused weight is
    /// selected.
    pub fn select(&self, key: &str, verb: &str, patterns: &[String]) -> Result<Vec<bool>> {
        let selectors: Vec<Selector> = patterns.iter().map(|pattern| Selector::parse(pattern)).collect();
        let mut used = vec![false; patterns.len()];
        let mut selected = Vec::with_capacity(self.0.len());
        for weight in &self.0 {
            let mut chosen = vec![false; weight.parts.len()];
            for (selector, used) in selectors.iter().zip(&mut used) {
                for (part, chosen) in weight.parts.iter().zip(&mut chosen) {
                    let matches = selector.matches(weight, part);
                    (*used, *chosen) = (*used || matches, *chosen || matches);
                }
            }
            if chosen.contains(&true) && chosen.contains(&false) {
                let all = weight.parts.join(", ");
                return Err(Error::input(format!("{key}: {all} form one weight here: {verb} all of them or none")));
            }
            selected.push(chosen.contains(&true));
        }
        for ((pattern, selector), used) in patterns.iter().zip(&selectors).zip(used) {
            if let Some(why) = self.refusal(selector, used) {
                return Err(Error::input(format!("{key}: {pattern:?} {why}")));
            }
        }
        Ok(selected)
    }

    /// Returns why a selector is wrong, if it is; `used` says whether it selects a weight.
    fn refusal(&self, selector: &Selector, used: bool) -> Option<String> {
        let layers = self.layers(None);
        match selector {
            Selector::Layers(range) if range.is_empty() => Some(format!(
                "is an empty range: the lower number comes first, layers.{}-{}",
                range.end(),
                range.start()
            )),
            Selector::Layers(range) if *range.end() >= layers => {
                Some(format!("exceeds this model, which has layers 0 to {}", layers.saturating_sub(1)))
            }
            Selector::Head if !used => Some(
                "matches no weight: the head of this model has no weights of its own, it is the embedding matrix"
                    .into(),
            ),
            Selector::Pattern(_) if !used => {
                let some = self.0.iter().flat_map(|weight| &weight.parts).take(3).cloned().collect::<Vec<_>>();
                Some(format!("matches no weight; weights have names such as {}", some.join(", ")))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_the_first_number_of_a_name() {
        let of = |name| layer(name).map(|layer| (layer.stack, layer.number));
        let is = |stack: &str, number| Some((stack.to_owned(), number));
        assert_eq!(of("bert.encoder.layer.11.attention.self.query.weight"), is("bert.encoder.layer", 11));
        assert_eq!(of("transformer.h.0.ln_1.bias"), is("transformer.h", 0));
        assert_eq!(of("decoder.block.3.layer.2.DenseReluDense.wo.weight"), is("decoder.block", 3));
        assert_eq!(of("encoder.albert_layer_groups.0.albert_layers.1.ffn.bias"), is("encoder.albert_layer_groups", 0));
        assert_eq!(of("transformer.layer.2.ff.layer_1.weight"), is("transformer.layer", 2));
        assert_eq!((of("model.norm.weight"), of("classifier.out_proj.bias")), (None, None));
    }

    fn catalog() -> Catalog {
        let weight = |parts: &[&str], is_head| Named {
            parts: parts.iter().map(|&part| part.to_owned()).collect(),
            layer: layer(parts[0]),
            is_head,
        };
        Catalog(vec![
            weight(&["words.weight"], false),
            weight(&["encoder.block.0.q.weight", "encoder.block.0.k.weight"], false),
            weight(&["encoder.block.0.bias"], false),
            weight(&["encoder.block.1.bias"], false),
            weight(&["decoder.block.0.bias"], false),
            weight(&["norm.bias"], false),
            weight(&["head.weight"], true),
        ])
    }

    #[test]
    fn weights_are_selected_by_pattern_layer_and_head() {
        let selected = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            let selected = catalog().select("model.train", "train", &patterns);
            selected.map(|all| all.iter().zip(0..).filter(|(chosen, _)| **chosen).map(|(_, i)| i).collect::<Vec<_>>())
        };
        let found = |patterns: &[&str]| selected(patterns).unwrap();
        assert_eq!(found(&["*.bias", "head"]), [2, 3, 4, 5, 6]);
        assert_eq!((found(&["layers.0"]), found(&["layers.1-1"])), (vec![1, 2, 4], vec![3]));
        assert_eq!(found(&["layers.0-1"]), [1, 2, 3, 4]);
        assert_eq!(found(&["encoder.block.0.?.weight"]), [1]);
        assert_eq!(found(&[]), [0; 0]);
        for (pattern, wanted) in [
            ("layers.1-2", "model.train: \"layers.1-2\" exceeds this model, which has layers 0 to 1"),
            ("layers.1-0", "model.train: \"layers.1-0\" is an empty range: the lower number comes first, layers.0-1"),
            ("layers.x", "model.train: \"layers.x\" matches no weight; weights have names such as words.weight, "),
            ("*.q.weight", "encoder.block.0.k.weight form one weight here: train all of them or none"),
        ] {
            let error = selected(&["head", pattern]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let mut headless = catalog();
        headless.0.pop();
        let error = headless.select("model.freeze", "freeze", &["head".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("it is the embedding matrix"), "{error}");
        assert_eq!((catalog().layers(None), catalog().layers(Some("decoder.block"))), (2, 1));
    }
}
