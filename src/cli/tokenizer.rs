//! `trainer tokenizer`

use crate::config;
use crate::error::{Context, Error, Result};
use crate::observe::logs::tell;
use crate::observe::rank_of_environment;
use crate::text::documents::{self, Division, DocumentSource};
use crate::text::files::Files;
use crate::text::records::{Fields, Format, OnBad, Source};
use crate::text::tokenizer_kinds::{Family, Kind};
use crate::text::train_tokenizer::{Recipe, Trained};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `trainer tokenizer`
#[derive(Debug, Args)]
pub struct TokenizerArgs {
    /// Algorithm: bpe (byte-level, as in GPT-2), wordpiece (BERT), unigram (T5) or chars (one token per character).
    #[arg(long)]
    kind: String,
    /// Training texts: plain text (.txt), or records with a text column (JSONL, CSV, TSV); can be repeated.
    #[arg(long, required = true, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// Folder to write tokenizer.json and tokenizer_config.json to.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Model family whose special tokens to use: bert, roberta, t5, gpt2 or llama [default: the usual family of the
    /// kind; gpt2 for chars].
    #[arg(long)]
    family: Option<String>,
    /// Maximum vocabulary size, special tokens included [default: 30000; all characters for chars].
    #[arg(long)]
    vocab_size: Option<usize>,
    /// Lowercase all text.
    #[arg(long)]
    lowercase: bool,
    /// Additional special token, such as "<|im_start|>"; can be repeated.
    #[arg(long, value_name = "TOKEN")]
    special_token: Vec<String>,
    /// Column with the text.
    #[arg(long, default_value = "text")]
    text_column: String,
    /// File format: jsonl, csv, tsv or text [default: by the file extension].
    #[arg(long)]
    format: Option<config::Format>,
}

/// Trains a tokenizer and reports the values that `config.json` needs.
///
/// # Errors
/// Exit 2: invalid arguments or texts. Exit 1: a folder that cannot be written.
pub fn run(args: &TokenizerArgs) -> Result<()> {
    // Rank 0 does all the work.
    if rank_of_environment() != 0 {
        return Ok(());
    }
    let kind: Kind = args.kind.parse().map_err(|e: Error| e.context("--kind"))?;
    let family = args.family.as_ref().map_or(Ok(kind.usual_family()), |family| family.parse::<Family>());
    let family = family.map_err(|e| e.context("--family"))?;
    let place = args.output.join("tokenizer.json");
    if place.exists() {
        return Err(Error::input(format!("--output: {} already exists: remove it first", place.display())));
    }
    let mut texts = Vec::new();
    for path in &args.input {
        for path in Files::find(&[path]).context("--input")?.iter() {
            let documents = documents::read(&source(args, path)?).context("--input")?;
            texts.extend(documents.records.into_iter().map(|document| document.text));
        }
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
        Some(config::Format::Parquet) => Some(Some(Format::Parquet)),
        Some(config::Format::Arrow) => Some(Some(Format::Arrow)),
        Some(config::Format::Conll) => {
            return Err(Error::input("--format: a tokenizer is trained on jsonl, csv, tsv or text, not on conll"));
        }
    };
    let Some(format) = format else {
        return Ok(DocumentSource::Text { files: path.into(), division: Division::File });
    };
    let fields = Fields { text: args.text_column.clone(), label: None, ..Fields::default() };
    let on_bad_record = OnBad::Error;
    Ok(DocumentSource::Records(Source {
        files: path.into(),
        format,
        columns: None,
        header: None,
        fields,
        on_bad_record,
    }))
}

/// Reports the values that `config.json` needs and does not have.
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
            Some(found) => format!("; it has {found} now"),
            None => String::new(),
        };
        tell(&format!("config.json should have \"{key}\": {number}{note}"));
    }
    Ok(())
}
