//! The pages in a real browser: they open from a disk without a word on the console, fit a laptop's screen, answer to mouse and
//! keyboard, and show hostile text as text. Skipped where `chromedriver` is absent.
#![cfg(madsim)]
#![expect(clippy::disallowed_methods, reason = "these tests start processes and look at real files")]
#![expect(clippy::disallowed_types, reason = "they talk to a real browser")]

mod webdriver;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cutwater_io::sim::{Event, Fact};
use cutwater_sim::verdict::Outcome;
use cutwater_sim::{Plan, Report, Verdict, Violation, timeline};
use serde_json::{Value, json};
use webdriver::{Browser, SCREEN};

const HOSTILE: &str = "</script><img src=x onerror=\"window.pwned=1\"><b>&amp;";

fn file(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn event(at_us: u64, node: u64, kind: &str, detail: &str, facts: &[(&str, Fact)]) -> Event {
    let facts = facts.iter().map(|(name, fact)| ((*name).to_string(), fact.clone())).collect();
    Event { at_ns: at_us * 1000, node, kind: kind.into(), detail: detail.into(), facts }
}

/// A small run with one of everything that a timeline shows, told by somebody hostile.
fn outcome() -> (Plan, Outcome) {
    let number = |n: u64| Fact::from(n);
    let list = |items: &[&str]| Fact::from(items.iter().map(|s| (*s).to_string()).collect::<Vec<_>>());
    let frame = [
        ("connection", Fact::from("n1>n2#1")),
        ("peer", number(2)),
        ("bytes", number(7)),
        ("end", Fact::from("client")),
        ("message", Fact::from(format!("Trigger {HOSTILE}"))),
    ];
    let mut arrived = frame.clone();
    arrived[1].1 = number(1);
    arrived[3].1 = Fact::from("server");
    let partition = [
        ("fault", number(3)),
        ("class", Fact::from("partition")),
        ("nodes", list(&["n1", "n2"])),
        ("for_us", number(60_000)),
    ];
    let sync = [("path", Fact::from("/db/wal")), ("took_us", number(9)), ("at_risk", number(4))];
    let mut story = vec![
        event(0, 1, "node.create", "store-0", &[]),
        event(0, 2, "node.create", "store-1", &[]),
        event(0, 1, "node.start", "start 1", &[]),
        event(0, 2, "node.start", "start 1", &[]),
        event(1_000, 1, "op", "#4 client 0: put [1]", &[("op", number(4)), ("actor", number(0))]),
        event(2_000, 1, "disk.sync", "/db/wal [1, 9, 0]", &sync),
        event(2_000, 1, "phase.begins", "flush", &[("begins", Fact::from("flush")), ("span", number(1))]),
        event(90_000, 1, "phase.ends", "flush", &[("ends", Fact::from("flush")), ("span", number(1))]),
        event(
            95_000,
            1,
            "op.answer",
            "#4 client 0: done",
            &[("op", number(4)), ("answer", Fact::from("done"))],
        ),
        event(100_000, 0, "fault.on", "Partition { from: [1], to: [2] }", &partition),
        event(160_000, 0, "fault.off", "Partition { from: [1], to: [2] }", &partition),
        event(200_000, 1, "net.send", "n1>n2#1 7 bytes", &frame),
        event(201_000, 2, "net.deliver", "n1>n2#1 7 bytes", &arrived),
        event(210_000, 1, "objects.put", HOSTILE, &[("key", Fact::from(HOSTILE))]),
        event(300_000, 2, "crash", HOSTILE, &[("crash", Fact::from("power_fail"))]),
        event(
            300_000,
            2,
            "disk.power_fail",
            "1 lost, 1 kept",
            &[("lost", list(&["write of /db/wal sector 3"])), ("kept", list(&["name /db/wal"]))],
        ),
        event(350_000, 2, "node.start", "start 2", &[]),
        event(400_000, 0, "oracle", &format!("durability: {HOSTILE}"), &[]),
        event(450_000, 0, "end", "", &[]),
    ];
    story.extend((0..500).map(|i| event(400_100 + i, 1, "point", "store.point", &[])));
    story.sort_by_key(|event| event.at_ns);
    let violation =
        Violation::new("durability", "an acknowledged value is there").expected(HOSTILE).found("nothing");
    let mut report = Report::bare("store", 7, Verdict::Violated(violation));
    report.virtual_us = 450_000;
    let labels = BTreeMap::from([(1, "store-0".to_string()), (2, "store-1".to_string())]);
    let plan = r#"{"version":1,"scenario":"store","seed":7,"schedule_seed":1,"key":2,"horizon_us":1000000,
        "topology":{},"knobs":{},"ops":[],"faults":[]}"#;
    (Plan::from_json(plan).unwrap(), Outcome { story: Some(story), labels, ..Outcome::bare(report) })
}

/// No two of these boxes overlap, and all lie on the screen.
fn assert_laid_out(boxes: &[[f64; 4]], what: &str) {
    for (i, [left, top, right, bottom]) in boxes.iter().enumerate() {
        assert!(right > left && bottom > top, "{what}: {boxes:?}");
        assert!(
            *left >= 0.0 && *top >= 0.0 && *right <= SCREEN.0 as f64 && *bottom <= SCREEN.1 as f64,
            "{what} {i} is off the screen: {boxes:?}"
        );
        for [l, t, r, b] in &boxes[i + 1..] {
            let overlap = left + 0.5 < *r && l + 0.5 < *right && top + 0.5 < *b && t + 0.5 < *bottom;
            assert!(!overlap, "{what} {i} is overlapped: {boxes:?}");
        }
    }
}

