//! Faults that last: what overlaps goes on, what heals ends at once, what is slow or wrong about clocks is seen by its node.
//!
//! The system under test is three nodes that say something every ten milliseconds, and one more line if their wall clock went
//! back or ran ahead of the monotonic one.
#![cfg(madsim)]
#![expect(
    clippy::disallowed_methods,
    reason = "a simulation needs a fresh thread: std seeds its hash maps per thread"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use cutwater_io::sim::{Crash, CrashKind, Damage, Event};
use cutwater_io::time;
use cutwater_sim::faults::{Devices, Receipts};
use cutwater_sim::plan::VERSION;
use cutwater_sim::runner::execute::execute;
use cutwater_sim::runner::{Job, What};
use cutwater_sim::scenario::OracleInfo;
use cutwater_sim::vocabulary::Role;
use cutwater_sim::{Act, Anchor, Fault, FaultClass, Plan, Scenario, Verdict, Violation, Vocabulary, World};
use futures::future::LocalBoxFuture;

const HORIZON_MS: u64 = 4_000;
const CLOCK_OFFSET_US_MAX: u64 = 60_000_000;

struct Ticking;

impl Scenario for Ticking {
    fn name(&self) -> &'static str {
        "ticking"
    }
    fn about(&self) -> &'static str {
        "three nodes that say something every ten milliseconds"
    }
    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            roles: vec![Role::new("clock", "ticks", 3..=3)],
            actors: 1..=1,
            ops: 0..=0,
            verbs: vec![],
            knobs: vec![],
            points: vec![],
            classes: vec![],
            faults: FaultClass::ALL.to_vec(),
            horizon_us: 1..=HORIZON_MS * 1000,
        }
    }
    fn oracles(&self) -> &'static [OracleInfo] {
        &[]
    }
    fn devices(&self, _: &Plan) -> Devices {
        Devices { clock_offset_us_max: CLOCK_OFFSET_US_MAX, ..Devices::default() }
    }
    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(async move {
            for i in 0..3 {
                let log = world.clone();
                world.node("clock", i, move |_| tick(log.clone()));
            }
            world.until_horizon().await;
            world.heal().await;
            world.until((HORIZON_MS + 1_000) * 1000).await;
            Ok(())
        })
    }
}

async fn tick(log: World) {
    let (mut wall, mut monotonic) = (time::unix_time(), time::now());
    loop {
        time::sleep(Duration::from_millis(10)).await;
        log.note("tick", "");
        let (before, since) = (std::mem::replace(&mut wall, time::unix_time()), monotonic);
        monotonic = time::now();
        assert!(monotonic >= since, "a monotonic clock went back");
        if wall < before {
            log.note("wall", "back");
        } else if wall - before > (monotonic - since) * 2 {
            log.note("wall", "ahead");
        }
    }
}

/// Runs a plan of these acts at their times in milliseconds: the story, and the receipts of the faults.
fn run(acts: Vec<(u64, Act)>) -> (Vec<Event>, Receipts) {
    run_with_key(2, acts)
}

/// The same in a plan whose devices draw by this key.
fn run_with_key(key: u64, acts: Vec<(u64, Act)>) -> (Vec<Event>, Receipts) {
    let faults = (0..)
        .zip(acts)
        .map(|(id, (at_ms, act))| Fault { id, at: Anchor::Time { at_us: at_ms * 1000 }, act })
        .collect();
    let plan = Plan {
        version: VERSION,
        scenario: "ticking".into(),
        seed: 0,
        schedule_seed: 1,
        key,
        horizon_us: HORIZON_MS * 1000,
        topology: BTreeMap::new(),
        knobs: BTreeMap::new(),
        buggify: vec![],
        ops: vec![],
        faults,
    };
    let job = move || execute(&Job { record: true, ..Job::new(&Ticking, What::Plan(Box::new(plan))) });
    let outcome = std::thread::spawn(job).join().expect("a verdict, whatever happens");
    assert_eq!(outcome.report.verdict, Verdict::Held);
    (outcome.story.expect("recorded"), outcome.report.receipts)
}

