//! No write happens twice, whatever its client was told.

use std::collections::BTreeMap;

use super::super::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for event in &history.truth {
        let Some(value) = &event.value else {
            continue;
        };
        if let Some(before) = seen.insert((&event.key, value), event.revision) {
            return Err(format!("{event:?} had happened at {before}"));
        }
    }
    Ok(())
}
