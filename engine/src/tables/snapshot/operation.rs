//! What the machines of the operations have in common: how an operation ends, why it is refused, and what of it stands in the register.
//!
//! An operation is a record of the register: which one, who owns it, and a step. A machine is made from that alone, so any node can go on
//! where another stopped. Everything it decides is either recorded as the next step, or can be done again without harm.
//!
//! It has one end: done, failed or cancelled. Who asks for a cancel sets a mark in the record; whether it comes in time is decided by the
//! owner's next step, and never both.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::chain::Broken;
use crate::tables::ids::{CutId, PartitionId};

/// What stands in the register of an operation, beside its id and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<R, S> {
    /// What is to be done.
    pub request: R,
    /// How far it is.
    pub step: S,
    /// Somebody wants it stopped.
    pub cancel: bool,
}

impl<R: Serialize + DeserializeOwned, S: Serialize + DeserializeOwned> Record<R, S> {
    /// As text, for the register.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("records have nothing that cannot be text")
    }

    /// From the register.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// What was wanted is there.
    Done,
    /// It is not, and nothing of it is left.
    Failed(Reason),
    /// Nothing of it is left because somebody wanted that.
    Cancelled,
    /// Somebody else owns it now: how it ends is theirs to know.
    Superseded,
}

/// Why an operation was refused or failed. Its words are the user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// Another operation may not run beside it.
    #[error("operation {id} ({kind}) is under way")]
    Busy {
        /// Which.
        id: u64,
        /// What it does.
        kind: String,
    },
    /// There are no tables.
    #[error("there are no tables")]
    NoTables,
    /// The name is taken.
    #[error("there is a snapshot of that name: take an increment, or delete it first")]
    NameTaken,
    /// There is no such snapshot.
    #[error("there is no snapshot of that name")]
    NoSnapshot,
    /// Something lies where the document belongs.
    #[error("{object} is taken by something else: {what}")]
    ObjectTaken {
        /// Where.
        object: String,
        /// What it is.
        what: String,
    },
    /// Logs were not kept: it would have taken too much room.
    #[error("the logs since cut {cut} were not kept (the budget was exceeded): take a full snapshot")]
    PinBroken {
        /// The cut of the last increment.
        cut: CutId,
    },
    /// The chain has a defect.
    #[error("the chain is broken: {0}")]
    Chain(String),
    /// A partition has nobody to ask.
    #[error("partition {partition} has no copy in sync that answers")]
    NoCopy {
        /// Which.
        partition: PartitionId,
    },
    /// Copies of a partition differ.
    #[error("the copies of partition {partition} differ at cut {cut}: verify and repair it first")]
    CopiesDiffer {
        /// Which.
        partition: PartitionId,
        /// Where.
        cut: CutId,
    },
    /// The tables changed while it was made.
    #[error("the tables changed while the snapshot was made: {0}")]
    TablesChanged(String),
    /// No cut got through.
    #[error("{tried} cuts were given up, the last is {cut}")]
    CutsGivenUp {
        /// How many.
        tried: u32,
        /// The last.
        cut: CutId,
    },
    /// Something that was to be restored is there.
    #[error("there is a table {table} already: restore it under another name")]
    TableThere {
        /// Its name.
        table: String,
    },
    /// The snapshot is not whole.
    #[error("the snapshot is damaged ({defects} defects), first: {first}")]
    Damaged {
        /// How many defects it has.
        defects: usize,
        /// The first.
        first: String,
    },
    /// A partition did not come out as it was.
    #[error("partition {partition} came to {found}, the snapshot says {expected}")]
    NotEqual {
        /// Which.
        partition: PartitionId,
        /// What the copies hold.
        found: String,
        /// What they should hold.
        expected: String,
    },
    /// A limit of the cluster.
    #[error("{0}")]
    Limit(String),
    /// Something failed for too long, or in a way that trying again does not mend.
    #[error("{0}")]
    Other(String),
}

impl From<Broken> for Reason {
    fn from(broken: Broken) -> Reason {
        match broken {
            Broken::NoSnapshot => Reason::NoSnapshot,
            other => Reason::Chain(other.to_string()),
        }
    }
}

/// Why an operation is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It failed.
    Failed(Reason),
    /// Somebody wanted it stopped.
    Cancelled,
}

impl From<Why> for End {
    fn from(why: Why) -> End {
        match why {
            Why::Failed(reason) => End::Failed(reason),
            Why::Cancelled => End::Cancelled,
        }
    }
}