/// When a node said `kind`, in milliseconds.
fn times(story: &[Event], node: u64, kind: &str) -> Vec<u64> {
    story.iter().filter(|e| e.node == node && e.kind == kind).map(|e| e.at_ns / 1_000_000).collect()
}

/// The longest silences of a node, from when to when in milliseconds.
fn silences(story: &[Event], node: u64) -> Vec<(u64, u64)> {
    let ticks = times(story, node, "tick");
    ticks.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, to)| to - from > 40).collect()
}

fn pause(node: u64, for_ms: u64) -> Act {
    Act::Pause { node, for_us: for_ms * 1000 }
}

/// One silence, from about `from` to about `to`.
fn one_silence(story: &[Event], node: u64, from: u64, to: u64) {
    let found = silences(story, node);
    let about = |found: u64, expected: u64| found.abs_diff(expected) <= 15;
    assert!(
        matches!(found[..], [(a, b)] if about(a, from) && about(b, to)),
        "{found:?}, expected one from {from} to {to}"
    );
}

#[test]
fn overlapping_pauses_end_with_the_last() {
    for acts in [
        vec![(100, pause(1, 500)), (200, pause(1, 1000))],
        vec![(100, pause(1, 1100)), (200, pause(1, 200))],
        vec![(100, pause(1, 600)), (300, pause(1, 500)), (500, pause(1, 700))],
    ] {
        let (story, receipts) = run(acts);
        one_silence(&story, 1, 100, 1200);
        assert_eq!(silences(&story, 2), []);
        assert!(receipts[&FaultClass::Pause].delivered >= 2);
    }
}

#[test]
fn a_pause_belongs_to_a_life() {
    let kill = Act::Crash { node: 1, crash: Crash { kind: CrashKind::ProcessKill, down_us: 100_000 } };
    let (story, _) = run(vec![(100, pause(1, 3_000)), (500, kill), (1_000, pause(1, 200))]);
    let found = silences(&story, 1);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].1.abs_diff(610) <= 15, "a new process is not paused: {found:?}");
    assert!(found[1].1.abs_diff(1_200) <= 15, "its pause ends, whatever the old one's would: {found:?}");
}

#[test]
fn healing_ends_what_is_under_way() {
    let long_us = 3_600_000_000;
    let acts = vec![
        (3_000, pause(1, 1_000_000)),
        (100, Act::SlowNode { node: 2, factor: 100, for_us: long_us }),
        (100, Act::ClockDrift { node: 3, ppm: -500_000, for_us: long_us }),
    ];
    let (story, receipts) = run(acts);
    one_silence(&story, 1, 3_000, HORIZON_MS);
    let after = |node| times(&story, node, "tick").into_iter().filter(|ms| *ms > HORIZON_MS + 50).count();
    for node in 1..=3 {
        assert!((80..=96).contains(&after(node)), "{node} ticked {} times after healing", after(node));
    }
    let before = |node| times(&story, node, "tick").into_iter().filter(|ms| *ms < HORIZON_MS).count();
    assert!(before(2) < 20, "{} ticks of a slow node", before(2));
    assert!((180..230).contains(&before(3)), "{} ticks of a clock at half its rate", before(3));
    assert_eq!(receipts[&FaultClass::SlowNode].delivered, 1);
    assert_eq!(receipts[&FaultClass::ClockDrift].delivered, 1);
}

#[test]
fn overlapping_slowness_and_drift_end_each_at_its_time() {
    let drift = |ppm, for_us| Act::ClockDrift { node: 1, ppm, for_us };
    let (story, _) = run(vec![(100, drift(500_000, 1_000_000)), (600, drift(-500_000, 2_000_000))]);
    let rate = |from: u64, to: u64| {
        let ticks = times(&story, 1, "tick");
        ticks.into_iter().filter(|ms| (from..to).contains(ms)).count() as u64 * 1000 / (to - from)
    };
    assert!((130..=150).contains(&rate(150, 600)), "{}", rate(150, 600));
    // Of two drifts the one that lasts longer has the last word.
    assert!((45..=50).contains(&rate(700, 2_500)), "{}", rate(700, 2_500));
    assert!((85..=100).contains(&rate(2_700, 3_900)), "{}", rate(2_700, 3_900));
}

