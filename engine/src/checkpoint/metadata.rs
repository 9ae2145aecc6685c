//! The content of a checkpoint's `_metadata`, and whether it can be restored from.
//!
//! Decoding says that the bytes are what was written; [`validate`] says that they fit the job that wants to start from
//! them. Both come before any side effect of a restore (stricter than Flink, which checks some of it after the state was
//! already adopted). That each file named exists is for the edge to ask, see [`files`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::assign::{VertexKind, VertexPlan, covers_all};
use super::envelope::{self, Malformed};
use super::layout::Layout;
use super::snapshot::{CheckpointId, CheckpointMetadata, FileHandle, SubtaskState, VertexState};
use crate::cluster::rpc::TaskId;

/// The first four bytes.
pub(super) const MAGIC: [u8; 4] = *b"CWCM";

/// The format version of metadata in which a changelog is named. The form of all other metadata is the first one still.
const WITH_CHANGELOG: u16 = 2;

/// A checkpoint's metadata cannot be read or does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct MetadataError {
    /// The metadata object.
    pub path: String,
    /// What is wrong with it.
    pub reason: Malformed,
}

/// The bytes of a metadata object.
pub fn encode(metadata: &CheckpointMetadata) -> Bytes {
    let logged =
        |state: &SubtaskState| matches!(state, SubtaskState::Keyed(keyed) if keyed.changelog.is_some());
    let is_logged = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks).any(logged);
    envelope::seal(MAGIC, if is_logged { WITH_CHANGELOG } else { envelope::FIRST_VERSION }, metadata)
}

/// The metadata in `bytes`, which came from `path`.
///
/// # Errors
/// If the bytes are damaged, foreign, or of another format version.
pub fn decode(bytes: &[u8], path: &str) -> Result<CheckpointMetadata, MetadataError> {
    envelope::open(MAGIC, WITH_CHANGELOG, bytes).map_err(|reason| MetadataError { path: path.into(), reason })
}

/// Every file that must exist for a restore, by path.
///
/// # Errors
/// If two handles name the same object with different content.
pub fn files(metadata: &CheckpointMetadata) -> Result<BTreeMap<&str, &FileHandle>, Malformed> {
    let mut files = BTreeMap::new();
    for state in metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
        for handle in state.shared_files().chain(state.private_files()) {
            if files.insert(handle.path.as_str(), handle).is_some_and(|other| other != handle) {
                return Err(Malformed::Inconsistent(format!("{} is named with two contents", handle.path)));
            }
        }
    }
    Ok(files)
}

/// The job that wants to start from a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Its vertices.
    pub plan: &'a [VertexPlan],
    /// Its number of key groups.
    pub max_parallelism: u16,
    /// State of vertices that it does not have may be left behind.
    pub allow_non_restored: bool,
}

