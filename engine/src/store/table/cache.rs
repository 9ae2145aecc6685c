//! A cache of data blocks, shared by the tables of a store. Blocks are in it as they are used: decompressed, and checked.
//!
//! Each shard gives its blocks a second chance (CLOCK; Corbato, "A paging experiment with the Multics system", 1968): a hit
//! sets a bit, and the hand that looks for room clears it and passes on. What is dropped depends on the calls alone, on no
//! clock and no hash of the process, so that a simulation repeats.
//!
//! What is in memory does not show that it was damaged on disk since. That is so in any store; who wants to know what the
//! disk holds asks [`crate::store::Store::verify`], which passes the cache by.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::data_block::DataBlock;
use crate::store::shared::lock;

/// A shard has at least this much, so that small caches are not cut into pieces that hold nothing. Bytes.
const MIN_SHARD_BYTES: u64 = 512 << 10;
/// No more shards than this.
const MAX_SHARDS: u64 = 16;
/// What a block costs beyond its content, roughly. Bytes.
const BLOCK_OVERHEAD_BYTES: u64 = 160;

/// Number of the table, and where the block begins in its file.
type Key = (u64, u64);

/// What a cache has done so far, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCacheStats {
    /// Blocks that were asked for and there.
    pub hits: u64,
    /// Blocks that were asked for and not there.
    pub misses: u64,
    /// Blocks that are there.
    pub blocks: u64,
    /// What they take. Bytes.
    pub used_bytes: u64,
    /// What they may take. Bytes.
    pub budget_bytes: u64,
}

/// The cache.
#[derive(Debug)]
pub struct BlockCache {
    budget_bytes: u64,
    shards: Vec<Mutex<Shard>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    budget_bytes: u64,
    used_bytes: u64,
    /// Where each block is in `slots`.
    places: BTreeMap<Key, usize>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// The slot that is looked at next for room.
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    block: DataBlock,
    was_used: bool,
}

impl Slot {
    fn cost_bytes(&self) -> u64 {
        self.block.len_bytes() as u64 + BLOCK_OVERHEAD_BYTES
    }
}

