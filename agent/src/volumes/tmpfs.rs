//! Mounts that belong to a pod: tmpfs for secrets and `emptyDir.medium: Memory`, and their end.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs on `dir`, unless one is there. Anybody may write to it, and remove what is their own, as in `/tmp`.
pub(crate) fn ensure(dir: &Path, size_bytes: Option<u64>) -> io::Result<()> {
    let options = match size_bytes {
        Some(size) => format!("size={size},mode=1777"),
        None => "mode=1777".to_owned(),
    };
    ensure_mounted("tmpfs", dir, &options)
}

/// The same of huge pages of one size.
pub(crate) fn ensure_huge_pages(dir: &Path, page_bytes: u64) -> io::Result<()> {
    ensure_mounted(
        "hugetlbfs",
        dir,
        &format!("pagesize={page_bytes},mode=1777"),
    )
}

fn ensure_mounted(filesystem: &str, dir: &Path, options: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if mounts()?.iter().any(|at| at == dir) {
        return Ok(());
    }
    mount(
        Some(filesystem),
        dir,
        Some(filesystem),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options),
    )?;
    Ok(())
}

/// Unmounts everything at or below `dir`, innermost first. Idempotent.
pub(crate) fn unmount_below(dir: &Path) -> io::Result<()> {
    let mut below: Vec<PathBuf> = mounts()?
        .into_iter()
        .filter(|at| at.starts_with(dir))
        .collect();
    // The table lists mounts in the order in which they were made.
    while let Some(at) = below.pop() {
        match umount2(&at, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Mount points of the mount namespace that the calling thread is in.
fn mounts() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&std::fs::read("/proc/thread-self/mountinfo")?))
}

fn parse(table: &[u8]) -> Vec<PathBuf> {
    String::from_utf8_lossy(table)
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .collect()
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|digits| bytes[at] == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits
                    .iter()
                    .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mount_table() {
        let table =
            b"22 1 0:21 / /a\\040b rw - tmpfs tmpfs rw\nnonsense\n23 1 0:21 / /c rw - x x rw\n";
        assert_eq!(parse(table), [PathBuf::from("/a b"), PathBuf::from("/c")]);
    }

    #[test]
    fn tmpfs_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap().join("m");
        ensure(&at, Some(1 << 20)).unwrap();
        ensure(&at, Some(1 << 20)).unwrap();
        let mode = at.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
        std::fs::write(at.join("f"), "x").unwrap();
        unmount_below(dir.path()).unwrap();
        assert!(!at.join("f").exists());
        unmount_below(dir.path()).unwrap();
    }

    #[test]
    fn huge_pages_have_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap().join("h");
        let size = *crate::runtime::huge_pages::read().keys().next().unwrap();
        ensure_huge_pages(&at, size).unwrap();
        ensure_huge_pages(&at, size).unwrap();
        let found = nix::sys::statfs::statfs(&at).unwrap();
        assert_eq!(u64::try_from(found.block_size()).unwrap(), size);
        unmount_below(dir.path()).unwrap();
        assert_eq!(mounts().unwrap().iter().filter(|it| **it == at).count(), 0);
    }

    proptest! {
        #[test]
        fn never_panics(table in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&table);
        }
    }
}
