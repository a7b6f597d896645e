//! Any bytes as a SPDY session: read or refused, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::spdy(bytes));
