//! The body of what hyper answers by itself. A request whose head it cannot read (a raw `<` in the path, a header with a
//! line break) gets an empty 400, 414 or 431 over HTTP/1.1 without anybody being asked, and it has no setting for that
//! answer; so it is completed on its way out. Over HTTP/2 such a request is a reset stream, as its rules want it
//! (RFC 9113, section 8.1.1).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::registry::ApiError;

/// Whether somebody else than hyper says such a thing.
#[derive(Debug, Clone, Default)]
pub(super) struct Ours(Arc<AtomicU8>);

const NOT_OURS: u8 = 0;
const NEXT: u8 = 1;
const ALL: u8 = 2;

impl Ours {
    /// The next answer is ours, whatever it says.
    pub(super) fn next(&self) {
        self.0.store(NEXT, Ordering::Relaxed);
    }

    /// The connection is no longer one of HTTP.
    pub(super) fn all(&self) {
        self.0.store(ALL, Ordering::Relaxed);
    }

    fn is_next(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NOT_OURS
    }

    /// The head of an answer was written.
    fn written(&self) {
        let _ = self
            .0
            .compare_exchange(NEXT, NOT_OURS, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Completed<S> {
    stream: S,
    ours: Ours,
    /// What is written in place of an answer, and how much of it is.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S: AsyncWrite + Unpin> Completed<S> {
    pub(super) fn new(stream: S, ours: Ours) -> Self {
        Self {
            stream,
            ours,
            instead: None,
        }
    }

    fn passed(&self, bytes: &[u8]) {
        if bytes.starts_with(VERSION) {
            self.ours.written();
        }
    }

    /// Writes the answer that stands for `length` bytes of hyper's.
    fn poll_instead(
        &mut self,
        context: &mut Context<'_>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        while let Some((bytes, done)) = &mut self.instead {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[*done..]))?;
            *done += written;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if *done == bytes.len() {
                self.instead = None;
            }
        }
        Poll::Ready(Ok(length))
    }
}

const VERSION: &[u8] = b"HTTP/1.1 ";

/// The same answer with a Status, if it is one of hyper's own: a whole head that announces no body.
fn completed(head: &[u8]) -> Option<Vec<u8>> {
    const STATUSES: &[(&str, &str, &str)] = &[
        (
            "400 Bad Request",
            "BadRequest",
            "the request's line or one of its headers cannot be read: in a URL, characters such as < and > are written \
             with a percent sign (%3C, %3E)",
        ),
        (
            "414 URI Too Long",
            "RequestURITooLong",
            "the URL is too long",
        ),
        (
            "431 Request Header Fields Too Large",
            "RequestHeaderFieldsTooLarge",
            "the headers are too large",
        ),
    ];
    let line = head.strip_prefix(VERSION)?;
    let (_, reason, message) = STATUSES
        .iter()
        .find(|(status, ..)| line.starts_with(status.as_bytes()))?;
    let text = std::str::from_utf8(head).ok()?;
    let headers = text.strip_suffix("\r\n\r\n")?;
    if headers.contains("\r\n\r\n") || !headers.contains("\r\ncontent-length: 0") {
        return None;
    }
    let code = line
        .get(..3)
        .and_then(|code| std::str::from_utf8(code).ok())?;
    let error = ApiError::new(code.parse().ok()?, reason, *message);
    let body = crate::api::respond::status_json(&error);
    let length = format!(
        "\r\ncontent-type: application/json\r\ncontent-length: {}",
        body.len()
    );
    let headers = headers.replacen("\r\ncontent-length: 0", &length, 1);
    Some([headers.as_bytes(), b"\r\n\r\n", &body].concat())
}

impl<S: AsyncRead + Unpin> AsyncRead for Completed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Completed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.instead.is_none() && !self.ours.is_next() {
            self.instead = completed(bytes).map(|bytes| (bytes, 0));
        }
        if self.instead.is_some() {
            return self.poll_instead(context, bytes.len());
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.passed(bytes);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        all: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match all {
            // Such an answer is one piece.
            [one] => self.poll_write(context, one),
            _ => {
                let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, all));
                self.passed(all.first().map_or(&[], |first| first));
                Poll::Ready(written)
            }
        }
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

    use super::*;

    #[test]
    fn only_empty_refusals_are_completed() {
        let date = "date: Thu, 01 Jan 2026 00:00:00 GMT";
        let head = |status: &str, length: u8| {
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{date}\r\n\r\n")
        };
        let answer = completed(head("400 Bad Request", 0).as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (headers, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(headers.contains(&format!("content-length: {}\r\n{date}", body.len())));
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&"Status".into(), &400.into())
        );
        for other in [
            head("200 OK", 0),
            head("404 Not Found", 0),
            head("400 Bad Request", 2) + "{}",
            head("400 Bad Request", 0) + &head("200 OK", 0),
        ] {
            assert_eq!(completed(other.as_bytes()), None, "{other}");
        }
    }
}
