//! Beam search for one prompt, as in transformers (`GenerationMixin._beam_search` of transformers 5.23).

use super::Text;
use super::settings::{Beam, EarlyStopping};

/// A one-token extension of a running beam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Index of the running beam.
    pub parent: usize,
    pub token: u32,
    pub log_prob: f32,
    /// The sum of scores, including the token's.
    pub score: f32,
}

/// The running and the finished beams of one prompt.
#[derive(Debug)]
pub struct Beams {
    config: Beam,
    max_new: usize,
    running: Vec<(f32, Text)>,
    /// Best first, at most the beam width.
    finished: Vec<(f32, Text)>,
}

impl Beams {
    /// Returns a search with one empty beam.
    pub fn new(config: Beam, max_new: usize) -> Self {
        Beams { config, max_new, running: vec![(0.0, Text::default())], finished: Vec::new() }
    }

    /// The running beams and their scores.
    pub fn running(&self) -> &[(f32, Text)] {
        &self.running
    }

    /// Extends the running beams with the best candidates, best first. Returns the index of the parent of each new
    /// running beam, or nothing when the search is over.
    pub fn advance(&mut self, candidates: &[Candidate], eos: &[u32]) -> Vec<usize> {
        let Beam { beams, length_penalty, early_stopping } = self.config;
        let length = self.running.first().map_or(0, |(_, text)| text.ids.len()) + 1;
        let at_length = |score: f32, length: usize| score / (length as f64).powf(length_penalty) as f32;
        let continued = |of: &Candidate| self.running[of.parent].1.with(of.token, of.log_prob);
        let ends = |of: &Candidate| length >= self.max_new || eos.contains(&of.token);
        // Ends count only among the best `beams` candidates.
        let ended = candidates.iter().take(beams).filter(|of| ends(of));
        let ended: Vec<(f32, Text)> = ended.map(|of| (at_length(of.score, length), continued(of))).collect();
        let continuing: Vec<&Candidate> = candidates.iter().filter(|of| !ends(of)).take(beams).collect();
        let running = continuing.iter().map(|of| (of.score, continued(of))).collect();
        self.finished.extend(ended);
        self.finished.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        self.finished.truncate(beams);
        self.running = running;
        let Some((best, _)) = self.running.first() else { return Vec::new() };
        if self.finished.len() == beams {
            let longest =
                if early_stopping == EarlyStopping::Never && length_penalty > 0.0 { self.max_new } else { length };
            let worst = self.finished[beams - 1].0;
            if early_stopping == EarlyStopping::Yes || at_length(*best, longest) <= worst {
                return Vec::new();
            }
        }
        continuing.iter().map(|of| of.parent).collect()
    }

    pub fn into_best(self) -> Text {
        self.finished.into_iter().chain(self.running).next().map(|(_, text)| text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: u32 = 1;

    fn candidate(parent: usize, token: u32, score: f32) -> Candidate {
        Candidate { parent, token, log_prob: 0.0, score }
    }

    fn beams(early_stopping: EarlyStopping, length_penalty: f64, max_new: usize) -> Beams {
        Beams::new(Beam { beams: 2, length_penalty, early_stopping }, max_new)
    }

    /// The first step: two ends and two continuations, with these scores.
    fn first(beams: &mut Beams, ends: [f32; 2], runs: [f32; 2]) -> Vec<usize> {
        let [a, b] = ends.map(|score| candidate(0, EOS, score));
        let [c, d] = [(7, runs[0]), (8, runs[1])].map(|(token, score)| candidate(0, token, score));
        let mut all = [a, b, c, d];
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        beams.advance(&all, &[EOS])
    }

    #[test]
    fn an_end_counts_only_among_the_best() {
        let mut search = beams(EarlyStopping::Yes, 1.0, 9);
        assert_eq!(first(&mut search, [-1.0, -9.0], [-2.0, -3.0]), [0, 0]);
        assert_eq!((search.finished.len(), search.running.len()), (1, 2));
        // Both ends come first now: the search is over.
        let all = [candidate(0, EOS, -2.1), candidate(1, EOS, -3.1), candidate(0, 5, -4.0), candidate(0, 6, -5.0)];
        assert!(search.advance(&all, &[EOS]).is_empty());
        // -1 at length 1 and -2.1 at length 2: scores are length-normalized.
        assert_eq!(search.finished.iter().map(|(score, _)| *score).collect::<Vec<_>>(), [-1.0, -1.05]);
        assert_eq!(search.into_best().ids, [EOS]);
    }

    /// Two are finished with a worst score of -3; the best running one has -5.
    #[test]
    fn when_it_stops() {
        let stops = |early, penalty: f64, max_new| {
            first(&mut beams(early, penalty, max_new), [-1.0, -3.0], [-5.0, -6.0]).is_empty()
        };
        assert!(stops(EarlyStopping::Yes, 1.0, 9));
        // At length 1 it cannot improve; at length 9 it could: -5 / 9 > -3.
        assert!(stops(EarlyStopping::No, 1.0, 9) && !stops(EarlyStopping::Never, 1.0, 9));
        assert!(stops(EarlyStopping::Never, 0.0, 9) && stops(EarlyStopping::No, 1.0, 1));
    }

    #[test]
    fn the_longest_length_ends_every_text() {
        let mut search = beams(EarlyStopping::Never, 1.0, 2);
        assert_eq!(first(&mut search, [-8.0, -9.0], [-2.0, -3.0]), [0, 0]);
        let all = [candidate(1, 5, -3.2), candidate(0, 6, -4.0), candidate(0, EOS, -4.5), candidate(1, EOS, -5.0)];
        assert!(search.advance(&all, &[EOS]).is_empty());
        assert_eq!(search.into_best().ids, [8, 5]);
    }
}
