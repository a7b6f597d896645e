//! Byte streams to pods on nodes: the API server asks, the node's agent dials back over node sync.
//!
//! Below `api` (which opens streams) and `sync` (which carries them), so that neither imports the other.

use proto::node::v1::{StreamFrame, StreamRequest};
use tokio::sync::mpsc;

use crate::registry::ApiError;

/// Nodes that are connected and the streams that wait for their agent to dial back.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeStreams {}

/// One open stream, both directions, bounded in memory by the channels' capacity.
#[derive(Debug)]
pub(crate) struct NodeStream {
    pub(crate) from_node: mpsc::Receiver<StreamFrame>,
    pub(crate) to_node: mpsc::Sender<StreamFrame>,
}

#[allow(unused_variables, clippy::unused_async)]
impl NodeStreams {
    /// Asks the node for a stream and waits until it is open; `request.id` is filled in here. Fails with a
    /// 5xx Status when the node is not connected or does not answer within 10 s.
    pub(crate) async fn open(
        &self,
        node: &str,
        request: StreamRequest,
    ) -> Result<NodeStream, ApiError> {
        todo!()
    }
    /// Called by node sync when a node connects: where requests for it go, until the receiver is dropped.
    pub(crate) fn register(&self, node: &str) -> mpsc::Receiver<StreamRequest> {
        todo!()
    }
    /// Called by node sync when an agent dials back. `None` when nobody waits for this id from this node.
    pub(crate) fn accept(&self, node: &str, id: &str) -> Option<NodeStream> {
        todo!()
    }
}
