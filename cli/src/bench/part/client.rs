//! The client: every kind of load, one operation at a time, and how long each took.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::{Deserialize, Serialize};

use super::processor_time;
use super::server::{AGAIN, COUNT, COUNTED, MESSAGE, ONCE, STREAM, WHO};
use crate::bench::statistics::percentile;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an address that answers nothing may take to show that.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Aim {
    pub(crate) to: SocketAddr,
    pub(crate) seconds: f64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Who answers there, `count` times, over TCP.
    Who { to: SocketAddr, count: u32 },
    /// The same over UDP, from an unconnected socket.
    WhoDatagram { to: SocketAddr, count: u32 },
    /// Whether anybody answers there.
    Answers { to: SocketAddr },
    /// Connect, one request, close.
    Connect(Aim),
    /// Requests on one connection.
    Exchange(Aim),
    /// As much as goes through one connection.
    Stream(Aim),
    /// Datagrams one way, from an unconnected socket (`sendto`) or a connected one (`send`).
    Datagrams { aim: Aim, connected: bool },
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    /// The port that the server listens on.
    pub(crate) backend: u16,
    /// The client as the server sees it.
    pub(crate) seen_from: SocketAddr,
    /// The server as the client sees it.
    pub(crate) peer: SocketAddr,
}

/// What a turn was; times in seconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Turn {
    /// Operations, bytes or datagrams that arrived.
    pub(crate) done: f64,
    /// Datagrams that were sent; otherwise as `done`.
    pub(crate) sent: f64,
    pub(crate) seconds: f64,
    /// This process's processor time.
    pub(crate) processor: f64,
    /// Latency of an operation's measured part; NaN is written as null.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

pub(super) fn answer(request: Request) -> anyhow::Result<serde_json::Value> {
    Ok(match request {
        Request::Who { to, count } => serde_json::to_value(many(count, || who(to))?)?,
        Request::WhoDatagram { to, count } => {
            serde_json::to_value(many(count, || who_datagram(to))?)?
        }
        Request::Answers { to } => TcpStream::connect_timeout(&to, SILENCE).is_ok().into(),
        Request::Connect(aim) => serde_json::to_value(connections(aim)?)?,
        Request::Exchange(aim) => serde_json::to_value(exchange(aim)?)?,
        Request::Stream(aim) => serde_json::to_value(stream(aim)?)?,
        Request::Datagrams { aim, connected } => serde_json::to_value(datagrams(aim, connected)?)?,
    })
}

fn many<T>(count: u32, mut once: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    (0..count).map(|_| once()).collect()
}

/// A TCP socket whose connect and reads end, and how long the connect alone took. (`connect_timeout` of the
/// standard library polls, which a plain client does not.)
fn connected(to: SocketAddr) -> anyhow::Result<(TcpStream, Duration)> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::milliseconds(PATIENCE.as_millis() as i64);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    let address = SockaddrStorage::from(to);
    let begun = Instant::now();
    connect(socket.as_raw_fd(), &address).with_context(|| format!("connect to {to}"))?;
    let took = begun.elapsed();
    Ok((TcpStream::from(socket), took))
}

fn parse(text: &[u8], peer: SocketAddr) -> anyhow::Result<Answer> {
    let text = String::from_utf8_lossy(text);
    let (backend, seen_from) = text.split_once(' ').context("an answer of two words")?;
    Ok(Answer {
        backend: backend.parse()?,
        seen_from: seen_from.parse()?,
        peer,
    })
}

fn message(first: u8) -> [u8; MESSAGE] {
    let mut message = [7; MESSAGE];
    message[0] = first;
    message
}

fn who(to: SocketAddr) -> anyhow::Result<Answer> {
    let (mut stream, _) = connected(to)?;
    stream.write_all(&message(WHO))?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    parse(&text, stream.peer_addr()?)
}

