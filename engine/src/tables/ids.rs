//! What nodes, tables, partitions and transactions are called.

use serde::{Deserialize, Serialize};

/// A node of the cluster: its index in the register's list of members, which only grows. A node that comes back keeps it.
pub type NodeId = u16;

/// A table. Ids are never used again, so a table that is made under the name of a dropped one is another.
pub type TableId = u32;

/// The number of a view of a partition: grows with each change of its copies.
pub type View = u64;

/// Position of an entry in a partition's log, from 1 without gaps: the update counter of the partition.
pub type LogIndex = u64;

/// The number of a cut, from 1; 0 is before the first.
pub type CutId = u64;

/// A hybrid logical time, in microseconds since 1970: the wall clock of a node, but above every time it has heard of. So an effect is
/// always later than its cause, whatever the clocks say. Every message carries the sender's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HybridTime(pub u64);

/// A partition of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The table.
    pub table: TableId,
    /// Below the table's number of partitions.
    pub number: u16,
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.table, self.number)
    }
}

/// A transaction: drawn at random by the client that begins it, so that nobody needs to be asked for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxId(pub u128);

impl std::fmt::Display for TxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
