//! Looking for trouble on purpose, from the outside: fuzzing with and without a corpus, schedules, the sweep of errors, the matrix,
//! and what a CI system is told. The programs are those of `cli.rs`.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{example, plans, run, scratch, status, stdout};
use serde_json::Value;

fn summary(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("summary.json")).unwrap()).unwrap()
}

fn files(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_guided_fuzz_keeps_a_corpus_and_never_stops_at_a_failure() {
    let dir = scratch("guided");
    let [out, corpus] = ["out", "corpus"].map(|name| dir.join(name).to_str().unwrap().to_string());
    let fuzz = |seed: &str| {
        let args = ["fuzz", "log_unsynced", "--time", "4s", "--strategy", "guided", "--seed", seed];
        run("toy", &[&args[..], &["--corpus", &corpus, "--out", &out, "--json"]].concat())
    };
    let first = fuzz("20260131");
    assert_eq!(status(&first), 1, "{}", stdout(&first));
    let reports = plans(&first);
    let fresh: Vec<&Value> = reports.iter().filter(|r| r["named_by_seed"] == true).collect();
    assert!(fresh.iter().any(|r| r["seed"] == 20_260_131_000_000_u64), "the night's first seed is its own");
    assert!(fresh.len() < reports.len(), "no mutant among {} plans", reports.len());
    assert!(reports.iter().all(|r| r["coverage"].is_null()), "what only the search asks for is not printed");
    let failed = reports.iter().filter(|r| r["verdict"] != "held").count();
    assert!(failed > 1, "it stopped at the first failure");

    let summary = summary(Path::new(&out));
    let failures = summary["failures"].as_object().unwrap();
    let counted: u64 = failures
        .values()
        .map(|f| f["seeds"].as_array().unwrap().len() as u64 + f["unnamed"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, failed as u64, "each failure is counted under its signature");
    for (key, failure) in failures {
        let plan = Path::new(&out).join("capsules").join(key).join("plan.json");
        let replay = run("toy", &["replay", plan.to_str().unwrap(), "--json"]);
        assert_eq!(status(&replay), 1, "{key}");
        let replayed: Value = serde_json::from_str(&stdout(&replay)).unwrap();
        assert_eq!(
            replayed["report"]["verdict"]["violated"]["oracle"],
            failure["first"]["verdict"]["violated"]["oracle"]
        );
    }

    let kept = files(Path::new(&corpus));
    assert!(kept.len() > 3 && kept.iter().all(|name| name.starts_with("log_unsynced-")), "{kept:?}");
    // What was kept is run before anything else; plans end in any order, so the first few may not be the very first.
    let second = plans(&fuzz("20260201"));
    let resumed: BTreeSet<String> = second
        .iter()
        .take(kept.len() + 8)
        .map(|r| format!("log_unsynced-{}.json", r["plan"].as_str().unwrap()))
        .collect();
    assert!(kept.is_subset(&resumed), "not resumed: {:?}", kept.difference(&resumed));
}

#[test]
fn a_corpus_is_listed_merged_and_cut_down() {
    let dir = scratch("corpus");
    let [one, other] = ["one", "other"].map(|name| dir.join(name));
    std::fs::create_dir_all(&one).unwrap();
    for seed in 0..8 {
        let plan = run("toy", &["plan", &format!("log:{seed}")]).stdout;
        std::fs::write(one.join(format!("log-{seed}.json")), plan).unwrap();
    }
    std::fs::write(one.join("log-old.json"), "{\"version\": 0}").unwrap();
    let [one_dir, other_dir] = [&one, &other].map(|dir| dir.to_str().unwrap());
    let list = run("toy", &["corpus", "list", one_dir]);
    assert_eq!(status(&list), 0);
    assert_eq!(stdout(&list).lines().count(), 10, "{}", stdout(&list));

    let merged = run("toy", &["corpus", "merge", other_dir, one_dir]);
    assert_eq!(status(&merged), 0, "{}", stdout(&merged));
    assert!(stdout(&merged).contains(" plans added of 8, 0 fail"), "{}", stdout(&merged));
    let names_the_old_one = |output: &std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("log-old.json: left out: plan of version 0"), "{said}");
    };
    names_the_old_one(&merged);
    let chosen = files(&other);
    assert!((1..=8).contains(&chosen.len()), "{chosen:?}");
    let again = run("toy", &["corpus", "merge", other_dir, one_dir]);
    assert!(
        stdout(&again).starts_with("0 plans added"),
        "nothing is new the second time: {}",
        stdout(&again)
    );

    let twin = std::fs::read(one.join("log-0.json")).unwrap();
    std::fs::write(one.join("log-twin.json"), twin).unwrap();
    let min = run("toy", &["corpus", "min", one_dir]);
    assert_eq!(status(&min), 0);
    names_the_old_one(&min);
    let left = files(&one);
    let removed = 10 - left.len();
    assert_eq!(stdout(&min), format!("{} plans, {removed} removed\n", 9 - removed), "the old one is no plan");
    assert!(left.contains("log-old.json"));
    assert!(!left.contains("log-twin.json") || !left.contains("log-0.json"), "{left:?}");
    assert!(!left.is_empty());
}

