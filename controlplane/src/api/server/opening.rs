//! A connection whose other side has to begin. Which version of HTTP it speaks is known from its first bytes, and the
//! library waits for them for ever; from then on each version has limits of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
pub(super) struct Opening<S> {
    stream: S,
    /// Until it is known what is spoken.
    ends: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface that have come.
    begun: usize,
}

impl<S> Opening<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            ends: Some(Box::pin(tokio::time::sleep(patience))),
            begun: 0,
        }
    }

    fn came(&mut self, bytes: &[u8]) {
        let rest = &PREFACE[self.begun..];
        self.begun += bytes.len();
        if bytes.is_empty() || !rest.starts_with(bytes) || bytes.len() == rest.len() {
            self.ends = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(ends) = &mut self.ends else {
            return read;
        };
        if read.is_ready() {
            self.came(&buffer.filled()[before..]);
            return read;
        }
        ready!(ends.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client says nothing",
        )))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        all: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// What a server sees of a client that says this and then waits for twice as long as it may.
    async fn seen(said: &[u8]) -> Option<io::ErrorKind> {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Opening::new(server, PATIENCE);
        client.write_all(said).await.unwrap();
        let mut all = Vec::new();
        let read = tokio::time::timeout(PATIENCE * 2, server.read_to_end(&mut all)).await;
        assert_eq!(all, said);
        read.ok().map(|read| read.unwrap_err().kind())
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_begin_is_given_up() {
        assert_eq!(seen(b"").await, Some(io::ErrorKind::TimedOut));
        assert_eq!(seen(b"PRI * HT").await, Some(io::ErrorKind::TimedOut));
        // From here on it is for others to say how long is too long.
        for begun in [PREFACE, b"G", b"PRI * HTTP/1"] {
            assert_eq!(seen(begun).await, None);
        }
    }
}
