//! Whether a task's part of a checkpoint can be taken at all.
//!
//! An acknowledgement comes over the network and is believed in nothing that can be checked: that the task exists and keeps
//! that kind of state, that the key groups are its own, and that every file it names is of a kind and an age that this
//! attempt may reference. A file of an older attempt must be known (it came from a restored checkpoint): the sweeper may
//! have deleted any other. A savepoint stands alone, so that all its files lie in its directory, and none is shared.

use super::assign::{VertexKind, VertexPlan, key_group_range};
use super::barrier::Target;
use super::layout::{Layout, Object};
use super::snapshot::{CheckpointId, FileHandle, SourceSnapshot, SubtaskState};
use crate::cluster::rpc::{Attempt, TaskId};

/// The deployment that the task belongs to.
pub(super) struct Part<'a> {
    pub layout: &'a Layout,
    pub plan: &'a [VertexPlan],
    /// Of each vertex.
    pub parallelism: &'a [u16],
    pub attempt: Attempt,
    /// Where the files of the checkpoint are to go.
    pub target: &'a Target,
}

impl Part<'_> {
    /// Why the state cannot be the task's part. `known` says whether a retained checkpoint or the registry names a path.
    pub fn check(
        &self,
        id: CheckpointId,
        task: TaskId,
        state: &SubtaskState,
        max_parallelism: u16,
        known: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        let checked = self
            .check_state(task, state, max_parallelism)
            .and_then(|()| self.check_files(id, task, state, known));
        cutwater_io::never!(super::points::REFUSED, checked.is_err());
        checked
    }

    fn check_state(&self, task: TaskId, state: &SubtaskState, max_parallelism: u16) -> Result<(), String> {
        let vertex = usize::from(task.vertex);
        let (Some(plan), Some(&parallelism)) = (self.plan.get(vertex), self.parallelism.get(vertex)) else {
            return Err("no such vertex".into());
        };
        if task.subtask >= parallelism {
            return Err(format!("the vertex has {parallelism} subtasks"));
        }
        match (state, plan.kind) {
            (SubtaskState::Keyed(keyed), VertexKind::Keyed) => {
                let range = key_group_range(task.subtask, parallelism, max_parallelism);
                if keyed.range != range {
                    return Err(format!("covers {:?}, not {range:?}", keyed.range));
                }
                keyed.check_segments()?;
            }
            (SubtaskState::Source(SourceSnapshot { positions, .. }), VertexKind::Source { partitions }) => {
                let foreign = |partition| {
                    partition >= partitions || partition % u32::from(parallelism) != u32::from(task.subtask)
                };
                if let Some(position) = positions.iter().find(|position| foreign(position.partition)) {
                    return Err(format!("partition {} is not its own", position.partition));
                }
            }
            (SubtaskState::Sink(_), VertexKind::Sink) | (SubtaskState::Plain(_), VertexKind::Plain) => {}
            _ => return Err(format!("not the state of {:?}", plan.kind)),
        }
        state.in_flight().map_or(Ok(()), |in_flight| in_flight.check(task))
    }

    fn check_files(
        &self,
        id: CheckpointId,
        task: TaskId,
        state: &SubtaskState,
        known: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        if let Target::Savepoint { directory, .. } = self.target {
            if let Some(handle) = state.shared_files().next() {
                return Err(format!("{} is a shared file of the savepoint {directory}", handle.path));
            }
            let outside = |handle: &&FileHandle| !self.target.holds(&handle.path);
            return match state.private_files().into_iter().find(outside) {
                None => Ok(()),
                Some(handle) => Err(format!("{} is not in the savepoint {directory}", handle.path)),
            };
        }
        let own = Object::Private { checkpoint: id, attempt: self.attempt, task };
        for handle in state.shared_files() {
            match self.layout.parse(&handle.path) {
                Some(Object::Shared { attempt }) if attempt == self.attempt => {}
                // Also of another job, whose checkpoint was claimed.
                _ if known(&handle.path) => {}
                _ => return Err(format!("{} is not a shared file it can know of", handle.path)),
            }
        }
        let staged: Vec<&FileHandle> = state.transactions().iter().map(|t| &t.staged).collect();
        for handle in &staged {
            match self.layout.parse(&handle.path) {
                Some(Object::Staged { attempt }) if attempt == self.attempt || known(&handle.path) => {}
                _ => return Err(format!("{} is not output it can have staged", handle.path)),
            }
        }
        for handle in state.private_files().into_iter().filter(|handle| !staged.contains(handle)) {
            if self.layout.parse(&handle.path).is_none_or(|object| object != own) {
                return Err(format!("{} is not a file of its own", handle.path));
            }
        }
        Ok(())
    }
}
