//! What a copy is told, and what it asks for.

use std::sync::Arc;

use super::message::{LogShape, Message, RowsChunk, RowsTaken, Session};
use super::view::PartitionView;
use crate::tables::entry::Entry;
use crate::tables::ids::{LogIndex, NodeId, View};

/// How patient a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A primary with nothing to say says so this often.
    pub heartbeat_us: u64,
    /// What is not answered after so long is asked again.
    pub retry_us: u64,
    /// Who is not heard of for so long is put out of the view.
    pub silence_us: u64,
    /// Each backup waits so much longer than the one before it until it takes over.
    pub stagger_us: u64,
    /// What may be on its way to one copy. Bytes.
    pub max_inflight_bytes: usize,
    /// What goes in one message, unless one entry is larger. Bytes.
    pub max_message_bytes: usize,
    /// Entries kept in memory for those who lag a little. Bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            heartbeat_us: 100_000,
            retry_us: 500_000,
            silence_us: 2_000_000,
            stagger_us: 500_000,
            max_inflight_bytes: 8 << 20,
            max_message_bytes: 1 << 20,
            cache_bytes: 16 << 20,
        }
    }
}

/// What a copy finds in its store when its process starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The highest view that it has promised; 0 for none.
    pub promised: View,
    /// Its log.
    pub log: LogShape,
    /// What is applied to its rows.
    pub applied: LogIndex,
    /// Set if it was taking rows.
    pub rows: Option<RowsTaken>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The register says so.
    View(PartitionView),
    /// Entries that were admitted. Only while the view is open.
    Append(Vec<Arc<Entry>>),
    /// Somebody wants to read, under a number of his own.
    Read(u64),
    /// A copy says something.
    Message {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// The connection to a node broke: what was on its way may be lost.
    Disconnected(NodeId),
    /// A node is taken for dead.
    Down(NodeId),
    /// All steps up to this one are durable.
    Durable(u64),
    /// The answer to [`Effect::ReadLog`].
    LogRead {
        /// As asked.
        to: NodeId,
        /// As asked.
        session: Session,
        /// As asked.
        previous: LogIndex,
        /// The entries behind it; none if they are gone.
        entries: Vec<Arc<Entry>>,
    },
    /// The answer to [`Effect::ReadRows`].
    RowsRead {
        /// As asked.
        to: NodeId,
        /// As asked.
        session: Session,
        /// The rows.
        chunk: RowsChunk,
    },
    /// The log now begins after this index.
    Trimmed(LogIndex),
    /// This node shall become a copy. Ignored by all but a primary that is open and has no learner.
    Invite(NodeId),
    /// Time has passed.
    Tick,
}

/// What is to be done, in the order given. Steps go to the disk in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say something.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Remember that this copy has been in a view, durably.
    Promise {
        /// To be reported as durable.
        step: u64,
        /// The view.
        view: View,
    },
    /// Write entries to the log, durably.
    Persist {
        /// To be reported as durable.
        step: u64,
        /// Index of the first.
        first: LogIndex,
        /// The entries.
        entries: Vec<Arc<Entry>>,
    },
    /// Remove what is above `last` from the log.
    Truncate {
        /// To be reported as durable.
        step: u64,
        /// The index that stays.
        last: LogIndex,
    },
    /// Write rows; a stretch from the beginning first removes all that the copy has, log and rows. With the last stretch the copy
    /// is whole, as of the index.
    Install {
        /// To be reported as durable.
        step: u64,
        /// The rows.
        chunk: RowsChunk,
    },
    /// Everything up to here is committed: apply it.
    Commit {
        /// The index.
        up_to: LogIndex,
    },
    /// Read entries of the log, at least one if there is.
    ReadLog {
        /// For whom.
        to: NodeId,
        /// For what talk.
        session: Session,
        /// The entries behind this one.
        previous: LogIndex,
        /// So much. Bytes.
        max_bytes: usize,
    },
    /// Read rows at one moment of the store. Where the asker has rows of a moment that is still held, go on there; else hold a
    /// new one, and begin.
    ReadRows {
        /// For whom.
        to: NodeId,
        /// For what talk.
        session: Session,
        /// What it has.
        taken: Option<RowsTaken>,
        /// So much. Bytes.
        max_bytes: usize,
    },
    /// Answer these reads, from rows to which at least everything up to `at` is applied.
    Serve {
        /// Their numbers.
        reads: Vec<u64>,
        /// The index.
        at: LogIndex,
    },
    /// These cannot be answered here.
    FailReads(Vec<u64>),
    /// This primary takes requests. All of the log is committed, and the `Open` is its last entry.
    Opened {
        /// Its view.
        view: View,
        /// Index of the `Open`.
        index: LogIndex,
    },
    /// It takes no more requests. If it `stays` primary, what was appended stays in the log, and will be committed.
    Closed {
        /// True if the same node is the primary of the next view.
        stays: bool,
    },
    /// Ask the register for this view.
    Propose(PartitionView),
    /// Read the register.
    Refresh,
    /// This copy has stopped for good.
    Fault(Violation),
}

/// What must never be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A copy has applied what the primary does not have.
    #[error(
        "node {node} has applied entries up to {applied} that are not in the log of the primary of view {view}, which ends at {last}"
    )]
    CommittedLost {
        /// The view.
        view: View,
        /// Who has applied.
        node: NodeId,
        /// Up to where.
        applied: LogIndex,
        /// Where the primary's log ends.
        last: LogIndex,
    },
    /// The register has an older view than was promised.
    #[error("the register has view {view}, and this copy has been in view {promised}")]
    RegisterWentBack {
        /// As promised.
        promised: View,
        /// As read.
        view: View,
    },
    /// The register counts on this copy, which has nothing: another disk, or an emptied one.
    #[error(
        "view {view} makes this copy the primary, which has no log and has never been in a view: its disk is lost"
    )]
    DiskLost {
        /// The view.
        view: View,
    },
    /// The register counts on this copy, which has not got all rows.
    #[error("view {view} counts on this copy, which has only a part of the rows")]
    NotWhole {
        /// The view.
        view: View,
    },
}
