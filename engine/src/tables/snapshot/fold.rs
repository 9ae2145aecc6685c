//! From the rows at one cut to the rows at the next, or at a time between: the fold of a partition's log, filtered.
//!
//! A transaction has a generation: it is before cut k if that is below k. That of a `Write` follows from the marks in its log, that of a
//! `Finish` is in it. So a step from cut j to cut k makes what has a generation from j on and below k:
//! - of what is before the mark of j, only the prepared transactions are remembered: their effects are in the rows already;
//! - between the marks, everything is made, but what finishes with a generation below j: that is in the rows as well;
//! - after the mark of k, what finishes with a generation below k. Its keys were locked all the time, so nothing was between.
//!
//! For a point in time, a transaction must also be no later than it. Times follow causes, so what remains is closed under causality, and each
//! transaction has one time everywhere. A repair and a load have no time: where one lies between the cuts, the time is refused.
//!
//! Pure: items in, changes out, one after the other; how they are batched is the caller's affair and makes no difference. It holds
//! the transactions that are prepared, and what [`Rows`] is: of [`Digests`], some hundred bytes for each row.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::segment::{Indexed, KeyedRow};
use crate::tables::entry::Entry;
use crate::tables::ids::{CutId, HybridTime, LogIndex, TxId};
use crate::tables::rows::{Change, Content, row_hash};

/// What is known of the rows while they are folded.
pub trait Rows {
    /// The version of the row at `key`.
    fn version(&self, key: &[u8]) -> Option<LogIndex>;
    /// The row at `key` is replaced, or removed.
    fn set(&mut self, key: &Bytes, version: LogIndex, value: Option<&Bytes>);
    /// What they come to.
    fn content(&self) -> Content;
}

/// Versions and hashes of the rows, by the hash of their keys: enough to know what to change, and what it comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    rows: BTreeMap<u128, (LogIndex, u128)>,
    content: Content,
}

impl Rows for Digests {
    fn version(&self, key: &[u8]) -> Option<LogIndex> {
        self.rows.get(&xxh3_128(key)).map(|(version, _)| *version)
    }

    fn set(&mut self, key: &Bytes, version: LogIndex, value: Option<&Bytes>) {
        let of_key = xxh3_128(key);
        let before = match value {
            Some(value) => {
                let hash = row_hash(key, value);
                self.content.add_hash(hash);
                self.rows.insert(of_key, (version, hash))
            }
            None => self.rows.remove(&of_key),
        };
        if let Some((_, hash)) = before {
            self.content.remove_hash(hash);
        }
    }

    fn content(&self) -> Content {
        self.content
    }
}

/// From which cut to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The cut whose rows are there.
    pub from: CutId,
    /// Where its mark is.
    pub from_mark: LogIndex,
    /// From where its log is needed.
    pub since: LogIndex,
    /// The cut to go to.
    pub to: CutId,
    /// Where its mark is.
    pub to_mark: LogIndex,
    /// The last entry that is needed.
    pub settled: LogIndex,
    /// Without what is later than this.
    pub until: Option<HybridTime>,
}

impl From<super::chain::Step<'_>> for Step {
    fn from(step: super::chain::Step<'_>) -> Step {
        Step {
            from: step.from,
            from_mark: step.from_part.mark,
            since: step.from_part.since,
            to: step.to,
            to_mark: step.to_part.mark,
            settled: step.to_part.settled,
            until: step.until,
        }
    }
}

/// Why a log does not lead where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The document says that a mark is where there is none.
    #[error("entry {index} is not the mark of cut {cut}")]
    NoMark {
        /// Where.
        index: LogIndex,
        /// Of which cut.
        cut: CutId,
    },
    /// Entries are missing at the beginning, in the middle or at the end.
    #[error("entry {expected} is missing, there is {found}")]
    Gap {
        /// What should come.
        expected: LogIndex,
        /// What there is; 0 is the end.
        found: LogIndex,
    },
    /// It changes rows, and does not say when: no point in time between these cuts can be made.
    #[error("entry {index} has no time, and lies between the cuts around the time that is wanted")]
    Untimed {
        /// Where.
        index: LogIndex,
    },
    /// A transaction before the cut has not finished.
    #[error(
        "the log ends with transaction {tx} of generation {generation} unfinished, which is before the cut"
    )]
    Unsettled {
        /// Which.
        tx: TxId,
        /// Its generation, as decided here.
        generation: CutId,
    },
}

