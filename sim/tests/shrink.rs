//! The shrinker on systems whose smallest failing plan is known (`examples/flawed.rs`), from the outside.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Name, and how many operations and faults the smallest failing plan has.
const FLAWS: [(&str, u64); 8] = [
    ("unsynced", 2),
    ("error_ignored", 2),
    ("third_put", 3),
    ("stale_delete", 3),
    ("recover_twice", 3),
    ("big_value", 2),
    ("two_adds", 2),
    ("paused", 2),
];

/// The example, built as this test was.
fn flawed() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    build.args(["build", "--quiet", "--package", "cutwater-sim", "--example", "flawed", "--target-dir"]);
    build.arg(profile.parent().unwrap());
    build.args(profile.ends_with("release").then_some("--release"));
    assert!(build.status().unwrap().success(), "{build:?}");
    profile.join("examples/flawed")
}

/// The first seeds that fail, in order.
fn failing(flawed: &Path, name: &str) -> Vec<u64> {
    let args = ["sweep", name, "--seeds", "1000", "--json", "--no-shrink"];
    let sweep = Command::new(flawed).args(args).output().unwrap();
    let mut seeds: Vec<u64> = lines(&sweep)
        .iter()
        .filter(|line| line["type"] == "plan" && line["verdict"] != "held")
        .map(|line| line["seed"].as_u64().unwrap())
        .collect();
    seeds.sort_unstable();
    assert!(!seeds.is_empty(), "no seed shows {name}");
    seeds
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_left_is_at_most_half_as_much_again_as_the_known_minimum() {
    let flawed = flawed();
    let run = |args: &[&str]| Command::new(&flawed).args(args).output().unwrap();
    let mut ratios = Vec::new();
    for (name, least) in FLAWS {
        for seed in failing(&flawed, name).into_iter().take(2) {
            let shrunk = lines(&run(&["shrink", &format!("{name}:{seed}"), "--json"])).remove(0);
            let items = shrunk["ops"].as_u64().unwrap() + shrunk["faults"].as_u64().unwrap();
            let from = shrunk["from"]["ops"].as_u64().unwrap() + shrunk["from"]["faults"].as_u64().unwrap();
            println!("{name}:{seed}  {from} -> {items} items in {} runs", shrunk["shrinking"]["runs"]);
            assert!(items >= least, "{name}:{seed} fails with {items} items: {}", shrunk["plan"]);
            assert_eq!(shrunk["shrinking"]["is_minimal"], true, "{name}:{seed}");
            assert_eq!(shrunk["shrinking"]["is_deterministic"], true, "{name}:{seed}");
            let spare = shrunk["essential"]["dispensable"].as_array().unwrap();
            assert!(
                spare.iter().all(|item| item["op"].is_null() && item["fault"].is_null()),
                "{name}:{seed}: {spare:?}"
            );
            ratios.push(items * 100 / least);
        }
    }
    ratios.sort_unstable();
    let median = ratios[ratios.len() / 2];
    println!("ratios to the minimum in percent: {ratios:?}");
    assert!(median <= 150, "the median is {median} % of the minimum: {ratios:?}");
}

/// How many candidates run at once changes how long it takes, and nothing else.
#[test]
fn the_smallest_plan_does_not_depend_on_how_many_run_at_once() {
    let flawed = flawed();
    let what = format!("recover_twice:{}", failing(&flawed, "recover_twice")[0]);
    let shrunk = |jobs: &str| {
        let args = ["shrink", what.as_str(), "--json", "--jobs", jobs, "--time", "10m"];
        let output = Command::new(&flawed).args(args).output().unwrap();
        let line = lines(&output).remove(0);
        (line["plan"].clone(), line["shrinking"].clone())
    };
    assert_eq!(shrunk("1"), shrunk("4"));
}
