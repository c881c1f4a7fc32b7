//! The map between native parameters and the tensors of Hugging Face files.
//!
//! A native parameter is one tensor of the file, or several joined along the first dimension (queries, keys, values);
//! each may lie there transposed, or in another shape of as many elements. Names differ by a prefix (`bert.` on models
//! with a head, none on a bare encoder) and by age (`gamma`, `beta`).

use tch::Tensor;

/// One native parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct HfParam {
    /// The native name.
    pub native: String,
    /// The file's names, joined along dimension 0 in this order; without the family's prefix when `prefixed`.
    pub parts: Vec<String>,
    /// The parts' heights along dimension 0, to scale; empty where they are all alike.
    pub shares: Vec<i64>,
    /// Whether the family's prefix stands before the names in a model with a head.
    pub prefixed: bool,
    /// How each part lies in the file.
    pub form: Form,
    /// Whole names of tensors that are the same weight: read where the file has no other, never written.
    pub aliases: Vec<String>,
    /// The whole name of a tensor that is read where the file has none of the others, never written.
    pub fallback: Option<String>,
}

/// How a tensor of a file becomes a part of a native parameter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Form {
    /// `[in, out]` there, `[out, in]` here.
    pub transposed: bool,
    /// The file's shape where it is not the native one (after transposing): as many elements in the same order.
    pub shape: Option<Vec<i64>>,
}

impl HfParam {
    /// A parameter that is these tensors of the file, with the family's prefix.
    pub fn new(native: impl Into<String>, parts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let parts = parts.into_iter().map(Into::into).collect();
        HfParam {
            native: native.into(),
            parts,
            shares: Vec::new(),
            prefixed: true,
            form: Form::default(),
            aliases: Vec::new(),
            fallback: None,
        }
    }

    /// Its parts differ in height: they are to each other as these numbers.
    pub fn shares(self, shares: &[i64]) -> Self {
        assert_eq!(shares.len(), self.parts.len(), "{}: one share a part", self.native);
        HfParam { shares: shares.to_vec(), ..self }
    }

    /// The native shape of each part of a parameter of this shape.
    pub fn pieces(&self, whole: &[i64]) -> Vec<Vec<i64>> {
        let shares = if self.shares.is_empty() { vec![1; self.parts.len()] } else { self.shares.clone() };
        let all: i64 = shares.iter().sum();
        let piece = |share: i64| {
            let mut shape = whole.to_vec();
            shape[0] = shape[0] * share / all;
            shape
        };
        shares.into_iter().map(piece).collect()
    }

    /// Without the family's prefix, as heads are.
    pub fn bare(self) -> Self {
        HfParam { prefixed: false, ..self }
    }

    /// The file has it transposed, as GPT-2's `Conv1D`.
    pub fn transposed(mut self) -> Self {
        self.form.transposed = true;
        self
    }

    /// The file has each part in this shape.
    pub fn stored_as(mut self, shape: &[i64]) -> Self {
        self.form.shape = Some(shape.to_vec());
        self
    }

    /// Other tensors of the file that are this weight: a tied head's, say. Whole names, prefix included. Where a file has
    /// several of them, all are to be equal.
    pub fn also(mut self, aliases: &[&str]) -> Self {
        self.aliases.extend(aliases.iter().map(|&alias| alias.to_owned()));
        self
    }

    /// A tensor that is read where the file lacks this weight, and else is of no use. The whole name.
    pub fn or(mut self, fallback: &str) -> Self {
        self.fallback = Some(fallback.to_owned());
        self
    }
}

/// A layer's weight and bias: `native.weight` is the `.weight` of these layers of the file, joined; so is the bias.
pub fn layer(native: &str, parts: &[&str]) -> [HfParam; 2] {
    ["weight", "bias"].map(|kind| HfParam::new(format!("{native}.{kind}"), parts.iter().map(|p| format!("{p}.{kind}"))))
}

impl Form {
    /// A part's shape in the file, from its native one.
    pub fn file_shape(&self, native: &[i64]) -> Vec<i64> {
        match (&self.shape, self.transposed) {
            (Some(shape), _) => shape.clone(),
            (None, true) => native.iter().rev().copied().collect(),
            (None, false) => native.to_vec(),
        }
    }

    /// A tensor of the file as a part of native shape.
    pub fn to_native(&self, tensor: &Tensor, native: &[i64]) -> Tensor {
        if self.transposed {
            let reversed: Vec<i64> = native.iter().rev().copied().collect();
            tensor.reshape(reversed).tr()
        } else {
            tensor.reshape(native)
        }
    }

