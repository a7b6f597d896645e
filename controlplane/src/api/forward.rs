//! `pods/portforward`: TCP connections into a pod. Each is a stream of its own to the node, so that one that nobody
//! reads holds up no other there.
//!
//! Three ways: SPDY with two streams per connection (`forward/spdy`), the same inside a WebSocket, and one
//! connection per port over the channels of a WebSocket (`forward/channels`).

use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::Response;
use http::request::Parts;
use proto::node::v1::stream_request::Kind;
use proto::node::v1::{PortForwardRequest, StreamRequest};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::Api;
use super::read::Subject;
use super::remote::{Refused, accepted};
use super::request::Query;
use super::upgrade::{self, Wanted, Way};
use crate::auth::User;
use crate::nodestream::{NodeStream, NodeStreams};
use crate::registry::{ApiError, object};

mod channels;
mod spdy;

/// Channels of a connection, as the node knows them.
const TO_NODE: u32 = 0;
const FROM_NODE: u32 = 1;

/// A client that is gone is noticed by writing to it.
const PING_EVERY: Duration = Duration::from_secs(30);

/// What a WebSocket may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// The bytes of a SPDY session.
    Tunnel,
    Channels {
        base64: bool,
    },
}

const SPDY: &[(&str, ())] = &[("", ()), ("portforward.k8s.io", ())];
const WEBSOCKET: &[(&str, Protocol)] = &[
    ("", Protocol::Channels { base64: false }),
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
    ("v4.channel.k8s.io", Protocol::Channels { base64: false }),
    (
        "v4.base64.channel.k8s.io",
        Protocol::Channels { base64: true },
    ),
];

/// The pod that connections go to.
#[derive(Debug, Clone)]
struct Target {
    streams: NodeStreams,
    node: String,
    namespace: String,
    pod: String,
    uid: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<NodeStream, Refused> {
        let request = StreamRequest {
            server: String::new(),
            id: String::new(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            container: String::new(),
            kind: Some(Kind::PortForward(PortForwardRequest {
                port: u32::from(port),
            })),
        };
        let mut node = self.streams.open(&self.node, request).await?;
        accepted(&mut node).await?;
        Ok(node)
    }

    /// What a client is told of a connection that did not come about.
    fn failure(&self, port: u16, refused: Refused) -> Bytes {
        let Self { pod, uid, .. } = self;
        let why = refused.message();
        format!("error forwarding port {port} to pod {pod}, uid {uid}: {why}").into()
    }
}

impl Api {
    pub(super) async fn port_forward(
        &self,
        user: &User,
        parts: &Parts,
        subject: Subject<'_>,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        self.check_connect(user, parts, subject)?;
        let ports: Vec<u16> = query
            .all("ports")
            .filter_map(|port| port.parse().ok())
            .collect();
        let options = serde_json::json!({ "ports": ports });
        self.admit_connect(user, subject, options).await?;
        let (pod, node) = self.pod_on_node(subject).await?;
        self.forward(parts, &pod, node, query).await
    }

    pub(super) async fn forward(
        &self,
        parts: &Parts,
        pod: &Value,
        node: String,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        let wanted = upgrade::wanted(parts)?;
        let target = Target {
            streams: self.streams.clone(),
            node,
            namespace: object::namespace(pod).to_owned(),
            pod: object::name(pod).to_owned(),
            uid: pod["metadata"]["uid"].as_str().unwrap_or("").to_owned(),
        };
        let (name, protocol) = match &wanted.way {
            Way::Spdy => match upgrade::choose(&wanted.offered, SPDY) {
                Some((name, ())) => (name, None),
                None => return Ok(upgrade::disagree(&wanted.offered, SPDY)),
            },
            Way::WebSocket { .. } => match upgrade::choose(&wanted.offered, WEBSOCKET) {
                Some((name, protocol)) => (name, Some(protocol)),
                None => return Ok(upgrade::disagree(&wanted.offered, WEBSOCKET)),
            },
        };
        let ports = match protocol {
            Some(Protocol::Channels { .. }) => channels::ports(query)?,
            _ => Vec::new(),
        };
        let answer = wanted.answer(&name);
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = carry(wanted, protocol, target, ports) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(answer)
    }
}

async fn carry(wanted: Wanted, protocol: Option<Protocol>, target: Target, ports: Vec<u16>) {
    match protocol {
        None => {
            if let Some(client) = wanted.connection().await {
                spdy::carry(client, target).await;
            }
        }
        Some(Protocol::Tunnel) => {
            if let Some(client) = wanted.websocket().await {
                spdy::carry(bytes_of(client), target).await;
            }
        }
        Some(Protocol::Channels { base64 }) => {
            if let Some(client) = wanted.websocket().await {
                channels::carry(client, base64, target, ports).await;
            }
        }
    }
}

/// The binary messages of a WebSocket as one stream of bytes.
fn bytes_of<IO>(client: WebSocketStream<IO>) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sink, source) = client.split();
    let payloads = source.filter_map(|message| {
        let payload = match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Message::Close(_)) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        };
        std::future::ready(payload)
    });
    let messages = sink
        .sink_map_err(io::Error::other)
        .with(|bytes: Bytes| std::future::ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    tokio::io::join(
        StreamReader::new(payloads),
        SinkWriter::new(CopyToBytes::new(messages)),
    )
}
