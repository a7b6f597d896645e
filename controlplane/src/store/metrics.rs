//! What the store counts. Each part gets the few handles that it writes; [`Metrics`] registers them all.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// All metrics of one member's store. Cheap to clone; clones count into the same place.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    pub(super) disk: DiskMetrics,
    pub(super) state: StateMetrics,
    pub(super) watch: WatchMetrics,
    pub(super) proposals: ProposalMetrics,
    pub(super) space: SpaceMetrics,
    pub(super) group: GroupMetrics,
}

/// Written by whoever looks whether there is space.
#[derive(Debug, Clone, Default)]
pub(super) struct SpaceMetrics {
    pub(super) no_space: Gauge,
}

/// Written by the task that follows Raft, and by the one that calls elections.
#[derive(Debug, Clone, Default)]
pub(super) struct GroupMetrics {
    pub(super) leads: Gauge,
    pub(super) has_leader: Gauge,
    pub(super) members: Gauge,
    pub(super) leader_changes: Counter,
    pub(super) elections: Counter,
}

/// Written by the disk thread.
#[derive(Debug, Clone)]
pub(super) struct DiskMetrics {
    sync_seconds: Histogram,
    bytes: Gauge,
}

/// Written by the state machine.
#[derive(Debug, Clone, Default)]
pub(super) struct StateMetrics {
    pub(super) revision: Gauge,
    pub(super) compacted: Gauge,
    pub(super) keys: Gauge,
    pub(super) history_bytes: Gauge,
}

/// Written by the watch hub.
#[derive(Debug, Clone, Default)]
pub(super) struct WatchMetrics {
    pub(super) watchers: Gauge,
    pub(super) cut_off: Counter,
}

/// Written by the proposal queue.
#[derive(Debug, Clone)]
pub(super) struct ProposalMetrics {
    pub(super) transactions: Counter,
    pub(super) per_entry: Histogram,
}

impl Default for DiskMetrics {
    fn default() -> Self {
        Self {
            // 50 us to 1.6 s.
            sync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            bytes: Gauge::default(),
        }
    }
}

impl Default for ProposalMetrics {
    fn default() -> Self {
        Self {
            transactions: Counter::default(),
            per_entry: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
        }
    }
}

impl DiskMetrics {
    pub(super) fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn uses(&self, bytes: u64) {
        self.bytes.set(bytes as i64);
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let store = registry.sub_registry_with_prefix("waggle_store");
        store.register(
            "disk_sync_seconds",
            "Time that a durable sync of the store's files takes",
            self.disk.sync_seconds.clone(),
        );
        store.register(
            "disk_bytes",
            "Bytes that the store takes on the disk",
            self.disk.bytes.clone(),
        );
        store.register(
            "revision",
            "Revision of the last applied write",
            self.state.revision.clone(),
        );
        store.register(
            "compacted_revision",
            "Oldest revision that can still be read",
            self.state.compacted.clone(),
        );
        store.register("keys", "Live keys", self.state.keys.clone());
        store.register(
            "history_bytes",
            "Bytes of values that only history keeps in memory",
            self.state.history_bytes.clone(),
        );
        store.register("watchers", "Open watches", self.watch.watchers.clone());
        store.register(
            "watchers_cut_off",
            "Watches that were ended because their reader was too slow",
            self.watch.cut_off.clone(),
        );
        store.register(
            "transactions",
            "Transactions proposed on this member",
            self.proposals.transactions.clone(),
        );
        store.register(
            "transactions_per_entry",
            "Transactions that shared one log entry, and so one sync",
            self.proposals.per_entry.clone(),
        );
        store.register(
            "alarm_no_space",
            "Whether this member's disk is so full that the store takes no more writes",
            self.space.no_space.clone(),
        );
        let group = &self.group;
        store.register(
            "is_leader",
            "Whether this member leads",
            group.leads.clone(),
        );
        store.register(
            "has_leader",
            "Whether this member knows a leader",
            group.has_leader.clone(),
        );
        store.register("members", "Members of the cluster", group.members.clone());
        store.register(
            "leader_changes",
            "How often this member has seen another leader",
            group.leader_changes.clone(),
        );
        store.register(
            "elections",
            "How often this member has called an election because it heard no leader",
            group.elections.clone(),
        );
    }
}
