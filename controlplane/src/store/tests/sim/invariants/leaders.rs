//! A term has one leader.

use std::collections::BTreeMap;

use super::super::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut leaders = BTreeMap::new();
    for led in &history.led {
        if *leaders.entry(led.term).or_insert(led.leader) != led.leader {
            return Err(format!("{led:?}, and another leads too: {leaders:?}"));
        }
    }
    Ok(())
}
