//! Waggle's node agent: runs the pods bound to its node and owns the node's data plane and DNS.
//!
//! ```text
//!   agent                       composition root: starts and stops everything below
//!   sync                        what the control plane says, what is reported to it
//!   node                        what the node is: capacity, conditions, heart-beat
//!   pods                        one worker per pod: plan (pure), then images, volumes, network, runtime
//!   volumes                     ConfigMaps, Secrets and the files that every pod has
//!   images runtime              OCI images; runc behind a supervisor per pod
//!   supervisor                  that process (`agent-supervisor`): parent of a pod's containers, outlives the agent
//!   network                     network namespaces, veths, addresses
//!   dataplane dns health        eBPF programs and maps; names; health checks of load balancers
//!   cluster userns              neutral events: services, endpoints, nodes (no gRPC, no Kubernetes client); user
//!                               namespaces and mapped mounts
//! ```
//! Each line may use those below it, never those above (tidy holds this). `dataplane` and `dns` know
//! nothing of pods or gRPC, so that `waggle proxy` can drive them from a stock Kubernetes API server.

mod agent;
pub mod cluster;
pub mod dataplane;
pub mod dns;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
pub mod images;
pub mod network;
mod node;
mod pods;
mod runtime;
mod supervisor;
mod sync;
mod userns;
mod volumes;

#[cfg(test)]
mod tests;

pub use node::{SoftThreshold, ThresholdError};

pub use agent::{
    Agent, AgentConfig, AgentError, AgentStatus, LogSize, LogSizeError, PodOptions, PodSummary,
    Shutdown,
};