#[test]
fn a_plan_is_run_under_several_schedules() {
    let dir = scratch("schedules");
    let args = ["sweep", "log", "--seeds", "5", "--schedules", "3", "--json", "--check-determinism", "1000"];
    let refused = run("toy", &args);
    assert_eq!(status(&refused), 2, "no seed names the plans of other schedules");
    let output = run("toy", &[&args[..], &["--out", dir.to_str().unwrap()]].concat());
    assert_eq!(status(&output), 0, "{}", stdout(&output));
    let reports = plans(&output);
    assert_eq!(reports.len(), 15);
    let of_seed = |seed: u64, named: bool| {
        reports.iter().filter(|r| r["seed"] == seed && r["named_by_seed"] == named).count()
    };
    assert!((0..5).all(|seed| of_seed(seed, true) == 1 && of_seed(seed, false) == 2));
    assert_eq!(reports.iter().map(|r| r["plan"].to_string()).collect::<BTreeSet<_>>().len(), 15);
    assert_eq!(summary(&dir)["run_twice"], 15);
}

#[test]
fn every_call_site_fails_once_in_every_way() {
    let dir = scratch("errors");
    let out = dir.to_str().unwrap();
    let output = run("toy", &["errors", "log:3", "--json", "--out", out]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status(&output), 0, "{stderr}{}", stdout(&output));
    let reports = plans(&output);
    assert!(reports.len() > 10, "{stderr}");
    for report in &reports {
        let (mut armed, mut delivered) = (0, 0);
        for receipt in report["receipts"].as_object().unwrap().values() {
            armed += receipt["armed"].as_u64().unwrap();
            delivered += receipt["delivered"].as_u64().unwrap();
        }
        assert_eq!((armed, delivered), (1, 1), "one fault, and it strikes: {report}");
    }
    let says = format!("{0} of {0} plans run, {0} struck, 0 failed", reports.len());
    assert!(stderr.contains(&says), "{stderr}");
    assert_eq!(summary(&dir)["scenarios"]["log"]["void"], serde_json::json!([]), "demands are for campaigns");
    assert!(
        summary(&dir)["run_twice"].as_u64().unwrap() >= 1,
        "its plans have one seed, and some are run twice"
    );
}

#[test]
fn the_matrix_names_its_empty_cells() {
    let output = run("toy", &["sweep", "log", "--seeds", "2", "--json"]);
    let summary: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    let tally = &summary["scenarios"]["log"];
    let list: Value = serde_json::from_str(&stdout(&run("toy", &["list", "--json"]))).unwrap();
    let (classes, points) =
        (list["scenarios"][0]["faults"].as_array().unwrap(), list["points"].as_array().unwrap());
    for class in classes {
        let met = tally["matrix"][class.as_str().unwrap()].as_object().map_or(0, serde_json::Map::len);
        let unmet = tally["unmet"][class.as_str().unwrap()].as_array().map_or(0, Vec::len);
        assert_eq!(met + unmet, points.len(), "{class}: {tally}");
    }
    let table = stdout(&run("toy", &["sweep", "log", "--seeds", "2", "--matrix"]));
    assert!(table.contains("log: faults met points in ") && table.contains(" never met "), "{table}");
}

#[test]
fn github_is_told_in_its_own_words() {
    let dir = scratch("github");
    let step = dir.join("step.md");
    let mut sweep = Command::new(example("toy"));
    sweep.args(["sweep", "log_unsynced", "--seeds", "30", "--annotate", "github"]);
    let output = sweep.env("GITHUB_STEP_SUMMARY", &step).output().unwrap();
    assert_eq!(status(&output), 1);
    let text = stdout(&output);
    let annotations: Vec<&str> = text.lines().filter(|line| line.starts_with("::error ")).collect();
    assert_eq!(annotations.len(), 1, "one for each signature, in one line: {text}");
    assert!(annotations[0].contains("title=") && annotations[0].contains("durability"), "{annotations:?}");
    let step = std::fs::read_to_string(step).unwrap();
    assert!(
        step.contains("| log_unsynced | 30 |") && step.contains("toy replay log_unsynced:"),
        "the line to copy names the program that ran: {step}"
    );
}

#[test]
fn bad_input_is_one_line() {
    let cases: &[(&[&str], &str)] = &[
        (&["fuzz", "lag"], "unknown scenario `lag`"),
        (&["fuzz", "--time", "soon"], "--time soon"),
        (&["fuzz", "log", "--corpus", "/proc/nowhere"], "--corpus /proc/nowhere"),
        (&["errors", "lag"], "unknown scenario `lag`"),
        (&["errors", "log:x"], "`x` in `log:x` is not a seed"),
        (&["corpus", "list", "/nonexistent"], "/nonexistent: No such file"),
        (&["corpus", "merge", "/proc/nowhere", "/nonexistent"], "/proc/nowhere"),
    ];
    for (args, says) in cases {
        let output = run("toy", args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), 2, "{args:?}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    for args in
        [["fuzz", "--strategy", "lucky"], ["sweep", "--annotate", "smoke"], ["sweep", "--schedules", "0"]]
    {
        assert_eq!(status(&run("toy", &args)), 2, "{args:?}");
    }
}
