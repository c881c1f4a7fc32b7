//! `train.report_to`: where metrics are written besides `metrics.jsonl`.

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::other_tool_values;
use super::value::{Value, describe};

/// Something that metrics are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reporter {
    TensorBoard,
}

/// What metrics are written for, with Hugging Face's names; in TOML a string or a list of strings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTo(Vec<Reporter>);

impl ReportTo {
    pub fn has(&self, reporter: Reporter) -> bool {
        self.0.contains(&reporter)
    }

    fn of_words(words: &[&str]) -> Result<Self, String> {
        // As in Hugging Face: alone, these are none and all of the reporters.
        match words {
            [] | ["none"] => return Ok(ReportTo(Vec::new())),
            ["all"] => return Ok(ReportTo(vec![Reporter::TensorBoard])),
            _ => {}
        }
        let mut reporters = Vec::new();
        for word in words {
            match *word {
                "tensorboard" if reporters.is_empty() => reporters.push(Reporter::TensorBoard),
                "tensorboard" => {}
                word => {
                    let known = other_tool_values::problem("train.report_to", word, &format!("{word:?}"));
                    return Err(known.unwrap_or_else(|| format!("found {word:?}, expected {}", Self::expected())));
                }
            }
        }
        Ok(ReportTo(reporters))
    }
}

impl Value for ReportTo {
    fn kind() -> String {
        "list of `tensorboard`, or `none`".into()
    }

    fn expected() -> String {
        "[\"tensorboard\"] or \"none\"".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let DeValue::Array(items) = value else {
            return Some(Self::of_words(&[value.as_str()?]));
        };
        let word = |item: &'_ toml::Spanned<DeValue<'_>>| {
            let found = || format!("found {} in the list, expected {}", describe(item.get_ref()), Self::expected());
            item.get_ref().as_str().map(str::to_owned).ok_or_else(found)
        };
        let words: Result<Vec<String>, String> = items.iter().map(word).collect();
        Some(words.and_then(|words| Self::of_words(&words.iter().map(String::as_str).collect::<Vec<_>>())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Option<Result<ReportTo, String>> {
        ReportTo::from_toml(DeValue::parse(toml).unwrap().get_ref())
    }

    #[test]
    fn a_name_or_a_list_of_names_is_read_and_written() {
        for (toml, json) in [
            ("\"tensorboard\"", "[\"tensorboard\"]"),
            ("[\"tensorboard\", \"tensorboard\"]", "[\"tensorboard\"]"),
            ("\"all\"", "[\"tensorboard\"]"),
            ("\"none\"", "[]"),
            ("[\"none\"]", "[]"),
            ("[]", "[]"),
        ] {
            let read = read(toml).unwrap().unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), json, "{toml}");
            assert_eq!(serde_json::from_str::<ReportTo>(json).unwrap(), read);
            assert_eq!(read.has(Reporter::TensorBoard), json != "[]");
        }
    }

    #[test]
    fn other_names_are_refused() {
        let refused = |toml| read(toml).unwrap().unwrap_err();
        assert_eq!(refused("\"tensorbord\""), "found \"tensorbord\", expected [\"tensorboard\"] or \"none\"");
        assert!(refused("[\"tensorboard\", \"none\"]").starts_with("found \"none\", expected "));
        assert!(refused("[1]").starts_with("found the integer 1 in the list, "));
        let wandb = refused("[\"wandb\"]");
        assert!(wandb.starts_with("\"wandb\" is not supported") && wandb.contains("[\"tensorboard\"]"), "{wandb}");
        assert!(read("1").is_none());
    }
}
