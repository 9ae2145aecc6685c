//! What coordinator, workers and users say to each other: one frame, one message.
//!
//! Every message about a running job carries its [`Attempt`]: a receiver ignores what an older attempt or an older leader
//! says, and a worker that hears of a newer epoch drops what it runs for an older one. Nothing here is trusted further
//! than that: a message that does not decode breaks the connection.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::console::{CheckpointDetails, CheckpointList, PartTimes, TriggerStatus};
use crate::checkpoint::barrier::Barrier;
use crate::checkpoint::job_state::ClaimMode;
use crate::checkpoint::request::Request;
use crate::checkpoint::snapshot::{CheckpointId, KeyGroupRange, SubtaskState};
use crate::state::changelog::ChangelogOptions;

/// A deployment of the job: the leader's epoch, and the how many-th deployment of that leader. Fences everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The leader's epoch.
    pub epoch: u64,
    /// From 1 within the epoch.
    pub number: u32,
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// One parallel instance of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// Index of the vertex in the job graph.
    pub vertex: u16,
    /// Index of the instance.
    pub subtask: u16,
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.vertex, self.subtask)
    }
}

/// The job to run: the name of a query that both sides are built with, and its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Name of the job; the root of its objects.
    pub name: String,
    /// Name of the query.
    pub query: String,
    /// Parameters of the query, by name.
    pub parameters: std::collections::BTreeMap<String, u64>,
}

/// Where to start a task, and from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDeployment {
    /// Which.
    pub task: TaskId,
    /// How many instances the vertex has.
    pub parallelism: u16,
    /// Its share of the key groups.
    pub range: KeyGroupRange,
    /// The states it starts from: of a keyed subtask all those that overlap its range, of a source the positions of its
    /// partitions, of a sink the transactions it has to commit. Empty if the job starts from nothing.
    pub restore: Vec<SubtaskState>,
}

/// Why a task does not do its part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declined {
    /// It cannot.
    Failed(String),
    /// The barrier of a newer one has overtaken its own: nothing is wrong with the task.
    Superseded,
}

impl std::fmt::Display for Declined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Declined::Failed(reason) => f.write_str(reason),
            Declined::Superseded => f.write_str("superseded by a newer one"),
        }
    }
}

/// Where the tasks of an attempt run: the address on which their worker accepts channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The task.
    pub task: TaskId,
    /// Its worker's data address.
    pub data_address: SocketAddr,
}

/// From a worker, or a user, to a coordinator candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCoordinator {
    /// First message of a worker on a connection.
    Hello {
        /// The worker's name, unique in the cluster.
        worker: String,
        /// A new one each time the process starts: a worker that came back has lost its tasks.
        incarnation: String,
        /// Where it accepts channels from other workers.
        data_address: SocketAddr,
        /// How many tasks of each vertex it takes.
        slots: u16,
        /// The highest epoch it has heard of.
        epoch_seen: u64,
    },
    /// Still alive.
    Heartbeat,
    /// The task has restored its state and reads its input.
    Running { attempt: Attempt, task: TaskId },
    /// The task's part of a checkpoint is durable, and took so long.
    Acknowledge {
        attempt: Attempt,
        checkpoint: CheckpointId,
        task: TaskId,
        state: SubtaskState,
        times: PartTimes,
    },
    /// The task cannot do its part of a checkpoint, and goes on.
    Decline { attempt: Attempt, checkpoint: CheckpointId, task: TaskId, why: Declined },
    /// The task has failed; the attempt is lost.
    Failed { attempt: Attempt, task: TaskId, reason: String },
    /// The source has read all there is to read, and waits for the last checkpoint.
    Exhausted { attempt: Attempt, task: TaskId },
    /// The sink has committed everything up to and including this checkpoint.
    Committed { attempt: Attempt, checkpoint: CheckpointId, task: TaskId },
    /// A user asks for a status.
    GetStatus,
    /// A user asks for another parallelism; takes effect by a restart from the latest checkpoint.
    Rescale { parallelism: u16 },
    /// A user asks for a checkpoint or a savepoint; answered when the request is taken.
    Trigger(Request),
    /// A user asks what became of a request.
    GetTrigger { trigger_id: String },
    /// A user asks for the list.
    GetCheckpoints,
    /// A user asks about one checkpoint.
    GetCheckpoint { checkpoint: CheckpointId },
    /// A user deletes a checkpoint, or the files of a savepoint.
    DeleteCheckpoint { checkpoint: CheckpointId },
    /// A user ends the job at once.
    Cancel,
    /// A user brings an ended job back, from nothing or from a directory or metadata file of a checkpoint or savepoint.
    Start { from: Option<String>, claim: ClaimMode, allow_non_restored: bool },
    /// A coordinator candidate asks whether the leader is alive.
    Ping,
}

