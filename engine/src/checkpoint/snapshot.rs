//! What a subtask hands to the coordinator at a barrier, and what a checkpoint is made of.
//!
//! Pure data, shared by workers (who write the files and report them), the coordinator (who decides their fate) and
//! restore (who reads them back). Every file is named by a [`FileHandle`] that says its length and checksum, so that a
//! truncated or foreign object is never taken for state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::barrier::SavepointFormat;
use super::changelog::Changelog;
use super::wire::SubtaskWire;
use crate::cluster::rpc::TaskId;
use crate::state::operator_state::OperatorPart;

/// Number of a checkpoint; grows over all leaders and restores of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointId(pub u64);

impl CheckpointId {
    /// The highest that is believed: there is room above it to count on.
    pub const MAX: CheckpointId = CheckpointId(u64::MAX / 4);
}

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
    /// Where in the object the content is, if the object is made of several files; all of it otherwise.
    pub segment: Option<Segment>,
}

/// A part of an object that was merged out of small files ([`crate::state::merging`]). It does not own anything: an object
/// lives as long as any of its segments is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// CRC-32C of it alone: who reads a segment does not see the rest of the object.
    pub crc32c: u32,
}

impl Segment {
    /// Where it ends, unless that is beyond an object of so many bytes.
    pub(in crate::checkpoint) fn end_within(&self, object_len_bytes: u64) -> Option<u64> {
        self.offset_bytes.checked_add(self.len_bytes).filter(|end| *end <= object_len_bytes)
    }
}

impl StoreFile {
    /// A file that has an object to itself.
    pub fn whole(name: impl Into<String>, handle: FileHandle) -> StoreFile {
        StoreFile { name: name.into(), handle, segment: None }
    }

    /// The bytes of its object that are its own.
    pub fn used_bytes(&self) -> u64 {
        self.segment.map_or(self.handle.len_bytes, |segment| segment.len_bytes)
    }
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

/// What the files of a keyed snapshot look like. A name and not an enum: who cannot read it can still say what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateFormat(pub String);

impl StateFormat {
    /// Those that this build reads.
    pub const READABLE: [&str; 2] = ["store/1", "canonical/1"];

    /// The files of a store ([`crate::store`]), as they are.
    pub fn store() -> StateFormat {
        StateFormat(StateFormat::READABLE[0].into())
    }

    /// Files that owe nothing to a store ([`crate::state::canonical`]).
    pub fn canonical() -> StateFormat {
        StateFormat(StateFormat::READABLE[1].into())
    }

    /// Refuses what this build does not read.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<(), String> {
        let readable = StateFormat::READABLE;
        if readable.contains(&self.0.as_str()) {
            return Ok(());
        }
        Err(format!("state is in format {:?}, this backend reads {}", self.0, readable.join(" and ")))
    }
}

/// A keyed subtask's store at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedSnapshot {
    /// The key groups it covers.
    pub range: KeyGroupRange,
    /// The states that are in it.
    pub states: Vec<StateSchema>,
    /// What its files look like.
    pub format: StateFormat,
    /// Immutable table files, under `shared/`, possibly referenced by several checkpoints. Owned by the registry of
    /// shared state. The path is unique to its content: a file is uploaded once and referenced afterwards.
    pub shared: Vec<StoreFile>,
    /// Files of this checkpoint alone (MANIFEST, CURRENT, ...), under `chk-<id>/`.
    pub private: Vec<StoreFile>,
    /// Changes that the files do not hold, if changes are logged.
    pub changelog: Option<Changelog>,
    /// What the barrier overtook.
    pub in_flight: Option<InFlight>,
}

impl KeyedSnapshot {
    /// The objects that the registry owns, once for each file or segment in them.
    pub fn shared_handles(&self) -> impl Iterator<Item = &FileHandle> {
        let segments = self.changelog.iter().flat_map(|changelog| &changelog.segments);
        let tables = self.shared.iter().map(|file| &file.handle);
        tables.chain(segments.map(|segment| &segment.handle))
    }

    /// Why the segments cannot be what a task made: one that lies outside of its object or over another, one where files
    /// are never merged, or a log with a gap.
    ///
    /// # Errors
    /// The reason.
    pub fn check_segments(&self) -> Result<(), String> {
        if let Some(changelog) = &self.changelog {
            if self.format != StateFormat::store() {
                return Err(format!("changes are logged on a base in format {:?}", self.format.0));
            }
            changelog.check()?;
        }
        if let Some(file) = self.private.iter().find(|file| file.segment.is_some()) {
            return Err(format!("{} is a segment of {} and private", file.name, file.handle.path));
        }
        let mut segments: BTreeMap<&str, BTreeMap<u64, u64>> = BTreeMap::new();
        for file in &self.shared {
            let (Some(segment), path) = (file.segment, file.handle.path.as_str()) else { continue };
            if self.format != StateFormat::store() {
                return Err(format!("{} is a segment of {path}, and not a file of a store", file.name));
            }
            let Some(end) = segment.end_within(file.handle.len_bytes) else {
                return Err(format!("{} lies outside of its object {path}", file.name));
            };
            let others = segments.entry(path).or_default();
            let before = others.range(..=segment.offset_bytes).next_back();
            let after = others.range(segment.offset_bytes..).next();
            if before.is_some_and(|(_, other)| *other > segment.offset_bytes)
                || after.is_some_and(|(other, _)| *other < end)
            {
                return Err(format!("{} lies over another segment of {path}", file.name));
            }
            others.insert(segment.offset_bytes, end);
        }
        Ok(())
    }
}

