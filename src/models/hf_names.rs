//! The mapping between native parameters and tensors of Hugging Face files.
//!
//! A native parameter is one tensor of the file, or several concatenated along the first dimension (queries, keys,
//! values); each may be stored transposed, or in another shape with the same number of elements. Names differ by a
//! prefix (`bert.` on models with a head, none on a bare encoder) and by version (`gamma`, `beta`).

use tch::Tensor;

/// The mapping of one native parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct HfParam {
    /// The native name.
    pub native: String,
    /// The names in the file, concatenated along dimension 0 in this order; without the family's prefix when
    /// `prefixed`.
    pub parts: Vec<String>,
    /// Relative sizes of the parts along dimension 0; empty if they are equal.
    pub sizes: Vec<i64>,
    /// Whether the names have the family's prefix in a model with a head.
    pub prefixed: bool,
    /// How each part is stored in the file.
    pub form: Form,
    /// Full names of other tensors with the same weight: read if the file has no other, never written.
    pub aliases: Vec<String>,
    /// Full name of a tensor that is read if the file has none of the others; never written.
    pub fallback: Option<String>,
}

/// The conversion of a tensor of a file to a part of a native parameter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Form {
    /// `[in, out]` in the file, `[out, in]` natively.
    pub transposed: bool,
    /// The shape in the file if it differs from the native one (after transposing), with the same elements in the same
    /// order.
    pub shape: Option<Vec<i64>>,
}

impl HfParam {
    /// A parameter that consists of these tensors of the file, with the family's prefix.
    pub fn new(native: impl Into<String>, parts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let parts = parts.into_iter().map(Into::into).collect();
        HfParam {
            native: native.into(),
            parts,
            sizes: Vec::new(),
            prefixed: true,
            form: Form::default(),
            aliases: Vec::new(),
            fallback: None,
        }
    }

    /// Sets the relative sizes of the parts.
    pub fn sizes(self, sizes: &[i64]) -> Self {
        assert_eq!(sizes.len(), self.parts.len(), "{}: one size per part", self.native);
        HfParam { sizes: sizes.to_vec(), ..self }
    }

    /// Returns the native shape of each part of a parameter of this shape.
    pub fn pieces(&self, whole: &[i64]) -> Vec<Vec<i64>> {
        let sizes = if self.sizes.is_empty() { vec![1; self.parts.len()] } else { self.sizes.clone() };
        let all: i64 = sizes.iter().sum();
        let piece = |share: i64| {
            let mut shape = whole.to_vec();
            shape[0] = shape[0] * share / all;
            shape
        };
        sizes.into_iter().map(piece).collect()
    }

    /// Without the family's prefix, as heads are.
    pub fn bare(self) -> Self {
        HfParam { prefixed: false, ..self }
    }

    /// Stored transposed, as GPT-2's `Conv1D`.
    pub fn transposed(mut self) -> Self {
        self.form.transposed = true;
        self
    }

    /// Each part is stored in this shape.
    pub fn stored_as(mut self, shape: &[i64]) -> Self {
        self.form.shape = Some(shape.to_vec());
        self
    }

    /// Other tensors of the file with this weight, such as a tied head. Full names, prefix included. If a file has
    /// several of them, all must be equal.
    pub fn also(mut self, aliases: &[&str]) -> Self {
        self.aliases.extend(aliases.iter().map(|&alias| alias.to_owned()));
        self
    }

    /// A tensor that is read if the file lacks this weight, and otherwise unused. Full name.
    pub fn or(mut self, fallback: &str) -> Self {
        self.fallback = Some(fallback.to_owned());
        self
    }
}

/// A layer's weight and bias: `native.weight` is the concatenation of `.weight` of these layers of the file; likewise
/// the bias.
pub fn layer(native: &str, parts: &[&str]) -> [HfParam; 2] {
    ["weight", "bias"].map(|kind| HfParam::new(format!("{native}.{kind}"), parts.iter().map(|p| format!("{p}.{kind}"))))
}

impl Form {
    /// Returns a part's shape in the file, from its native shape.
    pub fn file_shape(&self, native: &[i64]) -> Vec<i64> {
        match (&self.shape, self.transposed) {
            (Some(shape), _) => shape.clone(),
            (None, true) => native.iter().rev().copied().collect(),
            (None, false) => native.to_vec(),
        }
    }

