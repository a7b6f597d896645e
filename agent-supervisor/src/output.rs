//! From a container's output pipes to its log: bytes become lines, lines become records.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use super::logfile::{self, LogFile, Stream};

/// Longest text of a record; longer lines are several pieces.
pub(crate) const MAX_TEXT: usize = 16 << 10;

/// How much is taken from one pipe before others get their turn.
const TURN: usize = 16;

/// Divides a stream of bytes into lines. Holds at most [`MAX_TEXT`] bytes.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Calls `emit(ends_line, text)` for each line, and for each piece of a line that is too long.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut emit: impl FnMut(bool, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = MAX_TEXT - self.rest.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                if self.rest.is_empty() {
                    emit(true, &bytes[..end])?;
                } else {
                    self.rest.extend_from_slice(&bytes[..end]);
                    emit(true, &self.rest)?;
                    self.rest = Vec::new();
                }
                bytes = &bytes[end + 1..];
            } else {
                let (piece, after) = bytes.split_at(bytes.len().min(room));
                self.rest.extend_from_slice(piece);
                bytes = after;
                if !bytes.is_empty() {
                    emit(false, &self.rest)?;
                    self.rest.clear();
                }
            }
        }
        Ok(())
    }

    /// The stream has ended: what is left is a piece that no line end follows.
    pub(crate) fn finish(
        &mut self,
        mut emit: impl FnMut(bool, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return Ok(());
        }
        emit(false, &rest)
    }
}

#[derive(Debug)]
struct Source {
    stream: Stream,
    pipe: File,
    lines: Lines,
}

/// Both output pipes of one container and the log that they go to.
#[derive(Debug)]
pub(crate) struct Output {
    sources: Vec<Source>,
    log: LogFile,
    /// The log cannot be written at present; said once.
    failing: bool,
    /// For who attaches; the source has another descriptor of it.
    terminal: Option<OwnedFd>,
}

impl Output {
    /// The pipes must not block.
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd, log: LogFile) -> Self {
        let source = |stream, pipe: OwnedFd| Source {
            stream,
            pipe: File::from(pipe),
            lines: Lines::default(),
        };
        Self {
            sources: vec![
                source(Stream::Stdout, stdout),
                source(Stream::Stderr, stderr),
            ],
            log,
            failing: false,
            terminal: None,
        }
    }

    /// Both streams come through the terminal from now on.
    pub(crate) fn use_terminal(&mut self, terminal: OwnedFd) {
        // Without it nobody can attach; the container does without.
        self.terminal = terminal.try_clone().ok();
        self.sources = vec![Source {
            stream: Stream::Stdout,
            pipe: File::from(terminal),
            lines: Lines::default(),
        }];
    }

    /// The pipes that are still open, for waiting on.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources.iter().map(|source| source.pipe.as_fd())
    }

    /// The terminal, if that is where the output comes from and it is still open.
    pub(crate) fn terminal(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref()
    }

    /// Copies what is there, up to a bound; `true` when a pipe may hold more. What the log cannot take
    /// (a full disk) is lost: the container goes on. `show` gets it too, and says whether it can take more.
    pub(crate) fn copy(
        &mut self,
        buffer: &mut [u8],
        show: &mut dyn FnMut(Stream, &[u8]) -> bool,
    ) -> bool {
        let Self {
            sources,
            log,
            failing,
            ..
        } = self;
        let mut held_up = !show(Stream::Stdout, &[]);
        let mut report = |result| report(result, failing);
        let mut more = false;
        sources.retain_mut(|source| {
            for _ in 0..TURN {
                if held_up {
                    return true;
                }
                match source.pipe.read(buffer) {
                    Ok(0) => {
                        report(source.end(log));
                        return false;
                    }
                    Ok(length) => {
                        report(source.copy(log, &buffer[..length]));
                        held_up = !show(source.stream, &buffer[..length]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                    // A terminal that nobody has open any more.
                    Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                        report(source.end(log));
                        return false;
                    }
                    Err(error) => {
                        report(Err(error));
                        return false;
                    }
                }
            }
            more = true;
            true
        });
        more && !held_up
    }

    /// What the pipes hold now, as text: the words of a runc that failed.
    pub(crate) fn into_text(mut self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        for source in &mut self.sources {
            if let Ok(length) = source.pipe.read(&mut buffer) {
                text.extend_from_slice(&buffer[..length]);
            }
        }
        text
    }

    /// Writes what is left of unfinished lines; nothing more is read.
    pub(crate) fn finish(mut self) {
        for mut source in std::mem::take(&mut self.sources) {
            report(source.end(&mut self.log), &mut self.failing);
        }
    }
}

impl Source {
    fn copy(&mut self, log: &mut LogFile, bytes: &[u8]) -> io::Result<()> {
        let now = SystemTime::now();
        let time = logfile::format_time(now);
        let stream = self.stream;
        self.lines.push(bytes, |ends_line, text| {
            log.record(now, &time, stream, ends_line, text)
        })?;
        log.flush()
    }

    fn end(&mut self, log: &mut LogFile) -> io::Result<()> {
        let now = SystemTime::now();
        let time = logfile::format_time(now);
        let stream = self.stream;
        self.lines
            .finish(|ends_line, text| log.record(now, &time, stream, ends_line, text))?;
        log.flush()
    }
}

fn report(result: io::Result<()>, failing: &mut bool) {
    match result {
        Err(error) if !*failing => {
            *failing = true;
            eprintln!("log: {error}");
        }
        Err(_) => {}
        Ok(()) => *failing = false,
    }
}
