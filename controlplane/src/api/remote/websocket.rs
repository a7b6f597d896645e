//! Remote commands over a WebSocket: each message begins with the number of its channel.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use proto::node::v1::stream_frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::status::Outcome;
use super::{ERROR, RESIZE, STDERR, STDIN, STDOUT, Streams, close, data};
use crate::nodestream::NodeStream;

/// A client that is gone is noticed by writing to it, also while its input is not read.
const PING_EVERY: Duration = Duration::from_secs(30);
const LINGER: Duration = Duration::from_secs(5);
/// The channel on which version 5 says that another one ends.
const CLOSE: u8 = 255;

/// What the versions differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Protocol {
    pub(in super::super) base64: bool,
    /// The end is told as a `Status`, not as text.
    json: bool,
    /// The client can end its input.
    closes: bool,
}

const fn protocol(base64: bool, json: bool, closes: bool) -> Protocol {
    Protocol {
        base64,
        json,
        closes,
    }
}

pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[
    ("", protocol(false, false, false)),
    ("v5.channel.k8s.io", protocol(false, true, true)),
    ("v4.channel.k8s.io", protocol(false, true, false)),
    ("v4.base64.channel.k8s.io", protocol(true, true, false)),
    ("channel.k8s.io", protocol(false, false, false)),
    ("base64.channel.k8s.io", protocol(true, false, false)),
];

/// What a client's message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Said {
    Data(u32, Bytes),
    Close(u32),
    /// Nothing that concerns a channel.
    Nothing,
    /// The connection is over.
    End,
}

impl Protocol {
    /// Without names for channels that end: what forwards ports by channels speaks it too.
    pub(in super::super) const fn channels(base64: bool) -> Self {
        protocol(base64, true, false)
    }

    pub(in super::super) fn read(self, message: Message) -> Said {
        let payload = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return Said::End,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Said::Nothing,
        };
        let Some(first) = payload.first().copied() else {
            return Said::Nothing;
        };
        let rest = payload.slice(1..);
        if self.base64 {
            let channel = u32::from(first.wrapping_sub(b'0'));
            return match BASE64.decode(&rest) {
                Ok(bytes) => Said::Data(channel, bytes.into()),
                Err(_) => Said::End,
            };
        }
        match (first, rest.as_ref()) {
            (CLOSE, [channel]) if self.closes => Said::Close(u32::from(*channel)),
            (CLOSE, _) if self.closes => Said::Nothing,
            (channel, _) => Said::Data(u32::from(channel), rest),
        }
    }

    pub(in super::super) fn write(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
            text.push(char::from(b'0'.wrapping_add(channel)));
            BASE64.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = Vec::with_capacity(1 + bytes.len());
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::binary(message)
    }
}

/// Until the command has ended or the client is gone.
pub(super) async fn carry<IO: AsyncRead + AsyncWrite + Unpin>(
    client: WebSocketStream<IO>,
    protocol: Protocol,
    mut node: NodeStream,
    streams: Streams,
) {
    let (mut sink, mut source) = client.split();
    let to_node = node.to_node.clone();
    let ended = tokio::select! {
        () = listen(&mut source, protocol, &to_node, streams) => false,
        told = tell(&mut sink, protocol, &mut node.from_node, streams) => told.is_ok(),
    };
    drop(node);
    if ended {
        end(sink, source).await;
    }
}

/// What the client says, to the node; ends when the client is gone.
async fn listen(
    source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    protocol: Protocol,
    to_node: &mpsc::Sender<proto::node::v1::StreamFrame>,
    streams: Streams,
) {
    let mut input = streams.stdin;
    while let Some(Ok(message)) = source.next().await {
        let frame = match protocol.read(message) {
            Said::Data(STDIN, bytes) if input && !bytes.is_empty() => data(STDIN, bytes),
            Said::Data(RESIZE, bytes) if streams.tty => data(RESIZE, bytes),
            Said::Close(STDIN) if input => {
                input = false;
                close(STDIN)
            }
            Said::End => return,
            _ => continue,
        };
        if to_node.send(frame).await.is_err() {
            // The node has ended it: what it said last is still to be told.
            return std::future::pending().await;
        }
    }
}

/// What the node says, to the client.
async fn tell(
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    protocol: Protocol,
    from_node: &mut mpsc::Receiver<proto::node::v1::StreamFrame>,
    streams: Streams,
) -> Result<(), Error> {
    let mut outcome = Outcome::default();
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.reset();
    // An empty message tells the client that the command's streams are there.
    let first = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    sink.send(protocol.write(number(first), &[])).await?;
    loop {
        let frame = tokio::select! {
            frame = from_node.recv() => frame,
            _ = pings.tick() => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        let Some(frame) = frame else { break };
        match frame.frame {
            Some(Frame::Data(output))
                if output.channel == STDOUT && streams.stdout
                    || output.channel == STDERR && streams.stderr =>
            {
                let message = protocol.write(number(output.channel), &output.data);
                sink.send(message).await?;
            }
            Some(Frame::Data(status)) if status.channel == ERROR => outcome.push(&status.data),
            _ => {}
        }
    }
    if let Some(text) = outcome.say(protocol.json) {
        sink.send(protocol.write(number(ERROR), &text)).await?;
    }
    Ok(())
}

fn number(channel: u32) -> u8 {
    u8::try_from(channel).unwrap_or(u8::MAX)
}

/// Closes in order: the client's answer is waited for, so that it reads all.
pub(in super::super) async fn end<IO: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<IO>, Message>,
    mut source: SplitStream<WebSocketStream<IO>>,
) {
    let close = Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }));
    let quiet = async {
        if sink.send(close).await.is_ok() {
            while let Some(Ok(_)) = source.next().await {}
        }
        // TLS has an end of its own, without which a client may think that something is missing.
        if let Ok(mut client) = sink.reunite(source) {
            let _ = client.get_mut().shutdown().await;
        }
    };
    // Whatever comes of it, the connection is over.
    let _ = tokio::time::timeout(LINGER, quiet).await;
}
