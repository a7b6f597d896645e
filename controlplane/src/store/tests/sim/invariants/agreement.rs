//! In the end all members have the same.

use super::super::history::History;

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut ends = history.ends.values();
    let first = ends.next();
    match ends.all(|end| Some(end) == first) {
        true => Ok(()),
        false => Err(format!("{:#?}", history.ends)),
    }
}
