//! Vocabularies: of `tokenizer.json`, and of the files of slow tokenizers.

use super::checks;
use super::class::Class;
use super::merges::{self, Merges};
use super::parts::{byte_level, part, split_bytes};
use super::rules;
use super::sentencepiece::{PieceKind, SentencePiece};
use super::settings::{Settings, Token};
use crate::error::{Error, Result};
use crate::hub::TOKENIZER_FILES;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::precompiled::Precompiled;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer};

/// The regular expression of `transformers` for tiktoken files, which is that of Llama 3.
pub const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Largest number of ids between the end of a tiktoken vocabulary and an added token.
const MAX_RESERVED: usize = 1 << 14;

/// The parts of `tokenizer.json` that are read.
#[derive(Deserialize)]
pub struct File {
    #[serde(skip)]
    pub text: String,
    #[serde(default)]
    pub added_tokens: Vec<Value>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Box<RawValue>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: VocabForm,
    #[serde(default)]
    merges: Vec<MergeForm>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum VocabForm {
    Ids(std::collections::HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeForm {
    Line(String),
    Pair(String, String),
}

/// What a class builds its pipeline from.
pub struct Source {
    pub vocabulary: Vocabulary,
    /// The post-processor of `tokenizer.json`.
    pub post_processor: Option<PostProcessorWrapper>,
    /// SentencePiece's normalization rules.
    pub rules: Option<NormalizerWrapper>,
    /// The id of the unknown token in a SentencePiece model.
    pub unknown: Option<usize>,
    pub is_json: bool,
}

pub enum Vocabulary {
    /// A whole pipeline: of `tokenizer.json` or of a tiktoken file.
    Ready(Box<Tokenizer>),
    Ids(Vocab, Merges),
    Scores(Vec<(String, f64)>),
    /// A SentencePiece model for a folder without a class of its own.
    Model(Box<SentencePiece>),
}

impl File {
    /// Reads `tokenizer.json`; `None` if there is none.
    ///
    /// # Errors
    /// Exit 2: it cannot be read, or is not JSON of this form.
    pub fn of_folder(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| invalid(&path, &e))?;
        Self::of_text(&text, &path).map(Some)
    }

    /// Parses the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Self::of_folder`].
    pub fn of_text(text: &str, path: &Path) -> Result<Self> {
        let file: File = serde_json::from_str(text).map_err(|e| invalid(path, &e))?;
        let parts = [
            checks::normalizer(&file.normalizer),
            checks::post_processor(&file.post_processor),
            checks::decoder(&file.decoder),
        ];
        parts.into_iter().collect::<Result<(), _>>().map_err(|e| invalid(path, &e))?;
        Ok(File { text: text.to_owned(), ..file })
    }

    /// Returns the normalizers with SentencePiece's rules.
    fn rules(&self) -> impl Iterator<Item = &Value> {
        let steps = self.normalizer.get("normalizers").and_then(Value::as_array);
        let steps = steps.map_or(std::slice::from_ref(&self.normalizer), Vec::as_slice).iter();
        steps.filter(|step| step.get("precompiled_charsmap").is_some_and(|rules| !rules.is_null()))
    }

    /// Whether a class can rebuild this tokenizer.
    pub fn fits(&self, class: Class) -> bool {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type", default)]
            kind: Option<String>,
        }
        let kind = serde_json::from_str::<Kind>(self.model.get()).ok().and_then(|model| model.kind);
        class == Class::Backend || kind.is_none_or(|kind| kind == class.model())
    }

    fn source(&self, path: &Path, class: Class) -> Result<Source> {
        let wrong = |e: &dyn std::fmt::Display| invalid(path, e);
        let mut source = Source {
            vocabulary: Vocabulary::Scores(Vec::new()),
            post_processor: None,
            rules: None,
            unknown: None,
            is_json: true,
        };
        if class == Class::Backend {
            checks::as_it_is(&self.normalizer, self.model.get()).map_err(|e| wrong(&e))?;
            let tokenizer = Tokenizer::from_bytes(&self.text).map_err(|e| wrong(&e))?;
            source.vocabulary = Vocabulary::Ready(Box::new(tokenizer));
            return Ok(source);
        }
        let model: Model = serde_json::from_str(self.model.get()).map_err(|e| wrong(&e))?;
        let wanted = class.model();
        if let Some(kind) = model.kind.as_deref().filter(|kind| *kind != wanted) {
            let remedy = "set tokenizer_class to \"PreTrainedTokenizerFast\" in tokenizer_config.json to use the file \
                          as it is, here and in transformers";
            return Err(Error::input(format!(
                "{}: the model is {kind}, but the folder's tokenizer class ({class:?}) rebuilds it as {wanted} in \
                 transformers 5; {remedy}",
                path.display()
            )));
        }
        source.vocabulary = match model.vocab {
            VocabForm::Ids(ids) => {
                Vocabulary::Ids(ids.into_iter().collect(), pairs(model.merges).map_err(|e| wrong(&e))?)
            }
            VocabForm::Scores(scores) => Vocabulary::Scores(scores),
        };
        source.post_processor = part(&self.post_processor).map_err(|e| wrong(&e))?;
        source.rules = self.rules().next().map(part).transpose().map_err(|e| wrong(&e))?;
        Ok(source)
    }
}

fn invalid(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::input(format!("{}: invalid tokenizer: {e}; save it again with transformers", path.display()))
}

fn pairs(merges: Vec<MergeForm>) -> Result<Merges, String> {
    let pair = |merge| match merge {
        MergeForm::Pair(left, right) => Ok((left, right)),
        MergeForm::Line(line) => match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(format!("the merge {line:?} is not a pair of tokens")),
        },
    };
    merges.into_iter().map(pair).collect()
}

