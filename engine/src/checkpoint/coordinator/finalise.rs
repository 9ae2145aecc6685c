//! From the acknowledgements to the register: how a checkpoint becomes complete.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::time::micros;

use super::files::{Retained, all_files, own_paths, shared_paths};
use super::pending::{Pending, Phase};
use super::{Coordinator, Decision, Failure};
use crate::checkpoint::barrier::Target;
use crate::checkpoint::history::{Entry, EntryStatus, Present};
use crate::checkpoint::layout::{Layout, Object};
use crate::checkpoint::metadata::{self, Place};
use crate::checkpoint::registry::RegisterError;
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata, FileHandle, SubtaskState, VertexState};
use crate::checkpoint::{acknowledge, points};
use crate::cluster::rpc::{Attempt, TaskId};

/// What became of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It counts.
    Taken,
    /// It came before.
    Duplicate,
    /// It is of an older attempt; nothing was done.
    Stale,
    /// Its checkpoint is gone. Its shared files are in the registry.
    Late,
    /// It cannot be part of a checkpoint, which was aborted.
    Refused(String),
}

impl Coordinator {
    /// A task's part of a checkpoint is durable.
    pub fn acknowledge(
        &mut self,
        attempt: Attempt,
        id: CheckpointId,
        task: TaskId,
        state: SubtaskState,
        unix_ms: u64,
    ) -> (Acknowledged, Vec<Decision>) {
        let mut decisions = Vec::new();
        let Some(run) = self.run.as_ref().filter(|run| run.attempt == attempt) else {
            return (Acknowledged::Stale, decisions);
        };
        let part = acknowledge::Part {
            layout: &self.layout,
            plan: &self.plan,
            parallelism: &run.parallelism,
            attempt,
            target: run.savepoints.get(&id).unwrap_or(&Target::Increment),
        };
        // The base of a late part may have been given up since the task began; nothing will be restored from that part.
        let is_late = !self.pending.contains_key(&id);
        let known = |path: &str| {
            let mut held = self.retained.iter().chain(&self.origin);
            is_late || self.registry.contains(path) || held.any(|retained| retained.files.contains(path))
        };
        let given_out = if id.0 < self.next_id { Ok(()) } else { Err("no such checkpoint".to_owned()) };
        let checked = given_out.and_then(|()| part.check(id, task, &state, self.max_parallelism, known));
        // Before anybody looks at the fate of the checkpoint: from now on the registry owns the shared files.
        let checked = checked.and_then(|()| self.register(id, &state, is_late));
        if let Err(reason) = checked {
            let reason = format!("acknowledgement of {task}: {reason}");
            self.fail(id, Failure::Declined, &reason, unix_ms, &mut decisions);
            return (Acknowledged::Refused(reason), decisions);
        }
        let needed = self.tasks();
        let Some(pending) = self.pending.get_mut(&id) else {
            cutwater_io::sometimes!(points::LATE_ACK, state.shared_files().next().is_some());
            self.delete_private(id, &state, &mut decisions);
            return (Acknowledged::Late, decisions);
        };
        if pending.states.contains_key(&task) {
            return (Acknowledged::Duplicate, decisions);
        }
        pending.states.insert(task, state);
        if pending.states.len() == needed {
            pending.completed_unix_ms = unix_ms;
        }
        self.finalise(unix_ms, &mut decisions);
        (Acknowledged::Taken, decisions)
    }

