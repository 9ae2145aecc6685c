//! How long the part of a task in a checkpoint takes, on the clock of the task.
//!
//! ```text
//! first barrier arrives --alignment--> snapshot begins --sync--> it is fixed --async--> acknowledgement
//! ```
//! A barrier that overtakes at once aligns for no time, as does that of a source; one that overtakes after a while aligns until
//! then. What is in flight is written in the asynchronous part, which therefore also waits for the barriers of the other channels.
//!
//! *Not measured*: the time from the trigger to the first barrier, which would compare clocks of two machines.

use std::collections::BTreeMap;

use cutwater_io::time::{self, Instant, micros};

use crate::checkpoint::snapshot::CheckpointId;
use crate::cluster::console::PartTimes;

/// When the first barriers arrived of checkpoints that have not been snapshotted.
#[derive(Debug, Default)]
pub(super) struct FirstBarriers {
    arrived: BTreeMap<CheckpointId, Instant>,
    /// The last that was snapshotted: barriers of it may still arrive.
    last: Option<CheckpointId>,
}

impl FirstBarriers {
    pub(super) fn arrived(&mut self, checkpoint: CheckpointId, at: Instant) {
        if self.last.is_none_or(|last| checkpoint > last) {
            self.arrived.entry(checkpoint).or_insert(at);
        }
    }

    /// The snapshot is taken now. Older ones will not be any more.
    pub(super) fn snapshotted(&mut self, checkpoint: CheckpointId) -> Option<Instant> {
        let first = self.arrived.remove(&checkpoint);
        self.arrived = self.arrived.split_off(&checkpoint);
        self.last = self.last.max(Some(checkpoint));
        first
    }

    pub(super) fn aborted(&mut self, checkpoint: CheckpointId) {
        self.arrived.remove(&checkpoint);
    }
}

/// A part that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    times: PartTimes,
    /// Since when the phase lasts.
    since: Instant,
}

impl Timing {
    /// The snapshot begins.
    pub(super) fn begin(first_barrier: Option<Instant>, is_unaligned: bool) -> Timing {
        let since = time::now();
        let alignment_us = first_barrier.map_or(0, |first| micros(since - first));
        Timing { times: PartTimes { alignment_us, is_unaligned, ..PartTimes::default() }, since }
    }

    /// The snapshot is fixed; records are processed again.
    pub(super) fn fixed(&mut self) {
        let now = time::now();
        self.times.sync_us = micros(now - self.since);
        self.since = now;
    }

    /// The acknowledgement is sent.
    pub(super) fn acknowledged(mut self) -> PartTimes {
        self.times.async_us = micros(self.since.elapsed());
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[cfg(not(madsim))]
    fn start() -> Instant {
        time::now()
    }

    /// The simulated clock stands in a simulation only.
    #[cfg(madsim)]
    fn start() -> Instant {
        let runtime = madsim::runtime::Runtime::new();
        runtime.add_simulator::<cutwater_io::sim::Env>();
        runtime.block_on(async { time::now() })
    }

    #[test]
    fn only_the_first_barrier_of_what_is_not_snapshotted_counts() {
        let start = start();
        let at = |ms| start + Duration::from_millis(ms);
        let mut barriers = FirstBarriers::default();
        barriers.arrived(CheckpointId(1), at(0));
        barriers.arrived(CheckpointId(2), at(10));
        barriers.arrived(CheckpointId(2), at(20));
        barriers.arrived(CheckpointId(3), at(30));
        assert_eq!(barriers.snapshotted(CheckpointId(2)), Some(at(10)));
        barriers.arrived(CheckpointId(2), at(40));
        barriers.arrived(CheckpointId(1), at(40));
        assert_eq!(barriers.snapshotted(CheckpointId(1)), None, "superseded");
        barriers.aborted(CheckpointId(3));
        assert_eq!(barriers.snapshotted(CheckpointId(3)), None);
        assert!(barriers.arrived.is_empty());
    }
}
