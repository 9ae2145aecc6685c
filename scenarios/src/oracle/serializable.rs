//! Oracle `serializable`: transactions over keys, judged by what clients were told.
//!
//! From what was read and written it infers which transaction must be before which in every serial order that explains the history, and
//! looks for a cycle among these edges. The method is Elle's (Kingsbury & Alvaro, 2020), the phenomena are Adya's (1999). Keys are of
//! two kinds:
//! - a *list*, to which elements are appended, each unique in its key: whoever reads it sees the whole order of versions before;
//! - a *register*, whose values are unique in its key: the order of versions is known where a transaction reads a key before it writes it.
//!
//! Sound: each edge is forced by what a committed transaction saw, so a cycle, and everything else that is reported, has no explanation
//! by any serial order. Transactions that failed must not be seen. Those with an unknown outcome have happened if somebody who committed
//! saw them, and are left out else. What transactions read that did not commit is not judged: reads are checked at commit.
//!
//! Complete (what is accepted has a serial order) for lists, and for registers that are never deleted nor written without being read
//! before by the same transaction. Beyond that some edges are not known, as the last reader of an absent row cannot say of which delete it was.
//!
//! With [`Model::StrictSerializable`] the order must also agree with real time: who was answered is before who begins later.
//!
//! The time is that of sorting. The search for the *shortest* cycle, once there is one, takes longer, and is bounded.

mod graph;
mod lists;
mod registers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use cutwater_sim::scenario::Violation;

use super::calls::{Interval, Outcome};
use graph::{Graph, Kind};

/// The oracle's name in violations.
const ORACLE: &str = "serializable";

/// What must hold of the order of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// There is one.
    Serializable,
    /// There is one that agrees with real time.
    StrictSerializable,
}

/// A transaction, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The client.
    pub actor: u16,
    /// From its first operation to the answer to its commit.
    pub interval: Interval,
    /// How it ended.
    pub outcome: Outcome,
    /// In the order in which it made them. It sees its own writes.
    pub operations: Vec<Operation>,
}

/// What a transaction does with a key. A key is a list or a register for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An element is added at the end of a list.
    Append {
        /// The list.
        key: String,
        /// Unique in the list.
        element: u64,
    },
    /// A list is read; a list that is not there is empty.
    ReadList {
        /// The list.
        key: String,
        /// What it held.
        elements: Vec<u64>,
    },
    /// A register is written.
    Write {
        /// The register.
        key: String,
        /// Unique in the register.
        value: u64,
    },
    /// A register is removed.
    Delete {
        /// The register.
        key: String,
    },
    /// A register is read.
    Read {
        /// The register.
        key: String,
        /// What it held; `None` if it was not there.
        value: Option<u64>,
    },
}

impl Operation {
    fn key(&self) -> &str {
        match self {
            Operation::Append { key, .. }
            | Operation::ReadList { key, .. }
            | Operation::Write { key, .. }
            | Operation::Delete { key }
            | Operation::Read { key, .. } => key,
        }
    }

    /// The values that it claims somebody wrote.
    fn seen(&self) -> &[u64] {
        match self {
            Operation::ReadList { elements, .. } => elements,
            Operation::Read { value, .. } => value.as_slice(),
            _ => &[],
        }
    }

    /// The value that it writes.
    fn written(&self) -> Option<u64> {
        match self {
            Operation::Append { element: value, .. } | Operation::Write { value, .. } => Some(*value),
            _ => None,
        }
    }
}

/// Judges a history.
///
/// # Errors
/// The phenomenon, with the transactions that show it; `T5` is the one with index 5.
///
/// # Panics
/// If a value is written twice to a key, or a key is both a list and a register: the workload is wrong then.
pub fn check(transactions: &[Transaction], model: Model) -> Result<(), Violation> {
    let history = History::new(transactions);
    let happened = history.happened()?;
    let mut graph = Graph::new(transactions.len());
    for (key, touching) in history.by_key(&happened) {
        let operations = |tx: usize| transactions[tx].operations.iter().filter(|op| op.key() == key);
        let is_list = |op: &Operation| matches!(op, Operation::Append { .. } | Operation::ReadList { .. });
        let lists = touching.iter().flat_map(|tx| operations(*tx)).filter(|op| is_list(op)).count();
        let all = touching.iter().map(|tx| operations(*tx).count()).sum::<usize>();
        assert!(lists == 0 || lists == all, "{key} is both a list and a register");
        if lists > 0 {
            lists::infer(&history, &mut graph, key, &touching)?;
        } else {
            registers::infer(&history, &mut graph, key, &touching)?;
        }
    }
    if model == Model::StrictSerializable {
        real_time(&mut graph, transactions, &happened);
    }
    graph.check(transactions)
}

