//! Exchanges: which subtask of the next vertex gets a record.
//!
//! By hash it is the one that owns the key group of the record's key ([`key_groups`]), so that all records of a key meet
//! their state, at every parallelism. Barriers and watermarks go to all subtasks, whatever the exchange.

use std::ops::Range;

use super::record::Record;
use crate::state::key_groups;

/// How records are spread over the subtasks of the next vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Partitioning {
    /// To the owner of the key group of the key.
    Hash,
    /// To the subtask of the same number; modulo the parallelism, where that differs.
    Forward,
    /// To each in turn.
    Rebalance,
    /// To all.
    Broadcast,
}

/// The exchange of one sending task and one edge.
#[derive(Clone, Debug)]
pub struct Exchange {
    partitioning: Partitioning,
    targets: u16,
    max_parallelism: u16,
    /// Whose turn it is, or who it always is.
    next: u16,
}

impl Exchange {
    /// From subtask `subtask` to a vertex with `targets` subtasks.
    ///
    /// # Panics
    /// If the number of targets does not fit `max_parallelism`.
    pub fn new(partitioning: Partitioning, subtask: u16, targets: u16, max_parallelism: u16) -> Exchange {
        assert!((1..=max_parallelism).contains(&targets), "{targets} subtasks of at most {max_parallelism}");
        Exchange { partitioning, targets, max_parallelism, next: subtask % targets }
    }

    /// The subtasks that get `record`.
    pub fn route(&mut self, record: &Record) -> Range<usize> {
        let to = match self.partitioning {
            Partitioning::Hash => {
                let group = key_groups::key_group(&record.key, self.max_parallelism);
                key_groups::owner(group, self.targets, self.max_parallelism)
            }
            Partitioning::Forward => self.next,
            Partitioning::Rebalance => {
                let to = self.next;
                self.next = (to + 1) % self.targets;
                to
            }
            Partitioning::Broadcast => return 0..usize::from(self.targets),
        };
        usize::from(to)..usize::from(to) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn routed(partitioning: Partitioning, subtask: u16, targets: u16, n: usize) -> Vec<usize> {
        let mut exchange = Exchange::new(partitioning, subtask, targets, 16);
        let record = |i: usize| Record::new(i.to_be_bytes().to_vec(), Vec::new());
        (0..n).flat_map(|i| exchange.route(&record(i))).collect()
    }

    #[test]
    fn each_exchange_spreads_in_its_way() {
        assert_eq!(routed(Partitioning::Forward, 1, 3, 4), [1, 1, 1, 1]);
        assert_eq!(routed(Partitioning::Forward, 4, 3, 2), [1, 1]);
        assert_eq!(routed(Partitioning::Rebalance, 2, 3, 4), [2, 0, 1, 2]);
        assert_eq!(routed(Partitioning::Broadcast, 0, 3, 2), [0, 1, 2, 0, 1, 2]);
        assert_eq!(routed(Partitioning::Hash, 0, 3, 50), routed(Partitioning::Hash, 2, 3, 50));
    }

    proptest! {
        #[test]
        fn a_record_meets_the_owner_of_its_key(
            key in proptest::collection::vec(any::<u8>(), 0..16), max in 1..=1000u16, p in 1..=1000u16,
        ) {
            let p = p.min(max);
            let record = Record::new(key, Vec::new());
            let to = Exchange::new(Partitioning::Hash, 0, p, max).route(&record);
            prop_assert_eq!(to.len(), 1);
            let group = key_groups::key_group(&record.key, max);
            let range = key_groups::range(u16::try_from(to.start).unwrap(), p, max);
            prop_assert!((range.first..=range.last).contains(&group));
        }
    }
}
