//! Byte streams to pods on nodes: the API server asks, the node's agent dials back over node sync.
//!
//! A node has its own stream to one member of the control plane. Another one that wants a stream asks that one to pass
//! the request on; the agent then dials the member that waits, so that no byte goes through a third.
//!
//! Below `api` (which opens streams) and `sync` (which carries them), so that neither imports the other.
//!
//! Deliberately not here: what a stream carries, but for plain connections ([`Tunnel`]). State: `nodes` is written by node sync, `waiting` by both
//! sides; there is one lock for the two.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use prost::Message as _;
use proto::node::v1::{Passed, StreamFrame, StreamRequest};
use tokio::sync::{mpsc, oneshot};

use crate::registry::ApiError;
use crate::store::Store;
use crate::usage::UsageBook;

mod answer;
#[cfg(test)]
mod tests;
mod tunnel;

pub(crate) use answer::{Refused, accepted, close, data};
pub(crate) use tunnel::Tunnel;

/// How long an agent has to dial back.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames that may wait in each direction of a stream.
const FRAMES: usize = 4;
/// Requests that may wait for one node.
const REQUESTS: usize = 64;
/// Under which members pass on requests to each other's nodes.
const TOPIC: &str = "nodes/stream";
/// How long another member may take to pass one on.
const PASSING: Duration = Duration::from_secs(2);

/// Nodes that are connected and the streams that wait for their agent to dial back.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeStreams {
    state: Arc<Mutex<State>>,
    /// The way to the other members, once there is one.
    store: Arc<OnceLock<Store>>,
    /// What the nodes of this member's streams report that they use.
    pub(crate) usage: UsageBook,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<String, mpsc::Sender<Box<StreamRequest>>>,
    waiting: HashMap<String, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    node: String,
    /// Tells the asking side that the agent has dialled back.
    opened: oneshot::Sender<()>,
    /// The agent's ends of the two channels.
    agent_side: NodeStream,
}

/// One open stream, both directions, bounded in memory by the channels' capacity.
///
/// The names are those of the side that asked: it reads `from_node` and writes `to_node`. What
/// [`NodeStreams::accept`] returns is the mirror image: node sync reads `from_node` what is to be sent to
/// the node, and writes to `to_node` what came from it.
#[derive(Debug)]
pub(crate) struct NodeStream {
    pub(crate) from_node: mpsc::Receiver<StreamFrame>,
    pub(crate) to_node: mpsc::Sender<StreamFrame>,
}

impl NodeStreams {
    /// Asks the node for a stream and waits until it is open; `request.id` is filled in here. Fails with a
    /// 5xx Status when the node is not connected or does not answer within 10 s.
    pub(crate) async fn open(
        &self,
        node: &str,
        request: StreamRequest,
    ) -> Result<NodeStream, ApiError> {
        self.open_within(node, request, OPEN_TIMEOUT).await
    }

