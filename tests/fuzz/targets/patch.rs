//! Any bytes as a patch of each kind: refused, or an object that can be judged.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::patch(bytes));
