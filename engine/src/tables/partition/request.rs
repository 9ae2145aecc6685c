//! What a primary is asked to append, and why it may not.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::MAX_PARTICIPANTS;
use super::ledger::{Decision, Outcome};
use crate::tables::entry::Entry;
use crate::tables::ids::{CutId, HybridTime, LogIndex, PartitionId, TxId, View};
use crate::tables::rows::{Change, MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, MAX_VALUE_BYTES, Read};

/// Something that shall be appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A transaction of this partition alone.
    Write {
        /// Which.
        tx: TxId,
        /// What it has read, in the order of keys, each once.
        reads: Vec<Read>,
        /// What it changes, in the order of keys, each once.
        changes: Vec<Change>,
    },
    /// This partition's part of a transaction over several.
    Prepare {
        /// Which.
        tx: TxId,
        /// The partition that decides.
        decider: PartitionId,
        /// All of them, in their order.
        participants: Vec<PartitionId>,
        /// As of [`Request::Write`].
        reads: Vec<Read>,
        /// As of [`Request::Write`].
        changes: Vec<Change>,
    },
    /// To the decider: all have prepared, or somebody has refused.
    Decide {
        /// Which.
        tx: TxId,
        /// True if all have prepared.
        commit: bool,
    },
    /// To a participant, from the decider: is it prepared? If not, it never shall be.
    Settle {
        /// Which.
        tx: TxId,
    },
    /// To a participant: what was decided.
    Finish {
        /// Which.
        tx: TxId,
        /// As decided.
        commit: bool,
        /// As decided.
        generation: CutId,
        /// As decided.
        time: HybridTime,
    },
    /// To the decider, by itself: all have finished.
    Forget {
        /// Which.
        tx: TxId,
    },
    /// A cut passes.
    Mark {
        /// Which.
        cut: CutId,
    },
    /// Rows of a restore.
    Load {
        /// The operation.
        operation: u64,
        /// Where in its input these begin.
        at: u64,
        /// Where the next begin; above `at`.
        next: u64,
        /// The rows, in the order of keys, each once.
        changes: Vec<Change>,
    },
    /// A row is repaired.
    Repair {
        /// The key.
        key: Bytes,
        /// The versions that the copies had.
        seen: Vec<Option<LogIndex>>,
        /// What shall stand there.
        value: Option<Bytes>,
    },
}

/// The answer to a request that is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Append this. The answer is due when it is applied.
    Append(Entry),
    /// It is in the log already. The answer is due when the entry at the index is applied, which it may be.
    Known {
        /// Where it stands.
        index: LogIndex,
        /// What that comes to.
        state: Known,
    },
    /// It is aborted: nothing is known of it. (The answer to a request to decide.)
    Unknown,
    /// Nothing is to be done: it was done before.
    Nothing,
}

/// What is known of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is prepared, and not decided here.
    Prepared,
    /// It is decided here, and not forgotten.
    Decided(Decision),
    /// It has ended.
    Ended(Outcome),
}

/// Why a transaction cannot go on. Its client begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Conflict {
    /// The row has changed since it was read.
    #[error("key {} has version {found:?}, and {read:?} was read", key.escape_ascii())]
    Changed {
        /// The key.
        key: Bytes,
        /// The version that was read.
        read: Option<LogIndex>,
        /// The version that it has.
        found: Option<LogIndex>,
    },
    /// A prepared transaction holds the key.
    #[error("key {} is locked by transaction {by}", key.escape_ascii())]
    Locked {
        /// The key.
        key: Bytes,
        /// By whom.
        by: TxId,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another transaction is in the way.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The facts are too old to judge by: read the rows again.
    #[error("rows as of entry {as_of} are too old to judge by, read them as of {oldest} or later")]
    Stale {
        /// What the facts were read at.
        as_of: LogIndex,
        /// The oldest that will do.
        oldest: LogIndex,
    },
    /// More than a limit allows.
    #[error("{what}: {value}, the limit is {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        value: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The request contradicts itself, or what it says of others cannot be.
    #[error("{0}")]
    Malformed(&'static str),
    /// The cut is not above the last one.
    #[error("cut {cut} is not above cut {last}")]
    OldCut {
        /// Which.
        cut: CutId,
        /// The last in the log.
        last: CutId,
    },
    /// The load does not go on where the last ended.
    #[error("operation {operation} loads from {at}, and goes on at {expected}")]
    LoadGap {
        /// The operation.
        operation: u64,
        /// Where it would begin.
        at: u64,
        /// Where it must.
        expected: u64,
    },
    /// The transaction was decided otherwise.
    #[error("transaction {tx} was decided otherwise")]
    Contradicts {
        /// Which.
        tx: TxId,
    },
    /// It was prepared after a cut and is said to be before it: somebody has not passed on the number of the cut.
    #[error("transaction {tx} was prepared after cut {cut} and has generation {generation}")]
    BeforeItsCut {
        /// Which.
        tx: TxId,
        /// The cut.
        cut: CutId,
        /// What was said.
        generation: CutId,
    },
    /// The primary of this view is not open yet, or not any more.
    #[error("view {view} is not open")]
    NotOpen {
        /// The view.
        view: View,
    },
}

/// Rows as somebody has read them from the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The index that was applied when they were read.
    pub as_of: LogIndex,
    /// Their versions.
    pub versions: BTreeMap<Bytes, Option<LogIndex>>,
}

