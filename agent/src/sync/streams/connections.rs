//! Connections: frames of a call on one side, a socket on the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use proto::node::v1 as wire;
use proto::node::v1::stream_frame::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};

use super::{Call, FROM_POD, Refusal, TO_POD, close, data};
use crate::pods::{Machine, Pods};
use crate::runtime;

const PIECE: usize = 32 << 10;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(30);

/// Serves HTTP/1.1 about the node on a connection that comes from the control plane, which has asked who is allowed
/// to.
pub(crate) trait NodeServer: Send + Sync {
    fn serve(&self, connection: DuplexStream) -> BoxFuture<'_, ()>;
}

pub(super) async fn port_forward<M: Machine>(
    pods: &Pods<M>,
    request: &wire::StreamRequest,
    forward: &wire::PortForwardRequest,
    call: &mut Call,
) -> Result<(), Refusal> {
    let snapshot = pods
        .find(&request.namespace, &request.pod)
        .ok_or_else(|| Refusal::words(404, "pod does not exist".to_owned()))?;
    let port = port(forward.port)?;
    let netns = runtime::network_namespace(&snapshot.dirs.run)
        .map_err(|_| Refusal::words(500, "pod does not run".to_owned()))?;
    let socket = local(netns.as_deref(), port)
        .await
        .map_err(|why| Refusal::words(500, why))?;
    if call.accept(&snapshot.key.uid).await.is_some() {
        carry(socket, call).await;
    }
    Ok(())
}

pub(super) async fn dial(dial: &wire::DialRequest, call: &mut Call) -> Result<(), Refusal> {
    let ip: IpAddr = if let Ok(four) = <[u8; 4]>::try_from(&dial.ip[..]) {
        four.into()
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(&dial.ip[..]) {
        sixteen.into()
    } else {
        return Err(Refusal::bad_request("no address".to_owned()));
    };
    let address = SocketAddr::new(ip, port(dial.port)?);
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
    let socket = match connecting {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            let text = format!("dial tcp {address}: connect: {}", plain(&error));
            return Err(unavailable(text));
        }
        Err(_) => return Err(unavailable(format!("dial tcp {address}: i/o timeout"))),
    };
    // Held back, small pieces of a conversation would wait for each other.
    let _ = socket.set_nodelay(true);
    if call.accept("").await.is_some() {
        carry(socket, call).await;
    }
    Ok(())
}

fn unavailable(message: String) -> Refusal {
    Refusal {
        code: 503,
        reason: "ServiceUnavailable",
        message,
    }
}

pub(super) async fn node_server(
    server: Option<&Arc<dyn NodeServer>>,
    call: &mut Call,
) -> Result<(), Refusal> {
    let server = server.ok_or_else(|| Refusal::not_found("the node serves nothing".to_owned()))?;
    if call.accept("").await.is_none() {
        return Ok(());
    }
    let (near, far) = tokio::io::duplex(PIECE);
    tokio::join!(carry(near, call), server.serve(far));
    Ok(())
}

fn port(port: u32) -> Result<u16, Refusal> {
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    port.ok_or_else(|| Refusal::bad_request("a port is between 1 and 65535".to_owned()))
}

/// The words of the C library, without Rust's number.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number)
            .desc()
            .to_ascii_lowercase(),
        None => error.to_string(),
    }
}

/// A connection to the pod's own loopback: IPv4, else IPv6.
async fn local(netns: Option<&Path>, port: u16) -> Result<TcpStream, String> {
    let failed = |why: &str| {
        let place = match netns {
            Some(netns) => format!(
                "inside namespace \"{}\"",
                netns.file_name().unwrap_or_default().display()
            ),
            None => "on the node".to_owned(),
        };
        format!("failed to connect to localhost:{port} {place}, {why}")
    };
    let sockets = crate::network::sockets_in(netns).await;
    let (four, six) = sockets.map_err(|error| failed(&error.to_string()))?;
    let first = connect(four, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await;
    let first = match first {
        Ok(socket) => return Ok(socket),
        Err(error) => plain(&error),
    };
    let second = match six {
        Some(six) => connect(six, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).await,
        None => Err(io::ErrorKind::Unsupported.into()),
    };
    second.map_err(|second| {
        let second = plain(&second);
        failed(&format!(
            "IPv4: dial tcp4 127.0.0.1:{port}: connect: {first} IPv6 dial tcp6: [::1]:{port}: connect: {second} "
        ))
    })
}

async fn connect(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = tokio::time::timeout(CONNECT, socket.connect(address)).await;
    let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Both directions, each to its end.
async fn carry(io: impl AsyncRead + AsyncWrite + Unpin, call: &mut Call) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let send = &call.send;
    let incoming = &mut call.incoming;
    let up = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            let piece: Bytes = match reader.read_buf(&mut buffer).await {
                Ok(1..) => buffer.split().freeze(),
                // A reset is an end, too: there is no way to say more.
                Ok(0) | Err(_) => break,
            };
            if send.send(data(FROM_POD, piece)).await.is_err() {
                return;
            }
        }
        let _ = send.send(close(FROM_POD)).await;
    };
    let down = async {
        loop {
            let Ok(Some(message)) = incoming.message().await else {
                // Nobody is there any more.
                return false;
            };
            match message.frame {
                Some(Frame::Data(said)) if said.channel == TO_POD => {
                    let written = writer.write_all(&said.data).await;
                    if written.is_err() {
                        break;
                    }
                }
                Some(Frame::CloseChannel(TO_POD)) => {
                    let _ = writer.shutdown().await;
                    break;
                }
                _ => {}
            }
        }
        true
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => {
            down.await;
        }
        orderly = &mut down => if orderly {
            up.await;
        },
    }
}
