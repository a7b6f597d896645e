//! HTTP: TLS, routing, verbs, watch streams, discovery, tables, streams into pods.
//!
//! A request goes: [`server`] (TLS, who is it) -> [`dispatch`] (may they) -> a verb -> `registry`. What is
//! not here: what objects mean (`kinds`), how they are written (`registry`), what pods do (`nodestream`).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::auth::rbac::Rbac;
use crate::auth::{Chain, Tokens};
use crate::nodestream::NodeStreams;
use crate::registry::Registry;

mod authenticate;
mod body;
mod certificates;
pub(crate) mod cluster_status;
mod discovery;
mod dispatch;
mod escalation;
mod forward;
mod health;
mod impersonate;
mod logs;
pub(crate) mod members;
mod metrics;
mod negotiate;
mod openapi;
mod pretty;
mod protobuf;
mod proxy;
mod read;
mod remote;
mod request;
mod respond;
mod review;
pub(crate) mod server;
mod shown;
mod table;
mod token;
mod tunnel;
mod upgrade;
mod watch;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use metrics::Metrics;

/// The API server's state; one per member.
#[derive(Debug)]
pub(crate) struct Api {
    registry: Registry,
    authorizer: Chain,
    /// One of the links of `authorizer`.
    rbac: Rbac,
    tokens: Tokens,
    streams: NodeStreams,
    metrics: Arc<Metrics>,
    view: cluster_status::View,
    /// Ends watches and log streams when the member stops.
    stopping: CancellationToken,
}

impl Api {
    pub(crate) fn new(
        registry: Registry,
        rbac: Rbac,
        tokens: Tokens,
        streams: NodeStreams,
        metrics: Arc<Metrics>,
        view: cluster_status::View,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            registry,
            authorizer: Chain::new(rbac.clone()),
            rbac,
            tokens,
            streams,
            metrics,
            view,
            stopping,
        }
    }
}
