//! Barriers: when a task may snapshot its state, and which of its input is part of the snapshot.
//!
//! *Aligned*: a channel whose barrier has been reached is blocked until all have; then the state is exactly the effect of
//! the records before the barrier on every channel (Chandy and Lamport 1985; Flink's `SingleCheckpointBarrierHandler`).
//! *Unaligned*: the state is snapshotted as soon as the first barrier arrives. What had arrived before the barrier and was
//! not processed, on any channel, is part of the snapshot, and so is what still arrives on each channel until *its own*
//! barrier does (not: until some barrier does, FLINK-20645). State and that input together are the same cut.
//! *Aligned for so long*: aligned, until so much time has passed on this task's own clock since the first barrier arrived
//! here; then it overtakes, and the barrier goes on as an unaligned one, so that the limits of a chain of tasks do not add up.
//! (Flink compares with the time at which another machine triggered the checkpoint.)
//!
//! A barrier *arrives* when it is received and is *reached* when all before it was processed.
//! - A newer barrier ends the unfinished part of an older one, which the task then declines: an aligned one when it is
//!   reached, as more than one aligned checkpoint may be under way; any other when it arrives.
//! - Ids at or below the last one that was begun, snapshotted or given up are ignored: ids only grow.
//! - A checkpoint that was aborted before its barrier came is skipped. The barriers of an id that was given up do not
//!   travel on: the tasks downstream hear of the abort themselves, or see a newer barrier.
//!
//! Pure: barriers, aborts and time in, decisions out.

use std::collections::BTreeSet;

use crate::checkpoint::barrier::{Alignment, Barrier};
use crate::checkpoint::snapshot::CheckpointId;

/// What to do after a barrier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The checkpoint that was given up, to be declined.
    pub declined: Option<CheckpointId>,
    /// A snapshot to take now, before any further record. All channels are unblocked.
    pub snapshot: Option<Snapshot>,
    /// The checkpoint all of whose input in flight has arrived.
    pub recorded: Option<CheckpointId>,
}

/// See [`Decision::snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What goes downstream.
    pub barrier: Barrier,
    /// If it overtakes: the channels of which it overtakes nothing, since their barriers were reached before.
    pub overtakes: Option<BTreeSet<usize>>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Aligner {
    channels: usize,
    current: Option<Current>,
    /// The highest id that was begun or given up.
    last: Option<CheckpointId>,
    /// Aborted ids above `last`.
    aborted: BTreeSet<CheckpointId>,
}

/// A checkpoint that has begun here and whose cut is not complete.
#[derive(Clone, Debug)]
struct Current {
    barrier: Barrier,
    phase: Phase,
    arrived: BTreeSet<usize>,
    reached: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the barriers of all channels to be reached.
    Aligning,
    /// The same, and overtakes at some time.
    AligningUntil { deadline_us: u64 },
    /// Has overtaken, and waits for the barriers of all channels to arrive.
    Recording,
}

