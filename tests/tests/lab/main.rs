//! The life of a lab: several nodes on one machine.
#![allow(clippy::unwrap_used)]

mod authorities;
mod controllers;
mod lifecycle;
