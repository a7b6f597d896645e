//! Where a run keeps its data: a directory of its own with a locked file. A run that was killed no longer holds its
//! lock, and the next one removes what it left. Its processes have ended with it ([`crate::process`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

const PREFIX: &str = "waggle-bench-data-";
const LOCK: &str = "lock";

#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Directory {
    /// Below `root`, or below the workspace's target directory.
    pub(crate) fn make(root: Option<&Path>) -> anyhow::Result<Self> {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let root = root.unwrap_or(&default);
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        let root = root.canonicalize()?;
        sweep(&root);
        let path = root.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = lock(&path).context("lock our own directory")?;
        Ok(Self { path, _lock: lock })
    }

    /// A directory in it, which is made.
    pub(crate) fn sub(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// `None` when somebody holds it.
fn lock(directory: &Path) -> Option<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK))
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let path = entry.path();
        // One without the file is just being made.
        if !ours || !path.join(LOCK).exists() {
            continue;
        }
        if let Some(_dead) = lock(&path) {
            eprintln!(
                "removing what a run that was cut off left: {}",
                path.display()
            );
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_run_removes_its_own_and_what_dead_ones_left_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let other = root.join("other");
        let dead = root.join(format!("{PREFIX}1"));
        for path in [&other, &dead] {
            fs::create_dir(path).unwrap();
            fs::write(path.join(LOCK), "").unwrap();
        }
        let first = Directory::make(Some(root)).unwrap();
        assert!(!dead.exists() && other.exists());
        let own = first.path.clone();
        sweep(root);
        assert!(own.exists(), "it runs");
        drop(first);
        assert!(!own.exists() && other.exists());
    }
}
