//! Connections: each answered by a task of its own, one query after the other, so that no client gets more than its
//! share. A query stays in the connection until its answer is written; so whoever has the connection next finds it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::answer::{Answerer, Step};
use super::super::custody::{Custody, Kept};
use super::super::questions::MAX_QUERY;
use super::read;
use super::shares::{Share, Shares};

/// Connections, in all and of one client.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_EACH: usize = 64;
/// A connection without a query is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Bytes that say how long a message is (RFC 1035, 4.2.2).
const PREFIX: usize = 2;

/// All connections of a server.
#[derive(Clone)]
pub(super) struct Streams {
    answerer: Arc<Answerer>,
    stop: CancellationToken,
    tasks: TaskTracker,
    shares: Shares,
    custody: Option<Custody>,
}

/// Why a connection is done with.
enum End {
    /// For good.
    Closed,
    /// The server stops: whoever comes next goes on, if somebody keeps it.
    Stopped,
}

impl Streams {
    pub(super) fn new(
        answerer: &Arc<Answerer>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
        custody: Option<Custody>,
    ) -> Self {
        Self {
            answerer: Arc::clone(answerer),
            stop: stop.clone(),
            tasks: tasks.clone(),
            shares: Shares::new(MAX_CONNECTIONS, MAX_CONNECTIONS_EACH),
            custody,
        }
    }

    pub(super) async fn serve(mut self, listener: AsyncFd<std::net::TcpListener>) {
        let stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, from, kept)) => {
                    // Closed at once otherwise: the client knows, and may come again.
                    let Some(share) = self.shares.take(from.ip()) else {
                        self.answerer.metrics.overloaded.inc();
                        continue;
                    };
                    self.begin(stream, from, share, kept);
                }
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    // Out of descriptors, mostly: the others need a moment to give some back.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// The next connection, from the keeper if there is one.
    async fn accept(
        &mut self,
        listener: &AsyncFd<std::net::TcpListener>,
    ) -> io::Result<(TcpStream, SocketAddr, Option<Kept>)> {
        loop {
            let mut ready = listener.readable().await?;
            let accepted = match self.custody.clone() {
                Some(custody) => {
                    let asked = tokio::task::spawn_blocking(move || custody.accept());
                    match asked.await.map_err(io::Error::other)? {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            tracing::warn!(%error, "connections are not kept over a restart: the keeper is gone");
                            self.custody = None;
                            continue;
                        }
                    }
                }
                None => match listener.get_ref().accept() {
                    Ok((stream, _)) => Some(stream),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                    Err(error) => return Err(error),
                },
            };
            let Some(stream) = accepted else {
                ready.clear_ready();
                continue;
            };
            let custody = self.custody.as_ref();
            let kept = custody.and_then(|custody| custody.kept(stream.as_fd()));
            stream.set_nonblocking(true)?;
            let from = stream.peer_addr()?;
            return Ok((TcpStream::from_std(stream)?, from, kept));
        }
    }

    /// Goes on with a connection of the server before.
    pub(super) fn resume(&self, stream: std::net::TcpStream) {
        let kept = self
            .custody
            .as_ref()
            .and_then(|custody| custody.kept(stream.as_fd()));
        let ready = stream
            .set_nonblocking(true)
            .and_then(|()| Ok((stream.peer_addr()?, TcpStream::from_std(stream)?)));
        match ready {
            Ok((from, stream)) => {
                if let Some(share) = self.shares.take(from.ip()) {
                    self.begin(stream, from, share, kept);
                }
            }
            // Its client is gone.
            Err(error) => tracing::debug!(%error, "a connection of the agent before"),
        }
    }

    fn begin(&self, stream: TcpStream, from: SocketAddr, share: Share, kept: Option<Kept>) {
        let (answerer, stop) = (Arc::clone(&self.answerer), self.stop.clone());
        self.tasks.spawn(async move {
            match (converse(&stream, from, &answerer, &stop).await, kept) {
                (Ok(End::Stopped), Some(kept)) => kept.leave(),
                (outcome, kept) => {
                    if let Err(error) = outcome {
                        tracing::debug!(%from, %error, "connection");
                    }
                    // Who keeps it may take a moment to let go.
                    let _ = shutdown(stream.as_raw_fd(), Shutdown::Both);
                    drop(kept);
                }
            }
            drop(share);
        });
    }
}

async fn converse(
    stream: &TcpStream,
    from: SocketAddr,
    answerer: &Arc<Answerer>,
    stop: &CancellationToken,
) -> io::Result<End> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; PREFIX + MAX_QUERY];
    loop {
        let prefix = tokio::select! {
            prefix = tokio::time::timeout(IDLE, look(stream, &mut buffer[..PREFIX])) => prefix,
            () = stop.cancelled() => return Ok(End::Stopped),
        };
        match prefix {
            Ok(Ok(true)) => {}
            // Closed by the client, or idle.
            Ok(Ok(false) | Err(_)) | Err(_) => return Ok(End::Closed),
        }
        let length = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        if length > MAX_QUERY {
            answerer.metrics.malformed.inc();
            return Ok(End::Closed);
        }
        let message = &mut buffer[..PREFIX + length];
        if !tokio::time::timeout(IDLE, look(stream, message)).await?? {
            return Ok(End::Closed);
        }
        let reply = match read(answerer, &message[PREFIX..], from, Protocol::Tcp) {
            Ok(Step::Done(reply)) | Err(reply) => reply,
            Ok(Step::Forward(question)) => answerer.finish(*question).await,
        };
        let Ok(length) = u16::try_from(reply.len()) else {
            return Ok(End::Closed);
        };
        if length == 0 {
            return Ok(End::Closed);
        }
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(reply);
        tokio::time::timeout(IDLE, write(stream, &framed)).await??;
        // It is all there: it was looked at.
        recv(stream.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT)?;
    }
}

/// Fills the buffer with what comes next, and leaves it there; false if the client says no more than a part of it.
async fn look(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<bool> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let looked = stream.try_io(Interest::READABLE, || {
            match recv(stream.as_raw_fd(), buffer, flags)? {
                length if length == buffer.len() => Ok(true),
                0 => Ok(false),
                _ if ready.is_read_closed() => Ok(false),
                // The rest is not there yet.
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
