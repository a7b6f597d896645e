//! Listens for other members: gRPC over mutual TLS. Who has no certificate of a member is not let in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use proto::raft::v1 as pb;
use proto::raft::v1::peers_server::{Peers, PeersServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::{Request, Response, Status, Streaming};

use super::MAX_MESSAGE;
use super::inbox::{Inbox, Rejected};
use crate::store::snapshot::MAX_CHUNK;

const HANDSHAKE: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// Connections that have not yet shown whose they are. Each other member makes one now and then; where strangers make more,
/// the oldest has to give way.
const MAX_HANDSHAKES: usize = 256;
const MAX_STREAMS: u32 = 512;
const WINDOW: u32 = 4 << 20;
/// Between two parts of a snapshot.
const NEXT_PART: Duration = Duration::from_secs(30);
const RETRY_ACCEPT: Duration = Duration::from_millis(50);

/// Says whether a certificate that TLS has verified is a member's.
pub(crate) type IsMember = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

struct Service {
    inbox: Inbox,
}

/// Serves until it is dropped.
pub(in crate::store) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    is_member: IsMember,
    inbox: Inbox,
) {
    let (accepted, connections) = mpsc::channel(16);
    let accept = accept(listener, TlsAcceptor::from(tls), is_member, accepted);
    let service = PeersServer::new(Service { inbox })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let serve = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PROBE_EVERY))
        .http2_keepalive_timeout(Some(PROBE_PATIENCE))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(service)
        .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(connections));
    tokio::select! {
        () = accept => {}
        served = serve => if let Err(error) = served {
            tracing::error!(%error, "members are not served any more");
        }
    }
}

type Accepted = std::io::Result<TlsStream<TcpStream>>;

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    is_member: IsMember,
    accepted: mpsc::Sender<Accepted>,
) {
    // They end with this task.
    let mut tasks = tokio::task::JoinSet::new();
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "accepting a member's connection failed");
                tokio::time::sleep(RETRY_ACCEPT).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (tls, is_member, accepted) = (tls.clone(), Arc::clone(&is_member), accepted.clone());
        handshakes.retain(|handshake| !handshake.is_finished());
        if handshakes.len() >= MAX_HANDSHAKES
            && let Some(oldest) = handshakes.pop_front()
        {
            oldest.abort();
        }
        let handshake = tasks.spawn(async move {
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) if names_member(&stream, &is_member) => {
                    // The server has ended: so will this task.
                    let _ = accepted.send(Ok(stream)).await;
                }
                Ok(Ok(_)) => tracing::warn!(%address, "refused: the certificate is no member's"),
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
        handshakes.push_back(handshake);
    }
}

fn names_member(stream: &TlsStream<TcpStream>, is_member: &IsMember) -> bool {
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates();
    chain
        .and_then(|chain| chain.first())
        .is_some_and(|leaf| is_member(leaf))
}

fn status(rejected: Rejected) -> Status {
    let message = rejected.to_string();
    match rejected {
        Rejected::Protocol { .. } | Rejected::Cluster | Rejected::Member { .. } => {
            Status::failed_precondition(message)
        }
        Rejected::Malformed(_) | Rejected::Unknown | Rejected::Snapshot(_) => {
            Status::invalid_argument(message)
        }
        Rejected::Stopped(_) => Status::unavailable(message),
    }
}

#[tonic::async_trait]
impl Peers for Service {
    async fn call(
        &self,
        request: Request<pb::PeerRequest>,
    ) -> Result<Response<pb::PeerResponse>, Status> {
        let answer = self.inbox.answer(request.into_inner()).await;
        answer.map(Response::new).map_err(status)
    }

    type ConverseStream = BoxStream<'static, Result<pb::PeerResponse, Status>>;

    async fn converse(
        &self,
        request: Request<Streaming<pb::PeerRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let both = (self.inbox.clone(), request.into_inner());
        let answers = futures::stream::try_unfold(both, |(inbox, mut requests)| async move {
            let Some(request) = requests.message().await? else {
                return Ok(None);
            };
            let answer = inbox.answer(request).await.map_err(status)?;
            Ok(Some((answer, (inbox, requests))))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        use pb::snapshot_part::Part;
        let mut parts = request.into_inner();
        let mut arriving = None;
        loop {
            let part = tokio::time::timeout(NEXT_PART, parts.message()).await;
            let Some(part) = part.map_err(|_| Status::deadline_exceeded("no next part"))?? else {
                break;
            };
            match (part.part, arriving.as_mut()) {
                (Some(Part::Head(head)), None) => {
                    arriving = Some(self.inbox.begin_snapshot(head).map_err(status)?);
                }
                (Some(Part::Chunk(chunk)), Some(arriving)) if chunk.len() <= MAX_CHUNK => {
                    arriving.push(&chunk).map_err(status)?;
                }
                _ => return Err(Status::invalid_argument("a part out of place")),
            }
        }
        let arriving = arriving.ok_or_else(|| Status::invalid_argument("no head"))?;
        let installed = self.inbox.finish_snapshot(arriving).await;
        installed.map(Response::new).map_err(status)
    }
}
