//! Unpacking a layer: a tar stream in, a directory for overlayfs out. Synchronous.
//!
//! A layer is hostile: paths, links, sizes and attributes are checked, and everything is made by way of
//! [`tree`], which nothing leads out of. Whiteouts become what overlayfs calls whiteouts.

mod attributes;
mod metered;
mod tree;

use std::ffi::OsStr;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;
use tar::EntryType;

use self::attributes::{Extensions, attributes, device};
use self::metered::{Budget, Metered, is_over_limit};
use self::tree::{Attributes, Place, Tree, normalize};
use super::digest::Digest;

/// Bounds on what one layer may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of the uncompressed archive and of the files in it, each.
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
        }
    }
}

/// Headers of one entry: long names and PAX records.
const MAX_HEADER_BYTES: u64 = 1 << 20;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("{path:?}: {why}")]
    Unsafe { path: String, why: &'static str },
    #[error("larger than {0} bytes unpacked")]
    TooLarge(u64),
    #[error("more than {0} entries")]
    TooMany(u64),
    #[error("{path:?}: {source}")]
    Entry { path: String, source: io::Error },
    #[error("not a readable archive: {0}")]
    Archive(io::Error),
}

impl UnpackError {
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            Self::Entry { source, .. } | Self::Archive(source) => {
                super::error::is_disk_full(source)
            }
            _ => false,
        }
    }
}

/// Decompresses what is gzip or zstd by its first bytes.
pub(super) fn decompress<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(256 << 10, source);
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let source = io::Cursor::new(magic.clone()).chain(source);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(source)?),
        _ => Box::new(source),
    })
}

/// Unpacks `source` into the empty directory `root` and returns the digest of the uncompressed archive.
/// `below` are the layers that will lie below it, lowest first. The caller makes it durable.
pub(super) fn unpack(
    source: impl Read,
    root: &Path,
    below: &[PathBuf],
    limits: Limits,
) -> Result<Digest, UnpackError> {
    let tree = Tree::open(root, below).map_err(UnpackError::Archive)?;
    // An archive may say nothing of its root: then it is as below.
    tree.inherit_root().map_err(UnpackError::Archive)?;
    let plain = decompress(source).map_err(UnpackError::Archive)?;
    let (mut reader, budget) = Metered::new(plain, limits.bytes);
    let mut unpacker = Unpacker {
        tree,
        limits,
        bytes: 0,
        directories: Vec::new(),
    };
    unpacker.entries(&mut tar::Archive::new(&mut reader), &budget)?;
    // What follows the end marker is part of the digest.
    budget.set(limits.bytes);
    io::copy(&mut reader, &mut io::sink()).map_err(|e| archive_error(e, &limits))?;
    unpacker.finish().map_err(UnpackError::Archive)?;
    Ok(reader.digest())
}

fn archive_error(error: io::Error, limits: &Limits) -> UnpackError {
    if is_over_limit(&error) {
        return UnpackError::TooLarge(limits.bytes);
    }
    UnpackError::Archive(error)
}

struct Unpacker {
    tree: Tree,
    limits: Limits,
    bytes: u64,
    /// Times are set last, because filling a directory changes its own.
    directories: Vec<(PathBuf, Attributes)>,
}

