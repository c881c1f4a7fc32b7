//! Texts with what they become: what a model of sequence to sequence reads.

use crate::data::collation::Collation;
use crate::data::prepare::{Encode, Encoded};
use crate::data::{Example, Label};
use crate::error::{Context, Error, Result};
use crate::text::pairs::{self, Pair, PairLayout, PairSource};
use crate::text::records::check_bad;
use crate::text::special_tokens::Special;
use crate::text::tokenizer::{self, Tokenizer};
use serde_json::Value;
use std::path::Path;

/// Sources and, where they are wanted, their targets, and how they become examples of two sequences.
///
/// Each side has the special tokens that the tokenizer puts around a text. They stay when a text is cut, so that the
/// end of a target is learnt.
#[derive(Debug, Clone)]
pub struct ParallelTexts {
    pub source: PairSource,
    /// What stands before every source: T5's `translate English to German: `.
    pub prefix: String,
    /// The tokens that a source is cut to.
    pub max_length: usize,
    /// The tokens that a target is cut to.
    pub max_target_length: usize,
    /// The token that the decoder begins with.
    pub start: u32,
    /// Whether the targets are kept as texts too, for metrics: a list of strings in [`Encoded::references`].
    pub references: bool,
}

/// The token that a decoder begins with: `decoder_start_token_id` of the folder's `config.json`, or of its
/// `generation_config.json`.
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
        Error::input(format!("{}: no \"{KEY}\": add it (for T5 it is pad_token_id, 0)", file.display()))
    })
}

impl ParallelTexts {
    fn has_targets(&self) -> bool {
        match &self.source.layout {
            PairLayout::Jsonl { target, .. } => target.is_some(),
            PairLayout::Lines { targets } => targets.is_some(),
        }
    }
}

impl Encode for ParallelTexts {
    fn files(&self) -> Vec<&Path> {
        let targets = match &self.source.layout {
            PairLayout::Lines { targets } => targets.as_deref(),
            PairLayout::Jsonl { .. } => None,
        };
        [self.source.path.as_path()].into_iter().chain(targets).collect()
    }

    fn settings(&self) -> String {
        let ParallelTexts { source, prefix, max_length, max_target_length, start, references } = self;
        let columns = match &source.layout {
            PairLayout::Jsonl { source, target } => Some((source, target)),
            PairLayout::Lines { .. } => None,
        };
        let reading = (columns, self.has_targets(), source.on_bad_record);
        format!("{:?}", ("parallel texts", prefix, max_length, max_target_length, start, references, reading))
    }

    /// # Errors
    /// Those of [`pairs::read`]; unless bad records are skipped, a source or a target of which the tokenizer makes no
    /// token; lengths that leave no room for text.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let pairs::Pairs { pairs, skipped: mut bad, hashes } = pairs::read(&self.source)?;
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
                (None, _) => bad.push((line, "the tokenizer makes no token of the source".into())),
                (_, Some(None)) => bad.push((line, "the tokenizer makes no token of the target".into())),
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
        check_bad(&self.source.path, self.source.on_bad_record, self.has_targets(), examples.len(), &bad)?;
        if let Some(eos) = eos.filter(|_| whole_targets > 0 && !ends) {
            return Err(Error::input(format!(
                "{}: the tokenizer puts no end token (id {eos}) after targets, so that the model could not learn to stop: is \
                 it the tokenizer of this model?",
                tokenizer.folder().display(),
            )));
        }
        let remark = || format!("{targets_cut} targets cut to max_target_length");
        Ok(Encoded {
            examples,
            collation: Collation::SourceTarget { start: self.start },
            hashes,
            labels: None,
            skipped: bad,
            truncated,
            remarks: (targets_cut > 0).then(remark).into_iter().collect(),
            references: if self.references { Value::Array(references) } else { Value::Null },
        })
    }
}

/// Each text with its special tokens; `None` where these are all there is.
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

