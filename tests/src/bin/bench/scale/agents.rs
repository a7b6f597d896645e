//! Simulated agents: each holds one Sync stream, acknowledges what it gets, renews its lease, and says of the pods that
//! it was given that they run. They run no pod and load no program.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use proto::node::v1 as wire;
use proto::node::v1::control_message::Message as FromControl;
use proto::node::v1::node_message::Message as FromNode;
use proto::node::v1::node_sync_client::NodeSyncClient;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::certificates::Authority;
use super::objects;
use super::slim::{Batch, Pod, SliceName};

/// How often real agents renew.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
/// Streams that are begun at once.
const DIALLING: usize = 32;
const MOST_BYTES: usize = 64 << 20;

/// What all agents write to.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Pods that their nodes have been given.
    pub(super) bound: AtomicU64,
    /// Leases that were renewed.
    pub(super) heartbeats: AtomicU64,
    /// Ready endpoints of all slices, as the first agent sees them.
    pub(super) endpoints: AtomicU64,
    /// Whether agents say that they have room for pods.
    room: watch::Sender<bool>,
    /// Whether agents say of their pods that they run.
    report: watch::Sender<bool>,
    /// Addresses that were given to pods.
    addresses: AtomicU32,
    arrivals: mpsc::UnboundedSender<(u32, Instant)>,
    /// Streams that ended though nobody asked them to.
    lost: AtomicBool,
}

pub(super) struct Fleet {
    pub(super) ledger: Arc<Ledger>,
    arrivals: mpsc::UnboundedReceiver<(u32, Instant)>,
    agents: JoinSet<anyhow::Result<()>>,
    authority: Arc<Authority>,
    server: String,
    count: u32,
}

impl Fleet {
    pub(super) fn new(authority: Authority, port: u16) -> Self {
        let (sender, arrivals) = mpsc::unbounded_channel();
        Self {
            ledger: Arc::new(Ledger {
                bound: AtomicU64::new(0),
                heartbeats: AtomicU64::new(0),
                endpoints: AtomicU64::new(0),
                room: watch::Sender::new(false),
                report: watch::Sender::new(false),
                addresses: AtomicU32::new(0),
                arrivals: sender,
                lost: AtomicBool::new(false),
            }),
            arrivals,
            agents: JoinSet::new(),
            authority: Arc::new(authority),
            server: format!("https://127.0.0.1:{port}"),
            count: 0,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Connects further agents; returns when each has the full state.
    pub(super) async fn grow(&mut self, to: u32) -> anyhow::Result<()> {
        let dialling = Arc::new(Semaphore::new(DIALLING));
        let (synced, mut all_synced) = mpsc::unbounded_channel();
        for number in self.count..to {
            let agent = Dialled {
                number,
                ledger: Arc::clone(&self.ledger),
                authority: Arc::clone(&self.authority),
                server: self.server.clone(),
                dialling: Arc::clone(&dialling),
            };
            let (synced, ledger) = (synced.clone(), Arc::clone(&self.ledger));
            self.agents.spawn(async move {
                let outcome = agent.run(synced).await;
                ledger.lost.store(true, Ordering::Relaxed);
                outcome.with_context(|| objects::node_name(number))
            });
        }
        drop(synced);
        for _ in self.count..to {
            if all_synced.recv().await.is_none() {
                break;
            }
        }
        self.count = to;
        self.check()
    }

    /// An error when an agent has lost its stream.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        if self.ledger.lost.load(Ordering::Relaxed)
            && let Some(ended) = self.agents.try_join_next()
        {
            ended??;
            bail!("an agent has ended");
        }
        Ok(())
    }

    /// All agents say that they have room for pods.
    pub(super) fn make_room(&self) {
        self.ledger.room.send_replace(true);
    }

    /// From now on agents say of all their pods that they run.
    pub(super) fn report_pods(&self) {
        self.ledger.report.send_replace(true);
    }

    /// Seconds after `since` at which each of the agents had this change of the marker.
    pub(super) async fn arrivals(
        &mut self,
        change: u32,
        since: Instant,
        patience: Duration,
    ) -> anyhow::Result<Vec<f64>> {
        let mut taken = Vec::new();
        while taken.len() < self.count as usize {
            let next = tokio::time::timeout(patience, self.arrivals.recv()).await;
            let there = taken.len();
            let (number, when) = next
                .with_context(|| format!("change {change} has reached {there} agents only"))?
                .context("agents run")?;
            // An older one that came late was counted when it was asked for.
            if number == change {
                taken.push(when.duration_since(since).as_secs_f64());
            }
        }
        Ok(taken)
    }
}

struct Dialled {
    number: u32,
    ledger: Arc<Ledger>,
    authority: Arc<Authority>,
    server: String,
    dialling: Arc<Semaphore>,
}

impl Dialled {
    async fn run(self, synced: mpsc::UnboundedSender<()>) -> anyhow::Result<()> {
        let permit = self.dialling.acquire().await?;
        let name = objects::node_name(self.number);
        let (certificate, key) = self.authority.node(&name)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority.ca_pem))
            .identity(Identity::from_pem(certificate, key));
        let channel = Endpoint::from_shared(self.server.clone())?
            .tls_config(tls)?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let mut client = NodeSyncClient::new(channel).max_decoding_message_size(MOST_BYTES);
        let (send, messages) = mpsc::channel(64);
        let hello = wire::Hello {
            node_name: name,
            node_json: objects::node(self.number).to_string().into(),
            agent_version: "simulated".to_owned(),
            data_plane: None,
        };
        send.send(message(FromNode::Hello(hello))).await?;
        let incoming = client
            .sync(ReceiverStream::new(messages))
            .await?
            .into_inner();
        let mut agent = Agent {
            number: self.number,
            ledger: Arc::clone(&self.ledger),
            send,
            pods: HashSet::new(),
            unreported: Vec::new(),
            slices: BTreeMap::new(),
        };
        agent.follow(incoming, permit, synced).await
    }
}

