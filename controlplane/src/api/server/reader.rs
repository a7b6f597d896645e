//! A connection whose other side has to read. What is written to somebody who takes nothing waits for ever
//! otherwise, and the connection with it.
//!
//! Only time without any progress counts: who reads slowly gets all of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// For an answer that somebody waits for. Tests do not wait that long.
const SHORT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// For what goes on as long as somebody wants it to: a terminal may have been stopped.
const LONG: Duration = Duration::from_secs(15 * 60);

/// How long nothing may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Others see to it: HTTP/2 by its pings, and what a connection was upgraded to by itself.
    None,
    Short,
    Long,
}

/// The limit in force, which each request sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits(Arc<AtomicU8>);

impl Limits {
    pub(super) fn set(&self, limit: Limit) {
        let number = match limit {
            Limit::None => 0,
            Limit::Short => 1,
            Limit::Long => 2,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(SHORT),
            _ => Some(LONG),
        }
    }
}

#[derive(Debug)]
pub(super) struct Reader<S> {
    stream: S,
    limits: Limits,
    /// While nothing is taken.
    ends: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Reader<S> {
    pub(super) fn new(stream: S, limits: Limits) -> Self {
        Self {
            stream,
            limits,
            ends: None,
        }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let done = write(Pin::new(&mut self.stream), context);
        if done.is_ready() {
            self.ends = None;
            return done;
        }
        let Some(limit) = self.limits.get() else {
            self.ends = None;
            return Poll::Pending;
        };
        let ends = self
            .ends
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(ends.as_mut().poll(context));
        self.ends = None;
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Reader<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        all: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |stream, context| {
            stream.poll_write_vectored(context, all)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bounded(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_who_takes_nothing_is_given_up() {
        let (mut client, server) = tokio::io::duplex(64);
        let limits = Limits::default();
        let mut server = Reader::new(server, limits.clone());
        limits.set(Limit::Short);
        let slow = async {
            let mut some = [0; 16];
            for _ in 0..16 {
                tokio::time::sleep(SHORT / 2).await;
                client.read_exact(&mut some).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 256]), slow);
        written.unwrap();
        let error = server.write_all(&[0; 256]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        limits.set(Limit::Long);
        let waits = tokio::time::timeout(SHORT * 2, server.write_all(&[0; 256])).await;
        assert!(waits.is_err());
        limits.set(Limit::None);
        let waits = tokio::time::timeout(LONG * 2, server.write_all(&[0; 256])).await;
        assert!(waits.is_err());
    }
}
