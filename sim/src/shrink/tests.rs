//! The passes on synthetic failures: the evaluation is a function of the plan, the minimum is known.

use cutwater_io::sim::{Crash, CrashKind, Survivors, SyncEnd};

use super::*;
use crate::evidence::{Near, Struck};
use crate::faults::FaultClass;
use crate::plan::{Act, Anchor, Fault, Op, VERSION};
use crate::scenario::Violation;
use crate::vocabulary::{Knob, Role, Verb};

/// A failure that a function decides about.
struct Synthetic<F> {
    fails: F,
    evaluated: u64,
}

fn verdict(property: &str) -> Verdict {
    Verdict::Violated(Violation::new("synthetic", property))
}

impl<F: FnMut(&Plan) -> Verdict> Laboratory for Synthetic<F> {
    fn verdicts(&mut self, plans: &[Plan], _: &dyn Fn(&Verdict) -> bool) -> io::Result<Vec<Option<Verdict>>> {
        self.evaluated += plans.len() as u64;
        Ok(plans.iter().map(|plan| Some((self.fails)(plan))).collect())
    }
    /// Every fault strikes but those of node 2.
    fn observe(&mut self, plan: &Plan) -> io::Result<Option<(Evidence, u64)>> {
        let strikes = |fault: &&Fault| !matches!(fault.act, Act::Pause { node: 2, .. });
        let struck =
            |fault: &Fault| Struck { fault: fault.id, node: 1, at_us: 5, place: None, target: String::new() };
        let mut near: Vec<Near> = plan.faults.iter().filter_map(Near::of).collect();
        for near in &mut near {
            near.note(1, 1, &|| Anchor::Point { point: "p".into(), node: 1, nth: 1 });
        }
        let evidence = Evidence {
            struck: plan.faults.iter().filter(strikes).map(struck).collect(),
            near,
            power_failures: vec![],
        };
        Ok(Some((evidence, 700_000)))
    }
    fn is_over(&self) -> bool {
        false
    }
    fn progress(&mut self, _: &Plan, _: u64) {}
}

cutwater_io::points! {
    point P = "p": "a point";
}

fn subject() -> Subject {
    Subject {
        vocabulary: Vocabulary {
            roles: vec![Role::new("a", "a", 1..=5), Role::new("b", "b", 0..=3)],
            actors: 1..=3,
            ops: 0..=500,
            verbs: vec![
                Verb::new("put", "writes").arg("key", 0..=99).arg("len", 1..=5000),
                Verb::new("get", "reads").arg("key", 0..=99),
            ],
            knobs: vec![Knob::new("k", "a knob", 10, 0..=1000), Knob::new("disk", "personality", 3, 0..=3)],
            points: ALL.to_vec(),
            classes: vec![],
            faults: vec![FaultClass::ProcessKill, FaultClass::PowerFail, FaultClass::Pause],
            horizon_us: 1..=1_000_000,
        },
        personalities: Some(("disk", &[(0, "ext4"), (1, "xfs"), (2, "btrfs"), (3, "posix_min")])),
    }
}

fn pause(id: u32) -> Fault {
    Fault {
        id,
        at: Anchor::Time { at_us: u64::from(id) * 1000 + 777 },
        act: Act::Pause { node: 1 + u64::from(id % 2), for_us: 5_000 },
    }
}

fn large() -> Plan {
    let op = |id: u32| Op {
        id,
        at_us: u64::from(id) * 2_000,
        actor: (id % 3) as u16,
        verb: if id.is_multiple_of(2) { "put" } else { "get" }.into(),
        args: if id.is_multiple_of(2) { vec![u64::from(id) % 100, 3_000] } else { vec![u64::from(id) % 100] },
    };
    Plan {
        version: VERSION,
        scenario: "synthetic".into(),
        seed: 1,
        schedule_seed: 99,
        key: 7,
        horizon_us: 1_000_000,
        topology: [("a".into(), 4), ("b".into(), 2)].into(),
        knobs: [("k".into(), 900), ("disk".into(), 3)].into(),
        buggify: vec![],
        ops: (0..300).map(op).collect(),
        faults: (0..20).map(pause).collect(),
    }
}

fn shrunk(plan: &Plan, fails: impl FnMut(&Plan) -> Verdict) -> Shrunk {
    let mut laboratory = Synthetic { fails, evaluated: 0 };
    shrink(plan, &subject(), &verdict("it").signature(), 20_000, &mut laboratory).unwrap()
}

fn when(condition: bool) -> Verdict {
    if condition { verdict("it") } else { Verdict::Held }
}

fn has(plan: &Plan, id: u32) -> bool {
    plan.ops.iter().any(|op| op.id == id)
}

