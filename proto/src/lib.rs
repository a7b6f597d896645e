//! Waggle's wire formats, generated from `proto/`.
//!
//! Nothing of ours is imported here, and nothing but generated code and its codec lives here: conversions belong to the
//! crate that owns the other side.
// Generated code follows prost's style, not ours.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

pub mod codec;

/// Node sync (`waggle.node.v1`).
pub mod node {
    pub mod v1 {
        tonic::include_proto!("waggle.node.v1");
    }
}

/// Raft peers (`waggle.raft.v1`).
pub mod raft {
    pub mod v1 {
        tonic::include_proto!("waggle.raft.v1");
    }
}