/// An example of a source and, where there is one, its target.
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

    /// A folder with a tokenizer of words that ends every text as T5's does, and data files.
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
            let source = PairSource { path, layout: layout(dir.path()), on_bad_record: OnBad::Error };
            let prefix = String::new();
            let texts =
                ParallelTexts { source, prefix, max_length: 5, max_target_length: 4, start: 0, references: false };
            Case { dir, texts }
        }

        fn lines(sources: &str, targets: &str) -> Self {
            Self::new(&[("a.en", sources), ("a.de", targets)], |dir| PairLayout::Lines {
                targets: Some(dir.join("a.de")),
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
    fn sources_and_targets_end_where_they_are_cut() {
        let mut case = Case::lines("a b\na b c d e\n", "c\nd e a b\n");
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!((dataset.ids(0), dataset.sequences(0)), (&[4, 5, 1, 6, 1][..], vec![3, 2]));
        assert_eq!((dataset.ids(1), dataset.sequences(1)), (&[4, 5, 6, 7, 1, 7, 8, 4, 1][..], vec![5, 4]));
        assert_eq!((facts.truncated, facts.remarks), (1, vec!["1 targets cut to max_target_length".to_owned()]));
        assert_eq!((facts.segments, facts.references), (1, Value::Null));

        (case.texts.prefix, case.texts.references) = ("to: ".into(), true);
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!(dataset.ids(0), [3, 4, 5, 1, 6, 1]);
        assert_eq!(facts.references, json!(["c", "d e a b"]));
        assert_eq!(*dataset.collation(), Collation::SourceTarget { start: 0 });
    }

    #[test]
    fn prediction_has_sources_alone() {
        let columns = |target: Option<&str>| {
            let (source, target) = ("text".to_owned(), target.map(str::to_owned));
            move |_: &Path| PairLayout::Jsonl { source: source.clone(), target: target.clone() }
        };
        let records = [("a.jsonl", "{\"text\": \"a b\", \"summary\": \"c\"}\n{\"text\": \"c\", \"summary\": \"d\"}\n")];
        let prepared = Case::new(&records, columns(None)).prepare().unwrap();
        assert_eq!((prepared.dataset.ids(0), prepared.dataset.sequences(0)), (&[4, 5, 1][..], vec![3]));
        let trained = Case::new(&records, columns(Some("summary"))).prepare().unwrap();
        assert_eq!(trained.dataset.sequences(1), [2, 2]);
    }

    #[test]
    fn texts_without_tokens_are_bad_records() {
        let mut case = Case::lines("a\nb\n~\nd\n", "c\n~\nc\nd\n");
        let message = case.message();
        for expected in [
            "a.en:2: the tokenizer makes no token of the target\n",
            "a.en:3: the tokenizer makes no token of the source\n",
        ] {
            assert!(message.contains(expected), "{message}");
        }
        (case.texts.source.on_bad_record, case.texts.references) = (OnBad::Skip, true);
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!((dataset.len(), dataset.ids(1), facts.skipped), (2, &[7, 1, 7, 1][..], 2));
        assert_eq!(facts.references, json!(["c", "d"]));
    }

    #[test]
    fn targets_end_with_the_end_token() {
        let case = Case::lines("a\n", "b\n");
        let (before, rest) = TOKENIZER.split_once("\"post_processor\"").unwrap();
        let (_, model) = rest.split_once("\"model\"").unwrap();
        let endless = format!("{before}\"post_processor\": null, \"model\"{model}");
        std::fs::write(case.dir.path().join("tokenizer.json"), endless).unwrap();
        std::fs::write(case.dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
        let message = case.message();
        assert!(message.contains("the tokenizer puts no end token (id 1) after targets"), "{message}");
    }

    #[test]
    fn lengths_must_leave_room() {
        let mut case = Case::lines("a\n", "b\n");
        case.texts.max_target_length = 1;
        let message = case.message();
        assert!(message.contains("max_target_length: ") && message.contains("leaves no room"), "{message}");
    }

    #[test]
    fn everything_that_shapes_the_data_changes_the_fingerprint() {
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
    fn the_start_token_is_the_folders() {
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
        (case.texts.source.path, case.texts.source.layout) = (english, PairLayout::Lines { targets: Some(german) });
        case.texts.references = true;
        let Prepared { dataset, facts, .. } = case.prepare().unwrap();
        assert_eq!(dataset.len(), 1014);
        assert!(facts.references[0].as_str().unwrap().starts_with("Eine Gruppe von Männern"));
    }
}