impl Class {
    /// Returns the model of the class's pipeline, as `tokenizer.json` names it.
    fn model(self) -> &'static str {
        match self {
            Class::Bert => "WordPiece",
            Class::XlmRoberta | Class::Camembert | Class::Albert | Class::DebertaV2 | Class::XlNet | Class::T5 => {
                "Unigram"
            }
            _ => "BPE",
        }
    }

    /// Returns `model_input_names` of the class.
    pub fn inputs(self) -> Vec<&'static str> {
        use Class::{Albert, Backend, Bert, DebertaV2, XlNet};
        let has_segments = matches!(self, Backend | Bert | Albert | DebertaV2 | XlNet);
        let all = ["input_ids", "token_type_ids", "attention_mask"].into_iter();
        all.filter(|name| has_segments || *name != "token_type_ids").collect()
    }

    /// Returns the vocabulary files that the class reads without `tokenizer.json`.
    fn files(self) -> &'static [&'static str] {
        match self {
            Class::Bert => &["vocab.txt"],
            Class::Roberta | Class::Gpt2 | Class::GptNeoX | Class::Qwen2 => &["vocab.json", "merges.txt"],
            Class::XlmRoberta | Class::Camembert => &["sentencepiece.bpe.model"],
            Class::Albert | Class::XlNet | Class::T5 => &["spiece.model"],
            Class::DebertaV2 => &["spm.model"],
            Class::Llama | Class::Backend => &["tokenizer.model"],
        }
    }
}

impl Source {
    /// Reads the vocabulary of a folder. Tokens that a SentencePiece model or a tiktoken file has besides text become
    /// part of the settings.
    ///
    /// # Errors
    /// Exit 2: no vocabulary for this class, or an invalid file.
    pub fn of_folder(dir: &Path, json: Option<&File>, class: Class, settings: &mut Settings) -> Result<Self> {
        if let Some(file) = json {
            return file.source(&dir.join("tokenizer.json"), class);
        }
        let path = |name: &str| dir.join(name);
        let any = ["tokenizer.model", "tiktoken.model"].into_iter().find(|name| path(name).exists());
        let files = any.as_ref().map_or(class.files(), std::slice::from_ref);
        if let Some(missing) = files.iter().find(|name| !path(name).exists()) {
            return Err(self::missing(dir, class, missing));
        }
        let bare = |vocabulary| Source { vocabulary, post_processor: None, rules: None, unknown: None, is_json: false };
        let first = path(files[0]);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let wrong = |e: tokenizers::Error| Error::input(format!("{}: not a vocabulary: {e}", first.display()));
        match files {
            ["vocab.txt"] => {
                let vocab = WordPiece::read_file(&text(&first)).map_err(wrong)?;
                Ok(bare(Vocabulary::Ids(vocab, Vec::new())))
            }
            [_, merges] => {
                let (vocab, merges) = BPE::read_file(&text(&first), &text(&path(merges))).map_err(wrong)?;
                Ok(bare(Vocabulary::Ids(vocab, merges)))
            }
            _ => {
                let bytes = std::fs::read(&first).map_err(|e| Error::input(format!("{}: {e}", first.display())))?;
                of_model(&bytes, &first, class, settings)
            }
        }
    }
}

