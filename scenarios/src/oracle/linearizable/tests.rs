//! The known anomalies, each by name; and random histories, on which a checker that tries every order is the judge.

use proptest::prelude::*;

use super::Action::{CompareAndSet, Delete, Mismatch, Read, Write};
use super::*;

fn call(action: Action, invoked_us: u64, answered_us: u64) -> Call {
    let interval = Interval { invoked_us, answered_us: Some(answered_us) };
    Call { actor: 1, key: "k".into(), interval, outcome: Outcome::Done, action }
}

fn unknown(action: Action, invoked_us: u64) -> Call {
    let interval = Interval { invoked_us, answered_us: None };
    Call { interval, outcome: Outcome::Unknown, ..call(action, 0, 0) }
}

fn set(expected: impl Into<Option<u64>>, new: impl Into<Option<u64>>) -> Action {
    CompareAndSet { expected: expected.into(), new: new.into() }
}

fn property(calls: &[Call]) -> String {
    check(calls).expect_err("nothing explains it").property
}

#[test]
fn stale_read() {
    let calls = [call(Write(1), 0, 10), call(Write(2), 20, 30), call(Read(Some(1)), 40, 50)];
    let found = check(&calls).unwrap_err();
    assert_eq!(found.property, "a value that was replaced does not come back");
    assert_eq!(
        found.found,
        "k: client 1 wrote 1, 0 to 10 us; client 1 wrote 2, 20 to 30 us; client 1 read 1, 40 to 50 us"
    );
    let concurrent = [call(Write(1), 0, 10), call(Write(2), 20, 45), call(Read(Some(1)), 40, 50)];
    assert_eq!(check(&concurrent), Ok(()));
}

#[test]
fn lost_write() {
    let calls = [call(Write(1), 0, 10), call(Read(None), 20, 30)];
    assert_eq!(property(&calls), "a value that was replaced does not come back");
    let deletable = [calls.as_slice(), &[call(Delete, 40, 50)]].concat();
    assert_eq!(property(&deletable), "a row does not vanish");
    assert_eq!(check(&[calls.as_slice(), &[unknown(Delete, 5)]].concat()), Ok(()));
    assert_eq!(check(&[call(Write(1), 0, 10), call(Delete, 9, 21), call(Read(None), 20, 30)]), Ok(()));
}

#[test]
fn a_value_goes_back_and_forth() {
    let calls = [
        call(Write(1), 0, 100),
        call(Write(2), 0, 100),
        call(Read(Some(1)), 10, 20),
        call(Read(Some(2)), 30, 40),
        call(Read(Some(1)), 50, 60),
    ];
    assert_eq!(property(&calls), "a value that was replaced does not come back");
    assert_eq!(check(&calls[..4]), Ok(()));
}

#[test]
fn read_before_it_is_written() {
    let calls = [call(Read(Some(1)), 0, 10), call(Write(1), 20, 30)];
    assert_eq!(property(&calls), "a value is there from its write to the next");
    assert_eq!(property(&[call(Read(Some(7)), 0, 10)]), "what is read was written by somebody");
    let failed = Call { outcome: Outcome::Failed, ..call(Write(1), 0, 10) };
    assert_eq!(property(&[failed, call(Read(Some(1)), 20, 30)]), "nobody sees a write that failed");
}

#[test]
fn an_unknown_write_may_come_late_but_stays() {
    let late = [unknown(Write(1), 0), call(Read(None), 100, 110), call(Read(Some(1)), 200, 210)];
    assert_eq!(check(&late), Ok(()));
    let gone = [late.as_slice(), &[call(Read(None), 300, 310)]].concat();
    assert_eq!(property(&gone), "a value that was replaced does not come back");
}

#[test]
fn two_changes_of_one_value() {
    let calls = [call(Write(1), 0, 10), call(set(1, 2), 20, 30), call(set(1, 3), 20, 30)];
    assert_eq!(property(&calls), "a value is changed into one other");
    assert_eq!(
        property(&[call(set(None, 2), 0, 9), call(set(None, 3), 0, 9)]),
        "a value is changed into one other"
    );
    assert_eq!(
        property(&[call(set(1, 2), 20, 30), call(set(2, 1), 20, 30)]),
        "values do not come from each other in a circle"
    );
}

#[test]
fn nothing_comes_between_a_change_and_what_it_expected() {
    let calls =
        [call(Write(1), 0, 10), call(Write(9), 20, 30), call(Read(Some(2)), 60, 70), call(set(1, 2), 40, 50)];
    assert_eq!(property(&calls), "a value that was replaced does not come back");
    let seen = [
        call(Write(1), 0, 10),
        unknown(set(1, 2), 5),
        call(Read(Some(2)), 20, 30),
        call(Read(Some(1)), 40, 50),
    ];
    assert_eq!(property(&seen), "a value is there from its write to the next");
    assert_eq!(check(&[seen[0].clone(), seen[1].clone(), seen[3].clone()]), Ok(()));
}

