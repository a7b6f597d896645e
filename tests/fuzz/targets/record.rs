//! Any bytes as records of the disk: read, or found to be damaged.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::record(bytes));
