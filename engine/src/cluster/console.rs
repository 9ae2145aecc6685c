//! What a leader tells of a job's checkpoints: the answers to a console.

use serde::{Deserialize, Serialize};

use crate::checkpoint::coordinator::CheckpointConfig;
use crate::checkpoint::history::Entry;
use crate::checkpoint::job_state::Status;
use crate::checkpoint::snapshot::CheckpointId;

/// The list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointList {
    /// The job.
    pub job: String,
    /// The how many-th start of it.
    pub job_version: u32,
    /// Whether it runs.
    pub status: Status,
    /// When checkpoints are taken.
    pub config: CheckpointConfig,
    /// In order of the ids; those under way included.
    pub entries: Vec<Entry>,
    /// How many ever completed.
    pub completed: u64,
    /// How many ever did not.
    pub failed: u64,
    /// How often this leader restored the job from a checkpoint.
    pub restores: u64,
    /// From which last.
    pub restored: Option<Restored>,
}

/// What the tasks that run were started from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The checkpoint.
    pub id: CheckpointId,
    /// Its metadata object.
    pub location: String,
    /// It is a savepoint.
    pub is_savepoint: bool,
    /// Wall clock at the deployment, in milliseconds since 1970; for people.
    pub at_unix_ms: u64,
}

/// One checkpoint, with the parts of its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDetails {
    /// It.
    pub entry: Entry,
    /// In the order of the job graph; empty if nothing is known any more.
    pub vertices: Vec<VertexDetails>,
}

/// The parts of one vertex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VertexDetails {
    /// The vertex.
    pub uid: String,
    /// In order of the subtasks; `None` as long as one has not acknowledged.
    pub subtasks: Vec<Option<SubtaskDetails>>,
}

/// The part of one subtask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskDetails {
    /// Wall clock when its acknowledgement came, in milliseconds since 1970; unknown after a change of the leader.
    pub acknowledged_unix_ms: Option<u64>,
    /// Sum of the lengths of the files it references, in bytes.
    pub state_bytes: u64,
    /// Of those, what it wrote for this checkpoint.
    pub new_bytes: u64,
}

/// What became of a request of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerStatus {
    /// It waits for its turn.
    Waiting,
    /// It became a checkpoint or savepoint.
    Triggered(Box<Entry>),
    /// It came to nothing.
    GivenBack {
        /// Why.
        reason: String,
    },
    /// Nobody knows of it: it was never taken, or its leader is gone and it had not become anything.
    Unknown,
}
