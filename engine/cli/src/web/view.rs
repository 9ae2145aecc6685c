//! A job as the server shows it: plain data, and the trait of whoever has it.
//!
//! The server knows nothing of coordinators. What it shows it asks a [`JobView`]; [`super::live`] is the one of a running job.

use async_trait::async_trait;

/// What a job is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// Name of the job, and its id.
    pub name: String,
    /// In Flink's words: `CREATED`, `RUNNING`, `FINISHED` and so on.
    pub state: String,
    /// Epoch of the leader, and the how many-th deployment of that leader.
    pub attempt: (u64, u32),
    /// Tasks that run, and tasks that should.
    pub tasks: (u32, u32),
    /// In the order of the job graph.
    pub vertices: Vec<Vertex>,
}

/// A vertex of the job graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vertex {
    /// Its stable id.
    pub uid: String,
    /// How many subtasks it has.
    pub parallelism: u32,
}

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is under way.
    Creating,
    /// A job can start from it.
    Present,
    /// It was complete, and is deleted.
    Cleared,
    /// It took too long.
    Timeout,
    /// Something else went wrong.
    Failed,
}

impl Status {
    /// Flink's word.
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "IN_PROGRESS",
            Status::Present | Status::Cleared => "COMPLETED",
            Status::Timeout | Status::Failed => "FAILED",
        }
    }
}

/// Why a checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was time.
    Periodic,
    /// Somebody asked for it.
    Manual,
    /// The job was stopped.
    OnStop,
    /// All input was read.
    EndOfInput,
}

impl Source {
    /// A word for people.
    pub fn name(self) -> &'static str {
        match self {
            Source::Periodic => "periodic",
            Source::Manual => "manual",
            Source::OnStop => "on stop",
            Source::EndOfInput => "end of input",
        }
    }
}

/// A checkpoint or a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number.
    pub id: u64,
    /// Of whoever asked, or generated. Any text.
    pub description: String,
    /// What became of it.
    pub status: Status,
    /// Why it timed out, failed or was cleared.
    pub reason: Option<String>,
    /// Why it was taken.
    pub source: Source,
    /// Of a savepoint, its format.
    pub savepoint: Option<&'static str>,
    /// Wall clock at the trigger, in milliseconds since 1970.
    pub triggered_unix_ms: u64,
    /// Wall clock at the last acknowledgement, in milliseconds since 1970.
    pub acknowledged_unix_ms: Option<u64>,
    /// What it wrote, in bytes, if known.
    pub new_bytes: Option<u64>,
    /// All that it references, in bytes.
    pub full_bytes: u64,
    /// Version of the job that took it.
    pub job_version: Option<u64>,
    /// Where it is.
    pub location: Option<String>,
    /// Subtasks that have acknowledged, and subtasks that must; both 0 if that is not known any more.
    pub acknowledged: (u32, u32),
    /// What was in flight and is part of it, in bytes.
    pub persisted_bytes: u64,
}

impl Checkpoint {
    /// From the trigger to the last acknowledgement, in milliseconds.
    pub fn duration_ms(&self) -> Option<u64> {
        Some(self.acknowledged_unix_ms?.saturating_sub(self.triggered_unix_ms))
    }

    /// It is complete, deleted or not.
    pub fn is_completed(&self) -> bool {
        matches!(self.status, Status::Present | Status::Cleared)
    }
}

/// A vertex' part in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VertexPart {
    /// The vertex.
    pub uid: String,
    /// One for each subtask, in order.
    pub subtasks: Vec<SubtaskPart>,
}

