//! One member: opens the parts of the store in order, and runs the tasks between them.
//!
//! ```text
//! directory -> disk -> disk thread -> log, state machine -> Raft -> group -> listener, proposals, hub, upkeep
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::compaction::Retention;
use super::directory::Directory;
#[cfg(test)]
use super::directory::Watermark;
#[cfg(test)]
use super::disk::Disk;
use super::disk::{DiskError, SledDisk};
use super::foundation::Foundation;
use super::group::change::Change;
use super::group::election::{LEASE, VOTING};
use super::group::read::ReadIndex;
use super::group::{self, Group, Identity, ServerMetrics, report};
use super::lane::Lane;
use super::machine::{Published, Shared};
use super::metrics::{GroupMetrics, Metrics};
use super::peers::client::Dialler;
use super::peers::inbox::Inbox;
use super::peers::network::Network;
use super::peers::{Askers, Nobody, Transport, listener};
use super::proposals::{self, Proposals};
use super::raft::{Node, NodeId, Raft};
use super::sealed::SealedDisk;
use super::space::{Bounds, Space};
use super::watch::{Hub, Limits};
use super::writer::Writer;
use super::{Freshness, PeerConfig, Revision, Start, StoreConfig, StoreError, upkeep};

/// A state older than this many log entries is not applied again at a start, and the log keeps no more.
const SNAPSHOT_EVERY: u64 = 2_000;
/// Entries kept for a follower that is a little behind.
const LOG_KEPT: u64 = 500;
/// How long a member that is alone may take to apply its log.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How often a member that waits for others says so.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// Between two attempts to become a full member.
const SETTLE_PAUSE: Duration = Duration::from_millis(300);

/// What tests vary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) retention: Retention,
    pub(super) limits: Limits,
    pub(super) bounds: Bounds,
    pub(super) snapshot_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            limits: Limits::default(),
            bounds: Bounds::default(),
            snapshot_every: SNAPSHOT_EVERY,
        }
    }
}

/// Who this member is to the others.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) identity: Identity,
    pub(super) node: Node,
    pub(super) start: Start,
}

/// Starts to answer the others. What it returns is ended with the member.
pub(super) type Listen = Box<dyn FnOnce(Inbox) -> JoinHandle<()> + Send>;

pub(super) struct Member {
    role: Role,
    group: Arc<Group>,
    reads: ReadIndex,
    state: Arc<Shared>,
    hub: Arc<Hub>,
    proposals: Mutex<Option<Proposals>>,
    writer: Writer,
    disk_thread: Mutex<Option<ThreadHandle<()>>>,
    leadership: watch::Receiver<bool>,
    failure: watch::Receiver<Option<StoreError>>,
    closed: AtomicBool,
    metrics: Metrics,
    tasks: Vec<JoinHandle<()>>,
    /// Owned by the disk thread.
    sealed: Option<Weak<SealedDisk<SledDisk>>>,
    /// Where Raft runs, if not where this member was started.
    lane: Option<Lane>,
    waits_for: Mutex<String>,
}

