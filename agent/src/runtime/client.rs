//! The agent's side of a supervisor's socket: one task per pod that writes requests, hands out answers and
//! counts changes. It reconnects when the supervisor has dropped it, and notices when the supervisor is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::RuntimeError;
use crate::supervisor::protocol::{self, Answer, Call, Decoder, Message, Request, SOCKET, VERSION};

/// Longer than everything that a supervisor may do for one request: two runs of runc.
const ANSWER: Duration = Duration::from_secs(65);
/// A supervisor that does nothing else answers at once.
const HELLO: Duration = Duration::from_secs(10);

type Waiter = oneshot::Sender<Answer>;

/// Handle on the task; the task ends with the last handle.
#[derive(Debug, Clone)]
pub(super) struct Client {
    dir: PathBuf,
    /// Process id of the supervisor.
    pub(super) pid: u32,
    /// Of the process that keeps the pod's process id namespace, if it has one.
    pub(super) init: Option<u32>,
    calls: mpsc::Sender<(Call, Waiter)>,
    changes: watch::Receiver<u64>,
}

impl Client {
    /// `None` when nobody listens.
    pub(super) async fn connect(dir: &Path) -> Result<Option<Self>, RuntimeError> {
        let failed = |error| RuntimeError::io("connect to supervisor in", dir, error);
        let Some(link) = Link::open(dir).await.map_err(failed)? else {
            return Ok(None);
        };
        let (pid, init) = (link.peer, link.init);
        let (calls, requests) = mpsc::channel(64);
        let (counter, changes) = watch::channel(0);
        let task = Task {
            dir: dir.to_owned(),
            requests,
            counter,
            waiting: HashMap::new(),
            next_id: 0,
        };
        tokio::spawn(task.run(link));
        let client = Self {
            dir: dir.to_owned(),
            pid,
            init,
            calls,
            changes,
        };
        Ok(Some(client))
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub(super) async fn call(
        &self,
        name: &'static str,
        call: Call,
    ) -> Result<Answer, RuntimeError> {
        self.call_within(ANSWER, name, call).await
    }

    pub(super) async fn call_within(
        &self,
        limit: Duration,
        name: &'static str,
        call: Call,
    ) -> Result<Answer, RuntimeError> {
        let gone = || RuntimeError::Gone(self.dir.clone());
        let (waiter, answer) = oneshot::channel();
        let exchange = async {
            let sent = self.calls.send((call, waiter)).await;
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| match self.calls.is_closed() {
                true => gone(),
                false => RuntimeError::supervisor(&self.dir, "connection lost".to_owned()),
            })
        };
        let late = |_| RuntimeError::Timeout {
            dir: self.dir.clone(),
            call: name,
            after: limit,
        };
        tokio::time::timeout(limit, exchange).await.map_err(late)?
    }
}

/// An open connection that has been greeted.
pub(super) struct Link {
    stream: UnixStream,
    decoder: Decoder,
    peer: u32,
    init: Option<u32>,
}

impl Link {
    pub(super) async fn open(dir: &Path) -> io::Result<Option<Self>> {
        let stream = match connect(dir).await {
            Ok(stream) => stream,
            Err(error) if nobody_listens(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let pid = stream.peer_cred()?.pid();
        let peer = pid.and_then(|pid| u32::try_from(pid).ok());
        let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
        let mut link = Self {
            stream,
            decoder: Decoder::default(),
            peer,
            init: None,
        };
        match tokio::time::timeout(HELLO, link.greet()).await {
            Ok(Ok(())) => Ok(Some(link)),
            // It ended while it was greeted.
            Ok(Err(error)) if ended(&error) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn greet(&mut self) -> io::Result<()> {
        self.send(0, Call::Hello).await?;
        match self.receive().await? {
            Message::Answer {
                answer: Answer::Hello { init, .. },
                ..
            } => {
                self.init = init;
                Ok(())
            }
            other => Err(io::Error::other(format!("unexpected greeting {other:?}"))),
        }
    }

    pub(super) async fn send(&mut self, id: u64, call: Call) -> io::Result<()> {
        let request = Request {
            version: VERSION,
            id,
            call,
        };
        let frame = protocol::encode(&request).map_err(io::Error::other)?;
        self.stream.write_all(&frame).await
    }

    /// The answer to one request; `None` is something else.
    pub(super) async fn answer(&mut self, wanted: u64) -> io::Result<Option<Answer>> {
        match self.receive().await? {
            Message::Answer { id, answer } if id == wanted => Ok(Some(answer)),
            _ => Ok(None),
        }
    }

    /// Cancel-safe: what has been read is kept.
    async fn receive(&mut self) -> io::Result<Message> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.take().map_err(io::Error::other)? {
                return Ok(message);
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }
}

fn ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Also when a supervisor ends just as it is connected to.
pub(super) fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// By way of the directory's descriptor, since a socket's path must fit in 107 bytes.
pub(super) async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let directory = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    UnixStream::connect(path).await
}

struct Task {
    dir: PathBuf,
    requests: mpsc::Receiver<(Call, Waiter)>,
    counter: watch::Sender<u64>,
    waiting: HashMap<u64, Waiter>,
    next_id: u64,
}

impl Task {
    async fn run(mut self, mut link: Link) {
        let supervisor = link.peer;
        loop {
            let lost = match self.serve(&mut link).await {
                Ok(()) => return,
                Err(error) => error,
            };
            // Those who wait learn that their answer is lost; they look at the states and try again.
            self.waiting.clear();
            match Link::open(&self.dir).await {
                Ok(Some(new)) if new.peer == supervisor => link = new,
                result => {
                    let dir = self.dir.display();
                    tracing::debug!(%dir, %lost, gone = result.is_ok(), "supervisor lost");
                    self.changed();
                    return;
                }
            }
            self.changed();
        }
    }

    /// Until the last handle is dropped, or the connection is lost.
    async fn serve(&mut self, link: &mut Link) -> io::Result<()> {
        loop {
            tokio::select! {
                message = link.receive() => self.message(message?),
                request = self.requests.recv() => match request {
                    Some((call, waiter)) => self.request(link, call, waiter).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn request(&mut self, link: &mut Link, call: Call, waiter: Waiter) -> io::Result<()> {
        self.next_id += 1;
        self.waiting.retain(|_, waiter| !waiter.is_closed());
        self.waiting.insert(self.next_id, waiter);
        link.send(self.next_id, call).await
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Answer { id, answer } => {
                if let Some(waiter) = self.waiting.remove(&id) {
                    // Whoever does not wait any more does not need it.
                    let _ = waiter.send(answer);
                }
            }
            Message::Changed { .. } => self.changed(),
        }
    }

    fn changed(&self) {
        self.counter.send_modify(|counter| *counter += 1);
    }
}
