//! The path of a write without HTTP: default, validate, allocate, propose, and the mapping of store
//! results to Kubernetes answers. The API server and the controllers use the same path.
//!
//! [`Registry`] is dynamic (kind + JSON) and serves the API; [`Client`] is the typed view of it that
//! controllers, scheduler and node sync use. One file per verb. HTTP, users and formats are not known here.

use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kinds::Kind;
use crate::store::{Freshness, KeyValue, Store, Txn, TxnOutcome};

mod admission;
mod authorities;
pub(crate) mod bind;
pub(crate) mod bootstrap;
mod client;
pub(crate) mod create;
pub(crate) mod definitions;
pub(crate) mod delete;
mod encryption;
pub(crate) mod error;
pub(crate) mod events;
mod evict;
mod generated_name;
pub(crate) mod judges;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod node_ranges;
pub(crate) mod object;
pub(crate) mod patch;
mod pod_account;
pub(crate) mod quota;
pub(crate) mod scale;
pub(crate) mod selector;
mod service_alloc;
pub(crate) mod update;
pub(crate) mod versions;
pub(crate) mod watch;

pub(crate) use admission::default_class;
pub(crate) use client::{Client, lean};

/// An error that a client sees: always a complete `Status`.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: Box<Status>,
}

impl ApiError {
    pub(crate) fn code(&self) -> u16 {
        self.status
            .code
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or(500)
    }
    /// `NotFound`, `AlreadyExists`, `Conflict`…
    pub(crate) fn reason(&self) -> &str {
        self.status.reason.as_deref().unwrap_or("")
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.status.message.as_deref().unwrap_or("unknown error"))
    }
}
impl std::error::Error for ApiError {}

/// Kubernetes types that the typed client can move.
pub(crate) trait Object:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Send
    + Sync
    + 'static
{
}
impl<K> Object for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static
{
}

#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) enum Change<K> {
    /// Added or modified.
    Applied(Arc<K>),
    Deleted(Arc<K>),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    /// "Background", "Foreground" or "Orphan".
    pub(crate) propagation: Option<String>,
    /// It follows from an eviction.
    pub(crate) is_eviction: bool,
    pub(crate) requester: Option<judges::Requester>,
    pub(crate) remarks: judges::Remarks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) node: String,
}

/// How often a write is computed again when another one came in between, before the client gets the 409.
const MAX_ATTEMPTS: usize = 16;

/// Dynamic access to all objects; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    ranges: ServiceRanges,
    events: events::EventQueue,
    definitions: Arc<definitions::Definitions>,
    converter: OnceLock<Arc<dyn versions::Convert>>,
    judges: OnceLock<Arc<dyn judges::Judges>>,
    access: OnceLock<Arc<dyn crate::kinds::custom::expressions::Access>>,
    /// Writers of one object take turns here instead of invalidating each other's work; which object has
    /// which lock says the hash of its key. Held across one read and one transaction, never nested.
    turns: Vec<tokio::sync::Mutex<()>>,
    hasher: std::hash::RandomState,
    /// Writers that take from quotas; which namespace has which lock says the hash of its name. Taken after a turn.
    quota_turns: Vec<tokio::sync::Mutex<()>>,
    node_ranges: node_ranges::Known,
    /// Whether pods need the account that they run as; set once there are controllers that make accounts.
    accounts: std::sync::atomic::AtomicBool,
}

/// What Services get addresses and ports from.
#[derive(Debug, Clone)]
pub(crate) struct ServiceRanges {
    /// Ranges of ClusterIPs, the preferred family first.
    pub(crate) cidrs: Vec<IpNet>,
    pub(crate) node_ports: RangeInclusive<u16>,
}

/// Locks for writers of one object; objects that share one only wait for each other.
const TURNS: usize = 1024;

/// Judges the object that is about to be written (and the one that it replaces), for whoever makes the write.
#[derive(Clone)]
pub(crate) struct Guard(Arc<GuardFn>);

type GuardFn = dyn Fn(Option<&Value>, &Value) -> Result<(), ApiError> + Send + Sync;

impl Guard {
    pub(crate) fn new(
        judge: impl Fn(Option<&Value>, &Value) -> Result<(), ApiError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(judge))
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// What a write is made with.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// Field manager: who owns the fields that this write sets.
    pub(crate) manager: String,
    pub(crate) guard: Option<Guard>,
    /// Who writes, where it is not the manager as a part of the control plane.
    pub(crate) requester: Option<judges::Requester>,
    pub(crate) remarks: judges::Remarks,
    /// Fields of the request's options, as reviews show them.
    pub(crate) said: Value,
}

impl WriteOptions {
    fn judge(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        match &self.guard {
            Some(guard) => (guard.0)(old, new),
            None => Ok(()),
        }
    }
}

/// The object as it is after a write.
#[derive(Debug, Clone)]
pub(crate) enum Written {
    Stored(Arc<KeyValue>),
    /// What would have been stored (dry run), or the last state of an object that the write removed.
    Unstored(Value),
}

impl Written {
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Stored(kv) => object::decode(kv),
            Self::Unstored(value) => value.clone(),
        }
    }
}

impl Registry {
    /// The second part records the events that are reported; it runs as a task of its own.
    pub(crate) fn new(store: Store, ranges: ServiceRanges) -> (Self, events::Recorder) {
        let events = events::EventQueue::default();
        let registry = Self {
            inner: Arc::new(Inner {
                store,
                ranges,
                events,
                definitions: Arc::default(),
                converter: OnceLock::new(),
                judges: OnceLock::new(),
                access: OnceLock::new(),
                turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
                hasher: std::hash::RandomState::new(),
                quota_turns: (0..quota::TURNS)
                    .map(|_| tokio::sync::Mutex::default())
                    .collect(),
                node_ranges: node_ranges::Known::default(),
                accounts: std::sync::atomic::AtomicBool::new(false),
            }),
        };
        registry.follow_definitions();
        let recorder = events::Recorder::new(registry.clone(), registry.inner.events.clone());
        (registry, recorder)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn client(&self, manager: &'static str) -> Client {
        Client::new(self.clone(), manager)
    }

    /// From now on a pod is created only if its account exists, and gets what the account gives.
    pub(crate) fn require_accounts(&self) {
        let order = std::sync::atomic::Ordering::Relaxed;
        self.inner.accounts.store(true, order);
    }

    fn requires_accounts(&self) -> bool {
        self.inner
            .accounts
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits for this object's turn. Other members may still write it: the transaction decides.
    async fn turn(&self, key: &str) -> tokio::sync::MutexGuard<'_, ()> {
        use std::hash::BuildHasher;
        let hash = self.inner.hasher.hash_one(key);
        let at = usize::try_from(hash % TURNS as u64).unwrap_or(0);
        self.inner.turns[at].lock().await
    }

    /// The current version, or 404.
    pub(crate) async fn get(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
        freshness: Freshness,
    ) -> Result<Arc<KeyValue>, ApiError> {
        let key = key::object(kind, namespace, name);
        self.store()
            .get(&key, freshness)
            .await?
            .ok_or_else(|| ApiError::not_found(kind, name))
    }

    /// The inner result is the key whose comparison failed.
    async fn commit(&self, txn: Txn) -> Result<Result<Vec<Arc<KeyValue>>, String>, ApiError> {
        match self.store().txn(txn).await? {
            TxnOutcome::Committed { written, .. } => Ok(Ok(written)),
            TxnOutcome::Conflict { compare, .. } => Ok(Err(compare.key)),
        }
    }
}
