//! Event time: how far it has come at a task.
//!
//! A watermark of `t` on a channel says that no record with a time up to and including `t` follows there; the task's own is
//! the least over its channels, and never goes back. An idle channel is not waited for, until its next watermark; a task all
//! of whose channels are idle is idle itself. Watermarks are no state: a restored task starts from the beginning of time
//! and hears of the present when its sources go on.
//!
//! A source makes watermarks of what it reads ([`SourceWatermarks`]): of each partition the greatest time seen, less what
//! records may be out of order; of those the least. A partition that was read to its end holds nothing back, and when all
//! were, the watermark is [`END_OF_TIME_MS`], once.
//!
//! Pure.

use std::collections::BTreeMap;

/// Before any record, in milliseconds.
pub const START_OF_TIME_MS: i64 = i64::MIN;
/// After the last record, in milliseconds.
pub const END_OF_TIME_MS: i64 = i64::MAX;

/// What a task tells those downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its watermark is this now, or it is not idle any more.
    Watermark(i64),
    /// It is idle.
    Idle,
}

/// The watermarks of the channels into a task.
#[derive(Clone, Debug)]
pub struct Watermarks {
    /// Of each channel its watermark and whether it is idle.
    channels: Vec<(i64, bool)>,
    current_ms: i64,
    is_idle: bool,
}

impl Watermarks {
    /// At the beginning of time.
    pub fn new(channels: usize) -> Watermarks {
        let channels = vec![(START_OF_TIME_MS, false); channels];
        Watermarks { channels, current_ms: START_OF_TIME_MS, is_idle: false }
    }

    /// The task's watermark.
    pub fn current_ms(&self) -> i64 {
        self.current_ms
    }

    /// A channel has brought a watermark. Returns what is new downstream.
    ///
    /// # Panics
    /// If the channel does not exist.
    pub fn watermark(&mut self, channel: usize, time_ms: i64) -> Option<Progress> {
        let (known_ms, is_idle) = &mut self.channels[channel];
        *known_ms = time_ms.max(*known_ms);
        *is_idle = false;
        self.progress()
    }

    /// A channel has become idle. Returns what is new downstream.
    ///
    /// # Panics
    /// If the channel does not exist.
    pub fn idle(&mut self, channel: usize) -> Option<Progress> {
        self.channels[channel].1 = true;
        self.progress()
    }

    fn progress(&mut self) -> Option<Progress> {
        let active = self.channels.iter().filter(|(_, is_idle)| !is_idle);
        let Some(least_ms) = active.map(|(time_ms, _)| *time_ms).min() else {
            return (!std::mem::replace(&mut self.is_idle, true)).then_some(Progress::Idle);
        };
        let was_idle = std::mem::replace(&mut self.is_idle, false);
        if least_ms > self.current_ms || was_idle {
            self.current_ms = self.current_ms.max(least_ms);
            return Some(Progress::Watermark(self.current_ms));
        }
        None
    }
}

/// The watermarks that a source makes.
#[derive(Clone, Debug)]
pub struct SourceWatermarks {
    /// How far a record may be behind one that was before it in its partition, in milliseconds.
    out_of_orderness_ms: i64,
    /// Of each partition, what no further record is at or before.
    partitions: BTreeMap<u32, i64>,
    said_ms: i64,
}

impl SourceWatermarks {
    /// Of a source that is about to read these partitions.
    pub fn new(out_of_orderness_ms: i64, partitions: impl IntoIterator<Item = u32>) -> SourceWatermarks {
        let partitions = partitions.into_iter().map(|partition| (partition, START_OF_TIME_MS)).collect();
        SourceWatermarks { out_of_orderness_ms, partitions, said_ms: START_OF_TIME_MS }
    }

    /// A record was read.
    pub fn read(&mut self, partition: u32, time_ms: i64) {
        let behind = time_ms.saturating_sub(self.out_of_orderness_ms).saturating_sub(1);
        let known = self.partitions.entry(partition).or_insert(START_OF_TIME_MS);
        *known = behind.max(*known);
    }

