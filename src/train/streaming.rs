//! Reads and tokenizes the shards of a run while it trains.
//!
//! A window of records, limited in number and bytes, is read from one shard or several, and encoded like a whole data
//! set: by the task's [`Encode`](crate::data::Encode), on all cores, documents packed into blocks. So every task and
//! format that is read from files can be streamed. Windows depend on the files alone. Each rank reads all of them.

use crate::config::{Documents, TaskKind};
use crate::data::prepare::{Encoded, assemble};
use crate::data::stream::{Chunk, Place, Position, Read, Stream};
use crate::data::{CacheUse, Prepared, cache};
use crate::error::{Context, Error, Result};
use crate::observe::memory::human;
use crate::text::documents::{Division, DocumentSource};
use crate::text::files::Files;
use crate::text::pairs::PairLayout;
use crate::text::record::{Format, Source};
use crate::text::shards::{Framing, Room, Shard};
use crate::text::tagged::{self, TaggedFormat};
use crate::text::tokenizer::Tokenizer;
use crate::text::{questions, records};
use crate::train::reading::{Purpose, Reading};
use crate::train::shards::Shards;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// The limits of a window: documents that are packed together, and texts that are tokenized together.
const WINDOW: Room = Room { records: 1024, bytes: 4 << 20 };
/// Number of windows with skipped records that are reported.
const NOTED: usize = 20;
/// Number of global batches that the first examples stand for when memory is planned.
const PLANNED: usize = 8;

/// Returns the settings for reading the shards as training data.
fn reading(shards: &Shards) -> Reading<'_> {
    let Shards { config, folder, max_length, labels, .. } = shards;
    Reading {
        task: &config.task,
        data: &config.data,
        folder,
        max_length: *max_length,
        purpose: Purpose::Train,
        labels: labels.clone(),
        seed: config.seed,
        part: None,
        words: false,
    }
}

/// Returns the hash of everything that the examples and their order in the shards depend on.
fn fingerprint(shards: &Shards) -> Result<[u8; 32]> {
    let encoder = reading(shards).encoder_of(&shards.files, "data.train")?;
    let tokenizer = Tokenizer::fingerprint_of(&shards.folder)?;
    let key = ("stream", cache::VERSION, WINDOW, &shards.stamps, tokenizer, encoder.settings());
    Ok(*blake3::hash(format!("{key:?}").as_bytes()).as_bytes())
}

/// Returns the first examples of the first pass, as training data that stands for all: what depends on lengths, such as
/// the memory of a run, follows from them.
///
/// # Errors
/// Exit 2: files that cannot be streamed; invalid records; no example in any shard.
pub fn sample(shards: &Arc<Shards>) -> Result<Prepared> {
    let key = fingerprint(shards)?;
    let mut reader = Reader::new(Arc::clone(shards), Position::default(), None)?;
    let encoded = loop {
        match reader.window()? {
            Some(window) if window.encoded.examples.is_empty() => {}
            Some(window) => break window.encoded,
            None => return Err(Error::input(format!("data.train: {}: no shard has a valid record", shards.files))),
        }
    };
    let n = encoded.examples.len();
    let (dataset, mut facts) = assemble(encoded, &[], key);
    let (count, size) = (shards.stamps.len(), human(shards.bytes()));
    facts.remarks = vec![format!(
        "{count} shard{} of {size}, read in each pass and shuffled in a buffer of {}; memory and lengths are those of \
         the first {n} examples",
        if count == 1 { "" } else { "s" },
        shards.shuffle().size()
    )];
    // Later windows report their own.
    (facts.skipped, facts.truncated, facts.references) = (0, 0, Value::Null);
    facts.skipped_reasons.clear();
    let dataset = dataset.repeated(n.max(PLANNED * shards.config.train.global_batch_size));
    Ok(Prepared { dataset, facts, cache: CacheUse::Built })
}

