//! The texts of a batch in progress: from the logits of all next tokens to the selected tokens.

use super::beam::{Beams, Candidate};
use super::scores::Row;
use super::settings::{Search, Settings};
use super::{Prompt, Text, scores};
use crate::ffi::transfer;
use std::mem;
use tch::{Kind, Tensor};

/// Returns the random number for a record and a position in its text.
pub type RandomNumbers<'a> = &'a dyn Fn(u64, usize) -> f64;

/// The texts of a batch of prompts.
pub struct Texts<'a> {
    settings: &'a Settings,
    random: RandomNumbers<'a>,
    /// The unfinished texts.
    open: Vec<Open>,
    finished: Vec<Text>,
}

/// An unfinished text.
struct Open {
    /// The index of the prompt in the batch.
    prompt: usize,
    record: u64,
    /// The tokens before the first new one.
    before: Vec<u32>,
    min_new: usize,
    max_new: usize,
    state: State,
}

enum State {
    One(Text),
    Beams(Beams),
}

/// The input of the next pass: the sequences in the order of their prompts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// `[sequences]`: the parent of each in the last pass.
    pub parents: Vec<usize>,
    /// `[sequences]`: the new token of each.
    pub tokens: Vec<u32>,
    /// The unfinished prompts, by their index among those of the last pass, and their numbers of sequences.
    pub prompts: Vec<(usize, usize)>,
}

impl<'a> Texts<'a> {
    /// Starts the texts; a decoder has only the `start` token. `limit` is the model's maximum length.
    pub fn new(
        settings: &'a Settings,
        random: RandomNumbers<'a>,
        prompts: &[Prompt],
        start: Option<u32>,
        limit: Option<usize>,
    ) -> Self {
        let open = |(place, prompt): (usize, &Prompt)| {
            let before = start.map_or_else(|| prompt.ids.clone(), |start| vec![start]);
            let (min_new, max_new) = settings.length.after(before.len(), limit);
            let state = match settings.search {
                Search::Beam(beam) => State::Beams(Beams::new(beam, max_new)),
                Search::Greedy | Search::Sample(_) => State::One(Text::default()),
            };
            Open { prompt: place, record: prompt.record, before, min_new, max_new, state }
        };
        let open = prompts.iter().enumerate().map(open).collect();
        Texts { settings, random, open, finished: vec![Text::default(); prompts.len()] }
    }

    /// Selects the next token of every text, from f32 logits `[sequences, vocab]`. The step has no sequences when all
    /// texts are finished.
    pub fn advance(&mut self, logits: &Tensor) -> Step {
        let log_probs = logits.log_softmax(-1, Kind::Float);
        let is_beam = matches!(self.settings.search, Search::Beam(_));
        let rows: Vec<Row> = self.open.iter().flat_map(Open::rows).collect();
        let scores = scores::process(if is_beam { &log_probs } else { logits }, &rows, self.settings);
        let chosen = match self.settings.search {
            Search::Beam(beam) => {
                let begins = self.open.iter().all(|open| open.length() == 0);
                let wanted = match self.settings.forced_bos {
                    // All beams would begin with it: there is still one.
                    Some(_) if begins => 1,
                    _ => beam.candidates(&self.settings.eos),
                };
                return self.advance_beams(&scores, &log_probs, wanted as i64);
            }
            Search::Greedy => scores.argmax(-1, false),
            Search::Sample(sampling) => {
                let uniforms: Vec<f64> = self.open.iter().map(|o| (self.random)(o.record, o.length())).collect();
                scores::sample(&scores::warp(&scores, &sampling), &uniforms)
            }
        };
        let tokens: Vec<i64> = host(&chosen);
        let of_tokens: Vec<f32> = host(&log_probs.gather(1, &chosen.unsqueeze(1), false));
        let taken: Vec<(u32, f32)> = tokens.into_iter().map(|id| id as u32).zip(of_tokens).collect();
        let eos = &self.settings.eos;
        self.keep_open(|place, open| {
            let State::One(text) = &mut open.state else { return Vec::new() };
            let (token, log_prob) = taken[place];
            text.push(token, log_prob);
            if eos.contains(&token) || text.ids.len() >= open.max_new { Vec::new() } else { vec![(place, token)] }
        })
    }

