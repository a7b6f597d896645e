//! What kernel and user space must agree on, and the pure packet logic.
//!
//! Compiled for the eBPF target and for the host alike, so everything here is tested natively. There is no
//! helper call and no map in it: the programs (`bin/waggle-ebpf`) read, ask this library, and act.
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod affinity;
pub mod balance;
pub mod checksum;
pub mod counter;
pub mod flow;
pub mod layout;
pub mod mtu;
pub mod nat;
pub mod overlay;
pub mod packet;
pub mod refusal;
pub mod rewrite;
pub mod select;
