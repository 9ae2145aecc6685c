//! Why a node does not do what it was asked. Every reason here is certain: nothing was done, and nothing will be.
//!
//! Silence is none of them: who gets no answer does not know.

use serde::{Deserialize, Serialize};

use super::ids::PartitionId;
use super::partition::{Conflict, Refused};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// Another transaction is in the way.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The transaction was aborted on behalf of others, since it did not get on.
    #[error("the transaction was undecided for too long")]
    Settled,
    /// The node is not the primary of the partition, or not yet, or not any more.
    #[error("the node does not serve partition {0} now")]
    NotPrimary(PartitionId),
    /// No primary could be reached in time, and nothing was changed.
    #[error("partition {0} has no primary that answers")]
    NoPrimary(PartitionId),
    /// There is no such table or partition, or there is none any more.
    #[error("there is no partition {0}")]
    PartitionUnknown(PartitionId),
    /// The table is of the other kind.
    #[error("table {table} is {is}: no {what}")]
    WrongKind {
        /// The table.
        table: String,
        /// What it is.
        is: String,
        /// What was asked.
        what: String,
    },
    /// More than a limit allows.
    #[error("{what}: {value}, the limit is {limit}")]
    TooLarge {
        /// Of what.
        what: String,
        /// What was asked for.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The request contradicts itself.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// Too much waits already.
    #[error("overloaded: {waiting} requests wait, the limit is {limit}")]
    Overloaded {
        /// How many.
        waiting: u64,
        /// How many may.
        limit: u64,
    },
    /// The change of the cluster's state is refused.
    #[error("{0}")]
    Cluster(String),
    /// The node's own disk or the object store is in the way.
    #[error("{0}")]
    Broken(String),
}

impl Reason {
    /// True if the same may be asked again a little later, of whoever is the primary then.
    pub fn is_passing(&self) -> bool {
        matches!(self, Reason::NotPrimary(_) | Reason::Overloaded { .. })
    }

    /// True if another transaction was in the way: the client begins again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Reason::Conflict(_) | Reason::Settled)
    }

    /// What a partition's refusal is to those who asked.
    pub fn of(refused: Refused, partition: PartitionId) -> Reason {
        match refused {
            Refused::Conflict(conflict) => conflict.into(),
            Refused::Stale { .. } | Refused::NotOpen { .. } => Reason::NotPrimary(partition),
            Refused::Limit { what, value, limit } => {
                Reason::TooLarge { what: what.into(), value: value as u64, limit: limit as u64 }
            }
            Refused::Malformed(what) => Reason::Malformed(what.into()),
            other => Reason::Malformed(other.to_string()),
        }
    }
}
