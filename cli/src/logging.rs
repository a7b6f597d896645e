//! Where logs go: standard error, or a file for a detached cluster.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

#[derive(Debug, Clone)]
pub(crate) struct LogSettings {
    pub(crate) filter: String,
    pub(crate) json: bool,
}

/// Starts logging to standard error, or appends to `file`.
pub(crate) fn start(settings: &LogSettings, file: Option<&Path>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.filter)
        .with_context(|| format!("--log {:?} is no filter", settings.filter))?;
    let writer = match file {
        None => BoxMakeWriter::new(|| Lossy(io::stderr())),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("open the log {}", path.display()))?;
            let file = Arc::new(file);
            BoxMakeWriter::new(move || Lossy(Arc::clone(&file)))
        }
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(false);
    if settings.json {
        builder.json().init()
    } else {
        builder.init()
    }
    Ok(())
}

/// What cannot be logged, on a full disk for example, is lost and harms nobody: the subscriber would complain on standard
/// error, and whoever logs panic where that is full, too.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut log = Lossy(full.unwrap());
        assert_eq!(log.write(b"line\n").unwrap(), 5);
        log.flush().unwrap();
        let mut kept = Lossy(Vec::new());
        kept.write_all(b"line\n").unwrap();
        assert_eq!(kept.0, b"line\n");
    }
}
