//! Turns changes of the cluster into batches for every connected node.
//!
//! Informer handlers only note which keys are dirty, so what waits is bounded by the number of objects. The
//! hub's task takes the dirty keys each time the cache has advanced, reads the present state of them, builds
//! the cluster-wide part once, and adds to each node what is its own. A stream that is full gets nothing
//! more until it has drained, and then the full state. The deletion of a pod is kept from its node until
//! the nodes have let go of its endpoints ([`super::hold`]).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::applied::Applied;
use super::batch::{Draft, Message, Own, Parcel};
use super::hold::{Holds, Limits};
use super::metrics::SyncMetrics;
use super::references::{Kind, Reference};
use crate::cache::{Cache, ObjectKey, Subscription};

mod dirty;
mod leaving;
mod peer;
mod state;
mod volumes;

use dirty::{Dirty, subscribe};
use peer::Peer;

/// Parcels that may wait for a stream before it counts as slow.
const PARCELS: usize = 64;
/// What changes in this time goes to the nodes together, for each message of the flush before. A change after quiet times
/// does not wait.
const PACE: Duration = Duration::from_micros(20);
const SLOWEST_PACE: Duration = Duration::from_millis(100);
/// While most of the streams have not taken what all were sent, and then for as long again, changes gather here, where each
/// key is sent once, and not in the streams: so that no more than half of the time goes into telling everybody. At most for
/// so long.
const GATHER: Duration = Duration::from_secs(1);
/// How often it is looked then whether they have.
const LOOK: Duration = Duration::from_millis(5);
/// How often drained streams that missed something are looked for.
const RESYNC: Duration = Duration::from_millis(100);

enum Command {
    Connect {
        node: String,
        reply: oneshot::Sender<mpsc::Receiver<Parcel>>,
    },
}

/// How streams reach the hub. Cheap to clone.
#[derive(Clone)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
}

/// What one stream gets.
pub(super) struct Batches {
    parcels: mpsc::Receiver<Parcel>,
    ready: VecDeque<Draft>,
}

impl Batches {
    /// `None` when the node has connected anew elsewhere. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(draft) = self.ready.pop_front() {
                return Some(draft.encode());
            }
            self.ready = self.parcels.recv().await?.drafts();
        }
    }
}

impl Handle {
    /// The full state and then every change, until the node connects again.
    pub(super) async fn connect(&self, node: &str) -> Result<Batches, Status> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Connect {
            node: node.to_owned(),
            reply,
        };
        let gone = |()| Status::unavailable("the server is shutting down");
        self.commands.send(command).await.map_err(|_| gone(()))?;
        let parcels = answer.await.map_err(|_| gone(()))?;
        Ok(Batches {
            parcels,
            ready: VecDeque::new(),
        })
    }
}

/// Starts the hub's task; it ends with `shutdown` or with the last handle.
pub(super) fn start(
    cache: &Cache,
    applied: &Applied,
    limits: Limits,
    metrics: &SyncMetrics,
    shutdown: &CancellationToken,
) -> Handle {
    let (commands, receiver) = mpsc::channel(16);
    let hub = Hub::new(cache, applied, limits, metrics);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = hub.run(receiver) => {}
            () = shutdown.cancelled() => {}
        }
    });
    Handle { commands }
}

/// How long to wait after so many messages. Timers tell no less than a millisecond.
fn pace(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    match PACE.saturating_mul(nodes).min(SLOWEST_PACE) {
        short if short < Duration::from_millis(1) => Duration::ZERO,
        pause => pause,
    }
}

struct Hub {
    cache: Cache,
    metrics: SyncMetrics,
    dirty: Arc<Mutex<Dirty>>,
    peers: HashMap<String, Peer>,
    /// Which nodes have pods that refer to an object.
    holders: HashMap<Reference, BTreeSet<String>>,
    full: state::Full,
    /// Up to here every flush is done.
    revision: u64,
    /// Pods that are being deleted, and what the nodes have in force.
    holds: Holds,
    applied: Applied,
    /// Until then nodes that were ready before this member started are given time to come back.
    settled: Instant,
    /// Nodes that have been connected since then.
    came_back: BTreeSet<String>,
    _subscriptions: Vec<Subscription>,
}

