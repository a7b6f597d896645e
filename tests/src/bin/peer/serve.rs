//! The server.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use crate::Arguments;

/// The largest request that is taken.
const MOST: usize = 64 * 1024;

struct Server {
    name: String,
    /// Who sent datagrams.
    seen: Mutex<BTreeSet<IpAddr>>,
}

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let (tcp, udp) = (arguments.all("--tcp"), arguments.all("--udp"));
    let linger = arguments.number("--linger", 0);
    let name = arguments.required("a name");
    // The first process of a container is not ended by a signal that it does not ask for.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    let server = Arc::new(Server {
        name,
        seen: Mutex::default(),
    });
    for port in tcp {
        for listener in both_families(&port, TcpListener::bind::<SocketAddr>)? {
            let server = Arc::clone(&server);
            std::thread::spawn(move || accept(&server, &listener));
        }
    }
    for port in udp {
        for socket in both_families(&port, UdpSocket::bind::<SocketAddr>)? {
            let server = Arc::clone(&server);
            std::thread::spawn(move || datagrams(&server, &socket));
        }
    }
    println!("serving");
    ends.wait()?;
    std::thread::sleep(Duration::from_secs(linger));
    Ok(())
}

/// One socket for both families, or for IPv4 where there is no IPv6. `ADDRESS:PORT` means just that one.
fn both_families<T>(
    port: &str,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> anyhow::Result<Vec<T>> {
    if let Ok(address) = port.parse::<SocketAddr>() {
        return Ok(vec![bind(address).with_context(|| port.to_owned())?]);
    }
    let port: u16 = port.parse().with_context(|| format!("port {port:?}"))?;
    let socket = bind((Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bind((Ipv4Addr::UNSPECIFIED, port).into()))
        .with_context(|| format!("port {port}"))?;
    Ok(vec![socket])
}

/// IPv4 as such, also on a socket for both.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Server {
    fn answer(&self, request: &str, client: SocketAddr, local: &str) -> String {
        let request = request.trim_end();
        if let Some(asked) = request.strip_prefix("seen ") {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let known = asked
                .trim()
                .parse()
                .is_ok_and(|asked: IpAddr| seen.contains(&asked));
            return format!("{} {known}\n", self.name);
        }
        format!(
            "{} {} {local} {}\n",
            self.name,
            plain(client),
            request.len()
        )
    }
}

fn accept(server: &Arc<Server>, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            // The client says what became of its call.
            let _ = talk(&server, &stream);
        });
    }
}

fn talk(server: &Server, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (client, local) = (stream.peer_addr()?, plain(stream.local_addr()?).to_string());
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = server.answer(&line, client, &local);
        if line.starts_with("GET ") {
            let head = "HTTP/1.0 200 OK\r\nContent-Length:";
            write!(writer, "{head} {}\r\n\r\n{answer}", answer.len())?;
            return Ok(());
        }
        writer.write_all(answer.as_bytes())?;
    }
}

fn datagrams(server: &Server, socket: &UdpSocket) {
    let mut buffer = vec![0; MOST];
    let local = socket
        .local_addr()
        .map_or_else(|_| "-".to_owned(), |address| address.port().to_string());
    loop {
        // An error here is an earlier answer that was refused.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if !request.starts_with("seen ") {
            let mut seen = server.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(client.ip().to_canonical());
        }
        let answer = server.answer(&request, client, &local);
        let _ = socket.send_to(answer.as_bytes(), client);
    }
}
