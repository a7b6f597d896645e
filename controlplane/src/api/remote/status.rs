//! How a remote command ended, as each version of the protocol says it. Pure.

use bytes::Bytes;
use serde_json::{Value, json};

/// The `Status` that the node sent last.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Outcome(Vec<u8>);

/// More than any `Status` of a node has.
const MAX: usize = 64 << 10;

impl Outcome {
    pub(in super::super) fn push(&mut self, bytes: &[u8]) {
        if self.0.len() + bytes.len() <= MAX {
            self.0.extend_from_slice(bytes);
        }
    }

    pub(in super::super) fn value(&self) -> Value {
        serde_json::from_slice(&self.0).unwrap_or_else(|_| {
            let why = "the connection to the node was lost";
            json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            })
        })
    }

    /// Version 4 and later: JSON, also of a success. Before that: what went wrong as text, or nothing.
    pub(super) fn say(&self, json: bool) -> Option<Bytes> {
        let status = self.value();
        if json {
            return Some(status.to_string().into());
        }
        if status["status"] == "Success" {
            return None;
        }
        let message = status["message"].as_str().unwrap_or("unknown error");
        Some(Bytes::from(message.to_owned()))
    }
}
