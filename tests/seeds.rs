//! Seeds of every scenario, after its regressions. `MADSIM_TEST_SEED=7 cargo test --test seeds store -- --exact` runs one; `MADSIM_TEST_NUM` says how many.
#![cfg(madsim)]

use std::path::Path;

fn check(scenario: &str, seeds: u64) {
    let cutwater = Path::new(env!("CARGO_BIN_EXE_cutwater"));
    let kept = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/regressions")).join(scenario);
    if kept.is_dir() {
        cutwater_sim::testing::check_regressions(cutwater, &kept);
    }
    cutwater_sim::testing::check_seeds(cutwater, scenario, seeds);
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

#[test]
fn savepoint() {
    check("savepoint", 100);
}
