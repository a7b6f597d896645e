//! Events: reports from controllers and nodes become `v1` Event objects, aggregated by what they are about,
//! and are swept away after an hour.
//!
//! Reporting never waits and never fails: a report that finds the queue full is counted and dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{ApiError, EventType, Registry, WriteOptions, key, object};
use crate::kinds::{self, Kind};
use crate::store::{Freshness, Op, RangeRequest, Txn};

const QUEUE: usize = 4096;
/// Series that are remembered for aggregation.
const SERIES: usize = 4096;
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_BATCH: usize = 256;
/// Kubernetes refuses longer messages.
const MAX_MESSAGE: usize = 1024;

/// Something that happened to an object.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) about: ObjectReference,
    pub(crate) event_type: EventType,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Who saw it: a controller's name, or `kubelet`.
    pub(crate) component: String,
    /// Node on which it was seen; empty for the control plane.
    pub(crate) host: String,
}

/// Where reports go.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    queue: mpsc::Sender<Report>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    fn report(&self, report: Report) {
        if self.queue.try_send(report).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) fn channel() -> (Sink, mpsc::Receiver<Report>) {
    let (queue, reports) = mpsc::channel(QUEUE);
    let sink = Sink {
        queue,
        dropped: Arc::new(AtomicU64::new(0)),
    };
    (sink, reports)
}

impl Registry {
    pub(crate) fn report_event(&self, report: Report) {
        self.inner.events.report(report);
    }

    /// Reports that were lost because the queue was full.
    pub(crate) fn events_dropped(&self) -> u64 {
        self.inner.events.dropped.load(Ordering::Relaxed)
    }
}

/// What makes two reports the same series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    about: [String; 5],
    event_type: EventType,
    reason: String,
    message: String,
    source: (String, String),
}

impl SeriesKey {
    fn of(report: &Report) -> Self {
        let about = &report.about;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            about: [
                text(&about.kind),
                text(&about.namespace),
                text(&about.name),
                text(&about.uid),
                text(&about.field_path),
            ],
            event_type: report.event_type,
            reason: report.reason.clone(),
            message: report.message.clone(),
            source: (report.component.clone(), report.host.clone()),
        }
    }
}

/// Writes the events; one task per member.
#[derive(Debug)]
pub(crate) struct Recorder {
    registry: Registry,
    reports: mpsc::Receiver<Report>,
    /// Name of the Event of each series, in the namespace it is in.
    series: HashMap<SeriesKey, (String, String)>,
}

impl Recorder {
    pub(super) fn new(registry: Registry, reports: mpsc::Receiver<Report>) -> Self {
        Self {
            registry,
            reports,
            series: HashMap::new(),
        }
    }

    /// Runs until it is dropped. The sweep is the leader's.
    pub(crate) async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = self.reports.recv() => {
                    let Some(report) = report else { return };
                    if let Err(error) = self.record(report).await {
                        tracing::debug!(%error, "an event was not recorded");
                    }
                }
                _ = sweep.tick() => {
                    if *self.registry.store().leadership().borrow()
                        && let Err(error) = sweep_old(&self.registry, jiff::Timestamp::now()).await
                    {
                        tracing::warn!(%error, "old events were not swept");
                    }
                }
            }
        }
    }

    async fn record(&mut self, mut report: Report) -> Result<(), ApiError> {
        let Some(kind) = kinds::by_plural("", "v1", "events") else {
            return Ok(());
        };
        truncate(&mut report.message, MAX_MESSAGE);
        let series = SeriesKey::of(&report);
        if let Some((namespace, name)) = self.series.get(&series) {
            match self
                .count_up(kind, namespace, name, &report.component)
                .await
            {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
        }
        let event = new_event(&report, jiff::Timestamp::now());
        let namespace = object::namespace(&event).to_owned();
        let name = object::name(&event).to_owned();
        let options = WriteOptions {
            dry_run: false,
            manager: report.component.clone(),
            guard: None,
        };
        self.registry
            .create(kind, &namespace, event, &options)
            .await?;
        if self.series.len() >= SERIES {
            self.series.clear();
        }
        self.series.insert(series, (namespace, name));
        Ok(())
    }

    async fn count_up(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
        manager: &str,
    ) -> Result<(), ApiError> {
        let place = super::update::Place {
            kind,
            namespace,
            name,
            subresource: "",
        };
        let options = WriteOptions {
            dry_run: false,
            manager: manager.to_owned(),
            guard: None,
        };
        let now = object::now();
        self.registry
            .modify(place, &options, super::update::Ownership::Track, |live| {
                let mut event = live.clone();
                event["count"] = (live["count"].as_i64().unwrap_or(1) + 1).into();
                event["lastTimestamp"] = now.clone().into();
                Ok(event)
            })
            .await
            .map(drop)
    }
}

fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
    }
}

fn new_event(report: &Report, now: jiff::Timestamp) -> Value {
    let about = &report.about;
    let namespace = about
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    let time = object::rfc3339(now);
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("{}.{:x}", about.name.as_deref().unwrap_or("unknown"), now.as_nanosecond()),
            "namespace": namespace,
        },
        "involvedObject": about,
        "reason": report.reason,
        "message": report.message,
        "type": match report.event_type {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        },
        "source": {"component": report.component},
        "reportingComponent": report.component,
        "reportingInstance": report.host,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    });
    if !report.host.is_empty() {
        event["source"]["host"] = report.host.clone().into();
    }
    event
}

/// When the event was last seen.
fn last_seen(event: &Value) -> Option<jiff::Timestamp> {
    [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ]
    .into_iter()
    .filter_map(Value::as_str)
    .find_map(|text| text.parse().ok())
}

async fn sweep_old(registry: &Registry, now: jiff::Timestamp) -> Result<(), ApiError> {
    let Some(kind) = kinds::by_plural("", "v1", "events") else {
        return Ok(());
    };
    let all = registry
        .store()
        .range(RangeRequest {
            prefix: key::prefix(kind, ""),
            after: None,
            limit: 0,
            revision: None,
            freshness: Freshness::Local,
        })
        .await?;
    let old: Vec<Op> = all
        .items
        .iter()
        .filter(|kv| {
            let event: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
            last_seen(&event).is_none_or(|seen| {
                now.duration_since(seen)
                    > jiff::SignedDuration::try_from(TIME_TO_LIVE).unwrap_or_default()
            })
        })
        .map(|kv| Op::Delete {
            key: kv.key.to_string(),
        })
        .collect();
    for batch in old.chunks(SWEEP_BATCH) {
        registry
            .store()
            .txn(Txn {
                compares: Vec::new(),
                ops: batch.to_vec(),
            })
            .await?;
    }
    Ok(())
}
