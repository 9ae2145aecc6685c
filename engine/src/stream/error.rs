//! Why a task ended before its time.

use crate::cluster::rpc::TaskId;
use crate::state::blob;

/// See the module. Each fails the attempt: the job goes on from its latest checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The deployment does not fit the query that this process was built with.
    #[error("deployment of task {task}: {what}")]
    Deployment {
        /// The task.
        task: TaskId,
        /// What does not fit.
        what: String,
    },
    /// A channel could not be opened in time.
    #[error("channel {from} -> {to}: {what}")]
    Connect {
        /// The sending task.
        from: TaskId,
        /// The receiving task.
        to: TaskId,
        /// What went wrong.
        what: String,
    },
    /// A channel broke.
    #[error("channel {from} -> {to}: {source}")]
    Channel {
        /// The sending task.
        from: TaskId,
        /// The receiving task.
        to: TaskId,
        /// What the network said.
        source: std::io::Error,
    },
    /// A channel brought bytes that are no elements.
    #[error("channel {from} -> {to}: {source}")]
    Malformed {
        /// The sending task.
        from: TaskId,
        /// The receiving task.
        to: TaskId,
        /// What is wrong with them.
        source: crate::stream::record::Malformed,
    },
    /// A record is not one of those the operator takes.
    #[error("{operator}: a record {what}")]
    Record {
        /// The operator.
        operator: String,
        /// What is wrong with it.
        what: String,
    },
    /// Keyed state.
    #[error(transparent)]
    State(#[from] crate::state::Error),
    /// An object that is neither state nor replaceable: output.
    #[error("transaction {transaction}: {source}")]
    Output {
        /// The transaction.
        transaction: String,
        /// What the store said.
        source: blob::Error,
    },
    /// What was in flight at the checkpoint that a task is restored from.
    #[error("input in flight to {task}: {source}")]
    InFlight {
        /// The task.
        task: TaskId,
        /// What the store said.
        source: blob::Error,
    },
    /// The asynchronous part of a checkpoint ended without a result.
    #[error("asynchronous part of checkpoint {checkpoint}: {source}")]
    Background {
        /// The checkpoint.
        checkpoint: crate::checkpoint::snapshot::CheckpointId,
        /// How it ended.
        source: cutwater_io::task::JoinError,
    },
    /// An upload that belongs to no checkpoint ended without a result.
    #[error("task {task}: upload for its changelog: {source}")]
    Uploading {
        /// The task.
        task: crate::cluster::rpc::TaskId,
        /// How it ended.
        source: cutwater_io::task::JoinError,
    },
}
