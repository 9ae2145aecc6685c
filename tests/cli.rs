//! The binary `cutwater` from the outside: what is refused and how, that a plan has one verdict and one digest however it is
//! run, how a sweep is cut into parts, and how it is cut short.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cutwater_sim::Plan;
use serde_json::{Value, json};

const SCENARIOS: [&str; 5] = ["store", "damage", "checkpoint", "restore", "savepoint"];

fn cutwater(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutwater"));
    command.args(args);
    command
}

fn run(args: &[&str]) -> Output {
    cutwater(args).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The lines of a sweep or of a replay, all of which must be JSON.
fn json_lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A run: scenario and seed.
type Run = (String, u64);

/// What must be the same however a plan is run: its id, verdict and digest, and how many events there were.
fn fingerprint(report: &Value) -> [Value; 4] {
    ["plan", "verdict", "digest", "events"].map(|field| {
        assert!(!report[field].is_null(), "no {field} in {report}");
        report[field].clone()
    })
}

/// The fingerprint of each run of a sweep.
fn sweep(more: &[&str]) -> BTreeMap<Run, [Value; 4]> {
    let output = run(&[&["sweep", "--json"], more].concat());
    assert_eq!(status(&output), 0, "{more:?}: {}", stdout(&output));
    let lines = json_lines(&output);
    let (summary, plans) = lines.split_last().expect("a sweep ends with a summary");
    assert_eq!(summary["type"], "summary");
    let fingerprints: BTreeMap<Run, [Value; 4]> = plans
        .iter()
        .map(|line| {
            assert_eq!(line["type"], "plan", "{line}");
            let run = (line["scenario"].as_str().unwrap().to_owned(), line["seed"].as_u64().unwrap());
            (run, fingerprint(line))
        })
        .collect();
    assert_eq!(fingerprints.len(), plans.len(), "a plan was run more than once");
    let counted: u64 = summary["scenarios"]
        .as_object()
        .unwrap()
        .values()
        .map(|tally| tally["plans"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, plans.len() as u64);
    fingerprints
}

/// One plan, in a process of its own.
fn replay(what: &str, more: &[&str]) -> [Value; 4] {
    let output = run(&[&["replay", what, "--json"], more].concat());
    assert_eq!(status(&output), 0, "{what}: {}", stdout(&output));
    let outcome = json_lines(&output).remove(0);
    assert_eq!(outcome["story"].is_array(), more.contains(&"--trace"), "{what} {more:?}");
    fingerprint(&outcome["report"])
}

fn plan(what: &str) -> Value {
    let output = run(&["plan", what]);
    assert_eq!(status(&output), 0, "{what}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every path below `dir`, with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            let content = std::fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

/// A plan as small as one can be; what is made of it stays the same when scenarios draw other plans.
const SMALL_PLAN: &str = r#"{"version":1,"scenario":"store","seed":0,"schedule_seed":1,"key":2,"horizon_us":1000000,
"topology":{"store":1},"knobs":{"block_bytes":512},
"ops":[{"id":0,"at_us":1000,"actor":0,"verb":"put","args":[1,100,1]}],
"faults":[]}"#;

/// Files that are no plans, or not for this binary: name and content.
fn bad_plans() -> Vec<(&'static str, Vec<u8>)> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut plan: Value = serde_json::from_str(SMALL_PLAN).unwrap();
        change(&mut plan);
        serde_json::to_vec(&plan).unwrap()
    };
    let without = |field: &'static str| with(&|plan| drop(plan.as_object_mut().unwrap().remove(field)));
    let fault = |at: Value| {
        let crash = json!({"crash": {"node": 1, "crash": {"kind": "ProcessKill", "down_us": 1000}}});
        with(&|plan| plan["faults"] = json!([{"id": 0, "at": at, "act": crash}]))
    };
    let text = SMALL_PLAN.as_bytes();
    vec![
        ("empty", Vec::new()),
        ("no-text", vec![0xff, 0xfe, 0, 1]),
        ("no-json", b"store:3".to_vec()),
        ("cut-off", text[..150].to_vec()),
        ("nested", [b"{\"version\": 1, \"ops\": ".to_vec(), b"[".repeat(1 << 20)].concat()),
        ("a-list", b"[]".to_vec()),
        ("trailing", [text, b"{}"].concat()),
        ("no-version", without("version")),
        ("newer", with(&|plan| plan["version"] = 2.into())),
        ("older", with(&|plan| plan["version"] = 0.into())),
        ("no-horizon", without("horizon_us")),
        ("field", with(&|plan| plan["surprise"] = 1.into())),
        ("scenario", with(&|plan| plan["scenario"] = "stoer".into())),
        ("verb", with(&|plan| plan["ops"][0]["verb"] = "explode".into())),
        ("arguments", with(&|plan| plan["ops"][0]["args"] = json!([1, 2]))),
        ("argument", with(&|plan| plan["ops"][0]["args"] = json!([99, 100, 1]))),
        ("twice", with(&|plan| plan["ops"] = json!([plan["ops"][0], plan["ops"][0]]))),
        ("knob", with(&|plan| plan["knobs"]["block_bites"] = 512.into())),
        ("knob-range", with(&|plan| plan["knobs"]["block_bytes"] = u64::MAX.into())),
        ("role", with(&|plan| plan["topology"]["stores"] = 1.into())),
        ("crowd", with(&|plan| plan["topology"]["store"] = 1_000_000.into())),
        ("horizon", with(&|plan| plan["horizon_us"] = u64::MAX.into())),
        ("point", fault(json!({"point": {"point": "store.nowhere", "node": 1, "nth": 1}}))),
        ("site", fault(json!({"site": {"site": "disk.eject", "class": "", "node": 1, "nth": 1}}))),
        ("class", fault(json!({"site": {"site": "disk.sync", "class": "tabel", "node": 1, "nth": 1}}))),
        ("node", fault(json!({"point": {"point": "store.checkpoint.linked", "node": 9, "nth": 1}}))),
        ("operation", fault(json!({"op": {"op": 7}}))),
    ]
}

#[test]
fn bad_input_is_refused_in_one_line_and_nothing_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let mut cases: Vec<Vec<String>> = [
        &["sweep", "stoer"][..],
        &["sweep", "store", "stoer"],
        &["sweep", "--seeds", "x"],
        &["sweep", "--seeds", "0"],
        &["sweep", "--seeds", "9..3"],
        &["sweep", "--seeds", "18446744073709551616"],
        &["sweep", "--shard", "0/2"],
        &["sweep", "--shard", "half"],
        &["sweep", "--jobs", "0"],
        &["sweep", "--time", "soon"],
        &["sweep", "--out", "file/results"],
        &["sweep", "--out", "file"],
        &["replay", "stoer:3"],
        &["replay", "store:x"],
        &["replay", "store:-1"],
        &["replay", "nowhere/plan.json"],
        &["replay", "directory/"],
        &["replay", "directory"],
        &["replay", "store"],
        &["shrink", "stoer:3"],
        &["shrink", "store:3", "--time", "soon"],
        &["explain", "nowhere/plan.json"],
        &["regress", "add", "directory", "--story", "x"],
        &["regress", "add", "directory", "--story", ""],
        &["regress", "run", "nowhere"],
        &["regress", "add", "directory"],
        &["replay"],
        &["sweep", "--limit", "x"],
        &["sweep", "--limit", "0"],
        &["sweep", "--check-determinism", "1001"],
        &["census", "store", "--node", "9"],
        &["census", "store", "--personality", "ext4"],
        &["dance"],
        &["plan", "stoer:3"],
        &["plan", "store"],
    ]
    .iter()
    .map(|args| args.iter().map(ToString::to_string).collect())
    .collect();
    std::fs::write(dir.join("file"), "content").unwrap();
    std::fs::create_dir_all(dir.join("directory")).unwrap();
    // The plan that the others are made of is one.
    let (good, plan) = (tempfile::NamedTempFile::new().unwrap(), SMALL_PLAN);
    std::fs::write(good.path(), plan).unwrap();
    replay(good.path().to_str().unwrap(), &[]);
    for (name, content) in bad_plans() {
        std::fs::write(dir.join(format!("{name}.json")), content).unwrap();
        cases.push(vec!["replay".into(), format!("{name}.json")]);
    }
    let before = tree(dir);
    let mut told = String::new();
    for args in &cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = cutwater(&args).current_dir(dir).output().unwrap();
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(status(&output), 2, "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}: {}", stdout(&output));
        let _ = write!(told, "$ cutwater {}\n{stderr}", args.join(" "));
    }
    assert_eq!(tree(dir), before, "something was written");
    insta::assert_snapshot!(told);
}