    /// A partition was read to its end.
    pub fn ended(&mut self, partition: u32) {
        self.partitions.insert(partition, END_OF_TIME_MS);
    }

    /// Nothing more is to be read of any partition.
    pub fn all_ended(&mut self) {
        self.partitions.values_mut().for_each(|known| *known = END_OF_TIME_MS);
    }

    /// The watermark, if it has grown since the last call.
    pub fn advance(&mut self) -> Option<i64> {
        let least = self.partitions.values().copied().min().unwrap_or(END_OF_TIME_MS);
        (least > self.said_ms).then(|| {
            self.said_ms = least;
            least
        })
    }

    /// The watermark that was said last.
    pub fn said_ms(&self) -> i64 {
        self.said_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_slowest_channel_decides() {
        let mut marks = Watermarks::new(2);
        assert_eq!(marks.watermark(0, 10), None);
        assert_eq!(marks.watermark(1, 4), Some(Progress::Watermark(4)));
        assert_eq!(marks.watermark(1, 3), None, "time does not go back");
        assert_eq!(marks.watermark(1, END_OF_TIME_MS), Some(Progress::Watermark(10)));
        assert_eq!(marks.watermark(0, END_OF_TIME_MS), Some(Progress::Watermark(END_OF_TIME_MS)));
        assert_eq!(marks.watermark(0, END_OF_TIME_MS), None, "the end comes once");
    }

    #[test]
    fn nobody_waits_for_the_idle() {
        let mut marks = Watermarks::new(2);
        marks.watermark(0, 10);
        assert_eq!(marks.idle(1), Some(Progress::Watermark(10)));
        assert_eq!(marks.idle(0), Some(Progress::Idle));
        assert_eq!(marks.idle(0), None);
        assert_eq!(marks.watermark(1, 5), Some(Progress::Watermark(10)), "awake, and not back in time");
        assert_eq!(marks.watermark(1, 12), Some(Progress::Watermark(12)));
        assert_eq!(marks.watermark(0, 11), None);
    }

    #[test]
    fn a_source_ends_time_once() {
        let mut marks = SourceWatermarks::new(2, [0, 1]);
        marks.read(0, 100);
        assert_eq!(marks.advance(), None);
        marks.read(1, 50);
        assert_eq!((marks.advance(), marks.advance()), (Some(47), None));
        marks.read(1, 10);
        assert_eq!(marks.advance(), None);
        marks.ended(1);
        assert_eq!(marks.advance(), Some(97));
        marks.ended(0);
        assert_eq!((marks.advance(), marks.advance()), (Some(END_OF_TIME_MS), None));
        assert_eq!(SourceWatermarks::new(0, []).advance(), Some(END_OF_TIME_MS));
    }

    proptest! {
        #[test]
        fn what_is_said_is_the_least_of_the_active_or_was(
            channels in 1usize..4, steps in proptest::collection::vec((0usize..4, proptest::option::of(-5i64..50)), 0..60),
        ) {
            let mut marks = Watermarks::new(channels);
            let mut model = vec![(START_OF_TIME_MS, false); channels];
            let mut said = START_OF_TIME_MS;
            for (channel, step) in steps {
                let channel = channel % channels;
                let progress = match step {
                    Some(ms) => { model[channel] = (ms.max(model[channel].0), false); marks.watermark(channel, ms) }
                    None => { model[channel].1 = true; marks.idle(channel) }
                };
                let least = model.iter().filter(|(_, idle)| !idle).map(|(ms, _)| *ms).min();
                said = said.max(least.unwrap_or(START_OF_TIME_MS));
                prop_assert_eq!(marks.current_ms(), said);
                match progress {
                    Some(Progress::Watermark(ms)) => prop_assert!(ms == said && least.is_some()),
                    Some(Progress::Idle) => prop_assert!(least.is_none()),
                    None => {}
                }
            }
        }
    }
}
