//! What a node reports: status, pods, events, what it has applied.
//!
//! Reports are kept as the latest per object and written a few at once, one at a time per object: a slow
//! store delays them and never makes them pile up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Node, NodeStatus, ObjectReference, Pod, PodStatus};
use proto::node::v1::node_message::Message;
use proto::node::v1::{EventReport, NodeMessage};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::applied::{Applied, Connection, Introduction};
use super::credentials::Question;
use super::metrics::SyncMetrics;
use super::{mirrors, node_events, podstatus, register, volumes};
use crate::cache::{Cache, ObjectKey, Queue};
use crate::registry::{ApiError, Client, DeleteOptions, EventType};
use crate::usage::UsageBook;

/// Writes of one node that are under way at once.
const WRITERS: usize = 8;
/// Writes of all nodes that are: as many as share a log entry well. Each has its object several times as a tree.
pub(super) const TURNS: usize = 64;
/// Pods whose reports may wait; a node has a hundred or so.
const MAX_PENDING: usize = 4096;
const MAX_EVENT: usize = 1024;
/// How long the last reports of a node that has left may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Node,
    Lease,
    Pod {
        key: ObjectKey,
        uid: String,
    },
    /// The data of the volume is gone.
    Volume(String),
}

#[derive(Debug, Default)]
struct PodReport {
    status: Option<Box<PodStatus>>,
    /// Of a static pod: what it is shown as.
    mirror: Option<Box<Pod>>,
    terminated: bool,
}

/// What waits to be written; nothing of it stays when nothing waits, since there is one for each node.
#[derive(Debug, Default)]
struct Pending {
    node: Option<Box<NodeStatus>>,
    lease: Option<u32>,
    pods: HashMap<(ObjectKey, String), PodReport>,
}

impl Pending {
    fn take_pod(&mut self, id: &(ObjectKey, String)) -> Option<PodReport> {
        let report = self.pods.remove(id);
        if self.pods.is_empty() {
            self.pods = HashMap::new();
        }
        report
    }
}

pub(super) struct Uplink {
    client: Client,
    cache: Cache,
    applied: Connection,
    usage: UsageBook,
    metrics: SyncMetrics,
    questions: mpsc::Sender<Box<Question>>,
    /// One for each report that is written, of all nodes.
    turns: Arc<Semaphore>,
    node: String,
    queue: Queue<Subject>,
    /// Heart-beats: they wait for no report.
    beats: Queue<Subject>,
    /// The node was seen ready during this stream.
    was_ready: AtomicBool,
    pending: Arc<Mutex<Pending>>,
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.metrics.gone(&self.node);
    }
}