    /// A native part as the file has it.
    pub fn to_file(&self, native: &Tensor) -> Tensor {
        let shape = self.file_shape(&native.size());
        if self.transposed { native.tr().contiguous().reshape(shape) } else { native.reshape(shape) }
    }
}

/// What some classes call the model under their head where others of the same family have another word for it.
const BASES: &[&str] = &["model.", "transformer."];

/// How the names of decoders' buffers end: causal masks, what fills them, rotary frequencies.
const BUFFERS: &[&str] = &[".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

/// A family's map.
#[derive(Debug, Clone, PartialEq)]
pub struct HfNames {
    /// Such as `bert.`.
    pub prefix: &'static str,
    pub params: Vec<HfParam>,
    /// Old spellings: a name ending in the first is read as one ending in the second.
    pub legacy: &'static [(&'static str, &'static str)],
}

impl HfNames {
    /// The names that are written for a native parameter, prefix included.
    pub fn exported(&self, param: &HfParam) -> Vec<String> {
        let prefix = if param.prefixed { self.prefix } else { "" };
        param.parts.iter().map(|part| format!("{prefix}{part}")).collect()
    }

    /// Whether a tensor of a file is computed and not learnt, as older versions of transformers stored some.
    pub fn is_buffer(name: &str) -> bool {
        BUFFERS.iter().any(|buffer| name.ends_with(buffer))
    }

    /// The exported spelling of a name found in a file, whatever its age and prefix.
    pub fn normalised(&self, name: &str) -> String {
        let renamed =
            self.legacy.iter().find_map(|(old, new)| name.strip_suffix(old).map(|stem| format!("{stem}{new}")));
        let name = renamed.unwrap_or_else(|| name.to_owned());
        let known = |bare: &&str| self.params.iter().any(|p| p.prefixed && p.parts.iter().any(|part| part == bare));
        let prefixes = [self.prefix, ""].into_iter().chain(BASES.iter().copied());
        let mut stripped = prefixes.filter_map(|prefix| name.strip_prefix(prefix));
        stripped.find(known).map_or(name.clone(), |bare| format!("{}{bare}", self.prefix))
    }

    /// The entry of a native parameter.
    ///
    /// # Panics
    /// When the family forgot it: a test walks every parameter.
    pub fn of(&self, native: &str) -> &HfParam {
        self.params.iter().find(|p| p.native == native).unwrap_or_else(|| panic!("no Hugging Face name for {native}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn parts_have_their_shares() {
        let equal = HfParam::new("qkv", ["q", "k", "v"]);
        assert_eq!(equal.pieces(&[12, 5]), [[4, 5], [4, 5], [4, 5]]);
        assert_eq!(equal.shares(&[4, 1, 1]).pieces(&[24, 5]), [[16, 5], [4, 5], [4, 5]]);
    }

    #[test]
    fn a_name_is_known_under_any_prefix() {
        let params = vec![HfParam::new("norm", ["norm.weight"]), HfParam::new("head", ["score.weight"]).bare()];
        let names = HfNames { prefix: "model.", params, legacy: &[("norm.gamma", "norm.weight")] };
        for name in ["norm.weight", "model.norm.weight", "transformer.norm.weight", "transformer.norm.gamma"] {
            assert_eq!(names.normalised(name), "model.norm.weight");
        }
        for name in ["score.weight", "model.score.weight", "other.norm.weight"] {
            assert_eq!(names.normalised(name), name);
        }
    }

    #[test]
    fn a_form_goes_both_ways() {
        let native = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([6, 4]);
        let forms = [
            (HfParam::new("a", ["a"]), vec![6, 4]),
            (HfParam::new("a", ["a"]).transposed(), vec![4, 6]),
            (HfParam::new("a", ["a"]).stored_as(&[6, 2, 2]), vec![6, 2, 2]),
            (HfParam::new("a", ["a"]).transposed().stored_as(&[4, 3, 2]), vec![4, 3, 2]),
        ];
        for (param, shape) in forms {
            let file = param.form.to_file(&native);
            assert_eq!((file.size(), param.form.file_shape(&[6, 4])), (shape.clone(), shape));
            assert_eq!(param.form.to_native(&file, &[6, 4]), native);
        }
        let turned = HfParam::new("a", ["a"]).transposed().form.to_file(&native);
        assert_eq!(turned, native.tr());
    }
}
