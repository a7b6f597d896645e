//! Any bytes as the path of a request: no panic, and no name that leaves its place.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::path(bytes));
