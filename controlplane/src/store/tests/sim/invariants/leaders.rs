//! A vote has one leader, for one life. (A vote of openraft's is for a term and a member, in this order, and a member grants
//! any that is greater than the last one: a term may see a second leader of a greater number, whose vote ends what the first
//! may commit.) A member that is started again has to ask for another vote, as its disk may not have kept the last of what
//! it said under the one before.

use std::collections::BTreeMap;

use super::super::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut leaders = BTreeMap::new();
    for led in &history.led {
        let first = leaders.entry((led.term, led.voted_for)).or_insert(led);
        if led.leader != led.voted_for || *first != led {
            return Err(format!("{led:?}, after {first:?}"));
        }
    }
    Ok(())
}
