//! The command line from the outside: exit statuses, what is printed, what is written, that a plan replays.
//!
//! The program is `examples/toy.rs` (a real small system on the simulated devices) or `examples/faulty.rs` (a scenario for
//! each way in which a run can end).
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use common::{example, plans, run, scratch, status, stdout};
use serde_json::Value;

/// Seed to digest.
fn digests(output: &Output) -> BTreeMap<u64, String> {
    let of = |p: &Value| (p["seed"].as_u64().unwrap(), p["digest"].as_str().unwrap().to_string());
    plans(output).iter().map(of).collect()
}

#[test]
fn a_missing_sync_is_found_and_every_failure_replays() {
    let sweep = run("toy", &["sweep", "log_unsynced", "--seeds", "60", "--json"]);
    assert_eq!(status(&sweep), 1, "{}", stdout(&sweep));
    let failing: Vec<Value> = plans(&sweep).into_iter().filter(|p| p["verdict"] != "held").collect();
    assert!(failing.len() > 5, "only {} of 60 seeds show that the sync is missing", failing.len());
    for report in failing.iter().take(3) {
        assert_eq!(report["verdict"]["violated"]["oracle"], "durability");
        let what = format!("log_unsynced:{}", report["seed"]);
        for trace in [false, true] {
            let mut args = vec!["replay", &what, "--json"];
            args.extend(trace.then_some("--trace"));
            let replay = run("toy", &args);
            assert_eq!(status(&replay), 1);
            let outcome: Value = serde_json::from_str(&stdout(&replay)).unwrap();
            assert_eq!(outcome["report"]["digest"], report["digest"], "{what} with trace: {trace}");
            assert_eq!(outcome["report"]["verdict"], report["verdict"]);
            assert_eq!(outcome["story"].is_array(), trace);
        }
    }
}

#[test]
fn a_right_server_holds_and_its_digests_depend_on_the_plan_alone() {
    let all = run("toy", &["sweep", "log", "--seeds", "60", "--json", "--check-determinism", "1000"]);
    assert_eq!(status(&all), 0, "{}", stdout(&all));
    let one_by_one = run("toy", &["sweep", "log", "--seeds", "20..60", "--json", "--jobs", "1"]);
    let (all, some) = (digests(&all), digests(&one_by_one));
    assert_eq!(some.len(), 40);
    assert!(some.iter().all(|(seed, digest)| all[seed] == *digest));
    assert_eq!(all.values().collect::<BTreeSet<_>>().len(), 60, "different plans have different digests");
}

#[test]
fn a_plan_file_is_run_like_its_seed() {
    let dir = scratch("plan-file");
    let path = dir.join("plan.json");
    std::fs::write(&path, run("toy", &["plan", "log:5"]).stdout).unwrap();
    let digest = |what: &str| {
        let replay = run("toy", &["replay", what, "--json"]);
        assert_eq!(status(&replay), 0);
        serde_json::from_str::<Value>(&stdout(&replay)).unwrap()["report"]["digest"].clone()
    };
    assert_eq!(digest("log:5"), digest(path.to_str().unwrap()));
}

#[test]
fn a_story_has_times_nodes_and_a_panic() {
    let sweep = run("faulty", &["sweep", "panics", "--seeds", "30", "--json"]);
    let failing = plans(&sweep).into_iter().find(|p| p["verdict"] != "held").expect("a seed that panics");
    let replay = run("faulty", &["replay", &format!("panics:{}", failing["seed"]), "--trace"]);
    let story = stdout(&replay);
    assert_eq!(status(&replay), 1);
    for part in [
        "n0 is the harness, n1 ticker-0",
        "00:00:00.",
        "node.start",
        "crash",
        "panic          a second start",
    ] {
        assert!(story.contains(part), "no {part:?} in\n{story}");
    }
}

