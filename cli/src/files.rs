//! Files that only their owner may read.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// Writes a whole file with mode 0600, or leaves the old one as it was.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let scratch = path.with_extension("new");
    let _ = std::fs::remove_file(&scratch);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&scratch)
        .with_context(|| format!("create {}", scratch.display()))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&scratch, path))
        .with_context(|| format!("write {}", path.display()))
}
