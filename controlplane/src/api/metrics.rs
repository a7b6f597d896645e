//! What the API server counts, and the `/metrics` page of the whole member.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::{Response, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::respond;
use crate::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    resource: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: String,
    resource: String,
}

/// The member's metrics. Other parts register theirs at start through [`Metrics::register`].
#[derive(Debug)]
pub(crate) struct Metrics {
    all: Mutex<prometheus_client::registry::Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<VerbLabels, Histogram>,
    requests_inflight: Gauge,
    pub(super) watches: Gauge,
    pub(super) watch_events: Counter,
    store_revision: Gauge,
    events_dropped: Gauge,
}

fn durations() -> Histogram {
    Histogram::new([
        0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
    ])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            all: Mutex::new(prometheus_client::registry::Registry::default()),
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            requests_inflight: Gauge::default(),
            watches: Gauge::default(),
            watch_events: Counter::default(),
            store_revision: Gauge::default(),
            events_dropped: Gauge::default(),
        };
        metrics.register(|all| {
            all.register(
                "apiserver_request",
                "Requests answered",
                metrics.requests.clone(),
            );
            all.register(
                "apiserver_request_duration_seconds",
                "Time from a request's head to the head of its answer",
                metrics.durations.clone(),
            );
            all.register(
                "apiserver_current_inflight_requests",
                "Requests whose answer has not begun",
                metrics.requests_inflight.clone(),
            );
            all.register("apiserver_watches", "Open watches", metrics.watches.clone());
            all.register(
                "apiserver_watch_events",
                "Events sent to watchers",
                metrics.watch_events.clone(),
            );
            all.register(
                "waggle_store_revision",
                "Revision of the last applied write",
                metrics.store_revision.clone(),
            );
            all.register(
                "waggle_events_dropped",
                "Event reports lost because the queue was full",
                metrics.events_dropped.clone(),
            );
        });
        metrics
    }

    pub(crate) fn register(
        &self,
        register: impl FnOnce(&mut prometheus_client::registry::Registry),
    ) {
        register(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn inflight(self: &Arc<Self>) -> Inflight {
        self.requests_inflight.inc();
        Inflight(Arc::clone(self))
    }

    pub(super) fn observe(&self, verb: &str, resource: &str, code: u16, elapsed: Duration) {
        self.requests
            .get_or_create(&RequestLabels {
                verb: verb.to_owned(),
                resource: resource.to_owned(),
                code,
            })
            .inc();
        self.durations
            .get_or_create(&VerbLabels {
                verb: verb.to_owned(),
                resource: resource.to_owned(),
            })
            .observe(elapsed.as_secs_f64());
    }

    pub(super) fn scrape(&self, registry: &Registry) -> Response<Body> {
        let revision = registry.store().revision();
        self.store_revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.events_dropped
            .set(i64::try_from(registry.events_dropped()).unwrap_or(i64::MAX));
        let mut text = String::new();
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        match encode(&mut text, &all) {
            Ok(()) => respond::with_type(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                text,
            ),
            Err(_) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, "encoding failed"),
        }
    }
}

/// Counts a request while it lives.
pub(super) struct Inflight(Arc<Metrics>);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.requests_inflight.dec();
    }
}
