//! What a result owns up to: faults that never struck, a condition that must not hold, a campaign of nothing, plans that were run
//! twice, a budget that ended. The programs are those of `cli.rs`.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

mod common;

use common::{plans, run, scratch, status, stdout};
use serde_json::{Value, json};

/// The line of `--json` that ends a campaign.
fn summary(args: &[&str]) -> Value {
    let output = run("faulty", &[args, &["--json"]].concat());
    assert_eq!(status(&output), 0, "{args:?}: {}", stdout(&output));
    serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap()
}

#[test]
fn a_fault_that_never_struck_is_told_though_all_held() {
    let dir = scratch("never-struck");
    let path = dir.join("plan.json");
    let crash = json!({ "crash": { "node": 0, "crash": { "kind": "ProcessKill", "down_us": 0 } } });
    let at = |nth: u64| json!({ "site": { "site": "disk.write", "class": "", "node": 1, "nth": nth } });
    let replay = |nths: &[u64], more: &[&str]| {
        let mut plan: Value = serde_json::from_str(&stdout(&run("toy", &["plan", "log:5"]))).unwrap();
        let faults =
            nths.iter().enumerate().map(|(id, nth)| json!({ "id": id, "at": at(*nth), "act": crash }));
        plan["faults"] = faults.collect();
        std::fs::write(&path, plan.to_string()).unwrap();
        let output = run("toy", &[&["replay", path.to_str().unwrap()], more].concat());
        assert_eq!(status(&output), 0, "{output:?}");
        stdout(&output)
    };
    let said = replay(&[1, 4_000_000], &[]);
    let tail =
        "faults 2, struck 1; never struck:\n  fault 1   the process is killed at disk.write #4000000 of n1\n";
    assert!(said.starts_with("held ") && said.ends_with(tail), "{said}");
    let outcome: Value = serde_json::from_str(&replay(&[1, 4_000_000], &["--json"])).unwrap();
    assert_eq!(outcome["never_struck"], json!([1]));
    assert!(!replay(&[1], &[]).contains("never struck"));
    let many: Vec<u64> = (5_000_000..5_000_020).collect();
    let said = replay(&many, &[]);
    assert!(said.contains("faults 20, struck 0") && said.ends_with("  ... and 12 more\n"), "{said}");
}

#[test]
fn what_must_never_hold_fails_a_run_and_is_not_missed_elsewhere() {
    let breaks = run("faulty", &["sweep", "breaks", "--seeds", "30", "--no-shrink"]);
    let said = stdout(&breaks);
    assert_eq!(status(&breaks), 1, "{said}");
    assert!(said.contains("points: never: a node that breaks was started again (faulty.broken)"), "{said}");
    assert!(said.contains("must never hold, and did: faulty.broken"), "{said}");
    let found = plans(&run("faulty", &["sweep", "breaks", "--seeds", "30", "--json", "--no-shrink"]));
    let first = found.iter().find(|plan| plan["verdict"] != "held").unwrap();
    let story = stdout(&run("faulty", &["replay", &format!("breaks:{}", first["seed"]), "--trace"]));
    assert!(story.contains("never          faulty.broken: a node that breaks was started again"), "{story}");

    let healthy = stdout(&run("faulty", &["sweep", "healthy", "--seeds", "30"]));
    assert!(healthy.contains("all held") && !healthy.contains("faulty.broken"), "{healthy}");
    let unseen = &summary(&["sweep", "healthy", "--seeds", "30"])["scenarios"]["healthy"]["unseen"];
    assert_eq!(*unseen, json!(["faulty.never"]));
}

#[test]
fn each_part_of_a_campaign_runs_some_plans_twice() {
    let twice = |args: &[&str]| {
        summary(&[&["sweep", "healthy", "flickers"], args].concat())["run_twice"].as_u64().unwrap()
    };
    let mut drawn = 0;
    for shard in ["1/4", "2/4", "3/4", "4/4"] {
        let of_shard = |seeds| twice(&["--seeds", seeds, "--shard", shard]);
        assert!((2..=4).contains(&of_shard("4")), "the first plan of each scenario");
        drawn += of_shard("400") - 2;
        assert_eq!(twice(&["--seeds", "40", "--shard", shard, "--check-determinism", "0"]), 0);
        assert_eq!(twice(&["--seeds", "40", "--shard", shard, "--check-determinism", "1000"]), 20);
    }
    // Of 800 plans about 16.
    assert!((6..=30).contains(&drawn), "{drawn}");
}

#[test]
fn a_campaign_of_no_plans_is_void_wherever_it_is_told() {
    let dir = scratch("void");
    let sweep = run("faulty", &["sweep", "healthy", "--time", "0s", "--out", dir.to_str().unwrap()]);
    assert_eq!(status(&sweep), 3, "{}", stdout(&sweep));
    assert!(stdout(&sweep).contains("void: no plan was run"), "{}", stdout(&sweep));
    let junit = std::fs::read_to_string(dir.join("junit.xml")).unwrap();
    assert!(junit.contains("failures=\"1\"") && junit.contains("void: no plan was run"), "{junit}");
}

#[test]
fn a_directory_without_regressions_is_not_green() {
    let dir = scratch("no-regressions");
    std::fs::write(dir.join("notes.txt"), "mine").unwrap();
    for path in [dir.to_str().unwrap(), "/nonexistent"] {
        let output = run("toy", &["regress", "run", path]);
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((status(&output), said.lines().count()), (2, 1), "{said}");
        assert!(said.contains(path) && output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn shrinking_tries_no_more_plans_than_it_may() {
    let found = plans(&run("toy", &["sweep", "log_unsynced", "--seeds", "30", "--json", "--no-shrink"]));
    let first = found.iter().find(|plan| plan["verdict"] != "held").unwrap();
    let what = format!("log_unsynced:{}", first["seed"]);
    for runs in [1, 5] {
        let shrink = run("toy", &["shrink", &what, "--runs", &runs.to_string(), "--json"]);
        let shrunk: Value = serde_json::from_str(&stdout(&shrink)).unwrap();
        let shrinking = &shrunk["shrinking"];
        assert_eq!((&shrinking["runs"], &shrinking["is_minimal"]), (&json!(runs), &json!(false)));
        assert_eq!(shrinking["interrupted"], false);
    }
    let none = run("toy", &["shrink", &what, "--runs", "0"]);
    let said = String::from_utf8(none.stderr.clone()).unwrap();
    assert_eq!((status(&none), said.lines().count()), (2, 1), "{said}");
    assert!(said.contains("'0' for '--runs <N>'"), "{said}");
}
