//! The control plane's store (by links to its files), compiled once more with optimization: a simulated life of a cluster
//! is decided by its seed, not by how quick it is, and CI can look at thousands of them. Nothing depends on this crate, and
//! nothing is in it but tests.

// The store's surface is the control plane's.
#![allow(dead_code, unused_imports, unreachable_pub)]

#[cfg(test)]
mod store;
