//! One kind's objects as an indexed snapshot, with subscriptions to its changes.
//!
//! Writers: only the cache's feed (and tests) change the snapshot, under the `handlers` lock, which
//! is also taken to subscribe; so a new subscriber sees the objects that are there and then every later
//! change. Lock order: `handlers`, then `snapshot`. Handlers run under `handlers` without `snapshot`, must
//! be quick, and may read any informer but not subscribe.
//!
//! Of a kind of which there may be very many the snapshot holds the store's own bytes, which cost it nothing, and those
//! objects that were used lately; any other is read again when somebody asks for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::key::ObjectKey;
use super::recent::Recent;
use crate::kinds::{self, Scope};
#[cfg(test)]
use crate::registry::Change;
use crate::registry::{self, ApiError, Object, lean};
use crate::store::KeyValue;

/// What changed. `old` and `new` are never both absent.
#[derive(Debug)]
pub(crate) struct Delta<'a, K> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) old: Option<&'a Arc<K>>,
    pub(crate) new: Option<&'a Arc<K>>,
}

impl<K> Delta<'_, K> {
    /// The latest version there is: the new one, or the last one of a deleted object.
    pub(crate) fn latest(&self) -> &Arc<K> {
        self.new
            .or(self.old)
            .expect("a delta has an old or a new version")
    }
}

type Handler<K> = Box<dyn Fn(&Delta<'_, K>) + Send + Sync>;
/// The values under which an index lists an object.
type IndexFn<K> = fn(&K) -> Vec<String>;

/// Ends when dropped: the handler is not called any more.
#[must_use = "dropping a subscription ends it"]
pub(crate) struct Subscription {
    cancel: Box<dyn Fn() + Send + Sync>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        (self.cancel)();
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// An object as the snapshot has it.
enum Kept<K> {
    Read(Arc<K>),
    /// It could be read once, so it can be read again.
    Stored(Arc<KeyValue>),
}

impl<K> Clone for Kept<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Read(object) => Self::Read(Arc::clone(object)),
            Self::Stored(kv) => Self::Stored(Arc::clone(kv)),
        }
    }
}

impl<K: Object> Kept<K> {
    fn is(&self, kv: &KeyValue) -> bool {
        match self {
            Self::Stored(known) => known.mod_revision == kv.mod_revision,
            Self::Read(object) => {
                let version = object.metadata().resource_version.as_deref();
                version == Some(&kv.mod_revision.to_string())
            }
        }
    }
}

fn read_again<K: Object>(kv: &KeyValue) -> Arc<K> {
    Arc::new(lean(kv).expect("what could be read once can be read again"))
}

struct Snapshot<K> {
    objects: BTreeMap<ObjectKey, Kept<K>>,
    /// Per index: value to keys.
    indexes: Vec<HashMap<String, BTreeSet<ObjectKey>>>,
}

struct Handlers<K> {
    next_id: u64,
    list: Vec<(u64, Handler<K>)>,
}

