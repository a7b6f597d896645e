//! Many watchers on one prefix, each a stream of its own, on both sides on as many connections to the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

use super::etcd::{self, Etcd, pb};
use super::waggle::{NAMESPACE, Waggle};

/// Streams on one connection.
const STREAMS: u32 = 100;
/// How long the last event may take to reach the last watcher.
const PATIENCE: Duration = Duration::from_secs(60);

/// Watchers that count what they get. They end when this is dropped.
pub(super) struct Watchers {
    tasks: JoinSet<anyhow::Result<()>>,
    delivered: Arc<AtomicU64>,
    count: u32,
}

impl Watchers {
    fn new(count: u32) -> Self {
        Self {
            tasks: JoinSet::new(),
            delivered: Arc::default(),
            count,
        }
    }

    pub(super) async fn of_etcd(etcd: &Etcd, leader: usize, count: u32) -> anyhow::Result<Self> {
        let mut this = Self::new(count);
        let (start, end) = etcd::whole_prefix();
        for first in (0..count).step_by(STREAMS as usize) {
            let channel = etcd.connect(leader).await?;
            for _ in first..count.min(first + STREAMS) {
                let create = pb::WatchRequest {
                    request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
                        pb::WatchCreateRequest {
                            key: start.clone(),
                            range_end: end.clone(),
                        },
                    )),
                };
                // The watch ends when the client's half of the stream does.
                let (send, requests) = tokio::sync::mpsc::channel(1);
                send.send(create).await?;
                let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
                let mut client = pb::watch_client::WatchClient::new(channel.clone());
                let mut events = client.watch(requests).await?.into_inner();
                let created = events.message().await?.context("an answer")?;
                ensure!(created.created, "etcd does not watch: {created:?}");
                let delivered = Arc::clone(&this.delivered);
                this.tasks.spawn(async move {
                    let _send = send;
                    while let Some(message) = events.message().await? {
                        ensure!(!message.canceled, "etcd has ended a watch");
                        delivered.fetch_add(message.events.len() as u64, Ordering::Relaxed);
                    }
                    bail!("etcd has ended a watch")
                });
            }
        }
        Ok(this)
    }

    pub(super) async fn of_api(waggle: &Waggle, leader: usize, count: u32) -> anyhow::Result<Self> {
        let mut this = Self::new(count);
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        let list = waggle
            .connect(leader)
            .await?
            .get(&format!("{path}?limit=1"))
            .await?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a revision")?;
        let path = format!("{path}?watch=true&resourceVersion={revision}");
        for first in (0..count).step_by(STREAMS as usize) {
            let connection = waggle.connect(leader).await?;
            for _ in first..count.min(first + STREAMS) {
                let mut connection = connection.clone();
                let response = connection.send(Method::GET, &path, "").await?;
                ensure!(response.status().is_success(), "no watch: {response:?}");
                let mut body = response.into_body();
                let delivered = Arc::clone(&this.delivered);
                this.tasks.spawn(async move {
                    let _connection = connection;
                    while let Some(frame) = body.frame().await {
                        if let Ok(data) = frame?.into_data() {
                            // One line for each event.
                            let lines = data.iter().filter(|byte| **byte == b'\n').count();
                            delivered.fetch_add(lines as u64, Ordering::Relaxed);
                        }
                    }
                    bail!("the API has ended a watch")
                });
            }
        }
        Ok(this)
    }

    /// Until all watchers have so many events in all. Returns how long after `began` that was.
    pub(super) async fn delivered(&mut self, events: u64, began: Instant) -> anyhow::Result<f64> {
        let wanted = events * u64::from(self.count);
        loop {
            let there = self.delivered.load(Ordering::Relaxed);
            if there >= wanted {
                return Ok(began.elapsed().as_secs_f64());
            }
            if let Some(ended) = self.tasks.try_join_next() {
                ended?.context("a watcher")?;
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "only {there} of {wanted} events after {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