    /// Converts a tensor of the file to a part of native shape.
    pub fn to_native(&self, tensor: &Tensor, native: &[i64]) -> Tensor {
        if self.transposed {
            let reversed: Vec<i64> = native.iter().rev().copied().collect();
            tensor.reshape(reversed).tr()
        } else {
            tensor.reshape(native)
        }
    }

    /// Converts a native part to the file's form.
    pub fn to_file(&self, native: &Tensor) -> Tensor {
        let shape = self.file_shape(&native.size());
        if self.transposed { native.tr().contiguous().reshape(shape) } else { native.reshape(shape) }
    }
}

/// Names of the base model in some classes, where others of the same family use another name.
const BASES: &[&str] = &["model.", "transformer."];

/// Suffixes of decoders' buffers: causal masks, their fill values, rotary frequencies.
const BUFFERS: &[&str] = &[".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

/// A family's mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct HfNames {
    /// Prefix, such as `bert.`.
    pub prefix: &'static str,
    /// Whether files are written without the prefix, as those of a model without a head.
    pub headless: bool,
    pub params: Vec<HfParam>,
    /// Legacy names: a name that ends with the first is read as one that ends with the second.
    pub legacy: &'static [(&'static str, &'static str)],
}

impl HfNames {
    /// Returns the names written for a native parameter, prefix included.
    pub fn exported(&self, param: &HfParam) -> Vec<String> {
        let prefix = if param.prefixed { self.written_prefix() } else { "" };
        param.parts.iter().map(|part| format!("{prefix}{part}")).collect()
    }

    /// Returns whether a tensor of a file is a computed buffer, as older versions of transformers stored some.
    pub fn is_buffer(name: &str) -> bool {
        BUFFERS.iter().any(|buffer| name.ends_with(buffer))
    }

    /// Returns the exported form of a name found in a file, whatever its version and prefix.
    pub fn normalised(&self, name: &str) -> String {
        let renamed =
            self.legacy.iter().find_map(|(old, new)| name.strip_suffix(old).map(|stem| format!("{stem}{new}")));
        let name = renamed.unwrap_or_else(|| name.to_owned());
        let known = |bare: &&str| self.params.iter().any(|p| p.prefixed && p.parts.iter().any(|part| part == bare));
        let prefixes = [self.prefix, ""].into_iter().chain(BASES.iter().copied());
        let mut stripped = prefixes.filter_map(|prefix| name.strip_prefix(prefix));
        stripped.find(known).map_or(name.clone(), |bare| format!("{}{bare}", self.written_prefix()))
    }

    fn written_prefix(&self) -> &'static str {
        if self.headless { "" } else { self.prefix }
    }

    /// Returns the mapping of a native parameter.
    ///
    /// # Panics
    /// If the family lacks it; a test checks every parameter.
    pub fn of(&self, native: &str) -> &HfParam {
        self.params.iter().find(|p| p.native == native).unwrap_or_else(|| panic!("no Hugging Face name for {native}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn parts_have_their_sizes() {
        let equal = HfParam::new("qkv", ["q", "k", "v"]);
        assert_eq!(equal.pieces(&[12, 5]), [[4, 5], [4, 5], [4, 5]]);
        assert_eq!(equal.sizes(&[4, 1, 1]).pieces(&[24, 5]), [[16, 5], [4, 5], [4, 5]]);
    }

    #[test]
    fn a_name_is_known_under_any_prefix() {
        let params = vec![HfParam::new("norm", ["norm.weight"]), HfParam::new("head", ["score.weight"]).bare()];
        let legacy = &[("norm.gamma", "norm.weight")];
        let names = HfNames { prefix: "model.", headless: false, params, legacy };
        for name in ["norm.weight", "model.norm.weight", "transformer.norm.weight", "transformer.norm.gamma"] {
            assert_eq!(names.normalised(name), "model.norm.weight");
        }
        for name in ["score.weight", "model.score.weight", "other.norm.weight"] {
            assert_eq!(names.normalised(name), name);
        }
        let headless = HfNames { headless: true, ..names };
        for name in ["norm.weight", "model.norm.weight", "model.norm.gamma"] {
            assert_eq!(headless.normalised(name), "norm.weight");
        }
        assert_eq!(headless.exported(headless.of("norm")), ["norm.weight"]);
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
