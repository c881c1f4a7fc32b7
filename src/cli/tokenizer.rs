//! `trainer tokenizer`

use crate::config;
use crate::error::{Context, Error, Result};
use crate::observe::logs::tell;
use crate::observe::rank_of_environment;
use crate::text::documents::{self, Division, DocumentSource};
use crate::text::records::{Fields, Format, OnBad, Source};
use crate::text::tokenizer_kinds::{Family, Kind};
use crate::text::train_tokenizer::{Recipe, Trained};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `trainer tokenizer`
#[derive(Debug, Args)]
pub struct TokenizerArgs {
    /// bpe (of bytes, as GPT-2 has), wordpiece (BERT), unigram (T5) or chars (every character a token).
    #[arg(long)]
    kind: String,
    /// The texts: plain text (.txt), or records with a text column (JSONL, CSV, TSV); may be given several times.
    #[arg(long, required = true, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// The folder for tokenizer.json and tokenizer_config.json.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Whose special tokens it has: bert, roberta, t5, gpt2 or llama; otherwise those of the family that the kind is
    /// known from (chars: gpt2).
    #[arg(long)]
    family: Option<String>,
    /// Tokens at most, special ones included; otherwise 30000, and for chars as many as there are.
    #[arg(long)]
    vocab_size: Option<usize>,
    /// Take capitals for small letters.
    #[arg(long)]
    lowercase: bool,
    /// A special token beside the family's, such as "<|im_start|>"; may be given several times.
    #[arg(long, value_name = "TOKEN")]
    special_token: Vec<String>,
    /// The column of the text.
    #[arg(long, default_value = "text")]
    text_column: String,
    /// jsonl, csv, tsv or text; otherwise by the file's ending.
    #[arg(long)]
    format: Option<config::Format>,
}

/// Trains a tokenizer and says what `config.json` must know of it.
///
/// # Errors
/// Exit 2 for what is wrong with the arguments or the texts; exit 1 for a folder that cannot be written.
pub fn run(args: &TokenizerArgs) -> Result<()> {
    // It is work for one; the others of a group have none.
    if rank_of_environment() != 0 {
        return Ok(());
    }
    let kind: Kind = args.kind.parse().map_err(|e: Error| e.context("--kind"))?;
    let family = args.family.as_ref().map_or(Ok(kind.usual_family()), |family| family.parse::<Family>());
    let family = family.map_err(|e| e.context("--family"))?;
    let place = args.output.join("tokenizer.json");
    if place.exists() {
        return Err(Error::input(format!("--output: {} is there already: remove it first", place.display())));
    }
    let mut texts = Vec::new();
    for path in &args.input {
        let documents = documents::read(&source(args, path)?).context("--input")?;
        texts.extend(documents.records.into_iter().map(|document| document.text));
    }
    let recipe = Recipe {
        kind,
        family,
        vocab_size: args.vocab_size,
        lowercase: args.lowercase,
        more: args.special_token.clone(),
    };
    let trained = recipe.train(&texts)?;
    std::fs::create_dir_all(&args.output).context(args.output.display())?;
    trained.save(&args.output)?;
    tell(&format!("tokenizer {} ({kind}, {family}): {} tokens", place.display(), trained.vocab_size()));
    advise(&trained, &args.output.join("config.json"))
}

fn source(args: &TokenizerArgs, path: &Path) -> Result<DocumentSource> {
    let format = match args.format {
        None if documents::is_text(path) => None,
        None => Some(None),
        Some(config::Format::Text) => None,
        Some(config::Format::Jsonl) => Some(Some(Format::Jsonl)),
        Some(config::Format::Csv) => Some(Some(Format::Csv)),
        Some(config::Format::Tsv) => Some(Some(Format::Tsv)),
        Some(config::Format::Conll) => {
            return Err(Error::input("--format: a tokenizer is made from jsonl, csv, tsv or text, not conll"));
        }
    };
    let Some(format) = format else {
        return Ok(DocumentSource::Text { path: path.to_owned(), division: Division::File });
    };
    let fields = Fields { text: args.text_column.clone(), label: None, ..Fields::default() };
    let on_bad_record = OnBad::Error;
    Ok(DocumentSource::Records(Source {
        path: path.to_owned(),
        format,
        columns: None,
        header: None,
        fields,
        on_bad_record,
    }))
}

/// Says which numbers `config.json` must have, and which of them it has not.
fn advise(trained: &Trained, path: &Path) -> Result<()> {
    let json: Value = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).input_context(path.display())?,
        Err(_) => Value::Null,
    };
    let ids = trained.roles().into_iter().filter(|(key, ..)| ["bos", "eos", "pad"].iter().any(|k| key.starts_with(k)));
    let wanted = [("vocab_size".to_owned(), trained.vocab_size())].into_iter();
    for (key, number) in wanted.chain(ids.map(|(key, _, id)| (format!("{key}_id"), id as usize))) {
        let note = match json.get(&key) {
            Some(found) if found.as_u64() == Some(number as u64) => continue,
            Some(found) => format!("; it says {found} now"),
            None => String::new(),
        };
        tell(&format!("config.json should say \"{key}\": {number}{note}"));
    }
    Ok(())
}