impl Member {
    /// A member that is not ready yet: what is on its disk can be read, and the others reach it.
    pub(super) async fn begin(config: StoreConfig, options: Options) -> Result<Self, StoreError> {
        let metrics = Metrics::default();
        let (foundation, sealed) = {
            let metrics = metrics.clone();
            let node_id = config.identity.id;
            let dir = config.dir;
            let open = move || {
                let directory = Directory::open(&dir)?;
                let watermark = directory.watermark()?;
                let disk = SledDisk::open(&directory.data())?;
                let disk = Arc::new(SealedDisk::open(disk, &dir)?);
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
        let role = Role {
            identity: config.identity,
            node: config.node,
            start: config.start,
        };
        let mut member = match config.peers {
            None => {
                let here = Handle::current();
                let nobody = Arc::new(Nobody);
                Self::start_beside(&here, role, foundation, options, metrics, nobody, None).await?
            }
            Some(peers) => Self::start_with(role, foundation, options, metrics, peers).await?,
        };
        member.sealed = Some(sealed);
        Ok(member)
    }

    /// The same, ready to serve.
    #[cfg(test)]
    pub(super) async fn open(config: StoreConfig, options: Options) -> Result<Self, StoreError> {
        Self::begin(config, options).await?.or_closed().await
    }

    /// On a thread of its own, with the transport of a real cluster.
    async fn start_with(
        role: Role,
        foundation: Foundation,
        options: Options,
        metrics: Metrics,
        peers: PeerConfig,
    ) -> Result<Self, StoreError> {
        let lane = Lane::start()
            .map_err(|e| StoreError::Storage(format!("start the store's thread: {e}")))?;
        let transport = Dialler::new(peers.client, peers.name, lane.handle().clone());
        let listen: Listen = Box::new(move |inbox| {
            let serve = listener::serve(peers.listener, peers.server, peers.is_member, inbox);
            tokio::spawn(serve)
        });
        let watchers = Handle::current();
        let there = lane.handle().spawn(async move {
            let transport = Arc::new(transport);
            Self::start_beside(
                &watchers,
                role,
                foundation,
                options,
                metrics,
                transport,
                Some(listen),
            )
            .await
        });
        let mut member = there
            .await
            .map_err(|e| StoreError::Storage(format!("starting: {e}")))??;
        member.lane = Some(lane);
        Ok(member)
    }

    /// The disk, until it is closed.
    pub(super) fn sealed(&self) -> Option<Arc<SealedDisk<SledDisk>>> {
        self.sealed.as_ref()?.upgrade()
    }

    /// A member that is alone, on a disk of the test's choice.
    #[cfg(test)]
    pub(super) async fn open_on(
        disk: Arc<dyn Disk>,
        watermark: u64,
        options: Options,
    ) -> Result<Self, StoreError> {
        let StoreConfig {
            identity,
            node,
            start,
            ..
        } = StoreConfig::alone(Default::default(), 1);
        let role = Role {
            identity,
            node,
            start,
        };
        let metrics = Metrics::default();
        let watermark = Watermark::in_memory(watermark);
        let retention = &options.retention;
        let foundation = Foundation::lay(disk, watermark, (), 1, retention, &metrics)?;
        Self::start(role, foundation, options, metrics, Arc::new(Nobody), None).await
    }

    /// A member that is ready, on the caller's runtime.
    #[cfg(test)]
    pub(super) async fn start(
        role: Role,
        foundation: Foundation,
        options: Options,
        metrics: Metrics,
        transport: Arc<dyn Transport>,
        listen: Option<Listen>,
    ) -> Result<Self, StoreError> {
        let here = Handle::current();
        let begun =
            Self::start_beside(&here, role, foundation, options, metrics, transport, listen);
        begun.await?.or_closed().await
    }

    #[cfg(test)]
    async fn or_closed(self) -> Result<Self, StoreError> {
        match self.become_ready().await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.close().await?;
                Err(error)
            }
        }
    }

