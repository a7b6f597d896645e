//! Three real members of a control plane, broken in every way while clients write, read and watch through all of them.
//! What those have seen is judged by `waggle_tests::Witness`: no acknowledged write lost, no stale read, no watch with a
//! gap. `cargo xtask test` goes through each fault once or twice; `cargo xtask test --faults` does so for longer
//! (`WAGGLE_FAULT_ROUNDS`).

#![allow(clippy::unwrap_used)]

mod changes;
mod disk;
mod kills;
mod partitions;

/// How often each fault is made.
fn rounds(short: usize) -> usize {
    std::env::var("WAGGLE_FAULT_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(short)
}