impl Unpacker {
    fn entries<R: Read>(
        &mut self,
        archive: &mut tar::Archive<R>,
        budget: &Budget,
    ) -> Result<(), UnpackError> {
        let limits = self.limits;
        let mut entries = archive.entries().map_err(UnpackError::Archive)?;
        let mut count = 0;
        loop {
            // Padding of the entry before, headers, long names.
            budget.set(MAX_HEADER_BYTES);
            let Some(entry) = entries.next() else {
                return Ok(());
            };
            let mut entry = entry.map_err(|e| archive_error(e, &limits))?;
            count += 1;
            if count > limits.entries {
                return Err(UnpackError::TooMany(limits.entries));
            }
            budget.set(limits.bytes);
            self.entry(&mut entry)?;
            io::copy(&mut entry, &mut io::sink()).map_err(|e| archive_error(e, &limits))?;
        }
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
        let raw = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&raw)
            .chars()
            .take(200)
            .collect::<String>();
        let unsafe_entry = |why| UnpackError::Unsafe {
            path: shown.clone(),
            why,
        };
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = normalize(&raw).ok_or_else(|| unsafe_entry("leads out of the layer"))?;
        let limits = self.limits;
        self.make(entry, kind, &path).map_err(|e| match e {
            Failure::Unsafe(why) => unsafe_entry(why),
            Failure::TooLarge => UnpackError::TooLarge(limits.bytes),
            Failure::Io(source) if is_over_limit(&source) => UnpackError::TooLarge(limits.bytes),
            Failure::Io(source) => UnpackError::Entry {
                path: shown.clone(),
                source,
            },
        })
    }

    fn make<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        path: &Path,
    ) -> Result<(), Failure> {
        let extensions = Extensions::read(entry)?;
        let attributes = attributes(entry, &extensions)?;
        let Some(name) = path.file_name() else {
            // The root itself: only a directory makes sense.
            if kind.is_dir() {
                tree::dress(&self.tree.root()?, &attributes)?;
                self.directories.push((PathBuf::new(), attributes));
            }
            return Ok(());
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(path, name.as_bytes());
        }
        let place = self.tree.place(path)?;
        let there = place.stat()?;
        match kind {
            EntryType::Directory => self.directory(&place, path, there.as_ref(), &attributes)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.clear(&place)?;
                self.file(&place, entry, &attributes, &extensions)?;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if target.is_empty() || target.contains(&0) {
                    return Err(Failure::Unsafe("a symbolic link to nothing"));
                }
                self.clear(&place)?;
                place.make_symlink(OsStr::from_bytes(&target), &attributes)?;
            }
            EntryType::Link => self.hard_link(&place, path, entry)?,
            EntryType::Char | EntryType::Block => {
                let device = device(entry)?;
                if kind == EntryType::Char && device == 0 {
                    return Err(Failure::Unsafe("a whiteout in overlayfs' own format"));
                }
                let flag = if kind == EntryType::Char {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                };
                self.clear(&place)?;
                place.make_node(flag, device, &attributes)?;
            }
            EntryType::Fifo => {
                self.clear(&place)?;
                place.make_node(SFlag::S_IFIFO, 0, &attributes)?;
            }
            _ => return Err(Failure::Unsafe("an entry of unknown type")),
        }
        if kind.is_dir() {
            extensions.apply(&place.open_dir()?)?;
        }
        Ok(())
    }

    /// Removes what an earlier entry of the same layer left at this place.
    fn clear(&mut self, place: &Place) -> io::Result<()> {
        if place
            .stat()?
            .is_some_and(|s| tree::is_dir(&s) || is_link(&s))
        {
            self.tree.forget_parent();
        }
        place.remove()
    }

    fn directory(
        &mut self,
        place: &Place,
        path: &Path,
        there: Option<&nix::sys::stat::FileStat>,
        attributes: &Attributes,
    ) -> io::Result<()> {
        match there {
            Some(stat) if tree::is_dir(stat) => place.dress_dir(attributes)?,
            Some(stat) => {
                let hides = tree::is_whiteout(stat);
                place.remove()?;
                place.make_dir(attributes)?;
                if hides {
                    tree::set_opaque(&place.open_dir()?)?;
                }
            }
            None => place.make_dir(attributes)?,
        }
        self.directories.push((path.to_path_buf(), *attributes));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        place: &Place,
        entry: &mut tar::Entry<'_, R>,
        attributes: &Attributes,
        extensions: &Extensions,
    ) -> Result<(), Failure> {
        let mut file = place.create_file()?;
        let room = self.limits.bytes - self.bytes;
        let copied = io::copy(&mut entry.by_ref().take(room + 1), &mut file)?;
        if copied > room {
            return Err(Failure::TooLarge);
        }
        self.bytes += copied;
        file.flush()?;
        tree::dress(&file, attributes)?;
        extensions.apply(&file)?;
        tree::set_time(&file, attributes)?;
        Ok(())
    }

    fn hard_link<R: Read>(
        &mut self,
        place: &Place,
        path: &Path,
        entry: &tar::Entry<'_, R>,
    ) -> Result<(), Failure> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = normalize(&target)
            .filter(|t| !t.as_os_str().is_empty())
            .ok_or(Failure::Unsafe("a hard link that leads out of the layer"))?;
        if target == path {
            return Ok(());
        }
        let source = self.tree.place(&target)?;
        match source.stat()? {
            Some(stat) if tree::is_dir(&stat) || tree::is_whiteout(&stat) => {
                return Err(Failure::Unsafe("a hard link to something that is no file"));
            }
            Some(_) => {}
            None => {
                return Err(Failure::Unsafe(
                    "a hard link to a file that is not in the layer",
                ));
            }
        }
        self.clear(place)?;
        Ok(place.link_from(&source)?)
    }

    fn whiteout(&mut self, path: &Path, name: &[u8]) -> Result<(), Failure> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if name == OPAQUE {
            let dir = match parent.file_name() {
                None => self.tree.root()?,
                // Making a place below it makes the directory.
                Some(_) => self.tree.parent_dir(parent)?,
            };
            return Ok(tree::set_opaque(&dir)?);
        }
        let hidden = &name[WHITEOUT.len()..];
        // `.wh..wh.…` is what aufs kept for itself.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Failure::Unsafe("a whiteout of nothing"));
        }
        let place = self.tree.place(&parent.join(OsStr::from_bytes(hidden)))?;
        match place.stat()? {
            None => place.make_whiteout()?,
            // Whiteouts are about the layers below: what this layer brings stays.
            Some(stat) if tree::is_dir(&stat) => tree::set_opaque(&place.open_dir()?)?,
            Some(_) => {}
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        for (path, attributes) in self.directories.iter().rev() {
            if let Some(dir) = self.tree.existing_dir(path)? {
                tree::set_time(&dir, attributes)?;
            }
        }
        Ok(())
    }
}

fn is_link(stat: &nix::sys::stat::FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFLNK
}

enum Failure {
    Unsafe(&'static str),
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests;