struct Shared<K> {
    /// Where the kind's objects are in the store, and whether a namespace follows.
    place: Option<(String, Scope)>,
    indexers: Vec<(&'static str, IndexFn<K>)>,
    /// Where the snapshot does not hold all objects read.
    recent: Option<Recent<K>>,
    handlers: Mutex<Handlers<K>>,
    snapshot: RwLock<Snapshot<K>>,
    /// Revision up to which the snapshot is complete and handlers have been told.
    progress: AtomicU64,
    /// The same, for those who wait; told only while there are some.
    advanced: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

/// A handle to one kind's informer. Cheap to clone.
pub(crate) struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K: Object> Informer<K> {
    /// `recent` is how many objects are held read; none is all of them.
    pub(super) fn new(recent: Option<usize>, indexers: Vec<(&'static str, IndexFn<K>)>) -> Self {
        let indexes = indexers.iter().map(|_| HashMap::new()).collect();
        let kind = kinds::by_kind(K::GROUP, K::VERSION, K::KIND);
        Self {
            shared: Arc::new(Shared {
                place: kind.map(|kind| (registry::key::prefix(kind, ""), kind.scope)),
                indexers,
                recent: recent.map(Recent::new),
                handlers: Mutex::new(Handlers {
                    next_id: 0,
                    list: Vec::new(),
                }),
                snapshot: RwLock::new(Snapshot {
                    objects: BTreeMap::new(),
                    indexes,
                }),
                progress: AtomicU64::new(0),
                advanced: watch::Sender::new(0),
                synced: watch::Sender::new(false),
            }),
        }
    }

    /// The object that a key of the store stands for, if it is of this kind.
    pub(super) fn key_of(&self, stored: &str) -> Option<ObjectKey> {
        let (prefix, scope) = self.shared.place.as_ref()?;
        let rest = stored.strip_prefix(prefix.as_str())?;
        match scope {
            Scope::Cluster => Some(ObjectKey::cluster(rest)),
            Scope::Namespaced => rest
                .split_once('/')
                .map(|(namespace, name)| ObjectKey::new(namespace, name)),
        }
    }

    /// Calls `handler` for every object that is there and then for every change, in order.
    pub(crate) fn subscribe(
        &self,
        handler: impl Fn(&Delta<'_, K>) + Send + Sync + 'static,
    ) -> Subscription {
        let mut handlers = self.shared.handlers.lock().expect("handlers do not panic");
        for (key, kept) in self.kept("") {
            handler(&Delta {
                key: &key,
                old: None,
                new: Some(&self.glance(&key, &kept)),
            });
        }
        let id = handlers.next_id;
        handlers.next_id += 1;
        handlers.list.push((id, Box::new(handler)));
        let shared = Arc::downgrade(&self.shared);
        Subscription {
            cancel: Box::new(move || {
                if let Some(shared) = shared.upgrade()
                    && let Ok(mut handlers) = shared.handlers.lock()
                {
                    handlers.list.retain(|(other, _)| *other != id);
                }
            }),
        }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub(crate) fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let kept = self.read().objects.get(key).cloned()?;
        Some(self.open(key, &kept))
    }

    /// The object if it is held read, else what it can be read from.
    fn held<'a>(&self, key: &ObjectKey, kept: &'a Kept<K>) -> Result<Arc<K>, &'a KeyValue> {
        match kept {
            Kept::Read(object) => Ok(Arc::clone(object)),
            Kept::Stored(kv) => {
                let recent = self.shared.recent.as_ref();
                let known = recent.and_then(|recent| recent.get(key, kv.mod_revision));
                known.ok_or(kv.as_ref())
            }
        }
    }

    /// The object, which is probably wanted again.
    fn open(&self, key: &ObjectKey, kept: &Kept<K>) -> Arc<K> {
        self.held(key, kept).unwrap_or_else(|kv| {
            let object = read_again(kv);
            if let Some(recent) = &self.shared.recent {
                recent.put(key, kv.mod_revision, &object);
            }
            object
        })
    }

    /// The object for somebody who looks at very many.
    fn glance(&self, key: &ObjectKey, kept: &Kept<K>) -> Arc<K> {
        self.held(key, kept).unwrap_or_else(read_again)
    }

    fn kept(&self, namespace: &str) -> Vec<(ObjectKey, Kept<K>)> {
        let snapshot = self.read();
        let whole = |(key, kept): (&ObjectKey, &Kept<K>)| (key.clone(), kept.clone());
        if namespace.is_empty() {
            return snapshot.objects.iter().map(whole).collect();
        }
        snapshot
            .objects
            .range(ObjectKey::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace.as_ref() == namespace)
            .map(whole)
            .collect()
    }

    /// Keys of all objects, in order.
    pub(crate) fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// Objects of a namespace, or all when it is empty, in order of their keys. Where there may be very many, the other
    /// ways to find some of them are cheaper.
    pub(crate) fn list(&self, namespace: &str) -> Vec<Arc<K>> {
        let kept = self.kept(namespace);
        kept.iter()
            .map(|(key, kept)| self.glance(key, kept))
            .collect()
    }

    /// How many objects the index `name` has under `value`.
    pub(crate) fn count_indexed(&self, name: &str, value: &str) -> usize {
        let position = self.position(name);
        self.read().indexes[position]
            .get(value)
            .map_or(0, BTreeSet::len)
    }

    fn position(&self, name: &str) -> usize {
        self.shared
            .indexers
            .iter()
            .position(|(index, _)| *index == name)
            .expect("the index exists")
    }

    /// Objects for which the index `name` has `value`.
    pub(crate) fn indexed(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let position = self.position(name);
        let snapshot = self.read();
        let Some(keys) = snapshot.indexes[position].get(value) else {
            return Vec::new();
        };
        let found = keys
            .iter()
            .filter_map(|key| Some((key.clone(), snapshot.objects.get(key)?.clone())));
        let found: Vec<_> = found.collect();
        drop(snapshot);
        found
            .iter()
            .map(|(key, kept)| self.open(key, kept))
            .collect()
    }

    /// The values under which the index `name` has any object.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let position = self.position(name);
        self.read().indexes[position].keys().cloned().collect()
    }

    /// Revision up to which the snapshot is complete and every handler was told.
    pub(crate) fn progress(&self) -> u64 {
        self.shared.progress.load(Ordering::Acquire)
    }

    pub(crate) async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.synced.subscribe().wait_for(|done| *done).await;
    }