#[test]
fn what_there_is_can_be_listed() {
    let text = stdout(&run(&["list"]));
    let list: Value = serde_json::from_slice(&run(&["list", "--json"]).stdout).unwrap();
    let names: Vec<&Value> = list["scenarios"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
    assert_eq!(names, SCENARIOS);
    for head in ["Scenarios", "Fault classes", "Points", "Oracles"] {
        assert!(text.lines().any(|line| line.starts_with(head)), "no {head} in\n{text}");
    }
    // What does not fit a line goes on below, further in.
    for line in text.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        assert!(line.split_whitespace().count() >= 3, "without an explanation: {line}");
    }
}

#[test]
fn a_plan_file_is_run_as_its_seed_is_with_and_without_a_trace() {
    let scratch = tempfile::tempdir().unwrap();
    for (scenario, seed) in [("store", 3), ("damage", 4), ("checkpoint", 5), ("restore", 8)] {
        let what = format!("{scenario}:{seed}");
        let path = scratch.path().join(format!("{scenario}.json"));
        let written = run(&["plan", &what]).stdout;
        assert_eq!(Plan::from_json(std::str::from_utf8(&written).unwrap()).unwrap().seed, seed);
        std::fs::write(&path, written).unwrap();
        let path = path.to_str().unwrap();
        let first = replay(&what, &[]);
        for (what, more) in [(&*what, &["--trace"][..]), (path, &[]), (path, &["--trace"])] {
            assert_eq!(replay(what, more), first, "{what} {more:?}");
        }
        let story = |what: &str| stdout(&run(&["replay", what, "--trace"]));
        let told = story(&what);
        assert!(told.contains("00:00:00.") && told.lines().count() > 50, "{told}");
        assert_eq!(told, story(path), "one plan, two stories");
    }
}

