//! Connections whose clients must read what they asked for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream whose writes fail once they have waited for some time. Time without anything to write does not count. Linux
/// ends the wait when about a third of the send buffer is free, not with the first byte that is read.
pub struct ReadingClient<S> {
    stream: S,
    limit: Duration,
    /// Set while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> ReadingClient<S> {
    /// `limit` is the maximum time that a write waits.
    pub fn new(stream: S, limit: Duration) -> Self {
        ReadingClient { stream, limit, waits: None }
    }

    /// Returns the result of a write, or an error if it waits too long.
    fn in_time(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let limit = self.limit;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadingClient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadingClient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.in_time(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Instant;
    use tokio::runtime::Builder;

    /// A stream with room for so many bytes, which never gets more by itself.
    struct Room(usize);

    impl AsyncWrite for Room {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 { Poll::Pending } else { Poll::Ready(Ok(n)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn only_a_write_that_waits_has_a_limit() {
        const LIMIT: Duration = Duration::from_millis(40);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut client = ReadingClient::new(Room(3), LIMIT);
            assert_eq!(poll_fn(|cx| Pin::new(&mut client).poll_write(cx, b"abcd")).await.unwrap(), 3);
            // Nothing is to be written: the model computes.
            sleep(2 * LIMIT).await;
            let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, b"d").is_pending())).await;
            assert!(waits && client.waits.is_some());
            // A client that reads slowly has the time for each byte.
            client.stream.0 = 1;
            assert_eq!(poll_fn(|cx| Pin::new(&mut client).poll_write(cx, b"d")).await.unwrap(), 1);
            assert!(client.waits.is_none());
            let began = Instant::now();
            let late = poll_fn(|cx| Pin::new(&mut client).poll_write(cx, b"e")).await.unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
        });
    }
}