impl Request {
    /// The keys whose versions must be known to judge it.
    pub fn needs(&self) -> Vec<&Bytes> {
        match self {
            Request::Write { reads, .. } | Request::Prepare { reads, .. } => {
                reads.iter().map(|read| &read.key).collect()
            }
            Request::Repair { key, .. } => vec![key],
            Request::Decide { .. }
            | Request::Settle { .. }
            | Request::Finish { .. }
            | Request::Forget { .. }
            | Request::Mark { .. }
            | Request::Load { .. } => Vec::new(),
        }
    }

    /// Judges the request by itself.
    ///
    /// # Errors
    /// What is out of bounds or contradicts itself.
    pub fn check(&self, partition: PartitionId) -> Result<(), Refused> {
        match self {
            Request::Write { reads, changes, .. } => check_rows(reads, changes),
            Request::Prepare { decider, participants, reads, changes, .. } => {
                limit("participants of a transaction", participants.len(), MAX_PARTICIPANTS)?;
                ensure(is_ascending(participants), "participants are not in their order, each once")?;
                ensure(participants.contains(&partition), "the partition is no participant")?;
                ensure(participants.contains(decider), "the decider is no participant")?;
                check_rows(reads, changes)
            }
            Request::Load { at, next, changes, .. } => {
                ensure(at < next, "a load that does not advance")?;
                check_rows(&[], changes)
            }
            Request::Repair { key, seen, value } => {
                ensure(!seen.is_empty(), "a repair that has seen no copy")?;
                let change = Change { key: key.clone(), value: value.clone() };
                check_rows(&[], &[change])
            }
            Request::Decide { .. }
            | Request::Settle { .. }
            | Request::Finish { .. }
            | Request::Forget { .. }
            | Request::Mark { .. } => Ok(()),
        }
    }
}

fn check_rows(reads: &[Read], changes: &[Change]) -> Result<(), Refused> {
    let keys = reads.iter().map(|read| &read.key).chain(changes.iter().map(|change| &change.key));
    let values = || changes.iter().filter_map(|change| change.value.as_ref());
    let longest_key = keys.clone().map(Bytes::len).max().unwrap_or(0);
    limit("bytes of a key", longest_key, MAX_KEY_BYTES)?;
    limit("bytes of a value", values().map(Bytes::len).max().unwrap_or(0), MAX_VALUE_BYTES)?;
    let len_bytes = keys.chain(values()).map(Bytes::len).sum();
    limit("bytes of a transaction", len_bytes, MAX_TRANSACTION_BYTES)?;
    let (read, changed): (Vec<_>, Vec<_>) =
        (reads.iter().map(|read| &read.key).collect(), changes.iter().map(|change| &change.key).collect());
    ensure(is_ascending(&read), "reads are not in the order of keys, each once")?;
    ensure(is_ascending(&changed), "changes are not in the order of keys, each once")
}

fn is_ascending<T: Ord>(items: &[T]) -> bool {
    items.windows(2).all(|pair| pair[0] < pair[1])
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(Refused::Malformed(otherwise)) }
}

fn limit(what: &'static str, value: usize, limit: usize) -> Result<(), Refused> {
    if value <= limit { Ok(()) } else { Err(Refused::Limit { what, value, limit }) }
}
