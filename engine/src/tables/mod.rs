//! Tables: partitioned, replicated, transactional, on the [store](crate::store).
//!
//! A partition is a log and its fold: the log is replicated from a primary to its backups, the rows are what it comes to. What all
//! nodes must agree on (who is primary of what, which tables there are) is one register on the object store. Every protocol here
//! is a pure machine; the node's process reads the facts and carries out the effects.
//!
//! Not here: range scans across partitions in one transaction, secondary indexes.

pub mod clock;
pub mod cluster_state;
pub mod entry;
pub mod ids;
pub mod membership;
pub mod near;
pub mod partition;
pub mod reason;
pub mod replica;
pub mod rows;
pub mod rpc;
pub mod settle;
pub mod snapshot;
pub mod storage;