/// A partition being made.
#[derive(Clone, Debug, Default)]
pub struct Fold<R> {
    rows: R,
    step: Option<UnderWay>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    step: Step,
    /// The entry that comes next; of the first it is the latest that it may be.
    next: Option<LogIndex>,
    prepared: BTreeMap<TxId, Vec<Change>>,
    /// Committed here and not finished.
    decided: BTreeMap<TxId, CutId>,
}

impl<R: Rows> Fold<R> {
    /// With no rows.
    pub fn new(rows: R) -> Fold<R> {
        Fold { rows, step: None }
    }

    /// The rows.
    pub fn rows(&self) -> &R {
        &self.rows
    }

    /// A row of the base.
    pub fn base(&mut self, row: KeyedRow) -> Change {
        let KeyedRow { key, row } = row;
        self.rows.set(&key, row.version, Some(&row.value));
        Change { key, value: Some(row.value) }
    }

    /// The log from one cut to the next begins.
    ///
    /// # Panics
    /// If another one has not ended.
    pub fn begin(&mut self, step: Step) {
        assert!(self.step.is_none(), "one log after the other");
        self.step = Some(UnderWay { step, next: None, prepared: BTreeMap::new(), decided: BTreeMap::new() });
    }

    /// The next entry of the log, and what it changes.
    ///
    /// # Errors
    /// If the log is not the one that the step tells of, or leads to no point in time.
    ///
    /// # Panics
    /// If no log has begun.
    pub fn entry(&mut self, indexed: Indexed) -> Result<Vec<Change>, FoldError> {
        let Indexed { index, entry } = indexed;
        let under_way = self.step.as_mut().expect("a log has begun");
        let step = under_way.step;
        match under_way.next {
            // It may begin earlier than it is needed.
            None if index > step.since => return Err(FoldError::Gap { expected: step.since, found: index }),
            Some(expected) if expected != index => return Err(FoldError::Gap { expected, found: index }),
            _ => under_way.next = Some(index.saturating_add(1)),
        }
        check_mark(step, index, &entry)?;
        let is_between = index > step.from_mark && index < step.to_mark;
        let is_early = |time: HybridTime| step.until.is_none_or(|until| time <= until);
        let changes = match entry {
            Entry::Write { time, changes, .. } if is_between && is_early(time) => changes,
            Entry::Prepare { tx, changes, .. } => {
                under_way.prepared.insert(tx, changes);
                return Ok(Vec::new());
            }
            Entry::Decide { tx, commit: true, generation, .. } if under_way.prepared.contains_key(&tx) => {
                under_way.decided.insert(tx, generation);
                return Ok(Vec::new());
            }
            Entry::Finish { tx, commit, generation, time } => {
                under_way.decided.remove(&tx);
                let prepared = under_way.prepared.remove(&tx);
                let is_in_step = index > step.from_mark && (step.from..step.to).contains(&generation);
                prepared.filter(|_| commit && is_in_step && is_early(time)).unwrap_or_default()
            }
            Entry::Load { .. } | Entry::Repair { .. } if is_between && step.until.is_some() => {
                return Err(FoldError::Untimed { index });
            }
            Entry::Load { changes, .. } if is_between => changes,
            Entry::Repair { key, seen, value } if is_between && seen.contains(&self.rows.version(&key)) => {
                vec![Change { key, value }]
            }
            _ => Vec::new(),
        };
        for Change { key, value } in &changes {
            self.rows.set(key, index, value.as_ref());
        }
        Ok(changes)
    }

    /// The log has ended.
    ///
    /// # Errors
    /// If it ended too early.
    ///
    /// # Panics
    /// If no log has begun.
    pub fn end(&mut self) -> Result<(), FoldError> {
        let UnderWay { step, next, decided, .. } = self.step.take().expect("a log has begun");
        let next = next.unwrap_or(step.since);
        if next <= step.settled {
            return Err(FoldError::Gap { expected: next, found: 0 });
        }
        match decided.into_iter().find(|(_, generation)| *generation < step.to) {
            Some((tx, generation)) => Err(FoldError::Unsettled { tx, generation }),
            None => Ok(()),
        }
    }
}

fn check_mark(step: Step, index: LogIndex, entry: &Entry) -> Result<(), FoldError> {
    for (mark, cut) in [(step.from_mark, step.from), (step.to_mark, step.to)] {
        let is_it = matches!(entry, Entry::Mark { cut: found, .. } if *found == cut);
        if index == mark && !is_it {
            return Err(FoldError::NoMark { index, cut });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