#[test]
fn every_way_to_end_has_its_status() {
    let cases: &[(&str, &[&str], i32, &str)] = &[
        ("healthy", &[], 0, "all held"),
        ("violates", &[], 1, "ticking: no node dies (node)"),
        ("panics", &[], 1, "a second start"),
        ("aborts", &[], 1, "signal 6"),
        ("hangs", &["--limit", "1", "--no-shrink"], 1, "a report within 1 s"),
        ("stalls", &[], 1, "liveness: every node ticks after heal"),
        ("drifts", &["--check-determinism", "1000"], 4, "one plan, two digests"),
        ("flickers", &[], 0, "all held"),
        ("blind", &[], 3, "point faulty.never never passed"),
    ];
    for (scenario, more, expected, says) in cases {
        let seeds = if *scenario == "hangs" { "6" } else { "30" };
        let mut args = vec!["sweep", scenario, "--seeds", seeds];
        args.extend(*more);
        let output = run("faulty", &args);
        assert_eq!(status(&output), *expected, "{scenario}: {}", stdout(&output));
        assert!(stdout(&output).contains(says), "{scenario}: {}", stdout(&output));
    }
}

#[test]
fn non_determinism_is_shown_from_both_sides() {
    let output = run("faulty", &["sweep", "drifts", "--seeds", "2", "--check-determinism", "1000"]);
    let text = stdout(&output);
    let side = |name: &str| {
        text.lines().find(|line| line.trim().starts_with(name)).unwrap_or_else(|| panic!("{text}"))
    };
    assert!(side("one run").contains("outside"), "{text}");
    assert!(side("the other").contains("outside"), "{text}");
}

