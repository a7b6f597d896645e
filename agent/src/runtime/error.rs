//! What can go wrong between the agent and a pod's containers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::spec::UnknownCapability;
use super::user::UserError;
use crate::supervisor::protocol::Failure;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// runc said no; the message is runc's last error.
    #[error("runc {verb} {container}: {message}")]
    Runc {
        verb: &'static str,
        container: String,
        message: String,
    },
    #[error("no container {0}")]
    NotFound(String),
    #[error("container {container}: {state}")]
    Conflict { container: String, state: String },
    #[error("invalid name {0:?}")]
    InvalidName(String),
    /// The container asks for a user that it cannot have.
    #[error("{0}")]
    User(#[from] UserError),
    #[error("{0}")]
    Capability(#[from] UnknownCapability),
    #[error("supervisor of {}: {message}", dir.display())]
    Supervisor { dir: PathBuf, message: String },
    /// It has died; [`super::sweep`] cleans up after it.
    #[error("supervisor of {} is gone", .0.display())]
    Gone(PathBuf),
    #[error("supervisor of {}: no answer to {call} after {after:?}", dir.display())]
    Timeout {
        dir: PathBuf,
        call: &'static str,
        after: Duration,
    },
    #[error("{doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl RuntimeError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// What a supervisor's refusal means for a container.
    pub(super) fn from_failure(failure: Failure, dir: &Path, container: &str) -> Self {
        let container = container.to_owned();
        match failure {
            Failure::Runc { verb, message } => Self::Runc {
                verb: match verb.as_str() {
                    "create" => "create",
                    "start" => "start",
                    "delete" => "delete",
                    "exec" => "exec",
                    _ => "run",
                },
                container,
                message,
            },
            Failure::NotFound => Self::NotFound(container),
            Failure::Conflict(state) => Self::Conflict { container, state },
            Failure::Internal(message) => Self::supervisor(dir, message),
            Failure::Stopping => Self::supervisor(dir, "is stopping".to_owned()),
            Failure::Unsupported { version } => {
                Self::supervisor(dir, format!("speaks protocol version {version}"))
            }
        }
    }

    pub(super) fn supervisor(dir: &Path, message: String) -> Self {
        Self::Supervisor {
            dir: dir.to_owned(),
            message,
        }
    }
}