#[test]
fn only_the_items_that_matter_are_left_and_everything_else_is_plain() {
    let of = |plan: &Plan| {
        has(plan, 44) && has(plan, 177) && has(plan, 230) && plan.faults.iter().any(|f| f.id == 6)
    };
    let shrunk = shrunk(&large(), |plan| when(of(plan)));
    let plan = &shrunk.plan;
    assert!(shrunk.is_minimal);
    assert_eq!(plan.ops.iter().map(|op| op.id).collect::<Vec<_>>(), [44, 177, 230]);
    assert_eq!(plan.faults.len(), 1);
    assert!(plan.topology.is_empty() && plan.knobs == [("disk".into(), 0)].into());
    assert!(plan.ops.iter().all(|op| op.at_us == 0 && op.actor == 0), "{:?}", plan.ops);
    assert_eq!(plan.ops[0].args, [0, 1]);
    assert!(plan.horizon_us < 1_000_000 && plan.key == 0);
    assert_eq!(shrunk.fails_on, [("ext4", true), ("xfs", true), ("btrfs", true), ("posix_min", true)]);
    assert!(shrunk.runs < 1_500, "{} runs", shrunk.runs);
}

#[test]
fn values_stop_where_the_failure_needs_them() {
    let shrunk = shrunk(&large(), |plan| {
        let large_put = plan.ops.iter().any(|op| op.verb == "put" && op.args[1] >= 1_000);
        let knob = plan.knobs.get("k").copied().unwrap_or(10) >= 200;
        let disk = plan.knobs.get("disk").copied().unwrap_or(3) >= 2;
        when(large_put && knob && disk && plan.topology.get("a").copied().unwrap_or(1) >= 2)
    });
    let plan = &shrunk.plan;
    assert_eq!((plan.ops.len(), plan.faults.len()), (1, 0));
    assert!(plan.ops[0].args[1] == 1_000, "{:?}", plan.ops[0].args);
    assert!(plan.knobs["k"] == 200, "{:?}", plan.knobs);
    assert_eq!(plan.knobs["disk"], 2);
    assert_eq!(plan.topology, [("a".into(), 2)].into());
    assert_eq!(shrunk.fails_on, [("ext4", false), ("xfs", false), ("btrfs", true), ("posix_min", true)]);
}

#[test]
fn another_failure_is_kept_and_not_followed() {
    // Without operation 10 something else fails, with few items.
    let shrunk =
        shrunk(&large(), |plan| if has(plan, 10) { when(has(plan, 20)) } else { verdict("another") });
    assert_eq!(shrunk.plan.ops.iter().map(|op| op.id).collect::<Vec<_>>(), [10, 20]);
    let (signature, other) = shrunk.others.first_key_value().unwrap();
    assert_eq!((signature, has(other, 10)), (&verdict("another").signature(), false));
}

#[test]
fn a_failure_that_needs_an_order_of_tasks_is_followed_to_another_schedule() {
    // With few operations only the schedule of seed 1 shows it.
    let shrunk =
        shrunk(&large(), |plan| when(has(plan, 4) && (plan.ops.len() > 50 || plan.schedule_seed == 1)));
    assert_eq!((shrunk.plan.ops.len(), shrunk.plan.schedule_seed), (1, 1));
}

#[test]
fn a_crash_loses_the_least_that_shows_it_and_two_become_one() {
    let crash = |id: u32, kind: CrashKind| Fault {
        id,
        at: Anchor::Time { at_us: 1_000 * u64::from(id) },
        act: Act::Crash { node: 1, crash: Crash { kind, down_us: 9_000 } },
    };
    let mut plan = large();
    plan.faults = vec![
        crash(1, CrashKind::PowerFail(Survivors::Losing(vec![0, 1, 2, 3, 4, 5, 6, 7]))),
        crash(2, CrashKind::ProcessKill),
    ];
    let loses_five = |plan: &Plan| {
        plan.faults.iter().filter_map(|fault| fault.act.crash()).any(|crash| match &crash.kind {
            CrashKind::PowerFail(Survivors::Losing(losing)) => losing.contains(&5),
            _ => false,
        })
    };
    let shrunk = shrunk(&plan, |plan| when(loses_five(plan)));
    let [fault] = &shrunk.plan.faults[..] else { panic!("{:?}", shrunk.plan.faults) };
    let crash = fault.act.crash().unwrap();
    assert_eq!(crash.kind, CrashKind::PowerFail(Survivors::Losing(vec![5])));
    assert_eq!(crash.down_us, 0);
    assert_eq!(
        fault.at,
        Anchor::Point { point: "p".into(), node: 1, nth: 1 },
        "a place says more than a time"
    );
}

