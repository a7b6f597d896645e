//! Any bytes as a bearer token: nobody gets in.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::token(bytes));
