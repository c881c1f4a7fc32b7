//! Continuous batching of the prompts that wait.

use super::failure::Failure;
use super::queue::{Ended, Event, Exit, Generate, Job, Work};
use crate::error::{Kind, Result};
use crate::generate::continuous::{End, Next, Start};
use crate::text::detokenizer::Detokenizer;
use crate::text::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::mpsc;

/// The batch of running texts.
pub trait Texts {
    /// As [`crate::generate::continuous::Running::step`].
    ///
    /// # Errors
    /// Those of the model. All texts are lost then.
    fn step(&mut self, new: Vec<Start>) -> Result<Vec<Next>>;

    /// As [`crate::generate::continuous::Running::close`].
    fn close(&mut self, id: u64);
}

/// A text that is being generated.
struct Open<'a> {
    text: Detokenizer<'a>,
    /// Maximum number of tokens of it and its prompt.
    length: usize,
    deadline: Instant,
    reply: mpsc::UnboundedSender<Event>,
}

/// Answers requests until the queue is closed and empty. A new text joins if the KV cache of all texts at their maximum
/// lengths has at most `max_tokens` positions, or if it is alone; the order of the queue is kept.
///
/// # Errors
/// Errors of `texts` other than out of memory, and of the tokenizer, after the requests of the batch got them.
pub fn generate(exit: &mut Exit, max_tokens: usize, tokenizer: &Tokenizer, texts: &mut dyn Texts) -> Result<()> {
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();
    let (mut held, mut last_id) = (None, 0);
    loop {
        open.retain(|&id, text| {
            let stays = text.is_wanted();
            if !stays {
                texts.close(id);
            }
            stays
        });
        // Before it waits for the next request.
        exit.metrics().running.set(open.len() as i64);
        let mut new = Vec::new();
        loop {
            let Some(job) = held.take().filter(goes_on).or_else(|| exit.next(open.is_empty())) else {
                break;
            };
            if !fits(&open, &job, max_tokens) {
                held = Some(job);
                break;
            }
            last_id += 1;
            if let Some((start, text)) = opened(job, last_id, tokenizer) {
                new.push(start);
                open.insert(last_id, text);
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let read = new.iter().map(|start| start.prompt.len()).sum();
        exit.metrics().running.set(open.len() as i64);
        exit.metrics().batch(open.len(), read, open.len() - new.len());
        let advanced = texts.step(new).and_then(|next| {
            exit.metrics().generated(next.len());
            advance(&mut open, &next, texts)
        });
        if let Err(e) = advanced {
            for (id, text) in std::mem::take(&mut open) {
                texts.close(id);
                text.tell(Event::Failed(Failure::internal(e.to_string())));
            }
            if e.kind() != Kind::OutOfMemory {
                return Err(e);
            }
        }
    }
}

/// Passes new tokens on; texts that end leave.
fn advance(open: &mut BTreeMap<u64, Open>, next: &[Next], texts: &mut dyn Texts) -> Result<()> {
    for &Next { id, token, end } in next {
        let Some(Open { text, reply, .. }) = open.get_mut(&id) else { continue };
        let piece = text.push(token)?.to_owned();
        // A client that has left is noticed before the next token.
        let tell = |piece: String| {
            if !piece.is_empty() {
                _ = reply.send(Event::Text(piece));
            }
        };
        tell(piece);
        let stopped = text.has_stopped();
        let Some(end) = (if stopped { Some(End::Eos) } else { end }) else { continue };
        texts.close(id);
        let (rest, whole) = text.finish()?;
        tell(rest);
        let end = if text.has_stopped() { End::Eos } else { end };
        _ = reply.send(Event::End(Ended { end, tokens: text.tokens(), text: whole }));
        open.remove(&id);
    }
    Ok(())
}

/// Whether a request that was taken from the queue is still to be computed; else it gets its error.
fn goes_on(job: &Job) -> bool {
    if !job.is_wanted() {
        return false;
    }
    let late = job.deadline <= Instant::now();
    if let (true, Work::Generate(generate)) = (late, &job.work) {
        _ = generate.reply.send(Event::Failed(Failure::late()));
    }
    !late
}

/// Converts a job of this kind of model; others are refused before they are in the queue.
fn opened(job: Job, id: u64, tokenizer: &Tokenizer) -> Option<(Start, Open<'_>)> {
    let Job { work, deadline } = job;
    let Work::Generate(Generate { start, stops, reply }) = work else { return None };
    let length = longest(&start);
    Some((Start { id, ..start }, Open { text: Detokenizer::new(tokenizer, stops), length, deadline, reply }))
}

/// Whether a request can join these texts.
fn fits(open: &BTreeMap<u64, Open>, job: &Job, max_tokens: usize) -> bool {
    let Work::Generate(Generate { start, .. }) = &job.work else { return true };
    let width = open.values().map(|text| text.length).fold(longest(start), usize::max);
    open.is_empty() || width.saturating_mul(open.len() + 1) <= max_tokens
}

/// Returns the maximum number of tokens of a prompt and its text.
fn longest(start: &Start) -> usize {
    start.prompt.len().saturating_add(start.max_new)
}

impl Open<'_> {
    /// Whether somebody waits for more; a text past its deadline gets an error.
    fn is_wanted(&self) -> bool {
        if self.deadline <= Instant::now() {
            self.tell(Event::Failed(Failure::late()));
            return false;
        }
        !self.reply.is_closed()
    }

    fn tell(&self, event: Event) {
        // Nobody may wait any more.
        _ = self.reply.send(event);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Error;
    use crate::serve::metrics::Metrics;
    use crate::serve::queue::queue;
    use crate::text::tokenizer::tests::folder;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;
    use tokio::sync::mpsc::UnboundedReceiver;

    /// Texts that repeat their prompts. Counts who takes part in each step.
    #[derive(Default)]
    pub struct Echo {
        open: Vec<(Start, usize)>,
        steps: Vec<Vec<u64>>,
        fails_at: Option<usize>,
        after: Option<Box<dyn FnMut(usize)>>,
    }

    impl Echo {
        /// Calls `after` with the number of each step at its end.
        pub fn watched(after: impl FnMut(usize) + 'static) -> Self {
            Echo { after: Some(Box::new(after)), ..Echo::default() }
        }
    }

    impl Texts for Echo {
        fn step(&mut self, new: Vec<Start>) -> Result<Vec<Next>> {
            self.open.extend(new.into_iter().map(|start| (start, 0)));
            self.steps.push(self.open.iter().map(|(start, _)| start.id).collect());
            if self.fails_at == Some(self.steps.len()) {
                self.open.clear();
                return Err(Error::new(Kind::OutOfMemory, "no room"));
            }
            let next = self.open.iter_mut().map(|(start, n)| {
                let token = start.prompt[*n % start.prompt.len()];
                *n += 1;
                Next { id: start.id, token, end: (*n == start.max_new).then_some(End::Length) }
            });
            let next = next.collect();
            self.open.retain(|(start, n)| *n < start.max_new);
            self.after.iter_mut().for_each(|after| after(self.steps.len()));
            Ok(next)
        }

        fn close(&mut self, id: u64) {
            self.open.retain(|(start, _)| start.id != id);
        }
    }

    /// A job with a prompt of letters.
    fn job(prompt: &str, max_new: usize, stops: &[&str]) -> (Job, UnboundedReceiver<Event>) {
        let (reply, events) = mpsc::unbounded_channel();
        // The vocabulary has a at 5, ##a at 6, and so on.
        let prompt = prompt.bytes().map(|letter| 5 + 2 * u32::from(letter - b'a')).collect();
        let start = Start { id: 0, prompt, sampling: None, seed: 0, min_new: 0, max_new };
        let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        (Job { work: Work::Generate(Generate { start, stops, reply }), deadline }, events)
    }

    fn run(jobs: Vec<Job>, max_tokens: usize, mut echo: Echo) -> (Vec<Vec<u64>>, Result<()>) {
        let (dir, metrics) = (folder(), Arc::new(Metrics::new().unwrap()));
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let (entrance, mut exit) = queue(jobs.len(), &metrics);
        jobs.into_iter().for_each(|job| entrance.reserve().unwrap().put(job));
        entrance.close();
        let ended = generate(&mut exit, max_tokens, &tokenizer, &mut echo);
        assert_eq!((metrics.queued.get(), metrics.running.get()), (0, 0));
        (echo.steps, ended)
    }

    /// The pieces of a text, and how it ended.
    fn told(mut events: UnboundedReceiver<Event>) -> (Vec<String>, Option<Event>) {
        let mut pieces = Vec::new();
        loop {
            match events.try_recv() {
                Ok(Event::Text(piece)) => pieces.push(piece),
                Ok(last) => return (pieces, Some(last)),
                Err(_) => return (pieces, None),
            }
        }
    }

    #[test]
    fn texts_join_and_leave_between_tokens() {
        // Room for two texts of four tokens with their prompts.
        let (jobs, events): (Vec<Job>, Vec<_>) =
            [job("ab", 2, &[]), job("c", 3, &[]), job("d", 1, &[]), job("efghij", 9, &[])].into_iter().unzip();
        let (steps, ended) = run(jobs, 8, Echo::default());
        ended.unwrap();
        // The third joins when the first has left; the last is too long to join others.
        assert_eq!(steps[..3], [vec![1, 2], vec![1, 2], vec![2, 3]]);
        assert_eq!(steps[3..], vec![vec![4]; 9]);
        let texts: Vec<_> = events.into_iter().map(told).collect();
        let ended =
            |n: usize, text: &str| Some(Event::End(Ended { end: End::Length, tokens: n, text: text.to_owned() }));
        assert_eq!(texts[0], (vec!["a".to_owned(), " b".to_owned()], ended(2, "a b")));
        assert_eq!(texts[1], (vec!["c".to_owned(), " c".to_owned(), " c".to_owned()], ended(3, "c c c")));
        assert_eq!((&texts[2].1, &texts[3].1), (&ended(1, "d"), &ended(9, "e f g h i j e f g")));
    }

    #[test]
    fn a_stop_sequence_ends_a_text_and_only_this_one() {
        let (jobs, events): (Vec<Job>, Vec<_>) = [job("abc", 9, &["b"]), job("abc", 4, &[])].into_iter().unzip();
        let (steps, ended) = run(jobs, 100, Echo::default());
        ended.unwrap();
        assert_eq!(steps, [vec![1, 2], vec![1, 2], vec![2], vec![2]]);
        let texts: Vec<_> = events.into_iter().map(told).collect();
        let stopped = Ended { end: End::Eos, tokens: 2, text: "a ".into() };
        assert_eq!(texts[0], (vec!["a".into(), " ".into()], Some(Event::End(stopped))));
        assert_eq!(texts[1].0.concat(), "a b c a");
    }

    #[test]
    fn who_has_left_does_not_take_part() {
        let (first, leaves) = job("a", 9, &[]);
        let (second, events) = job("b", 4, &[]);
        let mut leaves = Some(leaves);
        let after = move |_| drop(leaves.take());
        let (steps, ended) = run(vec![first, second], 100, Echo::watched(after));
        ended.unwrap();
        assert_eq!(steps, [vec![1, 2], vec![2], vec![2], vec![2]]);
        assert_eq!(told(events).0.concat(), "b b b b");
    }

    #[test]
    fn without_clients_no_text_counts_as_running() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (entrance, mut exit) = queue(1, &metrics);
        let (text, leaves) = job("a", 9, &[]);
        entrance.reserve().unwrap().put(text);
        let (step, stepped) = channel();
        let engine = thread::spawn(move || {
            let (dir, mut leaves) = (folder(), Some(leaves));
            let after = move |_| {
                drop(leaves.take());
                _ = step.send(());
            };
            generate(&mut exit, 100, &Tokenizer::from_folder(dir.path())?, &mut Echo::watched(after))
        });
        stepped.recv().unwrap();
        metrics.wait_for_idle();
        entrance.close();
        engine.join().unwrap().unwrap();
    }

    #[test]
    fn without_memory_the_batch_fails_and_the_next_one_runs() {
        let (jobs, mut events): (Vec<Job>, Vec<_>) =
            [job("a", 3, &[]), job("b", 3, &[]), job("c", 2, &[])].into_iter().unzip();
        let (steps, ended) = run(jobs, 8, Echo { fails_at: Some(2), ..Echo::default() });
        ended.unwrap();
        assert_eq!(steps, [vec![1, 2], vec![1, 2], vec![3], vec![3]]);
        assert_eq!(told(events.pop().unwrap()).0.concat(), "c c");
        for events in events {
            let Some(Event::Failed(failure)) = told(events).1 else { panic!("no failure") };
            assert_eq!((failure.status.as_u16(), failure.message.as_str()), (500, "no room"));
        }
    }
}
