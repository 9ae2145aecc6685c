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
    /// How far the parts of each have come, in the order of `entries`.
    pub progress: Vec<Progress>,
}

/// How far the parts of one checkpoint have come. All 0 if nothing is known any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Subtasks that have acknowledged.
    pub acknowledged: u32,
    /// Subtasks that must.
    pub total: u32,
    /// What was in flight and is part of it, in bytes.
    pub persisted_bytes: u64,
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
    /// Of those, what was in flight when an unaligned barrier overtook it.
    pub persisted_bytes: u64,
    /// Of the state, what is a log of changes to its base.
    pub log_bytes: u64,
    /// How long it took; unknown after a change of the leader.
    pub times: Option<PartTimes>,
}

/// How long the part of one subtask took, on its worker's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartTimes {
    /// From the arrival of the first barrier to the snapshot; of a source 0. In microseconds.
    pub alignment_us: u64,
    /// The snapshot, while which no record was processed, in microseconds.
    pub sync_us: u64,
    /// From there to the acknowledgement, beside the records, in microseconds.
    pub async_us: u64,
    /// The barrier overtook records.
    pub is_unaligned: bool,
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
