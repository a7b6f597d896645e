//! What the agent and a supervisor say to each other: frames of a four-byte length (big endian) and JSON.
//!
//! A supervisor may be older than the agent that talks to it (it outlives agents), so messages only ever
//! gain fields, and unknown ones are ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Raised when a message changes in a way that older programs would misread.
pub const VERSION: u32 = 1;

/// Longest frame; the largest message is the table of a pod's containers.
pub const MAX_FRAME: usize = 1 << 20;

/// Where a supervisor listens, in the pod's run directory.
pub const SOCKET: &str = "supervisor.sock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running {
        pid: u32,
        started_at: SystemTime,
    },
    Exited {
        code: i32,
        signal: Option<i32>,
        oom_killed: bool,
        started_at: Option<SystemTime>,
        finished_at: SystemTime,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub version: u32,
    /// Chosen by the client, returned with the answer.
    pub id: u64,
    pub call: Call,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// Who is there; from now on the client is told of changes.
    Hello,
    Create(Create),
    Start {
        id: String,
    },
    Kill {
        id: String,
        signal: i32,
    },
    Delete {
        id: String,
    },
    /// Answered when the command has ended.
    Exec(Exec),
    /// After the answer the connection is for the container's output (`attachment`).
    Attach(Attach),
    States,
    /// Kills and deletes everything; the supervisor ends after its answer.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    pub id: String,
    pub bundle: PathBuf,
    pub log: LogTarget,
    /// Directories of the container's cgroup, one per hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// File with the kernel's count of OOM kills in the container's cgroup.
    pub oom_events: Option<PathBuf>,
    /// Standard input stays open (and silent) instead of being `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The standard input ends with the first client's.
    #[serde(default)]
    pub stdin_once: bool,
    /// The bundle asks for a terminal: it takes the place of the pipes.
    #[serde(default)]
    pub terminal: bool,
    /// To whom its pipes belong, when that is not root.
    #[serde(default)]
    pub owner: Option<u32>,
    /// Its program is started, too. Who does not know this field answers [`Answer::Done`] and has not started it.
    #[serde(default)]
    pub start: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub id: String,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A command in a running container. It is killed at its deadline, and when its client hangs up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub id: String,
    pub args: Vec<String>,
    /// Named pipe, open for reading, in the directory for commands ([`super::config::exec_dir`]).
    pub output: PathBuf,
    /// The same for its errors, when they do not go where the output goes.
    #[serde(default)]
    pub errors: Option<PathBuf>,
    /// Named pipe in the same directory, open for writing; `/dev/null` without.
    #[serde(default)]
    pub input: Option<PathBuf>,
    /// Socket to which the command's terminal is to be sent.
    #[serde(default)]
    pub console: Option<PathBuf>,
    /// With which that terminal begins: columns and rows.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    pub path: PathBuf,
    pub max_bytes: u64,
    /// Files in all, the one being written included.
    pub max_files: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    Answer {
        id: u64,
        answer: Answer,
    },
    /// A container changed state; the counter only grows.
    Changed {
        counter: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    Hello {
        version: u32,
        pid: u32,
        /// The process that keeps the namespace of process ids that the containers share.
        #[serde(default)]
        init: Option<u32>,
    },
    Done,
    /// Created, and its program was started.
    Started,
    /// A command with streams of its own runs: what comes on them is its own. Another answer follows.
    Begun,
    /// A command has ended.
    Ended {
        code: i32,
        timed_out: bool,
    },
    States(BTreeMap<String, ContainerState>),
    Attached {
        terminal: bool,
        /// The container's input ends with this client's.
        once: bool,
    },
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// runc said no, died or took too long.
    Runc {
        verb: String,
        message: String,
    },
    /// There is no container of that name.
    NotFound,
    /// The container is in a state in which that cannot be done.
    Conflict(String),
    /// The supervisor could not do its own part.
    Internal(String),
    /// The supervisor is ending.
    Stopping,
    Unsupported {
        version: u32,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes")]
    Length(usize),
    #[error("malformed message: {0}")]
    Json(#[from] serde_json::Error),
}

/// A message as it goes over the wire.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::Length(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameError::Length(length))?;
    frame[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Puts frames together from pieces as they arrive. After an error it must not be used again.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What has come after the last whole message.
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes the next whole message, if there is one.
    pub fn take<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::Length(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.buffer.drain(..4 + length);
        if self.buffer.is_empty() {
            // A supervisor lives long: a large frame must not keep its memory.
            self.buffer = Vec::new();
        }
        Ok(Some(message))
    }
}
