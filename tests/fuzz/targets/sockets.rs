//! Any bytes as the kernel's list of sockets.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agent::fuzzing::sockets(bytes));
