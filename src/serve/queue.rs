//! The bounded queue between the connections and the thread that computes.

use super::failure::Failure;
use super::metrics::Metrics;
use crate::data::Example;
use crate::generate::continuous::{End, Start};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The work of one request.
pub struct Job {
    pub work: Work,
    /// When the request is no longer worth computing.
    pub deadline: Instant,
}

pub enum Work {
    Predict(Predict),
    Generate(Generate),
}

/// Examples to run through the model.
pub struct Predict {
    pub examples: Vec<Example>,
    /// Gets the task's values of each example ([`crate::tasks::Task::answers`]).
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, Failure>>,
}

/// A text to generate.
pub struct Generate {
    /// [`Start::id`] is the server's to set.
    pub start: Start,
    /// The text ends before the first of these.
    pub stops: Vec<String>,
    pub reply: mpsc::UnboundedSender<Event>,
}

/// What happens to a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The text continues with this.
    Text(String),
    /// It is complete.
    End(Ended),
    Failed(Failure),
}

/// A complete text.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub end: End,
    /// Number of generated tokens, including the EOS token.
    pub tokens: usize,
    pub text: String,
}

impl Job {
    /// Whether somebody waits for the result.
    pub fn is_wanted(&self) -> bool {
        match &self.work {
            Work::Predict(predict) => !predict.reply.is_closed(),
            Work::Generate(generate) => !generate.reply.is_closed(),
        }
    }

    /// Answers with an error.
    pub fn fail(self, failure: Failure) {
        // Nobody may wait any more.
        match self.work {
            Work::Predict(predict) => _ = predict.reply.send(Err(failure)),
            Work::Generate(generate) => _ = generate.reply.send(Event::Failed(failure)),
        }
    }
}

/// The end of the queue where requests enter.
pub struct Entrance {
    /// `None` once the server accepts no more.
    sender: Mutex<Option<mpsc::Sender<Job>>>,
    limit: usize,
    metrics: Arc<Metrics>,
}

/// A reserved place in the queue.
pub struct Place {
    permit: mpsc::OwnedPermit<Job>,
    metrics: Arc<Metrics>,
}

/// The end of the queue where the model takes its work.
pub struct Exit {
    jobs: mpsc::Receiver<Job>,
    metrics: Arc<Metrics>,
}

/// Returns both ends of a queue with places for `limit` requests.
pub fn queue(limit: usize, metrics: &Arc<Metrics>) -> (Entrance, Exit) {
    let (sender, jobs) = mpsc::channel(limit.min(Semaphore::MAX_PERMITS));
    let entrance = Entrance { sender: Mutex::new(Some(sender)), limit, metrics: Arc::clone(metrics) };
    (entrance, Exit { jobs, metrics: Arc::clone(metrics) })
}

impl Entrance {
    /// Reserves a place, before the work for the request begins.
    ///
    /// # Errors
    /// 429 if the queue is full; 503 if it is closed.
    pub fn reserve(&self) -> Result<Place, Failure> {
        let sender =
            self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(Failure::stopping)?;
        let permit = sender.try_reserve_owned().map_err(|e| match e {
            TrySendError::Full(_) => Failure::busy(self.limit),
            TrySendError::Closed(_) => Failure::stopping(),
        })?;
        Ok(Place { permit, metrics: Arc::clone(&self.metrics) })
    }

    /// Accepts no more requests: once all are taken, [`Exit::next`] returns `None`.
    pub fn close(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Place {
    pub fn put(self, job: Job) {
        self.metrics.queued.inc();
        self.permit.send(job);
    }
}

impl Exit {
    /// Returns the next request that somebody waits for: with `waits` when there is one, `None` at the end of the
    /// queue; else `None` if there is none now. Requests past their deadline get an error.
    pub fn next(&mut self, waits: bool) -> Option<Job> {
        loop {
            let job = if waits { self.jobs.blocking_recv()? } else { self.jobs.try_recv().ok()? };
            self.metrics.queued.dec();
            if !job.is_wanted() {
                continue;
            }
            if job.deadline > Instant::now() {
                return Some(job);
            }
            job.fail(Failure::late());
        }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Answer = oneshot::Receiver<Result<Vec<Vec<f32>>, Failure>>;

    /// A job that is late in so many seconds.
    fn job(seconds: i64) -> (Job, Answer) {
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let deadline = match seconds {
            0.. => now + Duration::from_secs(seconds.cast_unsigned()),
            _ => now,
        };
        (Job { work: Work::Predict(Predict { examples: Vec::new(), reply }), deadline }, answer)
    }

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_ends() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (entrance, mut exit) = queue(2, &metrics);
        let place = entrance.reserve().unwrap();
        let (first, _first) = job(60);
        entrance.reserve().unwrap().put(first);
        // A reserved place counts before it is used.
        let refused = entrance.reserve().err().unwrap();
        assert_eq!((refused.status.as_u16(), refused.code), (429, "queue_full"));
        assert!(refused.message.contains("2 requests are waiting"), "{}", refused.message);
        assert_eq!(metrics.queued.get(), 1);
        assert!(exit.next(true).is_some() && exit.next(false).is_none());
        assert_eq!(metrics.queued.get(), 0);
        // Once one is taken, there is a place again.
        let again = entrance.reserve().unwrap();
        entrance.close();
        assert_eq!(entrance.reserve().err().unwrap().status.as_u16(), 503);
        // What was accepted is still done.
        for place in [place, again] {
            let (job, answer) = job(60);
            place.put(job);
            let taken = exit.next(true).expect("the accepted request");
            taken.fail(Failure::internal("x"));
            assert_eq!(answer.blocking_recv().unwrap().unwrap_err().message, "x");
        }
        assert!(exit.next(true).is_none());
    }

    #[test]
    fn late_and_abandoned_requests_are_not_computed() {
        let (entrance, mut exit) = queue(3, &Arc::new(Metrics::new().unwrap()));
        let (late, answer) = job(-1);
        let (abandoned, gone) = job(60);
        let (good, _waits) = job(60);
        [late, abandoned, good].into_iter().for_each(|job| entrance.reserve().unwrap().put(job));
        drop(gone);
        assert!(exit.next(false).is_some_and(|job| job.is_wanted()));
        assert_eq!(answer.blocking_recv().unwrap().unwrap_err().status.as_u16(), 504);
        assert!(exit.next(false).is_none());
    }
}