    async fn open_within(
        &self,
        node: &str,
        mut request: StreamRequest,
        timeout: Duration,
    ) -> Result<NodeStream, ApiError> {
        let id = uuid::Uuid::new_v4().to_string();
        request.id.clone_from(&id);
        let (to_agent, from_caller) = mpsc::channel(FRAMES);
        let (to_caller, from_agent) = mpsc::channel(FRAMES);
        let (opened, wait) = oneshot::channel();
        let requests = {
            let mut state = self.lock();
            let requests = state.nodes.get(node).cloned();
            state.waiting.insert(
                id.clone(),
                Waiting {
                    node: node.to_owned(),
                    opened,
                    agent_side: NodeStream {
                        from_node: from_caller,
                        to_node: to_caller,
                    },
                },
            );
            requests
        };
        // Removes the entry also when the caller gives up and drops this future.
        let _forget = Forget { streams: self, id };
        let requests = requests.filter(|requests| !requests.is_closed());
        match &requests {
            Some(requests) => hand(requests, node, request)?,
            None => self.pass(node, request).await?,
        }
        let gone = async {
            match &requests {
                Some(requests) => requests.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What was opened has something to say, also when the node was gone a moment later.
            biased;
            opened = wait => opened.map_err(|_| {
                unavailable(format!("node \"{node}\" disconnected"))
            })?,
            () = gone => {
                return Err(unavailable(format!("node \"{node}\" disconnected")));
            }
            () = tokio::time::sleep(timeout) => {
                return Err(error(504, "Timeout", format!(
                    "node \"{node}\" did not open the stream within {} s",
                    timeout.as_secs()
                )));
            }
        }
        Ok(NodeStream {
            from_node: from_agent,
            to_node: to_agent,
        })
    }

    /// Names of the nodes that are connected to this member.
    pub(crate) fn connected(&self) -> Vec<String> {
        let state = self.lock();
        let open = state.nodes.iter().filter(|(_, sender)| !sender.is_closed());
        open.map(|(node, _)| node.clone()).collect()
    }

    /// From now on nodes that have their stream to another member are reached too, and ours by the others.
    pub(crate) fn join(&self, store: &Store) {
        let streams = Arc::downgrade(&self.state);
        let answer = move |question: Bytes| {
            let state = streams.upgrade();
            async move {
                let passed = Passed::decode(question).map_err(|error| error.to_string())?;
                let request = passed.request.unwrap_or_default();
                let requests = state.and_then(|state| {
                    let state = state.lock().expect("no panic while held");
                    state.nodes.get(&passed.node).cloned()
                });
                let requests = requests.ok_or_else(|| not_connected(&passed.node))?;
                let handed = hand(&requests, &passed.node, request);
                handed.map_err(|error| error.to_string())?;
                Ok(Bytes::new())
            }
            .boxed()
        };
        store.answer_with(TOPIC, Arc::new(answer));
        self.usage.join(store);
        // Once: a second call is of the same store.
        let _ = self.store.set(store.clone());
    }

    /// Asks the others to pass the request on to the node.
    async fn pass(&self, node: &str, mut request: StreamRequest) -> Result<(), ApiError> {
        let Some(store) = self.store.get() else {
            return Err(unavailable(not_connected(node)));
        };
        let own = store.id();
        let mut members = store.members().into_iter();
        let own = members.find(|member| member.id == own && !member.api_address.is_empty());
        let own = own.ok_or_else(|| unavailable(not_connected(node)))?;
        request.server = format!("https://{}", own.api_address);
        let passed = Passed {
            node: node.to_owned(),
            request: Some(request),
        };
        let question = passed.encode_to_vec().into();
        match store.ask_others(TOPIC, question, PASSING).await.is_empty() {
            true => Err(unavailable(not_connected(node))),
            false => Ok(()),
        }
    }

    /// Called by node sync when a node connects: where requests for it go, until the receiver is dropped.
    /// A second connection of the same node takes over from the first.
    pub(crate) fn register(&self, node: &str) -> mpsc::Receiver<Box<StreamRequest>> {
        let (sender, receiver) = mpsc::channel(REQUESTS);
        let mut state = self.lock();
        state.nodes.retain(|_, sender| !sender.is_closed());
        state.nodes.insert(node.to_owned(), sender);
        receiver
    }

    /// Called by node sync when an agent dials back. `None` when nobody waits for this id from this node.
    pub(crate) fn accept(&self, node: &str, id: &str) -> Option<NodeStream> {
        let waiting = {
            let mut state = self.lock();
            if state.waiting.get(id)?.node != node {
                return None;
            }
            state.waiting.remove(id)?
        };
        waiting.opened.send(()).ok()?;
        Some(waiting.agent_side)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

fn not_connected(node: &str) -> String {
    format!("node \"{node}\" is not connected")
}

/// Puts the request where the node's stream takes it from.
fn hand(
    requests: &mpsc::Sender<Box<StreamRequest>>,
    node: &str,
    request: StreamRequest,
) -> Result<(), ApiError> {
    let handed = requests.try_send(Box::new(request));
    handed.map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => unavailable(format!(
            "node \"{node}\" has too many streams waiting to be opened"
        )),
        mpsc::error::TrySendError::Closed(_) => unavailable(not_connected(node)),
    })
}

struct Forget<'a> {
    streams: &'a NodeStreams,
    id: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.streams.lock().waiting.remove(&self.id);
    }
}

fn unavailable(message: String) -> ApiError {
    error(503, "ServiceUnavailable", message)
}

fn error(code: i32, reason: &str, message: String) -> ApiError {
    ApiError {
        status: Box::new(Status {
            status: Some("Failure".to_owned()),
            code: Some(code),
            reason: Some(reason.to_owned()),
            message: Some(message),
            ..Status::default()
        }),
    }
}
