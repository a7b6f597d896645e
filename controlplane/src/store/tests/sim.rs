//! Clusters in a simulation: members, clients, network, clock and disks in one thread, everything that happens
//! decided by one seed.
//!
//! | file | what |
//! |---|---|
//! | `network` | delays, loses, cuts; every message is encoded and decoded |
//! | `cluster` | members that start, stop, crash with part of what they wrote |
//! | `entropy` | makes all randomness of a thread the seed's, also that of libraries |
//! | `scenario` | what one seed does to a cluster while clients use it |
//! | `history` | what the clients saw, and what is known to have happened |
//! | `invariants` | what must hold of a history, one file each |
//! | `seeds` | many seeds, in processes of their own; how to replay one |

pub(super) mod cluster;
mod entropy;
mod history;
mod invariants;
pub(super) mod network;
mod scenario;
mod seeds;
