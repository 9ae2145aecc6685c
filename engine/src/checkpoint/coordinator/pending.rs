//! A checkpoint under way.

use std::collections::BTreeMap;

use crate::checkpoint::barrier::{Barrier, CheckpointOptions, SavepointFormat, Target};
use crate::checkpoint::history::{Entry, Kind};
use crate::checkpoint::layout::Layout;
use crate::checkpoint::snapshot::SubtaskState;
use crate::cluster::rpc::{Attempt, TaskId};

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub attempt: Attempt,
    pub entry: Entry,
    pub options: CheckpointOptions,
    pub triggered_us: u64,
    pub completed_unix_ms: u64,
    pub states: BTreeMap<TaskId, SubtaskState>,
    pub phase: Phase,
    /// Lasts as long as the checkpoint is under way.
    pub _span: tracing::Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The list is told of the user's wish; no task knows yet.
    Preparing,
    /// Tasks have yet to acknowledge, or another checkpoint is being written.
    Collecting,
    /// The metadata is being written.
    Writing,
    /// The register is being changed. There is no way back.
    Completing,
}

impl Pending {
    pub fn is_savepoint(&self) -> bool {
        self.entry.is_savepoint()
    }

    /// True if the job ends with it.
    pub fn stops(&self) -> bool {
        self.options.stop.is_some()
    }

    /// True if it becomes what the job is restored from.
    pub fn is_retained(&self) -> bool {
        !self.is_savepoint() || self.stops()
    }

    pub fn barrier(&self) -> Barrier {
        Barrier { checkpoint: self.entry.id, options: self.options.clone() }
    }

    /// Where its metadata goes.
    pub fn metadata_path(&self, layout: &Layout) -> String {
        match &self.entry.kind {
            Kind::Checkpoint { .. } => layout.metadata(self.entry.id),
            Kind::Savepoint { directory, .. } => Layout::metadata_in(directory),
        }
    }

    pub fn savepoint_format(&self) -> Option<SavepointFormat> {
        match self.options.target {
            Target::Savepoint { format, .. } => Some(format),
            Target::Increment | Target::Full => None,
        }
    }

    pub fn directory(&self) -> Option<&str> {
        match &self.options.target {
            Target::Savepoint { directory, .. } => Some(directory),
            Target::Increment | Target::Full => None,
        }
    }
}
