//! The life of a lab: several nodes on one machine.
#![allow(clippy::unwrap_used)]

mod controllers;
mod lifecycle;
