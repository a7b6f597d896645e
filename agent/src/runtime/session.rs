//! Somebody at a container's streams: a command of their own (`session/exec`), or the container itself
//! (`session/attach`). Bytes go between the agent and the processes; the supervisor passes descriptors on.
//!
//! A session ends with its value: a command is killed then, a container goes on.

mod attach;
mod exec;
mod terminal;

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

pub(crate) use attach::{Closer, attach};
pub(crate) use exec::exec;
pub(crate) use terminal::Terminal;

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    /// With which a command's terminal begins: columns and rows.
    pub(crate) size: Option<(u16, u16)>,
}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// What comes of waiting for output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Bytes(Source, Bytes),
    /// Nothing more comes.
    End,
}

/// Where input goes.
#[derive(Debug)]
pub(crate) enum Input {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

impl Input {
    /// Waits while nobody reads it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write_all(bytes).await,
        }
    }
}
