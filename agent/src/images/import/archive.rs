//! An archive's files, taken out into the store's `tmp` under numbers: no name of the archive ever becomes
//! a path here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Files, invalid};
use crate::images::disk::Disk;
use crate::images::error::{ImageError, is_disk_full};
use crate::images::unpack::decompress;

const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 128 << 30;
const MAX_LINKS: usize = 8;

pub(super) struct Extracted {
    dir: PathBuf,
    files: HashMap<String, PathBuf>,
    /// Older `docker save` writes a layer that occurs twice as a link.
    links: HashMap<String, String>,
}

impl Extracted {
    pub(super) fn open(disk: &Disk, path: &Path) -> Result<Self, ImageError> {
        let dir = disk.temporary("import");
        std::fs::create_dir(&dir).map_err(|e| ImageError::io("create", &dir, e))?;
        let mut extracted = Self {
            dir,
            files: HashMap::new(),
            links: HashMap::new(),
        };
        extracted.read(path).map_err(|e| {
            if is_disk_full(&e) {
                return ImageError::io("import into", &extracted.dir, e);
            }
            invalid(path, format!("not a readable archive: {e}"))
        })?;
        Ok(extracted)
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let mut archive = tar::Archive::new(decompress(File::open(path)?)?);
        let mut room = MAX_BYTES;
        for entry in archive.entries()? {
            let mut entry = entry?;
            if self.files.len() + self.links.len() >= MAX_FILES {
                return Err(io::Error::other(format!("more than {MAX_FILES} files")));
            }
            let Some(name) = normal(&entry.path_bytes()) else {
                continue;
            };
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let target = self.dir.join(self.files.len().to_string());
                let mut file = File::create_new(&target)?;
                let copied = io::copy(&mut io::Read::take(&mut entry, room + 1), &mut file)?;
                room = room
                    .checked_sub(copied)
                    .ok_or_else(|| io::Error::other(format!("more than {MAX_BYTES} bytes")))?;
                self.files.insert(name, target);
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let base = match name.rsplit_once('/') {
                    Some((dir, _)) if kind.is_symlink() => format!("{dir}/"),
                    _ => String::new(),
                };
                let target = format!("{base}{}", String::from_utf8_lossy(&target));
                if let Some(target) = normal(target.as_bytes()) {
                    self.links.insert(name, target);
                }
            }
        }
        Ok(())
    }
}

impl Files for Extracted {
    fn find(&self, name: &str) -> Option<PathBuf> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            if let Some(path) = self.files.get(name) {
                return Some(path.clone());
            }
            name = self.links.get(name)?;
        }
        None
    }
}

impl Drop for Extracted {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// `a/./b/../c` as `a/c`; `None` for what is not text or leads out.
fn normal(path: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}