    /// Changes are handed to watchers on the runtime of those.
    async fn start_beside(
        watchers: &Handle,
        role: Role,
        foundation: Foundation,
        options: Options,
        metrics: Metrics,
        transport: Arc<dyn Transport>,
        listen: Option<Listen>,
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
        let hub_task = watchers.spawn(run_hub(Arc::clone(&hub), published));

        let askers = Askers::default();
        let network = Network {
            own: role.identity.clone(),
            transport: Arc::clone(&transport),
            log: log.clone(),
            askers: askers.clone(),
        };
        let raft_config = Arc::new(raft_config(options.snapshot_every)?);
        let raft = Raft::new(role.identity.id, raft_config, network, log.clone(), machine)
            .await
            .map_err(|e| proposals::fatal_error(&e))?;
        let space = Space::new(disk, options.bounds, metrics.space.clone());
        let group = Arc::new(Group::new(
            role.identity.clone(),
            raft.clone(),
            log,
            Arc::clone(&state),
            transport,
            space,
            askers,
        ));

        let (lead, leadership) = watch::channel(false);
        let (fail, failure) = watch::channel(None);
        let (proposals, proposals_task) =
            Proposals::start(Arc::clone(&group), metrics.proposals.clone());
        let (reads, reads_task) = ReadIndex::start(&group);
        // Not among the tasks that are stopped: it ends with Raft, and says then that leading is over.
        tokio::spawn(follow_leadership(
            raft.metrics(),
            lead,
            metrics.group.clone(),
        ));
        let mut tasks = vec![
            hub_task,
            proposals_task,
            reads_task,
            tokio::spawn(follow_failure(
                writer.failure(),
                Arc::clone(&group),
                fail,
                Arc::clone(&hub),
            )),
            tokio::spawn(upkeep::run(Arc::clone(&group), options.retention)),
            tokio::spawn(Arc::clone(&group).keep_reporting()),
            tokio::spawn(Arc::clone(&group).keep_electing(metrics.group.clone())),
        ];
        tasks.extend(listen.map(|listen| listen(Inbox::new(Arc::clone(&group)))));
        let mut member = Self {
            role,
            group,
            reads,
            state,
            hub,
            proposals: Mutex::new(Some(proposals)),
            writer,
            disk_thread: Mutex::new(thread),
            leadership,
            failure,
            closed: AtomicBool::new(false),
            metrics,
            tasks,
            sealed: None,
            lane: None,
            waits_for: Mutex::default(),
        };
        match member.found().await {
            Ok(()) => Ok(member),
            Err(error) => {
                member.close().await?;
                Err(error)
            }
        }
    }

    /// Founds the cluster at the first start, and takes this member's place in it.
    async fn found(&mut self) -> Result<(), StoreError> {
        let raft = &self.group.raft;
        let initialized = raft.is_initialized().await;
        let initialized = initialized.map_err(|e| proposals::fatal_error(&e))?;
        if !initialized && self.role.start == Start::Found {
            let members = [(self.role.identity.id, self.role.node.clone())];
            raft.initialize(std::collections::BTreeMap::from(members))
                .await
                .map_err(|e| StoreError::Storage(format!("found the cluster: {e}")))?;
        }
        if self.group.votes_alone() {
            // Nobody else could; Raft itself would look for a while.
            let elected = raft.trigger().elect().await;
            elected.map_err(|e| proposals::fatal_error(&e))?;
        }
        let settle = settle(Arc::clone(&self.group), self.role.node.clone());
        self.tasks.push(tokio::spawn(settle));
        Ok(())
    }

    /// Waits until this member can serve.
    pub(super) async fn become_ready(&self) -> Result<(), StoreError> {
        let started = tokio::time::Instant::now();
        let mut said = started;
        loop {
            let why = match self.reads.catch_up(&self.group).await {
                Ok(()) => return Ok(()),
                Err(StoreError::NoLeader(why)) => why,
                Err(error) => {
                    self.usable()?;
                    return Err(error);
                }
            };
            self.usable()?;
            if self.group.is_alone() && started.elapsed() > START_PATIENCE {
                return Err(StoreError::NoLeader(why));
            }
            if said.elapsed() > SAY_AGAIN {
                said = tokio::time::Instant::now();
                tracing::warn!(why, "waiting for the other members");
            }
            *self.waits_for.lock().expect("no panic while holding it") = why;
            let mut failure = self.failure.clone();
            tokio::select! {
                _ = failure.wait_for(Option::is_some) => {}
                () = tokio::time::sleep(SETTLE_PAUSE) => {}
            }
        }
    }

