//! Counts what is used of the quotas of a namespace. Writes that take from a quota say so themselves
//! (`registry::quota`); this gives back what was deleted or has ended, and counts new quotas.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::worker::Next;
use crate::cache::{ObjectKey, Queue};
use crate::kinds::Scope;
use crate::kinds::access::map;
use crate::kinds::resource_quota::KIND;
use crate::registry::list::ListOptions;
use crate::registry::quota::usage::{self, Usage};
use crate::registry::{ApiError, Client, Registry, WriteOptions, object};
use crate::store::{KeyValue, WatchEnd, WatchEvent};

pub(super) const NAME: &str = "resourcequota-controller";
const RETRY: Duration = Duration::from_millis(500);
/// Everything is counted again this often.
const RESYNC: Duration = Duration::from_secs(300);

pub(super) struct Controller {
    registry: Registry,
}

/// Namespace and resource (`core/pods`) of a key.
fn place(key: &str) -> Option<(&str, String)> {
    let mut parts = key.strip_prefix("/objects/")?.split('/');
    let (group, plural, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    Some((namespace, format!("{group}/{plural}")))
}

/// The namespace whose quotas an event concerns. The keys of the queue are namespaces.
fn concerned(event: &WatchEvent) -> Option<&str> {
    match event {
        WatchEvent::Delete { previous, .. } => place(&previous.key).map(|(namespace, _)| namespace),
        WatchEvent::Put { kv, previous } => {
            let (namespace, resource) = place(&kv.key)?;
            let counts = match resource.as_str() {
                "core/resourcequotas" => true,
                "core/pods" => {
                    let old = previous.as_deref();
                    (ended(kv) && !old.is_some_and(ended))
                        || old.is_some_and(|old| generation(kv) != generation(old))
                }
                "core/services" | "core/persistentvolumeclaims" => previous.is_some(),
                _ => false,
            };
            counts.then_some(namespace)
        }
    }
}

/// What a pod asks for changes with it.
fn generation(kv: &KeyValue) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Pod {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        generation: Option<i64>,
    }
    let pod = serde_json::from_slice::<Pod>(&kv.value).ok()?;
    pod.metadata.generation
}

fn ended(kv: &KeyValue) -> bool {
    serde_json::from_slice::<Value>(&kv.value).is_ok_and(|pod| usage::has_ended(&pod))
}

/// Tells the queue of every namespace in which something was given back, for ever.
pub(super) async fn follow(client: &Client, queue: &Queue<ObjectKey>) {
    loop {
        if let Err(error) = watch(client.registry(), queue).await {
            tracing::debug!(%error, "quotas are counted again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch(registry: &Registry, queue: &Queue<ObjectKey>) -> Result<(), ApiError> {
    let store = registry.store();
    let mut watch = store.watch("/objects/", store.revision())?;
    let all = registry.list(&KIND, "", &ListOptions::default()).await?;
    for kv in &all.items {
        if let Some((namespace, _)) = place(&kv.key) {
            queue.add(ObjectKey::cluster(namespace));
        }
    }
    let resync = tokio::time::sleep(RESYNC);
    tokio::pin!(resync);
    loop {
        let (events, _) = tokio::select! {
            next = watch.next() => next.map_err(|end| match end {
                WatchEnd::Closed => ApiError::unavailable(end.to_string()),
                WatchEnd::Slow(_) => ApiError::expired(end.to_string()),
            })?,
            () = &mut resync => return Ok(()),
        };
        for namespace in events.iter().filter_map(concerned) {
            queue.add(ObjectKey::cluster(namespace));
        }
    }
}

impl Controller {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            registry: client.registry().clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        for quota in self.registry.quotas(&key.name).await? {
            if object::is_terminating(&quota) {
                continue;
            }
            let used = self.count(&quota).await?;
            if let Some(changed) = with_status(&quota, &used) {
                let options = WriteOptions {
                    manager: NAME.to_owned(),
                    ..WriteOptions::default()
                };
                let name = object::name(&quota).to_owned();
                let written = self
                    .registry
                    .update(&KIND, &key.name, &name, "status", changed, &options)
                    .await;
                match written {
                    Err(error) if error.is_not_found() => {}
                    result => drop(result?),
                }
            }
        }
        Ok(Next::Wait)
    }

    /// Read after the quota: what takes from it meanwhile changes it, and then this is done again.
    async fn count(&self, quota: &Value) -> Result<Usage, ApiError> {
        let hard: Vec<&str> = map(quota, &["spec", "hard"])
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let mut total = Usage::new();
        for handle in self.registry.stored_kinds() {
            let kind = &handle.get();
            if kind.scope != Scope::Namespaced || !usage::is_counted(kind, &hard) {
                continue;
            }
            let page = self
                .registry
                .list(kind, object::namespace(quota), &ListOptions::default())
                .await?;
            for object in page.items.iter().map(|kv| object::decode(kv)) {
                if usage::is_in_scope(quota, kind, &object) {
                    for (name, amount) in usage::of(kind, &object) {
                        usage::add(&mut total, name, amount);
                    }
                }
            }
        }
        Ok(total)
    }
}

/// Pure: the quota with its status brought up to date; `None` when it says that already.
fn with_status(quota: &Value, used: &Usage) -> Option<Value> {
    let hard = map(quota, &["spec", "hard"]).cloned().unwrap_or_default();
    let counted: Map<String, Value> = hard
        .keys()
        .map(|name| {
            let amount = used
                .get(name)
                .map_or_else(|| "0".to_owned(), ToString::to_string);
            (name.clone(), amount.into())
        })
        .collect();
    let status = json!({"hard": hard, "used": counted});
    if quota["status"] == status {
        return None;
    }
    let mut changed = quota.clone();
    changed["status"] = status;
    Some(changed)
}