/// The transactions, and who wrote what.
struct History<'a> {
    transactions: &'a [Transaction],
    /// By key and value.
    writers: BTreeMap<(&'a str, u64), usize>,
}

impl<'a> History<'a> {
    fn new(transactions: &'a [Transaction]) -> History<'a> {
        let mut writers = BTreeMap::new();
        for (tx, operation) in
            transactions.iter().enumerate().flat_map(|(tx, t)| t.operations.iter().map(move |op| (tx, op)))
        {
            if let Some(value) = operation.written() {
                let before = writers.insert((operation.key(), value), tx);
                assert!(before.is_none(), "{} is written to {} twice", value, operation.key());
            }
        }
        History { transactions, writers }
    }

    fn writer(&self, key: &'a str, value: u64) -> usize {
        self.writers[&(key, value)]
    }

    /// The transactions that took effect: those acknowledged, and whatever they saw, and so on.
    fn happened(&self) -> Result<BTreeSet<usize>, Violation> {
        let done = |tx: &usize| self.transactions[*tx].outcome == Outcome::Done;
        let mut happened: BTreeSet<usize> = (0..self.transactions.len()).filter(done).collect();
        let mut open: Vec<usize> = happened.iter().copied().collect();
        while let Some(reader) = open.pop() {
            for operation in &self.transactions[reader].operations {
                for value in operation.seen() {
                    let Some(writer) = self.writers.get(&(operation.key(), *value)).copied() else {
                        return Err(violation("what is read was written by somebody").found(format!(
                            "{} read {value} in {}",
                            self.name(reader),
                            operation.key()
                        )));
                    };
                    if self.transactions[writer].outcome == Outcome::Failed {
                        return Err(violation("nobody sees what was aborted (G1a)").found(format!(
                            "{} read {value} in {}, written by {}, which failed",
                            self.name(reader),
                            operation.key(),
                            self.name(writer)
                        )));
                    }
                    if happened.insert(writer) {
                        open.push(writer);
                    }
                }
            }
        }
        Ok(happened)
    }

    /// The transactions that touched a key, of those that happened.
    fn by_key(&self, happened: &BTreeSet<usize>) -> BTreeMap<&'a str, Vec<usize>> {
        let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for tx in happened {
            for operation in &self.transactions[*tx].operations {
                let touching = by_key.entry(operation.key()).or_default();
                if touching.last() != Some(tx) {
                    touching.push(*tx);
                }
            }
        }
        by_key
    }

    fn name(&self, tx: usize) -> String {
        name(self.transactions, tx)
    }
}

fn violation(property: &str) -> Violation {
    Violation::new(ORACLE, property).of("transaction")
}

fn name(transactions: &[Transaction], tx: usize) -> String {
    let Transaction { actor, interval, .. } = &transactions[tx];
    format!("T{tx} (client {actor}, {interval})")
}

/// Who was answered is before who begins later. Instead of an edge for each pair there is a chain of moments at which somebody was answered.
fn real_time(graph: &mut Graph, transactions: &[Transaction], happened: &BTreeSet<usize>) {
    let is_over = |tx: &usize| transactions[*tx].outcome == Outcome::Done;
    let mut ends: Vec<(u64, usize)> = happened
        .iter()
        .filter(|tx| is_over(tx))
        .filter_map(|tx| Some((transactions[*tx].interval.answered_us?, *tx)))
        .collect();
    ends.sort_unstable();
    let mut moments: Vec<usize> = Vec::with_capacity(ends.len());
    for (_, tx) in &ends {
        let moment = graph.add_moment();
        graph.edge(*tx, moment, Kind::RealTime);
        if let Some(before) = moments.last() {
            graph.edge(*before, moment, Kind::RealTime);
        }
        moments.push(moment);
    }
    for tx in happened {
        let invoked_us = transactions[*tx].interval.invoked_us;
        let over = ends.partition_point(|(answered_us, _)| *answered_us < invoked_us);
        if over > 0 {
            graph.edge(moments[over - 1], *tx, Kind::RealTime);
        }
    }
}
