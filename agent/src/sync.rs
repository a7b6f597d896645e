//! Node sync from the agent's side.
//!
//! `sync/client` holds the stream and dials again when it is lost; `sync/intake` hands on what comes in (pods,
//! the objects that they refer to, batches for the data plane and DNS); `sync/outbox` keeps what is to go
//! out, the latest of everything; `sync/convert` turns messages into what the rest of the agent knows (pure);
//! `sync/identity` is who the node is, and renews that; `sync/streams` serves byte streams that the control plane asks for.
//! Nothing listens here.

mod client;
mod convert;
mod identity;
mod intake;
mod outbox;
mod streams;

pub(crate) use client::{Client, ClientConfig, ClientError, ClientMetrics};
pub(crate) use intake::Intake;
pub(crate) use outbox::Outbox;
pub(crate) use streams::NodeServer;

/// Any bytes as messages of the control plane.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    use prost::Message as _;
    use proto::node::v1 as wire;
    let mut nonsense = Vec::new();
    if let Ok(change) = wire::ServiceChange::decode(bytes) {
        let _ = convert::service(change, &mut nonsense);
    }
    if let Ok(change) = wire::NodeChange::decode(bytes) {
        let _ = convert::node(change, &mut nonsense);
    }
}