    /// Why it could not serve when it last tried, while it begins.
    pub(super) fn waits_for(&self) -> String {
        let why = self.waits_for.lock().expect("no panic while holding it");
        why.clone()
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
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
        let leads_no_more = !self.group.leads_for_sure();
        let server = self.group.server.borrow();
        let voters: Vec<_> = server.membership_config.voter_ids().collect();
        let nodes = server.membership_config.nodes();
        nodes
            .map(|(id, node)| super::Member {
                id: *id,
                name: node.name.clone(),
                address: node.address.clone(),
                api_address: node.api_address.clone(),
                leads: server.current_leader == Some(*id)
                    && !(*id == self.role.identity.id && leads_no_more),
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
            #[cfg(test)]
            Freshness::Linearizable if super::planted::is(super::planted::Bug::StaleReads) => {
                Ok(())
            }
            Freshness::Linearizable if self.group.decides_alone() => Ok(()),
            Freshness::Linearizable => {
                let caught_up = self.reads.catch_up(&self.group).await;
                if caught_up.is_err() {
                    // The disk's error says more than what it did to Raft.
                    self.usable()?;
                }
                caught_up
            }
        }
    }

    pub(super) async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.usable()?;
        self.group.compact(revision).await
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
        self.group
            .raft
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
            let raft = self.group.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

fn raft_config(snapshot_every: u64) -> Result<Config, StoreError> {
    let config = Config {
        cluster_name: "waggle".into(),
        // When there is an election, and how often a leader beats, is decided in `group/election.rs`. Of what
        // follows the first is how long a message with entries may take, the second a vote, and the third the lease.
        enable_elect: false,
        enable_heartbeat: false,
        heartbeat_interval: 300,
        election_timeout_min: VOTING.as_millis() as u64,
        election_timeout_max: LEASE.as_millis() as u64,
        install_snapshot_timeout: 600_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: LOG_KEPT.min(snapshot_every / 4),
        max_payload_entries: 64,
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

/// A member that leads and does not reach a majority does not count as leader: somebody else may lead.
async fn follow_leadership(
    mut raft: watch::Receiver<openraft::RaftMetrics<NodeId, Node>>,
    lead: watch::Sender<bool>,
    metrics: GroupMetrics,
) {
    let mut leader = None;
    loop {
        let leads = {
            let raft = raft.borrow_and_update();
            if raft.current_leader.is_some() && raft.current_leader != leader {
                leader = raft.current_leader;
                metrics.leader_changes.inc();
            }
            metrics
                .has_leader
                .set(i64::from(raft.current_leader.is_some()));
            let members = raft.membership_config.nodes().count();
            metrics.members.set(members as i64);
            group::is_acknowledged(&raft)
        };
        metrics.leads.set(i64::from(leads));
        lead.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if raft.changed().await.is_err() {
            break;
        }
    }
    lead.send_replace(false);
}

/// A failed disk, a Raft that has stopped, or a removal ends everything that this member serves.
async fn follow_failure(
    mut disk: watch::Receiver<Option<DiskError>>,
    group: Arc<Group>,
    fail: watch::Sender<Option<StoreError>>,
    hub: Arc<Hub>,
) {
    let mut raft: watch::Receiver<ServerMetrics> = group.server.clone();
    let mut removed = group.reports.removed();
    let mut gone = None;
    tokio::select! {
        failed = disk.wait_for(Option::is_some) => if failed.is_err() {
            return;
        },
        // Raft ended on its own: a bug, or a disk error that it was told first.
        () = async { while raft.changed().await.is_ok() {} } => {}
        Ok(at) = removed.wait_for(Option::is_some) => gone = *at,
    }
    let error = match (disk.borrow().clone(), gone) {
        (Some(error), _) => error.into(),
        (None, Some(at)) => report::removal(group.own.id, at),
        (None, None) => StoreError::Storage("Raft has stopped".into()),
    };
    tracing::error!(%error, "this member stops");
    fail.send_replace(Some(error));
    hub.close();
}

/// Sees to it that the others know this member as it is, and that it votes once it has caught up.
async fn settle(group: Arc<Group>, node: Node) {
    let mut server = group.server.clone();
    let mut said = String::new();
    loop {
        let wanted = {
            let server = server.borrow_and_update();
            let membership = server.membership_config.membership();
            let id = group.own.id;
            match membership.get_node(&id) {
                None => None,
                Some(known) if *known != node => Some(Change::Put(id, node.clone())),
                Some(_) if membership.voter_ids().any(|voter| voter == id) => None,
                Some(_) => Some(Change::Promote(id)),
            }
        };
        let Some(change) = wanted else {
            if server.changed().await.is_err() {
                return;
            }
            continue;
        };
        match group.change(&change).await {
            Ok(_) => tracing::info!(?change, "the members have changed"),
            Err(StoreError::Closed) => return,
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::info!(why, ?change, "not yet");
                    said = why;
                }
            }
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
}