/// From a coordinator candidate to a worker or a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromCoordinator {
    /// This candidate leads; the connection stays.
    Welcome { epoch: u64 },
    /// This candidate does not lead; perhaps that one does.
    NotLeader { leader: Option<SocketAddr> },
    /// Start these tasks; everything of an older attempt ends first. Of a job that is about to end with its savepoint the
    /// sources read nothing (`stopping`): there is only left to commit. `changelog` says how changes of keyed state are logged, if they are.
    Deploy {
        attempt: Attempt,
        job: JobSpec,
        stopping: bool,
        changelog: Option<ChangelogOptions>,
        tasks: Vec<TaskDeployment>,
        placements: Vec<Placement>,
    },
    /// End every task of this and older attempts.
    Cancel { attempt: Attempt },
    /// Begin a checkpoint: sources emit its barrier.
    Trigger { attempt: Attempt, barrier: Barrier },
    /// The checkpoint is durable: commit.
    NotifyComplete { attempt: Attempt, checkpoint: CheckpointId },
    /// The checkpoint will never be, or is a savepoint and complete: forget it.
    NotifyAborted { attempt: Attempt, checkpoint: CheckpointId },
    /// The job is done; tasks end.
    Finish { attempt: Attempt },
    /// Answer to `GetStatus`.
    Status(JobStatus),
    /// Answer to `GetTrigger`.
    TriggerStatus(TriggerStatus),
    /// Answer to `GetCheckpoints`.
    Checkpoints(Box<CheckpointList>),
    /// Answer to `GetCheckpoint`.
    Checkpoint(Box<CheckpointDetails>),
    /// The request was taken.
    Accepted,
    /// The request was refused, and why.
    Refused { reason: String },
    /// Answer to `Ping` of a candidate that leads.
    Pong { epoch: u64 },
}

/// What a job is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The leader's epoch.
    pub epoch: u64,
    /// The deployment.
    pub attempt: Attempt,
    /// The phase.
    pub phase: JobPhase,
    /// Tasks that run.
    pub running_tasks: u32,
    /// Tasks that should.
    pub total_tasks: u32,
    /// The latest completed checkpoint, whether it is still there or not.
    pub latest_checkpoint: Option<CheckpointId>,
    /// Parallelism of the attempt.
    pub parallelism: u16,
}

/// See [`JobStatus::phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobPhase {
    /// Waits for workers.
    Waiting,
    /// Tasks are deployed and restore their state.
    Deploying,
    /// All tasks run.
    Running,
    /// All input is read, or the job is being stopped; what is last is on its way.
    Finishing,
    /// Everything is committed.
    Finished,
    /// A user ended it.
    Cancelled,
    /// It was restarted too often.
    Failed,
}

/// A message could not be read.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}: {source}")]
pub struct DecodeError {
    what: &'static str,
    source: postcard::Error,
}

/// The frame of a message.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_stdvec(message).expect("messages hold nothing that cannot be encoded").into()
}

/// The message of a frame.
///
/// # Errors
/// If it is not exactly one message of that type.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, DecodeError> {
    let malformed = |source| DecodeError { what: std::any::type_name::<T>(), source };
    let (message, rest) = postcard::take_from_bytes(frame).map_err(malformed)?;
    if rest.is_empty() { Ok(message) } else { Err(malformed(postcard::Error::DeserializeBadEncoding)) }
}
