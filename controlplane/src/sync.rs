//! Node sync: the gRPC side of the control plane.
//!
//! A node's agent holds one Sync stream. What comes up it goes to [`uplink`]; what goes down is made by the
//! [`hub`], which all streams share. Who the node is says its client certificate and nothing else.
//!
//! Deliberately not here: TLS and the listener (they are the API server's), and any decision about pods.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use proto::node::v1 as wire;
use proto::node::v1::control_message::Message as Down;
use proto::node::v1::node_message::Message as Up;
use proto::node::v1::node_sync_server::{NodeSync, NodeSyncServer};
use proto::node::v1::stream_frame::Frame;
use proto::node::v1::{ControlMessage, NodeMessage, StreamFrame};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::User;
use crate::cache::Cache;
use crate::nodestream::NodeStreams;
use crate::registry::{ApiError, Client};

mod answer;
mod applied;
mod batch;
mod convert;
mod credentials;
mod hold;
mod hub;
mod metrics;
mod mirrors;
mod node_events;
mod podstatus;
mod references;
mod register;
mod share;
mod uplink;
mod volumes;

#[cfg(test)]
mod tests;

use answer::Outbound;
use applied::Introduction;
pub(crate) use applied::{Applied, Connected};
pub(crate) use credentials::Credentials;
pub(crate) use hold::Limits;
pub(crate) use metrics::SyncMetrics;

