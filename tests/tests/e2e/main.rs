//! End to end: real clients against a real one-node cluster, each test with its own.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod bench;
mod benchmarks;
mod churn;
mod cluster_status;
mod confinement;
mod dns;
mod identity;
mod images;
mod kube_client;
mod kubectl;
mod lifecycle;
mod netfilter;
mod pods;
mod restarts;
mod rollouts;
mod scheduling;
mod services;
mod sets;
mod streams;
mod termination;
mod workloads;
