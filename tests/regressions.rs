//! Failures that were mended, kept in tests/regressions: each must hold, and still reach what it reached when it failed.
//! (The seeds of a scenario begin with its regressions, too; see tests/seeds.rs.)
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/regressions");

#[test]
fn what_was_mended_stays_mended() {
    cutwater_sim::testing::check_regressions(Path::new(env!("CARGO_BIN_EXE_cutwater")), Path::new(KEPT));
}

/// A regression that proves nothing any more is a failure that says so, never green.
#[test]
fn what_is_stale_is_told_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let first = std::fs::read_dir(Path::new(KEPT).join("store")).unwrap().next().unwrap().unwrap();
    let good: Value = serde_json::from_slice(&std::fs::read(first.path()).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut regression = good.clone();
        change(&mut regression);
        regression.to_string()
    };
    let cases = [
        ("unread", "{\"regression\": 1, ".to_string(), "not a regression"),
        (
            "newer",
            with(&|r| r["regression"] = 2.into()),
            "regression of version 2; this build reads version 1",
        ),
        ("knob", with(&|r| r["plan"]["knobs"]["nobody"] = 1.into()), "stale: the plan is none any more"),
        ("scenario", with(&|r| r["plan"]["scenario"] = "stoer".into()), "unknown scenario `stoer`"),
        (
            "idle",
            with(&|r| r["plan"]["faults"] = Value::Array(vec![])),
            "mended: it must hold and reach what it did; stale: it holds, and no longer reaches",
        ),
        ("open", with(&|r| r["mended"] = false.into()), "; it holds now"),
    ];
    for (name, text, says) in cases {
        let file = scratch.path().join(format!("{name}.json"));
        std::fs::write(&file, text).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_cutwater")).args(["regress", "run"]).arg(&file).output();
        let output = output.unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        // A long line goes on below.
        let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.starts_with("BROKEN ") && words.contains(name) && words.contains(says),
            "{name}: {told}"
        );
    }
}
