//! What the parts of recent checkpoints weighed, how long they took, and when they came: for a console.
//!
//! Kept in memory for the newest checkpoints. Of what is retained the sizes can be had again from the metadata.

use std::collections::BTreeMap;

use crate::checkpoint::changelog::Changelog;
use crate::checkpoint::history::ENTRIES;
use crate::checkpoint::layout::{Layout, Object};
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata, FileHandle, SubtaskState};
use crate::cluster::console::{Progress, SubtaskDetails, VertexDetails};
use crate::cluster::rpc::{Attempt, TaskId};

#[derive(Debug, Default)]
pub(super) struct Details(BTreeMap<CheckpointId, Parts>);

/// What has come of one checkpoint.
#[derive(Debug)]
struct Parts {
    /// Of each vertex, when it was taken.
    parallelism: Vec<u16>,
    by_task: BTreeMap<TaskId, SubtaskDetails>,
}

impl Details {
    /// A part has come.
    pub fn add(&mut self, checkpoint: CheckpointId, parallelism: &[u16], task: TaskId, part: SubtaskDetails) {
        let nothing = || Parts { parallelism: parallelism.to_vec(), by_task: BTreeMap::new() };
        let parts = self.0.entry(checkpoint).or_insert_with(nothing);
        // Said twice, it counts as it was said first.
        parts.by_task.entry(task).or_insert(part);
        while self.0.len() > ENTRIES {
            self.0.pop_first();
        }
    }

    /// The parts of a checkpoint; empty if nothing is known.
    pub fn of(
        &self,
        checkpoint: CheckpointId,
        uids: &[String],
        metadata: Option<&CheckpointMetadata>,
    ) -> Vec<VertexDetails> {
        if let Some(Parts { parallelism, by_task }) = self.0.get(&checkpoint) {
            let vertices = (0u16..).zip(uids.iter().zip(parallelism));
            let details = vertices.map(|(vertex, (uid, parallelism))| VertexDetails {
                uid: uid.clone(),
                subtasks: (0..*parallelism)
                    .map(|subtask| by_task.get(&TaskId { vertex, subtask }).copied())
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

    /// How far the parts have come; `None` if nothing is known.
    pub fn progress(
        &self,
        checkpoint: CheckpointId,
        metadata: Option<&CheckpointMetadata>,
    ) -> Option<Progress> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if let Some(Parts { parallelism, by_task }) = self.0.get(&checkpoint) {
            return Some(Progress {
                acknowledged: count(by_task.len()),
                total: parallelism.iter().map(|parallelism| u32::from(*parallelism)).sum(),
                persisted_bytes: by_task
                    .values()
                    .map(|part| part.persisted_bytes)
                    .fold(0, u64::saturating_add),
            });
        }
        let states = || metadata.into_iter().flat_map(|m| &m.vertices).flat_map(|vertex| &vertex.subtasks);
        let total = count(metadata.map(|_| states().count())?);
        let persisted_bytes = states().map(persisted_bytes).fold(0, u64::saturating_add);
        Some(Progress { acknowledged: total, total, persisted_bytes })
    }
}

/// What an acknowledged part weighs: new is what this attempt wrote for this checkpoint alone, or first.
pub(super) fn weigh_new(
    layout: &Layout,
    attempt: Attempt,
    state: &SubtaskState,
    is_known: impl Fn(&str) -> bool,
) -> SubtaskDetails {
    weigh(state, |handle: &FileHandle| match layout.parse(&handle.path) {
        Some(Object::Shared { attempt: by }) => by == attempt && !is_known(&handle.path),
        _ => true,
    })
}

fn weigh(state: &SubtaskState, is_new: impl Fn(&FileHandle) -> bool) -> SubtaskDetails {
    let sum = |sum: u64, handle: &FileHandle| sum.saturating_add(handle.len_bytes);
    let all = || state.shared_files().chain(state.private_files());
    SubtaskDetails {
        acknowledged_unix_ms: None,
        state_bytes: all().fold(0, sum),
        new_bytes: all().filter(|handle| is_new(handle)).fold(0, sum),
        persisted_bytes: persisted_bytes(state),
        log_bytes: log_bytes(state),
        times: None,
    }
}

fn log_bytes(state: &SubtaskState) -> u64 {
    let SubtaskState::Keyed(keyed) = state else { return 0 };
    keyed.changelog.as_ref().map_or(0, Changelog::len_bytes)
}

fn persisted_bytes(state: &SubtaskState) -> u64 {
    state.in_flight().map_or(0, |in_flight| in_flight.handle.len_bytes)
}
