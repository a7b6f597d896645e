//! Waggle's control plane: one member of the replicated store with its API server, scheduler, controllers
//! and node sync.
//!
//! Layers, each of which may use only those below it (tidy holds this):
//!
//! ```text
//!   api  sync  controllers  scheduler      (who talks to the outside, who decides)
//!   nodestream  cache                      (byte streams to pods on nodes; the shared view of the cluster)
//!   registry                               (the path of a write: default, validate, propose; typed client)
//!   kinds  patch  schema                   (what Kubernetes objects are; pure)
//!   store                                  (MVCC key-value on Raft; knows nothing of Kubernetes)
//! ```
//! `auth` (certificates, authentication, authorization) is used by `api` and `sync`.

mod api;
mod auth;
mod cache;
mod controller;
mod controllers;
mod kinds;
mod nodestream;
mod patch;
mod registry;
mod scheduler;
mod schema;
mod store;
mod sync;

pub use controller::{Controller, ControllerConfig, NodeIdentity, StartError};