#[test]
fn a_timeline_shows_a_run_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.html");
    let (plan, outcome) = outcome();
    timeline::write_html(&plan, &outcome, "cargo cutwater replay store:7 --trace", &path).unwrap();
    let Some(browser) = Browser::start() else { return };
    browser.open(&file(&path));
    browser.assert_quiet_console();

    // What there is to see, and where.
    let lanes = browser.run("return [...document.querySelectorAll('.label')].map(l => l.dataset.lane)");
    assert_eq!(lanes, json!(["faults", "n1", "n2", "c0", "objects"]));
    assert_laid_out(&browser.boxes(".label"), "lane");
    assert_laid_out(&browser.boxes("header, nav, #chart, #side"), "part");
    assert_laid_out(&browser.boxes("nav > *:not(.gap):not(:empty)"), "tool");
    assert_laid_out(&browser.boxes(".violation-flag"), "violation");
    assert_eq!(browser.text("#what"), "durability: an acknowledged value is there");
    for class in
        [".up", ".down", ".phase", ".risk", ".sync", ".loss", ".message", ".request", ".op", ".fault-span"]
    {
        assert!(!browser.boxes(class).is_empty(), "nothing of class {class} is drawn");
    }

    // Hostile text is text.
    assert_eq!(browser.run("return [window.pwned ?? null, document.images.length]"), json!([null, 0]));
    assert_eq!(browser.text("#expected"), HOSTILE);
    assert_eq!(browser.text("#lost"), "n2 at 0.300000: write of /db/wal sector 3");
    assert!(browser.text("#list").contains(HOSTILE));

    // A fault is chosen by a click, and says what it did.
    browser.click("[data-fault='1']");
    assert_eq!(browser.text("#detail h3"), "fault: power_fail");
    let detail = browser.text("#detail");
    assert!(detail.contains(HOSTILE) && detail.contains("lost write of /db/wal sector 3"), "{detail}");
    assert!(
        browser.run("return document.querySelector('[data-fault=\"1\"]').classList.contains('selected')")
            == true
    );
    assert!(browser.text(".row.on").contains("crash"));

    // So it is by the keyboard.
    browser.press("p");
    assert_eq!(browser.text("#detail h3"), "fault: partition");

    // Zoom, the whole run, and the list.
    let window = || browser.boxes("#window").first().map(|[left, _, right, _]| right - left).unwrap();
    browser.click("#fit");
    let whole = window();
    browser.click("#zoom-in");
    assert!(window() < whole * 0.8, "{} of {whole}", window());
    browser.press("0");
    assert!((window() - whole).abs() < 1.0);
    browser.click("#skip-idle");
    assert_eq!(browser.run("return document.querySelectorAll('.idle').length"), json!(0));
    browser.click("#search");
    browser.press("w");
    browser.press("a");
    browser.press("l");
    assert_eq!(browser.text("#count"), "1 of 519");

    // Light and dark.
    let background = || browser.run("return getComputedStyle(document.body).backgroundColor");
    let before = background();
    browser.click("#theme");
    assert_ne!(background(), before);
    browser.assert_quiet_console();
}

#[test]
fn pages_of_real_runs_open() {
    let dir = tempfile::tempdir().unwrap();
    let timeline = dir.path().join("timeline.html");
    let cutwater = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cutwater")).args(args).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    };
    let perfetto = dir.path().join("trace.json");
    cutwater(&[
        "replay",
        "checkpoint:3",
        "--html",
        timeline.to_str().unwrap(),
        "--perfetto",
        perfetto.to_str().unwrap(),
    ]);
    let trace: Value = serde_json::from_slice(&std::fs::read(&perfetto).unwrap()).unwrap();
    let phases: std::collections::BTreeSet<&str> =
        trace["traceEvents"].as_array().unwrap().iter().filter_map(|e| e["ph"].as_str()).collect();
    assert!(["M", "X", "C", "b", "e", "s", "f", "i"].iter().all(|ph| phases.contains(ph)), "{phases:?}");
    let out = dir.path().join("results");
    cutwater(&["sweep", "store", "--seeds", "40", "--out", out.to_str().unwrap()]);

    let Some(browser) = Browser::start() else { return };
    browser.open(&file(&timeline));
    browser.assert_quiet_console();
    assert_eq!(browser.text("#badge"), "held");
    assert!(!browser.boxes(".phase").is_empty());
    browser.press("m");
    assert!(browser.run("return document.querySelectorAll('.message').length").as_u64() > Some(10));

    browser.open(&file(&out.join("report.html")));
    browser.assert_quiet_console();
    assert!(browser.text("#findings + *").contains("No plan failed"));
    assert!(browser.run("return document.querySelectorAll('.matrix td[title]').length").as_u64() > Some(50));
    assert_eq!(browser.run("return document.documentElement.scrollWidth"), json!(SCREEN.0));
    assert_laid_out(&browser.boxes("h1"), "title");
}
