//! Any bytes as the body of a write, in each encoding: refused, or judged.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::body(bytes));
