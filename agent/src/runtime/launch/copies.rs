//! The copies of OCI runtimes that supervisors are given: one of each program, made anew when the program has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::supervisor::copied::{self, Copied};

/// By the path of the program; nothing for what cannot be copied. Held while one is made, so that there is one.
static COPIES: Mutex<BTreeMap<PathBuf, Arc<Copied>>> = Mutex::new(BTreeMap::new());

/// A copy of the program as it is now. Without one, the program itself is run.
pub(super) fn of(program: &Path) -> Option<Arc<Copied>> {
    let program = copied::find(program)?;
    let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = copies.get(&program)
        && known.is_current()
    {
        return Some(Arc::clone(known));
    }
    copies.remove(&program);
    match Copied::new(&program) {
        Ok(Some(copied)) => {
            let copied = Arc::new(copied);
            copies.insert(program, Arc::clone(&copied));
            Some(copied)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::debug!(program = %program.display(), %error, "not copied to memory");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_is_one_until_the_program_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::copy("/bin/busybox", &path).unwrap();
        let first = of(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &of(&path).unwrap()));
        std::fs::write(&path, b"\x7fELF, another one").unwrap();
        assert!(!Arc::ptr_eq(&first, &of(&path).unwrap()));
        std::fs::write(&path, b"#!/bin/sh").unwrap();
        assert!(of(&path).is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(of(&path).is_none());
    }
}
