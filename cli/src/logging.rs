//! Where logs go: standard error, or a file for a detached cluster.

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
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("open the log {}", path.display()))?;
            BoxMakeWriter::new(Arc::new(file))
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
