//! What was refused, or conflicted, has not happened and does not happen later.

use super::super::history::{History, Outcome, values};

pub(super) fn check(history: &History) -> Result<(), String> {
    for write in &history.writes {
        if !matches!(write.outcome, Outcome::Refused(_) | Outcome::Conflict) {
            continue;
        }
        for (key, value) in values(&write.txn) {
            let happened = history
                .truth
                .iter()
                .find(|event| event.key == key && event.value.as_ref() == Some(&value));
            if let Some(event) = happened {
                return Err(format!("{write:?}, but {event:?}"));
            }
        }
    }
    Ok(())
}
