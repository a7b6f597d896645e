//! What kernel tests of several modules share: a thread with namespaces and a directory of its own, of which nothing
//! is left.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` in network and mount namespaces of its own, with a directory for it to fill. What it mounts is seen by
/// nobody else and goes with it; the directory is removed from outside, where no mount keeps it. That it cannot be
/// removed fails the test.
pub(crate) fn isolated(work: impl FnOnce(&Path) + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let result = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        work(&path);
    })
    .join();
    let left = directory.close();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    left.unwrap();
}
