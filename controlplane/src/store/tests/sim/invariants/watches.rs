//! A watch on any member shows everything after where it began, once, in order.

use super::super::history::{Event, History};

pub(super) fn check(history: &History) -> Result<(), String> {
    for watched in &history.watched {
        let expected: Vec<&Event> = history
            .truth
            .iter()
            .filter(|event| event.revision > watched.from && event.revision <= watched.complete)
            .collect();
        let differ = expected
            .iter()
            .zip(&watched.events)
            .find(|(expected, seen)| **expected != *seen);
        if differ.is_some() || expected.len() != watched.events.len() {
            return Err(format!(
                "a watch at member {} after {} up to {} saw {} events of {}, first difference {differ:?}",
                watched.member,
                watched.from,
                watched.complete,
                watched.events.len(),
                expected.len()
            ));
        }
    }
    Ok(())
}
