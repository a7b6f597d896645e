//! Metadata of every object there is, from one watch in the order of revisions: of built-in kinds and of custom
//! resources alike. Events are nobody's property.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;

use super::graph::{Graph, Item, Metadata};
use crate::cache::{ObjectKey, Queue};
use crate::registry::{ApiError, Registry};
use crate::store::{Freshness, KeyValue, RangeRequest, WatchEnd, WatchEvent};

const OBJECTS: &str = "/objects/";
const EVENTS: &str = "/objects/core/events/";
const PAGE: usize = 500;
const RETRY: Duration = Duration::from_millis(500);

/// Of an object, what the graph keeps: who manages its fields, and all else, is skipped unread.
#[derive(Deserialize)]
struct Read<T> {
    metadata: T,
}

#[derive(Deserialize)]
struct Identity {
    uid: Option<String>,
}

pub(super) struct Feed {
    pub(super) registry: Registry,
    pub(super) graph: Arc<Mutex<Graph>>,
    pub(super) queue: Queue<ObjectKey>,
}

impl Feed {
    /// Lists and watches for ever.
    pub(super) async fn run(self) {
        loop {
            if let Err(error) = self.list_and_watch().await {
                tracing::debug!(%error, "the garbage collector lists again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn list_and_watch(&self) -> Result<(), ApiError> {
        let store = self.registry.store();
        let mut watch = store.watch(OBJECTS, store.revision())?;
        self.list(watch.progress()).await?;
        loop {
            let (events, _) = watch.next().await.map_err(|end| match end {
                WatchEnd::Closed => ApiError::unavailable(end.to_string()),
                WatchEnd::Slow(_) => ApiError::expired(end.to_string()),
            })?;
            for event in &events {
                match event {
                    WatchEvent::Put { kv, previous } => {
                        self.put(kv, previous.as_deref());
                    }
                    WatchEvent::Delete { previous, .. } => {
                        if let Some(gone) = self.item(previous) {
                            self.remove(&gone.uid);
                        }
                    }
                }
            }
        }
    }

    /// Everything as it was at one revision; what the graph has beyond it is gone.
    async fn list(&self, revision: u64) -> Result<(), ApiError> {
        let mut seen: HashSet<String> = HashSet::new();
        let mut after = None;
        loop {
            let page = self
                .registry
                .store()
                .range(RangeRequest {
                    prefix: OBJECTS.to_owned(),
                    after: after.clone(),
                    limit: PAGE,
                    revision: Some(revision),
                    freshness: Freshness::Local,
                })
                .await?;
            for kv in &page.items {
                after = Some(kv.key.to_string());
                seen.extend(self.put(kv, None));
            }
            if !page.more {
                break;
            }
        }
        let gone = self
            .graph
            .lock()
            .expect("no panic while held")
            .others(&seen);
        for uid in gone {
            self.remove(&uid);
        }
        Ok(())
    }

    fn item(&self, kv: &KeyValue) -> Option<Item> {
        if kv.key.starts_with(EVENTS) {
            return None;
        }
        let kind = self.registry.kind_at(&kv.key)?;
        let read: Read<Metadata> = serde_json::from_slice(&kv.value).ok()?;
        Some(Item::new(kind, read.metadata))
    }

    /// Returns the uid of what was taken in.
    fn put(&self, kv: &KeyValue, old: Option<&KeyValue>) -> Option<String> {
        let new = self.item(kv)?;
        let uid = new.uid.clone();
        let replaced = old.and_then(uid_of).filter(|old| *old != uid);
        let mut touched = Vec::new();
        let mut graph = self.graph.lock().expect("no panic while held");
        if let Some(replaced) = replaced {
            touched.extend(graph.remove(&replaced));
        }
        touched.extend(graph.put(new));
        drop(graph);
        self.look_at(touched);
        Some(uid)
    }

    fn remove(&self, uid: &str) {
        let touched = self.graph.lock().expect("no panic while held").remove(uid);
        self.look_at(touched);
    }

    fn look_at(&self, uids: Vec<String>) {
        for uid in uids {
            self.queue.add(super::uid_key(&uid));
        }
    }
}

fn uid_of(kv: &KeyValue) -> Option<String> {
    let read: Read<Identity> = serde_json::from_slice(&kv.value).ok()?;
    read.metadata.uid
}
