//! What a directory takes of its disk.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl DiskUsage {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// Of `dir` and what is below it on the same file system; links count once. What vanishes meanwhile counts nothing.
pub(crate) fn of(dir: &Path) -> DiskUsage {
    let mut usage = DiskUsage::default();
    let Ok(root) = dir.symlink_metadata() else {
        return usage;
    };
    let mut linked = HashSet::new();
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        let is_new = metadata.nlink() < 2 || metadata.is_dir() || linked.insert(metadata.ino());
        if metadata.dev() != root.dev() || !is_new {
            continue;
        }
        usage.bytes = usage.bytes.saturating_add(metadata.blocks() * 512);
        usage.inodes += 1;
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()));
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_count_once_and_what_is_not_there_counts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(&dir.path().join("none")), DiskUsage::default());
        let before = of(dir.path());
        std::fs::write(dir.path().join("a"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("c")).unwrap();
        let after = of(dir.path());
        assert_eq!(after.inodes - before.inodes, 2);
        assert!((1 << 20..3 << 20).contains(&(after.bytes - before.bytes)));
    }
}
