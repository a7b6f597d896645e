//! Any bytes as an expression of a policy: refused, or evaluated within its budget.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| controlplane::fuzzing::expression(bytes));