impl Uplink {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        client: &Client,
        cache: &Cache,
        applied: &Applied,
        usage: &UsageBook,
        metrics: &SyncMetrics,
        questions: mpsc::Sender<Box<Question>>,
        turns: &Arc<Semaphore>,
        node: &str,
        introduction: Introduction,
    ) -> Self {
        Self {
            client: client.clone(),
            cache: cache.clone(),
            applied: applied.connect(node, introduction),
            usage: usage.clone(),
            was_ready: AtomicBool::new(false),
            metrics: metrics.clone(),
            questions,
            turns: Arc::clone(turns),
            node: node.to_owned(),
            queue: Queue::default(),
            beats: Queue::default(),
            pending: Arc::default(),
        }
    }

    /// Until the node ends the stream or breaks the protocol.
    pub(super) async fn run(&self, mut incoming: Streaming<NodeMessage>) -> Result<(), Status> {
        let read = async {
            while let Some(message) = incoming.message().await? {
                if let Some(message) = message.message {
                    self.take(message)?;
                }
            }
            // What a node said before it left still counts, such as that it shuts down.
            let _ = tokio::time::timeout(LAST_WORDS, self.queue.idle()).await;
            Ok(())
        };
        tokio::select! {
            ended = read => ended,
            () = self.write() => Ok(()),
            () = self.beat() => Ok(()),
        }
    }

    /// A message that is complete up to this revision went out to the node.
    pub(super) fn sent(&self, revision: u64) {
        self.applied.sent(revision);
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no panic while held")
    }

    fn take(&self, message: Message) -> Result<(), Status> {
        match message {
            Message::Hello(_) => return Err(Status::invalid_argument("a second Hello")),
            Message::NodeStatus(report) => {
                let status = parse("NodeStatus.status_json", &report.status_json)?;
                self.lock().node = Some(Box::new(status));
                self.queue.add(Subject::Node);
            }
            Message::LeaseRenewal(renewal) => {
                self.check_silence()?;
                self.lock().lease = Some(renewal.duration_seconds);
                self.beats.add(Subject::Lease);
            }
            Message::PodStatus(report) => {
                let status = parse("PodStatus.status_json", &report.status_json)?;
                let key = ObjectKey::new(&report.namespace, &report.name);
                let mirror = match report.mirror_json.is_empty() {
                    true => None,
                    false => Some(Box::new(parse(
                        "PodStatus.mirror_json",
                        &report.mirror_json,
                    )?)),
                };
                self.note(key, report.uid, |pod| {
                    pod.status = Some(Box::new(status));
                    pod.mirror = mirror;
                })?;
            }
            Message::PodTerminated(report) => {
                let key = ObjectKey::new(&report.namespace, &report.name);
                self.note(key, report.uid, |pod| pod.terminated = true)?;
            }
            Message::Event(report) => self.event(&report)?,
            Message::Applied(report) => {
                self.applied.record(report.revision);
                self.metrics.applied(&self.node, report.revision);
            }
            Message::VolumeRemoved(report) => self.queue.add(Subject::Volume(report.name)),
            Message::Usage(usage) => self.usage.record(&self.node, &usage),
            Message::TokenRequest(request) => self.ask(Question::Token(request))?,
            Message::CertificateRequest(request) => self.ask(Question::Certificate(request))?,
        }
        Ok(())
    }

    fn ask(&self, question: Question) -> Result<(), Status> {
        self.questions
            .try_send(Box::new(question))
            .map_err(|_| Status::resource_exhausted("too many questions of the node are waiting"))
    }

    /// A node that was silent for so long that it was given up has had its pods marked as not ready, and
    /// does not know. On a new stream it tells everything again.
    fn check_silence(&self) -> Result<(), Status> {
        let Some(node) = self.cache.nodes.get("", &self.node) else {
            return Ok(());
        };
        match register::readiness(&node) {
            Some("True") => self.was_ready.store(true, Ordering::Relaxed),
            Some("Unknown") if self.was_ready.load(Ordering::Relaxed) => {
                return Err(Status::aborted(
                    "the node was silent for too long, begin again",
                ));
            }
            _ => {}
        }
        Ok(())
    }

    fn note(
        &self,
        key: ObjectKey,
        uid: String,
        how: impl FnOnce(&mut PodReport),
    ) -> Result<(), Status> {
        if uid.is_empty() {
            return Err(Status::invalid_argument(format!(
                "report on pod {key} without uid"
            )));
        }
        {
            let mut pending = self.lock();
            if pending.pods.len() >= MAX_PENDING {
                return Err(Status::resource_exhausted(
                    "too many pod reports are waiting",
                ));
            }
            how(pending.pods.entry((key.clone(), uid.clone())).or_default());
        }
        self.queue.add(Subject::Pod { key, uid });
        Ok(())
    }

    /// A node tells only of itself and its pods.
    fn event(&self, report: &EventReport) -> Result<(), Status> {
        let about: ObjectReference = parse(
            "EventReport.involved_object_json",
            &report.involved_object_json,
        )?;
        let name = about.name.as_deref().unwrap_or_default();
        let allowed = match about.kind.as_deref() {
            Some("Node") => name == self.node,
            Some("Pod") => {
                about.namespace.as_deref() == Some(report.namespace.as_str())
                    // A pod that is gone already may have its last event.
                    && self.cache.pods.get(&report.namespace, name).is_none_or(|pod| self.is_mine(&pod))
            }
            _ => false,
        };
        if !allowed {
            tracing::debug!(
                node = self.node,
                ?about,
                "event about something else dropped"
            );
            return Ok(());
        }
        let kind = match report.r#type.as_str() {
            "Warning" => EventType::Warning,
            _ => EventType::Normal,
        };
        let message: String = report.message.chars().take(MAX_EVENT).collect();
        self.client
            .event_about(about, kind, &report.reason, &message, &self.node);
        Ok(())
    }

    fn is_mine(&self, pod: &Pod) -> bool {
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        bound == Some(self.node.as_str())
    }

    /// Writes what waits, some of it at once. Only a write that is under way takes memory: it is much, and there are
    /// thousands of nodes.
    async fn write(&self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                subject = self.queue.next(), if under_way.len() < WRITERS => {
                    under_way.push(self.write_in_turn(subject));
                }
                Some(()) = under_way.next() => {}
            }
        }
    }

    /// Nodes that all have much to say at the same moment wait for each other. What a write needs is there only while it
    /// has its turn.
    async fn write_in_turn(&self, subject: Subject) {
        // It is never closed.
        let _turn = self.turns.acquire().await.ok();
        Box::pin(self.write_subject(&self.queue, subject)).await;
    }

    /// Heart-beats have no turns: while thousands of reports wait for theirs, none of the nodes is silent.
    async fn beat(&self) {
        loop {
            let subject = self.beats.next().await;
            Box::pin(self.write_subject(&self.beats, subject)).await;
        }
    }

    async fn write_subject(&self, queue: &Queue<Subject>, subject: Subject) {
        match self.write_one(&subject).await {
            Ok(()) => queue.forget(&subject),
            // The same report would be refused again.
            Err(error) if is_refusal(&error) => {
                tracing::warn!(node = self.node, ?subject, %error, "report refused");
                queue.forget(&subject);
            }
            Err(error) => {
                tracing::debug!(node = self.node, ?subject, %error, "report not written yet");
                queue.retry(subject.clone());
            }
        }
        queue.done(&subject);
    }

    async fn write_one(&self, subject: &Subject) -> Result<(), ApiError> {
        match subject {
            Subject::Node => {
                let Some(status) = self.lock().node.take() else {
                    return Ok(());
                };
                let result = self.write_node(&status).await;
                if is_worth_retrying(&result) {
                    self.lock().node.get_or_insert(status);
                }
                result
            }
            Subject::Lease => {
                let Some(seconds) = self.lock().lease.take() else {
                    return Ok(());
                };
                let node = self.cache.nodes.get("", &self.node);
                let result =
                    register::renew(&self.client, &self.node, seconds, node.as_deref()).await;
                if is_worth_retrying(&result) {
                    self.lock().lease.get_or_insert(seconds);
                }
                result
            }
            Subject::Volume(name) => {
                volumes::removed(&self.client, &self.cache, &self.node, name).await
            }
            Subject::Pod { key, uid } => {
                let id = (key.clone(), uid.clone());
                let Some(report) = self.lock().take_pod(&id) else {
                    return Ok(());
                };
                let result = self.write_pod(key, uid, &report).await;
                if is_worth_retrying(&result) {
                    let mut pending = self.lock();
                    let waiting = pending.pods.entry(id).or_default();
                    waiting.terminated |= report.terminated;
                    if waiting.status.is_none() {
                        waiting.status = report.status;
                        waiting.mirror = report.mirror;
                    }
                }
                result
            }
        }
    }

    async fn write_node(&self, status: &NodeStatus) -> Result<(), ApiError> {
        let mut attempt = 0;
        loop {
            let result = self.write_node_once(status).await;
            if !register::again(&result, attempt) {
                return result;
            }
            attempt += 1;
        }
    }

    async fn write_node_once(&self, status: &NodeStatus) -> Result<(), ApiError> {
        let Some(stored) = self.client.get::<Node>("", &self.node).await? else {
            // Deleted by an operator: it comes back with the next Hello.
            return Ok(());
        };
        if let Some(changed) = register::with_status(&stored, status.clone()) {
            let written = self.client.update_status(&changed).await?;
            node_events::tell(&self.client, Some(&stored), &written);
        }
        Ok(())
    }

    /// Status first: a terminated pod's last status is seen by watchers before it goes.
    async fn write_pod(
        &self,
        key: &ObjectKey,
        uid: &str,
        report: &PodReport,
    ) -> Result<(), ApiError> {
        if let Some(mirror) = report.mirror.as_ref().filter(|_| !report.terminated) {
            mirrors::ensure(&self.client, &self.node, key, uid, mirror).await?;
        }
        if let Some(status) = &report.status {
            let mut attempt = 0;
            loop {
                let result = self.write_pod_status(key, uid, status).await;
                if !register::again(&result, attempt) {
                    match result {
                        // Its end matters even if its last status cannot be stored.
                        Err(error) if report.terminated && is_refusal(&error) => {
                            tracing::warn!(node = self.node, %key, %error, "last status refused");
                        }
                        result => result?,
                    }
                    break;
                }
                attempt += 1;
            }
        }
        if !report.terminated {
            return Ok(());
        }
        let Some(pod) = self.stored(key, uid).await? else {
            return Ok(());
        };
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: pod.metadata.uid,
            ..DeleteOptions::default()
        };
        let deleted = self
            .client
            .delete::<Pod>(&key.namespace, &key.name, options)
            .await;
        match deleted {
            // Another pod has the name by now.
            Err(error) if error.code() == 409 => Ok(()),
            result => result,
        }
    }

    async fn write_pod_status(
        &self,
        key: &ObjectKey,
        uid: &str,
        status: &PodStatus,
    ) -> Result<(), ApiError> {
        let Some(pod) = self.stored(key, uid).await? else {
            return Ok(());
        };
        let Some(changed) = podstatus::merged(&pod, status.clone()) else {
            return Ok(());
        };
        match self.client.update_status(&changed).await {
            Err(error) if error.code() != 404 => Err(error),
            _ => Ok(()),
        }
    }

    /// The pod with this uid, if it is bound to this node.
    async fn stored(&self, key: &ObjectKey, uid: &str) -> Result<Option<Pod>, ApiError> {
        let pod = self.client.get::<Pod>(&key.namespace, &key.name).await?;
        Ok(pod.filter(|pod| {
            let same = pod.metadata.uid.as_deref() == Some(uid) || mirrors::shows(pod, uid);
            same && self.is_mine(pod)
        }))
    }
}