fn datagram_socket(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

fn who_datagram(to: SocketAddr) -> anyhow::Result<Answer> {
    let socket = datagram_socket(to)?;
    socket.send_to(&message(WHO), to)?;
    let mut buffer = [0; 128];
    let (length, from) = socket
        .recv_from(&mut buffer)
        .with_context(|| format!("wait for an answer from {to} (UDP)"))?;
    parse(&buffer[..length], from)
}

fn connections(aim: Aim) -> anyhow::Result<Turn> {
    let request = message(ONCE);
    let mut reply = [0; MESSAGE];
    let mut latencies = Vec::with_capacity(1 << 16);
    measure(aim, || {
        let (mut stream, took) = connected(aim.to)?;
        stream.write_all(&request)?;
        stream
            .read_exact(&mut reply)
            .with_context(|| format!("read from {}", aim.to))?;
        latencies.push(took.as_secs_f64());
        Ok(1.0)
    })
    .map(|turn| turn.with_latencies(&latencies))
}

fn exchange(aim: Aim) -> anyhow::Result<Turn> {
    let request = message(AGAIN);
    let mut reply = [0; MESSAGE];
    let (mut stream, _) = connected(aim.to)?;
    stream.set_nodelay(true)?;
    let mut latencies = Vec::with_capacity(1 << 16);
    measure(aim, || {
        let begun = Instant::now();
        stream.write_all(&request)?;
        stream
            .read_exact(&mut reply)
            .with_context(|| format!("read from {}", aim.to))?;
        latencies.push(begun.elapsed().as_secs_f64());
        Ok(1.0)
    })
    .map(|turn| turn.with_latencies(&latencies))
}

fn stream(aim: Aim) -> anyhow::Result<Turn> {
    let (mut stream, _) = connected(aim.to)?;
    stream.write_all(&message(STREAM))?;
    let data = vec![7; 128 * 1024];
    let begun = Instant::now();
    let mut turn = measure(aim, || {
        stream.write_all(&data)?;
        Ok(data.len() as f64)
    })?;
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream
        .read_exact(&mut total)
        .with_context(|| format!("how much arrived at {}", aim.to))?;
    turn.seconds = begun.elapsed().as_secs_f64();
    turn.done = u64::from_le_bytes(total) as f64;
    anyhow::ensure!(
        turn.done == turn.sent,
        "{} bytes were sent to {} and {} arrived",
        turn.sent,
        aim.to,
        turn.done
    );
    Ok(turn)
}

fn datagrams(aim: Aim, connect: bool) -> anyhow::Result<Turn> {
    let socket = datagram_socket(aim.to)?;
    if connect {
        socket.connect(aim.to)?;
    }
    let send = |message: &[u8]| {
        let sent = if connect {
            socket.send(message)
        } else {
            socket.send_to(message, aim.to)
        };
        match sent {
            Ok(_) => Ok(1.0),
            // The interface's queue is full: the datagram is lost, and not counted by the server.
            Err(error) if error.kind() == ErrorKind::OutOfMemory => Ok(1.0),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(1.0),
            Err(error) => Err(error).with_context(|| format!("send to {} (UDP)", aim.to)),
        }
    };
    let payload = message(COUNT);
    let mut turn = measure(aim, || send(&payload))?;
    let deadline = Instant::now() + PATIENCE;
    let mut reply = [0; 8];
    loop {
        send(&message(COUNTED))?;
        match socket.recv_from(&mut reply) {
            Ok((8, _)) => break,
            _ if Instant::now() > deadline => {
                anyhow::bail!("{} does not say what it counted", aim.to)
            }
            _ => {}
        }
    }
    turn.done = u64::from_le_bytes(reply) as f64;
    Ok(turn)
}

/// Repeats an operation until the time is over; it says how much it did.
fn measure(aim: Aim, mut operation: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<Turn> {
    let limit = Duration::from_secs_f64(aim.seconds);
    let processor = processor_time();
    let begun = Instant::now();
    let mut done = 0.0;
    while begun.elapsed() < limit {
        done += operation()?;
    }
    Ok(Turn {
        done,
        sent: done,
        seconds: begun.elapsed().as_secs_f64(),
        processor: processor_time() - processor,
        p50: None,
        p99: None,
    })
}

impl Turn {
    fn with_latencies(self, latencies: &[f64]) -> Self {
        Self {
            p50: Some(percentile(latencies, 0.5)),
            p99: Some(percentile(latencies, 0.99)),
            ..self
        }
    }
}
