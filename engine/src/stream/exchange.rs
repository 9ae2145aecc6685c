//! Hash exchange: which subtask of the next vertex gets a record.
//!
//! By the key group of its key ([`key_groups`]), so that all records of a key meet the one subtask that owns the key's
//! state, at every parallelism.

use super::record::Record;
use crate::state::key_groups;

/// The subtask that gets `record`.
///
/// # Panics
/// If the parallelism does not fit `max_parallelism`.
pub fn route(record: &Record, parallelism: u16, max_parallelism: u16) -> u16 {
    let group = key_groups::key_group(&record.key, max_parallelism);
    key_groups::owner(group, parallelism, max_parallelism)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_meets_the_owner_of_its_key(
            key in proptest::collection::vec(any::<u8>(), 0..16), max in 1..=1000u16, p in 1..=1000u16,
        ) {
            let p = p.min(max);
            let record = Record { key: Bytes::from(key), value: Bytes::new() };
            let owner = route(&record, p, max);
            let group = key_groups::key_group(&record.key, max);
            let range = key_groups::range(owner, p, max);
            prop_assert!((range.first..=range.last).contains(&group));
        }
    }
}
