//! The files of checkpoints: which of them a checkpoint has to itself and which the registry owns, and what becomes of them
//! when it dies or is let go.
//!
//! A file is deleted once no retained checkpoint names it, none under way does, and the registry does not keep it. Nothing
//! waits for a deletion, and what is left behind is the sweeper's.

use std::collections::BTreeSet;

use super::super::layout::Object;
use super::super::snapshot::{CheckpointId, CheckpointMetadata, SubtaskState};
use super::{Coordinator, Decision};

/// A checkpoint that the register names.
#[derive(Clone, Debug)]
pub(super) struct Retained {
    pub(super) id: CheckpointId,
    /// Metadata, private files and staged output.
    pub(super) files: BTreeSet<String>,
    /// Files that the registry owns.
    pub(super) shared: BTreeSet<String>,
}

impl Retained {
    /// What the checkpoint has, whose metadata is at `path`.
    pub(super) fn of(metadata: &CheckpointMetadata, path: String) -> Retained {
        let states = || metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
        let files = states().flat_map(own_paths).chain([path]).collect();
        Retained { id: metadata.id, files, shared: states().flat_map(shared_paths).collect() }
    }

    /// A savepoint: what it has is not ours to delete.
    pub(super) fn nothing(id: CheckpointId) -> Retained {
        Retained { id, files: BTreeSet::new(), shared: BTreeSet::new() }
    }
}

impl Coordinator {
    /// The register names `named` and, if `has_origin`, still what the job was started from: a user deleted a checkpoint, or
    /// the job has ended and its checkpoints with it.
    pub fn let_go(&mut self, named: &[CheckpointId], has_origin: bool) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.subsume(named, has_origin, &mut decisions);
        decisions
    }

    /// Deletes the files that one dead checkpoint alone could have had. Staged output is not among them: its transaction goes
    /// on and will be part of the next checkpoint.
    pub(super) fn delete_private(
        &mut self,
        id: CheckpointId,
        state: &SubtaskState,
        decisions: &mut Vec<Decision>,
    ) {
        let referenced = |path: &String| self.retained.iter().any(|retained| retained.files.contains(path));
        let private = |path: &String| match self.layout.parse(path) {
            Some(Object::Private { checkpoint, .. }) => checkpoint == id,
            _ => false,
        };
        let paths: Vec<_> = own_paths(state).filter(|path| private(path) && !referenced(path)).collect();
        self.delete(paths, decisions);
    }

    /// Lets go of what the register does not name any more.
    pub(super) fn subsume(
        &mut self,
        named: &[CheckpointId],
        has_origin: bool,
        decisions: &mut Vec<Decision>,
    ) {
        let (kept, mut gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retained).into_iter().partition(|retained| named.contains(&retained.id));
        assert!(kept.iter().map(|retained| &retained.id).eq(named), "the register names {named:?}");
        self.retained = kept;
        if !has_origin {
            gone.extend(self.origin.take());
        }
        let held = || self.retained.iter().chain(&self.origin);
        let pending: BTreeSet<_> =
            self.pending.values().flat_map(|p| p.states.values()).flat_map(own_paths).collect();
        let referenced =
            |path: &String| pending.contains(path) || held().any(|retained| retained.files.contains(path));
        let lowest = held().map(|retained| retained.id).chain(self.pending.keys().copied()).min();
        let unused = self.registry.unregister_unused(lowest.unwrap_or(CheckpointId(u64::MAX)));
        let mut paths: BTreeSet<String> =
            gone.into_iter().flat_map(|retained| retained.files).filter(|path| !referenced(path)).collect();
        // Files that a checkpoint had to itself may have become the base of logs: then the registry owns them, too
        // (FLINK-25872, FLINK-28843).
        paths.retain(|path| !self.registry.contains(path));
        paths.extend(unused.into_iter().filter(|path| !referenced(path)));
        self.delete(paths.into_iter().collect(), decisions);
    }

    pub(super) fn delete(&mut self, paths: Vec<String>, decisions: &mut Vec<Decision>) {
        if !paths.is_empty() {
            self.deletions += 1;
            decisions.push(Decision::Delete(paths));
        }
    }
}

pub(super) fn shared_paths(state: &SubtaskState) -> impl Iterator<Item = String> {
    state.shared_files().map(|handle| handle.path.clone())
}

pub(super) fn own_paths(state: &SubtaskState) -> impl Iterator<Item = String> {
    state.private_files().into_iter().map(|handle| handle.path.clone())
}

pub(super) fn all_files(state: &SubtaskState) -> impl Iterator<Item = (&str, u64)> {
    state.shared_files().chain(state.private_files()).map(|handle| (handle.path.as_str(), handle.len_bytes))
}
