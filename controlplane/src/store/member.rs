//! One member: opens the parts of the store in order, and runs the tasks between them.
//!
//! ```text
//! directory -> disk -> disk thread -> log, state machine -> Raft -> proposals, hub, upkeep
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

#[cfg(test)]
use super::Revision;
use super::compaction::Retention;
use super::directory::Directory;
#[cfg(test)]
use super::directory::Watermark;
#[cfg(test)]
use super::disk::Disk;
use super::disk::{DiskError, SledDisk};
use super::foundation::Foundation;
use super::machine::{Published, Shared};
use super::metrics::Metrics;
use super::peers::NoPeers;
use super::proposals::{self, Proposals};
use super::raft::{Node, NodeId, Raft};
use super::sealed::SealedDisk;
use super::watch::{Hub, Limits};
use super::writer::Writer;
use super::{Freshness, StoreConfig, StoreError, upkeep};

/// A state older than this many log entries is not applied again at a start, and the log keeps no more.
const SNAPSHOT_EVERY: u64 = 2_000;
/// Entries kept for a follower that is a little behind.
const LOG_KEPT: u64 = 500;
/// How long a start may take to apply its log.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What tests vary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) retention: Retention,
    pub(super) limits: Limits,
    /// Writes are refused when less than this many bytes are free.
    pub(super) reserve: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            limits: Limits::default(),
            reserve: 32 << 20,
        }
    }
}

pub(super) struct Member {
    node_id: NodeId,
    raft: Raft,
    state: Arc<Shared>,
    hub: Arc<Hub>,
    proposals: Mutex<Option<Proposals>>,
    writer: Writer,
    disk_thread: Mutex<Option<ThreadHandle<()>>>,
    server: watch::Receiver<openraft::metrics::RaftServerMetrics<NodeId, Node>>,
    leadership: watch::Receiver<bool>,
    failure: watch::Receiver<Option<StoreError>>,
    closed: AtomicBool,
    metrics: Metrics,
    tasks: Vec<JoinHandle<()>>,
    /// Owned by the disk thread.
    sealed: Option<Weak<SealedDisk<SledDisk>>>,
}

impl Member {
    pub(super) async fn open(config: StoreConfig, options: Options) -> Result<Self, StoreError> {
        let metrics = Metrics::default();
        let (foundation, sealed) = {
            let metrics = metrics.clone();
            let node_id = config.node_id;
            let open = move || {
                let directory = Directory::open(&config.dir)?;
                let watermark = directory.watermark()?;
                let disk = SledDisk::open(&directory.data())?;
                let disk = Arc::new(SealedDisk::open(disk, &config.dir)?);
                directory.sync()?;
                let sealed = Arc::downgrade(&disk);
                let foundation = Foundation::lay(
                    disk,
                    watermark,
                    directory,
                    node_id,
                    &options.retention,
                    &metrics,
                )?;
                Ok::<_, StoreError>((foundation, sealed))
            };
            tokio::task::spawn_blocking(open)
                .await
                // sled panics on some damage.
                .map_err(|e| StoreError::Corrupt(format!("reading the database: {e}")))??
        };
        let mut member = Self::start(config.node_id, foundation, options, metrics).await?;
        member.sealed = Some(sealed);
        Ok(member)
    }

    /// The disk, until it is closed.
    pub(super) fn sealed(&self) -> Option<Arc<SealedDisk<SledDisk>>> {
        self.sealed.as_ref()?.upgrade()
    }

    /// A member on a disk of the test's choice.
    #[cfg(test)]
    pub(super) async fn open_on(
        disk: Arc<dyn Disk>,
        watermark: u64,
        options: Options,
    ) -> Result<Self, StoreError> {
        let node_id = 1;
        let metrics = Metrics::default();
        let watermark = Watermark::in_memory(watermark);
        let foundation =
            Foundation::lay(disk, watermark, (), node_id, &options.retention, &metrics)?;
        Self::start(node_id, foundation, options, metrics).await
    }

