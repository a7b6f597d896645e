//! Forwarding over SPDY: for each connection the client begins a stream for errors and one for data, and tells by a
//! number in their headers that they belong together.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proto::node::v1::stream_frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::{FROM_NODE, TO_NODE, Target};
use crate::api::remote::{close, data};
use crate::nodestream::NodeStream;
use crate::spdy::{self, Ended, Incoming, Stream};

/// How long the second stream of a pair may be missing.
const PAIR: Duration = Duration::from_secs(30);
/// Halves of pairs that may wait, and connections that may be open.
const MAX_HALVES: usize = 256;
const MAX_CONNECTIONS: usize = 1024;

/// Until the client is gone.
pub(super) async fn carry<IO>(client: IO, target: Target)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (incoming, driver) = spdy::serve(client);
    tokio::select! {
        () = driver => {}
        () = forward(incoming, target) => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Error,
    Data,
}

/// Which connection a stream is for, and as what; `None` when it says nothing sensible.
fn part(stream: &Stream) -> Option<(u64, Role, u16)> {
    let role = match stream.headers.get("streamtype") {
        "error" => Role::Error,
        "data" => Role::Data,
        _ => return None,
    };
    let port = stream.headers.get("port").parse().ok();
    let port = port.filter(|port| *port != 0)?;
    let request = match (stream.headers.get("requestid"), role) {
        // Old clients: the stream for errors is begun directly before its partner.
        ("", Role::Error) => u64::from(stream.id),
        ("", Role::Data) => u64::from(stream.id).checked_sub(2)?,
        (text, _) => text.parse().ok()?,
    };
    Some((request, role, port))
}

#[derive(Debug)]
struct Half {
    role: Role,
    stream: Stream,
    since: tokio::time::Instant,
}

async fn forward(mut incoming: Incoming, target: Target) {
    let mut halves: HashMap<u64, Half> = HashMap::new();
    let mut connections = JoinSet::new();
    let mut look = tokio::time::interval(PAIR);
    loop {
        let stream = tokio::select! {
            stream = incoming.next() => stream,
            Some(_) = connections.join_next() => continue,
            now = look.tick() => {
                // What is dropped is not said: the client has its own time.
                halves.retain(|_, half| now.duration_since(half.since) < PAIR);
                continue;
            }
        };
        let Some(stream) = stream else { break };
        let full = halves.len() >= MAX_HALVES || connections.len() >= MAX_CONNECTIONS;
        let Some((request, role, port)) = part(&stream).filter(|_| !full) else {
            let _ = stream.outgoing.refuse().await;
            continue;
        };
        if stream.outgoing.accept().await.is_err() {
            break;
        }
        let half = Half {
            role,
            stream,
            since: tokio::time::Instant::now(),
        };
        match halves.remove(&request) {
            Some(other) if other.role != half.role => {
                let (error, data) = match half.role {
                    Role::Error => (half.stream, other.stream),
                    Role::Data => (other.stream, half.stream),
                };
                let target = target.clone();
                connections.spawn(async move {
                    // An end of the session is seen by who asks for the next stream.
                    let _ = connection(error, data, port, &target).await;
                });
            }
            _ => {
                halves.insert(request, half);
            }
        }
    }
}

async fn connection(
    error: Stream,
    mut data: Stream,
    port: u16,
    target: &Target,
) -> Result<(), Ended> {
    match target.connect(port).await {
        Ok(node) => exchange(&mut data, &error, node).await?,
        Err(refused) => {
            let text: Bytes = target.failure(port, refused);
            error.outgoing.send(text).await?;
        }
    }
    error.outgoing.finish().await?;
    // Ends it in both directions, also when the client would have had more to say.
    data.outgoing.finish().await?;
    data.outgoing.reset().await
}

/// Both directions, until the pod has ended its own. The stream for errors ends with what the pod says: old clients close
/// the connection that they forward only then.
async fn exchange(client: &mut Stream, error: &Stream, mut node: NodeStream) -> Result<(), Ended> {
    let outgoing = client.outgoing.clone();
    let to_node = node.to_node.clone();
    let up = async {
        while let Some(bytes) = client.receive().await {
            if to_node.send(data(TO_NODE, bytes)).await.is_err() {
                break;
            }
        }
        // When nobody hears it, the pod has ended the connection.
        let _ = to_node.send(close(TO_NODE)).await;
        std::future::pending::<()>().await;
    };
    let down = async {
        while let Some(frame) = node.from_node.recv().await {
            match frame.frame {
                Some(Frame::Data(output)) if output.channel == FROM_NODE => {
                    outgoing.send(output.data).await?;
                }
                Some(Frame::CloseChannel(FROM_NODE)) => {
                    outgoing.finish().await?;
                    error.outgoing.finish().await?;
                }
                _ => {}
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = down => ended,
        () = up => Ok(()),
    }
}
