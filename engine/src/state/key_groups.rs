//! Key groups: the unit in which keyed state moves between subtasks.
//!
//! A key belongs to the key group `xxh3_64(key) % max_parallelism`, for ever: the hash (XXH3, 64 bits, seed 0) is part of
//! the format of all state ever written, as murmur is in Flink. A subtask owns a contiguous range of key groups
//! (`KeyGroupRangeAssignment` of Flink): subtask `i` of `p` owns `ceil(i*max/p) ..= ((i+1)*max - 1)/p`, and key group `g`
//! is routed to `g*p/max`; the two formulas agree for every `p <= max`, which the tests show exhaustively.
//!
//! In a store a key is `key group (u16, big endian) ‖ state id (u16, big endian) ‖ user key`, so that a range of key groups
//! is a range of keys and rescaling copies contiguous slices. A state with several entries by user key has
//! `… ‖ length of the user key (u32, big endian) ‖ user key ‖ suffix`: with the length before it, no user key is the beginning
//! of another one's entries.

pub use crate::checkpoint::assign::{key_group_range as range, owner};
use crate::checkpoint::snapshot::KeyGroupRange;

/// Length of what precedes the user key in a store's key, in bytes.
pub const PREFIX_BYTES: usize = 4;

/// The key group of a user key.
///
/// # Panics
/// If `max_parallelism` is 0.
pub fn key_group(user_key: &[u8], max_parallelism: u16) -> u16 {
    assert!(max_parallelism > 0, "max parallelism is at least 1");
    let group = xxhash_rust::xxh3::xxh3_64(user_key) % u64::from(max_parallelism);
    u16::try_from(group).expect("a remainder is less than its divisor")
}

/// The key under which a store keeps a value.
pub fn store_key(key_group: u16, state: u16, user_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + user_key.len());
    put_store_key(&mut key, key_group, state, user_key);
    key
}

/// Appends [`store_key`] to `out`.
pub fn put_store_key(out: &mut Vec<u8>, key_group: u16, state: u16, user_key: &[u8]) {
    out.extend_from_slice(&key_group.to_be_bytes());
    out.extend_from_slice(&state.to_be_bytes());
    out.extend_from_slice(user_key);
}

/// Appends the key of one of several entries of a user key to `out`.
///
/// # Panics
/// If the user key has 4 GiB or more.
pub fn put_entry_key(out: &mut Vec<u8>, key_group: u16, state: u16, user_key: &[u8], suffix: &[u8]) {
    let len = u32::try_from(user_key.len()).expect("keys are far shorter");
    put_store_key(out, key_group, state, &len.to_be_bytes());
    out.extend_from_slice(user_key);
    out.extend_from_slice(suffix);
}

/// The user key in what follows the state id in the key of one of several entries.
pub fn key_of_entry(rest: &[u8]) -> Option<&[u8]> {
    let (len, rest) = rest.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

/// The first key behind all that begin with `prefix`; `None` if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// The key group of a store's key; `None` if it is too short to be one of ours.
pub fn group_of_store_key(key: &[u8]) -> Option<u16> {
    let prefix = key.get(..PREFIX_BYTES)?;
    Some(u16::from_be_bytes([prefix[0], prefix[1]]))
}

/// The store keys of a range of key groups, as bounds: from inclusive, to exclusive (`None` is the end of all keys).
pub fn store_bounds(range: KeyGroupRange) -> (Vec<u8>, Option<Vec<u8>>) {
    let end = range.last.checked_add(1).map(|next| next.to_be_bytes().to_vec());
    (range.first.to_be_bytes().to_vec(), end)
}

/// The key groups in both ranges.
pub fn intersect(a: KeyGroupRange, b: KeyGroupRange) -> Option<KeyGroupRange> {
    let (first, last) = (a.first.max(b.first), a.last.min(b.last));
    (first <= last).then_some(KeyGroupRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_partition_the_key_groups_and_agree_with_routing() {
        for max in [1, 2, 3, 7, 10, 64, 127, 128, 200] {
            for parallelism in 1..=max {
                let mut next = 0;
                for subtask in 0..parallelism {
                    let range = range(subtask, parallelism, max);
                    assert_eq!(range.first, next, "subtask {subtask} of {parallelism}, max {max}");
                    for group in range.first..=range.last {
                        assert_eq!(owner(group, parallelism, max), subtask);
                    }
                    next = range.last + 1;
                }
                assert_eq!(next, max, "{parallelism} subtasks cover all key groups");
            }
        }
    }

    #[test]
    fn rescaling_moves_each_key_group_to_exactly_one_subtask() {
        let max = 24;
        for (before, after) in (1..=max).flat_map(|p| (1..=max).map(move |q| (p, q))) {
            let mut owners = vec![0; usize::from(max)];
            for new in (0..after).map(|i| range(i, after, max)) {
                for old in (0..before).map(|i| range(i, before, max)) {
                    let Some(both) = intersect(old, new) else { continue };
                    (both.first..=both.last).for_each(|group| owners[usize::from(group)] += 1);
                }
            }
            assert!(owners.iter().all(|n| *n == 1), "{before} -> {after}: {owners:?}");
        }
    }

    #[test]
    fn the_hash_never_changes() {
        let groups: Vec<u16> = [b"".as_slice(), b"a", b"auction", &1000u64.to_be_bytes()]
            .iter()
            .map(|key| key_group(key, 32768))
            .collect();
        assert_eq!(groups, [5314, 19999, 714, 22239], "state written by earlier versions would be lost");
    }

    proptest! {
        #[test]
        fn entries_of_a_key_are_what_begins_with_its_prefix(
            a in proptest::collection::vec(any::<u8>(), 0..4), b in proptest::collection::vec(any::<u8>(), 0..4),
            suffix in proptest::collection::vec(any::<u8>(), 0..4), group: u16, state: u16,
        ) {
            let entry = |key: &[u8], suffix: &[u8]| {
                let mut out = Vec::new();
                put_entry_key(&mut out, group, state, key, suffix);
                out
            };
            let (from, found) = (entry(&a, &[]), entry(&b, &suffix));
            let within = found >= from && after_prefix(&from).is_none_or(|to| found < to);
            prop_assert_eq!(within, found.starts_with(&from));
            prop_assert_eq!(within, a == b);
        }

        #[test]
        fn store_keys_of_a_range_lie_within_its_bounds(
            key in proptest::collection::vec(any::<u8>(), 0..20), state: u16, max in 1..=32768u16,
            p in 1..=50u16,
        ) {
            let p = p.min(max);
            let group = key_group(&key, max);
            let stored = store_key(group, state, &key);
            prop_assert_eq!(group_of_store_key(&stored), Some(group));
            for subtask in 0..p {
                let (from, to) = store_bounds(range(subtask, p, max));
                let within = stored >= from && to.is_none_or(|to| stored < to);
                prop_assert_eq!(within, owner(group, p, max) == subtask);
            }
        }
    }
}
