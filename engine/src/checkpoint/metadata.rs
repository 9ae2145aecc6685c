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

const MAGIC: [u8; 4] = *b"CWCM";

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
    envelope::seal(MAGIC, metadata)
}

/// The metadata in `bytes`, which came from `path`.
///
/// # Errors
/// If the bytes are damaged, foreign, or of another format version.
pub fn decode(bytes: &[u8], path: &str) -> Result<CheckpointMetadata, MetadataError> {
    envelope::open(MAGIC, bytes).map_err(|reason| MetadataError { path: path.into(), reason })
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

/// Whether the job that `plan` describes can start from the metadata.
///
/// # Errors
/// If it belongs to another job or checkpoint, to another number of key groups, to other vertices; if a keyed vertex' key
/// groups are not covered exactly once; if a partition or a transaction appears twice; if a file's name is not one of the job's.
pub fn validate(
    metadata: &CheckpointMetadata,
    layout: &Layout,
    checkpoint: CheckpointId,
    plan: &[VertexPlan],
    max_parallelism: u16,
) -> Result<(), MetadataError> {
    check(metadata, layout, checkpoint, plan, max_parallelism).map_err(|reason| MetadataError {
        path: layout.metadata(checkpoint),
        reason: Malformed::Inconsistent(reason),
    })
}

fn check(
    metadata: &CheckpointMetadata,
    layout: &Layout,
    checkpoint: CheckpointId,
    plan: &[VertexPlan],
    max_parallelism: u16,
) -> Result<(), String> {
    if metadata.job != layout.job() {
        return Err(format!("belongs to the job {}", metadata.job));
    }
    if metadata.id != checkpoint {
        return Err(format!("is of checkpoint {}", metadata.id));
    }
    if metadata.max_parallelism != max_parallelism {
        return Err(format!("has {} key groups, the job {max_parallelism}", metadata.max_parallelism));
    }
    if metadata.vertices.len() != plan.len() {
        return Err(format!("has {} vertices, the job {}", metadata.vertices.len(), plan.len()));
    }
    for (index, (vertex, plan)) in (0u16..).zip(metadata.vertices.iter().zip(plan)) {
        if vertex.uid != plan.uid {
            return Err(format!("has vertex {} where the job has {}", vertex.uid, plan.uid));
        }
        if vertex.subtasks.len() > usize::from(max_parallelism) {
            let (subtasks, uid) = (vertex.subtasks.len(), &plan.uid);
            return Err(format!("vertex {uid}: {subtasks} subtasks for {max_parallelism} key groups"));
        }
        check_vertex(&vertex.subtasks, plan, max_parallelism)
            .and_then(|()| check_in_flight(index, &metadata.vertices))
            .map_err(|reason| format!("vertex {}: {reason}", plan.uid))?;
    }
    for path in files(metadata).map_err(|e| e.to_string())?.into_keys() {
        if layout.parse(path).is_none() {
            return Err(format!("names {path}, which is not a file of the job"));
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
            (SubtaskState::Stateless, VertexKind::Stateless) => {}
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
fn check_in_flight(vertex: u16, vertices: &[VertexState]) -> Result<(), String> {
    let exists = |task: TaskId| {
        let vertex = vertices.get(usize::from(task.vertex));
        vertex.is_some_and(|vertex| usize::from(task.subtask) < vertex.subtasks.len())
    };
    for (subtask, state) in (0u16..).zip(&vertices[usize::from(vertex)].subtasks) {
        let Some(in_flight) = state.in_flight() else { continue };
        in_flight.check(TaskId { vertex, subtask })?;
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
        InFlight, InFlightChannel, KeyGroupRange, KeyedSnapshot, SourcePosition, StateFormat,
    };
    use proptest::prelude::*;

    fn example() -> (CheckpointMetadata, Vec<VertexPlan>) {
        let keyed = |first, last| {
            SubtaskState::Keyed(KeyedSnapshot {
                range: KeyGroupRange { first, last },
                format: StateFormat::store(),
                shared: Vec::new(),
                private: Vec::new(),
                in_flight: None,
            })
        };
        let source = |partition| SubtaskState::from(vec![SourcePosition { partition, next_offset: 7 }]);
        let metadata = CheckpointMetadata {
            job: "job".into(),
            id: CheckpointId(3),
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
        validate(metadata, &Layout::new("job").unwrap(), CheckpointId(3), plan, 8).is_ok()
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
        broken(|_, p| drop(p.pop()));
        broken(|m, _| drop(m.vertices[1].subtasks.pop()));
        broken(|m, _| m.vertices[0].subtasks[1] = m.vertices[0].subtasks[0].clone());
        broken(|_, p| p[0].kind = VertexKind::Source { partitions: 1 });
    }

    #[test]
    fn a_format_of_another_backend_is_refused_by_name() {
        let (mut metadata, plan) = example();
        let SubtaskState::Keyed(keyed) = &mut metadata.vertices[1].subtasks[0] else { unreachable!() };
        keyed.format = StateFormat("heap/3".into());
        let layout = Layout::new("job").unwrap();
        let error = validate(&metadata, &layout, CheckpointId(3), &plan, 8).unwrap_err();
        let expected =
            "vertex count: state is in format \"heap/3\", this backend reads store/1 and canonical/1";
        assert!(error.to_string().ends_with(expected), "{error}");
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
