//! Aligned barriers: when a task may snapshot its state.
//!
//! A channel that has brought the barrier of a checkpoint is blocked until all have; then the state is exactly the effect
//! of the records before the barrier on every channel (Chandy and Lamport 1985; Flink's `SingleCheckpointBarrierHandler`).
//! - A newer barrier ends the unfinished alignment of an older one, which the task then declines.
//! - Ids at or below the last one that was begun, snapshotted or given up are ignored: ids only grow.
//! - A checkpoint that was aborted before its barrier came is skipped. The barriers of an id that was given up do not
//!   travel on: the tasks downstream hear of the abort themselves, or see a newer barrier.
//!
//! Pure: barriers and aborts in, decisions out.

use std::collections::BTreeSet;

use crate::checkpoint::snapshot::CheckpointId;

/// What to do after a barrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The checkpoint whose alignment was given up, to be declined.
    pub declined: Option<CheckpointId>,
    /// The checkpoint to snapshot now, before any further record. All channels are unblocked.
    pub snapshot: Option<CheckpointId>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Aligner {
    channels: usize,
    blocked: BTreeSet<usize>,
    pending: Option<CheckpointId>,
    /// The highest id that was begun or given up.
    last: Option<CheckpointId>,
    /// Aborted ids above `last`.
    aborted: BTreeSet<CheckpointId>,
}

impl Aligner {
    /// For a task with that many channels.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(channels: usize) -> Aligner {
        assert!(channels > 0, "a task that aligns has input");
        Aligner { channels, blocked: BTreeSet::new(), pending: None, last: None, aborted: BTreeSet::new() }
    }

    /// True if nothing may be read from the channel now.
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.blocked.contains(&channel)
    }

    /// A channel has brought a barrier.
    ///
    /// # Panics
    /// If the channel does not exist or is blocked: its barrier should not have been read.
    pub fn barrier(&mut self, channel: usize, id: CheckpointId) -> Decision {
        assert!(channel < self.channels, "channel {channel} of {}", self.channels);
        assert!(
            !self.is_blocked(channel),
            "channel {channel} is blocked, its barrier {id} was read nevertheless"
        );
        let mut decision = Decision::default();
        if self.pending != Some(id) {
            if self.last.is_some_and(|last| id <= last) {
                return decision;
            }
            decision.declined = self.pending.take();
            self.blocked.clear();
            self.last = Some(id);
            let skipped = self.aborted.remove(&id);
            self.aborted = self.aborted.split_off(&id);
            if skipped {
                return decision;
            }
            self.pending = Some(id);
        }
        self.blocked.insert(channel);
        if self.blocked.len() == self.channels {
            self.blocked.clear();
            decision.snapshot = self.pending.take();
        }
        decision
    }

    /// The checkpoint will never be. Returns true if its alignment was under way: its channels are unblocked.
    pub fn abort(&mut self, id: CheckpointId) -> bool {
        if self.pending == Some(id) {
            self.pending = None;
            self.blocked.clear();
            return true;
        }
        if self.last.is_none_or(|last| id > last) {
            self.aborted.insert(id);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOTHING: Decision = Decision { declined: None, snapshot: None };

    fn id(n: u64) -> CheckpointId {
        CheckpointId(n)
    }

    #[test]
    fn snapshots_when_all_channels_have_delivered() {
        let mut aligner = Aligner::new(3);
        assert_eq!(aligner.barrier(1, id(5)), NOTHING);
        assert!(aligner.is_blocked(1) && !aligner.is_blocked(0));
        assert_eq!(aligner.barrier(0, id(5)), NOTHING);
        assert_eq!(aligner.barrier(2, id(5)), Decision { declined: None, snapshot: Some(id(5)) });
        assert!((0..3).all(|channel| !aligner.is_blocked(channel)));
        assert_eq!(aligner.barrier(2, id(5)), NOTHING, "an id is snapshotted once");
        assert!(!aligner.is_blocked(2));
    }

    #[test]
    fn a_newer_barrier_supersedes() {
        let mut aligner = Aligner::new(2);
        aligner.barrier(0, id(1));
        assert_eq!(aligner.barrier(1, id(2)), Decision { declined: Some(id(1)), snapshot: None });
        assert!(aligner.is_blocked(1) && !aligner.is_blocked(0));
        assert_eq!(aligner.barrier(0, id(2)).snapshot, Some(id(2)));
        assert_eq!(aligner.barrier(0, id(1)), NOTHING, "older ids are ignored");
    }

    #[test]
    fn an_abort_unblocks_and_is_remembered() {
        let mut aligner = Aligner::new(2);
        aligner.barrier(0, id(1));
        assert!(aligner.abort(id(1)));
        assert!(!aligner.is_blocked(0));
        assert_eq!(aligner.barrier(1, id(1)), NOTHING, "the late barrier of an aborted checkpoint");
        assert!(!aligner.is_blocked(1));
        assert!(!aligner.abort(id(3)));
        assert_eq!(aligner.barrier(0, id(3)), NOTHING, "aborted before its barrier came");
        assert_eq!(aligner.barrier(1, id(3)), NOTHING);
        assert_eq!(aligner.barrier(0, id(4)), NOTHING);
        assert_eq!(aligner.barrier(1, id(4)).snapshot, Some(id(4)));
    }

    #[test]
    fn one_channel_never_blocks() {
        let mut aligner = Aligner::new(1);
        assert_eq!(aligner.barrier(0, id(1)).snapshot, Some(id(1)));
        assert!(!aligner.is_blocked(0));
    }

    proptest! {
        /// Each channel brings barriers 1..=n with records between them, read in any order that blocking allows, with
        /// aborts in between. Whatever is snapshotted is exactly the records before that barrier on every channel.
        #[test]
        fn a_snapshot_is_a_consistent_cut(
            channels in 1usize..5, barriers in 1u64..6, picks in proptest::collection::vec((any::<u16>(), 0u8..20), 0..400),
        ) {
            let mut aligner = Aligner::new(channels);
            // Position p of a channel is a record if even, the barrier (p + 1) / 2 if odd.
            let mut read = vec![0u64; channels];
            let mut snapshots = Vec::new();
            let mut aborted = BTreeSet::new();
            for (pick, abort) in picks {
                if abort == 0 {
                    let checkpoint = id(1 + u64::from(pick) % barriers);
                    if !snapshots.contains(&checkpoint) {
                        aligner.abort(checkpoint);
                        aborted.insert(checkpoint);
                    }
                    continue;
                }
                let open: Vec<usize> =
                    (0..channels).filter(|c| !aligner.is_blocked(*c) && read[*c] < 2 * barriers).collect();
                let Some(channel) = open.get(usize::from(pick) % open.len().max(1)).copied() else { continue };
                let position = read[channel];
                read[channel] += 1;
                if position % 2 == 0 { continue }
                let decision = aligner.barrier(channel, id(position.div_ceil(2)));
                prop_assert!(decision.declined.is_none_or(|id| !snapshots.contains(&id)));
                if let Some(id) = decision.snapshot {
                    prop_assert!(read.iter().all(|read| *read == 2 * id.0), "{id}: {read:?}");
                    prop_assert!(snapshots.last().is_none_or(|last| *last < id), "ids grow");
                    prop_assert!(!aborted.contains(&id), "{id} was aborted");
                    snapshots.push(id);
                }
            }
            if aborted.is_empty() && read.iter().all(|read| *read == 2 * barriers) {
                prop_assert_eq!(snapshots.last(), Some(&id(barriers)), "the last barrier supersedes all before it");
            }
        }
    }
}
