//! Seeds of every scenario. `MADSIM_TEST_SEED=7 cargo test --test seeds store -- --exact` runs one; `MADSIM_TEST_NUM` says how many.
#![cfg(madsim)]

use std::path::Path;

fn check(scenario: &str, seeds: u64) {
    cutwater_sim::testing::check_seeds(Path::new(env!("CARGO_BIN_EXE_cutwater")), scenario, seeds);
}

#[test]
fn store() {
    check("store", 100);
}

#[test]
fn damage() {
    check("damage", 100);
}

#[test]
fn checkpoint() {
    check("checkpoint", 100);
}

#[test]
fn restore() {
    check("restore", 100);
}