    /// The finished texts, in the order of the prompts.
    pub fn into_texts(self) -> Vec<Text> {
        self.finished
    }

    /// All texts have the same number of beams: one before the first token.
    fn advance_beams(&mut self, scores: &Tensor, log_probs: &Tensor, wanted: i64) -> Step {
        let running = |open: &Open| match &open.state {
            State::Beams(beams) => beams.running().iter().map(|(score, _)| *score).collect(),
            State::One(_) => Vec::new(),
        };
        let sums: Vec<f32> = self.open.iter().flat_map(running).collect();
        let (texts, vocab) = (self.open.len() as i64, scores.size()[1]);
        let sums = transfer::to_device(Tensor::from_slice(&sums).unsqueeze(1), scores.device());
        let (best, indices) = (scores + sums).view([texts, -1]).topk(wanted, -1, true, true);
        let of_tokens: Vec<f32> = host(&log_probs.view([texts, -1]).gather(1, &indices, false));
        let (best, indices): (Vec<f32>, Vec<i64>) = (host(&best), host(&indices));
        let candidate = |i: usize| Candidate {
            parent: (indices[i] / vocab) as usize,
            token: (indices[i] % vocab) as u32,
            log_prob: of_tokens[i],
            score: best[i],
        };
        let candidates: Vec<Candidate> = (0..indices.len()).map(candidate).collect();
        let eos = &self.settings.eos;
        let mut first = 0;
        self.keep_open(|place, open| {
            let State::Beams(beams) = &mut open.state else { return Vec::new() };
            let (own, width) = (&candidates[place * wanted as usize..][..wanted as usize], beams.running().len());
            let parents = beams.advance(own, eos);
            let last = beams.running().iter().filter_map(|(_, text)| text.ids.last().copied());
            let next = parents.into_iter().map(|parent| first + parent).zip(last).collect();
            first += width;
            next
        })
    }

    /// Calls `advance` for each unfinished text; a text without continuing sequences is finished.
    fn keep_open(&mut self, mut advance: impl FnMut(usize, &mut Open) -> Vec<(usize, u32)>) -> Step {
        let mut step = Step::default();
        for (place, mut open) in mem::take(&mut self.open).into_iter().enumerate() {
            let next = advance(place, &mut open);
            if next.is_empty() {
                self.finished[open.prompt] = open.state.into_text();
                continue;
            }
            step.prompts.push((place, next.len()));
            let (parents, tokens): (Vec<usize>, Vec<u32>) = next.into_iter().unzip();
            step.parents.extend(parents);
            step.tokens.extend(tokens);
            self.open.push(open);
        }
        step
    }
}

impl Open {
    /// Number of new tokens so far.
    fn length(&self) -> usize {
        match &self.state {
            State::One(text) => text.ids.len(),
            State::Beams(beams) => beams.running().first().map_or(0, |(_, text)| text.ids.len()),
        }
    }

    /// Each sequence of the last pass.
    fn rows(&self) -> Vec<Row<'_>> {
        let Open { before, min_new, max_new, state, .. } = self;
        let row = |text| Row { tokens: [before.as_slice(), text], min_new: *min_new, max_new: *max_new };
        match state {
            State::One(text) => vec![row(text.ids.as_slice())],
            State::Beams(beams) => beams.running().iter().map(|(_, text)| row(text.ids.as_slice())).collect(),
        }
    }
}

impl State {
    fn into_text(self) -> Text {
        match self {
            State::One(text) => text,
            State::Beams(beams) => beams.into_best(),
        }
    }
}

fn host<T: tch::kind::Element + Copy>(tensor: &Tensor) -> Vec<T>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    transfer::values(tensor).unwrap_or_else(|e| panic!("scores {:?}: {e}", tensor.size()))
}
