//! The one watch that feeds every informer, in the order of revisions.
//!
//! Because it is one watch, a reader that sees a change of one kind also sees every earlier change of all
//! others, and [`progress`] is a revision that is true for the whole cache.

use std::sync::Arc;
use std::time::Duration;

use crate::registry::{ApiError, Client, Object};
use crate::store::{KeyValue, WatchEnd, WatchEvent};

use super::informer::Informer;
use super::{Cache, each, informers};

const OBJECTS: &str = "/objects/";
/// How long the watch is trusted before everything is listed again.
const RESYNC: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Lists and watches for ever.
pub(super) async fn run(cache: &Cache, client: &Client) {
    let mut retry = FIRST_RETRY;
    loop {
        match list_and_watch(cache, client).await {
            Ok(()) => retry = FIRST_RETRY,
            Err(error) => {
                tracing::debug!(%error, "the cache lists again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

/// The smallest progress of any kind.
pub(super) fn progress(cache: &Cache) -> u64 {
    let mut least = u64::MAX;
    informers!(each cache, informer => least = least.min(informer.progress()));
    least
}

/// `Ok` when it is time to list again.
async fn list_and_watch(cache: &Cache, client: &Client) -> Result<(), ApiError> {
    let store = client.registry().store();
    let mut watch = store.watch(OBJECTS, store.revision())?;
    informers!(each cache, informer => list(informer, client).await?);
    // Nothing that is older waits in the watch, so what was listed is complete up to here.
    let listed = watch.progress();
    informers!(each cache, informer => informer.advance(listed));
    cache.announce();
    let resync = tokio::time::sleep(RESYNC.mul_f64(rand::random_range(0.9..1.1)));
    tokio::pin!(resync);
    loop {
        let (events, revision) = tokio::select! {
            next = watch.next() => next.map_err(|end| match end {
                WatchEnd::Closed => ApiError::unavailable(end.to_string()),
                WatchEnd::Slow(_) => ApiError::expired(end.to_string()),
            })?,
            () = &mut resync => return Ok(()),
        };
        for event in &events {
            take(cache, event)?;
        }
        informers!(each cache, informer => informer.advance(revision));
        cache.announce();
    }
}

async fn list<K: Object>(informer: &Informer<K>, client: &Client) -> Result<(), ApiError> {
    let (objects, revision) = client.list_stored::<K>("").await?;
    informer.replace_stored(&objects, revision)
}

/// Hands an event to the informer of its kind; kinds that nobody keeps (Events) are skipped unread.
fn take(cache: &Cache, event: &WatchEvent) -> Result<(), ApiError> {
    let (kv, revision, deleted) = match event {
        WatchEvent::Put { kv, .. } => (kv, kv.mod_revision, false),
        WatchEvent::Delete { revision, previous } => (previous, *revision, true),
    };
    informers!(each cache, informer => {
        if offer(informer, kv, revision, deleted)? {
            return Ok(());
        }
    });
    Ok(())
}

/// True when the event is of the informer's kind.
fn offer<K: Object>(
    informer: &Informer<K>,
    kv: &Arc<KeyValue>,
    revision: u64,
    deleted: bool,
) -> Result<bool, ApiError> {
    let Some(key) = informer.key_of(&kv.key) else {
        return Ok(false);
    };
    // The list was newer.
    if revision <= informer.progress() {
        return Ok(true);
    }
    informer.change(&key, (!deleted).then_some(kv))?;
    Ok(true)
}
