//! What must hold of every history, whatever happened to the cluster.

use super::history::History;

mod acknowledged;
mod agreement;
mod at_most_once;
mod leaders;
mod reads;
mod real_time;
mod recovery;
mod refused;
mod watches;

type Check = fn(&History) -> Result<(), String>;

const ALL: &[(&str, Check)] = &[
    ("acknowledged", acknowledged::check),
    ("agreement", agreement::check),
    ("at_most_once", at_most_once::check),
    ("leaders", leaders::check),
    ("reads", reads::check),
    ("real_time", real_time::check),
    ("recovery", recovery::check),
    ("refused", refused::check),
    ("watches", watches::check),
];

/// # Errors
/// Which is broken, and by what.
pub(super) fn check(history: &History) -> Result<(), String> {
    for (name, check) in ALL {
        check(history).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}
