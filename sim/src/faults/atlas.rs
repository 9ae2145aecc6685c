//! The atlas: which copy of what may be damaged, so that damage never takes more than redundancy can give back.
//!
//! What has several copies is cut into *chunks*. Each chunk has holders, and of these all but one may be damaged: the holders
//! are put into an order by a keyed hash, and the last of them is spared. Neighbouring chunks of one file begin the order one
//! place further on, so that no holder can lose all its chunks: of as many neighbours as there are holders, each holder is
//! spared once.
//!
//! It is a pure function of the key and the chunk, without any memory: taking another fault out of a plan, or adding one,
//! does not change what may be damaged here. (TigerBeetle's `ClusterFaultAtlas` has the same purpose.)

use cutwater_io::sim::Key;
use xxhash_rust::xxh3::xxh3_64;

/// A piece of data that has copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// What it is to the system under test (`table`, ...).
    pub class: &'a str,
    /// What it is a piece of; the same for all its copies.
    pub of: u64,
    /// Which piece.
    pub number: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Atlas {
    key: Key,
    /// Of the holders that may be damaged, so many per mille are.
    permille: u64,
}

impl Atlas {
    /// An atlas in which each holder that may be damaged is so with this chance.
    pub fn new(key: Key, permille: u64) -> Atlas {
        Atlas { key: key.child("atlas", &[]), permille }
    }

    /// True if the chunk may be damaged where `holder` keeps it. With a single holder it never may.
    ///
    /// # Panics
    /// If `holder` is none of `holders`.
    pub fn may_damage(&self, chunk: Chunk<'_>, holders: &[u64], holder: u64) -> bool {
        assert!(holders.contains(&holder), "{holder} is none of {holders:?}");
        let class = xxh3_64(chunk.class.as_bytes());
        let mut order = holders.to_vec();
        order.sort_unstable();
        order.dedup();
        order.sort_by_key(|holder| self.key.hash("order", &[class, chunk.of, *holder]));
        let spared = order[(chunk.number % order.len() as u64) as usize];
        holder != spared && self.key.chance("kept", &[class, chunk.of, chunk.number, holder], self.permille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_copy_of_each_chunk_is_spared_and_each_holder_keeps_some(
            seed: u64, of: u64, first in 0u64..1000, copies in 1u64..5,
        ) {
            let atlas = Atlas::new(Key::root(seed), 1000);
            let holders: Vec<u64> = (10..10 + copies).collect();
            let mut kept = std::collections::BTreeSet::new();
            for number in first..first + copies {
                let chunk = Chunk { class: "table", of, number };
                let spared: Vec<u64> =
                    holders.iter().copied().filter(|h| !atlas.may_damage(chunk, &holders, *h)).collect();
                prop_assert_eq!(spared.len(), 1, "all copies but one");
                kept.extend(spared);
            }
            prop_assert_eq!(kept.len() as u64, copies, "neighbours are spared in turn");
        }

        #[test]
        fn the_order_in_which_holders_are_named_does_not_matter(seed: u64, of: u64, number: u64, permille in 0u64..=1000) {
            let atlas = Atlas::new(Key::root(seed), permille);
            let chunk = Chunk { class: "wal", of, number };
            for holder in [1, 2, 3] {
                prop_assert_eq!(
                    atlas.may_damage(chunk, &[1, 2, 3], holder),
                    atlas.may_damage(chunk, &[3, 1, 2], holder)
                );
            }
        }
    }

    #[test]
    fn about_so_many_are_damaged_as_it_is_told() {
        let atlas = Atlas::new(Key::root(7), 300);
        let chunks = (0..10_000).map(|of| Chunk { class: "table", of, number: 0 });
        let damaged = chunks.filter(|chunk| atlas.may_damage(*chunk, &[1, 2], 1)).count();
        assert!((1300..1700).contains(&damaged), "half of them may be, of which 30 %: {damaged}");
    }
}
