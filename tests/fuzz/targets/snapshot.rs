//! Any bytes as a snapshot: read, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::snapshot(bytes));
