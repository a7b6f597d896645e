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

mod aggregator;
pub(crate) mod audit;
mod authenticate;
mod body;
mod certificates;
pub(crate) mod cluster_status;
mod component_status;
mod discovery;
mod dispatch;
mod escalation;
pub(crate) mod flow;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod impersonate;
mod logs;
pub(crate) mod members;
mod metrics;
mod negotiate;
mod openapi;
mod ordered;
mod pretty;
mod protobuf;
mod proxy;
mod read;
mod remote;
mod request;
mod respond;
mod review;
mod rotate;
pub(crate) mod server;
mod shown;
mod table;
mod token;
mod upgrade;
mod usage;
mod waiting;
mod watch;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use aggregator::Aggregator;
pub(crate) use metrics::Metrics;
pub(crate) use waiting::Waiting;

/// The API server's state; one per member.
#[derive(Debug)]
pub(crate) struct Api {
    registry: Registry,
    authorizer: Chain,
    /// One of the links of `authorizer`.
    rbac: Rbac,
    tokens: Tokens,
    flow: flow::Flow,
    audit: Option<audit::Audit>,
    aggregator: Aggregator,
    streams: NodeStreams,
    metrics: Arc<Metrics>,
    view: cluster_status::View,
    /// Ends watches and log streams when the member stops.
    stopping: CancellationToken,
}

/// What the API server is made of.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) registry: Registry,
    pub(crate) rbac: Rbac,
    pub(crate) tokens: Tokens,
    pub(crate) flow: flow::Flow,
    pub(crate) audit: Option<audit::Audit>,
    pub(crate) aggregator: Aggregator,
    pub(crate) streams: NodeStreams,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) view: cluster_status::View,
    pub(crate) stopping: CancellationToken,
}

impl Api {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            registry: means.registry,
            authorizer: Chain::new(means.rbac.clone()),
            rbac: means.rbac,
            tokens: means.tokens,
            flow: means.flow,
            audit: means.audit,
            aggregator: means.aggregator,
            streams: means.streams,
            metrics: means.metrics,
            view: means.view,
            stopping: means.stopping,
        }
    }
}
