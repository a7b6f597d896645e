//! The data plane in the kernel: programs loaded, attached to a cgroup and to interfaces of namespaces that
//! each test makes for itself, and traffic through them.
#![allow(clippy::unwrap_used)]

mod fixtures;
mod lab;
mod lifecycle;
mod packets;
mod pods;
mod services;
mod tables;

use self::lab::lab;
use super::*;