/// A sync that was struck just before the world healed once shut its file system down just after it, for ever.
#[test]
fn every_call_of_a_store_may_fail_once() {
    let scratch = tempfile::tempdir().unwrap();
    let output = run(&["errors", "store:3", "--out", scratch.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_plan_decides_by_what_it_says_and_not_by_its_name() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let digest = |name: &str, plan: &Value| {
        std::fs::write(path(name), plan.to_string()).unwrap();
        replay(path(name).to_str().unwrap(), &[])[2].clone()
    };
    let plan = plan("store:3");
    let (mut renamed, mut shorter) = (plan.clone(), plan.clone());
    renamed["seed"] = 4.into();
    shorter["ops"].as_array_mut().unwrap().truncate(5);
    // A fault may be anchored to an operation that is gone.
    shorter["faults"] = serde_json::json!([]);
    let first = digest("plan.json", &plan);
    assert_eq!(digest("renamed.json", &renamed), first);
    assert_ne!(digest("shorter.json", &shorter), first);
}

#[test]
fn one_plan_has_one_digest_in_every_process_order_and_environment() {
    let first = sweep(&["--seeds", "20"]);
    assert_eq!(first.len(), 100);
    let digests: BTreeSet<&str> = first.values().map(|[_, _, digest, _]| digest.as_str().unwrap()).collect();
    assert_eq!(digests.len(), 100, "different plans have different digests");

    let reverse: Vec<&str> = SCENARIOS.into_iter().rev().collect();
    let mut second = sweep(&[&reverse[..], &["--seeds", "10..20", "--jobs", "1"]].concat());
    second.extend(sweep(&[&reverse[..], &["--seeds", "0..10", "--jobs", "3"]].concat()));
    assert_eq!(first, second);

    // A larger environment moves the stack.
    for scenario in SCENARIOS {
        let what = format!("{scenario}:7");
        let mut command = cutwater(&["replay", &what, "--json"]);
        let output = command.current_dir("/").env("PADDING", "x".repeat(5000)).output().unwrap();
        let report = &json_lines(&output)[0]["report"];
        assert_eq!(fingerprint(report), first[&(scenario.to_owned(), 7)], "{what}");
    }
}

#[test]
fn shards_part_the_seeds_of_every_scenario() {
    let whole = sweep(&["--seeds", "5..15"]);
    let mut parts =
        [sweep(&["--seeds", "5..15", "--shard", "1/2"]), sweep(&["--seeds", "5..15", "--shard", "2/2"])];
    for part in &parts {
        assert_eq!(part.len(), whole.len() / 2);
        for scenario in SCENARIOS {
            assert!(part.keys().any(|(name, _)| name == scenario), "a shard has nothing of {scenario}");
        }
    }
    let [one, other] = &mut parts;
    assert!(one.keys().all(|run| !other.contains_key(run)), "two shards share a seed");
    one.append(other);
    assert_eq!(*one, whole);
}

#[test]
fn an_interrupt_ends_a_sweep_with_what_there_is_so_far() {
    // As the terminal does it: the whole group is told.
    let start = |more: &[&str]| {
        let mut command = cutwater(&[&["sweep", "store", "--seeds", "10000000"], more].concat());
        command.process_group(0).stdout(Stdio::piped()).spawn().unwrap()
    };
    let interrupt = |group: u32| {
        assert!(Command::new("kill").args(["-INT", "--", &format!("-{group}")]).status().unwrap().success());
    };
    let mut sweep = start(&["--json"]);
    let mut lines = BufReader::new(sweep.stdout.take().unwrap());
    let (mut first, mut rest) = (String::new(), String::new());
    for _ in 0..5 {
        lines.read_line(&mut first).unwrap();
    }
    interrupt(sweep.id());
    lines.read_to_string(&mut rest).unwrap();
    let text = first + &rest;
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["interrupted"], true);
    assert_eq!(summary["scenarios"]["store"]["plans"], text.lines().count() - 1);
    assert_eq!(summary["scenarios"]["store"]["violated"], 0, "{text}");
    assert_eq!(sweep.wait().unwrap().code(), Some(130));

    let sweep = start(&[]);
    // Long enough for some plans, a moment in ten million.
    assert!(Command::new("sleep").arg("1").status().unwrap().success());
    interrupt(sweep.id());
    let output = sweep.wait_with_output().unwrap();
    let table = stdout(&output);
    assert_eq!(status(&output), 130, "{table}");
    let parts = [
        "scenario ",
        "store ",
        "fault class",
        "points passed: ",
        "all held in ",
        "\ninterrupted: these results are partial",
    ];
    for part in parts {
        assert!(table.contains(part), "no {part:?} in\n{table}");
    }
}
