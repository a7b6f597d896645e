//! Members on a simulated network and simulated disks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::network::Net;
use crate::store::disk::Disk;
use crate::store::disk::fake::FakeDisk;
use crate::store::foundation::Foundation;
use crate::store::group::change::Change;
use crate::store::member::{Member, Options, Role};
use crate::store::metrics::Metrics;
use crate::store::planted::{self, Bug};
use crate::store::raft::Node;
use crate::store::{Identity, Start, Store, StoreError};

pub(in crate::store) const CLUSTER: &str = "simulated";

pub(in crate::store) struct Cluster {
    pub(in crate::store) net: Net,
    pub(in crate::store) options: Options,
    disks: BTreeMap<u64, FakeDisk>,
    /// Those that run.
    stores: BTreeMap<u64, Running>,
    /// How they came: at which change.
    since: BTreeMap<u64, u64>,
    lives: u64,
    rng: Arc<Mutex<StdRng>>,
    /// Milliseconds that a sync takes, of each.
    pub(in crate::store) slow: Arc<Mutex<BTreeMap<u64, u64>>>,
}

#[derive(Clone)]
pub(in crate::store) struct Running {
    pub(in crate::store) store: Store,
    pub(in crate::store) life: u64,
}

pub(in crate::store) fn node(id: u64) -> Node {
    Node {
        name: format!("c{id}"),
        address: format!("sim-{id}:6444"),
        api_address: String::new(),
    }
}

impl Cluster {
    /// The first member, alone.
    pub(in crate::store) async fn found(seed: u64, options: Options) -> Self {
        let mut cluster = Self {
            net: Net::new(seed),
            options,
            disks: BTreeMap::new(),
            stores: BTreeMap::new(),
            since: BTreeMap::new(),
            lives: 0,
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ 1))),
            slow: Arc::default(),
        };
        cluster.start(1).await.unwrap();
        cluster
    }

    /// As many members, all of them voting.
    pub(in crate::store) async fn of(size: u64, seed: u64, options: Options) -> Self {
        let mut cluster = Self::found(seed, options).await;
        for id in 2..=size {
            cluster.add(id).await.unwrap();
            cluster.await_voter(id).await;
        }
        cluster
    }

    pub(in crate::store) async fn add(&mut self, id: u64) -> Result<(), StoreError> {
        let any = self.any();
        let since = any.change(&Change::Put(id, node(id))).await?;
        self.since.insert(id, since);
        self.start(id).await
    }

    /// The change with which it came.
    pub(in crate::store) fn came_with(&mut self, id: u64, since: u64) {
        self.since.insert(id, since);
    }

    pub(in crate::store) async fn await_voter(&self, id: u64) {
        let votes = async || loop {
            let members = self.any().members();
            if members.iter().any(|member| member.id == id && member.votes) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        tokio::time::timeout(Duration::from_secs(30), votes())
            .await
            .expect("it votes");
    }

    /// Begins to start a member; it is ready when what is returned is.
    pub(in crate::store) fn begin(
        &mut self,
        id: u64,
    ) -> impl Future<Output = Result<Running, StoreError>> + Send + 'static {
        self.lives += 1;
        let life = self.lives;
        let disk = self.disks.entry(id).or_default().clone();
        if planted::is(Bug::LyingDisks) {
            disk.hold_syncs();
        }
        let net = self.net.clone();
        let role = Role {
            identity: Identity {
                id,
                cluster: Arc::from(CLUSTER),
                since: self.since.get(&id).copied().unwrap_or(0),
            },
            node: node(id),
            start: match id {
                1 => Start::Found,
                _ => Start::Join,
            },
        };
        let (rng, slow) = (Arc::clone(&self.rng), Arc::clone(&self.slow));
        let latency = move || {
            let most = slow.lock().unwrap().get(&id).copied().unwrap_or(2);
            Duration::from_micros(rng.lock().unwrap().random_range(100..=most * 1_000))
        };
        let options = self.options;
        async move {
            let metrics = Metrics::default();
            let disk: Arc<dyn Disk> = Arc::new(disk);
            let foundation = Foundation::simulate(disk, id, &options.retention, &metrics, latency)?;
            let transport = net.transport(id, life);
            let listen = Box::new(move |inbox| {
                net.plug_in(id, life, inbox);
                tokio::spawn(std::future::pending())
            });
            let member =
                Member::start(role, foundation, options, metrics, transport, Some(listen)).await?;
            let store = Store {
                member: Arc::new(member),
            };
            Ok(Running { store, life })
        }
    }

    pub(in crate::store) fn running(&mut self, id: u64, running: Running) {
        self.stores.insert(id, running);
    }

    pub(in crate::store) async fn start(&mut self, id: u64) -> Result<(), StoreError> {
        let running = self.begin(id).await?;
        self.running(id, running);
        Ok(())
    }

    /// Power is lost: of what its disk was not asked to sync, the first `keep` writes are there later.
    pub(in crate::store) fn crash(&mut self, id: u64, keep: usize) {
        self.net.unplug(id);
        if let Some(disk) = self.disks.get_mut(&id) {
            *disk = disk.crash(keep);
        }
        // What still runs of it talks to nobody and writes to a disk that nobody reads.
        self.stores.remove(&id);
    }

    pub(in crate::store) async fn stop(&mut self, id: u64) -> Result<(), StoreError> {
        let running = self.stores.remove(&id).expect("it runs");
        running.store.hand_over().await;
        let closed = running.store.close().await;
        self.net.unplug(id);
        closed
    }

    pub(in crate::store) fn ids(&self) -> Vec<u64> {
        self.stores.keys().copied().collect()
    }

    pub(in crate::store) fn get(&self, id: u64) -> Option<&Running> {
        self.stores.get(&id)
    }

    pub(in crate::store) fn store(&self, id: u64) -> &Store {
        &self.stores[&id].store
    }

    pub(in crate::store) fn disk(&self, id: u64) -> &FakeDisk {
        &self.disks[&id]
    }

    pub(in crate::store) fn any(&self) -> Store {
        let (_, running) = self.stores.iter().next().expect("one runs");
        running.store.clone()
    }

    /// Who leads, by its own word.
    pub(in crate::store) fn leader(&self) -> Option<u64> {
        let leads = |running: &Running| *running.store.leadership().borrow();
        let mut leaders = self.stores.iter().filter(|(_, running)| leads(running));
        leaders.next().map(|(id, _)| *id)
    }

    pub(in crate::store) async fn await_leader(&self) -> u64 {
        let found = async {
            loop {
                if let Some(leader) = self.leader() {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, found)
            .await
            .expect("a leader")
    }
}
