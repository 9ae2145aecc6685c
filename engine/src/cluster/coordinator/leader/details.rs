//! What the parts of recent checkpoints weighed, and when they came: for a console.
//!
//! Kept in memory for the newest checkpoints. Of what is retained the sizes can be had again from the metadata.

use std::collections::BTreeMap;

use crate::checkpoint::history::ENTRIES;
use crate::checkpoint::layout::{Layout, Object};
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata, FileHandle, SubtaskState};
use crate::cluster::console::{SubtaskDetails, VertexDetails};
use crate::cluster::rpc::{Attempt, TaskId};

#[derive(Debug, Default)]
pub(super) struct Details(BTreeMap<CheckpointId, BTreeMap<TaskId, SubtaskDetails>>);

impl Details {
    /// A part has come.
    pub fn add(&mut self, checkpoint: CheckpointId, task: TaskId, part: SubtaskDetails) {
        self.0.entry(checkpoint).or_default().insert(task, part);
        while self.0.len() > ENTRIES {
            self.0.pop_first();
        }
    }

    /// The parts of a checkpoint; empty if nothing is known.
    pub fn of(
        &self,
        checkpoint: CheckpointId,
        uids: &[String],
        parallelism: &[u16],
        metadata: Option<&CheckpointMetadata>,
    ) -> Vec<VertexDetails> {
        if let Some(parts) = self.0.get(&checkpoint) {
            let vertices = (0u16..).zip(uids.iter().zip(parallelism));
            let details = vertices.map(|(vertex, (uid, parallelism))| VertexDetails {
                uid: uid.clone(),
                subtasks: (0..*parallelism)
                    .map(|subtask| parts.get(&TaskId { vertex, subtask }).copied())
                    .collect(),
            });
            return details.collect();
        }
        let vertices = metadata.into_iter().flat_map(|metadata| &metadata.vertices);
        let details = vertices.map(|vertex| VertexDetails {
            uid: vertex.uid.clone(),
            subtasks: vertex.subtasks.iter().map(|state| Some(weigh(state, |_| false))).collect(),
        });
        details.collect()
    }
}

/// What an acknowledged part weighs: new is what this attempt wrote for this checkpoint alone, or first.
pub(super) fn weigh_new(
    layout: &Layout,
    attempt: Attempt,
    state: &SubtaskState,
    is_known: impl Fn(&str) -> bool,
    at_unix_ms: u64,
) -> SubtaskDetails {
    let is_new = |handle: &FileHandle| match layout.parse(&handle.path) {
        Some(Object::Shared { attempt: by }) => by == attempt && !is_known(&handle.path),
        _ => true,
    };
    SubtaskDetails { acknowledged_unix_ms: Some(at_unix_ms), ..weigh(state, is_new) }
}

fn weigh(state: &SubtaskState, is_new: impl Fn(&FileHandle) -> bool) -> SubtaskDetails {
    let sum = |sum: u64, handle: &FileHandle| sum.saturating_add(handle.len_bytes);
    let all = || state.shared_files().chain(state.private_files());
    SubtaskDetails {
        acknowledged_unix_ms: None,
        state_bytes: all().fold(0, sum),
        new_bytes: all().filter(|handle| is_new(handle)).fold(0, sum),
    }
}
