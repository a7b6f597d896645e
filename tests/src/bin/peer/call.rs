//! Calls, each on a socket of its own; one line of JSON for each.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};

use crate::Arguments;

pub(crate) struct How {
    pub(crate) udp: bool,
    pub(crate) timeout: Duration,
    pub(crate) from: Option<SocketAddr>,
    /// Bytes of the request.
    pub(crate) size: usize,
    /// The request must not be cut into fragments.
    pub(crate) whole: bool,
    pub(crate) text: Option<String>,
    /// A datagram socket is connected, and nothing is sent.
    pub(crate) silent: bool,
}

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let how = How {
        udp: arguments.flag("--udp"),
        timeout: Duration::from_millis(arguments.number("--timeout", 5000)),
        from: arguments
            .all("--from")
            .pop()
            .map(|text| text.parse().with_context(|| format!("--from {text}")))
            .transpose()?,
        size: usize::try_from(arguments.number("--size", 0))?,
        whole: arguments.flag("--whole"),
        text: arguments.all("--text").pop(),
        silent: arguments.flag("--silent"),
    };
    let count = arguments.number("--count", 1);
    // What comes after a failure says nothing new.
    let stop = arguments.flag("--stop");
    while let Some(target) = arguments.next() {
        let target: SocketAddr = target.parse().with_context(|| format!("target {target}"))?;
        for _ in 0..count {
            let report = report(target, &how);
            println!("{report}");
            if stop && report["result"] != "ok" {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn report(target: SocketAddr, how: &How) -> Value {
    let started = Instant::now();
    let outcome = if how.udp {
        datagram(target, how)
    } else {
        connection(target, how)
    };
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok((answer, peer)) => {
            let words: Vec<&str> = answer.split_whitespace().collect();
            let word = |at: usize| words.get(at).copied().unwrap_or_default();
            let client: Option<SocketAddr> = word(1).parse().ok();
            json!({
                "result": "ok",
                "answer": answer.trim_end(),
                "name": word(0),
                "client": client.map(|client| client.ip().to_string()),
                "client_port": client.map(|client| client.port()),
                "local": word(2),
                "length": word(3).parse::<u64>().ok(),
                "peer": peer.to_string(),
                "milliseconds": milliseconds,
            })
        }
        Err(error) => json!({
            "result": name(&error),
            "error": error.to_string(),
            "milliseconds": milliseconds,
        }),
    }
}

pub(crate) fn name(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            "reset"
        }
        ErrorKind::UnexpectedEof => "closed",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        ErrorKind::PermissionDenied => "denied",
        _ if error.raw_os_error() == Some(libc::EMSGSIZE) => "too big",
        _ => "error",
    }
}

/// A socket with its own address and options, not yet connected.
fn open(target: SocketAddr, how: &How) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = if how.udp {
        SockType::Datagram
    } else {
        SockType::Stream
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(from) = how.from {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    if how.whole {
        let (level, option, value) = if target.is_ipv4() {
            (
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_DO,
            )
        } else {
            (
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DO,
            )
        };
        // SAFETY: the descriptor is open and the value has the length that is passed.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}

/// Connects within the time that a send may take.
fn connect(socket: &OwnedFd, target: SocketAddr, timeout: Duration) -> io::Result<()> {
    let limit = nix::sys::time::TimeVal::new(
        i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        i64::from(timeout.subsec_micros()),
    );
    setsockopt(socket, sockopt::SendTimeout, &limit)?;
    setsockopt(socket, sockopt::ReceiveTimeout, &limit)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Err(nix::errno::Errno::EINPROGRESS) => Err(ErrorKind::TimedOut.into()),
        other => Ok(other?),
    }
}

pub(crate) fn stream(target: SocketAddr, how: &How) -> io::Result<TcpStream> {
    let socket = open(target, how)?;
    connect(&socket, target, how.timeout)?;
    Ok(TcpStream::from(socket))
}

fn request(how: &How) -> String {
    let mut text = how.text.clone().unwrap_or_else(|| "hello".to_owned());
    while text.len() < how.size {
        text.push('x');
    }
    text
}

fn connection(target: SocketAddr, how: &How) -> io::Result<(String, SocketAddr)> {
    let stream = stream(target, how)?;
    (&stream).write_all((request(how) + "\n").as_bytes())?;
    let mut answer = String::new();
    if BufReader::new(&stream).read_line(&mut answer)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((answer, stream.peer_addr()?))
}

fn datagram(target: SocketAddr, how: &How) -> io::Result<(String, SocketAddr)> {
    let socket = open(target, how)?;
    connect(&socket, target, how.timeout)?;
    // SAFETY: the descriptor is owned and given away.
    let socket = unsafe { UdpSocket::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(socket)) };
    if how.silent {
        return Ok((String::new(), socket.peer_addr()?));
    }
    let mut buffer = vec![0; 2048];
    let mut ask = || {
        socket.send(request(how).as_bytes())?;
        socket.recv(&mut buffer)
    };
    let length = match ask() {
        // A datagram that did not fit the path tells its socket so (RFC 8201); the next one is sent in fragments.
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => ask()?,
        other => other?,
    };
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok((answer, socket.peer_addr()?))
}
