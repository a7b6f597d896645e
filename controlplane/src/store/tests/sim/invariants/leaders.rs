//! A vote has one leader. (A vote of openraft's is for a term and a member, in this order, and a member grants any that is
//! greater than the last one: a term may see a second leader of a greater number, whose vote ends what the first may
//! commit. What either of them had acknowledged is for other invariants.)

use super::super::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    match history.led.iter().find(|led| led.leader != led.voted_for) {
        Some(led) => Err(format!("{led:?}: under a vote for another")),
        None => Ok(()),
    }
}
