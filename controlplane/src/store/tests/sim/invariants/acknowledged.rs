//! What was acknowledged is there, as it was asked for, at the revision that was told, and its comparisons
//! held.

use std::collections::BTreeMap;

use super::super::history::{self, Event, History, Outcome, Write};
use crate::store::Op;

pub(super) fn check(history: &History) -> Result<(), String> {
    let truth = history.by_revision();
    for write in &history.writes {
        let Outcome::Committed(revision) = write.outcome else {
            continue;
        };
        let events = truth.get(&revision).cloned().unwrap_or_default();
        for op in &write.txn.ops {
            let found = events.iter().find(|event| event.key == op.key());
            let right = match op {
                Op::Put { value, .. } => found.is_some_and(|event| {
                    event.value.as_deref().map(str::as_bytes) == Some(value.as_ref())
                }),
                // It deletes nothing where there was nothing.
                Op::Delete { .. } => found.is_none_or(|event| event.value.is_none()),
            };
            if !right {
                return Err(format!("{write:?} is not there, but {events:?}"));
            }
        }
    }
    compared(history)
}

fn compared(history: &History) -> Result<(), String> {
    let mut writes: Vec<_> = history
        .writes
        .iter()
        .filter_map(|write| match write.outcome {
            Outcome::Committed(revision) if !write.txn.compares.is_empty() => {
                Some((revision, write))
            }
            _ => None,
        })
        .collect();
    writes.sort_by_key(|(revision, _)| *revision);
    let mut events = history.truth.iter().peekable();
    let mut modified: BTreeMap<&str, u64> = BTreeMap::new();
    for (revision, write) in writes {
        while let Some(event) = events.next_if(|event| event.revision < revision) {
            modified.insert(&event.key, at(event));
        }
        let before = held(write, &modified);
        // One that only deletes may have found nothing to delete: then the revision is that of what came
        // before it, which is part of what it saw.
        if before.is_err() && history::only_deletes(&write.txn) {
            let mut seen = modified.clone();
            let last = history
                .truth
                .iter()
                .filter(|event| event.revision == revision);
            seen.extend(last.map(|event| (event.key.as_str(), at(event))));
            held(write, &seen)?;
            continue;
        }
        before?;
    }
    Ok(())
}

fn at(event: &Event) -> u64 {
    event.value.as_ref().map_or(0, |_| event.revision)
}

fn held(write: &Write, modified: &BTreeMap<&str, u64>) -> Result<(), String> {
    for compare in &write.txn.compares {
        let found = modified.get(compare.key.as_str()).copied().unwrap_or(0);
        if found != compare.mod_revision {
            return Err(format!("{write:?} although {} was at {found}", compare.key));
        }
    }
    Ok(())
}
