//! Forwarding over the channels of a WebSocket: two for each port that the query names, data and errors, each
//! begun by the port's number. One connection per port.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use proto::node::v1::StreamFrame;
use proto::node::v1::stream_frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{FROM_NODE, PING_EVERY, TO_NODE, Target};
use crate::api::remote::{Channels, Said, data, end};
use crate::api::request::Query;
use crate::nodestream::NodeStream;
use crate::registry::ApiError;

/// Channels are numbered by one byte, and the highest is not one.
const MAX_PORTS: usize = 127;
/// Messages that wait to be written.
const MESSAGES: usize = 8;
/// How long a connection whose pod has ended its side still takes what the client sends, as with containerd.
const LINGER: Duration = Duration::from_secs(1);

/// The ports of the query, which may be several in one parameter.
pub(super) fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let mut ports = Vec::new();
    for text in query.all("ports").flat_map(|value| value.split(',')) {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| {
            ApiError::bad_request(format!(
                "unable to parse \"{text}\" as a port: must be between 1 and 65535"
            ))
        })?;
        ports.push(port);
    }
    match ports.len() {
        0 => Err(ApiError::bad_request(
            "query parameter \"ports\" is required",
        )),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(ApiError::bad_request("too many ports")),
    }
}

/// Until the client is gone, or all connections have ended.
pub(super) async fn carry<IO>(
    client: WebSocketStream<IO>,
    base64: bool,
    target: Target,
    ports: Vec<u16>,
) where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let protocol = Channels::channels(base64);
    let (mut sink, mut source) = client.split();
    let (messages, mut written) = mpsc::channel::<Message>(MESSAGES);
    let mut connections = JoinSet::new();
    let mut inputs = Vec::new();
    for (index, port) in (0_u8..).zip(ports) {
        let (input, said) = mpsc::channel(MESSAGES);
        inputs.push(input);
        let speaker = Speaker {
            messages: messages.clone(),
            protocol,
            channel: index * 2,
        };
        connections.spawn(connection(target.clone(), port, speaker, said));
    }
    drop(messages);
    let listening = async {
        while let Some(Ok(message)) = source.next().await {
            match protocol.read(message) {
                Said::Data(channel, bytes) if channel % 2 == 0 => {
                    let place = usize::try_from(channel / 2).unwrap_or(usize::MAX);
                    if let Some(input) = inputs.get(place) {
                        // A connection that has ended hears nothing more.
                        let _ = input.send(bytes).await;
                    }
                }
                Said::End => return,
                _ => {}
            }
        }
    };
    let telling = async {
        let mut pings = tokio::time::interval(PING_EVERY);
        pings.reset();
        loop {
            let message = tokio::select! {
                message = written.recv() => message,
                _ = pings.tick() => Some(Message::Ping(Bytes::new())),
            };
            let Some(message) = message else {
                return true;
            };
            if sink.send(message).await.is_err() {
                return false;
            }
        }
    };
    let ended = tokio::select! {
        () = listening => false,
        ended = telling => ended,
    };
    connections.shutdown().await;
    if ended {
        end(sink, source).await;
    }
}

/// Writes to the two channels of one port.
struct Speaker {
    messages: mpsc::Sender<Message>,
    protocol: Channels,
    channel: u8,
}

impl Speaker {
    /// `None` when the client is gone.
    async fn say(&self, channel: u8, bytes: &[u8]) -> Option<()> {
        let message = self.protocol.write(self.channel + channel, bytes);
        self.messages.send(message).await.ok()
    }
}

const DATA: u8 = 0;
const ERRORS: u8 = 1;

async fn connection(
    target: Target,
    port: u16,
    speaker: Speaker,
    said: mpsc::Receiver<Bytes>,
) -> Option<()> {
    for channel in [DATA, ERRORS] {
        speaker.say(channel, &port.to_le_bytes()).await?;
    }
    let node = match target.connect(port).await {
        Ok(node) => node,
        Err(refused) => {
            let text = target.failure(port, refused);
            return speaker.say(ERRORS, &text).await;
        }
    };
    converse(&speaker, node, said).await
}

async fn converse(speaker: &Speaker, node: NodeStream, said: mpsc::Receiver<Bytes>) -> Option<()> {
    let mut from_node = node.from_node;
    tokio::select! {
        told = tell(speaker, &mut from_node) => told,
        () = listen(said, &node.to_node) => None,
    }
}

/// Until the pod has said all. A channel cannot be closed alone, so who waits for the end is told by the end of the
/// whole; what the client still sends has [`LINGER`] to arrive.
async fn tell(speaker: &Speaker, from_node: &mut mpsc::Receiver<StreamFrame>) -> Option<()> {
    while let Some(frame) = from_node.recv().await {
        match frame.frame {
            Some(Frame::Data(output)) if output.channel == FROM_NODE => {
                speaker.say(DATA, &output.data).await?;
            }
            Some(Frame::CloseChannel(FROM_NODE)) => break,
            _ => {}
        }
    }
    let rest = async { while from_node.recv().await.is_some() {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
    Some(())
}

async fn listen(mut said: mpsc::Receiver<Bytes>, to_node: &mpsc::Sender<StreamFrame>) {
    while let Some(bytes) = said.recv().await {
        if to_node.send(data(TO_NODE, bytes)).await.is_err() {
            break;
        }
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_the_pod_has_said_all() {
        let (to_client, from_node) = mpsc::channel(8);
        let (to_node, mut heard) = mpsc::channel(8);
        let (input, said) = mpsc::channel(8);
        let (messages, mut written) = mpsc::channel(8);
        let speaker = Speaker {
            messages,
            protocol: Channels::channels(false),
            channel: 0,
        };
        let node = NodeStream { from_node, to_node };
        let talk = tokio::spawn(async move { converse(&speaker, node, said).await });
        to_client
            .send(data(FROM_NODE, Bytes::from_static(b"bye")))
            .await
            .unwrap();
        let close = StreamFrame {
            frame: Some(Frame::CloseChannel(FROM_NODE)),
        };
        to_client.send(close).await.unwrap();
        assert_eq!(written.recv().await, Some(Message::binary(&b"\x00bye"[..])));
        // What is on its way still arrives, though the pod's stream stays open as long as the client may speak.
        input.send(Bytes::from_static(b"last")).await.unwrap();
        assert_eq!(
            heard.recv().await,
            Some(data(TO_NODE, Bytes::from_static(b"last")))
        );
        let ended = tokio::time::timeout(Duration::from_secs(2), talk).await;
        assert_eq!(ended.expect("it ends").unwrap(), Some(()));
        assert_eq!(written.recv().await, None);
    }
}
