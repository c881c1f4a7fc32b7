//! Makes items on another thread, a few ahead of their use.

use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Runs an iterator on a thread and returns its items in order.
///
/// A thread instead of an async task: the work is short, steady and the same for the whole run. A panic of the iterator
/// becomes an error. Dropping this stops the thread after the current item.
pub struct Prefetch<T> {
    // Dropped in this order: a blocked producer is released only when the receiver is dropped.
    items: Option<Receiver<Result<T>>>,
    producer: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts the thread; at most `depth` items wait, and one more is being made.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn new(depth: usize, iterator: impl Iterator<Item = Result<T>> + Send + 'static) -> Result<Self> {
        let (sender, items) = sync_channel(depth);
        let make = move || {
            for item in iterator {
                if sender.send(item).is_err() {
                    break;
                }
            }
        };
        let producer = std::thread::Builder::new()
            .name("prefetch".into())
            .spawn(make)
            .map_err(|e| Error::other(format!("no thread for preparing batches: {e}")))?;
        Ok(Prefetch { items: Some(items), producer: Some(producer) })
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    /// Returns the next item; `None` after the last, and one error if the iterator panicked.
    fn next(&mut self) -> Option<Result<T>> {
        if let Some(item) = self.items.as_ref().and_then(|items| items.recv().ok()) {
            return Some(item);
        }
        self.items = None;
        let panic = self.producer.take()?.join().err()?;
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Some(Err(Error::other(format!("preparing batches panicked: {text}"))))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.items = None;
        if let Some(producer) = self.producer.take() {
            // The receiver is gone: nobody needs the panic's message.
            let _ = producer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn items_come_in_order_and_end() {
        for depth in [0, 1, 5] {
            let mut items = Prefetch::new(depth, (0..20).map(Ok)).unwrap();
            let all: Vec<i32> = items.by_ref().map(Result::unwrap).collect();
            assert_eq!(all, (0..20).collect::<Vec<_>>());
            assert!(items.next().is_none());
        }
    }

    #[test]
    fn errors_and_panics_come_out() {
        let mut items = Prefetch::new(2, (0..3).map(|i| if i < 2 { Ok(i) } else { panic!("item {i} broke") })).unwrap();
        assert_eq!((items.next().unwrap().unwrap(), items.next().unwrap().unwrap()), (0, 1));
        assert!(items.next().unwrap().unwrap_err().to_string().contains("panicked: item 2 broke"));
        assert!(items.next().is_none());
        let mut items = Prefetch::<u8>::new(2, std::iter::once(Err(Error::input("bad")))).unwrap();
        assert_eq!(items.next().unwrap().unwrap_err().to_string(), "bad");
        assert!(items.next().is_none());
    }

    #[test]
    fn dropping_stops_the_producer() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let endless = (0_u64..).inspect(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let mut items = Prefetch::new(3, endless.map(Ok)).unwrap();
        assert_eq!(items.next().unwrap().unwrap(), 0);
        drop(items);
        // One taken, three waiting, one being made, one that could not be delivered.
        assert!(made.load(Ordering::SeqCst) <= 6);
        assert_eq!(Arc::strong_count(&made), 1, "the producer is gone");
    }
}
