//! The map between native parameters and the tensors of Hugging Face files.
//!
//! A native parameter is one tensor of the file, or several joined along the first dimension (queries, keys, values).
//! Names differ by a prefix (`bert.` on models with a head, none on a bare encoder) and by age (`gamma`, `beta`).

/// One native parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct HfParam {
    /// The native name.
    pub native: String,
    /// The file's names, joined along dimension 0 in this order; without the family's prefix when `prefixed`.
    pub parts: Vec<String>,
    /// Whether the family's prefix stands before the names in a model with a head.
    pub prefixed: bool,
}

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

    /// The exported spelling of a name found in a file, whatever its age and prefix.
    pub fn normalised(&self, name: &str) -> String {
        let renamed =
            self.legacy.iter().find_map(|(old, new)| name.strip_suffix(old).map(|stem| format!("{stem}{new}")));
        let name = renamed.unwrap_or_else(|| name.to_owned());
        let bare = name.strip_prefix(self.prefix).unwrap_or(&name);
        let known = self.params.iter().find(|p| p.prefixed && p.parts.iter().any(|part| part == bare));
        if known.is_some() { format!("{}{bare}", self.prefix) } else { name }
    }

    /// The entry of a native parameter.
    ///
    /// # Panics
    /// When the family forgot it: a test walks every parameter.
    pub fn of(&self, native: &str) -> &HfParam {
        self.params.iter().find(|p| p.native == native).unwrap_or_else(|| panic!("no Hugging Face name for {native}"))
    }
}
