//! Plans of the shipped scenarios: whatever they are made from, they are valid and survive being written down.
#![cfg(madsim)]

use cutwater_io::sim::{Crash, CrashKind, Errno, Key, SiteFault, Survivors};
use cutwater_scenarios::ALL;
use cutwater_sim::runner::execute::execute;
use cutwater_sim::runner::{Job, What};
use cutwater_sim::search::coverage::{Calls, Coverage, Passings};
use cutwater_sim::search::mutate::{Material, mutant};
use cutwater_sim::strategy::plans;
use cutwater_sim::{Act, Anchor, Fault, FaultClass, Op, Plan, Scenario, Verdict};
use proptest::prelude::*;

fn passings() -> impl Strategy<Value = Vec<Passings>> {
    let point = prop::sample::select(vec!["store.wal.before_sync", "log.after_append", "no.such.point"]);
    let passing = (point, 1..8u64, 0..50u32);
    prop::collection::vec(
        passing.prop_map(|(point, node, count)| Passings { point: point.into(), node, count }),
        0..4,
    )
}

fn calls() -> impl Strategy<Value = Vec<Calls>> {
    let site = prop::sample::select(vec!["disk.write", "disk.sync", "net.send", "objects.put"]);
    let class = prop::sample::select(vec!["wal", "table", "none of ours"]);
    let call = (site, class, 1..8u64, 0..50u32);
    let made = |(site, class, node, count): (&str, &str, _, _)| Calls {
        site: site.into(),
        class: class.into(),
        node,
        count,
    };
    prop::collection::vec(call.prop_map(made), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_make_a_plan(which in 0..ALL.len(), seed: u64, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let scenario = ALL[which];
        let mut unstructured = arbitrary::Unstructured::new(&bytes);
        let from_bytes = Plan::arbitrary(scenario.name(), &scenario.vocabulary(), &mut unstructured).unwrap();
        for plan in [from_bytes, scenario.generate(seed)] {
            prop_assert_eq!(plan.validate(&scenario.vocabulary()).map_err(|e| e.to_string()), Ok(()));
            prop_assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        }
    }

    #[test]
    fn a_mutant_is_a_plan(which in 0..ALL.len(), seeds: [u64; 2], master: u64, passings in passings(), calls in calls()) {
        let scenario = ALL[which];
        let vocabulary = scenario.vocabulary();
        let [mut plan, other] = seeds.map(|seed| scenario.generate(seed));
        // Nodes beyond those of the plan were not there to pass or to call.
        let nodes = plan.node_count(&vocabulary);
        let mut reached = Coverage { passings, calls, ..Coverage::default() };
        reached.passings.retain(|passings| passings.node <= nodes);
        reached.calls.retain(|calls| calls.node <= nodes);
        for generation in 0..40 {
            let material = Material { vocabulary: &vocabulary, reached: &reached, other: &other };
            let child = mutant(&plan, &material, &mut Key::root(master).draw("test", &[generation]));
            prop_assert_eq!(child.validate(&vocabulary).map_err(|e| e.to_string()), Ok(()));
            prop_assert_ne!(&child, &plan);
            plan = child;
        }
    }

    #[test]
    fn a_seed_names_one_plan(which in 0..ALL.len(), seed: u64) {
        prop_assert_eq!(ALL[which].generate(seed), ALL[which].generate(seed));
    }

    #[test]
    fn the_strategy_makes_valid_plans(plan in plans("store", ALL[0].vocabulary())) {
        prop_assert!(plan.validate(&ALL[0].vocabulary()).is_ok());
    }
}

/// A leader is paused right before it writes the next version of the register, for many leases. Others take over and go on;
/// what it was about to write is trimmed. Then it wakes up, creates that version (the name is free again), and must not believe
/// that it leads: it lists, finds higher versions, and steps down.
#[test]
fn a_leader_that_slept_through_its_deposition_creates_a_trimmed_version_and_does_not_act_on_it() {
    let scenario = *ALL.iter().find(|scenario| scenario.name() == "checkpoint").expect("it is shipped");
    for nth in [2, 5, 8] {
        let mut plan = scenario.generate(7);
        plan.topology = [("coordinator".into(), 3), ("worker".into(), 3)].into();
        plan.horizon_us = 12_000_000;
        plan.buggify = Vec::new();
        let knobs = [
            ("keep_versions", 2),
            ("lease_ms", 100),
            ("net_us", 100),
            ("interval_ms", 50),
            ("min_pause_ms", 0),
            ("input_ms", 12_000),
        ];
        plan.knobs = knobs.map(|(name, value)| (name.to_owned(), value)).into();
        let at = Anchor::Point { point: "log.before_append".into(), node: 0, nth };
        plan.faults = vec![Fault { id: 0, at, act: Act::Pause { node: 0, for_us: 5_000_000 } }];
        let report = run(scenario, plan);
        assert_eq!(report.verdict, Verdict::Held);
        assert_eq!(report.receipts[&FaultClass::Pause].delivered, 1);
        assert!(report.sometimes.contains_key("log.superseded"), "append {nth}: {:?}", report.sometimes);
    }
}

/// The data of a sync is durable, and the mark behind it cannot be written, or only in part. The store goes on with a new log,
/// and a power failure later on, nothing that was acknowledged is missing. That a second attempt fails as well stops it.
#[test]
fn a_mark_that_cannot_be_written_costs_a_log_and_not_the_store() {
    let scenario = *ALL.iter().find(|scenario| scenario.name() == "store").expect("it is shipped");
    let write = |nth, fault| {
        let at = Anchor::Site { site: "disk.write".into(), class: "wal".into(), node: 1, nth };
        (at, Act::Site(fault))
    };
    let put = |id: u32| Op {
        id,
        at_us: 100_000 + u64::from(id) * 10_000,
        actor: 0,
        verb: "put".into(),
        args: vec![u64::from(id % 24), 100, 3],
    };
    let power = (
        Anchor::Time { at_us: 350_000 },
        Act::Crash { node: 1, crash: Crash { kind: CrashKind::PowerFail(Survivors::None), down_us: 1_000 } },
    );
    // A put is a write of the record and one of its mark: the sixth is the mark of the third.
    for (failing, stops) in [(vec![6], false), (vec![6, 7], true)] {
        let mut plan = scenario.generate(1);
        plan.topology = [("store".into(), 1)].into();
        plan.horizon_us = 500_000;
        plan.buggify = Vec::new();
        plan.knobs.clear();
        plan.ops = (0..20).map(put).collect();
        let failures = failing.iter().map(|&nth| write(nth, SiteFault::Fail(Errno::Eio)));
        let faults = failures.chain([power.clone()]).zip(0..);
        plan.faults = faults.map(|((at, act), id)| Fault { id, at, act }).collect();
        let report = run(scenario, plan);
        assert_eq!(report.verdict, Verdict::Held);
        assert_eq!(report.receipts[&FaultClass::DiskError].delivered, failing.len() as u64);
        assert_eq!(report.receipts[&FaultClass::PowerFail].delivered, 1);
        assert_eq!(report.sometimes.get("store.wal.given_up"), Some(&1), "{failing:?}");
        assert_eq!(report.sometimes.contains_key("store.background_error"), stops, "{failing:?}");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a simulation needs a fresh thread: std seeds its hash maps per thread"
)]
fn run(scenario: &'static dyn Scenario, plan: Plan) -> cutwater_sim::Report {
    let outcome = std::thread::spawn(move || execute(&Job::new(scenario, What::Plan(Box::new(plan))))).join();
    outcome.expect("a verdict, whatever happens").report
}
