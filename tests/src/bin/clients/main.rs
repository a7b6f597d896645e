//! Clients that notice every fault: `waggle-clients HOST:PORT RESOLVER NAME LONG-LIVED`.
//!
//! Keeps as many connections to an echo server as it is told, each with a byte under way again and again; makes new ones, one
//! after the other; and asks for a name, eight times at once and again and again, as a resolver does (5 s, twice), and over TCP on two
//! connections that stay and on new ones, each question once. Says `ready` once all
//! connections are there, and at the end of its standard input what it saw, as one line of JSON.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Longer than any restart.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a resolver.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;

#[derive(Default)]
struct Seen {
    end: AtomicBool,
    echoes: AtomicU64,
    connections: AtomicU64,
    answers: AtomicU64,
    asked_again: AtomicU64,
    /// Over TCP.
    streamed: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Seen {
    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    fn fault(&self, what: &str, error: &dyn std::fmt::Display) {
        if let Ok(mut faults) = self.faults.lock() {
            faults.push(format!("{what}: {error}"));
        }
    }
}

fn open(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn hold(seen: &Seen, mut stream: TcpStream, pause: Duration) {
    while !seen.ended() {
        if let Err(error) = echo(&mut stream) {
            return seen.fault("long-lived connection", &error);
        }
        seen.echoes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(pause);
    }
}

fn connect(seen: &Seen, to: SocketAddr) {
    while !seen.ended() {
        match open(to).and_then(|mut stream| echo(&mut stream)) {
            Ok(()) => drop(seen.connections.fetch_add(1, Ordering::Relaxed)),
            Err(error) => seen.fault("new connection", &error),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A question for the IPv4 addresses of a name.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn ask(seen: &Seen, socket: &UdpSocket, id: u16, name: &str) -> Result<(), String> {
    let question = question(id, name);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            seen.asked_again.fetch_add(1, Ordering::Relaxed);
        }
        socket.send(&question).map_err(|error| error.to_string())?;
        let mut answer = [0; 1500];
        loop {
            match socket.recv(&mut answer) {
                // An answer to the question before, asked twice.
                Ok(length) if length < 12 || answer[..2] != question[..2] => {}
                Ok(_) if answer[3] & 15 != 0 => return Err(format!("code {}", answer[3] & 15)),
                Ok(_) if answer[6..8] == [0, 0] => return Err("no address".to_owned()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            }
        }
    }
    Err("no answer".to_owned())
}

fn resolve(seen: &Seen, resolver: SocketAddr, name: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(resolver)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut id = 0u16;
    while !seen.ended() {
        id = id.wrapping_add(1);
        match ask(seen, &socket, id, name) {
            Ok(()) => drop(seen.answers.fetch_add(1, Ordering::Relaxed)),
            Err(error) => seen.fault("question", &error),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// One question on a connection; an answer to an earlier one may come twice.
fn ask_stream(stream: &mut TcpStream, id: u16, name: &str) -> Result<(), String> {
    let question = question(id, name);
    let mut message = (question.len() as u16).to_be_bytes().to_vec();
    message.extend(&question);
    let text = |error: std::io::Error| error.to_string();
    stream.write_all(&message).map_err(text)?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).map_err(text)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).map_err(text)?;
        match answer.get(..12) {
            Some(head) if head[..2] != question[..2] => {}
            Some(head) if head[3] & 15 == 0 && head[6..8] != [0, 0] => return Ok(()),
            head => return Err(format!("answered {head:?}")),
        }
    }
}

/// Over TCP, each question on a connection of its own if `anew`.
fn resolve_stream(seen: &Seen, resolver: SocketAddr, name: &str, anew: bool) -> Result<(), String> {
    let mut stream = open(resolver).map_err(|error| error.to_string())?;
    let mut id = 0u16;
    while !seen.ended() {
        id = id.wrapping_add(1);
        if anew {
            stream = open(resolver).map_err(|error| error.to_string())?;
        }
        ask_stream(&mut stream, id, name)?;
        seen.streamed.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, resolver, name, count] = arguments.as_slice() else {
        anyhow::bail!("usage: waggle-clients HOST:PORT RESOLVER NAME LONG-LIVED");
    };
    let (server, resolver): (SocketAddr, SocketAddr) = (server.parse()?, resolver.parse()?);
    let count: usize = count.parse()?;
    let all = Seen::default();
    let seen = &all;
    // However many they are, together they ask 2500 times a second.
    let pause = Duration::from_micros(400 * count as u64);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..count {
            let mut stream = open(server)?;
            echo(&mut stream)?;
            scope.spawn(move || hold(seen, stream, pause));
        }
        for _ in 0..2 {
            scope.spawn(move || connect(seen, server));
        }
        for _ in 0..8 {
            scope.spawn(move || {
                if let Err(error) = resolve(seen, resolver, name) {
                    seen.fault("resolver", &error);
                }
            });
        }
        for anew in [false, false, true] {
            scope.spawn(move || {
                if let Err(error) = resolve_stream(seen, resolver, name, anew) {
                    seen.fault("question over TCP", &error);
                }
            });
        }
        println!("ready");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        seen.end.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let faults = seen.faults.lock().map(|faults| faults.clone());
    let faults = faults.unwrap_or_default();
    let report = serde_json::json!({
        "echoes": value(&seen.echoes),
        "connections": value(&seen.connections),
        "answers": value(&seen.answers),
        "streamed": value(&seen.streamed),
        "askedAgain": value(&seen.asked_again),
        "faults": faults,
    });
    println!("{report}");
    Ok(())
}
