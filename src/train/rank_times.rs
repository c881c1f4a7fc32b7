//! How long each rank computes and how long it waits for others, so that a slow rank can be seen.
//!
//! Each rank sends its times of a step with the first reduction of the next one, which needs no further communication.

use std::time::Duration;

/// Times of all ranks since the last log line.
#[derive(Debug)]
pub struct RankTimes {
    /// Seconds of this rank's last step: computing, waiting.
    own: [f64; 2],
    /// Sums over the steps, by rank.
    sums: Vec<[f64; 2]>,
    steps: u64,
}

impl RankTimes {
    pub fn new(world: usize) -> Self {
        RankTimes { own: [0.0; 2], sums: vec![[0.0; 2]; world], steps: 0 }
    }

    /// Returns this rank's times at its place among those of all ranks, to be summed over the ranks.
    pub fn to_send(&self, rank: usize) -> Vec<f64> {
        let mut all = vec![0.0; 2 * self.sums.len()];
        all[2 * rank..2 * rank + 2].copy_from_slice(&self.own);
        all
    }

    /// Adds the times of all ranks.
    pub fn received(&mut self, all: &[f64]) {
        // Before the first step there are none.
        if all.iter().any(|seconds| *seconds > 0.0) {
            self.steps += 1;
            for (sum, own) in self.sums.iter_mut().zip(all.chunks_exact(2)) {
                sum.iter_mut().zip(own).for_each(|(sum, seconds)| *sum += seconds);
            }
        }
    }

    /// Records a step of this rank that took `elapsed`, of which it waited `waited`.
    pub fn step(&mut self, elapsed: Duration, waited: Duration) {
        self.own = [elapsed.saturating_sub(waited), waited].map(|time| time.as_secs_f64());
    }

    /// Returns the mean seconds per step of computing and of waiting, by rank, and begins again; `None` without a step.
    pub fn take(&mut self) -> Option<[Vec<f64>; 2]> {
        let steps = std::mem::take(&mut self.steps) as f64;
        let means = [0, 1].map(|i| self.sums.iter().map(|sum| sum[i] / steps).collect());
        self.sums.fill([0.0; 2]);
        (steps > 0.0).then_some(means)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_means_by_rank() {
        let mut ranks = [RankTimes::new(2), RankTimes::new(2)];
        let second = Duration::from_secs;
        for (took, waited) in [([3, 3], [0, 2]), ([5, 5], [2, 0])] {
            let sent: Vec<Vec<f64>> = ranks.iter().zip(0..).map(|(own, rank)| own.to_send(rank)).collect();
            let all: Vec<f64> = sent[0].iter().zip(&sent[1]).map(|(a, b)| a + b).collect();
            for (rank, own) in ranks.iter_mut().enumerate() {
                own.received(&all);
                own.step(second(took[rank]), second(waited[rank]));
            }
        }
        // The second step's times are not sent yet.
        assert_eq!(ranks[0].take(), Some([vec![3.0, 1.0], vec![0.0, 2.0]]));
        assert_eq!(ranks[0].take(), None);
        let all = [ranks[0].to_send(0), ranks[1].to_send(1)].concat();
        assert_eq!(all, [3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 5.0, 0.0]);
    }
}
