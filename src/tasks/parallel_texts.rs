//! Encodes parallel text for sequence-to-sequence models.

use crate::data::collation::Collation;
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::{Example, Label};
use crate::error::{Context, Error, Result};
use crate::text::files::Files;
use crate::text::pairs::{self, Pair, PairLayout, PairSource};
use crate::text::records::{self, Records, check_bad};
use crate::text::special_tokens::Special;
use crate::text::tokenizer::{self, Tokenizer};
use serde_json::Value;
use std::path::Path;

/// Encodes sources and, for training, their targets to examples of two sequences.
///
/// Both sides have the tokenizer's special tokens. Truncation keeps them, so that the model learns to predict EOS.
#[derive(Debug, Clone)]
pub struct ParallelTexts {
    pub source: PairSource,
    /// Prefix of every source, such as T5's `translate English to German: `.
    pub prefix: String,
    /// Maximum number of tokens of a source.
    pub max_length: usize,
    /// Maximum number of tokens of a target.
    pub max_target_length: usize,
    /// The decoder start token.
    pub start: u32,
    /// Whether to also keep the targets as strings in [`Encoded::references`], for metrics.
    pub references: bool,
}

/// Reads `decoder_start_token_id` from the folder's `config.json`, or from its `generation_config.json`.
///
/// # Errors
/// Exit 2: neither has it.
pub fn decoder_start(folder: &Path) -> Result<u32> {
    const KEY: &str = "decoder_start_token_id";
    let of = |name: &str| -> Option<u32> {
        let json: Value = serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).ok()?;
        json.get(KEY)?.as_u64()?.try_into().ok()
    };
    of("config.json").or_else(|| of("generation_config.json")).ok_or_else(|| {
        let file = folder.join("config.json");
        Error::input(format!(
            "{}: no \"{KEY}\": add it (for T5 it is pad_token_id, 0, for BART eos_token_id, 2)",
            file.display()
        ))
    })
}

impl ParallelTexts {
    fn has_targets(&self) -> bool {
        match &self.source.layout {
            PairLayout::Records { target, .. } => target.is_some(),
            PairLayout::Lines { targets } => targets.is_some(),
        }
    }
}

impl Encode for ParallelTexts {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn files_beside(&self) -> Option<&Files> {
        match &self.source.layout {
            PairLayout::Lines { targets } => targets.as_ref(),
            PairLayout::Records { .. } => None,
        }
    }

    fn settings(&self) -> String {
        let ParallelTexts { source, prefix, max_length, max_target_length, start, references } = self;
        let columns = match &source.layout {
            PairLayout::Records { format, source: column, target } => {
                Some((records::formats(&source.files, *format), column, target))
            }
            PairLayout::Lines { .. } => None,
        };
        let reading = (columns, self.has_targets(), source.on_bad_record);
        format!("{:?}", ("parallel texts", prefix, max_length, max_target_length, start, references, reading))
    }

    /// # Errors
    /// Those of [`pairs::read`]; unless invalid records are skipped, a source or target without tokens; lengths that
    /// leave no room for text; a tokenizer that does not add EOS to targets.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let Records { records: pairs, skipped: mut bad, hashes, remarks, .. } = pairs::read(&self.source)?;
        let sources: Vec<String> = pairs.iter().map(|pair| format!("{}{}", self.prefix, pair.source)).collect();
        let sources = sides(tokenizer, sources.iter().map(String::as_str), self.max_length)?;
        let targets = pairs.iter().filter_map(|pair| pair.target.as_deref());
        let mut targets = sides(tokenizer, targets, self.max_target_length).context("max_target_length")?.into_iter();

        let (mut examples, mut references) = (Vec::new(), Vec::new());
        let eos = tokenizer.special(Special::Eos);
        let (mut truncated, mut targets_cut, mut whole_targets, mut ends) = (0, 0, 0, false);
        for (Pair { line, target: text, .. }, source) in pairs.into_iter().zip(sources) {
            let target = if self.has_targets() { targets.next() } else { None };
            match (source, target) {
                (None, _) => bad.push((line, "the source has no tokens".into())),
                (_, Some(None)) => bad.push((line, "the target has no tokens".into())),
                (Some(source), target) => {
                    let target = target.flatten();
                    truncated += usize::from(source.truncated);
                    if let Some(target) = target.as_ref().filter(|target| !target.truncated) {
                        whole_targets += 1;
                        ends |= target.ids.last().copied() == eos;
                    }
                    targets_cut += usize::from(target.as_ref().is_some_and(|target| target.truncated));
                    references.extend(text.filter(|_| self.references).map(Value::String));
                    examples.push(joined(source, target));
                }
            }
        }
        check_bad(&self.source.files, self.source.on_bad_record, self.has_targets(), examples.len(), &bad)?;
        if let Some(eos) = eos.filter(|_| whole_targets > 0 && !ends) {
            return Err(Error::input(format!(
                "{}: the tokenizer does not add the EOS token (id {eos}) to targets, so the model cannot learn to stop: is \
                 it the tokenizer of this model?",
                tokenizer.folder().display(),
            )));
        }
        let remark = || format!("{targets_cut} targets truncated to max_target_length");
        Ok(Encoded {
            examples,
            collation: Collation::SourceTarget { start: self.start },
            hashes,
            labels: None,
            skipped: bad,
            truncated,
            remarks: remarks.into_iter().chain((targets_cut > 0).then(remark)).collect(),
            references: if self.references { Value::Array(references) } else { Value::Null },
            extras: Extras::default(),
        })
    }
}