#[test]
fn an_odd_end_of_a_sync_is_kept_only_if_it_shows_it() {
    let mut plan = large();
    let rest = Box::new(Survivors::Losing(vec![3, 4]));
    let kind = CrashKind::PowerFail(Survivors::MidSync { end: SyncEnd::Garbage(9), rest });
    let act = Act::Crash { node: 1, crash: Crash { kind, down_us: 9_000 } };
    plan.faults = vec![Fault { id: 1, at: Anchor::Time { at_us: 1_000 }, act }];
    let of =
        |plan: &Plan| plan.faults.first().and_then(|fault| fault.act.crash()).map(|crash| crash.kind.clone());
    let loses_four =
        |survivors: &Survivors| matches!(survivors, Survivors::Losing(losing) if losing.contains(&4));
    let four = Survivors::Losing(vec![4]);

    let garbage = |plan: &Plan| match of(plan) {
        Some(CrashKind::PowerFail(Survivors::MidSync { rest, .. })) => loses_four(&rest),
        _ => false,
    };
    let shortest = Survivors::MidSync { end: SyncEnd::Garbage(0), rest: Box::new(four.clone()) };
    assert_eq!(of(&shrunk(&plan, |plan| when(garbage(plan))).plan), Some(CrashKind::PowerFail(shortest)));

    let any = |plan: &Plan| match of(plan) {
        Some(CrashKind::PowerFail(Survivors::MidSync { rest, .. })) => loses_four(&rest),
        Some(CrashKind::PowerFail(survivors)) => loses_four(&survivors),
        _ => false,
    };
    assert_eq!(of(&shrunk(&plan, |plan| when(any(plan))).plan), Some(CrashKind::PowerFail(four)));
}

#[test]
fn a_budget_ends_the_search_with_what_there_is() {
    for budget in [1, 2, 7, 30] {
        let mut laboratory = Synthetic { fails: |plan: &Plan| when(has(plan, 44)), evaluated: 0 };
        let signature = verdict("it").signature();
        let shrunk = shrink(&large(), &subject(), &signature, budget, &mut laboratory).unwrap();
        assert!(!shrunk.is_minimal && has(&shrunk.plan, 44));
        assert_eq!(shrunk.runs, budget, "all of it is used, and no more");
        assert!(laboratory.evaluated >= shrunk.runs, "what ran beyond a success is not counted");
    }
}

#[test]
fn nothing_is_left_that_could_be_taken_out_alone() {
    // Any three operations below 60, together with any two faults.
    let fails = |plan: &Plan| {
        let small = plan.ops.iter().filter(|op| op.id < 60).count();
        small >= 3 && plan.faults.len() >= 2
    };
    let shrunk = shrunk(&large(), |plan| when(fails(plan)));
    assert!(shrunk.is_minimal);
    assert_eq!((shrunk.plan.ops.len(), shrunk.plan.faults.len()), (3, 2));
}

#[test]
fn operations_go_together_with_the_passings_that_they_account_for() {
    let mut plan = large();
    let at = Anchor::Point { point: "p".into(), node: 1, nth: 31 };
    plan.ops.truncate(60);
    plan.ops.retain(|op| op.verb == "put");
    plan.faults = vec![Fault { id: 0, at, act: pause(0).act }];
    // Each operation passes the point once; the fault strikes after the last.
    let after_the_last = |plan: &Plan| match plan.faults.first().map(|fault| &fault.at) {
        Some(Anchor::Point { nth, .. }) => !plan.ops.is_empty() && *nth as usize == plan.ops.len() + 1,
        _ => false,
    };
    assert!(after_the_last(&plan));
    let shrunk = shrunk(&plan, |plan| when(after_the_last(plan)));
    assert_eq!((shrunk.plan.ops.len(), shrunk.plan.faults.len()), (1, 1), "{:?}", shrunk.plan);
}

#[test]
fn a_file_system_is_tried_with_a_few_schedules_before_it_is_told_to_hold() {
    let disk = |plan: &Plan| plan.knobs.get("disk").copied().unwrap_or(3);
    // btrfs is the strictest, under schedule 1; on posix_min that is the one schedule which does not fail.
    let of = |plan: &Plan| match disk(plan) {
        2 => plan.schedule_seed == 1,
        3 => plan.schedule_seed != 1,
        _ => false,
    };
    let shrunk = shrunk(&large(), |plan| when(of(plan)));
    assert_eq!((disk(&shrunk.plan), shrunk.plan.schedule_seed), (2, 1));
    let expected = [("ext4", false), ("xfs", false), ("btrfs", true), ("posix_min", true)];
    assert_eq!(shrunk.fails_on, expected);
}

#[test]
fn of_a_file_system_that_was_not_tried_to_the_end_nothing_is_said() {
    let (held, it) = (Some(Verdict::Held), Some(verdict("it")));
    let fails = |verdicts: &[Option<Verdict>]| {
        crashes::fails_at_all(verdicts, &|found| found.signature() == verdict("it").signature())
    };
    assert_eq!(fails(&[held.clone(), held.clone()]), Some(false));
    assert_eq!(fails(&[held.clone(), it, None]), Some(true));
    assert_eq!(fails(&[held, None]), None);
    assert_eq!(fails(&[None, None]), None);
}