#[test]
fn a_wall_clock_jumps_and_only_of_its_node() {
    let jump = |us| Act::ClockJump { node: 1, us };
    let (story, receipts) = run(vec![(500, jump(5_000_000)), (1_000, jump(-7_000_000))]);
    let said = |node| -> Vec<&str> {
        story.iter().filter(|e| e.node == node && e.kind == "wall").map(|e| e.detail.as_str()).collect()
    };
    // The last is the healing of two seconds too little.
    assert_eq!(said(1), ["ahead", "back", "ahead"]);
    assert_eq!(said(2), [""; 0]);
    assert_eq!(receipts[&FaultClass::ClockJump].delivered, 2);
}

#[test]
fn every_wall_clock_is_off_by_a_draw_of_its_own() {
    let offsets = |key, acts| -> Vec<(u64, String)> {
        let (story, _) = run_with_key(key, acts);
        story.into_iter().filter(|e| e.kind == "clock.offset").map(|e| (e.node, e.detail)).collect()
    };
    let all: Vec<_> = (0..20).map(|key| offsets(key, vec![])).collect();
    assert!((30..60).contains(&all.concat().len()), "a quarter is right: {all:?}");
    let told = |what: &str| all.iter().flatten().filter(|(_, told)| told.contains(what)).count();
    assert!(told("behind") > 10 && told("ahead") > 10, "{all:?}");
    assert!((5..30).contains(&told(" 60000.000 ms ")), "a quarter is off by all of it: {all:?}");
    assert_eq!(offsets(7, vec![(100, pause(1, 500))]), all[7], "nothing else moves it");
}

#[test]
fn a_swizzle_cuts_off_one_after_the_other_and_lets_all_back() {
    let (story, _) = run(vec![(1_000, Act::Swizzle { nodes: vec![3, 1], for_us: 1_000_000 })]);
    let steps: Vec<(u64, &str)> = story
        .iter()
        .filter(|e| e.kind == "fault.swizzle")
        .map(|e| (e.at_ns / 1_000_000, e.detail.as_str()))
        .collect();
    let order: Vec<&str> = steps.iter().map(|(_, step)| *step).collect();
    assert_eq!(order[..2], ["n3 off", "n1 off"]);
    let mut back = order[2..].to_vec();
    back.sort_unstable();
    assert_eq!(back, ["n1 on", "n3 on"]);
    assert!(steps[..2].iter().all(|(ms, _)| (1_000..=1_501).contains(ms)), "{steps:?}");
    assert!(steps[2..].iter().all(|(ms, _)| (1_500..=2_002).contains(ms)), "{steps:?}");
    // One that is under way at healing stops there.
    let (story, _) = run(vec![(3_900, Act::Swizzle { nodes: vec![3, 1], for_us: 100_000_000 })]);
    let late = times(&story, 0, "fault.swizzle").into_iter().filter(|ms| *ms >= HORIZON_MS).count();
    assert_eq!(late, 0);
}

#[test]
fn what_lies_on_no_disk_is_not_damaged() {
    let rot = Act::Rot { node: 1, class: String::new(), nth: 1, damage: Damage::BitRot { sectors: 1 } };
    let (_, receipts) = run(vec![(100, rot)]);
    assert_eq!(receipts[&FaultClass::BitRot].delivered, 0);
}

#[test]
fn a_state_that_nobody_meets_is_not_observed() {
    let for_us = 500_000;
    let acts = [
        Act::DiskFull { node: 1, late: false, for_us },
        Act::DiskSlow { node: 1, factor: 10, for_us },
        Act::SlowNode { node: 2, factor: 10, for_us },
        Act::ClockDrift { node: 3, ppm: 100, for_us },
    ];
    let (_, receipts) = run(acts.into_iter().map(|act| (100, act)).collect());
    let of = |class| (receipts[&class].delivered, receipts[&class].observed);
    assert_eq!([FaultClass::DiskFull, FaultClass::DiskSlow].map(of), [(1, 0); 2], "no node has a file");
    assert_eq!([FaultClass::SlowNode, FaultClass::ClockDrift].map(of), [(1, 1); 2], "all nodes have timers");
}
