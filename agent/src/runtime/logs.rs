//! Reading a container's log, for `kubectl logs`: the lines of its rotated files and the current one, from
//! where they are asked for, on and on while the container runs.
//!
//! `record` parses (pure), `reader` follows the files, `watch` waits for them to change; writing them is the
//! supervisor's part.

mod reader;
mod record;
mod tail;
mod watch;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{mpsc, watch as signal};

use reader::{Progress, Reader};
pub(crate) use tail::tail;

/// Chunks that wait for a slow client.
const AHEAD: usize = 2;

#[derive(Debug, Clone, Default)]
pub(crate) struct LogOptions {
    /// Goes on until the container has ended.
    pub(crate) follow: bool,
    /// Only the last lines of what is there.
    pub(crate) tail_lines: Option<u64>,
    /// Nothing written before.
    pub(crate) since: Option<SystemTime>,
    /// The time before each line.
    pub(crate) timestamps: bool,
    /// Only what was written to the standard error, or only what was not.
    pub(crate) stderr: Option<bool>,
    /// At most so many bytes.
    pub(crate) limit_bytes: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("log {}: {source}", path.display())]
pub(crate) struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// A log as a stream of bytes. Dropping it ends the reading.
#[derive(Debug)]
pub(crate) struct LogStream {
    chunks: mpsc::Receiver<Result<Bytes, LogError>>,
}

impl LogStream {
    /// `ended` becomes true (or is dropped) when nothing more will be written.
    pub(crate) async fn open(
        path: &Path,
        options: LogOptions,
        ended: signal::Receiver<bool>,
    ) -> Result<Self, LogError> {
        let at = path.to_owned();
        let follow = options.follow;
        // Watching begins before reading, so that no change is missed between.
        let opening = blocking(move || {
            let changes = match at.parent() {
                Some(dir) if options.follow => Some(watch::Watch::new(dir)?),
                _ => None,
            };
            Ok((Reader::open(&at, &options)?, changes))
        });
        let failed = |source| LogError {
            path: path.to_owned(),
            source,
        };
        let (reader, changes) = opening.await.map_err(failed)?;
        let changes = changes.map(watch::Watch::register).transpose();
        let changes = changes.map_err(failed)?;
        let (sender, chunks) = mpsc::channel(AHEAD);
        let task = Task {
            sender,
            changes: changes.filter(|_| follow),
            ended,
        };
        let path = path.to_owned();
        tokio::spawn(async move {
            let sender = task.sender.clone();
            if let Err(source) = task.run(reader).await {
                // Nobody is left to be told when this fails.
                let _ = sender.send(Err(LogError { path, source })).await;
            }
        });
        Ok(Self { chunks })
    }

    /// `None` at the end. Cancel-safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LogError> {
        self.chunks.recv().await.transpose()
    }
}

struct Task {
    sender: mpsc::Sender<Result<Bytes, LogError>>,
    /// Only when following.
    changes: Option<watch::Changes>,
    ended: signal::Receiver<bool>,
}

impl Task {
    async fn run(mut self, mut reader: Reader) -> io::Result<()> {
        loop {
            if let Some(changes) = &mut self.changes {
                changes.drain();
            }
            // What is read after the end was seen is all there will ever be.
            let ended = *self.ended.borrow_and_update() || self.ended.has_changed().is_err();
            loop {
                let (next, progress) = blocking(move || {
                    let progress = reader.read()?;
                    Ok((reader, progress))
                })
                .await?;
                reader = next;
                match progress {
                    Progress::Chunk(chunk) => {
                        if self.sender.send(Ok(chunk.into())).await.is_err() {
                            return Ok(());
                        }
                    }
                    Progress::UpToDate => break,
                    Progress::Finished => return Ok(()),
                }
            }
            let Some(changes) = self.changes.as_mut().filter(|_| !ended) else {
                return Ok(());
            };
            tokio::select! {
                changed = changes.changed() => changed?,
                // Also when the sender is dropped.
                _ = self.ended.changed() => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