impl Aligner {
    /// For a task with that many channels.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(channels: usize) -> Aligner {
        assert!(channels > 0, "a task that aligns has input");
        Aligner { channels, current: None, last: None, aborted: BTreeSet::new() }
    }

    /// True if nothing may be taken from the channel now.
    pub fn is_blocked(&self, channel: usize) -> bool {
        let aligning = self.current.as_ref().filter(|current| current.phase != Phase::Recording);
        aligning.is_some_and(|current| current.reached.contains(&channel))
    }

    /// True if what arrives on the channel now is part of a snapshot that was taken.
    pub fn is_recording(&self, channel: usize) -> bool {
        let recording = self.current.as_ref().filter(|current| current.phase == Phase::Recording);
        recording.is_some_and(|current| !current.arrived.contains(&channel))
    }

    /// True if it would help to see what is behind the elements that have arrived on the channel: others have brought a
    /// barrier that overtakes, or may.
    pub fn is_awaited(&self, channel: usize) -> bool {
        let overtaking = self.current.as_ref().filter(|current| current.phase != Phase::Aligning);
        overtaking.is_some_and(|current| !current.arrived.contains(&channel))
    }

    /// When [`Aligner::tick`] has something to do.
    pub fn deadline_us(&self) -> Option<u64> {
        match self.current.as_ref()?.phase {
            Phase::AligningUntil { deadline_us } => Some(deadline_us),
            Phase::Aligning | Phase::Recording => None,
        }
    }

    /// A channel has received a barrier. `now_us` is of the task's own monotonic clock.
    ///
    /// # Panics
    /// If the channel does not exist.
    pub fn arrived(&mut self, channel: usize, barrier: &Barrier, now_us: u64) -> Decision {
        assert!(channel < self.channels, "channel {channel} of {}", self.channels);
        let id = barrier.checkpoint;
        let mut decision = Decision::default();
        let newer = |current: &Current| current.barrier.checkpoint < id;
        if self.current.as_ref().is_some_and(|c| newer(c) && c.phase != Phase::Aligning) {
            decision.declined = self.give_up();
        }
        let alignment = barrier.options.alignment();
        let phase = match alignment {
            Alignment::Aligned => return decision,
            Alignment::AlignedFor { timeout_us } => {
                Phase::AligningUntil { deadline_us: now_us.saturating_add(timeout_us) }
            }
            Alignment::Unaligned => Phase::AligningUntil { deadline_us: now_us },
        };
        if !self.begin(barrier, phase, &mut decision) {
            return decision;
        }
        let current = self.current.as_mut().expect("it is under way");
        current.arrived.insert(channel);
        if alignment == Alignment::Unaligned {
            self.overtake(&mut decision);
        }
        self.recorded(&mut decision);
        decision
    }

    /// All that came before a barrier on its channel was processed.
    ///
    /// # Panics
    /// If the channel does not exist or is blocked: its barrier should not have been taken.
    pub fn reached(&mut self, channel: usize, barrier: &Barrier) -> Decision {
        assert!(channel < self.channels, "channel {channel} of {}", self.channels);
        let id = barrier.checkpoint;
        assert!(
            !self.is_blocked(channel),
            "channel {channel} is blocked, barrier {id} was taken nevertheless"
        );
        let mut decision = Decision::default();
        if !self.begin(barrier, Phase::Aligning, &mut decision) {
            return decision;
        }
        let current = self.current.as_mut().expect("it is under way");
        if current.phase == Phase::Recording {
            return decision;
        }
        current.reached.insert(channel);
        if current.reached.len() == self.channels {
            let barrier = self.current.take().expect("it is under way").barrier;
            decision.snapshot = Some(Snapshot { barrier, overtakes: None });
        }
        decision
    }

    /// Time has passed.
    pub fn tick(&mut self, now_us: u64) -> Decision {
        let mut decision = Decision::default();
        if self.deadline_us().is_some_and(|deadline_us| deadline_us <= now_us) {
            self.overtake(&mut decision);
            self.recorded(&mut decision);
        }
        decision
    }

    /// The checkpoint will never be. Its channels are unblocked, and nothing more of it is recorded.
    pub fn abort(&mut self, id: CheckpointId) {
        if self.current.as_ref().is_some_and(|current| current.barrier.checkpoint == id) {
            self.current = None;
        } else if self.last.is_none_or(|last| id > last) {
            self.aborted.insert(id);
        }
    }

    /// True if the checkpoint of the barrier is under way, now or already.
    fn begin(&mut self, barrier: &Barrier, phase: Phase, decision: &mut Decision) -> bool {
        let id = barrier.checkpoint;
        if self.current.as_ref().is_some_and(|current| current.barrier.checkpoint == id) {
            return true;
        }
        if self.last.is_some_and(|last| id <= last) {
            return false;
        }
        decision.declined = self.give_up().or(decision.declined);
        self.last = Some(id);
        let is_aborted = self.aborted.remove(&id);
        self.aborted = self.aborted.split_off(&id);
        if is_aborted {
            return false;
        }
        let (arrived, reached) = (BTreeSet::new(), BTreeSet::new());
        self.current = Some(Current { barrier: barrier.clone(), phase, arrived, reached });
        true
    }

    fn give_up(&mut self) -> Option<CheckpointId> {
        self.current.take().map(|current| current.barrier.checkpoint)
    }

    fn overtake(&mut self, decision: &mut Decision) {
        let Some(current) = self.current.as_mut().filter(|current| current.phase != Phase::Recording) else {
            return;
        };
        current.phase = Phase::Recording;
        current.barrier.options.alignment = Alignment::Unaligned;
        let overtakes = Some(std::mem::take(&mut current.reached));
        decision.snapshot = Some(Snapshot { barrier: current.barrier.clone(), overtakes });
    }

    fn recorded(&mut self, decision: &mut Decision) {
        let complete = |c: &mut Current| c.phase == Phase::Recording && c.arrived.len() == self.channels;
        if let Some(current) = self.current.take_if(complete) {
            decision.recorded = Some(current.barrier.checkpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::barrier::{SavepointFormat, Stop, Target};
    use proptest::prelude::*;

    fn id(n: u64) -> CheckpointId {
        CheckpointId(n)
    }

    fn aligned(n: u64) -> Barrier {
        Barrier::aligned(id(n))
    }

    fn with(n: u64, alignment: Alignment) -> Barrier {
        let mut barrier = aligned(n);
        barrier.options.alignment = alignment;
        barrier
    }

    fn unaligned(n: u64) -> Barrier {
        with(n, Alignment::Unaligned)
    }

    fn aligned_for(n: u64, timeout_us: u64) -> Barrier {
        with(n, Alignment::AlignedFor { timeout_us })
    }

    fn nothing() -> Decision {
        Decision::default()
    }

    /// The checkpoint to snapshot, and whether it overtakes.
    fn snapshot(decision: &Decision) -> Option<(u64, bool)> {
        decision.snapshot.as_ref().map(|s| (s.barrier.checkpoint.0, s.overtakes.is_some()))
    }

    #[test]
    fn aligned_snapshots_when_all_channels_have_delivered() {
        let mut aligner = Aligner::new(3);
        assert_eq!(aligner.arrived(1, &aligned(5), 0), nothing());
        assert_eq!(aligner.reached(1, &aligned(5)), nothing());
        assert!(aligner.is_blocked(1) && !aligner.is_blocked(0) && !aligner.is_recording(0));
        assert_eq!(aligner.reached(0, &aligned(5)), nothing());
        assert_eq!(snapshot(&aligner.reached(2, &aligned(5))), Some((5, false)));
        assert!((0..3).all(|channel| !aligner.is_blocked(channel)));
        assert_eq!(aligner.reached(2, &aligned(5)), nothing(), "an id is snapshotted once");
        assert!(!aligner.is_blocked(2));
    }

    #[test]
    fn a_newer_aligned_barrier_supersedes_when_it_is_reached() {
        let mut aligner = Aligner::new(2);
        aligner.reached(0, &aligned(1));
        assert_eq!(aligner.arrived(1, &aligned(2), 0), nothing(), "1 may still come on it");
        assert_eq!(aligner.reached(1, &aligned(2)), Decision { declined: Some(id(1)), ..nothing() });
        assert!(aligner.is_blocked(1) && !aligner.is_blocked(0));
        assert_eq!(snapshot(&aligner.reached(0, &aligned(2))), Some((2, false)));
        assert_eq!(aligner.reached(0, &aligned(1)), nothing(), "older ids are ignored");
    }

    #[test]
    fn an_abort_unblocks_and_is_remembered() {
        let mut aligner = Aligner::new(2);
        aligner.reached(0, &aligned(1));
        aligner.abort(id(1));
        assert!(!aligner.is_blocked(0));
        assert_eq!(aligner.reached(1, &aligned(1)), nothing(), "the late barrier of an aborted checkpoint");
        assert!(!aligner.is_blocked(1));
        aligner.abort(id(3));
        assert_eq!(aligner.reached(0, &aligned(3)), nothing(), "aborted before its barrier came");
        assert_eq!(aligner.arrived(1, &unaligned(3), 0), nothing());
        assert_eq!(aligner.reached(0, &aligned(4)), nothing());
        assert_eq!(snapshot(&aligner.reached(1, &aligned(4))), Some((4, false)));
    }

    #[test]
    fn an_unaligned_barrier_overtakes_and_each_channel_is_recorded_until_its_own() {
        let mut aligner = Aligner::new(3);
        let decision = aligner.arrived(1, &unaligned(1), 0);
        assert_eq!(snapshot(&decision), Some((1, true)));
        assert_eq!((decision.declined, decision.recorded), (None, None));
        assert!(aligner.is_recording(0) && !aligner.is_recording(1) && aligner.is_recording(2));
        assert_eq!(aligner.reached(1, &unaligned(1)), nothing());
        assert!(!aligner.is_blocked(1), "nothing waits");
        assert_eq!(aligner.arrived(0, &unaligned(1), 0), nothing());
        assert!(
            !aligner.is_recording(0) && aligner.is_recording(2),
            "the barrier of another channel ends nothing"
        );
        assert_eq!(aligner.arrived(2, &unaligned(1), 0).recorded, Some(id(1)));
        assert_eq!(aligner.reached(0, &unaligned(1)), nothing());
    }

    #[test]
    fn one_channel_has_recorded_all_at_once() {
        let mut aligner = Aligner::new(1);
        let decision = aligner.arrived(0, &unaligned(1), 0);
        assert_eq!((snapshot(&decision), decision.recorded), (Some((1, true)), Some(id(1))));
        assert_eq!(snapshot(&aligner.reached(0, &aligned(2))), Some((2, false)));
        assert!(!aligner.is_blocked(0));
    }

    #[test]
    fn alignment_that_takes_too_long_overtakes() {
        let mut aligner = Aligner::new(3);
        assert_eq!(aligner.arrived(0, &aligned_for(1, 50), 1000), nothing());
        assert_eq!(aligner.deadline_us(), Some(1050));
        assert_eq!(aligner.reached(0, &aligned_for(1, 50)), nothing());
        assert!(aligner.is_blocked(0));
        assert_eq!(aligner.arrived(1, &aligned_for(1, 50), 1040), nothing(), "the first barrier counts");
        assert_eq!(aligner.tick(1049), nothing());
        let decision = aligner.tick(1050);
        let expected = Snapshot { barrier: unaligned(1), overtakes: Some([0].into()) };
        assert_eq!(decision, Decision { snapshot: Some(expected), ..nothing() });
        assert!(!aligner.is_blocked(0) && !aligner.is_recording(1) && aligner.is_recording(2));
        assert_eq!(aligner.arrived(2, &unaligned(1), 2000).recorded, Some(id(1)));
        // The next one has a time of its own.
        assert_eq!(aligner.arrived(0, &aligned_for(2, 50), 3000), nothing());
        assert_eq!(aligner.deadline_us(), Some(3050));
        for channel in 0..2 {
            assert_eq!(aligner.reached(channel, &aligned_for(2, 50)), nothing());
        }
        assert_eq!(snapshot(&aligner.reached(2, &aligned_for(2, 50))), Some((2, false)), "it was quick");
        assert_eq!(aligner.deadline_us(), None);
    }

    #[test]
    fn an_overtaking_barrier_makes_those_downstream_overtake() {
        let mut aligner = Aligner::new(2);
        aligner.arrived(0, &aligned_for(1, 1_000_000), 0);
        let decision = aligner.arrived(1, &unaligned(1), 10);
        assert_eq!((snapshot(&decision), decision.recorded), (Some((1, true)), Some(id(1))));
    }

    #[test]
    fn a_savepoint_and_the_end_of_a_job_overtake_nothing() {
        let directory = "saved".to_string();
        let target = Target::Savepoint { directory, format: SavepointFormat::Canonical };
        let (mut savepoint, mut stop) = (unaligned(1), unaligned(2));
        savepoint.options.target = target;
        stop.options.stop = Some(Stop::Suspend);
        let mut aligner = Aligner::new(1);
        for barrier in [savepoint, stop] {
            assert_eq!(aligner.arrived(0, &barrier, 0), nothing());
            assert_eq!(snapshot(&aligner.reached(0, &barrier)), Some((barrier.checkpoint.0, false)));
        }
    }

    #[test]
    fn what_ends_a_recording() {
        let mut aligner = Aligner::new(2);
        aligner.arrived(0, &unaligned(1), 0);
        let decision = aligner.arrived(0, &aligned(2), 0);
        assert_eq!(decision, Decision { declined: Some(id(1)), ..nothing() }, "a newer barrier");
        assert!(!aligner.is_recording(1));
        assert_eq!(aligner.arrived(1, &unaligned(1), 0), nothing());

        assert_eq!(snapshot(&aligner.arrived(0, &unaligned(3), 0)), Some((3, true)));
        aligner.abort(id(3));
        assert!(!aligner.is_recording(1), "an abort");
        assert_eq!(aligner.arrived(1, &unaligned(3), 0), nothing());

        aligner.arrived(0, &aligned_for(4, 9), 0);
        let decision = aligner.arrived(1, &unaligned(5), 1);
        assert_eq!((decision.declined, snapshot(&decision)), (Some(id(4)), Some((5, true))));
        assert_eq!(aligner.tick(100), nothing(), "the time of 4 is over with it");
    }

    proptest! {
        /// Each channel brings barriers 1..=n with records between them. Elements arrive and are taken in any order that
        /// blocking allows, with aborts and time in between; checkpoints are aligned, unaligned or aligned for some time.
        /// State and what was recorded are together exactly the records before the barrier on every channel.
        #[test]
        fn a_snapshot_is_a_consistent_cut(
            channels in 1usize..5,
            kinds in proptest::collection::vec(0u8..3, 1..6),
            picks in proptest::collection::vec((any::<u16>(), 0u8..24), 0..600),
        ) {
            let barriers = kinds.len() as u64;
            let barrier = |n: u64| match kinds[usize::try_from(n).unwrap() - 1] {
                0 => aligned(n),
                1 => unaligned(n),
                _ => aligned_for(n, 7),
            };
            let mut aligner = Aligner::new(channels);
            // Position p of a channel is a record if even, the barrier (p + 1) / 2 if odd.
            let (mut arrived, mut taken) = (vec![0u64; channels], vec![0u64; channels]);
            // Per checkpoint: for each channel the records that its state and its recording hold.
            let mut open: Option<(u64, Vec<BTreeSet<u64>>)> = None;
            let (mut snapshots, mut aborted) = (Vec::new(), BTreeSet::new());
            for (now_us, (pick, what)) in (0u64..).zip(picks) {
                let channel = usize::from(pick) % channels;
                let decision = match what {
                    0 => {
                        let checkpoint = 1 + u64::from(pick) % barriers;
                        if !snapshots.contains(&checkpoint) || open.as_ref().is_some_and(|(id, _)| *id == checkpoint) {
                            aligner.abort(id(checkpoint));
                            aborted.insert(checkpoint);
                            open.take_if(|(id, _)| *id == checkpoint);
                        }
                        nothing()
                    }
                    1 => aligner.tick(now_us),
                    2..=12 if arrived[channel] < 2 * barriers => {
                        let position = arrived[channel];
                        arrived[channel] += 1;
                        if position % 2 == 0 {
                            if aligner.is_recording(channel) {
                                let (_, cut) = open.as_mut().expect("a snapshot was taken");
                                prop_assert!(cut[channel].insert(position), "recorded twice");
                            }
                            nothing()
                        } else {
                            aligner.arrived(channel, &barrier(position.div_ceil(2)), now_us)
                        }
                    }
                    13.. if taken[channel] < arrived[channel] && !aligner.is_blocked(channel) => {
                        let position = taken[channel];
                        taken[channel] += 1;
                        if position % 2 == 0 { nothing() } else { aligner.reached(channel, &barrier(position.div_ceil(2))) }
                    }
                    _ => nothing(),
                };
                if let Some(declined) = decision.declined {
                    open.take_if(|(id, _)| *id == declined.0);
                }
                if let Some(snapshot) = decision.snapshot {
                    let n = snapshot.barrier.checkpoint.0;
                    prop_assert!(snapshots.last().is_none_or(|last| *last < n), "ids grow");
                    prop_assert!(!aborted.contains(&n), "{n} was aborted");
                    prop_assert!(open.is_none(), "one at a time");
                    snapshots.push(n);
                    let cut = (0..channels).map(|c| {
                        let processed = (0..taken[c]).filter(|p| p % 2 == 0);
                        let waiting = (taken[c]..arrived[c]).take_while(|p| *p != 2 * n - 1).filter(|p| p % 2 == 0);
                        let overtaken = snapshot.overtakes.as_ref().is_some_and(|reached| !reached.contains(&c));
                        processed.chain(waiting.filter(|_| overtaken)).collect()
                    });
                    open = Some((n, cut.collect()));
                    if snapshot.overtakes.is_none() {
                        let (_, cut) = open.take().unwrap();
                        let all: BTreeSet<u64> = (0..2 * n).filter(|p| p % 2 == 0).collect();
                        prop_assert!(cut.iter().all(|found| *found == all), "{n}: {cut:?}");
                    }
                }
                if let Some(recorded) = decision.recorded {
                    let (n, cut) = open.take().expect("its snapshot was taken");
                    prop_assert_eq!(n, recorded.0);
                    let all: BTreeSet<u64> = (0..2 * n).filter(|p| p % 2 == 0).collect();
                    prop_assert!(cut.iter().all(|found| *found == all), "{}: {:?}", n, cut);
                }
            }
        }
    }
}
