//! When checkpoints are taken, and what may go wrong with them.

use std::time::Duration;

use cutwater_io::time::micros;

use serde::{Deserialize, Serialize};

use crate::checkpoint::barrier::Alignment;
use crate::checkpoint::job_state::Retention;
use crate::state::changelog::ChangelogOptions;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointConfig {
    /// From one periodic trigger to the next.
    pub interval: Duration,
    /// From a completion to the next periodic trigger, at least.
    pub min_pause: Duration,
    /// From a trigger to its abort, unless it has completed.
    pub timeout: Duration,
    /// How many checkpoints in a row may fail without a restart of the job.
    pub tolerable_failures: u32,
    /// How many completed checkpoints are kept; at least one.
    pub retained: usize,
    /// How many may be under way at once; at least one, and exactly one if a barrier may overtake.
    pub max_concurrent: usize,
    /// Whether barriers wait for the records before them. Those of savepoints always do.
    pub alignment: Alignment,
    /// What becomes of the completed ones when the job ends.
    pub retention: Retention,
    /// How changes of keyed state are logged, if they are: then a checkpoint is a base and a log.
    pub changelog: Option<ChangelogOptions>,
}

impl CheckpointConfig {
    /// What cannot be, by name.
    ///
    /// # Errors
    /// If nothing would be retained, nothing could be under way, barriers may overtake each other, or changes cannot be logged so.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.retained == 0 {
            return Err("retained must be at least 1");
        }
        if self.max_concurrent == 0 {
            return Err("max_concurrent must be at least 1");
        }
        if self.alignment != Alignment::Aligned && self.max_concurrent != 1 {
            return Err("max_concurrent must be 1 unless alignment is Aligned");
        }
        self.changelog.map_or(Ok(()), |changelog| changelog.check())
    }

    pub(super) fn base_interval_us(&self) -> u64 {
        micros(self.interval).max(micros(self.min_pause))
    }
}