/// Reads a SentencePiece model or a tiktoken file.
fn of_model(bytes: &[u8], path: &Path, class: Class, settings: &mut Settings) -> Result<Source> {
    let name = path.display();
    let sentencepiece = if path.ends_with("tiktoken.model") { Err(String::new()) } else { SentencePiece::parse(bytes) };
    let mut source = Source {
        vocabulary: Vocabulary::Scores(Vec::new()),
        post_processor: None,
        rules: None,
        unknown: None,
        is_json: false,
    };
    let model = match sentencepiece {
        Ok(model) => model,
        Err(why) => {
            let read = std::str::from_utf8(bytes).map_err(|_| "it is binary".to_owned()).and_then(merges::of_tiktoken);
            let (vocab, merges) = read.map_err(|other| {
                Error::input(format!("{name}: not a SentencePiece model: {why}; not a tiktoken file: {other}"))
            })?;
            let tokenizer = tiktoken(vocab, merges, settings).map_err(|e| Error::input(format!("{name}: {e}")))?;
            source.vocabulary = Vocabulary::Ready(Box::new(tokenizer));
            return Ok(source);
        }
    };
    let own = model.pieces.iter().filter(|piece| matches!(piece.kind, PieceKind::Control | PieceKind::UserDefined));
    let own = own.map(|piece| AddedToken::from(piece.text.clone(), piece.kind == PieceKind::Control).normalized(false));
    settings.additional = Some(own.map(Token::Full).collect());
    source.unknown = model.ids[0].try_into().ok();
    if !model.charsmap.is_empty() {
        rules::check(&model.charsmap).map_err(|e| Error::input(format!("{name}: {e}")))?;
        let rules = Precompiled::from(&model.charsmap).map_err(|e| Error::input(format!("{name}: {e}")))?;
        source.rules = Some(NormalizerWrapper::Precompiled(rules));
    }
    source.vocabulary = if class == Class::Backend {
        Vocabulary::Model(Box::new(model))
    } else if class.model() == "Unigram" {
        Vocabulary::Scores(class.pieces(model.scores(), settings))
    } else {
        let vocab = model.vocab();
        let merges = merges::by_id(&vocab);
        Vocabulary::Ids(vocab, merges)
    };
    Ok(source)
}

impl Class {
    /// Returns the vocabulary of a SentencePiece model with the class's own tokens.
    fn pieces(self, scores: Vec<(String, f64)>, settings: &Settings) -> Vec<(String, f64)> {
        use crate::text::special_tokens::Special::{Bos, Eos, Mask, Pad, Unk};
        let named = |role, default: &str| (settings.token(role).map_or(default, Token::text).to_owned(), 0.0);
        let unused = |token: &str, score| (token.to_owned(), score);
        let rest = |skipped: usize| scores.iter().skip(skipped).cloned();
        match self {
            Class::XlmRoberta => {
                let first = [named(Bos, "<s>"), named(Pad, "<pad>"), named(Eos, "</s>"), named(Unk, "<unk>")];
                first.into_iter().chain(rest(3)).chain([named(Mask, "<mask>")]).collect()
            }
            Class::Camembert => {
                let first = [
                    unused("<s>NOTUSED", 0.0),
                    named(Pad, "<pad>"),
                    unused("</s>NOTUSED", 0.0),
                    named(Unk, "<unk>"),
                    unused("<unk>NOTUSED", -100.0),
                ];
                first.into_iter().chain(rest(1)).chain([named(Mask, "<mask>")]).collect()
            }
            Class::T5 => {
                let extra = (0..settings.number("extra_ids").unwrap_or(100)).rev();
                rest(0).chain(extra.map(|i| unused(&format!("<extra_id_{i}>"), 0.0))).collect()
            }
            _ => scores,
        }
    }
}

/// Builds the pipeline of a tiktoken file.
fn tiktoken(vocab: Vocab, merges: Merges, settings: &Settings) -> Result<Tokenizer, String> {
    let base = vocab.len();
    let end = settings.added.keys().next_back().map_or(0, |&id| id as usize + 1);
    if end.saturating_sub(base) > MAX_RESERVED {
        return Err(format!("added token {} is far beyond the {base} tokens of the vocabulary", end - 1));
    }
    let reserved = |id: usize| settings.added.get(&(id as u32)).map(|token| token.content.clone());
    let mut extra: Vec<String> =
        (base..end).map(|id| reserved(id).unwrap_or_else(|| format!("<|reserved_token_{id}|>"))).collect();
    for token in settings.extra.iter().flatten().map(Token::text) {
        if !extra.iter().any(|known| known == token) {
            extra.push(token.to_owned());
        }
    }
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(true).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| e.to_string())?);
    super::parts::assemble(&mut tokenizer, &split_bytes(LLAMA3_SPLIT, false), &byte_level(true, true))?;
    tokenizer.add_special_tokens(&extra.iter().map(|token| AddedToken::from(token.clone(), true)).collect::<Vec<_>>());
    let whole = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    tokenizer.with_post_processor(Some(part::<PostProcessorWrapper>(&whole)?));
    Ok(tokenizer)
}

fn missing(dir: &Path, class: Class, file: &str) -> Error {
    let held: Vec<&str> = TOKENIZER_FILES.iter().copied().filter(|name| dir.join(name).exists()).collect();
    let held = if held.is_empty() { "no file of a tokenizer".to_owned() } else { held.join(", ") };
    let save = "AutoTokenizer.from_pretrained(...).save_pretrained(...)";
    let reads = if class == Class::Backend { String::new() } else { format!(" of its tokenizer class ({class:?})") };
    Error::input(format!(
        "{}: no tokenizer.json, nor {file}{reads}; the folder has {held}; write one with {save}",
        dir.display()
    ))
}
