//! What registers tell. A transaction that reads a value and then writes the register is its successor: whoever else read that value is
//! before it. Of a write without a read before it nothing is known but that it comes after the register was empty.

use std::collections::BTreeMap;
use std::rc::Rc;

use cutwater_sim::scenario::Violation;

use super::graph::{Graph, Kind, Versions};
use super::{History, Operation, Outcome, violation};

/// What one transaction did with the register; `None` is that there is nothing.
struct View {
    tx: usize,
    /// What it read before it wrote.
    reads: Vec<Option<u64>>,
    writes: Vec<Option<u64>>,
}

/// Adds the edges that the register `key` implies.
pub(super) fn infer<'a>(
    history: &History<'a>,
    graph: &mut Graph,
    key: &'a str,
    touching: &[usize],
) -> Result<(), Violation> {
    let views = touching.iter().map(|tx| view(history, key, *tx)).collect::<Result<Vec<_>, _>>()?;
    let last_write: BTreeMap<usize, Option<u64>> =
        views.iter().filter_map(|view| Some((view.tx, *view.writes.last()?))).collect();
    for view in &views {
        for value in view.reads.iter().flatten() {
            let writer = history.writer(key, *value);
            if last_write[&writer] != Some(*value) {
                return Err(violation("nobody sees an intermediate state (G1b)").found(format!(
                    "{} read {value} in {key}, which {} wrote and then changed again",
                    history.name(view.tx),
                    history.name(writer)
                )));
            }
        }
    }
    edges(history, graph, key, &views, &last_write);
    Ok(())
}

fn view<'a>(history: &History<'a>, key: &'a str, tx: usize) -> Result<View, Violation> {
    let mut view = View { tx, reads: Vec::new(), writes: Vec::new() };
    for operation in history.transactions[tx].operations.iter().filter(|op| op.key() == key) {
        match operation {
            Operation::Write { value, .. } => view.writes.push(Some(*value)),
            Operation::Delete { .. } => view.writes.push(None),
            Operation::Read { value, .. } => {
                let own = view.writes.last();
                let is_early = own.is_none() && value.is_some_and(|value| history.writer(key, value) == tx);
                if own.is_some_and(|own| own != value) || is_early {
                    return Err(violation("a transaction sees its own writes").found(format!(
                        "{} had written {:?} to {key}, and read {value:?}",
                        history.name(tx),
                        view.writes
                    )));
                }
                if own.is_none() {
                    view.reads.push(*value);
                }
            }
            _ => unreachable!("the key is a register"),
        }
    }
    Ok(view)
}

/// Whether the register may have been removed at any time: then it is not known of which nothing a reader of nothing tells.
fn may_be_removed(history: &History<'_>, key: &str) -> bool {
    let may_have_happened = history.transactions.iter().filter(|tx| tx.outcome != Outcome::Failed);
    may_have_happened
        .flat_map(|tx| &tx.operations)
        .any(|operation| matches!(operation, Operation::Delete { key: removed } if removed == key))
}

fn edges(
    history: &History<'_>,
    graph: &mut Graph,
    key: &str,
    views: &[View],
    last_write: &BTreeMap<usize, Option<u64>>,
) {
    let name: Rc<str> = key.into();
    let versions = |old: Option<u64>, new: Option<u64>| Versions { key: name.clone(), old, new };
    let is_ambiguous = may_be_removed(history, key);
    let is_known = |value: &Option<u64>| value.is_some() || !is_ambiguous;
    // Two are enough to contradict each other.
    let mut successors: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
    for view in views.iter().filter(|view| !view.writes.is_empty()) {
        for value in view.reads.iter().filter(|value| is_known(value)) {
            let known = successors.entry(*value).or_default();
            if known.len() < 2 && known.last() != Some(&view.tx) {
                known.push(view.tx);
            }
        }
    }
    for view in views {
        for value in view.reads.iter().filter(|value| is_known(value)) {
            if let Some(read) = value {
                let writer = history.writers[&(key, *read)];
                graph.edge(writer, view.tx, Kind::WriteRead(versions(*value, None)));
            }
            for next in successors.get(value).into_iter().flatten() {
                graph.edge(view.tx, *next, Kind::ReadWrite(versions(*value, last_write[next])));
            }
        }
    }
    if is_ambiguous {
        return;
    }
    // Who read nothing comes before all who wrote.
    let first = successors.get(&None).map(|known| known[0]);
    let before_all = match first {
        Some(first) => first,
        None => {
            let readers: Vec<usize> =
                views.iter().filter(|view| view.reads.contains(&None)).map(|view| view.tx).collect();
            if readers.is_empty() {
                return;
            }
            let joint = graph.add_moment();
            for tx in readers {
                graph.edge(tx, joint, Kind::ReadWrite(versions(None, None)));
            }
            joint
        }
    };
    for (tx, value) in last_write {
        graph.edge(before_all, *tx, Kind::ReadWrite(versions(None, *value)));
    }
}
