//! Where a large compaction is cut, so that its parts can be built at the same time. Pure.
//!
//! It is cut between user keys where an input begins or ends: nothing more is known of the inputs without reading them. What a
//! table holds is taken to be spread evenly over the keys of others that lie within it. All entries of a user key come into
//! one part; range tombstones are cut at the ends of the parts, as at those of tables. (RocksDB's subcompactions, whose cuts are keys of
//! the tables' indexes since 7.6.)

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::tombstones::{RangeTombstone, Tombstones};
use crate::store::version::FileMeta;

/// The keys from the first on, up to the second and without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) from: Option<Bytes>,
    pub(crate) to: Option<Bytes>,
}

impl Part {
    /// True if the key is not behind it.
    pub(crate) fn is_before_end(&self, key: &[u8]) -> bool {
        self.to.as_ref().is_none_or(|to| *key < to[..])
    }

    /// The part of range tombstones that is of these keys.
    pub(crate) fn of(&self, tombstones: &Tombstones) -> Tombstones {
        let mut within = Tombstones::default();
        for RangeTombstone { begin, end, sequence } in tombstones.iter() {
            let begin = self.from.clone().map_or(begin.clone(), |from| from.max(begin));
            let end = self.to.clone().map_or(end.clone(), |to| to.min(end));
            within.insert(RangeTombstone { begin, end, sequence });
        }
        within
    }
}

/// At most so many parts of all keys, each of at least so many bytes, roughly. There is one at least.
pub(crate) fn parts(inputs: &[Arc<FileMeta>], most: usize, min_bytes: u64) -> Vec<Part> {
    let cuts = cuts(inputs, most, min_bytes);
    let begins = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
    let ends = cuts.iter().cloned().map(Some).chain([None]);
    begins.zip(ends).map(|(from, to)| Part { from, to }).collect()
}

fn cuts(inputs: &[Arc<FileMeta>], most: usize, min_bytes: u64) -> Vec<Bytes> {
    let total: u128 = inputs.iter().map(|file| u128::from(file.len_bytes)).sum();
    let count = (most as u128).min(total / u128::from(min_bytes.max(1)));
    let keys: BTreeSet<&Bytes> =
        inputs.iter().flat_map(|file| [&file.smallest.user_key, &file.largest.user_key]).collect();
    let keys: Vec<&Bytes> = keys.into_iter().collect();
    if count < 2 || keys.len() < 3 {
        return Vec::new();
    }
    // What lies from each key on, up to the next.
    let mut gaps = vec![0u128; keys.len()];
    for file in inputs {
        let from = keys.partition_point(|key| **key < file.smallest.user_key);
        let behind = keys.partition_point(|key| **key <= file.largest.user_key);
        let share = u128::from(file.len_bytes) / (behind - from) as u128;
        gaps[from..behind].iter_mut().for_each(|gap| *gap += share);
    }
    let mut cuts: Vec<Bytes> = Vec::new();
    let mut before = 0;
    for (key, gap) in keys.iter().zip(&gaps).take(keys.len() - 1) {
        if before * count >= total * (cuts.len() as u128 + 1) && (cuts.len() as u128 + 1) < count {
            cuts.push(Bytes::clone(key));
        }
        before += gap;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::key::{InternalKey, Tag};

    fn file(from: u8, to: u8, len_bytes: u64) -> Arc<FileMeta> {
        let key = |k: u8| InternalKey { user_key: vec![k].into(), tag: Tag(9) };
        Arc::new(FileMeta { smallest: key(from), largest: key(to), len_bytes, ..FileMeta::default() })
    }

    fn cut_at(inputs: &[Arc<FileMeta>], most: usize) -> Vec<u8> {
        cuts(inputs, most, 100).iter().map(|key| key[0]).collect()
    }

    #[test]
    fn parts_are_of_a_size() {
        let level = [file(0, 9, 100), file(10, 19, 100), file(20, 29, 100), file(30, 39, 100)];
        assert_eq!(cut_at(&level, 2), [20]);
        assert_eq!(cut_at(&level, 4), [10, 20, 30]);
        assert_eq!(cut_at(&level, 9), [10, 20, 30], "each has a hundred bytes");
        assert!(cut_at(&level, 1).is_empty());
        assert!(cut_at(&level[..1], 4).is_empty(), "one table has no key between its ends");
        assert_eq!(cut_at(&[&level[..], &[file(0, 39, 4000)]].concat(), 2), [20]);
    }

    #[test]
    fn a_tombstone_is_cut_where_the_parts_are() {
        let mut tombstones = Tombstones::default();
        tombstones.insert(RangeTombstone { begin: vec![3].into(), end: vec![30].into(), sequence: 7 });
        let parts = parts(&[file(0, 9, 100), file(10, 19, 100)], 2, 100);
        let of: Vec<Vec<RangeTombstone>> =
            parts.iter().map(|part| part.of(&tombstones).iter().collect()).collect();
        let cut = |begin: u8, end: u8| {
            vec![RangeTombstone { begin: vec![begin].into(), end: vec![end].into(), sequence: 7 }]
        };
        assert_eq!(of, [cut(3, 10), cut(10, 30)]);
    }

    proptest! {
        #[test]
        fn parts_follow_each_other_and_are_not_too_many(
            bounds in prop::collection::vec((any::<u8>(), any::<u8>(), 0u64..1000), 0..20),
            most in 1usize..6,
        ) {
            let inputs: Vec<Arc<FileMeta>> =
                bounds.iter().map(|(a, b, len_bytes)| file(*a.min(b), *a.max(b), *len_bytes)).collect();
            let parts = parts(&inputs, most, 100);
            prop_assert!((1..=most).contains(&parts.len()));
            prop_assert!(parts[0].from.is_none() && parts[parts.len() - 1].to.is_none());
            prop_assert!(parts.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].to.is_some()));
            prop_assert!(parts.iter().all(|part| part.to.is_none() || part.from < part.to));
        }
    }
}
