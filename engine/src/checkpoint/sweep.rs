//! The sweeper: which objects of a job nobody owns.
//!
//! Aborted uploads, puts that landed after everybody had given them up, deletions that failed, the remains of dead
//! leaders: all of them leave objects that no record names. The sweeper lists the job's objects now and then and deletes
//! those. Committed output and the register are not its business.
//!
//! Why a sweep never deletes what somebody needs, even if the sweeping leader has been paused for long and is leader no more:
//! - The names decide, and names are never reused. An object of the *current or a later attempt* is left alone (except
//!   a file of one checkpoint whose id is dead), so a later leader's objects, whose epoch is higher, are out of reach, and so
//!   are its checkpoints, whose ids lie above every id that this leader reserved.
//! - An object of an *older attempt* that no retained checkpoint references can never be referenced again. A new checkpoint
//!   references what its own attempt uploaded and what it was restored from; both are restored from retained ones. A
//!   later leader starts from the register, whose retained list is this leader's last one: a subset of what this leader
//!   knew, plus checkpoints of the current attempt, which reference nothing older than that.
//! - That argument needs the retained list to be certain: no sweep is decided while a change of the register is under way.
//!
//! The list may be as old as it likes; the view must be of the moment of the decision.

use std::collections::BTreeSet;

use super::layout::{Layout, Object};
use super::snapshot::CheckpointId;
use crate::cluster::rpc::Attempt;

/// What is alive at the moment of a decision.
#[derive(Clone, Debug)]
pub struct View {
    /// Objects of this attempt and later ones are left alone.
    pub current: Attempt,
    /// This leader has given out no id from here on.
    pub next_id: CheckpointId,
    /// Checkpoints that may still complete.
    pub pending: BTreeSet<CheckpointId>,
    /// Every object that a retained checkpoint or the registry of shared state names, metadata included.
    pub referenced: BTreeSet<String>,
    /// Directories of savepoints that will never be complete, or were deleted. Nobody else writes there.
    pub abandoned: BTreeSet<String>,
}

/// Those of `listed` that nobody owns.
pub fn orphans(layout: &Layout, view: &View, listed: &[String]) -> Vec<String> {
    listed.iter().filter(|path| is_orphan(layout, view, path)).cloned().collect()
}

fn is_orphan(layout: &Layout, view: &View, path: &str) -> bool {
    if view.referenced.contains(path) {
        return false;
    }
    let dead = |id: CheckpointId| id < view.next_id && !view.pending.contains(&id);
    match layout.parse(path) {
        Some(Object::Metadata { checkpoint }) => dead(checkpoint),
        Some(Object::Private { checkpoint, attempt, .. }) => {
            attempt < view.current || attempt == view.current && dead(checkpoint)
        }
        Some(Object::Shared { attempt } | Object::Staged { attempt }) => attempt < view.current,
        Some(Object::Savepoint { directory }) => view.abandoned.contains(&directory),
        Some(Object::Log { .. } | Object::Output { .. }) => false,
        None => view.abandoned.iter().any(|directory| is_within(path, directory)),
    }
}

/// True if the object lies below the directory.
pub fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::rpc::TaskId;

    #[test]
    fn only_what_is_dead_and_unreferenced_is_swept() {
        let layout = Layout::new("job").unwrap();
        let attempt = |epoch, number| Attempt { epoch, number };
        let task = TaskId { vertex: 0, subtask: 0 };
        let private = |id, a| layout.private(CheckpointId(id), a, task, "u");
        let view = View {
            current: attempt(2, 3),
            next_id: CheckpointId(10),
            pending: [CheckpointId(9)].into(),
            referenced: [layout.metadata(CheckpointId(7)), layout.shared(attempt(1, 1), "kept")].into(),
            abandoned: [layout.savepoint(None, "dead"), "elsewhere/savepoint-job-dead".to_owned()].into(),
        };
        let swept = [
            layout.metadata(CheckpointId(8)),
            private(8, attempt(2, 3)),
            private(7, attempt(2, 2)),
            private(12, attempt(1, 9)),
            layout.shared(attempt(2, 2), "u"),
            layout.staged(attempt(1, 9), "u"),
            layout.savepoint(None, "dead") + "/u",
            "elsewhere/savepoint-job-dead/u".into(),
        ];
        let kept = [
            layout.metadata(CheckpointId(7)),
            layout.metadata(CheckpointId(9)),
            layout.metadata(CheckpointId(10)),
            private(9, attempt(2, 3)),
            private(8, attempt(3, 1)),
            layout.shared(attempt(1, 1), "kept"),
            layout.shared(attempt(2, 3), "u"),
            layout.shared(attempt(3, 1), "u"),
            layout.staged(attempt(2, 3), "u"),
            layout.output("t"),
            layout.log(1),
            "job/something else".into(),
            layout.savepoint(None, "alive") + "/u",
            "elsewhere/savepoint-job-dead-not/u".into(),
        ];
        let listed: Vec<_> = swept.iter().chain(&kept).cloned().collect();
        assert_eq!(orphans(&layout, &view, &listed), swept);
    }
}
