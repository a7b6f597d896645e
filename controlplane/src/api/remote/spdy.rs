//! Remote commands over SPDY: the client begins one stream for each of the command's, and one for errors.

use std::collections::HashMap;
use std::time::Duration;

use proto::node::v1::StreamFrame;
use proto::node::v1::stream_frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::status::Outcome;
use super::{ERROR, RESIZE, STDERR, STDIN, STDOUT, Streams, close, data};
use crate::nodestream::NodeStream;
use crate::spdy::{self, Ended, Incoming, Stream};

/// How long a client may take to begin its streams.
const BEGIN: Duration = Duration::from_secs(30);

/// What the versions differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocol {
    /// There is a stream for sizes of the terminal.
    resizes: bool,
    /// The end is told as a `Status`, not as text.
    json: bool,
}

const fn protocol(resizes: bool, json: bool) -> Protocol {
    Protocol { resizes, json }
}

pub(super) const PROTOCOLS: &[(&str, Protocol)] = &[
    ("", protocol(false, false)),
    ("v4.channel.k8s.io", protocol(true, true)),
    ("v3.channel.k8s.io", protocol(true, false)),
    ("v2.channel.k8s.io", protocol(false, false)),
    ("channel.k8s.io", protocol(false, false)),
];

/// Until the command has ended or the client is gone.
pub(super) async fn carry<IO>(client: IO, protocol: Protocol, node: NodeStream, streams: Streams)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut incoming, driver) = spdy::serve(client);
    let command = async {
        let begun = tokio::time::timeout(BEGIN, begin(&mut incoming, protocol, streams)).await;
        match begun {
            Ok(Some(channels)) => {
                // An end of the session is the driver's end, too.
                let _ = converse(&mut incoming, channels, protocol, node).await;
            }
            Ok(None) => {}
            Err(_) => tracing::debug!("a client did not begin its streams in time"),
        }
        incoming.end().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = driver => {}
        () = command => {}
    }
}

fn expected(protocol: Protocol, streams: Streams) -> Vec<u32> {
    let channels = [
        (STDIN, streams.stdin),
        (STDOUT, streams.stdout),
        (STDERR, streams.stderr),
        (ERROR, true),
        (RESIZE, streams.tty && protocol.resizes),
    ];
    let wanted = channels.into_iter().filter(|(_, wanted)| *wanted);
    wanted.map(|(channel, _)| channel).collect()
}

/// The streams by channel; `None` when the session ends first.
async fn begin(
    incoming: &mut Incoming,
    protocol: Protocol,
    streams: Streams,
) -> Option<HashMap<u32, Stream>> {
    let mut expected = expected(protocol, streams);
    let mut channels = HashMap::new();
    while !expected.is_empty() {
        let stream = incoming.next().await?;
        let channel = match stream.headers.get("streamtype") {
            "stdin" => Some(STDIN),
            "stdout" => Some(STDOUT),
            "stderr" => Some(STDERR),
            "error" => Some(ERROR),
            "resize" => Some(RESIZE),
            _ => None,
        };
        let place = expected.iter().position(|wanted| Some(*wanted) == channel);
        let (Some(channel), Some(place)) = (channel, place) else {
            stream.outgoing.refuse().await.ok()?;
            continue;
        };
        expected.swap_remove(place);
        stream.outgoing.accept().await.ok()?;
        channels.insert(channel, stream);
    }
    Some(channels)
}

async fn converse(
    incoming: &mut Incoming,
    mut channels: HashMap<u32, Stream>,
    protocol: Protocol,
    mut node: NodeStream,
) -> Result<(), Ended> {
    let input = channels.remove(&STDIN);
    let sizes = channels.remove(&RESIZE);
    let said = input.iter().map(|stream| stream.outgoing.clone());
    let said: Vec<_> = said.collect();
    let inputs = async {
        tokio::join!(
            listen(input, STDIN, &node.to_node),
            listen(sizes, RESIZE, &node.to_node)
        );
        std::future::pending::<()>().await;
    };
    let strangers = async {
        while let Some(stream) = incoming.next().await {
            if stream.outgoing.refuse().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        told = tell(&channels, protocol, &mut node.from_node) => told?,
        () = inputs => {}
        () = strangers => {}
    }
    for outgoing in said {
        outgoing.finish().await?;
    }
    Ok(())
}

async fn listen(stream: Option<Stream>, channel: u32, to_node: &mpsc::Sender<StreamFrame>) {
    let Some(mut stream) = stream else { return };
    while let Some(bytes) = stream.receive().await {
        if to_node.send(data(channel, bytes)).await.is_err() {
            return;
        }
    }
    // When nobody hears it, the command has ended.
    let _ = to_node.send(close(channel)).await;
}

/// What the node says, to the client.
async fn tell(
    channels: &HashMap<u32, Stream>,
    protocol: Protocol,
    from_node: &mut mpsc::Receiver<StreamFrame>,
) -> Result<(), Ended> {
    let mut outcome = Outcome::default();
    while let Some(frame) = from_node.recv().await {
        match frame.frame {
            Some(Frame::Data(output)) if output.channel == ERROR => outcome.push(&output.data),
            Some(Frame::Data(output)) => {
                if let Some(stream) = channels.get(&output.channel) {
                    stream.outgoing.send(output.data).await?;
                }
            }
            _ => {}
        }
    }
    if let (Some(stream), Some(text)) = (channels.get(&ERROR), outcome.say(protocol.json)) {
        stream.outgoing.send(text).await?;
    }
    for stream in channels.values() {
        stream.outgoing.finish().await?;
    }
    Ok(())
}
