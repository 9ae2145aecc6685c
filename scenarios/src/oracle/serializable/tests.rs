//! The known anomalies, each by name; and random histories, on which a checker that tries every order is the judge.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Model::{Serializable, StrictSerializable};
use super::*;

fn append(key: &str, element: u64) -> Operation {
    Operation::Append { key: key.into(), element }
}

fn list(key: &str, elements: &[u64]) -> Operation {
    Operation::ReadList { key: key.into(), elements: elements.into() }
}

fn write(key: &str, value: u64) -> Operation {
    Operation::Write { key: key.into(), value }
}

fn read(key: &str, value: impl Into<Option<u64>>) -> Operation {
    Operation::Read { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

/// One that overlaps with all others.
fn tx(operations: &[Operation]) -> Transaction {
    at(operations, 0, 1000)
}

fn at(operations: &[Operation], invoked_us: u64, answered_us: u64) -> Transaction {
    let interval = Interval { invoked_us, answered_us: Some(answered_us) };
    Transaction { actor: 1, interval, outcome: Outcome::Done, operations: operations.into() }
}

fn ended(outcome: Outcome, operations: &[Operation]) -> Transaction {
    Transaction { outcome, ..tx(operations) }
}

fn property(transactions: &[Transaction]) -> String {
    check(transactions, Serializable).expect_err("it has no serial order").property
}

#[test]
fn dirty_write_g0() {
    let writers = [tx(&[append("x", 1), append("y", 1)]), tx(&[append("x", 2), append("y", 2)])];
    let [one, other] = writers.clone();
    let readers = [tx(&[list("x", &[1, 2])]), tx(&[list("y", &[2, 1])])];
    let found = check(&[one, other, readers[0].clone(), readers[1].clone()], Serializable).unwrap_err();
    assert_eq!(found.property, "writes of transactions do not interleave (G0)");
    assert_eq!(
        found.found,
        "T0 (client 1, 0 to 1000 us) wrote 1 to x, and T1 (client 1, 0 to 1000 us) after it 2; \
         T1 (client 1, 0 to 1000 us) wrote 2 to y, and T0 (client 1, 0 to 1000 us) after it 1"
    );
}

#[test]
fn aborted_read_g1a() {
    let aborted = ended(Outcome::Failed, &[append("x", 1)]);
    assert_eq!(property(&[aborted.clone(), tx(&[list("x", &[1])])]), "nobody sees what was aborted (G1a)");
    let unknown = Transaction { outcome: Outcome::Unknown, ..aborted };
    assert_eq!(check(&[unknown, tx(&[list("x", &[1])])], StrictSerializable), Ok(()));
    assert_eq!(property(&[tx(&[list("x", &[7])])]), "what is read was written by somebody");
}

#[test]
fn who_was_seen_has_happened_and_so_has_what_it_saw() {
    let aborted = ended(Outcome::Failed, &[write("x", 1)]);
    let unknown = ended(Outcome::Unknown, &[read("x", 1), write("y", 2)]);
    assert_eq!(check(&[aborted.clone(), unknown.clone()], Serializable), Ok(()), "nobody saw it");
    let seen = [aborted, unknown, tx(&[read("y", 2)])];
    assert_eq!(property(&seen), "nobody sees what was aborted (G1a)");
}

#[test]
fn intermediate_read_g1b() {
    let writer = tx(&[append("x", 1), append("x", 2)]);
    assert_eq!(property(&[writer, tx(&[list("x", &[1])])]), "nobody sees an intermediate state (G1b)");
    let writer = tx(&[write("x", 1), delete("x")]);
    assert_eq!(property(&[writer, tx(&[read("x", 1)])]), "nobody sees an intermediate state (G1b)");
    let split = [tx(&[append("x", 1), append("x", 2)]), tx(&[append("x", 3)]), tx(&[list("x", &[1, 3, 2])])];
    assert_eq!(property(&split), "what a transaction appends stays together");
}

#[test]
fn circular_information_flow_g1c() {
    let one = tx(&[append("x", 1), list("y", &[2])]);
    let other = tx(&[append("y", 2), list("x", &[1])]);
    assert_eq!(property(&[one, other]), "information does not flow in a circle (G1c)");
}

#[test]
fn lost_update() {
    let begin = tx(&[write("x", 1)]);
    let lost = [begin, tx(&[read("x", 1), write("x", 2)]), tx(&[read("x", 1), write("x", 3)])];
    assert_eq!(property(&lost), "no update is lost");
    assert_eq!(
        property(&[tx(&[list("x", &[]), append("x", 2)]), tx(&[list("x", &[]), append("x", 3)])]),
        "no update is lost"
    );
}

#[test]
fn read_skew() {
    let begin = tx(&[append("x", 1), append("y", 1)]);
    let skewed = [begin, tx(&[append("x", 2), append("y", 2)]), tx(&[list("x", &[1]), list("y", &[1, 2])])];
    assert_eq!(property(&skewed), "a transaction sees one state (G-single)");
}

#[test]
fn write_skew_g2_item() {
    let one = tx(&[list("x", &[]), list("y", &[]), append("x", 1)]);
    let other = tx(&[list("x", &[]), list("y", &[]), append("y", 1)]);
    assert_eq!(
        property(&[one, other]),
        "no cycle of transactions that overwrite what others have read (G2-item)"
    );
}

#[test]
fn long_fork() {
    let writers = [tx(&[write("x", 1)]), tx(&[write("y", 1)])];
    let readers = [tx(&[read("x", 1), read("y", None)]), tx(&[read("y", 1), read("x", None)])];
    let all = [writers, readers].concat();
    assert_eq!(property(&all), "no cycle of transactions that overwrite what others have read (G2-item)");
}

#[test]
fn a_stale_read_breaks_real_time_only() {
    let stale = [at(&[append("x", 1)], 0, 10), at(&[list("x", &[])], 11, 20)];
    assert_eq!(check(&stale, Serializable), Ok(()));
    let found = check(&stale, StrictSerializable).unwrap_err();
    assert_eq!(found.property, "the order of transactions agrees with real time");
    assert!(found.found.contains("T0 (client 1, 0 to 10 us) was over before T1"), "{}", found.found);
    let meeting = [at(&[append("x", 1)], 0, 10), at(&[list("x", &[])], 10, 20)];
    assert_eq!(check(&meeting, StrictSerializable), Ok(()));
}

#[test]
fn a_lost_write_is_found_by_whoever_reads_later() {
    let history = [
        at(&[list("x", &[]), append("x", 1)], 0, 10),
        at(&[append("x", 2)], 20, 30),
        at(&[list("x", &[1])], 40, 50),
    ];
    assert_eq!(check(&history, Serializable), Ok(()));
    assert!(check(&history, StrictSerializable).is_err());
    let unknown = [history[0].clone(), ended(Outcome::Unknown, &[append("x", 2)]), history[2].clone()];
    assert_eq!(check(&unknown, StrictSerializable), Ok(()));
}

#[test]
fn own_writes_are_seen() {
    let own = tx(&[list("x", &[]), append("x", 1), list("x", &[1]), append("x", 2), list("x", &[1, 2])]);
    assert_eq!(check(&[own], StrictSerializable), Ok(()));
    for wrong in [vec![append("x", 1), list("x", &[])], vec![list("x", &[1]), append("x", 1)]] {
        assert_eq!(property(&[tx(&wrong)]), "a transaction sees its own writes");
    }
    for wrong in [vec![write("x", 1), read("x", None)], vec![read("x", 1), write("x", 1)]] {
        assert_eq!(property(&[tx(&wrong)]), "a transaction sees its own writes");
    }
}

#[test]
fn lists_agree() {
    let forked =
        [tx(&[append("x", 1)]), tx(&[append("x", 2)]), tx(&[list("x", &[1])]), tx(&[list("x", &[2, 1])])];
    assert_eq!(property(&forked), "lists that are read agree on their order");
    assert_eq!(
        property(&[tx(&[append("x", 1)]), tx(&[list("x", &[1, 1])])]),
        "an element that was appended once is there once"
    );
}

/// Tries every order of what must and may have happened.
fn has_an_order(transactions: &[Transaction], model: Model) -> bool {
    fn search(
        transactions: &[Transaction],
        model: Model,
        placed: &mut Vec<usize>,
        state: &BTreeMap<String, Vec<u64>>,
    ) -> bool {
        let is_open = |tx: usize, placed: &[usize]| !placed.contains(&tx);
        let must = |tx: usize| transactions[tx].outcome == Outcome::Done;
        if (0..transactions.len()).all(|tx| !must(tx) || placed.contains(&tx)) {
            return true;
        }
        for next in 0..transactions.len() {
            let is_late = |tx: usize| {
                must(tx)
                    && is_open(tx, placed)
                    && transactions[tx].interval.precedes(&transactions[next].interval)
            };
            let waits = model == StrictSerializable && (0..transactions.len()).any(is_late);
            if !is_open(next, placed) || transactions[next].outcome == Outcome::Failed || waits {
                continue;
            }
            let Some(after) = executed(&transactions[next], state) else { continue };
            placed.push(next);
            if search(transactions, model, placed, &after) {
                return true;
            }
            placed.pop();
        }
        false
    }
    search(transactions, model, &mut Vec::new(), &BTreeMap::new())
}

/// The state after the transaction, unless it would have read something else.
fn executed(tx: &Transaction, state: &BTreeMap<String, Vec<u64>>) -> Option<BTreeMap<String, Vec<u64>>> {
    let mut state = state.clone();
    for operation in &tx.operations {
        let value = state.entry(operation.key().into()).or_default();
        match operation {
            Operation::Append { element, .. } => value.push(*element),
            Operation::Write { value: new, .. } => *value = vec![*new],
            Operation::Delete { .. } => value.clear(),
            Operation::ReadList { elements, .. } if elements == value => {}
            Operation::Read { value: read, .. } if read.as_slice() == value => {}
            Operation::ReadList { .. } | Operation::Read { .. } => return None,
        }
    }
    Some(state)
}

/// What a client does with a key: a choice among those that the kind of keys has.
type Act = (usize, u8);
/// A transaction: what it does, how it ends, how early it began and how late it was answered.
type Plan = (Vec<Act>, u8, u64, u64);

fn plans(transactions_max: usize) -> impl Strategy<Value = Vec<Plan>> {
    let acts = proptest::collection::vec((0usize..2, any::<u8>()), 1..4);
    proptest::collection::vec((acts, 0u8..10, 0u64..40, 0u64..40), 1..transactions_max)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// Lists.
    Lists,
    /// Registers that are read before they are written, and never deleted.
    ReadFirst,
    /// Registers, whatever is done to them.
    Registers,
}

/// A history made by executing one transaction after the other.
fn executed_in_order(plans: &[Plan], keys: Keys) -> Vec<Transaction> {
    let mut state: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut next = 0;
    let mut transactions = Vec::new();
    for (index, (acts, end, early, late)) in plans.iter().enumerate() {
        let mut after = state.clone();
        let mut operations = Vec::new();
        for (key, act) in acts {
            let key = ["x", "y"][*key].to_owned();
            let value = after.entry(key.clone()).or_default();
            next += 1;
            let is_read = act % 2 == 0;
            if keys == Keys::Lists {
                operations.push(if is_read { list(&key, value) } else { append(&key, next) });
                value.extend((!is_read).then_some(next));
                continue;
            }
            if is_read || keys == Keys::ReadFirst {
                operations.push(read(&key, value.first().copied()));
            }
            if is_read {
                continue;
            }
            *value = if keys == Keys::Registers && act % 3 == 0 { vec![] } else { vec![next] };
            operations.push(if value.is_empty() { delete(&key) } else { write(&key, next) });
        }
        let outcome = match end {
            0 => Outcome::Failed,
            1 | 2 => Outcome::Unknown,
            _ => Outcome::Done,
        };
        // An unknown outcome: one of them has happened, the other has not.
        if *end > 1 {
            state = after;
        }
        let point = 100 + 10 * index as u64;
        let interval =
            Interval { invoked_us: point - early, answered_us: (*end > 2).then_some(point + late) };
        transactions.push(Transaction { actor: 1, interval, outcome, operations });
    }
    transactions
}

/// Makes some read see something else, or a transaction end otherwise or at another time.
fn mutate(transactions: &mut [Transaction], (which, how, what): (usize, u8, usize)) {
    let written = |wanted: &str| -> Vec<u64> {
        let all = transactions.iter().flat_map(|tx| &tx.operations).filter(|op| op.key() == wanted);
        all.filter_map(Operation::written).collect()
    };
    let (x, y) = (written("x"), written("y"));
    let at = which % transactions.len();
    let tx = &mut transactions[at];
    match how {
        0 => tx.outcome = [Outcome::Done, Outcome::Failed, Outcome::Unknown][what % 3],
        1 => tx.interval = Interval { invoked_us: 100 + what as u64, answered_us: Some(101 + what as u64) },
        _ => {
            let at = what % tx.operations.len();
            let operation = &mut tx.operations[at];
            let known = if operation.key() == "x" { x } else { y };
            let other = (!known.is_empty()).then(|| known[what / 2 % known.len()]);
            match operation {
                Operation::ReadList { elements, .. } if what % 2 == 0 => drop(elements.pop()),
                Operation::ReadList { elements, .. } => elements.extend(other),
                Operation::Read { value, .. } => *value = if what % 5 == 0 { None } else { other },
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_was_executed_in_order_is_accepted(plans in plans(40), kind in 0usize..3) {
        let history = executed_in_order(&plans, [Keys::Lists, Keys::ReadFirst, Keys::Registers][kind]);
        prop_assert_eq!(check(&history, StrictSerializable), Ok(()));
        prop_assert_eq!(check(&history, Serializable), Ok(()));
    }

    #[test]
    fn the_verdict_is_that_of_trying_every_order(
        plans in plans(6),
        kind in 0usize..3,
        mutations in proptest::collection::vec((0usize..6, 0u8..6, 0usize..60), 0..4),
    ) {
        let keys = [Keys::Lists, Keys::ReadFirst, Keys::Registers][kind];
        let mut history = executed_in_order(&plans, keys);
        for mutation in mutations {
            mutate(&mut history, mutation);
        }
        for model in [Serializable, StrictSerializable] {
            let (verdict, has_an_order) = (check(&history, model), has_an_order(&history, model));
            if keys == Keys::Registers {
                prop_assert!(verdict.is_ok() || !has_an_order, "{:?}: {:#?}", verdict, history);
            } else {
                prop_assert_eq!(verdict.is_ok(), has_an_order, "{:?}: {:#?}", verdict, history);
            }
        }
    }
}

#[test]
fn long_histories_are_judged_in_time() {
    let mut state = Vec::new();
    let mut history = Vec::new();
    for index in 0..20_000u64 {
        let key = format!("k{}", index / 50);
        if index % 50 == 0 {
            state.clear();
        }
        let operations = [list(&key, &state), append(&key, index)];
        state.push(index);
        history.push(at(&operations, index * 10, index * 10 + 200));
    }
    assert_eq!(check(&history, StrictSerializable), Ok(()));
}
