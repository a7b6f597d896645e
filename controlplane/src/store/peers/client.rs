//! Asks other members over gRPC and mutual TLS. One connection to each, made when it is needed and again when
//! it is lost.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use proto::raft::v1 as pb;
use proto::raft::v1::peers_client::PeersClient;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{CallError, MAX_MESSAGE, Peer, Transport};
use crate::store::snapshot::Image;

const CONNECT: Duration = Duration::from_secs(2);
/// A connection over which nothing comes back for so long is made anew: a network that was cut and heals is
/// not noticed by TCP for much longer.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
const WINDOW: u32 = 4 << 20;
/// Chunks of a snapshot that wait to be sent.
const CHUNKS: usize = 4;

pub(in crate::store) struct Dialler {
    tls: Arc<rustls::ClientConfig>,
    /// The name that every member's certificate bears.
    name: ServerName<'static>,
    /// Where connections live, whoever asks first.
    runtime: Handle,
    channels: Mutex<HashMap<Peer, PeersClient<Channel>>>,
    /// Those on which nothing is under way.
    conversations: Mutex<HashMap<Peer, Conversation>>,
}

/// A stream of questions, and one of answers. A question on it costs a fraction of what one by itself does, and the log is
/// sent one message after the other anyway.
enum Conversation {
    Open {
        questions: mpsc::Sender<pb::PeerRequest>,
        answers: Box<tonic::Streaming<pb::PeerResponse>>,
    },
    /// The other side is of a version that has none.
    Unknown,
}

impl Dialler {
    pub(in crate::store) fn new(
        tls: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        runtime: Handle,
    ) -> Self {
        Self {
            tls,
            name,
            runtime,
            channels: Mutex::default(),
            conversations: Mutex::default(),
        }
    }

    fn client(&self, peer: &Peer) -> Result<PeersClient<Channel>, CallError> {
        let mut channels = self.channels.lock().expect("no panic while holding it");
        if let Some(client) = channels.get(peer) {
            return Ok(client.clone());
        }
        // A member that has moved leaves its old connection behind.
        channels.retain(|other, _| other.id != peer.id);
        self.conversations().retain(|other, _| other.id != peer.id);
        let unsent = |e: &dyn std::fmt::Display| {
            CallError::Unsent(format!("member {} at {:?}: {e}", peer.id, peer.address))
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", peer.address))
            .map_err(|e| unsent(&e))?
            .http2_keep_alive_interval(PROBE_EVERY)
            .keep_alive_timeout(PROBE_PATIENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .tcp_nodelay(true);
        let connector = Connector {
            tls: TlsConnector::from(Arc::clone(&self.tls)),
            name: self.name.clone(),
            address: peer.address.clone(),
        };
        let _there = self.runtime.enter();
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            connector.clone().connect()
        }));
        let client = PeersClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        channels.insert(peer.clone(), client.clone());
        Ok(client)
    }

    fn conversations(&self) -> MutexGuard<'_, HashMap<Peer, Conversation>> {
        let conversations = self.conversations.lock();
        conversations.expect("no panic while holding it")
    }

    /// Asks on the conversation with the peer, which is begun anew after whatever went wrong on it: what comes late must not
    /// be taken for the answer to another question.
    async fn converse(
        &self,
        peer: &Peer,
        request: pb::PeerRequest,
    ) -> Result<pb::PeerResponse, CallError> {
        let mut client = self.client(peer)?;
        let failed = |status: tonic::Status| call_error(peer, &status);
        let ended = || CallError::Lost(format!("member {} at {}: it ended", peer.id, peer.address));
        let open = self.conversations().remove(peer);
        let open = match open {
            Some(open) => open,
            None => begin(&mut client).await.map_err(failed)?,
        };
        let Conversation::Open {
            questions,
            mut answers,
        } = open
        else {
            let answer = client.call(request).await.map_err(failed)?;
            self.conversations()
                .insert(peer.clone(), Conversation::Unknown);
            return Ok(answer.into_inner());
        };
        if questions.send(request).await.is_err() {
            // The answers say why.
            return Err(match answers.message().await {
                Err(status) => failed(status),
                Ok(_) => ended(),
            });
        }
        let answer = answers.message().await.map_err(failed)?;
        let answer = answer.ok_or_else(ended)?;
        let open = Conversation::Open { questions, answers };
        self.conversations().insert(peer.clone(), open);
        Ok(answer)
    }
}

