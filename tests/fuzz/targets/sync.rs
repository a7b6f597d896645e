//! Any bytes as messages of node sync.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agent::fuzzing::sync(bytes));
