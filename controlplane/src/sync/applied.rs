//! Which revision each connected node has applied in its kernel maps and DNS.
//!
//! The hub reads here whether the nodes have let go of an endpoint before its pod is stopped, and
//! `waggle cluster status` how far each node is. Kept in memory only: after a restart every node says it
//! again with its first batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use proto::node::v1::DataPlaneMode;
use tokio::sync::watch;

/// What one node has applied, as told on one of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    stream: u64,
    revision: u64,
    /// What was put on the stream is complete up to here.
    sent: u64,
    introduction: Introduction,
}

/// What a node said of itself when its stream began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) agent_version: String,
    pub(crate) data_plane: DataPlaneMode,
}

/// A connected node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    pub(crate) applied: u64,
    pub(crate) sent: u64,
    pub(crate) introduction: Introduction,
}

/// Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    nodes: Arc<watch::Sender<HashMap<String, Told>>>,
    streams: Arc<AtomicU64>,
    /// How often a node came or went.
    turnover: Arc<AtomicU64>,
    elsewhere: Arc<Mutex<Elsewhere>>,
}

/// The nodes that hold their streams to other members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// The least that one of them has applied; `u64::MAX` where there is none.
    pub(super) least: u64,
    pub(super) nodes: BTreeSet<String>,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self {
            least: u64::MAX,
            nodes: BTreeSet::new(),
        }
    }
}

impl Default for Applied {
    fn default() -> Self {
        Self {
            nodes: Arc::new(watch::Sender::new(HashMap::new())),
            streams: Arc::default(),
            turnover: Arc::default(),
            elsewhere: Arc::default(),
        }
    }
}

/// A node's stream. When it is dropped nobody waits for the node any more, unless another stream of the same
/// node has taken over.
#[derive(Debug)]
pub(super) struct Connection {
    applied: Applied,
    node: String,
    stream: u64,
}

impl Connection {
    /// A message that is complete up to this revision went out. Nobody waits for that.
    pub(super) fn sent(&self, revision: u64) {
        self.applied.nodes.send_if_modified(|nodes| {
            let told = nodes.get_mut(&self.node);
            if let Some(told) = told.filter(|told| told.stream == self.stream) {
                told.sent = told.sent.max(revision);
            }
            false
        });
    }

    /// A node's revision only moves forward while it is connected.
    pub(super) fn record(&self, revision: u64) {
        self.applied.nodes.send_if_modified(|nodes| {
            let told = nodes.get_mut(&self.node);
            match told.filter(|told| told.stream == self.stream && told.revision < revision) {
                Some(told) => {
                    told.revision = revision;
                    true
                }
                None => false,
            }
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.applied.nodes.send_if_modified(|nodes| {
            let mine = nodes
                .get(&self.node)
                .is_some_and(|told| told.stream == self.stream);
            self.applied.turnover.fetch_add(1, Ordering::Relaxed);
            mine && nodes.remove(&self.node).is_some()
        });
    }
}

impl Applied {
    pub(super) fn connect(&self, node: &str, introduction: Introduction) -> Connection {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let told = Told {
            stream,
            revision: 0,
            sent: 0,
            introduction,
        };
        self.nodes.send_modify(|nodes| {
            self.turnover.fetch_add(1, Ordering::Relaxed);
            nodes.insert(node.to_owned(), told);
        });
        Connection {
            applied: self.clone(),
            node: node.to_owned(),
            stream,
        }
    }

    /// By name.
    pub(crate) fn connected(&self) -> BTreeMap<String, Connected> {
        let nodes = self.nodes.borrow();
        let connected = |told: &Told| Connected {
            applied: told.revision,
            sent: told.sent,
            introduction: told.introduction.clone(),
        };
        nodes
            .iter()
            .map(|(node, told)| (node.clone(), connected(told)))
            .collect()
    }

    /// By node; 0 for one that has said nothing yet.
    pub(super) fn revisions(&self) -> BTreeMap<String, u64> {
        let nodes = self.nodes.borrow();
        nodes
            .iter()
            .map(|(node, told)| (node.clone(), told.revision))
            .collect()
    }

    fn elsewhere(&self) -> MutexGuard<'_, Elsewhere> {
        self.elsewhere.lock().expect("no panic while holding it")
    }

    pub(super) fn set_elsewhere(&self, elsewhere: Elsewhere) {
        let changed = {
            let mut known = self.elsewhere();
            let changed = *known != elsewhere;
            *known = elsewhere;
            changed
        };
        if changed {
            // Whoever waits for nodes looks again.
            self.nodes.send_modify(|_| {});
        }
    }

    /// Whether the node holds a stream to another member.
    pub(super) fn is_elsewhere(&self, node: &str) -> bool {
        self.elsewhere().nodes.contains(node)
    }

    /// Another number when nodes have come or gone; whoever is told of a change finds it changed already.
    pub(super) fn turnover(&self) -> u64 {
        self.turnover.load(Ordering::Relaxed)
    }

    /// The nodes that hold a stream to this member.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.nodes.borrow().keys().cloned().collect()
    }

    /// The least that a connected node has applied, whichever member it is connected to; `u64::MAX` when none
    /// is.
    pub(super) fn least(&self) -> u64 {
        self.least_here().min(self.elsewhere().least)
    }

    /// The same of the nodes that are connected to this member.
    pub(super) fn least_here(&self) -> u64 {
        let nodes = self.nodes.borrow();
        let revisions = nodes.values().map(|told| told.revision);
        revisions.min().unwrap_or(u64::MAX)
    }

    /// Told of every change.
    pub(super) fn changes(&self) -> watch::Receiver<HashMap<String, Told>> {
        self.nodes.subscribe()
    }
}
