//! What the nightly workflow does with the results of its campaigns, with a `gh` that only writes down what it is asked.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A `gh` that appends its arguments and the body it is given to `$LOG`, and knows the issues in `$ISSUES`.
const GH: &str = r#"#!/usr/bin/env bash
printf '%s\n' "== $*" >>"$LOG"
while [ $# -gt 0 ]; do [ "$1" = --body-file ] && cat "$2" >>"$LOG"; [ "$1 $2" = "issue list" ] && cat "$ISSUES"; shift; done
exit 0
"#;

struct Night {
    dir: PathBuf,
}

impl Night {
    fn new(name: &str, issues: &Value) -> Option<Night> {
        for tool in ["bash", "jq"] {
            if Command::new(tool).arg("--version").output().is_err() {
                eprintln!("skipped: there is no {tool}");
                return None;
            }
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("gh"), GH).unwrap();
        std::fs::set_permissions(dir.join("gh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.join("issues.json"), issues.to_string()).unwrap();
        Some(Night { dir })
    }

    /// Files what the summaries say, and returns what `gh` was asked.
    fn file(&self, summaries: &[Value], max_new: &str) -> (Output, String) {
        let mut script = Command::new("bash");
        script.arg(Path::new(ROOT).join(".github/scripts/file-issues.sh"));
        for (i, summary) in summaries.iter().enumerate() {
            let path = self.dir.join(format!("summary-{i}.json"));
            std::fs::write(&path, summary.to_string()).unwrap();
            script.arg(path);
        }
        let path = format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap());
        let log = self.dir.join("log");
        let _ = std::fs::remove_file(&log);
        script.env("PATH", path).env("LOG", &log).env("ISSUES", self.dir.join("issues.json"));
        script.env("MAX_NEW", max_new).env("RUN_URL", "https://example.org/run/7");
        let output = script.output().unwrap();
        (output, std::fs::read_to_string(&log).unwrap_or_default())
    }
}

fn summary(failures: &[(&str, &str, u64)]) -> Value {
    let failures: serde_json::Map<String, Value> = failures
        .iter()
        .map(|(key, text, plans)| {
            let failure =
                json!({ "title": "oracle: property", "text": text, "seeds": [1], "unnamed": plans - 1 });
            ((*key).to_string(), failure)
        })
        .collect();
    json!({ "failures": failures, "divergences": [] })
}

#[test]
fn each_signature_has_one_issue() {
    let issues = json!([
        { "number": 3, "state": "CLOSED", "body": "old\n<!-- cutwater-sig:store-0000000b -->" },
        // Search is by words: what it finds need not be the same signature.
        { "number": 4, "state": "OPEN", "body": "<!-- cutwater-sig:store-0000000bb -->" },
        { "number": 5, "state": "OPEN", "body": "<!-- cutwater-sig:store-0000000c -->" },
    ]);
    let Some(night) = Night::new("one-issue", &issues) else { return };
    let hostile = "FAILURE $(touch /tmp/pwned) `x`\n```\n@everyone <b>";
    let shards = [
        summary(&[("store-0000000a", hostile, 2), ("store-0000000b", "b", 1)]),
        summary(&[("store-0000000a", "the same again", 3), ("store-0000000c", "c", 1)]),
    ];
    let (output, log) = night.file(&shards, "10");
    assert!(output.status.success(), "{output:?}");
    let asked = |what: &str| log.lines().filter(|line| line.starts_with(what)).collect::<Vec<_>>();
    assert_eq!(asked("== issue create").len(), 1, "{log}");
    assert!(asked("== issue create")[0].contains("--title store-0000000a: oracle: property"), "{log}");
    assert_eq!(asked("== issue reopen"), ["== issue reopen 3"], "{log}");
    let comments = asked("== issue comment");
    assert!(
        comments.len() == 2 && comments[0].contains("comment 3") && comments[1].contains("comment 5"),
        "{log}"
    );
    assert!(log.contains("Found in 5 plans."), "both shards count: {log}");
    for line in hostile.lines() {
        assert!(log.contains(&format!("    {line}\n")), "{line:?} is not an indented block:\n{log}");
    }
    assert!(log.contains("<!-- cutwater-sig:store-0000000a -->"));
}

#[test]
fn a_bad_night_does_not_flood_and_a_bad_summary_is_an_error() {
    let Some(night) = Night::new("flood", &json!([])) else { return };
    let keys: Vec<String> = (0..5).map(|i| format!("store-0000000{i}")).collect();
    let failures: Vec<(&str, &str, u64)> = keys.iter().map(|key| (key.as_str(), "x", 1)).collect();
    let (output, log) = night.file(&[summary(&failures)], "2");
    assert!(output.status.success());
    assert_eq!(log.matches("== issue create").count(), 2);
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("has no issue yet").count(), 3);

    let mut divergence = summary(&[("a; rm -rf", "x", 1)]);
    let replay = "cargo cutwater replay store:7 --trace";
    divergence["divergences"] = json!([{
        "scenario": "store", "seed": 7, "digests": ["a", "b"], "told": "one plan, two digests: a and b",
        "replay": replay, "first": null,
    }]);
    let (output, log) = night.file(&[divergence], "2");
    assert!(output.status.success());
    assert!(log.contains("cutwater-sig:store-nondeterminism") && !log.contains("rm -rf"), "{log}");
    assert!(log.contains("two digests: a and b") && log.contains(replay), "{log}");

    let (output, _) = night.file(&[json!({ "nothing": 1 })], "2");
    assert!(!output.status.success(), "a summary that is none is not an empty night");
}

#[test]
fn the_night_is_cut_short_before_its_jobs_are() {
    let text = std::fs::read_to_string(Path::new(ROOT).join(".github/workflows/nightly.yml")).unwrap();
    // GitHub says nothing of a job that it cancels: a step must end before.
    let mut job = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some(minutes) = line.trim().strip_prefix("timeout-minutes: ") else { continue };
        let minutes: u32 = minutes.parse().unwrap();
        match indent {
            4 => job = Some(minutes),
            _ => assert!(minutes < job.unwrap(), "a step of {minutes} minutes in a job of {job:?}"),
        }
    }
    assert!(job.is_some());
    assert!(text.contains("--bin planted "), "the night has a canary");
}
