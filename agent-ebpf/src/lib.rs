//! What kernel and user space must agree on, and the pure packet logic.
#![cfg_attr(not(test), no_std)]
