//! Forwarding over the channels of a WebSocket: two for each port that the query names, data and errors, each
//! begun by the port's number. One connection per port.

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
use crate::registry::ApiError;

/// Channels are numbered by one byte, and the highest is not one.
const MAX_PORTS: usize = 127;
/// Messages that wait to be written.
const MESSAGES: usize = 8;

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
    let mut from_node = node.from_node;
    tokio::select! {
        told = tell(&speaker, &mut from_node) => told,
        () = listen(said, &node.to_node) => None,
    }
}

async fn tell(speaker: &Speaker, from_node: &mut mpsc::Receiver<StreamFrame>) -> Option<()> {
    while let Some(frame) = from_node.recv().await {
        if let Some(Frame::Data(output)) = frame.frame
            && output.channel == FROM_NODE
        {
            speaker.say(DATA, &output.data).await?;
        }
    }
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
