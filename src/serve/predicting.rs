//! Batches of the examples that wait: what is in the queue when the model is free forms one packed batch.

use super::failure::Failure;
use super::queue::{Exit, Job, Work};
use crate::data::{Collation, Dataset, Example};
use crate::error::{Kind, Result};
use crate::tasks::Results;
use crate::train::evaluate::Outputs;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Instant;
use std::vec;
use tokio::sync::oneshot;

/// A request that is being computed.
struct Open {
    /// The examples that are not in a batch yet.
    rest: vec::IntoIter<Example>,
    /// The values of those that were.
    rows: Vec<Vec<f32>>,
    deadline: Instant,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, Failure>>,
}

/// Answers requests until the queue is closed and empty. A batch has at most `max_tokens` tokens, or one example; `run`
/// computes the values of each example of a batch.
///
/// # Errors
/// Errors of `run` other than out of memory, after the requests of the batch got them.
pub fn predict(
    exit: &mut Exit,
    max_tokens: usize,
    mut run: impl FnMut(&Dataset) -> Result<Vec<Vec<f32>>>,
) -> Result<()> {
    let mut open: VecDeque<Open> = VecDeque::new();
    loop {
        if open.is_empty() {
            let Some(job) = exit.next(true) else { return Ok(()) };
            open.extend(opened(job));
        }
        while waiting_tokens(&open) < max_tokens {
            let Some(job) = exit.next(false) else { break };
            open.extend(opened(job));
        }
        open.retain(|request| !request.reply.is_closed());
        let late = |request: &Open| request.deadline <= Instant::now();
        while let Some(request) = open.iter().position(late).and_then(|at| open.remove(at)) {
            // Nobody may wait any more.
            _ = request.reply.send(Err(Failure::late()));
        }
        let (owners, dataset) = batch(&mut open, max_tokens);
        if owners.is_empty() {
            // Requests without examples, or none.
            finish(&mut open);
            exit.metrics().running.set(open.len() as i64);
            continue;
        }
        let metrics = exit.metrics();
        metrics.running.set(open.len() as i64);
        metrics.batch(owners.len(), dataset.total_tokens() as usize, 0);
        match run(&dataset) {
            Ok(rows) => owners.into_iter().zip(rows).for_each(|(owner, row)| open[owner].rows.push(row)),
            Err(e) => {
                let mut number = 0..;
                open.retain_mut(|request| {
                    let failed = number.next().is_some_and(|n| owners.contains(&n));
                    if failed {
                        let (reply, _) = oneshot::channel();
                        let reply = std::mem::replace(&mut request.reply, reply);
                        _ = reply.send(Err(Failure::internal(e.to_string())));
                    }
                    !failed
                });
                if e.kind() != Kind::OutOfMemory {
                    return Err(e);
                }
            }
        }
        finish(&mut open);
        exit.metrics().running.set(open.len() as i64);
    }
}

/// Converts a job of this kind of model; others are refused before they are in the queue.
fn opened(job: Job) -> Option<Open> {
    let Job { work, deadline } = job;
    let Work::Predict(predict) = work else { return None };
    let rows = Vec::with_capacity(predict.examples.len());
    Some(Open { rest: predict.examples.into_iter(), rows, deadline, reply: predict.reply })
}

fn waiting_tokens(open: &VecDeque<Open>) -> usize {
    open.iter().flat_map(|request| request.rest.as_slice()).map(|example| example.ids.len()).sum()
}

/// Takes the examples of the next batch, in the order of the requests; returns the request of each.
fn batch(open: &mut VecDeque<Open>, max_tokens: usize) -> (Vec<usize>, Dataset) {
    let (mut owners, mut examples, mut tokens) = (Vec::new(), Vec::new(), 0);
    'requests: for (owner, request) in open.iter_mut().enumerate() {
        while let Some(example) = request.rest.as_slice().first() {
            tokens += example.ids.len();
            if tokens > max_tokens && !owners.is_empty() {
                break 'requests;
            }
            examples.extend(request.rest.next());
            owners.push(owner);
        }
    }
    (owners, Dataset::new(examples, Collation::Plain, [0; 32]))
}

/// Answers the requests whose examples all have their values.
fn finish(open: &mut VecDeque<Open>) {
    let is_done = |request: &Open| request.rest.as_slice().is_empty();
    while let Some(request) = open.iter().position(is_done).and_then(|at| open.remove(at)) {
        _ = request.reply.send(Ok(request.rows));
    }
}

/// Returns the values of each example.
pub fn rows(outputs: &Outputs) -> Vec<Vec<f32>> {
    outputs.offsets.windows(2).map(|pair| outputs.answers[pair[0]..pair[1]].to_vec()).collect()
}

