//! Traffic that goes on while something is done to the cluster: it ends when standard input does, and then says
//! what became of it.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::Arguments;
use crate::call::{How, name, stream};

/// Between two requests on a held connection, and between two new connections.
const PACE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(5);

fn ended() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    ended
}

fn target(arguments: &mut Arguments) -> anyhow::Result<SocketAddr> {
    let target = arguments.required("a target");
    target.parse().with_context(|| format!("target {target}"))
}

struct Held {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    name: String,
}

impl Held {
    fn open(target: SocketAddr, how: &How) -> io::Result<Self> {
        let stream = stream(target, how)?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut held = Self {
            stream,
            reader,
            name: String::new(),
        };
        held.name = held.ask()?;
        Ok(held)
    }

    fn ask(&mut self) -> io::Result<String> {
        (&self.stream).write_all(b"hello\n")?;
        let mut answer = String::new();
        if self.reader.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.split(' ').next().unwrap_or_default().to_owned())
    }
}

/// Some connections that stay, asked in turn, and a new one at each step.
pub(crate) fn connections(mut arguments: Arguments) -> anyhow::Result<()> {
    let count = arguments.number("--connections", 10);
    let target = target(&mut arguments)?;
    let how = How {
        silent: false,
        udp: false,
        timeout: PATIENCE,
        from: None,
        size: 0,
        whole: false,
        text: None,
    };
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(Held::open(target, &how).context("a connection to be held")?);
    }
    let ended = ended();
    println!("holding");
    let (mut broken, mut opened, mut asked) = (BTreeMap::new(), 0_u64, 0_u64);
    let mut failed = BTreeMap::<&str, u64>::new();
    let mut answers = BTreeMap::<String, u64>::new();
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        match Held::open(target, &how) {
            Ok(new) => {
                opened += 1;
                *answers.entry(new.name).or_default() += 1;
            }
            Err(error) => *failed.entry(name(&error)).or_default() += 1,
        }
        if !held.is_empty() {
            turn = (turn + 1) % held.len();
            asked += 1;
            if let Err(error) = held[turn].ask() {
                let gone = held.swap_remove(turn);
                *broken
                    .entry(format!("{} {}", gone.name, name(&error)))
                    .or_insert(0_u64) += 1;
                turn = 0;
            }
        }
        std::thread::sleep(PACE);
    }
    println!(
        "{}",
        json!({
            "held": held.len(), "broken": broken, "opened": opened, "failed": failed,
            "asked": asked, "answers": answers,
        })
    );
    Ok(())
}

/// One connected UDP socket from which datagrams go on and on; says each change of who answers.
pub(crate) fn flow(mut arguments: Arguments) -> anyhow::Result<()> {
    let target = target(&mut arguments)?;
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let ended = ended();
    let mut last = String::new();
    let mut buffer = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        // Not connected: a connected socket would be closed with its backend.
        let sent = socket.send_to(b"hello", target);
        let outcome = sent.and_then(|_| socket.recv_from(&mut buffer).map(|(length, _)| length));
        let now = match outcome {
            Ok(length) => {
                let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                answer.split(' ').next().unwrap_or_default().to_owned()
            }
            Err(error) => name(&error).to_owned(),
        };
        if now != last {
            println!("{now}");
            last = now;
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}
