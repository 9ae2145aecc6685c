//! What the log of a partition is made of. The state of a partition is the fold of its entries, the same on every copy.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ids::{CutId, HybridTime, LogIndex, PartitionId, TxId};
use super::rows::{Change, Read};

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A transaction of this partition alone. What it read and which keys are locked was checked by the primary before it was
    /// appended, and holds for every fold.
    Write {
        /// Which.
        tx: TxId,
        /// When it commits.
        time: HybridTime,
        /// In the order of keys, each once.
        changes: Vec<Change>,
    },
    /// This partition's part of a transaction over several: locks what it reads (shared) and what it changes (alone).
    Prepare {
        /// Which.
        tx: TxId,
        /// The partition that decides.
        decider: PartitionId,
        /// All partitions of the transaction, in their order, with this one and the decider.
        participants: Vec<PartitionId>,
        /// Versions checked before it was appended.
        reads: Vec<Read>,
        /// In the order of keys, each once.
        changes: Vec<Change>,
    },
    /// Only in the decider: the outcome. It is the commit point.
    Decide {
        /// Which.
        tx: TxId,
        /// True if it is committed.
        commit: bool,
        /// The number of the last mark before it in this log: which cuts the transaction is before.
        generation: CutId,
        /// When it commits.
        time: HybridTime,
    },
    /// The prepared changes are made or dropped, and the locks are gone. Nothing if it is not prepared here.
    Finish {
        /// Which.
        tx: TxId,
        /// True if it is committed.
        commit: bool,
        /// As decided.
        generation: CutId,
        /// As decided.
        time: HybridTime,
    },
    /// Only in the decider: every participant has finished; the transaction is forgotten.
    Forget {
        /// Which.
        tx: TxId,
    },
    /// A cut passes here.
    Mark {
        /// Which.
        cut: CutId,
        /// The lowest index of a transaction that is prepared and not finished, or of this entry if there is none: from where the log must be
        /// kept to know the state at the cut.
        since: LogIndex,
    },
    /// Rows of a restore, only in tables that nobody sees yet.
    Load {
        /// The operation.
        operation: u64,
        /// Where in the operation's input for this partition the next load goes on: how a restore is resumed.
        next: u64,
        /// The rows; `None` removes one.
        changes: Vec<Change>,
    },
    /// The first entry of a primary in its view: what is before it is committed.
    Open {
        /// The view.
        view: u64,
    },
    /// A row is repaired. Applied only where it still has one of the versions that the repair saw.
    Repair {
        /// The key.
        key: Bytes,
        /// The version that the copies had, lowest first; none for a copy without the row.
        seen: Vec<Option<LogIndex>>,
        /// What shall stand there.
        value: Option<Bytes>,
    },
}
