//! Ollama's `Modelfile` beside a GGUF file.

use super::template::GoTemplate;
use crate::checkpoint::folder;
use crate::error::Result;
use crate::generate::settings::{Search, Settings};
use std::fmt::Write;
use std::path::Path;

/// The first line of each `Modelfile` that is written. One with another first line is the user's, and is kept.
const MARK: &str = "# Written by trainer export";
/// The context length of Ollama unless a `Modelfile` says otherwise.
const USUAL_CONTEXT: u32 = 4096;

/// What a `Modelfile` says.
pub struct Modelfile<'a> {
    /// The name of the GGUF file.
    pub file: &'a str,
    /// The template, or why there is none.
    pub template: Result<GoTemplate, String>,
    pub settings: &'a Settings,
    /// Texts of the tokens that end an answer.
    pub stops: Vec<String>,
    pub context_length: u32,
}

impl Modelfile<'_> {
    pub fn text(&self) -> String {
        let mut out = format!("{MARK}. In this folder: ollama create NAME -f Modelfile\nFROM ./{}\n", self.file);
        match &self.template {
            Ok(template) => {
                out += &format!("TEMPLATE \"\"\"{}\"\"\"\n", template.text());
                if let Some(system) = &template.default_system {
                    out += &format!("SYSTEM \"\"\"{system}\"\"\"\n");
                }
            }
            Err(why) => out += &format!("# No TEMPLATE: {why}\n"),
        }
        let mut set = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string does not fail.
            _ = writeln!(out, "PARAMETER {name} {value}");
        };
        match self.settings.search {
            Search::Sample(sampling) => {
                set("temperature", &sampling.temperature);
                set("top_k", &sampling.top_k);
                set("top_p", &sampling.top_p);
            }
            Search::Greedy | Search::Beam(_) => set("temperature", &0),
        }
        set("repeat_penalty", &self.settings.repetition_penalty);
        if self.settings.repetition_penalty != 1.0 {
            // All tokens, as here; Ollama's default is the last 64.
            set("repeat_last_n", &-1);
        }
        if let Some(most) = self.settings.length.max_new {
            set("num_predict", &most);
        }
        if self.context_length < USUAL_CONTEXT {
            set("num_ctx", &self.context_length);
        }
        for stop in self.stops.iter().filter(|stop| !stop.contains(['"', '\n'])) {
            set("stop", &format!("\"{stop}\""));
        }
        if self.settings.no_repeat_ngram_size > 0 {
            out += &format!(
                "# no_repeat_ngram_size = {}: Ollama has no such setting\n",
                self.settings.no_repeat_ngram_size
            );
        }
        if let Search::Beam(beam) = self.settings.search {
            out += &format!("# num_beams = {}: Ollama decodes greedily instead\n", beam.beams);
        }
        out
    }

    /// Writes the file, unless there is one that the user has written. Returns whether it was written.
    ///
    /// # Errors
    /// The file name and the system error.
    pub fn write(&self, path: &Path) -> Result<bool> {
        let is_own = std::fs::read_to_string(path)
            .map_or_else(|e| e.kind() == std::io::ErrorKind::NotFound, |text| text.starts_with(MARK));
        if is_own {
            folder::write_file(path, self.text().as_bytes())?;
        }
        Ok(is_own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(file: &serde_json::Value) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), file.to_string()).unwrap();
        Settings::read(dir.path(), &serde_json::Map::new()).unwrap()
    }

    #[test]
    fn parameters_are_those_of_the_model() {
        let greedy = settings(&json!({"max_new_tokens": 30, "repetition_penalty": 1.3}));
        let of = |settings: &Settings, template, context_length| {
            let stops = vec!["<|im_end|>".to_owned()];
            Modelfile { file: "m.gguf", template, settings, stops, context_length }.text()
        };
        let text = of(&greedy, Err("the model has no chat template".into()), 1024);
        assert_eq!(
            text,
            "# Written by trainer export. In this folder: ollama create NAME -f Modelfile\nFROM ./m.gguf\n\
             # No TEMPLATE: the model has no chat template\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1.3\n\
             PARAMETER repeat_last_n -1\nPARAMETER num_predict 30\nPARAMETER num_ctx 1024\n\
             PARAMETER stop \"<|im_end|>\"\n"
        );
        let template = GoTemplate::find(
            |messages| {
                let text = |m: &serde_json::Value| Some(format!("[{}]{}", m["role"].as_str()?, m["content"].as_str()?));
                Some(messages.iter().map(text).collect::<Option<String>>()? + "[assistant]")
            },
            None,
        );
        let sampling = json!({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "no_repeat_ngram_size": 3});
        let sampling = settings(&sampling);
        let text = of(&sampling, template.map_err(str::to_owned), 32768);
        assert!(text.contains("TEMPLATE \"\"\"{{ range .Messages }}") && !text.contains("num_ctx"), "{text}");
        assert!(text.contains("temperature 0.6\nPARAMETER top_k 50\nPARAMETER top_p 0.9\n"), "{text}");
        assert!(text.contains("repeat_penalty 1\n") && !text.contains("repeat_last_n"), "{text}");
        assert!(text.ends_with("\n# no_repeat_ngram_size = 3: Ollama has no such setting\n"), "{text}");
    }

    #[test]
    fn a_file_of_the_user_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Modelfile");
        let settings = settings(&json!({}));
        let file = |name| Modelfile {
            file: name,
            template: Err(String::new()),
            settings: &settings,
            stops: Vec::new(),
            context_length: 8192,
        };
        assert!(file("a.gguf").write(&path).unwrap() && file("b.gguf").write(&path).unwrap());
        assert!(std::fs::read_to_string(&path).unwrap().contains("FROM ./b.gguf"));
        std::fs::write(&path, "FROM llama3\n").unwrap();
        assert!(!file("c.gguf").write(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "FROM llama3\n");
    }
}