    async fn start(
        node_id: NodeId,
        foundation: Foundation,
        options: Options,
        metrics: Metrics,
    ) -> Result<Self, StoreError> {
        let Foundation {
            disk,
            thread,
            writer,
            log,
            machine,
            published,
        } = foundation;
        let state = machine.shared();
        let revision = state.read().mvcc.revision();
        let hub = Arc::new(Hub::new(revision, options.limits, metrics.watch.clone()));
        let hub_task = tokio::spawn(run_hub(Arc::clone(&hub), published));

        let raft = Raft::new(node_id, Arc::new(raft_config()?), NoPeers, log, machine)
            .await
            .map_err(|e| proposals::fatal_error(&e))?;

        let (lead, leadership) = watch::channel(false);
        let (fail, failure) = watch::channel(None);
        let (proposals, proposals_task) = Proposals::start(
            raft.clone(),
            disk,
            options.reserve,
            metrics.proposals.clone(),
        );
        // Not among the tasks that are stopped: it ends with Raft, and says then that leading is over.
        tokio::spawn(follow_leadership(raft.server_metrics(), lead));
        let tasks = vec![
            hub_task,
            proposals_task,
            tokio::spawn(follow_failure(
                writer.failure(),
                raft.server_metrics(),
                fail,
                Arc::clone(&hub),
            )),
            tokio::spawn(upkeep::run(
                raft.clone(),
                Arc::clone(&state),
                options.retention,
            )),
        ];
        let member = Self {
            node_id,
            server: raft.server_metrics(),
            raft,
            state,
            hub,
            proposals: Mutex::new(Some(proposals)),
            writer,
            disk_thread: Mutex::new(Some(thread)),
            leadership,
            failure,
            closed: AtomicBool::new(false),
            metrics,
            tasks,
            sealed: None,
        };
        match member.become_ready().await {
            Ok(()) => Ok(member),
            Err(error) => {
                member.close().await?;
                Err(error)
            }
        }
    }

    /// Founds the cluster at the first start, and waits until everything in the log is applied.
    async fn become_ready(&self) -> Result<(), StoreError> {
        let initialized = self.raft.is_initialized().await;
        if !initialized.map_err(|e| proposals::fatal_error(&e))? {
            let members = [(self.node_id, Node::default())];
            self.raft
                .initialize(std::collections::BTreeMap::from(members))
                .await
                .map_err(|e| StoreError::Storage(format!("found the cluster: {e}")))?;
        }
        let mut leadership = self.leadership.clone();
        let ready = async {
            leadership
                .wait_for(|leads| *leads)
                .await
                .map_err(|_| StoreError::Closed)?;
            self.read_index().await
        };
        tokio::time::timeout(START_PATIENCE, ready)
            .await
            .unwrap_or_else(|_| Err(StoreError::NoLeader("this member was not elected".into())))
    }