#[test]
fn a_comparison_fails_for_a_reason() {
    let calls =
        [call(Write(1), 0, 10), call(Mismatch { expected: Some(1) }, 20, 30), call(Read(Some(1)), 40, 50)];
    assert_eq!(property(&calls), "a comparison fails only if something else is there");
    assert_eq!(check(&calls[..2]), Ok(()), "it may have been before the write had its effect");
    let nothing = [call(Mismatch { expected: None }, 20, 30), call(Read(None), 40, 50)];
    assert_eq!(property(&nothing), "a comparison fails only if something else is there");
}

/// Tries every order of what must and may have happened.
fn has_an_order(calls: &[Call], placed: &mut Vec<usize>, value: Option<u64>) -> bool {
    let must = |at: usize| calls[at].outcome == Outcome::Done;
    if (0..calls.len()).all(|at| !must(at) || placed.contains(&at)) {
        return true;
    }
    for next in 0..calls.len() {
        let is_late = |at: usize| {
            must(at) && !placed.contains(&at) && calls[at].interval.precedes(&calls[next].interval)
        };
        let is_out = placed.contains(&next) || calls[next].outcome == Outcome::Failed;
        if is_out || (0..calls.len()).any(is_late) {
            continue;
        }
        let after = match calls[next].action {
            Read(seen) if seen == value || !must(next) => value,
            Mismatch { expected } if expected != value || !must(next) => value,
            Write(new) => Some(new),
            Delete => None,
            CompareAndSet { expected, new } if expected == value => new,
            _ => continue,
        };
        placed.push(next);
        if has_an_order(calls, placed, after) {
            return true;
        }
        placed.pop();
    }
    false
}

/// What is done, how it ends, how early it began, how late it was answered.
type Plan = (u8, u8, u64, u64);

fn plans(calls_max: usize) -> impl Strategy<Value = Vec<Plan>> {
    proptest::collection::vec((0u8..8, 0u8..10, 0u64..40, 0u64..40), 1..calls_max)
}

/// A history made by executing one call after the other.
fn executed_in_order(plans: &[Plan], with_deletes: bool) -> Vec<Call> {
    let mut value = None;
    let mut calls = Vec::new();
    for (index, (act, end, early, late)) in plans.iter().enumerate() {
        let new = index as u64 + 1;
        let action = match act {
            0..3 => Read(value),
            3 | 4 => Write(new),
            5 => set(value, new),
            6 if with_deletes => Delete,
            7 if with_deletes && index % 2 == 0 => set(value, None),
            6 if value.is_some() => Mismatch { expected: None },
            _ => set(value, new),
        };
        let outcome = match end {
            0 => Outcome::Failed,
            1 | 2 => Outcome::Unknown,
            _ => Outcome::Done,
        };
        // An unknown outcome: one of them has happened, the other has not.
        if *end > 1 {
            value = match action {
                Write(new) => Some(new),
                Delete => None,
                CompareAndSet { new, .. } => new,
                _ => value,
            };
        }
        let point = 100 + 10 * index as u64;
        let interval =
            Interval { invoked_us: point - early, answered_us: (*end > 2).then_some(point + late) };
        calls.push(Call { actor: 1, key: "k".into(), interval, outcome, action });
    }
    calls
}

/// Makes some call see something else, or end otherwise or at another time.
fn mutate(calls: &mut [Call], (which, how, what): (usize, u8, usize)) {
    let known: Vec<u64> = calls.iter().filter_map(|call| call.action.written()).collect();
    let other = (!known.is_empty() && what % 4 > 0).then(|| known[what % known.len()]);
    let at = which % calls.len();
    let call = &mut calls[at];
    match how {
        0 => call.outcome = [Outcome::Done, Outcome::Failed, Outcome::Unknown][what % 3],
        1 => call.interval = Interval { invoked_us: 100 + what as u64, answered_us: Some(101 + what as u64) },
        2 => call.interval.answered_us = Some(call.interval.invoked_us + what as u64),
        _ => match &mut call.action {
            Read(seen) => *seen = other,
            CompareAndSet { expected, new } if *new != other => *expected = other,
            Mismatch { expected } => *expected = other,
            _ => {}
        },
    }
    if call.outcome == Outcome::Done && call.interval.answered_us.is_none() {
        call.interval.answered_us = Some(call.interval.invoked_us);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn what_was_executed_in_order_is_accepted(plans in plans(60), with_deletes: bool) {
        prop_assert_eq!(check(&executed_in_order(&plans, with_deletes)), Ok(()));
    }

    #[test]
    fn the_verdict_is_that_of_trying_every_order(
        plans in plans(8),
        with_deletes: bool,
        mutations in proptest::collection::vec((0usize..8, 0u8..6, 0usize..80), 0..4),
    ) {
        let mut calls = executed_in_order(&plans, with_deletes);
        for mutation in mutations {
            mutate(&mut calls, mutation);
        }
        let (verdict, has_an_order) = (check(&calls), has_an_order(&calls, &mut Vec::new(), None));
        let is_exact = calls.iter().all(|call| !call.action.removes() && !matches!(call.action, Mismatch { .. }));
        if is_exact {
            prop_assert_eq!(verdict.is_ok(), has_an_order, "{:?}: {:#?}", verdict, calls);
        } else {
            prop_assert!(verdict.is_ok() || !has_an_order, "{:?}: {:#?}", verdict, calls);
        }
    }
}
