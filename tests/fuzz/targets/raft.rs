//! Any bytes as another member's message: understood or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::raft(bytes));
