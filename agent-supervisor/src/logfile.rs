//! Log records and the files they are kept in, in the format that the CRI fixes: a time, the stream, `F` for
//! the end of a line or `P` for a piece of one, the text.
//!
//! When a file is full it is renamed to `<name>.<time>` and a new one is begun; names grow, so that sorting
//! them gives the order of the records. A record is never divided between files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::protocol::LogTarget;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Writes one record at the end of `out`.
pub fn encode(out: &mut Vec<u8>, time: &str, stream: Stream, ends_line: bool, text: &[u8]) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(if ends_line { b" F " } else { b" P " });
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// UTC with nine digits of a second, as records carry it.
pub fn format_time(time: SystemTime) -> String {
    timestamp(time)
        .strftime("%Y-%m-%dT%H:%M:%S.%9fZ")
        .to_string()
}

fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The name that a full file gets: after the time, and after every name given before.
pub fn rotated_name(base: &str, last: Option<&str>, now: SystemTime) -> String {
    let wanted = format!("{base}.{}", timestamp(now).strftime("%Y%m%d-%H%M%S"));
    let Some(last) = last.filter(|last| *last >= wanted.as_str()) else {
        return wanted;
    };
    // Within one second, or with a clock that was set back: count on from the last name.
    let stem_length = base.len() + ".20060102-150405".len();
    let (stem, counter) = match last.split_at_checked(stem_length) {
        Some((stem, counter)) => (stem, counter.strip_prefix('.').and_then(|n| n.parse().ok())),
        None => (wanted.as_str(), None),
    };
    format!("{stem}.{:06}", counter.unwrap_or(0_u32).saturating_add(1))
}

/// The rotated files of a log, oldest first.
pub fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(base)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && is_rotated(base, &name)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn is_rotated(base: &str, name: &str) -> bool {
    let suffix = name
        .strip_prefix(base)
        .and_then(|rest| rest.strip_prefix('.'));
    suffix.is_some_and(|suffix| {
        suffix.len() >= "20060102-150405".len()
            && suffix
                .bytes()
                .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
    })
}

/// The file being written. Errors lose records, never block the container: they are reported once each.
#[derive(Debug)]
pub struct LogFile {
    target: LogTarget,
    file: File,
    size: u64,
    /// Records not yet written; never more than one read from a pipe gives.
    pending: Vec<u8>,
    /// Why no new file was begun; told with the next write.
    unrotated: Option<io::Error>,
}

impl LogFile {
    pub fn open(target: LogTarget) -> io::Result<Self> {
        if let Some(dir) = target.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = open(&target.path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            target,
            file,
            size,
            pending: Vec::new(),
            unrotated: None,
        })
    }

    pub fn record(
        &mut self,
        now: SystemTime,
        time: &str,
        stream: Stream,
        ends_line: bool,
        text: &[u8],
    ) -> io::Result<()> {
        let before = self.pending.len();
        encode(&mut self.pending, time, stream, ends_line, text);
        let full = self.size + self.pending.len() as u64 > self.target.max_bytes;
        if full && self.size + before as u64 > 0 {
            let record = self.pending.split_off(before);
            self.write_pending()?;
            self.pending = record;
            // Rather too much in one file than a record lost.
            self.unrotated = self.rotate(now).err();
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.write_pending()?;
        self.unrotated.take().map_or(Ok(()), Err)
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if let Err(error) = self.file.write_all(&pending) {
            // No half a record may stay: the next one would be read as its end.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += pending.len() as u64;
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        let path = &self.target.path;
        let rotated = rotated_files(path)?;
        let base = path.file_name().and_then(|name| name.to_str());
        let base = base.ok_or(io::ErrorKind::InvalidInput)?;
        let last = rotated.last().and_then(|last| last.file_name());
        let name = rotated_name(base, last.and_then(|last| last.to_str()), now);
        match std::fs::rename(path, path.with_file_name(name)) {
            // Removed by somebody, or renamed by a try that came no further.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = open(path)?;
        self.size = 0;
        let keep = (self.target.max_files as usize).saturating_sub(2);
        for old in &rotated[..rotated.len().saturating_sub(keep)] {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}