/// Opens the stream of global batches at a position. `limits` are the numbers of rows of the embedding matrix and of
/// the segment embeddings.
///
/// # Errors
/// Those of [`Tokenizer::from_folder`]; the system cannot start a thread.
pub fn open(shards: &Arc<Shards>, position: Position, limits: [usize; 2]) -> Result<Stream> {
    let reader = Reader::new(Arc::clone(shards), position, Some(limits))?;
    Stream::new(reader, shards.shuffle(), shards.config.train.global_batch_size, position)
}

/// Records that were read and encoded together.
struct Window {
    place: Place,
    encoded: Encoded,
    files: Files,
}

/// Reads the shards, pass after pass.
struct Reader {
    shards: Arc<Shards>,
    tokenizer: Tokenizer,
    limits: Option<[usize; 2]>,
    pass: u64,
    /// The order of the shards in the pass.
    order: Vec<usize>,
    place: Place,
    open: Option<Shard>,
    /// Number of windows with skipped records so far.
    noted: usize,
    has_failed: bool,
}

impl Iterator for Reader {
    type Item = Result<Read>;

    fn next(&mut self) -> Option<Result<Read>> {
        if self.has_failed {
            return None;
        }
        let read = self.read();
        self.has_failed = read.is_err();
        Some(read)
    }
}

impl Reader {
    fn new(shards: Arc<Shards>, position: Position, limits: Option<[usize; 2]>) -> Result<Self> {
        let Position { pass, place, .. } = position;
        let tokenizer = Tokenizer::from_folder(&shards.folder)?;
        let order = shards.shuffle().shards(pass, shards.stamps.len());
        Ok(Reader { shards, tokenizer, limits, pass, order, place, open: None, noted: 0, has_failed: false })
    }

    fn read(&mut self) -> Result<Read> {
        let Some(Window { place, encoded, files }) = self.window()? else {
            (self.pass, self.place) = (self.pass + 1, Place::default());
            self.order = self.shards.shuffle().shards(self.pass, self.order.len());
            return Ok(Read::End);
        };
        self.check(&encoded, &files)?;
        let notes = self.notes(&encoded, &files);
        let progress = place.shard as f64 / self.order.len() as f64;
        let (examples, weights) = (encoded.examples, encoded.extras.weights);
        Ok(Read::Chunk(Chunk { place, examples, weights, progress, notes }))
    }

