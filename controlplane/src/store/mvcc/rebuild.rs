//! Builds the index again from a set of versions: those found on the disk, or those of a snapshot.
//!
//! The versions are not trusted: what contradicts itself is an error, never a guess.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Chain, Change, Mvcc, Summary, Version, digest};
use crate::store::{Revision, WatchEvent};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum RebuildError {
    #[error("key {key:?} at revision {revision} is out of order")]
    Order { key: String, revision: Revision },
    #[error("key {key:?} has revision {revision}, but the store is at {current}")]
    Future {
        key: String,
        revision: Revision,
        current: Revision,
    },
    #[error("{found} keys are there, but {expected} were written")]
    Count { found: u64, expected: u64 },
    #[error("versions of keys are missing")]
    Missing,
    #[error("compacted at {compacted}, which is after revision {revision}")]
    Compacted {
        compacted: Revision,
        revision: Revision,
    },
}

/// An index, and the versions that a compaction had given up but that were still there.
#[derive(Debug)]
pub(in crate::store) struct Rebuilt {
    pub(in crate::store) mvcc: Mvcc,
    pub(in crate::store) stale: Vec<(Arc<str>, Revision)>,
}

impl Mvcc {
    /// `versions` come in the order of [`Mvcc::versions`].
    pub(in crate::store) fn rebuild(
        versions: impl IntoIterator<Item = (Arc<str>, Version)>,
        expected: Summary,
    ) -> Result<Rebuilt, RebuildError> {
        let Summary {
            revision,
            compacted,
            ..
        } = expected;
        if compacted > revision {
            return Err(RebuildError::Compacted {
                compacted,
                revision,
            });
        }
        let mut stale = Vec::new();
        let mut chains: Vec<(Arc<str>, Chain)> = Vec::new();
        for (key, version) in versions {
            if version.revision() > revision {
                return Err(RebuildError::Future {
                    key: key.to_string(),
                    revision: version.revision(),
                    current: revision,
                });
            }
            match chains.last_mut() {
                Some((last, chain)) if *last == key => {
                    if chain.latest.revision() >= version.revision() {
                        return Err(out_of_order(&key, &version));
                    }
                    chain.push(version);
                }
                Some((last, _)) if *last > key => return Err(out_of_order(&key, &version)),
                _ => {
                    let older = Vec::new();
                    let latest = version;
                    chains.push((key, Chain { latest, older }));
                }
            }
        }

        let mut mvcc = Self {
            revision,
            compacted,
            ..Self::default()
        };
        let mut events: BTreeMap<Revision, Vec<WatchEvent>> = BTreeMap::new();
        for (key, chain) in &chains {
            collect_events(key, chain, compacted, &mut events);
        }
        mvcc.history = events
            .into_iter()
            .map(|(revision, events)| Change {
                revision,
                events: events.into(),
            })
            .collect();
        mvcc.history_bytes = mvcc.history.iter().map(Change::bytes).sum();
        mvcc.keys = chains.into_iter().collect();
        let keys: Vec<Arc<str>> = mvcc
            .keys
            .iter()
            .filter(|(_, chain)| !chain.older.is_empty() || chain.latest.live().is_none())
            .map(|(key, _)| Arc::clone(key))
            .collect();
        for key in keys {
            mvcc.trim(&key, compacted, &mut stale);
        }
        mvcc.live = mvcc
            .keys
            .values()
            .filter(|c| c.latest.live().is_some())
            .count() as u64;
        if mvcc.live != expected.live_keys {
            return Err(RebuildError::Count {
                found: mvcc.live,
                expected: expected.live_keys,
            });
        }
        mvcc.digest = mvcc
            .versions()
            .map(|(key, version)| digest(key, version.revision()))
            .fold(0, u64::wrapping_add);
        if mvcc.digest != expected.digest {
            return Err(RebuildError::Missing);
        }
        Ok(Rebuilt { mvcc, stale })
    }
}

fn out_of_order(key: &Arc<str>, version: &Version) -> RebuildError {
    RebuildError::Order {
        key: key.to_string(),
        revision: version.revision(),
    }
}

/// The events of one key after `compacted`.
fn collect_events(
    key: &Arc<str>,
    chain: &Chain,
    compacted: Revision,
    events: &mut BTreeMap<Revision, Vec<WatchEvent>>,
) {
    let mut previous = None;
    for version in chain.older.iter().chain([&chain.latest]) {
        let event = match version {
            Version::Live(kv) => {
                debug_assert_eq!(*key, kv.key);
                let previous = previous.replace(Arc::clone(kv));
                let kv = Arc::clone(kv);
                Some(WatchEvent::Put { kv, previous })
            }
            Version::Gone(revision) => previous.take().map(|previous| WatchEvent::Delete {
                revision: *revision,
                previous,
            }),
        };
        if version.revision() > compacted
            && let Some(event) = event
        {
            events.entry(version.revision()).or_default().push(event);
        }
    }
}
