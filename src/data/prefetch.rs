//! Items made on a thread of their own, a few ahead of their use.

use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Runs an iterator on a thread and hands its items over in order.
///
/// A plain thread rather than a task of the runtime: the work is short, steady and the same for the whole run.
/// A panic of the iterator comes out as an error. Dropping this stops the thread after the item in the making.
pub struct Prefetch<T> {
    // In this order: a producer waiting for room is only released by the receiver's end.
    items: Option<Receiver<Result<T>>>,
    producer: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts making items, at most `depth` of them waiting (and one more in the making).
    ///
    /// # Errors
    /// The system gives no thread.
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

    /// The next item; `None` after the last, an error once if the iterator panicked.
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
            // Nobody is left to tell of a panic.
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
        // One taken, three waiting, one in the making, one that found nobody to take it.
        assert!(made.load(Ordering::SeqCst) <= 6);
        assert_eq!(Arc::strong_count(&made), 1, "the producer is gone");
    }
}