/// Where a checkpoint is, which says what its files may be called.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Among those of the job itself, under this id.
    Checkpoint(&'a Layout, CheckpointId),
    /// In a directory of its own, which holds all of it.
    Savepoint(&'a str),
    /// With another job, or where a user put it.
    Elsewhere,
}

/// Whether the job can start from the metadata, which came from `path`.
///
/// # Errors
/// If it belongs to another job or checkpoint than its place says; if it has another number of key groups; if it holds state
/// of a vertex that the job does not have and that may not be left behind; if a keyed vertex' key groups are not covered
/// exactly once; if a segment lies outside of its object; if a partition or a transaction appears twice; if a file is called what it
/// may not be called.
pub fn validate(
    metadata: &CheckpointMetadata,
    path: &str,
    place: Place<'_>,
    job: &Job<'_>,
) -> Result<(), MetadataError> {
    let checked = check_place(metadata, place).and_then(|()| check_fit(metadata, job));
    checked.map_err(|reason| MetadataError { path: path.into(), reason: Malformed::Inconsistent(reason) })
}

fn check_place(metadata: &CheckpointMetadata, place: Place<'_>) -> Result<(), String> {
    if metadata.id > CheckpointId::MAX {
        return Err(format!("is of checkpoint {}, and nobody counted that far", metadata.id));
    }
    if let Place::Checkpoint(layout, id) = place {
        if metadata.job != layout.job() {
            return Err(format!("belongs to the job {}", metadata.job));
        }
        if metadata.id != id {
            return Err(format!("is of checkpoint {}", metadata.id));
        }
    }
    let is_there = |path: &str| match place {
        // What a job was started from may be referenced by its own checkpoints.
        Place::Checkpoint(..) | Place::Elsewhere => is_plain(path),
        Place::Savepoint(directory) => {
            path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')) && is_plain(path)
        }
    };
    match files(metadata).map_err(|e| e.to_string())?.into_keys().find(|path| !is_there(path)) {
        None => Ok(()),
        Some(path) => Err(format!("names {path}, which is not a file that it can have")),
    }
}

/// True if the store takes the name as it is.
fn is_plain(path: &str) -> bool {
    object_store::path::Path::parse(path).is_ok_and(|parsed| parsed.as_ref() == path && !path.is_empty())
}

fn check_fit(metadata: &CheckpointMetadata, job: &Job<'_>) -> Result<(), String> {
    let max = job.max_parallelism;
    if metadata.max_parallelism != max {
        return Err(format!("has {} key groups, the job {max}", metadata.max_parallelism));
    }
    let mut seen = BTreeSet::new();
    for vertex in &metadata.vertices {
        if !seen.insert(&vertex.uid) {
            return Err(format!("has vertex {} twice", vertex.uid));
        }
        if vertex.subtasks.len() > usize::from(max) {
            let (subtasks, uid) = (vertex.subtasks.len(), &vertex.uid);
            return Err(format!("vertex {uid}: {subtasks} subtasks for {max} key groups"));
        }
        match job.plan.iter().find(|plan| plan.uid == vertex.uid) {
            Some(plan) => check_vertex(&vertex.subtasks, plan, max)
                .and_then(|()| check_in_flight(metadata, vertex, job))
                .map_err(|reason| format!("vertex {}: {reason}", plan.uid))?,
            None if job.allow_non_restored || vertex.subtasks.iter().all(SubtaskState::is_empty) => {}
            None => {
                return Err(format!(
                    "holds state of vertex {}, which the job does not have; it may be left behind if that is allowed",
                    vertex.uid
                ));
            }
        }
    }
    Ok(())
}

fn check_vertex(subtasks: &[SubtaskState], plan: &VertexPlan, max_parallelism: u16) -> Result<(), String> {
    let mut ranges = Vec::new();
    let mut partitions = BTreeSet::new();
    let mut transactions = BTreeSet::new();
    for state in subtasks {
        match (state, plan.kind) {
            (SubtaskState::Keyed(keyed), VertexKind::Keyed) => {
                keyed.format.check()?;
                keyed.check_segments()?;
                ranges.push(keyed.range);
            }
            (SubtaskState::Source(source), VertexKind::Source { partitions: n }) => {
                for position in &source.positions {
                    if position.partition >= n {
                        return Err(format!("partition {} of {n}", position.partition));
                    }
                    if !partitions.insert(position.partition) {
                        return Err(format!("partition {} twice", position.partition));
                    }
                }
            }
            (SubtaskState::Sink(sink), VertexKind::Sink) => {
                for transaction in &sink.transactions {
                    if !transactions.insert(&transaction.id) {
                        return Err(format!("transaction {} twice", transaction.id));
                    }
                }
            }
            (SubtaskState::Plain(_), VertexKind::Plain) => {}
            _ => return Err("state of another kind".into()),
        }
    }
    match plan.kind {
        VertexKind::Keyed if !covers_all(&ranges, max_parallelism) => {
            Err(format!("key groups not covered exactly once: {ranges:?}"))
        }
        _ => Ok(()),
    }
}

/// What a vertex had in flight lay between tasks of the checkpoint, in its slices of the objects.
fn check_in_flight(metadata: &CheckpointMetadata, vertex: &VertexState, job: &Job<'_>) -> Result<(), String> {
    let vertices = &metadata.vertices;
    let exists = |task: TaskId| {
        let vertex = vertices.get(usize::from(task.vertex));
        vertex.is_some_and(|vertex| usize::from(task.subtask) < vertex.subtasks.len())
    };
    let index = vertices.iter().position(|other| other.uid == vertex.uid).unwrap_or_default();
    let index = u16::try_from(index).map_err(|_| "too many vertices")?;
    for (subtask, state) in (0u16..).zip(&vertex.subtasks) {
        let Some(in_flight) = state.in_flight() else { continue };
        // Channels are known by the places of their ends in the graph.
        let same_graph = vertices.iter().map(|vertex| &vertex.uid).eq(job.plan.iter().map(|plan| &plan.uid));
        if !same_graph {
            return Err(
                "has elements in flight, and the job has another graph: start from a savepoint".into()
            );
        }
        in_flight.check(TaskId { vertex: index, subtask })?;
        if let Some(channel) = in_flight.channels.iter().find(|c| !exists(c.from) || !exists(c.to)) {
            return Err(format!("elements in flight from {} to {}: no such task", channel.from, channel.to));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::{
        InFlight, InFlightChannel, KeyGroupRange, KeyedSnapshot, Segment, SourcePosition, StateFormat,
        StoreFile,
    };
    use proptest::prelude::*;

    fn example() -> (CheckpointMetadata, Vec<VertexPlan>) {
        let keyed = |first, last| {
            SubtaskState::Keyed(KeyedSnapshot {
                range: KeyGroupRange { first, last },
                states: Vec::new(),
                format: StateFormat::store(),
                shared: Vec::new(),
                private: Vec::new(),
                changelog: None,
                in_flight: None,
            })
        };
        let source = |partition| SubtaskState::from(vec![SourcePosition { partition, next_offset: 7 }]);
        let metadata = CheckpointMetadata {
            job: "job".into(),
            id: CheckpointId(3),
            description: "why".into(),
            savepoint: None,
            max_parallelism: 8,
            triggered_unix_ms: 1,
            completed_unix_ms: 2,
            vertices: vec![
                VertexState { uid: "source".into(), subtasks: vec![source(0), source(1)] },
                VertexState { uid: "count".into(), subtasks: vec![keyed(0, 3), keyed(4, 7)] },
            ],
        };
        let plan = vec![
            VertexPlan { uid: "source".into(), kind: VertexKind::Source { partitions: 2 }, max: None },
            VertexPlan { uid: "count".into(), kind: VertexKind::Keyed, max: None },
        ];
        (metadata, plan)
    }

    fn valid(metadata: &CheckpointMetadata, plan: &[VertexPlan]) -> bool {
        fits(metadata, plan, false)
    }

    fn fits(metadata: &CheckpointMetadata, plan: &[VertexPlan], allow_non_restored: bool) -> bool {
        let layout = Layout::new("job").unwrap();
        let job = Job { plan, max_parallelism: 8, allow_non_restored };
        validate(metadata, "p", Place::Checkpoint(&layout, CheckpointId(3)), &job).is_ok()
    }

    #[test]
    fn every_single_bit_flip_is_found() {
        let (metadata, _) = example();
        let bytes = encode(&metadata);
        assert_eq!(decode(&bytes, "p").unwrap(), metadata);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&damaged, "job/chk-3/_metadata").unwrap_err();
            assert!(error.to_string().starts_with("job/chk-3/_metadata: "), "{error}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], "p").is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_bodies_are_errors(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            // A right envelope around anything.
            let mut bytes = Vec::from(MAGIC);
            bytes.extend(1u16.to_le_bytes());
            bytes.extend(body);
            bytes.extend(envelope::masked_crc32c(&bytes).to_le_bytes());
            if let Ok(metadata) = decode(&bytes, "p") {
                valid(&metadata, &example().1);
            }
        }
    }

    #[test]
    fn what_does_not_fit_the_job_is_refused() {
        let (metadata, plan) = example();
        assert!(valid(&metadata, &plan));
        let broken = |change: fn(&mut CheckpointMetadata, &mut Vec<VertexPlan>)| {
            let (mut metadata, mut plan) = example();
            change(&mut metadata, &mut plan);
            assert!(!valid(&metadata, &plan), "{metadata:?} {plan:?}");
        };
        broken(|m, _| m.job = "other".into());
        broken(|m, _| m.id = CheckpointId(4));
        broken(|m, _| m.max_parallelism = 16);
        broken(|m, _| m.vertices[0].uid = "x".into());
        broken(|_, p| p[1].kind = VertexKind::Sink);
        broken(|_, p| drop(p.remove(0)));
        broken(|m, _| drop(m.vertices[1].subtasks.pop()));
        broken(|m, _| m.vertices[0].subtasks[1] = m.vertices[0].subtasks[0].clone());
        broken(|_, p| p[0].kind = VertexKind::Source { partitions: 1 });
        broken(|m, _| m.vertices[1] = m.vertices[0].clone());
    }

    #[test]
    fn state_that_the_job_has_no_place_for_may_be_left_behind() {
        let (metadata, mut plan) = example();
        let source = plan.remove(0);
        assert!(!fits(&metadata, &plan, false) && fits(&metadata, &plan, true));
        // The other vertex of the example holds nothing.
        assert!(fits(&metadata, &[source], false));
    }

    #[test]
    fn a_format_of_another_backend_is_refused_by_name() {
        let (mut metadata, plan) = example();
        let SubtaskState::Keyed(keyed) = &mut metadata.vertices[1].subtasks[0] else { unreachable!() };
        keyed.format = StateFormat("heap/3".into());
        let layout = Layout::new("job").unwrap();
        let job = Job { plan: &plan, max_parallelism: 8, allow_non_restored: false };
        let error = validate(&metadata, "p", Place::Checkpoint(&layout, CheckpointId(3)), &job).unwrap_err();
        let expected =
            "vertex count: state is in format \"heap/3\", this backend reads store/1 and canonical/1";
        assert!(error.to_string().ends_with(expected), "{error}");
    }

    #[test]
    fn a_segment_lies_in_its_object_and_over_no_other() {
        let with = |format: StateFormat, private: bool, segments: &[(u64, u64)]| {
            let (mut metadata, plan) = example();
            let SubtaskState::Keyed(keyed) = &mut metadata.vertices[1].subtasks[0] else { unreachable!() };
            keyed.format = format;
            let handle = FileHandle { path: "job/shared/0-0/u".into(), len_bytes: 10, crc32c: 0 };
            let files = (1..).zip(segments).map(|(number, &(offset_bytes, len_bytes))| StoreFile {
                name: format!("{number:06}.sst"),
                handle: handle.clone(),
                segment: Some(Segment { offset_bytes, len_bytes, crc32c: 0 }),
            });
            *if private { &mut keyed.private } else { &mut keyed.shared } = files.collect();
            assert_eq!(metadata.vertices[1].subtasks[0].shared_files().count(), usize::from(!private));
            valid(&metadata, &plan)
        };
        let store = StateFormat::store;
        assert!(with(store(), false, &[(0, 10)]));
        assert!(with(store(), false, &[(6, 4), (0, 4), (4, 2)]));
        assert!(!with(store(), false, &[(6, 5)]), "beyond the end");
        assert!(!with(store(), false, &[(u64::MAX, 2)]), "an overflow");
        assert!(!with(store(), false, &[(0, 6), (5, 5)]), "over the one before");
        assert!(!with(store(), false, &[(5, 5), (0, 6)]), "over the one after");
        assert!(!with(store(), false, &[(0, 5), (0, 5)]), "twice");
        assert!(!with(store(), true, &[(0, 10)]), "private files are not merged");
        assert!(!with(StateFormat::canonical(), false, &[(0, 10)]), "only a store's files are");
    }

    #[test]
    fn what_is_in_flight_lies_between_tasks_and_in_its_object() {
        let task = |vertex, subtask| TaskId { vertex, subtask };
        let between = |from, to, offset_bytes| {
            let (mut metadata, plan) = example();
            let SubtaskState::Keyed(keyed) = &mut metadata.vertices[1].subtasks[1] else { unreachable!() };
            let path = Layout::new("job").unwrap().private(
                CheckpointId(3),
                crate::cluster::rpc::Attempt::default(),
                task(1, 1),
                "u",
            );
            let handle = FileHandle { path, len_bytes: 10, crc32c: 0 };
            let channel = InFlightChannel { from, to, offset_bytes, len_bytes: 4 };
            keyed.in_flight = Some(InFlight { handle, channels: vec![channel] });
            valid(&metadata, &plan)
        };
        assert!(between(task(0, 1), task(1, 1), 6));
        assert!(!between(task(0, 1), task(1, 1), 7), "beyond the end");
        assert!(!between(task(0, 1), task(1, 1), u64::MAX), "an overflow");
        assert!(!between(task(0, 1), task(1, 0), 0), "of another task");
        assert!(!between(task(0, 2), task(1, 1), 0), "there is no such sender");
    }
}
