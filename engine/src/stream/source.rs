//! Sources: partitions that can be read again from any offset.
//!
//! The record at (partition, offset) is always the same; that is what makes going back to a checkpoint harmless. A source
//! remembers nothing else: its state is the next offset of each of its partitions. [`Schedule`] decides when a record is
//! due (pure).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::functions::encode;
use super::record::Record;
use crate::checkpoint::snapshot::SourcePosition;
use crate::state::Data;

/// A partitioned source that can be replayed.
pub trait Source: Send + Sync {
    /// How many partitions there are, at least one.
    fn partitions(&self) -> u32;
    /// How many records each has.
    fn records_per_partition(&self) -> u64;
    /// How many become due in a second in each; 0 is no limit.
    fn records_per_second(&self) -> u64;
    /// How far the time of a record may be behind that of one before it in its partition, in milliseconds. What is behind
    /// further may come too late.
    fn out_of_orderness_ms(&self) -> i64 {
        0
    }
    /// After how long without a record nobody shall wait for its watermarks; `None` is never.
    fn idle_after(&self) -> Option<Duration> {
        None
    }
    /// Reads a partition from an offset on. The records are a pure function of (partition, offset).
    fn reader(&self, partition: u32, offset: u64) -> Box<dyn Reader>;
}

/// Reads one partition.
pub trait Reader: Send {
    /// The record at the next offset. Not called beyond the end of the partition.
    fn next(&mut self) -> Record;
}

/// A source whose items are computed.
#[derive(Clone, Debug)]
pub struct Generated<F> {
    /// How many partitions there are.
    pub partitions: u32,
    /// How many items each has.
    pub per_partition: u64,
    /// How many become due in a second in each; 0 is no limit.
    pub per_second: u64,
    /// How far times may be out of order in a partition, in milliseconds.
    pub out_of_orderness_ms: i64,
    /// The item at (partition, offset), always the same, with its time in milliseconds.
    pub item: F,
}

struct GeneratedReader<F> {
    partition: u32,
    offset: u64,
    item: F,
}

impl<T: Data, F: Fn(u32, u64) -> (T, i64) + Clone + Send + Sync + 'static> Source for Generated<F> {
    fn partitions(&self) -> u32 {
        self.partitions
    }
    fn records_per_partition(&self) -> u64 {
        self.per_partition
    }
    fn records_per_second(&self) -> u64 {
        self.per_second
    }
    fn out_of_orderness_ms(&self) -> i64 {
        self.out_of_orderness_ms
    }
    fn reader(&self, partition: u32, offset: u64) -> Box<dyn Reader> {
        Box::new(GeneratedReader { partition, offset, item: self.item.clone() })
    }
}

impl<T: Data, F: Fn(u32, u64) -> (T, i64) + Send> Reader for GeneratedReader<F> {
    fn next(&mut self) -> Record {
        let (item, time_ms) = (self.item)(self.partition, self.offset);
        self.offset += 1;
        item_record(&item).at(time_ms)
    }
}

/// The record of an item, without a key.
///
/// # Panics
/// If the item cannot be encoded: sources are part of the program.
pub fn item_record<T: Data>(item: &T) -> Record {
    Record::new(Bytes::new(), encode(item).expect("the items of a source can be encoded"))
}

/// The partitions of subtask `subtask` of `parallelism`.
pub fn assigned(partitions: u32, subtask: u16, parallelism: u16) -> impl Iterator<Item = u32> {
    (u32::from(subtask)..partitions).step_by(usize::from(parallelism.max(1)))
}

/// How far the partitions of a subtask were read, and what is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    per_partition: u64,
    per_second: u64,
    /// Partition to (offset when the schedule began, next offset).
    partitions: BTreeMap<u32, (u64, u64)>,
}

impl Schedule {
    /// From the positions to start at; `per_second` counts from now.
    pub fn new(source: &dyn Source, positions: impl IntoIterator<Item = SourcePosition>) -> Schedule {
        let partitions =
            positions.into_iter().map(|p| (p.partition, (p.next_offset, p.next_offset))).collect();
        let (per_partition, per_second) = (source.records_per_partition(), source.records_per_second());
        Schedule { per_partition, per_second, partitions }
    }

    /// What to read now, `elapsed` after the start: (partition, number of records), none empty, none above `most` records.
    pub fn due(&self, elapsed: Duration, most: u64) -> Vec<(u32, u64)> {
        let allowed = if self.per_second == 0 { u64::MAX } else { self.allowance(elapsed) };
        let due = |(start, next): (u64, u64)| {
            let until = start.saturating_add(allowed).min(self.per_partition);
            until.saturating_sub(next).min(most)
        };
        self.partitions.iter().map(|(p, o)| (*p, due(*o))).filter(|(_, n)| *n > 0).collect()
    }

