#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cutwater_scenarios::targets::run("checkpoint_metadata", bytes));