/// The component that events of nodes come from.
const COMPONENT: &str = "kubelet";
/// How long a node has to introduce itself. Tests do not wait that long.
const HELLO: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Messages between a stream's tasks.
const MESSAGES: usize = 16;
/// A node's status with many images, or a pod's with many containers, stays far below this.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What every stream shares.
#[derive(Clone)]
pub(crate) struct Service {
    client: Client,
    cache: Cache,
    hub: hub::Handle,
    streams: NodeStreams,
    applied: Applied,
    metrics: SyncMetrics,
    /// Absent where nothing is given out.
    credentials: Option<Credentials>,
    /// See [`uplink::TURNS`].
    turns: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// Starts the hub and returns the gRPC service for the router of the TLS port, and what the nodes have
/// acknowledged. Requests must carry a [`User`] in their extensions.
pub(crate) fn service(
    client: &Client,
    cache: &Cache,
    streams: &NodeStreams,
    limits: Limits,
    metrics: &SyncMetrics,
    credentials: Option<Credentials>,
    shutdown: &CancellationToken,
) -> (axum::Router, Applied) {
    let applied = Applied::default();
    let service = Service {
        client: client.with_manager(COMPONENT),
        cache: cache.clone(),
        hub: hub::start(cache, &applied, limits, metrics, shutdown),
        streams: streams.clone(),
        applied: applied.clone(),
        metrics: metrics.clone(),
        credentials,
        turns: Arc::new(Semaphore::new(uplink::TURNS)),
        shutdown: shutdown.clone(),
    };
    let store = client.registry().store().clone();
    tokio::spawn(share::share(store, applied.clone(), shutdown.clone()));
    let server = NodeSyncServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let router = tonic::service::Routes::new(server).into_axum_router();
    let router = router.layer(axum::middleware::map_response(answer::complete));
    (router, applied)
}

/// The node that the request's certificate names.
fn node_of<T>(request: &Request<T>) -> Result<String, Status> {
    let user = request
        .extensions()
        .get::<User>()
        .ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    user.node_name()
        .map(str::to_owned)
        .ok_or_else(|| Status::permission_denied(format!("user \"{}\" is no node", user.name)))
}

fn status_of(error: &ApiError) -> Status {
    let message = error.to_string();
    match error.code() {
        400 | 422 => Status::invalid_argument(message),
        403 => Status::permission_denied(message),
        404 => Status::not_found(message),
        409 => Status::aborted(message),
        503 | 504 => Status::unavailable(message),
        _ => Status::internal(message),
    }
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeSync for Service {
    type SyncStream = Outgoing<ControlMessage>;
    type StreamStream = Outgoing<StreamFrame>;

    async fn sync(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let node = node_of(&request)?;
        let (sender, receiver) = mpsc::channel(MESSAGES);
        let service = self.clone();
        // The answer's head goes out at once: an agent may wait for it before it says Hello.
        tokio::spawn(async move {
            let ended = service.serve(&node, request.into_inner(), &sender).await;
            if let Err(status) = ended {
                tracing::info!(node, code = ?status.code(), message = status.message(), "node sync ended");
                // The node may be gone already.
                let _ = sender.send(Box::new(Err(status))).await;
            }
        });
        Ok(answer::begin(receiver, stream::empty().boxed()))
    }

    async fn stream(
        &self,
        request: Request<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let node = node_of(&request)?;
        let (sender, receiver) = mpsc::channel(MESSAGES);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(status) = service.carry(&node, request.into_inner(), &sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

impl Service {
    /// One Sync stream from Hello to its end.
    async fn serve(
        &self,
        node: &str,
        mut incoming: Streaming<NodeMessage>,
        sender: &mpsc::Sender<Outbound>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO, incoming.message()).await;
        let hello = match first.map_err(|_| Status::deadline_exceeded("no Hello"))?? {
            Some(NodeMessage {
                message: Some(Up::Hello(hello)),
            }) => hello,
            Some(_) => return Err(Status::invalid_argument("the first message must be Hello")),
            None => return Ok(()),
        };
        if hello.node_name != node {
            return Err(Status::permission_denied(format!(
                "node \"{}\" has a certificate for \"{node}\"",
                hello.node_name
            )));
        }
        // In a place of its own, which is free afterwards: the stream's lasts for as long as the stream.
        Box::pin(register::register(&self.client, node, &hello))
            .await
            .map_err(|error| status_of(&error))?;
        tracing::info!(node, agent = hello.agent_version, "node connected");
        self.cache.synced().await;
        let mut requests = self.streams.register(node);
        let mut batches = self.hub.connect(node).await?;
        let _connected = self.metrics.connected();
        let (ask, questions) = mpsc::channel(credentials::QUESTIONS);
        let (reply, mut answers) = mpsc::channel(MESSAGES);
        let answering = async {
            match self.credentials.clone() {
                Some(credentials) => {
                    let client = self.client.clone();
                    credentials.answer(client, node, questions, reply).await;
                }
                None => drop((questions, reply)),
            }
            std::future::pending::<()>().await;
        };
        if let Some(credentials) = &self.credentials {
            let trust = wire::Trust {
                ca_pem: credentials.pki.trusted_pem(),
            };
            let message = ControlMessage {
                message: Some(Down::Trust(trust)),
            };
            if sender.send(answer::message(&message)).await.is_err() {
                return Ok(());
            }
        }
        let uplink = uplink::Uplink::new(
            &self.client,
            &self.cache,
            &self.applied,
            &self.streams.usage,
            &self.metrics,
            ask,
            &self.turns,
            node,
            Introduction {
                agent_version: hello.agent_version,
                data_plane: hello.data_plane.unwrap_or_default(),
            },
        );
        let down = async {
            let store = self.client.registry().store();
            let mut addresses = Vec::new();
            loop {
                let message = tokio::select! {
                    now = store.api_addresses(&addresses) => {
                        addresses = now;
                        let urls = addresses.iter().map(|address| format!("https://{address}"));
                        Down::Servers(wire::Servers { urls: urls.collect() })
                    }
                    batch = batches.next() => match batch {
                        Some(batch) => {
                            if sender.send(answer::batch(batch.parts)).await.is_err() {
                                return Ok(());
                            }
                            uplink.sent(batch.revision);
                            continue;
                        }
                        None => return Err(Status::aborted("another stream of this node took over")),
                    },
                    Some(request) = requests.recv() => Down::StreamRequest(*request),
                    Some(answer) = answers.recv() => *answer,
                };
                let message = ControlMessage {
                    message: Some(message),
                };
                if sender.send(answer::message(&message)).await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            ended = down => ended,
            ended = uplink.run(incoming) => ended,
            () = answering => Ok(()),
            () = sender.closed() => Ok(()),
            () = self.shutdown.cancelled() => Err(Status::unavailable("the server is shutting down")),
        }
    }

    /// One byte stream: frames both ways between the agent and whoever asked for it.
    async fn carry(
        &self,
        node: &str,
        mut incoming: Streaming<StreamFrame>,
        sender: &mpsc::Sender<Result<StreamFrame, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO, incoming.message()).await;
        let open = match first.map_err(|_| Status::deadline_exceeded("no StreamOpen"))?? {
            Some(StreamFrame {
                frame: Some(Frame::Open(open)),
            }) => open,
            Some(_) => {
                return Err(Status::invalid_argument(
                    "the first frame must be StreamOpen",
                ));
            }
            None => return Ok(()),
        };
        let mut stream = self
            .streams
            .accept(node, &open.id)
            .ok_or_else(|| Status::not_found("nobody waits for this stream"))?;
        let to_caller = stream.to_node;
        let up = async {
            while let Some(frame) = incoming.message().await? {
                if to_caller.send(frame).await.is_err() {
                    // The caller has gone: the agent learns it by the end of the call.
                    return Ok::<(), Status>(());
                }
            }
            Ok(())
        };
        let down = async {
            while let Some(frame) = stream.from_node.recv().await {
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            // The caller only closed its side; what the node sends still matters to it, if to anyone.
            to_caller.closed().await;
        };
        tokio::select! {
            ended = up => ended,
            () = down => Ok(()),
            () = sender.closed() => Ok(()),
            () = self.shutdown.cancelled() => Err(Status::unavailable("the server is shutting down")),
        }
    }
}