impl Hub {
    fn new(cache: &Cache, applied: &Applied, limits: Limits, metrics: &SyncMetrics) -> Self {
        let dirty = Arc::default();
        Self {
            cache: cache.clone(),
            metrics: metrics.clone(),
            _subscriptions: subscribe(cache, &dirty),
            dirty,
            peers: HashMap::new(),
            holders: HashMap::new(),
            full: state::Full::default(),
            revision: 0,
            holds: Holds::new(limits),
            applied: applied.clone(),
            settled: Instant::now() + limits.wait,
            came_back: BTreeSet::new(),
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut advanced = self.cache.advanced();
        let mut acknowledged = self.applied.changes();
        let mut resync = tokio::time::interval(RESYNC);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rested = Instant::now();
        // When all nodes were sent something that most of them have not taken yet, and when to look again.
        let mut told: Option<Instant> = None;
        let mut look = rested;
        loop {
            let wake = self.holds.wake();
            let gathered = told.is_none_or(|told| told.elapsed() >= GATHER);
            let change = async {
                tokio::time::sleep_until(rested).await;
                advanced.changed().await
            };
            tokio::select! {
                changed = change, if gathered => {
                    if changed.is_err() {
                        return;
                    }
                    let revision = *advanced.borrow_and_update();
                    let sent = self.flush(revision);
                    let now = Instant::now();
                    rested = now + pace(sent);
                    if sent > 0 {
                        told = self.is_crowded().then_some(now);
                        look = now + LOOK;
                    }
                }
                () = tokio::time::sleep_until(look), if told.is_some() => {
                    let now = Instant::now();
                    look = now + LOOK;
                    if !self.is_crowded() && let Some(told) = told.take() {
                        rested = rested.max(now + (now - told).min(GATHER));
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Connect { node, reply }) => {
                        let parcels = self.connect(&node);
                        // Dropped when the stream has ended meanwhile; the next flush notices.
                        let _ = reply.send(parcels);
                    }
                    None => return,
                },
                _ = resync.tick(), if self.peers.values().any(|peer| peer.lagging) => {
                    self.resync_drained();
                }
                changed = acknowledged.changed(), if wake.is_some() => {
                    if changed.is_err() {
                        return;
                    }
                    acknowledged.borrow_and_update();
                    self.let_go();
                }
                () = tokio::time::sleep_until(wake.unwrap_or(self.settled)), if wake.is_some() => {
                    self.let_go();
                }
            }
        }
    }

    /// Most of many streams have something to take.
    fn is_crowded(&self) -> bool {
        let waiting = self.peers.values().filter(|peer| !peer.is_drained());
        !pace(self.peers.len()).is_zero() && waiting.count() * 2 > self.peers.len()
    }

    fn connect(&mut self, node: &str) -> mpsc::Receiver<Parcel> {
        self.disconnect(node);
        self.came_back.insert(node.to_owned());
        let (sender, receiver) = mpsc::channel(PARCELS);
        let peer = Peer::new(sender);
        self.peers.insert(node.to_owned(), peer);
        self.send_full(node);
        receiver
    }

    fn disconnect(&mut self, node: &str) {
        let Some(peer) = self.peers.remove(node) else {
            return;
        };
        for reference in peer.references() {
            self.release_object(reference, node);
        }
    }

    fn hold(&mut self, reference: &Reference, node: &str) {
        let nodes = self.holders.entry(reference.clone()).or_default();
        nodes.insert(node.to_owned());
    }

    fn release_object(&mut self, reference: &Reference, node: &str) {
        if let Some(nodes) = self.holders.get_mut(reference) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.holders.remove(reference);
            }
        }
    }

    /// The node's peer is made anew from the present state, which is sent whole.
    fn send_full(&mut self, node: &str) {
        let shared = self.full.get(&self.cache);
        let Some(mut peer) = self.peers.remove(node) else {
            return;
        };
        for reference in peer.clear() {
            self.release_object(&reference, node);
        }
        let mut own = Own::default();
        for pod in self.cache.pods.indexed(crate::cache::BY_NODE, node) {
            let key = ObjectKey::of(pod.as_ref());
            let references = state::references(&self.cache, &pod);
            let (gained, _) = peer.put(&key, references);
            for reference in gained {
                own.objects.push(state::object(&self.cache, &reference));
                self.hold(&reference, node);
            }
            own.pods.push(self.pod(&pod));
        }
        for reference in volumes::going_on(&self.cache, node) {
            let (gained, _) = peer.put(&volumes::key(&reference), [reference].into());
            for reference in gained {
                own.objects.push(state::object(&self.cache, &reference));
                self.hold(&reference, node);
            }
        }
        peer.send_full(Parcel {
            full: true,
            // Read after the last flush: at least this.
            revision: self.revision,
            since: 0,
            shared,
            own,
        });
        self.metrics.batch();
        self.peers.insert(node.to_owned(), peer);
    }

    fn resync_drained(&mut self) {
        self.forget_closed();
        let drained: Vec<String> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.lagging && peer.is_drained())
            .map(|(node, _)| node.clone())
            .collect();
        for node in drained {
            self.metrics.resync();
            self.send_full(&node);
        }
    }

    /// Everything that is dirty, to everyone whom it concerns; to how many that is. Most revisions are leases, and what
    /// follows on one must not wait as if the nodes had something to take.
    fn flush(&mut self, revision: u64) -> usize {
        let mut dirty = std::mem::take(&mut *self.dirty.lock().expect("no panic while held"));
        let since = self.revision;
        self.revision = revision;
        if dirty.is_empty() && self.holds.waiting() == 0 {
            return 0;
        }
        self.observe(&dirty);
        self.release(&mut dirty);
        self.send(&dirty, since)
    }

    /// The present state of what is dirty, as a step from `since` to the revision of the last flush; to how many nodes.
    fn send(&mut self, dirty: &Dirty, since: u64) -> usize {
        self.forget_closed();
        let revision = self.revision;
        let shared = Arc::new(state::shared(&self.cache, dirty));
        self.full.changed(dirty);
        let mut own: HashMap<String, Own> = HashMap::new();
        self.flush_pods(dirty, &mut own);
        self.flush_objects(dirty, &mut own);
        let mut sent = 0;
        for (node, peer) in &mut self.peers {
            let own = own.remove(node).unwrap_or_default();
            if !shared.is_empty() || !own.is_empty() {
                let shared = Arc::clone(&shared);
                let full = false;
                peer.send(Parcel {
                    full,
                    revision,
                    since,
                    shared,
                    own,
                });
                self.metrics.batch();
                sent += 1;
            }
        }
        sent
    }

    /// Streams that have ended.
    fn forget_closed(&mut self) {
        let closed = self.peers.iter().filter(|(_, peer)| peer.is_closed());
        let closed: Vec<String> = closed.map(|(node, _)| node.clone()).collect();
        for node in closed {
            self.disconnect(&node);
        }
    }

    fn flush_pods(&mut self, dirty: &Dirty, own: &mut HashMap<String, Own>) {
        for ((node, key), uids) in &dirty.pods {
            let Some(mut peer) = self.peers.remove(node) else {
                continue;
            };
            let changes = own.entry(node.clone()).or_default();
            let here = self.cache.pods.get_key(key).filter(|pod| {
                let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                bound == Some(node.as_str())
            });
            let present = here.as_ref().and_then(|pod| pod.metadata.uid.clone());
            for uid in uids.iter().filter(|uid| Some(*uid) != present.as_ref()) {
                changes.pods.push(state::pod_gone(key, uid));
            }
            let (gained, lost) = match &here {
                Some(pod) => {
                    changes.pods.push(self.pod(pod));
                    let references = state::references(&self.cache, pod);
                    peer.put(key, references)
                }
                None => (Vec::new(), peer.remove(key)),
            };
            self.peers.insert(node.clone(), peer);
            self.exchange(node, gained, lost, changes);
        }
    }

    fn exchange(
        &mut self,
        node: &str,
        gained: Vec<Reference>,
        lost: Vec<Reference>,
        own: &mut Own,
    ) {
        for reference in gained {
            own.objects.push(state::object(&self.cache, &reference));
            self.hold(&reference, node);
        }
        for reference in lost {
            own.objects.push(state::object_gone(&reference));
            self.release_object(&reference, node);
        }
    }

    fn flush_objects(&mut self, dirty: &Dirty, own: &mut HashMap<String, Own>) {
        for reference in &dirty.objects {
            self.flush_going_volume(reference, own);
            let Some(nodes) = self.holders.get(reference).cloned() else {
                continue;
            };
            // Serialized once; the bytes are shared.
            let change = state::object(&self.cache, reference);
            for node in nodes {
                let changes = own.entry(node.clone()).or_default();
                let sent = changes.objects.iter().any(|known| {
                    known.kind == change.kind
                        && known.namespace == change.namespace
                        && known.name == change.name
                });
                if !sent {
                    changes.objects.push(change.clone());
                }
                if matches!(reference.kind, Kind::ServiceAccount | Kind::Claim) {
                    self.account_changed(reference, &node, own);
                }
            }
        }
    }

    /// A ServiceAccount's pull secrets are references of every pod that runs as it, and a claim's volume of
    /// every pod that has it.
    fn account_changed(&mut self, account: &Reference, node: &str, own: &mut HashMap<String, Own>) {
        let Some(mut peer) = self.peers.remove(node) else {
            return;
        };
        let changes = own.entry(node.to_owned()).or_default();
        let mut gained = Vec::new();
        let mut lost = Vec::new();
        for key in peer.pods_with(account) {
            if let Some(pod) = self.cache.pods.get_key(&key) {
                let references = state::references(&self.cache, &pod);
                let (more, less) = peer.put(&key, references);
                gained.extend(more);
                lost.extend(less);
            }
        }
        self.peers.insert(node.to_owned(), peer);
        self.exchange(node, gained, lost, changes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::registry::Change;

    #[test]
    fn few_nodes_wait_for_nothing() {
        assert_eq!(pace(0), Duration::ZERO);
        assert_eq!(pace(49), Duration::ZERO);
        assert_eq!(pace(1_000), Duration::from_millis(20));
        assert_eq!(pace(usize::MAX), SLOWEST_PACE);
    }

    #[test]
    fn a_lease_is_news_to_no_node_and_what_follows_says_from_where_it_goes_on() {
        let cache = Cache::empty();
        let (applied, metrics) = (Applied::default(), SyncMetrics::default());
        let mut hub = Hub::new(&cache, &applied, Limits::default(), &metrics);
        let mut parcels = hub.connect("n1");
        assert!(parcels.try_recv().unwrap().full);
        let lease = Lease {
            metadata: named("n1"),
            ..Lease::default()
        };
        cache.leases.apply(vec![Change::Applied(lease.into())], 7);
        assert_eq!(hub.flush(7), 0);
        assert!(parcels.try_recv().is_err());
        let service = Service {
            metadata: named("s"),
            ..Service::default()
        };
        cache
            .services
            .apply(vec![Change::Applied(service.into())], 8);
        assert_eq!(hub.flush(8), 1);
        let parcel = parcels.try_recv().unwrap();
        assert_eq!((parcel.since, parcel.revision), (7, 8));
    }

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("ns".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        }
    }
}
