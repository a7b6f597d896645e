//! Any bytes as an image's manifest and configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agent::fuzzing::image(bytes));
