//! A session on a socket: one task reads and writes, streams are channels to it.
//!
//! Memory: what waits for a slow reader of a stream is bounded per stream and per session; beyond it the socket
//! is not read. What waits to be written is bounded by the channel and by one piece of output.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::headers::Headers;
use super::session::{Event, Session};

/// What is read at once, and the longest piece that is written.
const PIECE: usize = 16 << 10;
/// Pieces that wait for the reader of one stream.
const PIECES: usize = 8;
/// Bytes that wait for the readers of all streams of a session.
const WAITING: usize = 2 << 20;
/// Commands of all streams that wait to be written, and how much of them is taken at once.
const COMMANDS: usize = 8;
const OUTPUT: usize = 64 << 10;
/// A client that is gone is noticed by writing to it.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a client may take to hang up, so that it reads all that was written.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Command {
    Reply(u32),
    Send {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset(u32),
    Refuse(u32),
    /// Nothing more is to be said: the rest is written, then the connection ends.
    End,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

/// The session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended;

/// The sending side of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    stream: u32,
    commands: mpsc::Sender<Command>,
}

impl Outgoing {
    pub(crate) async fn accept(&self) -> Result<(), Ended> {
        self.command(Command::Reply(self.stream)).await
    }

    /// Waits while the client does not read.
    pub(crate) async fn send(&self, mut bytes: Bytes) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.say(piece, false).await?;
        }
        Ok(())
    }

    /// The client is told that nothing more comes.
    pub(crate) async fn finish(&self) -> Result<(), Ended> {
        self.say(Bytes::new(), true).await
    }

    /// Breaks the stream off.
    pub(crate) async fn reset(&self) -> Result<(), Ended> {
        self.command(Command::Reset(self.stream)).await
    }

    /// The stream is not one that was agreed on.
    pub(crate) async fn refuse(&self) -> Result<(), Ended> {
        self.command(Command::Refuse(self.stream)).await
    }

    async fn say(&self, bytes: Bytes, fin: bool) -> Result<(), Ended> {
        let stream = self.stream;
        self.command(Command::Send { stream, bytes, fin }).await
    }

    async fn command(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).await.map_err(|_| Ended)
    }
}

/// A stream that the client has begun.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) outgoing: Outgoing,
    pieces: mpsc::Receiver<Piece>,
}

impl Stream {
    /// `None` when the client has said its last on it, or is gone. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Option<Bytes> {
        self.pieces.recv().await.map(|piece| piece.bytes)
    }
}

/// The streams that the client begins. Dropping it does not end the session.
#[derive(Debug)]
pub(crate) struct Incoming {
    streams: mpsc::Receiver<Stream>,
    commands: mpsc::Sender<Command>,
}

impl Incoming {
    /// `None` when the session has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Writes what was said and hangs up.
    pub(crate) async fn end(&self) {
        // It may have ended by itself.
        let _ = self.commands.send(Command::End).await;
    }
}

/// The streams, and the task that carries them; it ends when the client hangs up, after [`Incoming::end`], or
/// when nobody holds any of the streams any more.
pub(crate) fn serve<IO>(io: IO) -> (Incoming, impl Future<Output = ()> + Send)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (commands, taken) = mpsc::channel(COMMANDS);
    let (begun, streams) = mpsc::channel(COMMANDS);
    let driver = Driver {
        session: Session::default(),
        commands: taken,
        to_streams: commands.downgrade(),
        begun,
        listeners: HashMap::new(),
        events: VecDeque::new(),
        budget: Arc::new(Semaphore::new(WAITING)),
    };
    (Incoming { streams, commands }, driver.run(io))
}

struct Driver {
    session: Session,
    commands: mpsc::Receiver<Command>,
    to_streams: mpsc::WeakSender<Command>,
    begun: mpsc::Sender<Stream>,
    listeners: HashMap<u32, mpsc::Sender<Piece>>,
    /// What was read and has not found its place; the socket is not read meanwhile.
    events: VecDeque<Event>,
    budget: Arc<Semaphore>,
}

/// Where the first of the events goes.
enum Place {
    Stream(Option<mpsc::OwnedPermit<Stream>>),
    Piece(Option<(mpsc::OwnedPermit<Piece>, OwnedSemaphorePermit)>),
    Nowhere,
}

impl Driver {
    async fn run<IO: AsyncRead + AsyncWrite + Unpin>(mut self, io: IO) {
        let (mut reader, mut writer) = tokio::io::split(io);
        match self.carry(&mut reader, &mut writer).await {
            Ok(()) => {
                // Whoever waits for a stream learns now that there are no more.
                drop(self);
                hang_up(reader, writer).await;
            }
            Err(error) => tracing::debug!(%error, "a SPDY session ended"),
        }
    }

