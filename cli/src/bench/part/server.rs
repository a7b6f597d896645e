//! The server: TCP and UDP on the same ports, a thread each. The first message of a connection says what it is.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Length of every message but a stream's.
pub(super) const MESSAGE: usize = 64;
/// First byte of a connection's or datagram's message: answer it and close.
pub(super) const ONCE: u8 = 1;
/// Answer each message until the connection ends.
pub(super) const AGAIN: u8 = 2;
/// Say which port this is and who asks.
pub(super) const WHO: u8 = 3;
/// Take everything, then say how much it was (8 bytes, little-endian).
pub(super) const STREAM: u8 = 4;
/// Only count.
pub(super) const COUNT: u8 = 5;
/// Say how many were counted of this sender (8 bytes, little-endian).
pub(super) const COUNTED: u8 = 6;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    Listen { address: IpAddr, ports: Vec<u16> },
    ProcessorTime,
}

pub(super) fn answer(request: Request) -> anyhow::Result<serde_json::Value> {
    match request {
        Request::Listen { address, ports } => {
            for port in ports {
                listen(SocketAddr::new(address, port))?;
            }
            Ok(serde_json::Value::Null)
        }
        Request::ProcessorTime => Ok(super::processor_time().into()),
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let socket = UdpSocket::bind(address).with_context(|| format!("listen on {address} (UDP)"))?;
    enlarge(&socket);
    std::thread::Builder::new().spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        for connection in listener.incoming().flatten() {
            // A connection that breaks is the client's to report.
            let _ = connection_of(connection, address.port(), &mut buffer);
        }
    })?;
    std::thread::Builder::new().spawn(move || count(&socket))?;
    Ok(())
}

/// What the sender is ahead by waits, up to 8 MiB.
fn enlarge(socket: &UdpSocket) {
    let _ =
        nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20));
}

fn connection_of(mut stream: TcpStream, port: u16, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message)?;
    match message[0] {
        ONCE => stream.write_all(&message),
        AGAIN => {
            // Small answers are not held back for the next.
            stream.set_nodelay(true)?;
            loop {
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
            }
        }
        WHO => {
            let text = format!("{port} {}", stream.peer_addr()?);
            stream.write_all(text.as_bytes())
        }
        STREAM => {
            let mut total = 0u64;
            loop {
                match stream.read(buffer)? {
                    0 => break,
                    length => total += length as u64,
                }
            }
            stream.write_all(&total.to_le_bytes())
        }
        _ => Ok(()),
    }
}

fn count(socket: &UdpSocket) {
    let mut message = [0; MESSAGE];
    let mut current = None;
    let mut counted = 0u64;
    while let Ok((_, from)) = socket.recv_from(&mut message) {
        if current != Some(from) {
            current = Some(from);
            counted = 0;
        }
        match message[0] {
            COUNTED => {
                let _ = socket.send_to(&counted.to_le_bytes(), from);
            }
            WHO => {
                let port = socket.local_addr().map_or(0, |address| address.port());
                let _ = socket.send_to(format!("{port} {from}").as_bytes(), from);
            }
            _ => counted += 1,
        }
    }
}
