//! A copy of a partition in the node's store: its log, its rows, and what its process must find again.
//!
//! All copies of a node share one store. Keys, numbers big-endian so that they sort:
//!
//! ```text
//! 'P' | table: u32 | partition: u16 | kind: u8 | rest
//!   kind 'a'  promise    the highest view that was promised
//!   kind 'b'  begin      the index before the log, and its view
//!   kind 'c'  applied    the applied index, and the sums
//!   kind 'd'  ledger     the ledger at an index at or below the applied one
//!   kind 'e'  entry      | index: u64        an entry of the log
//!   kind 'o'  open       | index: u64        the view of an `Open` in the log
//!   kind 'r'  row        | key               version: u64 | value
//!   kind 't'  taken      how far a learner has taken rows
//! ```
//!
//! - **One batch per step**: rows, sums and applied index change together, and so do an entry and its place among the opens. Whatever crash
//!   comes, what is found is the state after a step.
//! - The log is written with a sync, rows without: the store's log keeps the order, so rows that survive are those of entries that
//!   survive, and rows that do not are made again from them. Steps of several partitions that wait together share a sync; that is the store's doing.
//! - The ledger is stored now and then, and folded on from there when the copy is opened, exactly to the applied index. So the log is
//!   kept from there on.
//! - Checksums are those of the store: every block and log record has one. What is behind them is still decoded as if it were hostile, and
//!   an error says in which partition, and where.
//!
//! Not here: which entries are committed, who is told what (`replica`), and how long the log is kept for snapshots (the node says so).

mod install;
mod key;
mod log;
mod open;
mod rows;
#[cfg(all(test, madsim))]
mod tests;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use log::LogStep;
pub use open::{Opened, partitions};
pub use rows::{HeldCopy, HeldRows, Rows, Step};

use super::ids::{LogIndex, PartitionId, View};
use super::partition::Sums;
use super::replica::RowsTaken;
use super::rows::Content;
use crate::store::{self, Store};

/// What can go wrong with a copy.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("partition {partition}: {source}")]
    Store {
        /// Whose.
        partition: PartitionId,
        /// What.
        source: store::Error,
    },
    /// What is stored cannot be what was written.
    #[error("partition {partition}: {what} {at}: {why}")]
    Damaged {
        /// Whose.
        partition: PartitionId,
        /// Of what kind.
        what: &'static str,
        /// Which: an index or a key.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// An entry of the log is not there, and those around it are.
    #[error("partition {partition}: entry {index} is missing")]
    Missing {
        /// Whose.
        partition: PartitionId,
        /// Which.
        index: LogIndex,
    },
    /// A step failed or was given up in the middle: open the copy again, to see what is there.
    #[error("partition {partition}: a step of before has not ended, the copy must be opened again")]
    Interrupted {
        /// Whose.
        partition: PartitionId,
    },
    /// The rows that were taken are not those that the primary has.
    #[error("partition {partition}: rows with sum {found:?} were taken, and the primary has {expected:?}")]
    Content {
        /// Whose.
        partition: PartitionId,
        /// Of what was taken.
        found: Content,
        /// As the primary says.
        expected: Content,
    },
}

/// A copy in a store. Clones are the same copy.
#[derive(Clone, Debug)]
pub struct CopyStore {
    store: Store,
    partition: PartitionId,
}

/// Stored under `begin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Begin {
    before: LogIndex,
    view: View,
}

/// Stored under `applied`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct AppliedState {
    index: LogIndex,
    sums: Sums,
}

/// Stored under `taken`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    rows: RowsTaken,
    content: Content,
}

impl CopyStore {
    /// The copy of a partition, there or not.
    pub fn new(store: Store, partition: PartitionId) -> CopyStore {
        CopyStore { store, partition }
    }

    /// Whose.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    fn failed(&self) -> impl Fn(store::Error) -> Error + use<> {
        let partition = self.partition;
        move |source| Error::Store { partition, source }
    }

    fn damaged(&self, what: &'static str, at: impl ToString, why: impl ToString) -> Error {
        Error::Damaged { partition: self.partition, what, at: at.to_string(), why: why.to_string() }
    }

    fn decode<T: DeserializeOwned>(
        &self,
        what: &'static str,
        at: impl ToString,
        bytes: &[u8],
    ) -> Result<T, Error> {
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(self.damaged(what, at, format!("{} bytes too many", rest.len()))),
            Err(error) => Err(self.damaged(what, at, error)),
        }
    }

    /// A value that there is at most one of.
    async fn single<T: DeserializeOwned>(&self, kind: key::Kind) -> Result<Option<T>, Error> {
        let bytes = self.store.get(&key::of(self.partition, kind, &[])).await.map_err(self.failed())?;
        bytes.map(|bytes| self.decode(kind.name(), "", &bytes)).transpose()
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("what is stored holds nothing that cannot be encoded")
}

fn encode_row(version: LogIndex, value: &Bytes) -> Vec<u8> {
    [&version.to_le_bytes()[..], value].concat()
}
