//! Connections from this member to what runs in the cluster: webhooks and servers that extend the API.
//!
//! A member need not be on the pods' network, and its address may be one that pods cannot answer to. So a node makes
//! the connection, as for the proxies: that of the endpoint, or any other that this member has a stream with, for
//! every node reaches every pod. Only where there is no node at all the member dials itself.
//!
//! `dialer/service` says which endpoint answers for a Service, `dialer/insecure` is TLS with whoever answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use proto::node::v1::stream_request::Kind;
use proto::node::v1::{DialRequest, StreamRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::nodestream::{NodeStreams, Tunnel, accepted};

mod insecure;
mod service;
#[cfg(test)]
mod tests;

pub(crate) use insecure::Anybody;
pub(crate) use service::{Destination, NoEndpoint, of_service};

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dialer {
    streams: NodeStreams,
}

/// Bytes to and from an endpoint. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Tunnel(Tunnel),
    Socket(TcpStream),
}

/// Nothing of a node itself is to be reached by an address that somebody wrote into an object.
pub(crate) fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

/// Those to ask, in this order; none means that the member dials itself. Pure.
fn by_preference(preferred: &str, mut connected: Vec<String>) -> Vec<String> {
    connected.sort_by_key(|node| (node != preferred, node.clone()));
    connected
}

impl Dialer {
    pub(crate) fn new(streams: NodeStreams) -> Self {
        Self { streams }
    }

    /// A host that is not in the cluster: from here.
    ///
    /// # Errors
    /// Why there is no connection, in the words of Go's `net`.
    pub(crate) async fn outside(&self, host: &str, port: u16) -> Result<Connection, String> {
        let socket = TcpStream::connect((host, port)).await;
        let socket = socket.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
        Ok(Connection::Socket(socket))
    }

    /// An address of the pods' network; `node` is the one that the endpoint is on, if that is known.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(crate) async fn inside(&self, node: &str, to: SocketAddr) -> Result<Connection, String> {
        if !is_reachable(to.ip()) {
            return Err(format!("dial tcp {to}: address not allowed"));
        }
        let asked = by_preference(node, self.streams.connected());
        let mut problem = None;
        for node in asked {
            let request = StreamRequest {
                kind: Some(Kind::Dial(DialRequest {
                    ip: match to.ip() {
                        IpAddr::V4(ip) => ip.octets().to_vec().into(),
                        IpAddr::V6(ip) => ip.octets().to_vec().into(),
                    },
                    port: u32::from(to.port()),
                })),
                ..StreamRequest::default()
            };
            // A node that does not answer is not the endpoint's fault; what a node says of the endpoint counts.
            match self.streams.open(&node, request).await {
                Err(error) => problem = Some(error.to_string()),
                Ok(mut stream) => match accepted(&mut stream).await {
                    Ok(_) => return Ok(Connection::Tunnel(Tunnel::new(stream))),
                    Err(refused) => return Err(refused.message()),
                },
            }
        }
        match problem {
            Some(problem) => Err(format!("dial tcp {to}: {problem}")),
            None => self.outside(&to.ip().to_string(), to.port()).await,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(context, buffer),
            Self::Socket(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(context, bytes),
            Self::Socket(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(context),
            Self::Socket(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(context),
            Self::Socket(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