/// A subtask's part in a checkpoint. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubtaskPart {
    /// It has acknowledged.
    pub is_acknowledged: bool,
    /// Wall clock at its acknowledgement, in milliseconds since 1970.
    pub acknowledged_unix_ms: Option<u64>,
    /// All that it references, in bytes.
    pub full_bytes: u64,
    /// What it wrote, in bytes.
    pub new_bytes: Option<u64>,
    /// While its records waited, in milliseconds.
    pub sync_ms: Option<u64>,
    /// While they did not, in milliseconds.
    pub async_ms: Option<u64>,
    /// From the first barrier to the last, in milliseconds.
    pub alignment_ms: Option<u64>,
    /// From the trigger to the first barrier, in milliseconds.
    pub start_delay_ms: Option<u64>,
    /// What was in flight and is part of it, in bytes.
    pub persisted_bytes: u64,
    /// Of the state, what is a log of changes to its base, in bytes.
    pub log_bytes: u64,
    /// The barrier overtook records.
    pub is_unaligned: bool,
}

/// When checkpoints are taken and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// From one to the next, in milliseconds.
    pub interval_ms: u64,
    /// Until it is given up, in milliseconds.
    pub timeout_ms: u64,
    /// From the end of one to the next, in milliseconds.
    pub min_pause_ms: u64,
    /// At once.
    pub max_concurrent: u64,
    /// In a row.
    pub tolerable_failures: u64,
    /// How many are kept.
    pub retained: u64,
    /// They are kept when the job is cancelled.
    pub retain_on_cancel: bool,
    /// Barriers may overtake records.
    pub unaligned: bool,
    /// After they have waited so long, in milliseconds.
    pub aligned_timeout_ms: u64,
    /// Changes are logged.
    pub changelog: bool,
    /// From one materialisation to the next, in milliseconds; 0 without a changelog.
    pub materialise_every_ms: u64,
    /// Where they are.
    pub storage: String,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A checkpoint; one that shares nothing if `full`.
    Checkpoint {
        /// Share nothing with earlier ones.
        full: bool,
    },
    /// A savepoint.
    Savepoint {
        /// Where.
        target: Option<String>,
        /// `CANONICAL` or `NATIVE`.
        format: String,
        /// End the job afterwards.
        cancel: bool,
    },
    /// A savepoint, and the end of the job.
    Stop {
        /// Where.
        target: Option<String>,
        /// `CANONICAL` or `NATIVE`.
        format: String,
        /// Let all windows fire before.
        drain: bool,
    },
    /// The end of the job.
    Cancel,
    /// The end of a checkpoint. Has come true once the view has answered.
    Delete {
        /// Which.
        id: u64,
    },
    /// A new start of a job that has ended. Has come true once the view has answered.
    Start {
        /// The URL of a checkpoint or savepoint, or its path in the job's store; nothing otherwise.
        from: Option<String>,
        /// Its files become the job's.
        claim: bool,
        /// State of vertices that the job does not have is left behind.
        allow_non_restored: bool,
    },
}

/// How a wish gets on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is under way.
    Working,
    /// It came true.
    Done {
        /// The checkpoint that it led to.
        id: Option<u64>,
        /// Where that is.
        location: Option<String>,
    },
    /// It will not.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Nobody leads the job, or the store does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// It was refused.
    #[error("{0}")]
    Refused(String),
}

/// Whoever knows a job.
#[async_trait]
pub trait JobView: Send + Sync + 'static {
    /// Name of the job.
    fn name(&self) -> &str;

    /// What it is doing.
    async fn overview(&self) -> Result<Overview, ViewError>;

    /// Its checkpoints, oldest first.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ViewError>;

    /// The parts of one; `None` if they are not known, or there is none of that number.
    async fn parts(&self, id: u64) -> Result<Option<Vec<VertexPart>>, ViewError>;

    /// The checkpoint that the job was last restored from.
    async fn restored(&self) -> Result<Option<Checkpoint>, ViewError>;

    /// When checkpoints are taken and kept.
    async fn config(&self) -> Result<Config, ViewError>;

    /// Asks for something, once for each `trigger` however often it is called. `trigger` is any short text.
    async fn wish(&self, trigger: &str, wish: Wish, description: &str) -> Result<(), ViewError>;

    /// How that gets on; `None` if it was never asked for.
    async fn progress(&self, trigger: &str) -> Result<Option<Progress>, ViewError>;
}