    fn allowance(&self, elapsed: Duration) -> u64 {
        let records = elapsed.as_micros().saturating_mul(u128::from(self.per_second)) / 1_000_000;
        u64::try_from(records).unwrap_or(u64::MAX)
    }

    /// When the next record becomes due, after the start; `None` if all was read.
    pub fn next_due(&self) -> Option<Duration> {
        let open = self.partitions.values().filter(|(_, next)| *next < self.per_partition);
        let read = open.map(|(start, next)| next - start).min()?;
        if self.per_second == 0 {
            return Some(Duration::ZERO);
        }
        let us = ((u128::from(read) + 1) * 1_000_000).div_ceil(u128::from(self.per_second));
        Some(Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX)))
    }

    /// The next record of a partition was read.
    ///
    /// # Panics
    /// If the partition is not of this subtask or was read to its end.
    pub fn advance(&mut self, partition: u32) {
        let (_, next) = self.partitions.get_mut(&partition).expect("one of our partitions");
        assert!(*next < self.per_partition, "partition {partition} was read to its end");
        *next += 1;
    }

    /// True if a partition was read to its end.
    pub fn has_ended(&self, partition: u32) -> bool {
        self.partitions.get(&partition).is_some_and(|(_, next)| *next >= self.per_partition)
    }

    /// The partitions that were read to their end.
    pub fn ended(&self) -> impl Iterator<Item = u32> {
        self.partitions.keys().copied().filter(|partition| self.has_ended(*partition))
    }

    /// True if all was read.
    pub fn is_exhausted(&self) -> bool {
        self.partitions.values().all(|(_, next)| *next >= self.per_partition)
    }

    /// Where each partition is, in order of the partitions.
    pub fn positions(&self) -> Vec<SourcePosition> {
        let position = |(partition, (_, next)): (&u32, &(u64, u64))| SourcePosition {
            partition: *partition,
            next_offset: *next,
        };
        self.partitions.iter().map(position).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    struct Fixed {
        per_second: u64,
    }

    impl Source for Fixed {
        fn partitions(&self) -> u32 {
            2
        }
        fn records_per_partition(&self) -> u64 {
            10
        }
        fn records_per_second(&self) -> u64 {
            self.per_second
        }
        fn reader(&self, _: u32, _: u64) -> Box<dyn Reader> {
            unreachable!("the schedule reads nothing")
        }
    }

    fn schedule(per_second: u64) -> Schedule {
        let at = |partition, next_offset| SourcePosition { partition, next_offset };
        Schedule::new(&Fixed { per_second }, [at(0, 0), at(1, 7)])
    }

    #[test]
    fn every_partition_has_one_reader() {
        for (partitions, parallelism) in [(1, 1), (4, 3), (7, 7), (5, 2)] {
            let all: Vec<u32> = (0..parallelism).flat_map(|i| assigned(partitions, i, parallelism)).collect();
            assert_eq!(all.len(), partitions as usize);
            assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (0..partitions).collect());
        }
    }

    #[test]
    fn records_become_due_at_the_rate_and_end() {
        let mut schedule = schedule(1000);
        assert_eq!(schedule.due(Duration::ZERO, 100), []);
        assert_eq!(schedule.next_due(), Some(Duration::from_millis(1)));
        assert_eq!(schedule.due(Duration::from_millis(2), 100), [(0, 2), (1, 2)]);
        schedule.advance(0);
        assert_eq!(schedule.due(Duration::from_millis(2), 100), [(0, 1), (1, 2)]);
        assert_eq!(schedule.due(Duration::from_secs(9), 100), [(0, 9), (1, 3)]);
        assert_eq!(schedule.due(Duration::from_secs(9), 2), [(0, 2), (1, 2)]);
        (0..9).for_each(|_| schedule.advance(0));
        (0..3).for_each(|_| schedule.advance(1));
        assert!(schedule.is_exhausted() && schedule.next_due().is_none());
        assert!(schedule.due(Duration::from_secs(99), 100).is_empty());
    }

    #[test]
    fn without_a_rate_all_is_due() {
        assert_eq!(schedule(0).due(Duration::ZERO, 100), [(0, 10), (1, 3)]);
        assert_eq!(schedule(0).next_due(), Some(Duration::ZERO));
    }
}
