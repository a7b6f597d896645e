//! Any bytes as the query of a request: understood or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::query(bytes));
