//! The census from the outside: that it finds what a crash can break, says so as a plan, leaves alone what is right, and
//! disturbs nothing.
//!
//! The program is `examples/toy.rs`: a server with a log, and the same server without its sync.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The program of the example, built as this test was.
fn toy() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let mut build = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    build.args(["build", "--quiet", "--package", "cutwater-sim", "--example", "toy", "--target-dir"]);
    build.arg(profile.parent().unwrap());
    build.args(profile.ends_with("release").then_some("--release"));
    assert!(build.status().unwrap().success(), "{build:?}");
    profile.join("examples/toy")
}

fn run(args: &[&str]) -> Output {
    Command::new(toy()).args(args).output().unwrap()
}

fn census(args: &[&str], status: i32) -> Vec<Value> {
    let output = run(&[&["census", "--json"], args].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A report without what it took.
fn without_times(mut lines: Vec<Value>) -> Vec<Value> {
    for line in &mut lines {
        if let Some(line) = line.as_object_mut() {
            line.remove("cpu_us");
            line.remove("elapsed_ms");
        }
    }
    lines
}

#[test]
fn a_log_that_syncs_holds_at_every_moment() {
    let lines = census(&["log:3", "--depth", "2"], 0);
    let [summary] = &lines[..] else { panic!("{lines:?}") };
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"));
    assert_eq!(summary["type"], "summary");
    assert_eq!(number("recovered"), number("distinct"));
    assert!(number("recovered") > 20, "{summary}");
    assert!(number("inside_recovery") > 0, "{summary}");
    assert!(number("boundaries") > number("moments"), "most calls change nothing: {summary}");
    assert!(number("permissible") >= number("images") - number("moments"), "{summary}");
}

#[test]
fn what_is_not_synced_is_found_and_told_as_a_plan_that_fails_alike() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("census");
    let _ = std::fs::remove_dir_all(&dir);
    let lines = census(&["log_unsynced", "--out", dir.to_str().unwrap()], 1);
    let violation =
        lines.iter().find(|line| line["property"] == "an acknowledged value is in the log (value)");
    let violation = violation.unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(
        (&violation["reproduced"], &violation["undisturbed"]),
        (&true.into(), &false.into()),
        "{violation}"
    );
    let signature = violation["signature"].as_str().unwrap();
    let plan = dir.join(format!("failures/census-{signature}/plan.json"));
    let told = run(&["census", "log_unsynced", "--out", dir.to_str().unwrap()]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains(&format!("toy replay {} --trace", plan.display())),
        "the line to copy works: {told}"
    );
    // Without a directory the plan is told: its last operations, on lines that fit.
    let told = String::from_utf8(run(&["census", "log_unsynced"]).stdout).unwrap();
    assert!(told.contains("operations: append, append"), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    let replay = run(&["replay", plan.to_str().unwrap()]);
    let text = String::from_utf8(replay.stdout).unwrap();
    assert_eq!(replay.status.code(), Some(1), "{text}");
    assert!(text.contains(signature), "{text}");
    let faults = violation["plan"]["faults"].as_array().unwrap();
    assert_eq!(faults.last().unwrap()["act"]["crash"]["node"], 1);
    assert_eq!(lines.last().unwrap()["violations"].as_array().unwrap().len() + 1, lines.len());
}

#[test]
fn two_censuses_are_alike_whatever_runs_beside_what() {
    for args in [&["log:7", "--depth", "2"][..], &["log_unsynced"]] {
        let status = i32::from(args[0] == "log_unsynced");
        let one = without_times(census(&[args, &["--jobs", "2"]].concat(), status));
        let other = without_times(census(&[args, &["--jobs", "3"]].concat(), status));
        assert_eq!(one, other);
    }
}

#[test]
fn the_run_itself_is_not_disturbed() {
    let replay = run(&["replay", "log:5", "--json"]);
    let replay: Value = serde_json::from_slice(&replay.stdout).unwrap();
    let summary = census(&["log:5"], 0).pop().unwrap();
    assert!(!summary["golden"].is_null(), "{summary}");
    assert_eq!(summary["golden"], replay["report"]["digest"]);
}

#[test]
fn bad_usage_is_one_line() {
    for (args, says) in [
        (&["nothing"][..], "unknown scenario `nothing`"),
        (&["log:x"], "is not a seed"),
        (&["log", "--jobs", "0"], "--jobs 0"),
        (&["log", "--personality", "xfs"], "--personality xfs: log has no choice of file systems"),
        (&["log", "--node", "9"], "--node 9: no plan of log has so many nodes"),
        (&["log:1", "--node", "9"], "--node 9: no plan of log:1 has so many nodes"),
        (&["log", "--mini", "2"], "no mini workload"),
        (&["log:1", "--mini", "2"], "not through a seed"),
    ] {
        let output = run(&[&["census"], args].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{said}");
    }
}