/// Calls `look` with the results of some examples, given their values.
pub fn with_results<T>(
    examples: Vec<Example>,
    references: &Value,
    rows: &[Vec<f32>],
    look: impl FnOnce(&Results) -> T,
) -> T {
    let dataset = &Dataset::new(examples, Collation::Plain, [0; 32]);
    let mut offsets = vec![0];
    offsets.extend(rows.iter().scan(0, |end, row| {
        *end += row.len();
        Some(*end)
    }));
    look(&Results { dataset, references, answers: &rows.concat(), offsets: &offsets, losses: &[] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Label;
    use crate::error::Error;
    use crate::serve::metrics::Metrics;
    use crate::serve::queue::{Predict, queue};
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    type Answer = oneshot::Receiver<Result<Vec<Vec<f32>>, Failure>>;

    /// A job of examples of these lengths, whose first tokens are `first` and those after it.
    fn job(first: u32, lengths: &[usize]) -> (Job, Answer) {
        let (reply, answer) = oneshot::channel();
        let example = |(i, &n): (u32, &usize)| Example::single(vec![first + i; n], vec![0; n], Label::None);
        let examples = (0..).zip(lengths).map(example).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        (Job { work: Work::Predict(Predict { examples, reply }), deadline }, answer)
    }

    /// Runs jobs whose results are their examples' first tokens; returns the tokens of each batch.
    fn run(
        jobs: Vec<Job>,
        max_tokens: usize,
        mut before: impl FnMut(usize) -> Result<()>,
    ) -> (Vec<Vec<usize>>, Result<()>) {
        let (entrance, mut exit) = queue(jobs.len(), &Arc::new(Metrics::new().unwrap()));
        jobs.into_iter().for_each(|job| entrance.reserve().unwrap().put(job));
        entrance.close();
        let mut batches = Vec::new();
        let ended = predict(&mut exit, max_tokens, |dataset| {
            batches.push((0..dataset.len()).map(|i| dataset.length(i)).collect::<Vec<_>>());
            before(batches.len())?;
            Ok((0..dataset.len()).map(|i| vec![dataset.ids(i)[0] as f32]).collect())
        });
        (batches, ended)
    }

    fn numbers(answer: Answer) -> Vec<f32> {
        answer.blocking_recv().unwrap().unwrap().concat()
    }

    #[test]
    fn waiting_examples_form_full_batches() {
        let (jobs, answers): (Vec<Job>, Vec<Answer>) =
            [job(10, &[3, 4]), job(20, &[]), job(30, &[2, 9, 1]), job(40, &[1])].into_iter().unzip();
        let (batches, ended) = run(jobs, 8, |_| Ok(()));
        ended.unwrap();
        // 3 + 4 tokens, then 2, then the long one alone, then the rest.
        assert_eq!(batches, [vec![3, 4], vec![2], vec![9], vec![1, 1]]);
        let found: Vec<Vec<f32>> = answers.into_iter().map(numbers).collect();
        assert_eq!(found, [vec![10.0, 11.0], vec![], vec![30.0, 31.0, 32.0], vec![40.0]]);
    }

    #[test]
    fn a_request_is_not_computed_for_who_has_left() {
        let (first, gone) = job(10, &[5]);
        let (second, leaves) = job(20, &[1, 7]);
        let (third, answer) = job(30, &[2]);
        drop(gone);
        // The second client leaves during its first batch.
        let mut leaves = Some(leaves);
        let (batches, ended) = run(vec![first, second, third], 4, |_| {
            drop(leaves.take());
            Ok(())
        });
        ended.unwrap();
        assert_eq!(batches, [vec![1], vec![2]]);
        assert_eq!(numbers(answer), [30.0]);
    }

    #[test]
    fn without_clients_no_request_counts_as_running() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (entrance, mut exit) = queue(1, &metrics);
        let (request, leaves) = job(10, &[5, 5]);
        entrance.reserve().unwrap().put(request);
        let (begin, begun) = channel();
        let engine = thread::spawn(move || {
            let mut leaves = Some(leaves);
            predict(&mut exit, 5, |dataset| {
                // The client leaves in the first of two batches.
                drop(leaves.take());
                _ = begin.send(());
                Ok(vec![vec![0.0]; dataset.len()])
            })
        });
        begun.recv().unwrap();
        metrics.wait_for_idle();
        entrance.close();
        engine.join().unwrap().unwrap();
    }

    #[test]
    fn without_memory_only_the_batch_fails() {
        for (kind, batches, more) in [(Kind::OutOfMemory, 2, true), (Kind::Other, 1, false)] {
            let (first, failed) = job(10, &[5]);
            let (second, answer) = job(20, &[5]);
            let fails = |batch| if batch == 1 { Err(Error::new(kind, "no room")) } else { Ok(()) };
            let (found, ended) = run(vec![first, second], 5, fails);
            assert_eq!((found.len(), ended.is_ok()), (batches, more));
            let failure = failed.blocking_recv().unwrap().unwrap_err();
            assert_eq!((failure.status.as_u16(), failure.message.as_str()), (500, "no room"));
            // Without an engine nobody answers.
            assert_eq!(answer.blocking_recv().is_ok(), more);
        }
    }
}
