//! Examples that are read while they are trained on, in memory that does not depend on their number.
//!
//! A source reads [`Chunk`]s of examples, pass after pass. They go through the buffer of a [`Shuffle`], and what is
//! taken from it forms global batches. So the global batch is a function of (seed, pass, files), independent of the
//! number of ranks, which each read the whole stream and divide the batch as usual. A pass ends with a batch that may
//! be smaller.
//!
//! A [`Position`] is all that a stream needs to continue: what the buffer holds follows from the number of examples
//! that have arrived, and the oldest of them is in the chunk at `place`, where reading begins again.

use super::collation::Collation;
use super::dataset::Dataset;
use super::example::Example;
use super::prefetch::Prefetch;
use super::shuffle::Shuffle;
use crate::error::{Error, Result};
use std::collections::{HashMap, VecDeque};

/// Number of chunks that are tokenized ahead.
const AHEAD: usize = 1;

/// Where a chunk begins in a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Index in the order of the pass.
    pub shard: usize,
    /// Place in the shard ([`crate::text::shards`]).
    pub offset: u64,
}

/// How far a stream was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// From 0.
    pub pass: u64,
    /// Number of examples of the pass that were taken from the buffer.
    pub taken: u64,
    /// Number of examples of the pass that were put into the buffer.
    pub arrived: u64,
    /// The chunk with the oldest example in the buffer.
    pub place: Place,
    /// The number of that chunk's first example in the pass.
    pub first: u64,
}

/// Examples of a few records, in the order of the files.
#[derive(Debug, Default)]
pub struct Chunk {
    pub place: Place,
    pub examples: Vec<Example>,
    /// The weight of each example in the loss; empty if all have the same.
    pub weights: Vec<f32>,
    /// The part of the pass's shards that were read before the chunk.
    pub progress: f64,
    /// Messages for the user.
    pub notes: Vec<String>,
}

/// What a source reads next.
#[derive(Debug)]
pub enum Read {
    Chunk(Chunk),
    /// All shards of the pass were read; the next pass follows.
    End,
}

/// A global batch.
#[derive(Debug)]
pub struct Taken {
    pub examples: Vec<Example>,
    pub weights: Vec<f32>,
    /// The number of each example in its pass, in the order of reading.
    pub numbers: Vec<u64>,
    pub pass: u64,
    /// The position after it.
    pub position: Position,
    /// Number of passes after it, with the part of the shards that were read before the last chunk as the fraction.
    pub epoch: f64,
    /// Messages for the user about what was read for it.
    pub notes: Vec<String>,
}

impl Taken {
    /// Returns the batch as a data set that is collated and trained on like another one.
    pub fn dataset(self, like: &Dataset) -> Dataset {
        let collation: Collation = like.collation().clone();
        let dataset = Dataset::new(self.examples, collation, like.fingerprint());
        let dataset = if self.weights.is_empty() { dataset } else { dataset.with_weights(self.weights) };
        dataset.with_objective(like.objective().clone())
    }
}

/// An example in the buffer or on its way there.
struct Held {
    number: u64,
    /// The chunk that it is from, counted from 0 in this process.
    chunk: u64,
    example: Example,
    weight: Option<f32>,
}

/// A chunk of which examples have not been taken yet.
struct Mark {
    place: Place,
    first: u64,
    left: usize,
}

/// A stream of global batches.
pub struct Stream {
    reads: Prefetch<Read>,
    shuffle: Shuffle,
    batch: usize,
    position: Position,
    /// The buffer; while it is emptied at the end of a pass, the next example is the last one.
    slots: Vec<Held>,
    is_ending: bool,
    /// Examples that have been read and have not arrived at the buffer.
    waiting: VecDeque<Held>,
    /// The oldest first.
    marks: VecDeque<Mark>,
    /// Number of chunks before those of `marks`.
    forgotten: u64,
    /// The number of the next example that is read.
    number: u64,
    progress: f64,
    notes: Vec<String>,
    /// Whether the buffer has to be filled again first.
    resumes: bool,
}

