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
use super::snapshot::{CheckpointId, CheckpointMetadata, FileHandle, SubtaskState};

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
    for (vertex, plan) in metadata.vertices.iter().zip(plan) {
        if vertex.uid != plan.uid {
            return Err(format!("has vertex {} where the job has {}", vertex.uid, plan.uid));
        }
        check_vertex(&vertex.subtasks, plan, max_parallelism)
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
            (SubtaskState::Keyed(keyed), VertexKind::Keyed) => ranges.push(keyed.range),
            (SubtaskState::Source(positions), VertexKind::Source { partitions: n }) => {
                for position in positions {
                    if position.partition >= n {
                        return Err(format!("partition {} of {n}", position.partition));
                    }
                    if !partitions.insert(position.partition) {
                        return Err(format!("partition {} twice", position.partition));
                    }
                }
            }
            (SubtaskState::Sink(states), VertexKind::Sink) => {
                for transaction in states {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::{KeyGroupRange, KeyedSnapshot, SourcePosition, VertexState};
    use proptest::prelude::*;

    fn example() -> (CheckpointMetadata, Vec<VertexPlan>) {
        let keyed = |first, last| {
            SubtaskState::Keyed(KeyedSnapshot {
                range: KeyGroupRange { first, last },
                states: Vec::new(),
                shared: Vec::new(),
                private: Vec::new(),
            })
        };
        let source = |partition| SubtaskState::Source(vec![SourcePosition { partition, next_offset: 7 }]);
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
}
