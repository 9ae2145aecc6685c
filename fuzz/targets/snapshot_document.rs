//! libFuzzer target `snapshot_document`; what it does is in `scenarios/src/targets/snapshots.rs`, where `cargo test` runs it, too.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cutwater_scenarios::targets::run("snapshot_document", bytes));
