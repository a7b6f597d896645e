//! The audit log's file: one JSON object a line, turned over by size, old files removed by number and age. Written by a
//! thread of its own; who has an event to write waits when the thread is behind, so that none is lost.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

/// Events that may wait for the disk.
const WAITING: usize = 4096;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where the audit log goes and how much of it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// File of the log; `-` is standard output. No log where there is none.
    pub log: Option<PathBuf>,
    /// File of the policy; everything's metadata where there is none.
    pub policy: Option<PathBuf>,
    /// MiB after which a new file is begun; 0 never.
    pub max_size: u64,
    /// Old files that are kept; 0 all.
    pub max_backup: usize,
    /// Days that old files are kept; 0 for ever.
    pub max_age: u64,
}

/// Where events go in.
#[derive(Debug, Clone)]
pub(super) struct Sink(mpsc::Sender<Vec<u8>>);

impl Sink {
    pub(super) fn open(config: &AuditConfig, path: &Path) -> std::io::Result<Self> {
        let mut out = Out::open(config, path)?;
        let (sender, mut events) = mpsc::channel::<Vec<u8>>(WAITING);
        std::thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || {
                while let Some(event) = events.blocking_recv() {
                    let more = std::iter::from_fn(|| events.try_recv().ok());
                    if let Err(error) = out.write_all(std::iter::once(event).chain(more)) {
                        tracing::error!(%error, "the audit log was not written");
                    }
                }
            })?;
        Ok(Self(sender))
    }

    pub(super) async fn write(&self, event: &serde_json::Value) {
        // An error: the thread has ended with the process.
        let _ = self.0.send(line(event)).await;
    }

    /// For those who cannot wait; what does not fit is named in the member's own log.
    pub(super) fn write_now(&self, event: &serde_json::Value) {
        if let Err(error) = self.0.try_send(line(event)) {
            tracing::warn!(%error, audit = %event["auditID"], "an audit event was lost");
        }
    }
}

fn line(event: &serde_json::Value) -> Vec<u8> {
    let mut line = event.to_string().into_bytes();
    line.push(b'\n');
    line
}

enum Out {
    Standard,
    File {
        config: AuditConfig,
        path: PathBuf,
        file: BufWriter<File>,
        size: u64,
    },
}

impl Out {
    fn open(config: &AuditConfig, path: &Path) -> std::io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = append(path)?;
        Ok(Self::File {
            size: file.metadata()?.len(),
            config: config.clone(),
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }

    fn write_all(&mut self, lines: impl Iterator<Item = Vec<u8>>) -> std::io::Result<()> {
        let Self::File {
            config,
            path,
            file,
            size,
        } = self
        else {
            let mut out = std::io::stdout().lock();
            for line in lines {
                out.write_all(&line)?;
            }
            return out.flush();
        };
        let most = config.max_size.saturating_mul(1 << 20);
        for line in lines {
            if most > 0 && *size > 0 && *size + line.len() as u64 > most {
                file.flush()?;
                turn_over(path)?;
                *file = BufWriter::new(append(path)?);
                *size = 0;
                if let Err(error) = remove_old(config, path, SystemTime::now()) {
                    tracing::warn!(%error, "old audit logs were not removed");
                }
            }
            file.write_all(&line)?;
            *size += line.len() as u64;
        }
        file.flush()
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// `audit.log` becomes `audit-2026-01-02T03-04-05.678.log`.
fn turn_over(path: &Path) -> std::io::Result<()> {
    let now = jiff::Timestamp::now();
    let stamp = format!("{now:.3}").replace(':', "-");
    let stamp = stamp.trim_end_matches('Z');
    let (stem, extension) = parts(path);
    std::fs::rename(
        path,
        path.with_file_name(format!("{stem}-{stamp}{extension}")),
    )
}

fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|extension| format!(".{extension}"));
    (
        text(path.file_stem()).unwrap_or_default(),
        extension.unwrap_or_default(),
    )
}

fn remove_old(config: &AuditConfig, path: &Path, now: SystemTime) -> std::io::Result<()> {
    let (stem, extension) = parts(path);
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    let mut old: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(extension.as_str()));
        if stamp.is_some_and(|stamp| stamp.starts_with(|c: char| c.is_ascii_digit())) {
            old.push(entry.path());
        }
    }
    // Their names are in the order of time; the latest first.
    old.sort();
    old.reverse();
    let age = |path: &PathBuf| {
        let changed = std::fs::metadata(path)
            .and_then(|meta| meta.modified())
            .ok();
        changed.and_then(|changed| now.duration_since(changed).ok())
    };
    for (index, path) in old.iter().enumerate() {
        let surplus = config.max_backup > 0 && index >= config.max_backup;
        let days = u32::try_from(config.max_age).unwrap_or(u32::MAX);
        let stale = days > 0 && age(path).is_some_and(|age| age > DAY.saturating_mul(days));
        if surplus || stale {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_full_file_is_turned_over_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let config = AuditConfig {
            max_size: 1,
            max_backup: 2,
            ..AuditConfig::default()
        };
        let mut out = Out::open(&config, &path).unwrap();
        for _ in 0..5 {
            out.write_all(std::iter::once(vec![b'x'; 700 << 10]))
                .unwrap();
            // Names tell milliseconds apart.
            let begun = jiff::Timestamp::now().as_millisecond();
            while jiff::Timestamp::now().as_millisecond() <= begun {
                std::thread::yield_now();
            }
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 3, "the present one and two old ones");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 700 << 10);
    }
}