struct Agent {
    number: u32,
    ledger: Arc<Ledger>,
    send: mpsc::Sender<wire::NodeMessage>,
    /// By uid.
    pods: HashSet<String>,
    unreported: Vec<Pod>,
    /// Ready endpoints by slice; of the first agent only.
    slices: BTreeMap<String, u64>,
}

fn message(message: FromNode) -> wire::NodeMessage {
    wire::NodeMessage {
        message: Some(message),
    }
}

impl Agent {
    async fn follow(
        &mut self,
        mut incoming: Streaming<wire::ControlMessage>,
        permit: tokio::sync::SemaphorePermit<'_>,
        synced: mpsc::UnboundedSender<()>,
    ) -> anyhow::Result<()> {
        let mut begun = Some((permit, synced));
        let mut room = self.ledger.room.subscribe();
        let mut report = self.ledger.report.subscribe();
        // Not all at the same moment.
        let phase = HEARTBEAT.mul_f64(f64::from(self.number % 1_000) / 1_000.0);
        let start = tokio::time::Instant::now() + phase;
        let mut heartbeat = tokio::time::interval_at(start, HEARTBEAT);
        loop {
            tokio::select! {
                next = incoming.message() => {
                    let next = next?.context("the control plane ended the stream")?;
                    if let Some(FromControl::Batch(bytes)) = next.message {
                        let batch = Batch::decode(bytes)?;
                        let complete = !batch.full || batch.last;
                        self.take(batch).await?;
                        if complete && let Some((_permit, synced)) = begun.take() {
                            let _ = synced.send(());
                        }
                    }
                }
                _ = heartbeat.tick() => {
                    let renewal = wire::LeaseRenewal { duration_seconds: 40 };
                    self.send.send(message(FromNode::LeaseRenewal(renewal))).await?;
                    self.ledger.heartbeats.fetch_add(1, Ordering::Relaxed);
                }
                changed = room.changed() => {
                    changed?;
                    let status = wire::NodeStatus {
                        status_json: objects::with_room(self.number).to_string().into(),
                    };
                    self.send.send(message(FromNode::NodeStatus(status))).await?;
                }
                changed = report.changed() => {
                    changed?;
                    self.report().await?;
                }
            }
        }
    }

    async fn take(&mut self, batch: Batch) -> anyhow::Result<()> {
        for pod in batch.pods {
            if !pod.json.is_empty() && self.pods.insert(pod.uid.clone()) {
                self.ledger.bound.fetch_add(1, Ordering::Relaxed);
                self.unreported.push(pod);
            }
        }
        for slice in batch.slices {
            let name = SliceName::decode(slice.clone())?.name;
            if name == objects::MARKER {
                self.marked(slice)?;
            } else if self.number == 0 {
                self.count(name, slice)?;
            }
        }
        if *self.ledger.report.borrow() {
            self.report().await?;
        }
        if !batch.full || batch.last {
            let applied = wire::AppliedRevision {
                revision: batch.revision,
            };
            self.send.send(message(FromNode::Applied(applied))).await?;
        }
        Ok(())
    }

    fn marked(&self, slice: bytes::Bytes) -> anyhow::Result<()> {
        let change = wire::EndpointSliceChange::decode(slice)?;
        let endpoints = change.slice.unwrap_or_default().endpoints;
        let address = endpoints
            .first()
            .and_then(|endpoint| endpoint.addresses.first());
        if let Some(change) = address.and_then(|address| objects::marked(address)) {
            // The fleet is dropped first at the end.
            let _ = self.ledger.arrivals.send((change, Instant::now()));
        }
        Ok(())
    }

    fn count(&mut self, name: String, slice: bytes::Bytes) -> anyhow::Result<()> {
        let change = wire::EndpointSliceChange::decode(slice)?;
        let ready = change.slice.map_or(0, |slice| {
            slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.ready)
                .count() as u64
        });
        let before = self.slices.insert(name, ready).unwrap_or(0);
        let counter = &self.ledger.endpoints;
        counter.fetch_add(ready.wrapping_sub(before), Ordering::Relaxed);
        Ok(())
    }

    async fn report(&mut self) -> anyhow::Result<()> {
        for pod in std::mem::take(&mut self.unreported) {
            let number = self.ledger.addresses.fetch_add(1, Ordering::Relaxed);
            ensure!(number < 1 << 22, "more pods than addresses");
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number);
            let status = wire::PodStatus {
                namespace: pod.namespace,
                name: pod.name,
                uid: pod.uid,
                status_json: objects::running(address).to_string().into(),
                mirror_json: bytes::Bytes::new(),
            };
            self.send.send(message(FromNode::PodStatus(status))).await?;
        }
        Ok(())
    }
}
