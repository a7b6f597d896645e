//! Events: reports from controllers and nodes become `v1` Event objects, aggregated by what they are about,
//! and are swept away after an hour.
//!
//! Reporting never waits and never fails: a report that finds the queue (`events/queue`) full is counted and dropped.
//! `events/correlate` says what is told together, or not told.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};

use super::{ApiError, EventType, Registry, WriteOptions, key, object};
use crate::kinds::{self, Kind};
use crate::store::{Freshness, Op, RangeRequest, Txn};

mod correlate;
mod queue;

use correlate::{Correlator, SeriesKey};
pub(crate) use queue::EventQueue;
use queue::Waiting;

/// Events that are written at once: they become few transactions.
const BATCH: usize = 64;
/// How often another name is tried for an event whose name is taken.
const NAMES: i64 = 4;
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

impl Registry {
    pub(crate) fn report_event(&self, report: Report) {
        self.inner.events.report(report, jiff::Timestamp::now());
    }

    /// Reports that were lost because the queue was full.
    pub(crate) fn events_dropped(&self) -> u64 {
        self.inner.events.dropped()
    }
}

/// Writes the events; one task per member.
#[derive(Debug)]
pub(crate) struct Recorder {
    registry: Registry,
    queue: EventQueue,
    correlator: Correlator,
}

/// Reports that belong to one series, to be written at once.
#[derive(Debug)]
struct Due {
    series: SeriesKey,
    waiting: Waiting,
    known: Option<(String, String)>,
}

impl Recorder {
    pub(super) fn new(registry: Registry, queue: EventQueue) -> Self {
        Self {
            registry,
            queue,
            correlator: Correlator::new(),
        }
    }

    /// Runs until it is dropped. The sweep is the leader's.
    pub(crate) async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                waiting = self.queue.take(BATCH) => self.record(waiting).await,
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

    async fn record(&mut self, waiting: Vec<Waiting>) {
        let Some(kind) = kinds::by_plural("", "v1", "events") else {
            return;
        };
        let registry = &self.registry;
        let due = due(&mut self.correlator, waiting);
        let written = due.into_iter().map(|due| async move {
            let written = write(registry, kind, &due).await;
            (due.series, written)
        });
        for (series, written) in join_all(written).await {
            match written {
                Ok(name) => *self.correlator.name(&series) = Some(name),
                Err(error) => tracing::debug!(%error, "an event was not recorded"),
            }
        }
    }
}

/// By series, so that none is written twice at the same time.
fn due(correlator: &mut Correlator, waiting: Vec<Waiting>) -> Vec<Due> {
    let mut all: Vec<Due> = Vec::new();
    let mut places: HashMap<SeriesKey, usize> = HashMap::new();
    for mut waiting in waiting {
        truncate(&mut waiting.report.message, MAX_MESSAGE);
        let Some(series) = correlator.series(&mut waiting.report, waiting.last) else {
            continue;
        };
        truncate(&mut waiting.report.message, MAX_MESSAGE);
        if let Some(place) = places.get(&series) {
            let before = &mut all[*place].waiting;
            before.count += waiting.count;
            before.last = before.last.max(waiting.last);
            before.report.message = waiting.report.message;
            continue;
        }
        places.insert(series.clone(), all.len());
        all.push(Due {
            known: correlator.name(&series).clone(),
            series,
            waiting,
        });
    }
    all
}

/// The namespace and name of the event that is there now.
async fn write(
    registry: &Registry,
    kind: &Kind<'_>,
    due: &Due,
) -> Result<(String, String), ApiError> {
    let waiting = &due.waiting;
    let options = WriteOptions {
        dry_run: false,
        manager: waiting.report.component.clone(),
        ..WriteOptions::default()
    };
    if let Some((namespace, name)) = &due.known {
        match count_up(registry, kind, namespace, name, waiting, &options).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map(|()| (namespace.clone(), name.clone())),
        }
    }
    let mut tries = 0;
    loop {
        let event = new_event(waiting, tries);
        let namespace = object::namespace(&event).to_owned();
        let name = object::name(&event).to_owned();
        tries += 1;
        match registry.create(kind, &namespace, event, &options).await {
            Err(error) if error.code() == 409 && tries < NAMES => {}
            other => return other.map(|_| (namespace, name)),
        }
    }
}

async fn count_up(
    registry: &Registry,
    kind: &Kind<'_>,
    namespace: &str,
    name: &str,
    waiting: &Waiting,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    let place = super::update::Place {
        kind,
        namespace,
        name,
        subresource: "",
    };
    let last = object::rfc3339(waiting.last);
    registry
        .modify(place, options, super::update::Ownership::Track, |live| {
            let mut event = live.clone();
            event["count"] = (live["count"].as_i64().unwrap_or(1) + waiting.count).into();
            event["lastTimestamp"] = last.clone().into();
            event["message"] = waiting.report.message.clone().into();
            Ok(event)
        })
        .await
        .map(drop)
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

/// Its name has the time in it; `other` gives another one.
fn new_event(waiting: &Waiting, other: i64) -> Value {
    let report = &waiting.report;
    let about = &report.about;
    let namespace = about
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    let (first, last) = (
        object::rfc3339(waiting.first),
        object::rfc3339(waiting.last),
    );
    let number = waiting.first.as_nanosecond() + i128::from(other);
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("{}.{:x}", about.name.as_deref().unwrap_or("unknown"), number),
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
        "firstTimestamp": first,
        "lastTimestamp": last,
        "count": waiting.count,
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
