//! libFuzzer target `canonical_state`; what it does is in `scenarios/src/targets.rs`, where `cargo test` runs it, too.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cutwater_scenarios::targets::run("canonical_state", bytes));