fn is_refusal(error: &ApiError) -> bool {
    matches!(error.code(), 400 | 403 | 404 | 413 | 422)
}

fn is_worth_retrying(result: &Result<(), ApiError>) -> bool {
    result.as_ref().is_err_and(|error| !is_refusal(error))
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(json)
        .map_err(|error| Status::invalid_argument(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proto::node::v1 as wire;

    use super::*;
    use crate::controllers::tests::Cluster;

    /// All turns are taken, and more reports wait for one than a node writes at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn heart_beats_wait_for_no_report() {
        let cluster = Cluster::bare().await;
        let (ask, _questions) = mpsc::channel(1);
        let uplink = Uplink::new(
            &cluster.client,
            &cluster.cache,
            &Applied::default(),
            &UsageBook::default(),
            &SyncMetrics::default(),
            ask,
            &Arc::new(Semaphore::new(0)),
            "n1",
            Introduction::default(),
        );
        for number in 0..2 * WRITERS {
            let report = wire::PodStatus {
                namespace: "default".to_owned(),
                name: format!("p{number}"),
                uid: format!("u{number}"),
                status_json: "{}".into(),
                ..wire::PodStatus::default()
            };
            uplink.take(Message::PodStatus(report)).unwrap();
        }
        let renewal = wire::LeaseRenewal {
            duration_seconds: 40,
        };
        uplink.take(Message::LeaseRenewal(renewal)).unwrap();
        let leases = &cluster.cache.leases;
        tokio::select! {
            () = uplink.write() => {}
            () = uplink.beat() => {}
            _ = cluster.until(leases, register::LEASES, "n1", |lease| lease.is_some()) => {}
        }
    }

    #[test]
    fn reports_that_are_written_leave_no_room_behind() {
        let mut pending = Pending::default();
        let ids: Vec<_> = (0..100)
            .map(|n| (ObjectKey::new("ns", &format!("p{n}")), format!("u{n}")))
            .collect();
        for id in &ids {
            pending.pods.entry(id.clone()).or_default().terminated = true;
        }
        for id in &ids {
            assert!(pending.take_pod(id).is_some_and(|report| report.terminated));
        }
        assert!(pending.take_pod(&ids[0]).is_none());
        assert_eq!(pending.pods.capacity(), 0);
        // There is room for several in the map of each node that has reported.
        assert!(size_of::<PodReport>() <= 24);
    }
}