    /// Reads the next window; `None` when the pass has read all shards.
    fn window(&mut self) -> Result<Option<Window>> {
        let (place, shards) = (self.place, Arc::clone(&self.shards));
        let reading = reading(&shards);
        let (mut room, mut pieces) = (WINDOW, Vec::new());
        while !room.is_full() {
            let Some(&index) = self.order.get(self.place.shard) else { break };
            let path = &shards.files.paths()[index];
            let shard = match &mut self.open {
                Some(shard) => shard,
                closed => {
                    shards.check(index).context("data.train")?;
                    let framing = framing(&reading, &shards.files, path).context("data.train")?;
                    closed.insert(Shard::open(path, &framing, self.place.offset).context("data.train")?)
                }
            };
            match shard.next(&mut room).context("data.train")? {
                Some(piece) => {
                    self.place.offset = shard.place();
                    pieces.push((path.clone(), piece));
                }
                None => {
                    self.open = None;
                    self.place = Place { shard: self.place.shard + 1, offset: 0 };
                }
            }
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        let files = Files::of_pieces(pieces);
        let encoder = reading.encoder_of(&files, "data.train")?;
        let encoded = encoder.encode(&self.tokenizer).context("data.train")?;
        Ok(Some(Window { place, encoded, files }))
    }

    /// Returns what the user is told about a window: records and examples that were skipped.
    fn notes(&mut self, encoded: &Encoded, files: &Files) -> Vec<String> {
        let n = encoded.skipped.len();
        let s = if n == 1 { "" } else { "s" };
        let of = |(line, why): &(usize, String)| {
            format!("{n} invalid record{s} skipped (first: {}: {why})", files.place(*line))
        };
        let mut notes: Vec<String> = encoded.skipped.iter().min().map(of).into_iter().collect();
        notes.extend(encoded.remarks.iter().filter(|remark| remark.contains("skipped")).cloned());
        self.noted += usize::from(!notes.is_empty());
        if !notes.is_empty() && self.noted >= NOTED {
            let last = (self.noted == NOTED).then(|| "records are skipped later too, which is not shown".to_owned());
            return last.into_iter().collect();
        }
        notes
    }

    /// Checks that the model has embeddings for the tokens and segments.
    fn check(&self, encoded: &Encoded, files: &Files) -> Result<()> {
        let Some([rows, segments]) = self.limits else { return Ok(()) };
        let largest = encoded.examples.iter().flat_map(|example| &example.ids).max().map_or(0, |&id| id as usize);
        let segment = encoded.examples.iter().flat_map(|example| &example.type_ids).max().copied().unwrap_or_default();
        let what = if largest >= rows {
            format!("token ids up to {largest}, but config.json has vocab_size = {rows}")
        } else if usize::from(segment) >= segments {
            format!("{} segments, but config.json has type_vocab_size = {segments}", usize::from(segment) + 1)
        } else {
            return Ok(());
        };
        Err(Error::input(format!("data.train: {files}: the data has {what}: use the tokenizer of this model")))
    }
}

/// Returns what separates the records of a file, as the task's reader finds them.
///
/// # Errors
/// Exit 2: a file that cannot be streamed, or of an unknown format.
fn framing(reading: &Reading, files: &Files, path: &Path) -> Result<Framing> {
    let of = |format: Format, source: Option<&Source>| match format {
        Format::Jsonl => Framing::Json,
        Format::Parquet | Format::Arrow => Framing::Rows(format),
        Format::Csv | Format::Tsv => Framing::Table {
            csv: format == Format::Csv,
            known: source.map(|source| source.fields.names().cloned().collect()).unwrap_or_default(),
            columns: source.and_then(|source| source.columns.as_ref().map(Vec::len)),
        },
    };
    let of_source =
        |source: &Source| -> Result<Framing> { Ok(of(records::format_of(path, source.format)?, Some(source))) };
    // As readers of objects: any other extension is JSON.
    let of_objects = |format: Option<Format>| Ok(of(records::format_of(path, format).unwrap_or(Format::Jsonl), None));
    match reading.task.kind {
        TaskKind::SequenceClassification | TaskKind::MultiLabel | TaskKind::Regression => {
            of_source(&reading.source(files)?)
        }
        TaskKind::Embedding => of_source(&reading.embedding_source(files)?),
        TaskKind::TokenClassification => Ok(match tagged::format_of(path, reading.tagged_source(files)?.format)? {
            TaggedFormat::Conll => Framing::Paragraphs,
            TaggedFormat::Sentences => Framing::Lines,
            TaggedFormat::Records(format) => of(format, None),
        }),
        TaskKind::MultipleChoice => of_objects(reading.choice_source(files)?.format),
        TaskKind::Chat => of_objects(reading.conversations(files)?.format),
        TaskKind::Seq2seq => match reading.parallel_texts(files, "data.train")?.source.layout {
            PairLayout::Records { format, .. } => of_objects(format),
            PairLayout::Lines { .. } => {
                let why = "two files side by side cannot be streamed: convert them to records with source and target";
                Err(Error::input(format!("{}: {why}", path.display())))
            }
        },
        TaskKind::CausalLm | TaskKind::MaskedLm => match reading.documents(files, Documents::default())? {
            DocumentSource::Records(source) => of_source(&source),
            DocumentSource::Text { division: Division::File, .. } => Ok(Framing::File),
            DocumentSource::Text { division: Division::Lines, .. } => Ok(Framing::Lines),
            DocumentSource::Text { division: Division::Paragraphs, .. } => Ok(Framing::Paragraphs),
        },
        TaskKind::QuestionAnswering => match questions::format(path) {
            Some(format) => Ok(of(format, None)),
            None => {
                let why = "SQuAD's JSON is one object and cannot be streamed: convert it to records (.jsonl, .parquet)";
                Err(Error::input(format!("{}: {why}", path.display())))
            }
        },
    }
}

#[cfg(test)]
#[path = "streaming_tests.rs"]
mod tests;