/// Encodes texts with special tokens; `None` for a text without other tokens.
fn sides<'a>(
    tokenizer: &Tokenizer,
    texts: impl Iterator<Item = &'a str>,
    max_length: usize,
) -> Result<Vec<Option<tokenizer::Encoded>>> {
    let nothing = tokenizer.encode("", None, max_length)?.ids;
    let texts: Vec<(&str, Option<&str>)> = texts.map(|text| (text, None)).collect();
    let encoded = tokenizer.encode_batch(&texts, max_length)?;
    Ok(encoded.into_iter().map(|encoded| Some(encoded).filter(|encoded| encoded.ids != nothing)).collect())
}

/// Joins a source and its target, if any, to an example.
fn joined(source: tokenizer::Encoded, target: Option<tokenizer::Encoded>) -> Example {
    let mut example = Example::single(source.ids, source.type_ids, Label::None);
    if let Some(target) = target {
        example.lengths.push(target.ids.len() as u32);
        example.ids.extend(target.ids);
        example.type_ids.extend(target.type_ids);
    }
    example
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::text::records::OnBad;
    use serde_json::json;
    use std::path::PathBuf;

    /// A folder with a word-level tokenizer that adds EOS like T5's, and data files.
    struct Case {
        dir: tempfile::TempDir,
        texts: ParallelTexts,
    }

    const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "normalizer": {"type": "Replace", "pattern": {"String": "~"}, "content": ""},
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null, "truncation": null, "padding": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "model": {"type": "WordLevel", "unk_token": "<unk>",
            "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2, "to:": 3, "a": 4, "b": 5, "c": 6, "d": 7, "e": 8}}}"#;

    impl Case {
        fn new(files: &[(&str, &str)], layout: impl Fn(&Path) -> PairLayout) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
            for (name, content) in files {
                std::fs::write(dir.path().join(name), content).unwrap();
            }
            let path = dir.path().join(files[0].0);
            let source = PairSource { files: path.into(), layout: layout(dir.path()), on_bad_record: OnBad::Error };
            let prefix = String::new();
            let texts =
                ParallelTexts { source, prefix, max_length: 5, max_target_length: 4, start: 0, references: false };
            Case { dir, texts }
        }

        fn lines(sources: &str, targets: &str) -> Self {
            Self::new(&[("a.en", sources), ("a.de", targets)], |dir| PairLayout::Lines {
                targets: Some(dir.join("a.de").into()),
            })
        }

        fn prepare(&self) -> Result<Prepared> {
            prepare(&self.texts, self.dir.path(), Some(&self.dir.path().join("cache")))
        }

        fn message(&self) -> String {
            self.prepare().err().unwrap().to_string()
        }
    }

    #[test]
    fn sources_and_targets_are_truncated() {
        let mut case = Case::lines("a b\na b c d e\n", "c\nd e a b\n");
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!((dataset.ids(0), dataset.sequences(0)), (&[4, 5, 1, 6, 1][..], vec![3, 2]));
        assert_eq!((dataset.ids(1), dataset.sequences(1)), (&[4, 5, 6, 7, 1, 7, 8, 4, 1][..], vec![5, 4]));
        assert_eq!((facts.truncated, facts.remarks), (1, vec!["1 targets truncated to max_target_length".to_owned()]));
        assert_eq!((facts.segments, facts.references), (1, Value::Null));

        (case.texts.prefix, case.texts.references) = ("to: ".into(), true);
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!(dataset.ids(0), [3, 4, 5, 1, 6, 1]);
        assert_eq!(facts.references, json!(["c", "d e a b"]));
        assert_eq!(*dataset.collation(), Collation::SourceTarget { start: 0 });
    }

    #[test]
    fn prediction_needs_only_sources() {
        let columns = |target: Option<&str>| {
            let (source, target) = ("text".to_owned(), target.map(str::to_owned));
            move |_: &Path| PairLayout::Records { format: None, source: source.clone(), target: target.clone() }
        };
        let records = [("a.jsonl", "{\"text\": \"a b\", \"summary\": \"c\"}\n{\"text\": \"c\", \"summary\": \"d\"}\n")];
        let prepared = Case::new(&records, columns(None)).prepare().unwrap();
        assert_eq!((prepared.dataset.ids(0), prepared.dataset.sequences(0)), (&[4, 5, 1][..], vec![3]));
        let trained = Case::new(&records, columns(Some("summary"))).prepare().unwrap();
        assert_eq!(trained.dataset.sequences(1), [2, 2]);
    }

    #[test]
    fn texts_without_tokens_are_invalid() {
        let mut case = Case::lines("a\nb\n~\nd\n", "c\n~\nc\nd\n");
        let message = case.message();
        for expected in ["a.en:2: the target has no tokens\n", "a.en:3: the source has no tokens\n"] {
            assert!(message.contains(expected), "{message}");
        }
        (case.texts.source.on_bad_record, case.texts.references) = (OnBad::Skip, true);
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!((dataset.len(), dataset.ids(1), facts.skipped), (2, &[7, 1, 7, 1][..], 2));
        assert_eq!(facts.references, json!(["c", "d"]));
    }

    #[test]
    fn targets_must_end_with_eos() {
        let case = Case::lines("a\n", "b\n");
        let (before, rest) = TOKENIZER.split_once("\"post_processor\"").unwrap();
        let (_, model) = rest.split_once("\"model\"").unwrap();
        let endless = format!("{before}\"post_processor\": null, \"model\"{model}");
        std::fs::write(case.dir.path().join("tokenizer.json"), endless).unwrap();
        std::fs::write(case.dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
        let message = case.message();
        assert!(message.contains("the tokenizer does not add the EOS token (id 1) to targets"), "{message}");
    }

    #[test]
    fn lengths_must_leave_room() {
        let mut case = Case::lines("a\n", "b\n");
        case.texts.max_target_length = 1;
        let message = case.message();
        assert!(message.contains("max_target_length: ") && message.contains("leaves no room"), "{message}");
    }

    #[test]
    fn every_setting_changes_the_fingerprint() {
        let mut case = Case::lines("a b\n", "c\n");
        let mut seen = Vec::new();
        let changes: [fn(&mut ParallelTexts); 8] = [
            |_| {},
            |texts| texts.prefix = "to: ".into(),
            |texts| texts.max_length = 9,
            |texts| texts.max_target_length = 9,
            |texts| texts.start = 2,
            |texts| texts.references = true,
            |texts| texts.source.on_bad_record = OnBad::Skip,
            |texts| texts.source.layout = PairLayout::Lines { targets: None },
        ];
        for change in changes {
            change(&mut case.texts);
            seen.push(case.prepare().unwrap().dataset.fingerprint());
        }
        std::fs::write(case.dir.path().join("a.en"), "a b c\n").unwrap();
        seen.push(case.prepare().unwrap().dataset.fingerprint());
        for (i, fingerprint) in seen.iter().enumerate() {
            assert!(!seen[..i].contains(fingerprint), "change {i}");
        }
    }

    #[test]
    fn the_decoder_start_token_is_read_from_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, json: Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
        write("config.json", json!({"model_type": "t5", "decoder_start_token_id": null}));
        assert!(decoder_start(dir.path()).unwrap_err().to_string().contains("no \"decoder_start_token_id\": add it"));
        write("generation_config.json", json!({"decoder_start_token_id": 7}));
        assert_eq!(decoder_start(dir.path()).unwrap(), 7);
        write("config.json", json!({"decoder_start_token_id": 0}));
        assert_eq!(decoder_start(dir.path()).unwrap(), 0);
    }

    #[test]
    fn multi30k_is_read_packed_and_whole() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/multi30k");
        let [english, german] = ["en", "de"].map(|language| folder.join(format!("val.{language}.gz")));
        if !english.exists() {
            eprintln!("SKIPPED: no Multi30k at {}; see shared/data", folder.display());
            return;
        }
        let mut case = Case::lines("", "");
        let targets = Some(german.into());
        (case.texts.source.files, case.texts.source.layout) = (english.into(), PairLayout::Lines { targets });
        case.texts.references = true;
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!(dataset.len(), 1014);
        assert!(facts.references[0].as_str().unwrap().starts_with("Eine Gruppe von Männern"));
    }
}
