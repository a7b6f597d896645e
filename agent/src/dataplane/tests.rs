//! The data plane in the kernel: programs loaded, attached to a cgroup and to interfaces of namespaces that
//! each test makes for itself, and traffic through them.
#![allow(clippy::unwrap_used)]

mod between;
mod closing;
mod cluster;
mod fixtures;
mod fragments;
mod lab;
mod lifecycle;
mod links;
mod migration;
mod north_south;
mod overlay;
mod packets;
mod path_mtu;
mod pods;
mod refusals;
mod service_verdicts;
mod services;
mod services_between;
mod settling;
mod sockets;
mod tables;

use self::lab::lab;
use super::*;