#[test]
fn bad_input_is_one_line_and_nothing_is_written() {
    let dir = scratch("bad-input");
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let plan = stdout(&run("toy", &["plan", "log:1"]));
    let malformed = file("malformed.json", "{\"version\": 1, ");
    let newer = file("newer.json", &plan.replacen("\"version\": 1", "\"version\": 2", 1));
    let unknown = file("unknown.json", &plan.replacen("\"scenario\": \"log\"", "\"scenario\": \"lag\"", 1));
    let below = format!("{malformed}/out");
    let empty = dir.join("empty").to_str().unwrap().to_string();
    std::fs::create_dir(&empty).unwrap();
    let before = std::fs::read_dir(&dir).unwrap().count();
    let cases: &[(&[&str], &str)] = &[
        (&["sweep", "lag"], "unknown scenario `lag` (there are log, log_unsynced)"),
        (&["replay", "lag:1"], "unknown scenario `lag`"),
        (&["replay", "log"], "`log` is a scenario; name a plan of it by a seed, as in log:0"),
        (&["shrink", "log"], "`log` is a scenario; name a plan of it by a seed, as in log:0"),
        (
            &["replay", &empty],
            "empty: a directory that is no capsule (a capsule holds plan.min.json or plan.json)",
        ),
        (&["explain", &empty], "empty: a directory that is no capsule"),
        (&["replay", "log:x"], "`x` in `log:x` is not a seed"),
        (&["replay", "/nonexistent/plan.json"], "/nonexistent/plan.json: No such file"),
        (&["replay", &malformed], "not a plan: EOF while parsing"),
        (&["replay", &newer], "plan of version 2; this build reads version 1"),
        (&["replay", &unknown], "unknown scenario `lag`"),
        (&["sweep", "--out", &below], "Not a directory"),
        (&["sweep", "--seeds", "0"], "--seeds 0"),
        (&["sweep", "--shard", "3/2"], "--shard 3/2"),
        (&["sweep", "--time", "soon"], "--time soon"),
        (&["sweep", "--jobs", "0"], "--jobs 0"),
        (&["shrink", "log:1", "--time", "soon"], "--time soon"),
        (&["shrink", "log:1", "--jobs", "0"], "--jobs 0"),
        (&["shrink", "lag:1"], "unknown scenario `lag`"),
        (&["explain", &newer], "plan of version 2; this build reads version 1"),
        (&["regress", "add", &malformed, "--story", "x"], "no capsule"),
        (&["regress", "run", "/nonexistent"], "/nonexistent: No such file"),
        (&["dance"], "unrecognized subcommand 'dance' (see --help)"),
        (&["replay"], "the following required arguments were not provided: <SCENARIO:SEED|PATH>"),
        (&["sweep", "--seeds"], "a value is required for '--seeds <N|A..B>'"),
        (&["sweep", "--limit", "x"], "invalid value 'x' for '--limit <SECONDS>'"),
        (
            &["sweep", "--check-determinism", "1001"],
            "invalid value '1001' for '--check-determinism <PERMILLE>'",
        ),
    ];
    for (args, says) in cases {
        let output = run("toy", args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), 2, "{args:?}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), before);
}

#[test]
fn no_plan_has_no_time_at_all() {
    let verbs: [&[&str]; 8] = [
        &["sweep"],
        &["fuzz"],
        &["errors", "log"],
        &["census", "log"],
        &["replay", "log:1"],
        &["shrink", "log:1"],
        &["explain", "log:1"],
        &["regress", "run"],
    ];
    for verb in verbs {
        let output = run("toy", &[verb, &["--limit", "0"]].concat());
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((status(&output), said.lines().count()), (2, 1), "{said}");
        assert!(
            said.contains("'0' for '--limit <SECONDS>': not a number of seconds from 1 to 86400"),
            "{said}"
        );
    }
}

#[test]
fn shards_share_the_seeds() {
    let seeds = |shard: &str| -> BTreeSet<u64> {
        let output = run("faulty", &["sweep", "healthy", "--seeds", "20..50", "--shard", shard, "--json"]);
        digests(&output).into_keys().collect()
    };
    let parts = [seeds("1/3"), seeds("2/3"), seeds("3/3")];
    assert_eq!(parts.iter().map(BTreeSet::len).collect::<Vec<_>>(), [10, 10, 10]);
    assert_eq!(parts.into_iter().flatten().collect::<BTreeSet<_>>(), (20..50).collect());
}

#[test]
fn seeds_are_the_first_so_many_or_a_range_without_its_end() {
    let seeds = |text: &str| -> Vec<u64> {
        let output = run("faulty", &["sweep", "healthy", "--seeds", text, "--json"]);
        assert_eq!(status(&output), 0, "{text}");
        digests(&output).into_keys().collect()
    };
    assert_eq!(seeds("3"), [0, 1, 2]);
    assert_eq!(seeds("4..7"), [4, 5, 6]);
    assert_eq!(seeds("18446744073709551613..18446744073709551615"), [u64::MAX - 2, u64::MAX - 1]);
    for bad in ["0", "4..4", "7..4", "4..", "..7", "4..=7", "4-7"] {
        let output = run("faulty", &["sweep", "healthy", "--seeds", bad]);
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((status(&output), said.lines().count()), (2, 1), "{bad}: {said}");
        assert!(said.contains(&format!("--seeds {bad}: neither a number above 0 nor A..B")), "{said}");
    }
    let help = stdout(&run("faulty", &["sweep", "--help"]));
    let help: Vec<&str> = help.split_whitespace().collect();
    assert!(help.join(" ").contains(
        "--seeds <N|A..B> Which seeds of each scenario: N for the first N, 0 to N-1; A..B for A to B-1"
    ));
}

#[test]
fn results_are_left_in_a_directory_and_a_kept_plan_fails_the_same_way() {
    let dir = scratch("results");
    let out = run("toy", &["sweep", "log_unsynced", "--seeds", "30", "--out", dir.to_str().unwrap()]);
    assert_eq!(status(&out), 1);
    let summary: Value = serde_json::from_slice(&std::fs::read(dir.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["scenarios"]["log_unsynced"]["plans"], 30);
    let junit = String::from_utf8(std::fs::read(dir.join("junit.xml")).unwrap()).unwrap();
    assert!(junit.contains("<failure") && junit.contains("examples/toy replay log_unsynced:"), "{junit}");
    let capsule = std::fs::read_dir(dir.join("capsules")).unwrap().next().unwrap().unwrap();
    let read = |name: &str| {
        let bytes = std::fs::read(capsule.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        String::from_utf8(bytes).unwrap()
    };
    // One text everywhere.
    let text = read("README.md");
    let told = text.split("```").nth(1).unwrap().strip_prefix("text\n").unwrap();
    assert!(stdout(&out).contains(told), "{told}\nis not in\n{}", stdout(&out));
    assert!(junit.contains(told.lines().nth(1).unwrap()), "{junit}");
    for part in ["FAILURE", "minimal   1 op, 1 fault", "lost:", "essential every item", "decided   at"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let trace = read("trace.jsonl");
    assert!(trace.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["at_ns"].is_u64()));
    assert!(trace.contains("disk.power_fail") && read("history.txt").contains("client.ok"));
    assert!(read("disk-n1-crash1.txt").contains("/log  0 bytes"), "{}", read("disk-n1-crash1.txt"));
    assert!(read("regression.rs").contains("#[test]"));
    let verdict: Value = serde_json::from_str(&read("verdict.json")).unwrap();
    assert!(verdict["seeds"].as_array().unwrap().len() > 3, "{verdict}");
    // The smallest plan and the first one fail alike, and the capsule is a name of the smallest.
    let name = capsule.file_name().into_string().unwrap();
    let signature = name.strip_prefix("log_unsynced-").unwrap();
    let mut digests = Vec::new();
    for what in ["plan.json", "plan.min.json", ""] {
        let path = capsule.path().join(what);
        let replay = run("toy", &["replay", path.to_str().unwrap(), "--json"]);
        assert_eq!(status(&replay), 1);
        let outcome: Value = serde_json::from_str(&stdout(&replay)).unwrap();
        digests.push(outcome["report"]["digest"].clone());
        let human = run("toy", &["replay", path.to_str().unwrap()]);
        assert!(stdout(&human).contains(signature), "another signature");
    }
    assert_eq!(digests[1], digests[2]);
    // A replay is held against what the capsule keeps.
    let json = |name: &str| capsule.path().join(name);
    let replayed = |path: &Path| {
        let replay = run("toy", &["replay", path.to_str().unwrap()]);
        (status(&replay), stdout(&replay))
    };
    for name in ["", "plan.json", "plan.min.json"] {
        let (code, said) = replayed(&json(name));
        assert!(code == 1 && said.contains("capsule same verdict, same digest\n"), "{name}: {said}");
    }
    let kept = read("verdict.json");
    let digest = verdict["minimal"]["report"]["digest"].as_str().unwrap();
    let moved = kept.replace(digest, &"0".repeat(32));
    std::fs::write(json("verdict.json"), &moved).unwrap();
    let (code, said) = replayed(&capsule.path());
    assert!(
        code == 4 && said.contains("another digest") && said.contains("the same program wrote it"),
        "{said}"
    );
    let build = verdict["versions"]["build"].as_str().unwrap();
    std::fs::write(json("verdict.json"), moved.replace(build, "another")).unwrap();
    let (code, said) = replayed(&capsule.path());
    assert!(code == 1 && said.contains("another build of the program wrote it"), "{said}");
    std::fs::write(json("verdict.json"), "{").unwrap();
    let spoilt = run("toy", &["replay", capsule.path().to_str().unwrap()]);
    assert_eq!((status(&spoilt), String::from_utf8_lossy(&spoilt.stderr).lines().count()), (2, 1));
    std::fs::write(json("verdict.json"), kept).unwrap();
    assert_eq!(digests[1], verdict["minimal"]["report"]["digest"]);

    // Every line to copy names the program that ran.
    let [page, report] = ["timeline.html", "../../report.html"].map(read);
    for text in [&text, &page, &report, &junit, &read("regression.rs"), &stdout(&out)] {
        assert!(!text.contains("cargo cutwater"), "{text}");
    }
    assert!(page.contains(&format!("examples/toy replay {} --trace", capsule.path().display())), "{page}");
    assert!(text.contains(&format!("regress add {}", capsule.path().display())), "{text}");
}

#[test]
fn results_of_an_earlier_campaign_are_set_aside() {
    let dir = scratch("earlier");
    let out = dir.to_str().unwrap();
    let campaign = |args: &[&str]| {
        let output = run("toy", &[args, &["--no-shrink", "--out", out]].concat());
        (status(&output), String::from_utf8(output.stderr).unwrap())
    };
    let (first, said) = campaign(&["sweep", "log_unsynced", "--seeds", "30"]);
    assert_eq!((first, said.as_str()), (1, ""));
    let kept = names(&dir);
    let capsules = names(&dir.join("capsules"));
    assert!(!capsules.is_empty() && kept.contains("summary.json"), "{kept:?}");
    // Something of the user's own stays where it is.
    std::fs::write(dir.join("notes.txt"), "mine").unwrap();

    let (second, said) = campaign(&["sweep", "log", "--seeds", "5"]);
    assert_eq!(second, 0);
    assert!(said.contains(&format!("{out}/earlier-1")) && said.lines().count() == 1, "{said}");
    assert_eq!(names(&dir.join("earlier-1")), kept);
    assert_eq!(names(&dir.join("earlier-1/capsules")), capsules);
    assert!(!dir.join("capsules").exists() && dir.join("notes.txt").exists());

    let census = run("toy", &["census", "log:1", "--out", out]);
    assert_eq!(status(&census), 0, "{census:?}");
    assert_eq!(
        names(&dir.join("earlier-2")),
        ["junit.xml", "report.html", "summary.json"].map(Into::into).into()
    );
    assert!(dir.join("census.json").is_file() && dir.join("earlier-1/summary.json").is_file());
}

/// The names in a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_failure_that_does_not_repeat_is_non_determinism_and_what_is_known_is_kept() {
    let dir = scratch("flickers");
    let mark = dir.join("mark");
    let flickers = |args: &[&str]| {
        let _ = std::fs::remove_file(&mark);
        let mut command = Command::new(example("faulty"));
        command.args(args).args(["--limit", "1"]).env("FAULTY_MARK", &mark).output().unwrap()
    };
    let out = dir.join("out");
    let sweep = flickers(&["sweep", "flickers", "--seeds", "1", "--out", out.to_str().unwrap()]);
    assert_eq!(status(&sweep), 4, "{}", stdout(&sweep));
    let capsule = std::fs::read_dir(out.join("capsules")).unwrap().next().unwrap().unwrap().path();
    let read = |name: &str| std::fs::read_to_string(capsule.join(name)).unwrap();
    for (part, texts) in [
        ("a report within 1 s", [stdout(&sweep), read("README.md")]),
        ("it did not repeat: run again, the same plan held", [stdout(&sweep), read("README.md")]),
    ] {
        assert!(texts.iter().all(|text| text.contains(part)), "no {part:?} in {texts:?}");
    }
    assert!(stdout(&sweep).contains("NON-DETERMINISM  flickers:0"), "{}", stdout(&sweep));
    assert!(!stdout(&sweep).contains("it held\n"), "{}", stdout(&sweep));
    let summary: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    let told = summary["divergences"][0]["told"].as_str().unwrap();
    assert_eq!(told, "one plan, two ends: hung, and when it was run again held");

    let story = ["regress", "add", capsule.to_str().unwrap(), "--story", "x", "--to", out.to_str().unwrap()];
    let refused = run("faulty", &story);
    assert_eq!(status(&refused), 2);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the failure did not repeat"), "{refused:?}");
    assert_eq!(status(&run("faulty", &["replay", capsule.to_str().unwrap()])), 0);
    for verb in ["shrink", "explain"] {
        let output = flickers(&[verb, "flickers:0"]);
        assert_eq!(status(&output), 4, "{verb}: {}", stdout(&output));
        assert!(stdout(&output).contains("it did not repeat"), "{verb}: {}", stdout(&output));
    }
}

#[test]
fn a_failure_is_kept_once_with_its_story() {
    let dir = scratch("regress-add");
    let [out, kept] = ["out", "kept"].map(|name| dir.join(name).to_str().unwrap().to_string());
    assert_eq!(status(&run("toy", &["sweep", "log_unsynced", "--seeds", "20", "--out", &out])), 1);
    let capsule = std::fs::read_dir(dir.join("out/capsules")).unwrap().next().unwrap().unwrap().path();
    let add = |story: &str| {
        let output =
            run("toy", &["regress", "add", capsule.to_str().unwrap(), "--story", story, "--to", &kept]);
        (status(&output), stdout(&output), String::from_utf8(output.stderr).unwrap())
    };
    for story in ["", "  \n", "..."] {
        let (code, _, said) = add(story);
        assert_eq!((code, said.lines().count()), (2, 1), "{said}");
        assert!(said.contains("--story"), "{said}");
    }
    assert!(!dir.join("kept").exists(), "nothing is written");

    let (code, said, _) = add("the log was not synced");
    assert!(code == 0 && said.contains("not mended yet"), "{said}");
    let files = names(&dir.join("kept/log_unsynced"));
    assert_eq!(files.len(), 1);
    let (code, _, said) = add("once more");
    assert!(code == 2 && said.contains("keeps this failure already"), "{said}");
    assert_eq!(names(&dir.join("kept/log_unsynced")), files);

    // What is expected of it is told with what came, and the one is not the other.
    let file = dir.join("kept/log_unsynced").join(files.first().unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    let runs = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = run("toy", &["regress", "run", &kept]);
        let words = stdout(&output);
        (status(&output), words.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let (code, line) = runs(&text);
    assert!(code == 0 && line.starts_with("ok ") && line.contains("open: it must fail with"), "{line}");
    assert!(line.contains("; it does: durability"), "{line}");
    let (code, line) = runs(&text.replace("\"mended\": false", "\"mended\": true"));
    assert!(code == 1 && line.starts_with("BROKEN ") && line.contains("mended: it must hold"), "{line}");
    assert!(line.contains("; it is back: "), "{line}");
    let (code, line) = runs(&text.replace("\"log_unsynced\"", "\"log\""));
    assert!(code == 1 && line.contains("open: it must fail") && line.contains("; it holds now"), "{line}");
    std::fs::write(&file, text).unwrap();

    // Another plan with the same signature may be another bug.
    let plan = capsule.join("plan.min.json");
    let text = std::fs::read_to_string(&plan).unwrap();
    let other = text.replace(
        "\"ops\": [",
        "\"ops\": [{\"id\": 900, \"at_us\": 1, \"actor\": 0, \"verb\": \"append\", \"args\": []}, ",
    );
    std::fs::write(&plan, other).unwrap();
    let (code, said, failed) = add("another way");
    assert!(code == 0 && said.contains("-2.json"), "{said}{failed}");
}

#[test]
fn a_run_that_hangs_or_aborts_has_a_story_up_to_then() {
    let dir = scratch("no-report");
    for (name, says) in [("hangs", "a report within 1 s"), ("aborts", "signal 6")] {
        let out = dir.join(name);
        let args =
            ["sweep", name, "--seeds", "8", "--limit", "1", "--no-shrink", "--out", out.to_str().unwrap()];
        let sweep = run("faulty", &args);
        assert_eq!(status(&sweep), 1);
        assert!(stdout(&sweep).contains(says), "{}", stdout(&sweep));
        let capsule = std::fs::read_dir(out.join("capsules")).unwrap().next().unwrap().unwrap().path();
        let json = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(capsule.join(name)).unwrap()).unwrap()
        };
        assert_eq!(
            json("plan.json")["seed"],
            json("verdict.json")["report"]["seed"],
            "the plan of the first seed"
        );
        let trace = String::from_utf8(std::fs::read(capsule.join("trace.jsonl")).unwrap()).unwrap();
        assert!(trace.contains("node.start") && trace.contains("\"crash\""), "{name}: {trace}");
        let replay = run("faulty", &["replay", capsule.to_str().unwrap(), "--limit", "1", "--trace"]);
        assert!(stdout(&replay).contains("n1 ticker-0"), "{}", stdout(&replay));
    }
}

#[test]
fn what_is_essential_and_when_it_was_decided_is_told() {
    let sweep = run("toy", &["sweep", "log_unsynced", "--seeds", "30", "--json", "--no-shrink"]);
    let failing = plans(&sweep).into_iter().find(|p| p["verdict"] != "held").expect("a seed that fails");
    let explain = run("toy", &["explain", &format!("log_unsynced:{}", failing["seed"])]);
    assert_eq!(status(&explain), 1);
    let text = stdout(&explain);
    for part in ["Essential", "Decided", "after this event all of 8 runs fail", "8 of 8"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let holds = run("toy", &["explain", "log:0"]);
    assert_eq!(status(&holds), 0);
    assert!(stdout(&holds).contains("log:0 holds"), "{}", stdout(&holds));
}

#[test]
fn an_interrupt_ends_a_sweep_with_the_table_so_far() {
    let dir = scratch("interrupted");
    let mut sweep = Command::new(example("faulty"));
    sweep.args(["sweep", "healthy", "--seeds", "10000000", "--out", dir.to_str().unwrap()]);
    sweep.stdout(std::process::Stdio::piped());
    let child = sweep.spawn().unwrap();
    let pid = child.id().to_string();
    // Long enough for some plans, a moment in ten million.
    assert!(Command::new("sleep").arg("1").status().unwrap().success());
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(status(&output), 130);
    let says = "interrupted: these results are partial";
    assert!(
        stdout(&output).contains("all held in ") && stdout(&output).contains(says),
        "{}",
        stdout(&output)
    );
    for file in ["report.html", "junit.xml"] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(says), "{file}: {text}");
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(dir.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["interrupted"], true);
    assert!(summary["scenarios"]["healthy"]["plans"].as_u64().unwrap() > 0, "{summary}");
}

#[test]
fn what_there_is_can_be_listed() {
    insta::assert_snapshot!(stdout(&run("toy", &["list"])));
    let list: Value = serde_json::from_str(&stdout(&run("toy", &["list", "--json"]))).unwrap();
    assert_eq!(list["scenarios"][0]["name"], "log");
    assert_eq!(list["fault_classes"].as_array().unwrap().len(), 31);
}

#[test]
fn help_fits_a_screen() {
    let verbs: [&[&str]; 15] = [
        &[],
        &["sweep"],
        &["fuzz"],
        &["errors"],
        &["corpus", "list"],
        &["corpus", "merge"],
        &["corpus", "min"],
        &["replay"],
        &["shrink"],
        &["explain"],
        &["regress", "add"],
        &["regress", "run"],
        &["census"],
        &["bench"],
        &["plan"],
    ];
    for verb in verbs {
        let help = stdout(&run("toy", &[verb, &["--help"]].concat()));
        assert!(help.contains("Usage"), "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{verb:?}: {line}");
        }
    }
}

#[test]
fn a_test_of_seeds_passes_or_says_how_to_repeat() {
    let toy = example("toy");
    cutwater_sim::testing::check_seeds(&toy, "log", 10);
    let failed = std::panic::catch_unwind(|| cutwater_sim::testing::check_seeds(&toy, "log_unsynced", 30));
    let message = *failed.unwrap_err().downcast::<String>().unwrap();
    // An example is called by its path, and has no test of its own.
    for part in ["FAILURE", "examples/toy replay log_unsynced:"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(!message.contains("cargo cutwater") && !message.contains("--test seeds"), "{message}");
}

#[test]
fn a_fault_of_every_class_is_delivered_and_most_are_noticed() {
    let output = run("busy", &["sweep", "--seeds", "150", "--json", "--check-determinism", "200"]);
    assert_eq!(status(&output), 0, "{}", stdout(&output));
    let summary: Value = serde_json::from_str(stdout(&output).lines().last().unwrap()).unwrap();
    let receipts = summary["scenarios"]["busy"]["receipts"].as_object().unwrap();
    // All but what no engine can survive.
    assert_eq!(receipts.len(), 30);
    for (class, receipt) in receipts {
        let count = |what: &str| receipt[what].as_u64().unwrap();
        assert!(count("delivered") >= 10 && count("observed") >= 5, "{class}: {receipt}");
        assert!(
            count("armed") >= count("delivered") && count("delivered") >= count("observed"),
            "{class}: {receipt}"
        );
    }
}
