//! The census of the engine: short words of operations hold after every crash, and two censuses are alike.
#![cfg(madsim)]

use std::process::Command;

use serde_json::Value;

fn census(args: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_cutwater")).args(["census", "--json"]).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {}: {text}", output.status);
    let mut summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for time in ["cpu_us", "elapsed_ms"] {
        assert!(summary.as_object_mut().unwrap().remove(time).is_some(), "{summary}");
    }
    summary
}

#[test]
fn every_single_operation_of_the_store_survives_every_crash() {
    let summary = census(&["store", "--mini", "1", "--depth", "2"]);
    let recovered = summary["recovered"].as_u64().unwrap();
    assert!(recovered > 500, "{summary}");
    assert_eq!(summary["recovered"], summary["distinct"], "{summary}");
    assert!(summary["inside_recovery"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary, census(&["store", "--mini", "1", "--depth", "2", "--jobs", "1"]));
}

#[test]
fn the_weaker_file_system_leaves_more() {
    let sets = |personality| {
        let summary = census(&["store", "--mini", "1", "--personality", personality]);
        summary["permissible"].as_u64().unwrap()
    };
    assert!(sets("posix_min") > sets("ext4_ordered"));
}
