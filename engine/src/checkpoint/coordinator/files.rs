//! The files of checkpoints: which of them a checkpoint has to itself and which the registry owns, and what becomes of them
//! when it dies or is let go.
//!
//! A file is deleted once no retained checkpoint names it, none under way does, and the registry does not keep it. Nothing
//! waits for a deletion, and what is left behind is the sweeper's.

use std::collections::BTreeSet;

use super::super::layout::{Layout, Object};
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
    pub(super) fn of(metadata: &CheckpointMetadata, layout: &Layout) -> Retained {
        Retained { id: metadata.id, files: own_files(layout, metadata), shared: shared_files(metadata) }
    }
}

impl Coordinator {
    /// Deletes the files that one dead checkpoint alone could have had. Staged output is not among them: its transaction goes
    /// on and will be part of the next checkpoint.
    pub(super) fn delete_private(&mut self, state: &SubtaskState, decisions: &mut Vec<Decision>) {
        let referenced = |path: &String| self.retained.iter().any(|retained| retained.files.contains(path));
        let private = |path: &String| matches!(self.layout.parse(path), Some(Object::Private { .. }));
        let paths: Vec<_> = own_paths(state).filter(|path| private(path) && !referenced(path)).collect();
        self.delete(paths, decisions);
    }

    /// Lets go of what the register does not name any more.
    pub(super) fn subsume(&mut self, named: &[CheckpointId], decisions: &mut Vec<Decision>) {
        let (kept, subsumed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retained).into_iter().partition(|retained| named.contains(&retained.id));
        assert!(kept.iter().map(|retained| &retained.id).eq(named), "the register names {named:?}");
        self.retained = kept;
        let pending: BTreeSet<_> =
            self.pending.values().flat_map(|p| p.states.values()).flat_map(own_paths).collect();
        let referenced = |path: &String| {
            pending.contains(path) || self.retained.iter().any(|retained| retained.files.contains(path))
        };
        let mut paths: Vec<_> = subsumed
            .into_iter()
            .flat_map(|retained| retained.files)
            .filter(|path| !referenced(path))
            .collect();
        let lowest = self.retained.first().expect("the newest is always kept").id;
        paths.extend(self.registry.unregister_unused(lowest));
        self.delete(paths, decisions);
    }

    pub(super) fn delete(&mut self, paths: Vec<String>, decisions: &mut Vec<Decision>) {
        if !paths.is_empty() {
            self.deletions += 1;
            decisions.push(Decision::Delete(paths));
        }
    }
}

fn shared_files(metadata: &CheckpointMetadata) -> BTreeSet<String> {
    metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks).flat_map(shared_paths).collect()
}

pub(super) fn shared_paths(state: &SubtaskState) -> impl Iterator<Item = String> {
    state.shared_files().map(|handle| handle.path.clone())
}

pub(super) fn own_paths(state: &SubtaskState) -> impl Iterator<Item = String> {
    state.private_files().into_iter().map(|handle| handle.path.clone())
}

fn own_files(layout: &Layout, metadata: &CheckpointMetadata) -> BTreeSet<String> {
    let states = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
    states.flat_map(own_paths).chain([layout.metadata(metadata.id)]).collect()
}

pub(super) fn all_files(state: &SubtaskState) -> impl Iterator<Item = (&str, u64)> {
    state.shared_files().chain(state.private_files()).map(|handle| (handle.path.as_str(), handle.len_bytes))
}