impl Stream {
    /// Returns the batches of `batch` examples from a position on. `reads` begins in its pass, at its place.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn new(
        reads: impl Iterator<Item = Result<Read>> + Send + 'static,
        shuffle: Shuffle,
        batch: usize,
        position: Position,
    ) -> Result<Self> {
        Ok(Stream {
            reads: Prefetch::new(AHEAD, reads)?,
            shuffle,
            batch,
            position,
            slots: Vec::new(),
            is_ending: false,
            waiting: VecDeque::new(),
            marks: VecDeque::new(),
            forgotten: 0,
            number: position.first,
            progress: 0.0,
            notes: Vec::new(),
            resumes: position.arrived > 0,
        })
    }

    /// Returns the next global batch.
    ///
    /// # Errors
    /// Those of reading; a pass without an example; other examples than before the position (exit 2).
    pub fn take(&mut self) -> Result<Taken> {
        if std::mem::take(&mut self.resumes) {
            self.refill()?;
        }
        let pass = self.position.pass;
        let (mut examples, mut weights, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        while examples.len() < self.batch && self.position.pass == pass {
            let Some(held) = self.next_example()? else { break };
            examples.push(held.example);
            weights.extend(held.weight);
            numbers.push(held.number);
        }
        let notes = std::mem::take(&mut self.notes);
        if examples.is_empty() {
            let why = notes.first().map(|note| format!(": {note}")).unwrap_or_default();
            return Err(Error::input(format!("a pass over all shards has no example{why}")));
        }
        let position = self.position();
        let epoch = position.pass as f64 + if position.pass == pass { self.progress } else { 0.0 };
        Ok(Taken { examples, weights, numbers, pass, position, epoch, notes })
    }

    /// The position of the next example.
    fn position(&self) -> Position {
        match self.marks.front() {
            Some(mark) => Position { place: mark.place, first: mark.first, ..self.position },
            // Nothing of the pass has been read yet.
            None => Position { place: Place::default(), first: 0, ..self.position },
        }
    }

    /// Takes an example from the buffer; `None` at the end of a pass without any. After the last one of a pass the
    /// position is in the next pass.
    fn next_example(&mut self) -> Result<Option<Held>> {
        let pass = self.position.pass;
        while !self.is_ending {
            let Some(arrival) = self.arrival()? else {
                self.shuffle.rest(pass, &mut self.slots);
                self.is_ending = true;
                break;
            };
            self.position.arrived += 1;
            if self.slots.len() < self.shuffle.size() {
                self.slots.push(arrival);
                continue;
            }
            let slot = self.shuffle.slot(pass, arrival.number);
            let held = std::mem::replace(&mut self.slots[slot], arrival);
            self.count(held.chunk);
            return Ok(Some(held));
        }
        let held = self.slots.pop();
        held.iter().for_each(|held| self.count(held.chunk));
        if self.slots.is_empty() {
            self.position = Position { pass: pass + 1, ..Position::default() };
            (self.is_ending, self.number, self.progress) = (false, 0, 0.0);
        }
        Ok(held)
    }

    /// Counts an example of a chunk as taken.
    fn count(&mut self, chunk: u64) {
        self.position.taken += 1;
        self.forget(chunk);
    }

    /// Counts an example of a chunk as no longer needed.
    fn forget(&mut self, chunk: u64) {
        self.marks[(chunk - self.forgotten) as usize].left -= 1;
        while self.marks.front().is_some_and(|mark| mark.left == 0) {
            self.marks.pop_front();
            self.forgotten += 1;
        }
    }

    /// Returns the next example in the order of the files; `None` at the end of a pass.
    fn arrival(&mut self) -> Result<Option<Held>> {
        while self.waiting.is_empty() {
            let end = || Error::other("the source of a stream ended");
            match self.reads.next().ok_or_else(end)?? {
                Read::End => return Ok(None),
                Read::Chunk(chunk) => self.wait(chunk),
            }
        }
        Ok(self.waiting.pop_front())
    }

    fn wait(&mut self, chunk: Chunk) {
        let Chunk { place, examples, weights, progress, notes } = chunk;
        self.progress = progress;
        self.notes.extend(notes);
        if examples.is_empty() {
            return;
        }
        let first = self.number;
        self.number += examples.len() as u64;
        let chunk = self.forgotten + self.marks.len() as u64;
        self.marks.push_back(Mark { place, first, left: examples.len() });
        let mut weights = weights.into_iter();
        let held = (first..).zip(examples);
        self.waiting.extend(held.map(|(number, example)| Held { number, chunk, example, weight: weights.next() }));
    }

    /// Fills the buffer with what it held at the position.
    fn refill(&mut self) -> Result<()> {
        let Position { pass, taken, arrived, first, .. } = self.position;
        let other = || {
            Error::input(
                "the shards do not have the examples that they had when the checkpoint was written: restore the files, \
                 or pass --allow-new-data-order to begin a new pass",
            )
        };
        let mut held = self.shuffle.held(pass, arrived);
        let taken_before = arrived - held.len() as u64;
        let taken_of_rest = taken.checked_sub(taken_before).ok_or_else(other)? as usize;
        if taken_of_rest > 0 {
            self.shuffle.rest(pass, &mut held);
            held.truncate(held.len().checked_sub(taken_of_rest).ok_or_else(other)?);
        }
        let slot_of: HashMap<u64, usize> = held.iter().copied().zip(0..).collect();
        let mut slots: Vec<Option<Held>> = held.iter().map(|_| None).collect();
        for _ in first..arrived {
            let held = self.arrival()?.ok_or_else(other)?;
            match slot_of.get(&held.number) {
                Some(&slot) => slots[slot] = Some(held),
                None => self.forget(held.chunk),
            }
        }
        self.slots = slots.into_iter().collect::<Option<Vec<Held>>>().ok_or_else(other)?;
        self.is_ending = taken_of_rest > 0;
        if self.is_ending && self.arrival()?.is_some() {
            return Err(other());
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
