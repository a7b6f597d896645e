//! The kinds that users have defined, as this member knows them: read from the store when it starts and brought up to
//! date by a watch. [`Registry::kind`] finds built-in kinds and these alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::watch;

use super::{ApiError, Registry, key, object};
use crate::kinds::access::{list, text};
use crate::kinds::custom::{Version, versions};
use crate::kinds::{self, KindRef};
use crate::store::{Freshness, RangeRequest, Store, WatchEvent};

const RETRY: Duration = Duration::from_millis(200);
/// How long a request for an unknown kind waits for this member to know what it has stored already.
const PATIENCE: Duration = Duration::from_secs(1);

/// No two states of any registry have the same number.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// What is defined, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Defined {
    /// By name of the definition (`plural.group`), so in the order of names.
    by_name: BTreeMap<String, Vec<Arc<Version>>>,
    /// Moves on with every change: what is made from this can be kept until then.
    pub(crate) generation: u64,
}

impl Defined {
    /// Every version of every definition that is established, served ones only, in the order of preference.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.by_name
            .values()
            .flatten()
            .filter(|version| version.served)
    }

    /// One kind for each definition, in the version that objects are stored in.
    pub(crate) fn stored(&self) -> impl Iterator<Item = KindRef> + '_ {
        self.by_name.values().flatten().filter_map(|version| {
            (version.name == version.common.storage_version)
                .then(|| KindRef::Custom(Arc::clone(version)))
        })
    }

    fn find(&self, matches: impl Fn(&Version) -> bool) -> Option<KindRef> {
        self.served()
            .find(|version| matches(version))
            .map(|version| KindRef::Custom(Arc::clone(version)))
    }
}

#[derive(Debug)]
pub(super) struct Definitions {
    now: ArcSwap<Defined>,
    /// Revision up to which `now` is complete.
    progress: watch::Sender<u64>,
}

impl Default for Definitions {
    fn default() -> Self {
        Self {
            now: ArcSwap::default(),
            progress: watch::Sender::new(0),
        }
    }
}

impl Definitions {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<Arc<Version>>>)) {
        let old = self.now.load();
        let mut by_name = old.by_name.clone();
        change(&mut by_name);
        self.now.store(Arc::new(Defined {
            by_name,
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed),
        }));
    }
}

impl Registry {
    /// The kind under a path, built in or defined.
    pub(crate) fn kind(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        kinds::by_plural(group, version, plural)
            .map(KindRef::from)
            .or_else(|| {
                self.defined().find(|known| {
                    known.common.group == group
                        && known.name == version
                        && known.common.plural == plural
                })
            })
    }

    pub(crate) fn kind_named(&self, group: &str, version: &str, kind: &str) -> Option<KindRef> {
        kinds::by_kind(group, version, kind)
            .map(KindRef::from)
            .or_else(|| {
                self.defined().find(|known| {
                    known.common.group == group
                        && known.name == version
                        && known.common.kind == kind
                })
            })
    }

    /// The kind of the object under a key of the store.
    pub(crate) fn kind_at(&self, key: &str) -> Option<KindRef> {
        let (group, rest) = key.strip_prefix("/objects/")?.split_once('/')?;
        let (plural, _) = rest.split_once('/')?;
        let group = if group == "core" { "" } else { group };
        let built_in = kinds::all().iter().find(|kind| {
            kind.group == group && kind.plural == plural && kind.strategy.stored().is_none()
        });
        built_in.map(|kind| KindRef::BuiltIn(kind)).or_else(|| {
            let defined = self.defined();
            let mut stored = defined.stored();
            stored.find(|kind| kind.get().group == group && kind.get().plural == plural)
        })
    }

    pub(crate) fn defined(&self) -> Arc<Defined> {
        self.inner.definitions.now.load_full()
    }

    /// Every kind that has objects of its own, built in or defined.
    pub(crate) fn stored_kinds(&self) -> Vec<KindRef> {
        let built_in = kinds::all()
            .iter()
            .filter(|kind| kind.strategy.stored().is_none());
        let mut all: Vec<KindRef> = built_in.map(|kind| KindRef::BuiltIn(kind)).collect();
        all.extend(self.defined().stored());
        all
    }

    /// Waits until this member knows the definitions that it has stored.
    pub(crate) async fn definitions_known(&self) {
        let wanted = self.store().revision();
        let mut progress = self.inner.definitions.progress.subscribe();
        let reached = progress.wait_for(|known| *known >= wanted);
        let _ = tokio::time::timeout(PATIENCE, reached).await;
    }

    pub(super) fn follow_definitions(&self) {
        let store = self.store().clone();
        let definitions = Arc::clone(&self.inner.definitions);
        tokio::spawn(async move {
            while follow(&store, &definitions).await.is_err() {
                // Nobody asks any more.
                if Arc::strong_count(&definitions) == 1 {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }
}

/// `Ok` when the store is closed.
async fn follow(store: &Store, definitions: &Definitions) -> Result<(), ApiError> {
    let kind = &kinds::custom_resource_definition::KIND;
    let prefix = key::prefix(kind, "");
    let listed = store
        .range(RangeRequest {
            prefix: prefix.clone(),
            after: None,
            limit: 0,
            revision: None,
            freshness: Freshness::Local,
        })
        .await?;
    let mut watch = store.watch(&prefix, listed.revision)?;
    definitions.change(|by_name| {
        by_name.clear();
        for kv in &listed.items {
            put(by_name, &object::decode(kv));
        }
    });
    definitions.progress.send_replace(listed.revision);
    loop {
        match watch.next().await {
            Ok((events, revision)) => {
                if !events.is_empty() {
                    definitions.change(|by_name| {
                        for event in &events {
                            take(by_name, event);
                        }
                    });
                }
                definitions.progress.send_replace(revision);
            }
            Err(crate::store::WatchEnd::Closed) => return Ok(()),
            Err(end @ crate::store::WatchEnd::Slow(_)) => {
                return Err(ApiError::expired(end.to_string()));
            }
        }
    }
}

fn take(by_name: &mut BTreeMap<String, Vec<Arc<Version>>>, event: &WatchEvent) {
    match event {
        WatchEvent::Put { kv, .. } => put(by_name, &object::decode(kv)),
        WatchEvent::Delete { previous, .. } => {
            by_name.remove(object::name(&object::decode(previous)));
        }
    }
}

/// A definition whose names are taken, or that is not established yet, serves nothing.
fn put(by_name: &mut BTreeMap<String, Vec<Arc<Version>>>, definition: &Value) {
    let name = object::name(definition).to_owned();
    let established = list(definition, &["status", "conditions"])
        .iter()
        .any(|condition| {
            text(condition, &["type"]) == "Established" && text(condition, &["status"]) == "True"
        });
    if !established {
        by_name.remove(&name);
        return;
    }
    let mut all = versions(definition);
    all.sort_by(|a, b| {
        super::versions::precedence(&a.name).cmp(&super::versions::precedence(&b.name))
    });
    by_name.insert(name, all);
}
