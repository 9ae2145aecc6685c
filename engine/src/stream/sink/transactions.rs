//! Which output is open, staged, to be committed, committed. Pure.
//!
//! Invariants: a transaction is committed only when a checkpoint at or above its own is complete; a checkpoint is reported
//! as committed only when no transaction at or below it is outstanding; the ids that are reported grow.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::output::Builder;
use crate::checkpoint::snapshot::CheckpointId;
use crate::cluster::rpc::{Attempt, TaskId};
use crate::stream::record::Record;

/// The output of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Unique in the life of the job.
    pub id: String,
    /// The checkpoint whose barrier ended the epoch.
    pub checkpoint: CheckpointId,
    /// See [`super::output`].
    pub content: Bytes,
}

/// See the module.
#[derive(Debug)]
pub struct Transactions {
    attempt: Attempt,
    task: TaskId,
    open: Builder,
    /// By checkpoint; true while it is being committed.
    outstanding: BTreeMap<CheckpointId, (Transaction, bool)>,
    last_barrier: Option<CheckpointId>,
    complete: Option<CheckpointId>,
    reported: Option<CheckpointId>,
}

impl Transactions {
    /// Of a task that has committed all that it was handed at its restore.
    pub fn new(attempt: Attempt, task: TaskId) -> Transactions {
        Transactions {
            attempt,
            task,
            open: Builder::default(),
            outstanding: BTreeMap::new(),
            last_barrier: None,
            complete: None,
            reported: None,
        }
    }

    /// A record arrives.
    pub fn push(&mut self, record: &Record) {
        self.open.push(record);
    }

    /// A barrier ends the epoch. Returns what belongs to the checkpoint: everything not known to be committed.
    ///
    /// # Panics
    /// If the ids of barriers do not grow.
    pub fn barrier(&mut self, checkpoint: CheckpointId) -> Vec<Transaction> {
        assert!(self.last_barrier.is_none_or(|last| last < checkpoint), "barrier {checkpoint} out of order");
        self.last_barrier = Some(checkpoint);
        if let Some(content) = self.open.take() {
            let (Attempt { epoch, number }, TaskId { vertex, subtask }) = (self.attempt, self.task);
            let id = format!("{epoch}-{number}-{vertex}-{subtask}-{checkpoint}");
            self.outstanding.insert(checkpoint, (Transaction { id, checkpoint, content }, false));
        }
        self.outstanding.values().map(|(transaction, _)| transaction.clone()).collect()
    }

    /// A checkpoint is complete. Returns what is to be committed and is not being committed yet.
    pub fn complete(&mut self, checkpoint: CheckpointId) -> Vec<Transaction> {
        self.complete = self.complete.max(Some(checkpoint));
        let due = self.outstanding.range_mut(..=checkpoint).filter(|(_, (_, committing))| !committing);
        due.map(|(_, (transaction, committing))| {
            *committing = true;
            transaction.clone()
        })
        .collect()
    }

    /// True unless the transaction is committed.
    pub fn is_outstanding(&self, id: &str) -> bool {
        self.outstanding.values().any(|(transaction, _)| transaction.id == id)
    }

    /// The transaction of that checkpoint is committed; returns its id.
    ///
    /// # Panics
    /// If it was not to be committed.
    pub fn committed(&mut self, checkpoint: CheckpointId) -> String {
        match self.outstanding.remove(&checkpoint) {
            Some((transaction, true)) => transaction.id,
            other => panic!("transaction of {checkpoint} was not due: {other:?}"),
        }
    }

    /// The checkpoint up to which everything is committed, if that is news.
    pub fn to_report(&mut self) -> Option<CheckpointId> {
        let complete = self.complete.filter(|complete| self.reported < Some(*complete))?;
        if self.outstanding.range(..=complete).next().is_some() {
            return None;
        }
        self.reported = Some(complete);
        Some(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transactions() -> Transactions {
        Transactions::new(Attempt { epoch: 7, number: 2 }, TaskId { vertex: 3, subtask: 1 })
    }

    fn record(n: u8) -> Record {
        Record::new(vec![n], Bytes::new())
    }

    fn ids(transactions: &[Transaction]) -> Vec<&str> {
        transactions.iter().map(|t| t.id.as_str()).collect()
    }

    #[test]
    fn an_empty_epoch_leaves_nothing_and_is_reported() {
        let mut sink = transactions();
        assert!(sink.barrier(CheckpointId(1)).is_empty());
        assert_eq!(sink.to_report(), None);
        assert!(sink.complete(CheckpointId(1)).is_empty());
        assert_eq!(sink.to_report(), Some(CheckpointId(1)));
        assert_eq!(sink.to_report(), None, "once");
    }

    #[test]
    fn output_of_an_aborted_checkpoint_travels_with_the_next() {
        let mut sink = transactions();
        sink.push(&record(1));
        assert_eq!(ids(&sink.barrier(CheckpointId(1))), ["7-2-3-1-1"]);
        sink.push(&record(2));
        assert_eq!(ids(&sink.barrier(CheckpointId(2))), ["7-2-3-1-1", "7-2-3-1-2"]);
        sink.push(&record(3));
        assert_eq!(ids(&sink.complete(CheckpointId(2))), ["7-2-3-1-1", "7-2-3-1-2"]);
        assert!(sink.complete(CheckpointId(2)).is_empty(), "they are being committed");
        sink.committed(CheckpointId(2));
        assert_eq!(sink.to_report(), None, "1 is outstanding");
        assert_eq!(ids(&sink.barrier(CheckpointId(3))), ["7-2-3-1-1", "7-2-3-1-3"], "1 may yet be lost");
        sink.committed(CheckpointId(1));
        assert_eq!(sink.to_report(), Some(CheckpointId(2)));
        assert!(sink.complete(CheckpointId(1)).is_empty(), "a late notification");
        assert_eq!(sink.to_report(), None);
    }

    #[test]
    #[should_panic(expected = "was not due")]
    fn nothing_is_committed_before_its_checkpoint_is_complete() {
        let mut sink = transactions();
        sink.push(&record(1));
        sink.barrier(CheckpointId(1));
        sink.committed(CheckpointId(1));
    }
}