    fn register(&mut self, id: CheckpointId, state: &SubtaskState, is_late: bool) -> Result<(), String> {
        for handle in state.shared_files() {
            // What a late part names is believed only if it can be of this attempt.
            let of_attempt = matches!(self.layout.parse(&handle.path), Some(Object::Shared { .. }));
            if is_late && !of_attempt && !self.registry.contains(&handle.path) {
                continue;
            }
            let registered = self.registry.register(handle, id);
            let is_condemned = matches!(registered, Err(RegisterError::Condemned { .. }));
            if is_late && is_condemned {
                continue;
            }
            cutwater_io::never!(points::CONDEMNED_REFERENCE, is_condemned);
            registered.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// How many parts a checkpoint has.
    pub(super) fn tasks(&self) -> usize {
        self.run.iter().flat_map(|run| &run.parallelism).map(|p| usize::from(*p)).sum()
    }

    /// Begins to write the oldest checkpoint that has all its parts, one at a time.
    pub(super) fn finalise(&mut self, unix_ms: u64, decisions: &mut Vec<Decision>) {
        let needed = self.tasks();
        let is_busy = |p: &Pending| matches!(p.phase, Phase::Writing | Phase::Completing);
        if needed == 0 || self.pending.values().any(is_busy) {
            return;
        }
        let Some((id, pending)) = self.pending.iter_mut().find(|(_, p)| p.states.len() == needed) else {
            return;
        };
        assert!(pending.phase == Phase::Collecting, "{pending:?}");
        pending.phase = Phase::Writing;
        let vertices = (0u16..).zip(&self.plan).map(|(vertex, plan)| {
            let first = TaskId { vertex, subtask: 0 }..=TaskId { vertex, subtask: u16::MAX };
            let subtasks = pending.states.range(first).map(|(_, state)| state.clone()).collect();
            VertexState { uid: plan.uid.clone(), subtasks }
        });
        let checkpoint = CheckpointMetadata {
            job: self.layout.job().into(),
            id: *id,
            description: pending.entry.description.clone(),
            savepoint: pending.savepoint_format(),
            max_parallelism: self.max_parallelism,
            triggered_unix_ms: pending.entry.triggered_unix_ms,
            completed_unix_ms: pending.completed_unix_ms,
            vertices: vertices.collect(),
        };
        let path = pending.metadata_path(&self.layout);
        let place = match pending.directory() {
            None => Place::Checkpoint(&self.layout, *id),
            Some(directory) => Place::Savepoint(directory),
        };
        let job = metadata::Job {
            plan: &self.plan,
            max_parallelism: self.max_parallelism,
            allow_non_restored: false,
        };
        // What a restore would refuse must not complete.
        match metadata::validate(&checkpoint, &path, place, &job) {
            Ok(()) => decisions.push(Decision::WriteMetadata { path, metadata: Box::new(checkpoint) }),
            Err(error) => {
                let id = *id;
                self.fail(id, Failure::Finalise, &error.to_string(), unix_ms, decisions);
            }
        }
    }

    /// See [`Decision::WriteMetadata`].
    pub fn metadata_written(&mut self, id: CheckpointId, metadata: FileHandle) -> Vec<Decision> {
        let Some(pending) = self.pending.get_mut(&id) else {
            // Aborted in the meantime; its id is dead and its metadata nobody's.
            self.deletions += 1;
            return vec![Decision::Delete(vec![metadata.path])];
        };
        assert!(pending.phase == Phase::Writing, "{pending:?}");
        pending.phase = Phase::Completing;
        let files: BTreeMap<&str, u64> = pending.states.values().flat_map(all_files).collect();
        let is_new =
            |path: &str| self.registry.entries().get(path).is_none_or(|entry| entry.created_by == id);
        let sum = |only_new: bool| {
            let counted = files.iter().filter(|(path, _)| !only_new || is_new(path));
            counted.fold(metadata.len_bytes, |sum, (_, len)| sum.saturating_add(*len))
        };
        let present = Present {
            completed_unix_ms: pending.completed_unix_ms,
            state_bytes: sum(false),
            new_bytes: sum(true),
            metadata,
        };
        let entry = Entry { status: EntryStatus::Present(present), ..pending.entry.clone() };
        vec![Decision::Complete { entry: Box::new(entry), stops: pending.stops() }]
    }

    /// See [`Decision::WriteMetadata`]. The object may exist all the same; the sweeper knows.
    pub fn metadata_failed(&mut self, id: CheckpointId, reason: &str, unix_ms: u64) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.fail(id, Failure::Finalise, reason, unix_ms, &mut decisions);
        decisions
    }

    /// The register names the checkpoint: see [`Decision::Complete`]. `retained` is what the register retains now.
    pub fn completed(
        &mut self,
        id: CheckpointId,
        retained: &[CheckpointId],
        now_us: u64,
        unix_ms: u64,
    ) -> Vec<Decision> {
        let pending = self.pending.remove(&id).expect("a checkpoint that completes is pending until it has");
        assert!(pending.phase == Phase::Completing, "{pending:?}");
        tracing::debug!(checkpoint = %id, "completed");
        let mut decisions = Vec::new();
        if !pending.is_retained() {
            // Nothing is committed and nothing subsumed: a failure would restore from before it.
            cutwater_io::reachable!(points::SAVEPOINT_COMPLETED);
            decisions.push(Decision::Forget(id));
            self.finalise(unix_ms, &mut decisions);
            return decisions;
        }
        self.retained.push(retain(&pending, &self.layout));
        self.must_be_full = false;
        cutwater_io::sometimes!(points::STOPPED, pending.stops());
        cutwater_io::sometimes!(points::CLAIMED_DELETED, self.origin.is_some());
        if let Some(run) = self.run.as_mut().filter(|run| run.attempt == pending.attempt) {
            run.failures = 0;
            run.next_periodic_us = run.next_periodic_us.max(now_us + micros(self.config.min_pause));
            if let Some(last) = run.last_stage.as_mut().filter(|last| last.from <= id) {
                last.done.get_or_insert(id);
            }
            decisions.push(Decision::NotifyComplete(id));
        }
        // Completion is in order of ids: whatever is older will never be. A savepoint is its user's and not in that order.
        let older = self.pending.range(..id).filter(|(_, p)| p.is_retained());
        let subsumed: Vec<_> = older.map(|(id, _)| *id).collect();
        for older in subsumed {
            self.abort(older, &format!("checkpoint {id} completed first"), unix_ms, &mut decisions);
        }
        self.subsume(retained, false, &mut decisions);
        self.finalise(unix_ms, &mut decisions);
        decisions
    }
}

fn retain(pending: &Pending, layout: &Layout) -> Retained {
    let id = pending.entry.id;
    if pending.is_savepoint() {
        return Retained::nothing(id);
    }
    let mut files: BTreeSet<String> = pending.states.values().flat_map(own_paths).collect();
    files.insert(layout.metadata(id));
    Retained { id, files, shared: pending.states.values().flat_map(shared_paths).collect() }
}
