//! What an entry says of its owner, mode, time and extended attributes.

use std::ffi::CString;
use std::io::{self, Read};

use super::Failure;
use super::tree::{self, Attributes};

/// What PAX records add to an entry.
#[derive(Default)]
pub(super) struct Extensions {
    xattrs: Vec<(CString, Vec<u8>)>,
    mtime: Option<(i64, i64)>,
}

impl Extensions {
    pub(super) fn read<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        let mut all = Self::default();
        let Some(records) = entry.pax_extensions()? else {
            return Ok(all);
        };
        for record in records {
            let record = record?;
            let key = record.key_bytes();
            if key == b"mtime" {
                all.mtime = record.value().ok().and_then(parse_time);
            } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                && is_wanted_xattr(name)
                && let Ok(name) = CString::new(name)
            {
                all.xattrs.push((name, record.value_bytes().to_vec()));
            }
        }
        Ok(all)
    }

    pub(super) fn apply(&self, fd: &impl std::os::fd::AsFd) -> io::Result<()> {
        for (name, value) in &self.xattrs {
            match tree::set_xattr(fd, name.clone(), value) {
                // A file system without them: the file is of use nevertheless.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Never `trusted.*` or `user.overlay.*`: by those a layer could redirect overlayfs.
fn is_wanted_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Seconds with a fraction, as PAX writes times.
fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: i64 = digits.parse().ok()?;
    (0..1_000_000_000)
        .contains(&nanos)
        .then_some((seconds, nanos))
}

pub(super) fn attributes<R: Read>(
    entry: &tar::Entry<'_, R>,
    extensions: &Extensions,
) -> Result<Attributes, Failure> {
    let header = entry.header();
    let old = header.as_old();
    let id = |field: &[u8], id: io::Result<u64>| -> Result<u32, Failure> {
        // Blank is zero to every other reader.
        let blank = field.iter().all(|b| matches!(b, 0 | b' '));
        u32::try_from(if blank { 0 } else { id? })
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or(Failure::Unsafe("an owner out of range"))
    };
    let (mtime, mtime_nanos) = extensions
        .mtime
        .unwrap_or((i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0));
    Ok(Attributes {
        uid: id(&old.uid, header.uid())?,
        gid: id(&old.gid, header.gid())?,
        mode: header.mode()? & 0o7777,
        // Beyond what file systems store, the kernel clamps; a negative one is older than 1970.
        mtime,
        mtime_nanos,
    })
}

pub(super) fn device<R: Read>(entry: &tar::Entry<'_, R>) -> Result<libc::dev_t, Failure> {
    let major = entry.header().device_major()?.unwrap_or(0);
    let minor = entry.header().device_minor()?.unwrap_or(0);
    Ok(libc::makedev(major, minor))
}