impl BlockCache {
    /// One that holds up to so many bytes.
    pub fn new(budget_bytes: u64) -> Self {
        let shards = (budget_bytes / MIN_SHARD_BYTES).clamp(1, MAX_SHARDS);
        let shard = || {
            Mutex::new(Shard {
                budget_bytes: budget_bytes / shards,
                used_bytes: 0,
                places: BTreeMap::new(),
                slots: Vec::new(),
                free: Vec::new(),
                hand: 0,
            })
        };
        BlockCache {
            budget_bytes,
            shards: (0..shards).map(|_| shard()).collect(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The block, if it is there.
    pub fn get(&self, key: Key) -> Option<DataBlock> {
        let found = lock(self.shard(key)).get(key);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps the block, and drops others for it if it must. One that is larger than a shard is not kept.
    pub fn insert(&self, key: Key, block: &DataBlock) {
        lock(self.shard(key)).insert(Slot { key, block: block.clone(), was_used: false });
    }

    /// Drops the blocks of a table.
    pub fn remove_table(&self, number: u64) {
        for shard in &self.shards {
            lock(shard).remove_table(number);
        }
    }

    /// What it has done and holds.
    pub fn stats(&self) -> BlockCacheStats {
        let mut stats = BlockCacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            budget_bytes: self.budget_bytes,
            ..BlockCacheStats::default()
        };
        for shard in &self.shards {
            let shard = lock(shard);
            stats.blocks += shard.places.len() as u64;
            stats.used_bytes += shard.used_bytes;
        }
        stats
    }

    fn shard(&self, (number, offset_bytes): Key) -> &Mutex<Shard> {
        // Fibonacci hashing (Knuth, "The Art of Computer Programming", volume 3, 6.4).
        let mixed = (number.rotate_left(32) ^ offset_bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[((mixed >> 32) as usize) % self.shards.len()]
    }
}

impl Shard {
    fn get(&mut self, key: Key) -> Option<DataBlock> {
        let slot = self.slots[*self.places.get(&key)?].as_mut().expect("a place is that of a block");
        slot.was_used = true;
        Some(slot.block.clone())
    }

    fn insert(&mut self, slot: Slot) {
        // Two readers may have missed it at once.
        if slot.cost_bytes() > self.budget_bytes || self.places.contains_key(&slot.key) {
            return;
        }
        while self.used_bytes + slot.cost_bytes() > self.budget_bytes {
            self.advance();
        }
        self.used_bytes += slot.cost_bytes();
        let place = self.free.pop().unwrap_or(self.slots.len());
        self.places.insert(slot.key, place);
        if place == self.slots.len() {
            self.slots.push(Some(slot));
        } else {
            self.slots[place] = Some(slot);
        }
    }

    /// Gives the block under the hand its second chance, or drops it.
    fn advance(&mut self) {
        let place = self.hand % self.slots.len();
        self.hand = place + 1;
        match &mut self.slots[place] {
            Some(slot) if slot.was_used => slot.was_used = false,
            Some(_) => self.drop_block(place),
            None => {}
        }
    }

    fn drop_block(&mut self, place: usize) {
        let slot = self.slots[place].take().expect("a place is that of a block");
        self.used_bytes -= slot.cost_bytes();
        self.places.remove(&slot.key);
        self.free.push(place);
    }

    fn remove_table(&mut self, number: u64) {
        let places: Vec<usize> =
            self.places.range((number, 0)..=(number, u64::MAX)).map(|(_, place)| *place).collect();
        places.into_iter().for_each(|place| self.drop_block(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{InternalKey, Tag};
    use crate::store::table::block::{Block, BlockBuilder};
    use crate::store::table::data_block::Place;
    use proptest::prelude::*;

    /// A block of one entry that says what it is.
    fn block(id: u64, len_bytes: usize) -> DataBlock {
        let key = InternalKey { user_key: id.to_be_bytes().to_vec().into(), tag: Tag(0) };
        let mut builder = BlockBuilder::new(1);
        builder.add(&key.encode(), &vec![0; len_bytes]);
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        let place = Place { after: None, up_to: &key, sequences: &(0..=0) };
        DataBlock::new(Block::new(bytes.into()).unwrap(), &place).unwrap()
    }

    fn id(block: &DataBlock) -> u64 {
        let mut cursor = block.cursor();
        assert!(cursor.first());
        u64::from_be_bytes(cursor.key().0.try_into().unwrap())
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let cache = BlockCache::new(10 * 1200);
        for i in 0..8 {
            cache.insert((1, i), &block(i, 1000));
        }
        for i in 8..100 {
            assert_eq!(cache.get((1, 0)).as_ref().map(id), Some(0));
            cache.insert((1, i), &block(i, 1000));
        }
        assert!(cache.get((1, 50)).is_none() && cache.get((1, 99)).is_some());
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses), (93, 1));
        assert!((9..=10).contains(&stats.blocks), "{stats:?}");
        cache.insert((2, 0), &block(0, 1 << 20));
        assert!(cache.get((2, 0)).is_none(), "it is larger than the cache");
        cache.remove_table(1);
        assert_eq!((cache.stats().blocks, cache.stats().used_bytes), (0, 0));
    }

    proptest! {
        #[test]
        fn it_keeps_to_its_budget_and_gives_what_was_put(
            budget_bytes in 0u64..2 << 20,
            ops in prop::collection::vec((0u8..10, 0u64..4, 0u64..200, 1usize..40_000), 1..300),
        ) {
            let cache = BlockCache::new(budget_bytes);
            for (op, number, offset, len_bytes) in ops {
                match op {
                    0 => cache.remove_table(number),
                    1..5 => cache.insert((number, offset), &block(number << 32 | offset, len_bytes)),
                    _ => {
                        let found = cache.get((number, offset)).as_ref().map(id);
                        prop_assert!(found.is_none_or(|id| id == number << 32 | offset));
                    }
                }
                let stats = cache.stats();
                prop_assert!(stats.used_bytes <= stats.budget_bytes);
                prop_assert_eq!(stats.blocks == 0, stats.used_bytes == 0);
            }
        }
    }
}
