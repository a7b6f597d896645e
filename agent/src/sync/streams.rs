//! Byte streams that the control plane asks for: into pods, and to what the agent itself serves.
//!
//! Each is a call on a connection of its own: one whose reader hangs then holds up no other, nor what the node has to
//! say of itself. What waits of it is bounded by a few frames and HTTP/2's window.
//!
//! ```text
//!   logs       a container's log
//!   commands   exec and attach: a container's processes, its terminal
//!   connections  into the pod's network, to an address, to the node's own server
//!   sizes      sizes of a terminal out of a stream of JSON (pure)
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::node::v1 as wire;
use proto::node::v1::node_sync_client::NodeSyncClient;
use proto::node::v1::stream_frame::Frame;
use proto::node::v1::stream_request::Kind;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::pods::{Machine, Pods};

mod commands;
mod connections;
mod logs;
mod sizes;

pub(crate) use connections::NodeServer;

/// Channels: of remote commands, and of connections, which use the first two.
const TO_POD: u32 = 0;
const FROM_POD: u32 = 1;
const STDERR: u32 = 2;
const STATUS: u32 = 3;
const RESIZE: u32 = 4;

/// Frames that wait for a slow reader; nothing more is read until they are gone.
const FRAMES: usize = 4;
/// Streams of a node at once.
const MAX_STREAMS: usize = 2048;
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no stream: as the API server is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    code: u32,
    /// Empty: the message is what a kubelet says in plain text.
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn bad_request(message: String) -> Self {
        Self {
            code: 400,
            reason: "BadRequest",
            message,
        }
    }

    fn not_found(message: String) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message,
        }
    }

    fn words(code: u32, message: String) -> Self {
        Self {
            code,
            reason: "",
            message,
        }
    }
}

/// What serves streams; one per agent.
pub(crate) struct Streams<M: Machine> {
    pods: Arc<Pods<M>>,
    node_server: Option<Arc<dyn NodeServer>>,
    places: Arc<Semaphore>,
}

/// One call, accepted or not.
struct Call {
    send: mpsc::Sender<wire::StreamFrame>,
    incoming: tonic::Streaming<wire::StreamFrame>,
}

impl Call {
    async fn accept(&self, uid: &str) -> Option<()> {
        let uid = uid.to_owned();
        let accepted = Frame::Accepted(wire::StreamAccepted { uid });
        self.send.send(frame(accepted)).await.ok()
    }
}

impl<M: Machine> Streams<M> {
    pub(crate) fn new(pods: Arc<Pods<M>>, node_server: Option<Arc<dyn NodeServer>>) -> Self {
        Self {
            pods,
            node_server,
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }

    /// Opens the stream that was asked for and serves it to its end.
    pub(crate) async fn serve(self: Arc<Self>, endpoint: Endpoint, request: wire::StreamRequest) {
        let Ok(_place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!("a stream was not opened: there are too many");
            return;
        };
        if let Err(status) = self.call(endpoint, &request).await {
            tracing::debug!(stream = %request.id, %status, "stream ended");
        }
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        request: &wire::StreamRequest,
    ) -> Result<(), tonic::Status> {
        let failed = |error: tonic::transport::Error| tonic::Status::unavailable(error.to_string());
        let channel = endpoint
            .connect_timeout(CONNECT)
            .connect()
            .await
            .map_err(failed)?;
        let (send, frames) = mpsc::channel(FRAMES);
        let open = wire::StreamOpen {
            id: request.id.clone(),
        };
        // There is room: it is the first.
        let _ = send.try_send(frame(Frame::Open(open)));
        let incoming = NodeSyncClient::new(channel)
            .stream(ReceiverStream::new(frames))
            .await?
            .into_inner();
        let gone = send.clone();
        let mut call = Call { send, incoming };
        tokio::select! {
            served = self.dispatch(request, &mut call) => if let Err(refusal) = served {
                let error = Frame::Error(wire::StreamError {
                    code: refusal.code,
                    reason: refusal.reason.to_owned(),
                    message: refusal.message,
                });
                // When nobody reads it, nobody wants to know.
                let _ = call.send.send(frame(error)).await;
            },
            () = gone.closed() => {}
        }
        // All that was said is read when the other side ends the call.
        drop(gone);
        let Call { send, mut incoming } = call;
        drop(send);
        while incoming.message().await?.is_some() {}
        Ok(())
    }

    async fn dispatch(
        &self,
        request: &wire::StreamRequest,
        call: &mut Call,
    ) -> Result<(), Refusal> {
        match &request.kind {
            Some(Kind::Logs(logs)) => {
                tokio::select! {
                    written = logs::write(&self.pods, request, logs, &call.send) => written,
                    () = hang_up(&mut call.incoming) => Ok(()),
                }
            }
            Some(Kind::Exec(exec)) => commands::exec(&self.pods, request, exec, call).await,
            Some(Kind::Attach(attach)) => commands::attach(&self.pods, request, attach, call).await,
            Some(Kind::PortForward(forward)) => {
                connections::port_forward(&self.pods, request, forward, call).await
            }
            Some(Kind::Dial(dial)) => connections::dial(dial, call).await,
            Some(Kind::NodeServer(_)) => {
                connections::node_server(self.node_server.as_ref(), call).await
            }
            None => Err(Refusal::bad_request(
                "the node does not know this kind of stream".to_owned(),
            )),
        }
    }
}

/// Until the other side ends the call.
async fn hang_up(incoming: &mut tonic::Streaming<wire::StreamFrame>) {
    while let Ok(Some(_)) = incoming.message().await {}
}

fn frame(frame: Frame) -> wire::StreamFrame {
    wire::StreamFrame { frame: Some(frame) }
}

fn data(channel: u32, data: Bytes) -> wire::StreamFrame {
    frame(Frame::Data(wire::StreamData { channel, data }))
}

fn close(channel: u32) -> wire::StreamFrame {
    frame(Frame::CloseChannel(channel))
}