    pub(super) fn state(&self) -> &Shared {
        &self.state
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn members(&self) -> Vec<super::Member> {
        let server = self.server.borrow();
        let voters: Vec<_> = server.membership_config.voter_ids().collect();
        let nodes = server.membership_config.nodes();
        nodes
            .map(|(id, node)| super::Member {
                id: *id,
                address: node.addr.clone(),
                leads: server.current_leader == Some(*id),
                votes: voters.contains(id),
            })
            .collect()
    }

    pub(super) fn leadership(&self) -> watch::Receiver<bool> {
        self.leadership.clone()
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.clone()
    }

    pub(super) fn proposals(&self) -> Result<Proposals, StoreError> {
        self.usable()?;
        let proposals = self.proposals.lock().expect("no panic while holding it");
        proposals.clone().ok_or(StoreError::Closed)
    }

    /// The reason why this member has stopped serving, where it has.
    pub(super) fn usable(&self) -> Result<(), StoreError> {
        self.disk_works()?;
        match &*self.failure.borrow() {
            Some(error) => Err(error.clone()),
            None if self.closed.load(Ordering::Acquire) => Err(StoreError::Closed),
            None => Ok(()),
        }
    }

    /// Asked at its source, which knows before anybody is told that a write failed.
    fn disk_works(&self) -> Result<(), StoreError> {
        match self.writer.failure().borrow().clone() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Returns when the state in memory is as fresh as asked.
    pub(super) async fn freshen(&self, freshness: Freshness) -> Result<(), StoreError> {
        self.usable()?;
        match freshness {
            Freshness::Local => Ok(()),
            Freshness::Linearizable if self.decides_alone() => Ok(()),
            Freshness::Linearizable => self.read_index().await,
        }
    }

    /// True while nothing can be committed without this member. What is acknowledged is applied here first, so
    /// memory is as fresh as can be and the round through Raft would only cost time. Growing the group takes
    /// two entries, and the first, which still needs this member, is seen here before the second is written.
    fn decides_alone(&self) -> bool {
        let server = self.server.borrow();
        server.state.is_leader() && server.membership_config.voter_ids().eq([self.node_id])
    }

    async fn read_index(&self) -> Result<(), StoreError> {
        use openraft::error::{CheckIsLeaderError, RaftError};
        match self.raft.ensure_linearizable().await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => {
                Err(StoreError::NoLeader(format!("leader: {:?}", to.leader_id)))
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(e))) => {
                Err(StoreError::NoLeader(e.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => {
                self.usable()?;
                Err(proposals::fatal_error(&fatal))
            }
        }
    }

    #[cfg(test)]
    pub(super) async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.usable()?;
        upkeep::compact(&self.raft, revision).await
    }

    /// Stops serving, makes everything durable and lets go of the directory.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        drop(
            self.proposals
                .lock()
                .expect("no panic while holding it")
                .take(),
        );
        self.hub.close();
        for task in &self.tasks {
            task.abort();
        }
        self.raft
            .shutdown()
            .await
            .map_err(|e| StoreError::Storage(format!("stop Raft: {e}")))?;
        self.writer.stop();
        let thread = self
            .disk_thread
            .lock()
            .expect("no panic while holding it")
            .take();
        if let Some(thread) = thread {
            // The thread hands its panics on; there is nothing left to do about them.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.disk_works()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        for task in &self.tasks {
            task.abort();
        }
        self.writer.stop();
        // Raft's tasks hold each other: without this they would stay for ever.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let raft = self.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

fn raft_config() -> Result<Config, StoreError> {
    let config = Config {
        cluster_name: "waggle".into(),
        // A lost leader is replaced within 2 s, and an idle member wakes up a few times a second at most.
        heartbeat_interval: 250,
        election_timeout_min: 800,
        election_timeout_max: 1_400,
        install_snapshot_timeout: 60_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|e| StoreError::Storage(format!("Raft configuration: {e}")))
}

async fn run_hub(hub: Arc<Hub>, mut published: mpsc::UnboundedReceiver<Published>) {
    while let Some(published) = published.recv().await {
        match published {
            Published::Changes(changes) => hub.publish(&changes),
            Published::Jump(revision) => hub.cut_all(revision),
        }
    }
}

async fn follow_leadership(
    mut server: watch::Receiver<openraft::metrics::RaftServerMetrics<NodeId, Node>>,
    lead: watch::Sender<bool>,
) {
    loop {
        let leads = server.borrow_and_update().state.is_leader();
        lead.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if server.changed().await.is_err() {
            break;
        }
    }
    lead.send_replace(false);
}

/// A failed disk, or a Raft that has stopped, ends everything that this member serves.
async fn follow_failure(
    mut disk: watch::Receiver<Option<DiskError>>,
    mut raft: watch::Receiver<openraft::metrics::RaftServerMetrics<NodeId, Node>>,
    fail: watch::Sender<Option<StoreError>>,
    hub: Arc<Hub>,
) {
    tokio::select! {
        failed = disk.wait_for(Option::is_some) => if failed.is_err() {
            return;
        },
        // Raft ended on its own: a bug, or a disk error that it was told first.
        () = async { while raft.changed().await.is_ok() {} } => {}
    }
    let error = match disk.borrow().clone() {
        Some(error) => error.into(),
        None => StoreError::Storage("Raft has stopped".into()),
    };
    fail.send_replace(Some(error));
    hub.close();
}
