//! Waggle's control plane: one member of the replicated store with its API server, scheduler, controllers
//! and node sync.
//!
//! Layers, each of which may use only those below it (tidy holds this):
//!
//! ```text
//!   api                        HTTP: who asks, for what, in which form
//!   sync                       node sync: the gRPC side
//!   controllers                one folder per controller: plan (pure), loop
//!   scheduler                  filters and scores (pure), queue, binding
//!   cache                      one watch feeds the informers that the four above share
//!   admission  extension       webhooks and policies; servers that extend the API
//!   dialer                     connections to endpoints of Services, over nodes
//!   auth  nodestream  spdy     certificates, users, authorizer; byte streams to pods on nodes; SPDY/3.1
//!   usage                      what nodes and pods use, as nodes report it
//!   registry                   the path of a write: default, validate, propose; typed client
//!   patch                      the four kinds of patch (pure)
//!   schema                     fields, merge keys, OpenAPI (pure)
//!   kinds                      names, defaults, validation, columns of each kind (pure)
//!   types                      schemas in compact form (pure)
//!   store                      MVCC key-value on Raft; knows nothing of Kubernetes
//! ```

mod admission;
mod api;
mod auth;
mod cache;
mod controller;
mod controllers;
mod dialer;
mod extension;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod kinds;
mod nodestream;
mod patch;
mod registry;
mod scheduler;
mod schema;
mod spdy;
mod store;
mod sync;
mod types;
mod usage;

pub use controller::{
    Admission, AuditConfig, CaStep, ClusterStatus, Controller, ControllerConfig, DataPlane,
    JoinRequest, MemberStatus, NodeEviction, NodeIdentity, NodeRanges, NodeStatus, PeerSettings,
    SnapshotInfo, StartError, Termination, TokenConfig, accept_admission, has_member,
    inspect_snapshot, issue_node_identity, join_request, restore_snapshot, rotate_ca,
};