/// Where a source was at a barrier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSnapshot {
    /// Of the partitions it reads.
    pub positions: Vec<SourcePosition>,
    /// What the barrier overtook.
    pub in_flight: Option<InFlight>,
}

/// What a sink had in its hands at a barrier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSnapshot {
    /// Those that are not known to be committed.
    pub transactions: Vec<SinkTransaction>,
    /// What the barrier overtook.
    pub in_flight: Option<InFlight>,
}

/// Elements that lay before an unaligned barrier and had not been processed when it overtook them: those that had reached
/// a task (they are in the snapshot of the channel's receiver), and those that had not left it (of its sender). They are
/// processed after a restore before anything new; per channel, what the receiver had comes before what the sender had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// One object for all channels of a task.
    pub handle: FileHandle,
    /// Where in it the elements of each channel are.
    pub channels: Vec<InFlightChannel>,
}

/// A slice of an object: the elements of one channel, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlightChannel {
    /// The sending task.
    pub from: TaskId,
    /// The receiving task.
    pub to: TaskId,
    /// Where they begin.
    pub offset_bytes: u64,
    /// How long they are.
    pub len_bytes: u64,
}

impl InFlight {
    /// Why this cannot be what `task` had in flight: a channel that is not its own or comes twice, or one whose elements lie
    /// outside of the object.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self, task: TaskId) -> Result<(), String> {
        let mut seen = std::collections::BTreeSet::new();
        for channel in &self.channels {
            let InFlightChannel { from, to, offset_bytes, len_bytes } = *channel;
            if from != task && to != task {
                return Err(format!("elements in flight from {from} to {to} are not its own"));
            }
            if !seen.insert((from, to)) {
                return Err(format!("elements in flight from {from} to {to} twice"));
            }
            if offset_bytes.checked_add(len_bytes).is_none_or(|end| end > self.handle.len_bytes) {
                return Err(format!("elements in flight from {from} to {to} lie outside of their object"));
            }
        }
        Ok(())
    }
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
#[serde(from = "SubtaskWire", into = "SubtaskWire")]
pub enum SubtaskState {
    /// Positions of the partitions it reads.
    Source(SourceSnapshot),
    /// Its store.
    Keyed(KeyedSnapshot),
    /// Its transactions that are not yet known to be committed.
    Sink(SinkSnapshot),
    /// Its lists and tables.
    Plain(Vec<OperatorPart>),
    /// Not what a task acknowledges, but what it is handed: input that was in flight when the checkpoint was taken.
    InFlight(InFlight),
}

impl From<Vec<SourcePosition>> for SubtaskState {
    fn from(positions: Vec<SourcePosition>) -> Self {
        SubtaskState::Source(SourceSnapshot { positions, in_flight: None })
    }
}

impl From<Vec<SinkTransaction>> for SubtaskState {
    fn from(transactions: Vec<SinkTransaction>) -> Self {
        SubtaskState::Sink(SinkSnapshot { transactions, in_flight: None })
    }
}

impl SubtaskState {
    /// The shared objects it references, tables and logs: each once, however many segments of it.
    pub fn shared_files(&self) -> impl Iterator<Item = &FileHandle> {
        let keyed = if let SubtaskState::Keyed(keyed) = self { Some(keyed) } else { None };
        let mut seen = BTreeSet::new();
        let handles = keyed.into_iter().flat_map(KeyedSnapshot::shared_handles);
        handles.filter(move |handle| seen.insert((&handle.path, handle.len_bytes, handle.crc32c)))
    }

    /// True if nothing would be lost without it.
    pub fn is_empty(&self) -> bool {
        let has_positions = matches!(self, SubtaskState::Source(source) if !source.positions.is_empty());
        let has_entries =
            matches!(self, SubtaskState::Plain(parts) if parts.iter().any(|part| !part.entries.is_empty()));
        !has_positions
            && !has_entries
            && self.shared_files().next().is_none()
            && self.private_files().is_empty()
    }

    /// Staged output.
    pub fn transactions(&self) -> &[SinkTransaction] {
        if let SubtaskState::Sink(sink) = self { &sink.transactions } else { &[] }
    }

    /// What was in flight.
    pub fn in_flight(&self) -> Option<&InFlight> {
        match self {
            SubtaskState::Source(source) => source.in_flight.as_ref(),
            SubtaskState::Keyed(keyed) => keyed.in_flight.as_ref(),
            SubtaskState::Sink(sink) => sink.in_flight.as_ref(),
            SubtaskState::Plain(_) => None,
            SubtaskState::InFlight(in_flight) => Some(in_flight),
        }
    }

    /// The files that belong to this checkpoint alone.
    pub fn private_files(&self) -> Vec<&FileHandle> {
        let files = if let SubtaskState::Keyed(keyed) = self { keyed.private.as_slice() } else { &[] };
        let staged = self.transactions().iter().map(|transaction| &transaction.staged);
        let in_flight = self.in_flight().map(|in_flight| &in_flight.handle);
        files.iter().map(|file| &file.handle).chain(staged).chain(in_flight).collect()
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
    /// What asked for it, for people.
    pub description: String,
    /// What its files look like, if it is a savepoint.
    pub savepoint: Option<SavepointFormat>,
    /// Number of key groups; cannot change over the life of the state.
    pub max_parallelism: u16,
    /// Wall clock at the trigger, in milliseconds since 1970; for people.
    pub triggered_unix_ms: u64,
    /// Wall clock at the last acknowledgement, in milliseconds since 1970; for people.
    pub completed_unix_ms: u64,
    /// In the order of the job graph.
    pub vertices: Vec<VertexState>,
}
