//! What the end-to-end tests stand on: a real `waggle dev` in a network namespace of its own, or a `waggle lab` of
//! several nodes, or several members of a control plane and clients that remember what they saw, real clients, and
//! the means to break things.
//!
//! A test that cannot run fails: there are no skips.

mod cluster;
mod debian;
mod image;
mod lab;
mod leftovers;
mod load;
mod members;
mod netns;
mod process;
mod witness;

pub use cluster::{Cluster, Options, old_kubectl, waggle};
pub use debian::{Application, NGINX, POSTGRESQL, PROMETHEUS, PYTHON, PYTHON_CLIENT, REDIS};
pub use image::{IMAGE, PEER_IMAGE, busybox_archive, busybox_root, program_archive};
pub use lab::{Lab, PodFacts, Spot};
pub use leftovers::{Leftovers, unified_cgroup};
pub use load::Load;
pub use members::Members;
pub use netns::Netns;
pub use process::{Outcome, wait_until};
pub use witness::{Verdict, Witness};
