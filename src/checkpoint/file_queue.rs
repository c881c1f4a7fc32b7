//! Work on files, in order: at once, or on a thread from copies while training goes on.

use crate::error::{Context, Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

/// A part of the work. It holds what it writes.
pub type Work = Box<dyn FnOnce() -> Result<()> + Send>;

/// A queue of work on files. After the first error the rest is dropped without running.
#[derive(Debug)]
pub enum FileQueue {
    /// Work runs when it is queued.
    Direct(Result<()>),
    Background(Background),
}

/// The queue of a thread.
#[derive(Debug)]
pub struct Background {
    sender: Option<mpsc::Sender<(u64, Work)>>,
    thread: JoinHandle<Result<()>>,
    /// Bytes that queued work holds.
    held: Arc<(Mutex<u64>, Condvar)>,
    /// The maximum of `held`, except that one piece of work may always wait.
    limit: u64,
}

impl FileQueue {
    /// Returns a queue whose work runs when it is queued.
    pub fn direct() -> Self {
        FileQueue::Direct(Ok(()))
    }

    /// Starts a thread for which at most `limit` bytes wait.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn background(limit: u64) -> Result<Self> {
        let (sender, receiver) = mpsc::channel::<(u64, Work)>();
        let held = Arc::new((Mutex::new(0), Condvar::new()));
        let freed = Arc::clone(&held);
        let run = move || {
            let mut result = Ok(());
            for (bytes, work) in receiver {
                // Dropping the work frees its copies.
                result = result.and_then(|()| work());
                *lock(&freed.0) -= bytes;
                freed.1.notify_all();
            }
            result
        };
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(run);
        let thread = thread.context("starting the thread that writes checkpoints")?;
        Ok(FileQueue::Background(Background { sender: Some(sender), thread, held, limit }))
    }

    /// Whether work runs after [`FileQueue::push`] returns, and must not refer to weights that training changes.
    pub fn is_background(&self) -> bool {
        matches!(self, FileQueue::Background(_))
    }

    /// Waits until work that holds this many bytes may be queued.
    pub fn wait_for_room(&self, bytes: u64) {
        let FileQueue::Background(Background { held, limit, .. }) = self else { return };
        let full = |held: &mut u64| *held > 0 && *held + bytes > *limit;
        drop(held.1.wait_while(lock(&held.0), full).unwrap_or_else(PoisonError::into_inner));
    }

    /// Queues work that holds this many bytes until it has run.
    pub fn push(&mut self, bytes: u64, work: impl FnOnce() -> Result<()> + Send + 'static) {
        match self {
            FileQueue::Direct(result) => *result = std::mem::replace(result, Ok(())).and_then(|()| work()),
            FileQueue::Background(Background { sender, held, .. }) => {
                *lock(&held.0) += bytes;
                // If the thread has panicked, `join` tells.
                _ = sender.as_ref().map(|sender| sender.send((bytes, Box::new(work))));
            }
        }
    }

    /// Says that no more work follows.
    pub fn close(&mut self) {
        if let FileQueue::Background(background) = self {
            background.sender = None;
        }
    }

    /// Whether all work has run, so that [`FileQueue::join`] returns at once.
    pub fn is_finished(&self) -> bool {
        match self {
            FileQueue::Direct(_) => true,
            FileQueue::Background(background) => background.thread.is_finished(),
        }
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// The first error of the work.
    pub fn join(mut self) -> Result<()> {
        self.close();
        match self {
            FileQueue::Direct(result) => result,
            FileQueue::Background(background) => background
                .thread
                .join()
                .unwrap_or_else(|_| Err(Error::other("the thread that writes checkpoints panicked"))),
        }
    }
}

fn lock(held: &Mutex<u64>) -> MutexGuard<'_, u64> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::Duration;

    /// Work that waits until it is allowed to run.
    fn gate() -> (mpsc::Sender<()>, impl FnOnce() -> Result<()> + Send) {
        let (open, wait) = mpsc::channel();
        (open, move || wait.recv().map_err(|e| Error::other(e.to_string())))
    }

    #[test]
    fn work_runs_in_order_while_its_owner_goes_on() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let note = |i: usize| {
            let log = Arc::clone(&log);
            move || -> Result<()> {
                log.lock().unwrap().push(i);
                Ok(())
            }
        };
        let mut queue = FileQueue::background(100).unwrap();
        let (open, closed) = gate();
        queue.push(0, closed);
        (0..3).for_each(|i| queue.push(10, note(i)));
        assert!(log.lock().unwrap().is_empty() && !queue.is_finished() && queue.is_background());
        open.send(()).unwrap();
        queue.join().unwrap();
        assert_eq!(*log.lock().unwrap(), [0, 1, 2]);
        let mut direct = FileQueue::direct();
        direct.push(10, note(3));
        assert_eq!(log.lock().unwrap().len(), 4);
        assert!(direct.is_finished() && !direct.is_background() && direct.join().is_ok());
    }

    #[test]
    fn bytes_beyond_the_limit_wait() {
        let mut queue = FileQueue::background(100).unwrap();
        let (open, closed) = gate();
        queue.wait_for_room(1000);
        queue.push(60, closed);
        queue.wait_for_room(40);
        queue.push(40, || Ok(()));
        let passed = Arc::new(AtomicU64::new(0));
        thread::scope(|scope| {
            let (queue, passed) = (&queue, Arc::clone(&passed));
            let waiting = scope.spawn(move || {
                queue.wait_for_room(1);
                passed.store(1, SeqCst);
            });
            thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            open.send(()).unwrap();
        });
        assert_eq!(passed.load(SeqCst), 1);
        queue.join().unwrap();
    }

    #[test]
    fn the_first_error_ends_the_work() {
        for mut queue in [FileQueue::direct(), FileQueue::background(100).unwrap()] {
            queue.push(1, || Err(Error::other("no space left")));
            queue.push(1, || panic!("runs after an error"));
            queue.close();
            assert_eq!(queue.join().unwrap_err().to_string(), "no space left");
        }
    }
}
