//! Node sync from the agent's side.
//!
//! `sync/client` holds the stream and dials again when it is lost; `sync/intake` hands on what comes in (pods,
//! the objects that they refer to, batches for the data plane and DNS); `sync/outbox` keeps what is to go
//! out, the latest of everything; `sync/convert` turns messages into what the rest of the agent knows (pure);
//! `sync/logs` serves byte streams that the control plane asks for. Nothing listens here.

mod client;
mod convert;
mod intake;
mod logs;
mod outbox;

pub(crate) use client::{Client, ClientConfig, ClientError, ClientMetrics};
pub(crate) use intake::Intake;
pub(crate) use outbox::Outbox;
