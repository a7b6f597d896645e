//! The streams of a container itself. Its supervisor goes on writing its log, and shows what is written.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::sync::Mutex;

use super::{Input, Output, Source, Terminal, Wanted};
use crate::runtime::RuntimeError;
use crate::runtime::client;
use crate::supervisor::attachment::{CLOSE_INPUT, HEAD, MARK};
use crate::supervisor::console;
use crate::supervisor::protocol::{self, Answer, Attach, Call, Decoder, Message, Request, VERSION};

/// A supervisor that does nothing else answers at once.
const ANSWER: Duration = Duration::from_secs(10);
const PIECE: usize = 32 << 10;

/// A client of a container.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) input: Option<Input>,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) closer: Closer,
    stream: OwnedReadHalf,
    bytes: BytesMut,
}

/// Says that the client's input has ended.
#[derive(Debug, Clone)]
pub(crate) struct Closer {
    stream: Arc<Mutex<OwnedWriteHalf>>,
    /// The container's input ends with it; otherwise the client's part is over.
    pub(crate) ends_input: bool,
}

impl Closer {
    /// After the input itself is dropped.
    pub(crate) async fn close(&self) {
        // A supervisor that is gone has nobody's input.
        let _ = self.stream.lock().await.write_all(&[CLOSE_INPUT]).await;
    }
}

/// `wanted.tty` is not looked at: there is a terminal when the container has one.
pub(crate) async fn attach(dir: &Path, id: &str, wanted: Wanted) -> Result<Attached, RuntimeError> {
    let failed = |error| RuntimeError::io("attach to a container in", dir, error);
    let stream = match client::connect(dir).await {
        Ok(stream) => stream,
        Err(error) if client::nobody_listens(&error) => {
            return Err(RuntimeError::Gone(dir.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let greeting = tokio::time::timeout(ANSWER, greet(stream, id, wanted)).await;
    let (stream, bytes, answer, descriptor) = greeting
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    let (tty, once) = match answer {
        Answer::Attached { terminal, once } => (terminal, once),
        Answer::Failed(failure) => return Err(RuntimeError::from_failure(failure, dir, id)),
        other => {
            let text = format!("unexpected answer {other:?}");
            return Err(RuntimeError::supervisor(dir, text));
        }
    };
    let mut input = None;
    let mut terminal = None;
    match descriptor {
        Some(descriptor) if tty => {
            let opened = Terminal::new(descriptor).map_err(failed)?;
            if wanted.stdin {
                input = Some(Input::Terminal(opened.clone()));
            }
            terminal = Some(opened);
        }
        Some(descriptor) => input = Some(Input::Pipe(pipe_of(descriptor).map_err(failed)?)),
        None => {}
    }
    let (stream, writer) = stream.into_split();
    Ok(Attached {
        input,
        terminal,
        closer: Closer {
            stream: Arc::new(Mutex::new(writer)),
            ends_input: once && !tty,
        },
        stream,
        bytes,
    })
}

/// The supervisor's end of the pipe stays as it is: this is another opening of it, that does not block.
fn pipe_of(descriptor: OwnedFd) -> io::Result<pipe::Sender> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    pipe::OpenOptions::new().open_sender(path)
}

/// Asks; the connection, what has come of the output already, the answer, and a descriptor.
async fn greet(
    mut stream: UnixStream,
    id: &str,
    wanted: Wanted,
) -> io::Result<(UnixStream, BytesMut, Answer, Option<OwnedFd>)> {
    let request = Request {
        version: VERSION,
        id: 1,
        call: Call::Attach(Attach {
            id: id.to_owned(),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        }),
    };
    let frame = protocol::encode(&request).map_err(io::Error::other)?;
    stream.write_all(&frame).await?;
    let mut decoder = Decoder::default();
    let mut answer = None;
    let mut descriptor = None;
    loop {
        let mut buffer = [0; 4096];
        let (length, came) = stream
            .async_io(tokio::io::Interest::READABLE, || {
                console::receive(stream.as_raw_fd(), &mut buffer)
            })
            .await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        descriptor = descriptor.or(came);
        decoder.push(&buffer[..length]);
        if answer.is_none()
            && let Some(message) = decoder.take().map_err(io::Error::other)?
        {
            match message {
                Message::Answer { answer: it, .. } => answer = Some(it),
                Message::Changed { .. } => continue,
            }
        }
        match answer {
            Some(Answer::Attached { .. }) if decoder.rest().is_empty() => {}
            Some(answer) => {
                let mut rest = BytesMut::from(decoder.rest());
                if rest.first() == Some(&MARK) {
                    rest.advance(1);
                }
                return Ok((stream, rest, answer, descriptor));
            }
            None => {}
        }
    }
}

impl Attached {
    /// The end is the container's, or the supervisor's. Cancel-safe.
    pub(crate) async fn output(&mut self) -> Output {
        loop {
            if let Some((source, bytes)) = self.piece() {
                return Output::Bytes(source, bytes);
            }
            self.bytes.reserve(PIECE);
            if self.stream.readable().await.is_err() {
                return Output::End;
            }
            match self.stream.try_read_buf(&mut self.bytes) {
                Ok(0) => return Output::End,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Output::End,
            }
        }
    }

    fn piece(&mut self) -> Option<(Source, Bytes)> {
        let (head, rest) = self.bytes.split_first_chunk::<HEAD>()?;
        let [mark, a, b, c, d] = *head;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        if rest.len() < length {
            return None;
        }
        self.bytes.advance(HEAD);
        let source = match mark {
            1 => Source::Stdout,
            _ => Source::Stderr,
        };
        Some((source, self.bytes.split_to(length).freeze()))
    }
}