    /// `Ok` when it is to end in order.
    async fn carry(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut pings = tokio::time::interval(PING_EVERY);
        pings.reset();
        let mut ending = false;
        loop {
            let waiting = self.session.output().len();
            if ending && waiting == 0 {
                return Ok(());
            }
            let reads = self.events.is_empty() && waiting < OUTPUT;
            tokio::select! {
                written = writer.write(self.session.output()), if waiting > 0 => {
                    match written? {
                        0 => return Err(io::ErrorKind::WriteZero.into()),
                        length => self.session.written(length),
                    }
                    if self.session.output().is_empty() {
                        writer.flush().await?;
                    }
                }
                command = self.commands.recv(), if waiting < OUTPUT && !ending => {
                    ending = !self.command(command);
                }
                length = reader.read(&mut buffer), if reads => match length? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => {
                        let events = self.session.receive(&buffer[..length]);
                        self.events.extend(events.map_err(io::Error::other)?);
                    }
                },
                place = place(self.events.front(), &self.begun, &self.listeners, &self.budget),
                    if !self.events.is_empty() => self.deliver(place),
                _ = pings.tick(), if waiting < OUTPUT => self.session.ping(),
            }
        }
    }

    /// `false` when it was the last.
    fn command(&mut self, command: Option<Command>) -> bool {
        match command {
            Some(Command::Reply(stream)) => self.session.reply(stream),
            Some(Command::Send { stream, bytes, fin }) => self.session.send(stream, &bytes, fin),
            Some(Command::Reset(stream)) => {
                self.listeners.remove(&stream);
                self.session.reset(stream);
            }
            Some(Command::Refuse(stream)) => {
                self.listeners.remove(&stream);
                self.session.refuse(stream);
            }
            Some(Command::End) | None => {
                self.session.go_away();
                return false;
            }
        }
        true
    }

    fn deliver(&mut self, place: Place) {
        match (self.events.pop_front(), place) {
            (
                Some(Event::Opened {
                    stream,
                    headers,
                    fin,
                }),
                Place::Stream(Some(slot)),
            ) => {
                let (listener, pieces) = mpsc::channel(PIECES);
                // No handle is left: nobody could answer.
                let Some(commands) = self.to_streams.upgrade() else {
                    return;
                };
                if !fin {
                    self.listeners.insert(stream, listener);
                }
                slot.send(Stream {
                    id: stream,
                    headers,
                    outgoing: Outgoing { stream, commands },
                    pieces,
                });
            }
            // Nobody takes streams any more.
            (Some(Event::Opened { stream, .. }), _) => self.session.refuse(stream),
            (Some(Event::Data { stream, bytes, fin }), place) => {
                if let Place::Piece(Some((slot, place))) = place {
                    slot.send(Piece {
                        bytes,
                        _place: place,
                    });
                }
                self.session.delivered(stream);
                if fin {
                    self.listeners.remove(&stream);
                }
            }
            (Some(Event::Reset { stream }), _) => {
                self.listeners.remove(&stream);
            }
            (None, _) => {}
        }
    }
}

/// Waits until there is room for the event. Cancel-safe: nothing is moved.
async fn place(
    event: Option<&Event>,
    begun: &mpsc::Sender<Stream>,
    listeners: &HashMap<u32, mpsc::Sender<Piece>>,
    budget: &Arc<Semaphore>,
) -> Place {
    match event {
        Some(Event::Opened { .. }) => Place::Stream(begun.clone().reserve_owned().await.ok()),
        Some(Event::Data { stream, bytes, .. }) if !bytes.is_empty() => {
            let Some(listener) = listeners.get(stream) else {
                return Place::Nowhere;
            };
            let slot = listener.clone().reserve_owned().await.ok();
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let place = Arc::clone(budget).acquire_many_owned(length).await.ok();
            Place::Piece(slot.zip(place))
        }
        _ => Place::Nowhere,
    }
}

/// Says that nothing more comes, and reads until the client has hung up: closing a socket with unread bytes in it
/// would take from the client what it has not read yet.
async fn hang_up(mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; PIECE];
    let quiet = async {
        writer.shutdown().await?;
        while reader.read(&mut buffer).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whatever comes of it, the connection is over.
    let _ = tokio::time::timeout(LINGER, quiet).await;
}
