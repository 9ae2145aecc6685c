//! What a subtask hands to the coordinator at a barrier, and what a checkpoint is made of.
//!
//! Pure data, shared by workers (who write the files and report them), the coordinator (who decides their fate) and
//! restore (who reads them back). Every file is named by a [`FileHandle`] that says its length and checksum, so that a
//! truncated or foreign object is never taken for state.

use serde::{Deserialize, Serialize};

use crate::state::operator_state::OperatorPart;

/// Number of a checkpoint; grows over all leaders and restores of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointId(pub u64);

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An inclusive range of key groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// First key group.
    pub first: u16,
    /// Last key group, inclusive.
    pub last: u16,
}

/// An object that holds state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHandle {
    /// Full path in the object store.
    pub path: String,
    /// Length in bytes.
    pub len_bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

/// A file of a store: its name in the store's directory, and where its content is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFile {
    /// File name in the store's directory, such as `000012.sst`.
    pub name: String,
    /// The object.
    pub handle: FileHandle,
}

/// What kind of state a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StateKind {
    /// One value per key.
    Value,
    /// What is left of all values that were added.
    Reducing,
    /// Elements in order.
    List,
    /// Values by a second key.
    Map,
}

/// A state of a keyed operator, as it is known by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateSchema {
    /// Where it lies in the store.
    pub id: u16,
    /// What the operator calls it.
    pub name: String,
    /// What it is.
    pub kind: StateKind,
}

impl std::fmt::Display for StateSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({:?}, id {})", self.name, self.kind, self.id)
    }
}

/// A keyed subtask's store at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedSnapshot {
    /// The key groups it covers.
    pub range: KeyGroupRange,
    /// The states that are in it.
    pub states: Vec<StateSchema>,
    /// Immutable table files, under `shared/`, possibly referenced by several checkpoints. Owned by the registry of
    /// shared state. The path is unique to its content: a file is uploaded once and referenced afterwards.
    pub shared: Vec<StoreFile>,
    /// Files of this checkpoint alone (MANIFEST, CURRENT, ...), under `chk-<id>/`.
    pub private: Vec<StoreFile>,
}

/// How far a source partition was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePosition {
    /// The partition.
    pub partition: u32,
    /// The next offset to read.
    pub next_offset: u64,
}

/// Output that was written before the barrier and becomes visible when the checkpoint is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkTransaction {
    /// Unique over the whole life of the job, and the name of the committed object: committing twice is committing once.
    pub id: String,
    /// The staged content.
    pub staged: FileHandle,
}

/// The state of one subtask at one barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubtaskState {
    /// Positions of the partitions it reads.
    Source(Vec<SourcePosition>),
    /// Its store.
    Keyed(KeyedSnapshot),
    /// Its transactions that are not yet known to be committed.
    Sink(Vec<SinkTransaction>),
    /// Its lists and tables; nothing, if it has none.
    Plain(Vec<OperatorPart>),
}

impl SubtaskState {
    /// The shared files it references.
    pub fn shared_files(&self) -> impl Iterator<Item = &FileHandle> {
        let files = if let SubtaskState::Keyed(keyed) = self { keyed.shared.as_slice() } else { &[] };
        files.iter().map(|file| &file.handle)
    }

    /// The files that belong to this checkpoint alone.
    pub fn private_files(&self) -> Vec<&FileHandle> {
        match self {
            SubtaskState::Keyed(keyed) => keyed.private.iter().map(|file| &file.handle).collect(),
            SubtaskState::Sink(transactions) => transactions.iter().map(|t| &t.staged).collect(),
            SubtaskState::Source(_) | SubtaskState::Plain(_) => Vec::new(),
        }
    }
}

/// The state of all subtasks of one vertex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VertexState {
    /// The vertex' stable id in the job graph.
    pub uid: String,
    /// One per subtask, in order of the subtask's index.
    pub subtasks: Vec<SubtaskState>,
}

/// Everything a restore needs: the content of a checkpoint's `_metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMetadata {
    /// The job's name.
    pub job: String,
    /// The checkpoint.
    pub id: CheckpointId,
    /// Number of key groups; cannot change over the life of the state.
    pub max_parallelism: u16,
    /// Wall clock at the trigger, in milliseconds since 1970; for people.
    pub triggered_unix_ms: u64,
    /// Wall clock at the last acknowledgement, in milliseconds since 1970; for people.
    pub completed_unix_ms: u64,
    /// In the order of the job graph.
    pub vertices: Vec<VertexState>,
}
