//! Any bytes as a selector: understood or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::selector(bytes));