    /// Waits until the snapshot holds the write that made `revision`. False after `timeout`.
    pub(crate) async fn wait_for(&self, revision: u64, timeout: Duration) -> bool {
        let mut advanced = self.shared.advanced.subscribe();
        // Whoever advances it from here on sees that somebody waits, or it is seen here what was reached before.
        fence(Ordering::SeqCst);
        if self.progress() >= revision {
            return true;
        }
        let reached = advanced.wait_for(|progress| *progress >= revision);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    /// Makes the snapshot equal to a full list and reports the differences.
    ///
    /// # Errors
    /// An object cannot be read. What was before it is taken in, and nothing of it is said to be complete.
    pub(super) fn replace_stored(
        &self,
        objects: &[Arc<KeyValue>],
        revision: u64,
    ) -> Result<(), ApiError> {
        let handlers = self.shared.handlers.lock().expect("handlers do not panic");
        let mut gone: BTreeSet<ObjectKey> = self.read().objects.keys().cloned().collect();
        for kv in objects {
            let Some(key) = self.key_of(&kv.key) else {
                continue;
            };
            gone.remove(&key);
            let same = self.read().objects.get(&key).is_some_and(|it| it.is(kv));
            if !same {
                self.put_stored(&handlers, &key, kv)?;
            }
        }
        self.finish_list(&handlers, gone, revision);
        Ok(())
    }

    fn finish_list(&self, handlers: &Handlers<K>, gone: BTreeSet<ObjectKey>, revision: u64) {
        for key in gone {
            self.put(handlers, &key, None);
        }
        self.advance(revision);
        self.shared.synced.send_replace(true);
    }

    #[cfg(test)]
    /// The same with objects that no store has.
    pub(crate) fn replace(&self, objects: Vec<Arc<K>>, revision: u64) {
        let handlers = self.shared.handlers.lock().expect("handlers do not panic");
        let mut gone: BTreeSet<ObjectKey> = self.read().objects.keys().cloned().collect();
        for object in objects {
            let key = ObjectKey::of(object.as_ref());
            gone.remove(&key);
            let same = self.get_key(&key).is_some_and(|old| {
                old.metadata().resource_version == object.metadata().resource_version
                    && old.metadata().uid == object.metadata().uid
            });
            if !same {
                self.put_read(&handlers, &key, object);
            }
        }
        self.finish_list(&handlers, gone, revision);
    }

    /// Takes in one change, the object as the store has it or that it is gone; [`Informer::advance`] says later how far
    /// that was.
    ///
    /// # Errors
    /// The object cannot be read; nothing has changed.
    pub(super) fn change(
        &self,
        key: &ObjectKey,
        new: Option<&Arc<KeyValue>>,
    ) -> Result<(), ApiError> {
        let handlers = self.shared.handlers.lock().expect("handlers do not panic");
        match new {
            Some(kv) => self.put_stored(&handlers, key, kv)?,
            None => self.put(&handlers, key, None),
        }
        Ok(())
    }

    #[cfg(test)]
    /// Takes in the changes of one watch batch.
    pub(crate) fn apply(&self, changes: Vec<Change<K>>, revision: u64) {
        let handlers = self.shared.handlers.lock().expect("handlers do not panic");
        for change in changes {
            match change {
                Change::Applied(object) => {
                    self.put_read(&handlers, &ObjectKey::of(object.as_ref()), object);
                }
                Change::Deleted(object) => {
                    self.put(&handlers, &ObjectKey::of(object.as_ref()), None);
                }
            }
        }
        self.advance(revision);
    }

    fn put_stored(
        &self,
        handlers: &Handlers<K>,
        key: &ObjectKey,
        kv: &Arc<KeyValue>,
    ) -> Result<(), ApiError> {
        let object = Arc::new(lean::<K>(kv)?);
        let kept = match &self.shared.recent {
            Some(_) => Kept::Stored(Arc::clone(kv)),
            None => Kept::Read(Arc::clone(&object)),
        };
        self.put(handlers, key, Some((kept, object)));
        Ok(())
    }

    #[cfg(test)]
    fn put_read(&self, handlers: &Handlers<K>, key: &ObjectKey, object: Arc<K>) {
        self.put(
            handlers,
            key,
            Some((Kept::Read(Arc::clone(&object)), object)),
        );
    }

    /// The handlers' lock is held, so nothing else changes the snapshot.
    fn put(&self, handlers: &Handlers<K>, key: &ObjectKey, new: Option<(Kept<K>, Arc<K>)>) {
        let old = self.read().objects.get(key).cloned();
        let old = old.map(|kept| self.glance(key, &kept));
        let (kept, new) = new.unzip();
        if let Some(recent) = &self.shared.recent {
            match (&kept, &new) {
                (Some(Kept::Stored(kv)), Some(new)) => recent.put(key, kv.mod_revision, new),
                _ => recent.forget(key),
            }
        }
        {
            let mut snapshot = self.shared.snapshot.write().expect("no panic while held");
            match kept {
                Some(kept) => drop(snapshot.objects.insert(key.clone(), kept)),
                None => drop(snapshot.objects.remove(key)),
            }
            for (position, (_, index)) in self.shared.indexers.iter().enumerate() {
                let before = old.as_deref().map(index).unwrap_or_default();
                let after = new.as_deref().map(index).unwrap_or_default();
                if before == after {
                    continue;
                }
                let values = &mut snapshot.indexes[position];
                for value in before {
                    if let Some(keys) = values.get_mut(&value) {
                        keys.remove(key);
                        if keys.is_empty() {
                            values.remove(&value);
                        }
                    }
                }
                for value in after {
                    values.entry(value).or_default().insert(key.clone());
                }
            }
        }
        if old.is_none() && new.is_none() {
            return;
        }
        let delta = Delta {
            key,
            old: old.as_ref(),
            new: new.as_ref(),
        };
        for (_, handler) in &handlers.list {
            handler(&delta);
        }
    }

    /// After the handlers: whoever sees this progress knows that they were told.
    pub(super) fn advance(&self, revision: u64) {
        if revision > self.progress() {
            self.shared.progress.store(revision, Ordering::Release);
            fence(Ordering::SeqCst);
            // All kinds advance with each write, and mostly nobody waits for any.
            if self.shared.advanced.receiver_count() > 0 {
                self.shared.advanced.send_replace(revision);
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Snapshot<K>> {
        self.shared.snapshot.read().expect("no panic while held")
    }
}