async fn begin(client: &mut PeersClient<Channel>) -> Result<Conversation, tonic::Status> {
    let (questions, asked) = mpsc::channel(1);
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    match client.converse(asked).await {
        Ok(answers) => Ok(Conversation::Open {
            questions,
            answers: Box::new(answers.into_inner()),
        }),
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(Conversation::Unknown),
        Err(status) => Err(status),
    }
}

type Connection = TokioIo<TlsStream<TcpStream>>;
type Connecting = Pin<Box<dyn Future<Output = std::io::Result<Connection>> + Send>>;

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
    address: String,
}

impl Connector {
    fn connect(self) -> Connecting {
        Box::pin(async move {
            let connect = async {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                self.tls.connect(self.name, stream).await
            };
            let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
            let connected = tokio::time::timeout(CONNECT, connect).await;
            Ok(TokioIo::new(connected.map_err(|_| late())??))
        })
    }
}

/// Whether the question may have got there.
fn call_error(peer: &Peer, status: &tonic::Status) -> CallError {
    let about = format!("member {} at {}", peer.id, peer.address);
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            let why = deepest(error);
            return CallError::Unsent(format!("{about}: {why}"));
        }
        source = error.source();
    }
    match status.code() {
        tonic::Code::FailedPrecondition
        | tonic::Code::InvalidArgument
        | tonic::Code::Unimplemented
        | tonic::Code::PermissionDenied => {
            CallError::Rejected(format!("{about}: {}", status.message()))
        }
        _ => CallError::Lost(format!("{about}: {}", status.message())),
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

fn late(peer: &Peer) -> CallError {
    CallError::Lost(format!(
        "member {} at {}: it did not answer in time",
        peer.id, peer.address
    ))
}

impl Transport for Dialler {
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        request: pb::PeerRequest,
        patience: Duration,
    ) -> BoxFuture<'a, Result<pb::PeerResponse, CallError>> {
        Box::pin(async move {
            if let Some(pb::peer_request::Request::Append(_)) = &request.request {
                let answer = tokio::time::timeout(patience, self.converse(peer, request)).await;
                return answer.unwrap_or_else(|_| Err(late(peer)));
            }
            let mut client = self.client(peer)?;
            match tokio::time::timeout(patience, client.call(request)).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(call_error(peer, &status)),
                Err(_) => Err(late(peer)),
            }
        })
    }

    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        head: pb::SnapshotHead,
        image: Image,
        patience: Duration,
    ) -> BoxFuture<'a, Result<pb::SnapshotResponse, CallError>> {
        Box::pin(async move {
            use pb::snapshot_part::Part;
            let mut client = self.client(peer)?;
            let (parts, receiver) = mpsc::channel(CHUNKS);
            let part = |part| pb::SnapshotPart { part: Some(part) };
            let feed = tokio::spawn(async move {
                let mut next = Some(part(Part::Head(head)));
                let mut chunks = image.chunks();
                while let Some(sent) = next {
                    if parts.send(sent).await.is_err() {
                        return;
                    }
                    next = chunks.next().map(|chunk| part(Part::Chunk(chunk)));
                }
            });
            let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let answer = tokio::time::timeout(patience, client.snapshot(stream)).await;
            feed.abort();
            match answer {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(call_error(peer, &status)),
                Err(_) => Err(late(peer)),
            }
        })
    }
}
