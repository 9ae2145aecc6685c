//! The hot entries of a store, in memory: a write-back cache, bounded in bytes.
//!
//! An entry is what the store holds under a key, or that it holds nothing there, or (dirty) what it shall hold. Entries that
//! were not asked for since the hand of the clock passed them go first (CLOCK, Corbató 1968); dirty ones never go: the owner
//! writes them, says so, and evicts then. Nothing here knows of prefixes: whoever iterates over the store writes all dirty
//! entries first.
//!
//! Pure. The table hashes with XXH3 without a seed and is only ever walked in the order of its slots, so that a run is a
//! function of what was asked.

use xxhash_rust::xxh3::xxh3_64;

/// What a slot costs beyond key and value, roughly. Bytes.
const SLOT_OVERHEAD_BYTES: usize = 96;
const FIRST_BUCKETS: usize = 64;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    hash: u64,
    /// The next slot of the bucket.
    next: u32,
    is_live: bool,
    is_dirty: bool,
    was_used: bool,
    /// False if the store holds, or shall hold, nothing under the key.
    has_value: bool,
    key_len: u32,
    /// The key, and behind it the value: one allocation, so that a lookup that finds the key has the value at hand.
    bytes: Vec<u8>,
}

impl Slot {
    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    fn value(&self) -> Option<&[u8]> {
        self.has_value.then(|| &self.bytes[self.key_len as usize..])
    }

    fn set_value(&mut self, value: Option<&[u8]>) {
        self.bytes.truncate(self.key_len as usize);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.has_value = value.is_some();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    budget_bytes: usize,
    used_bytes: usize,
    live: usize,
    slots: Vec<Slot>,
    /// Heads of the chains; a power of two.
    buckets: Vec<u32>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    hand: usize,
    /// The slot that was found last: what is read is most often written next.
    last: usize,
}

impl Cache {
    pub(super) fn new(budget_bytes: usize) -> Cache {
        Cache {
            budget_bytes,
            used_bytes: 0,
            live: 0,
            slots: Vec::new(),
            buckets: vec![NONE; FIRST_BUCKETS],
            free: Vec::new(),
            dirty: Vec::new(),
            hand: 0,
            last: 0,
        }
    }

    pub(super) fn set_budget_bytes(&mut self, budget_bytes: usize) {
        self.budget_bytes = budget_bytes;
    }

    /// What is known of a key: nothing, or what the store holds or shall hold.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Option<&[u8]>> {
        let at = self.find_again(key)?;
        let slot = &mut self.slots[at];
        slot.was_used = true;
        Some(slot.value())
    }

    /// The store holds this.
    pub(super) fn learn(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let hash = xxh3_64(key);
        assert!(self.find(hash, key).is_none(), "what is cached is not asked of the store");
        self.last = self.insert(hash, key, value.as_deref());
    }

    /// The store shall hold this.
    pub(super) fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let at = match self.find_again(key) {
            None => self.insert(xxh3_64(key), key, value),
            Some(at) => {
                let slot = &mut self.slots[at];
                self.used_bytes -= slot.bytes.len();
                slot.set_value(value);
                self.used_bytes += slot.bytes.len();
                slot.was_used = true;
                at
            }
        };
        if !self.slots[at].is_dirty {
            self.slots[at].is_dirty = true;
            self.dirty.push(narrow(at));
        }
    }

    /// What the store does not hold yet, in the order in which it became so.
    pub(super) fn dirty(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.dirty.iter().map(|at| {
            let slot = &self.slots[*at as usize];
            (slot.key(), slot.value())
        })
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// All of [`Cache::dirty`] was written.
    pub(super) fn written(&mut self) {
        for at in self.dirty.drain(..) {
            self.slots[at as usize].is_dirty = false;
        }
    }

    pub(super) fn is_over_budget(&self) -> bool {
        self.used_bytes > self.budget_bytes
    }

    /// Lets go of entries until there is room again for a quarter of the budget.
    ///
    /// # Panics
    /// If some are dirty.
    pub(super) fn evict(&mut self) {
        assert!(self.dirty.is_empty(), "what is evicted must be in the store");
        let target_bytes = self.budget_bytes - self.budget_bytes / 4;
        while self.used_bytes > target_bytes && self.live > 0 {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.is_live && !std::mem::take(&mut slot.was_used) {
                self.remove(self.hand);
            }
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        // The mask leaves less than there are buckets.
        usize::try_from(hash & (self.buckets.len() as u64 - 1)).expect("an index of a vector")
    }

    /// As [`Cache::find`], after a look at what was found last.
    fn find_again(&mut self, key: &[u8]) -> Option<usize> {
        if self.slots.get(self.last).is_some_and(|slot| slot.is_live && slot.key() == key) {
            return Some(self.last);
        }
        self.last = self.find(xxh3_64(key), key)?;
        Some(self.last)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let mut at = self.buckets[self.bucket(hash)];
        while at != NONE {
            let slot = &self.slots[at as usize];
            if slot.hash == hash && slot.key() == key {
                return Some(at as usize);
            }
            at = slot.next;
        }
        None
    }

    fn insert(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) -> usize {
        if self.live >= self.buckets.len() {
            self.grow();
        }
        let bucket = self.bucket(hash);
        self.live += 1;
        let next = self.buckets[bucket];
        let at = match self.free.pop() {
            Some(at) => at as usize,
            None => {
                let slot = Slot {
                    hash: 0,
                    next: NONE,
                    is_live: false,
                    is_dirty: false,
                    was_used: false,
                    has_value: false,
                    key_len: 0,
                    bytes: Vec::new(),
                };
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[at];
        slot.bytes.reserve_exact(key.len() + value.map_or(0, <[u8]>::len));
        slot.bytes.extend_from_slice(key);
        slot.key_len = narrow(key.len());
        slot.set_value(value);
        (slot.hash, slot.next) = (hash, next);
        (slot.is_live, slot.is_dirty, slot.was_used) = (true, false, false);
        self.used_bytes += SLOT_OVERHEAD_BYTES + slot.bytes.len();
        self.buckets[bucket] = narrow(at);
        at
    }

    fn remove(&mut self, at: usize) {
        let (hash, next) = (self.slots[at].hash, self.slots[at].next);
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == narrow(at) {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket] as usize;
            while self.slots[before].next != narrow(at) {
                before = self.slots[before].next as usize;
            }
            self.slots[before].next = next;
        }
        let slot = &mut self.slots[at];
        slot.is_live = false;
        self.used_bytes -= SLOT_OVERHEAD_BYTES + slot.bytes.len();
        slot.bytes = Vec::new();
        self.live -= 1;
        self.free.push(narrow(at));
    }

    fn grow(&mut self) {
        self.buckets = vec![NONE; self.buckets.len() * 2];
        for at in 0..self.slots.len() {
            if self.slots[at].is_live {
                let bucket = self.bucket(self.slots[at].hash);
                self.slots[at].next = self.buckets[bucket];
                self.buckets[bucket] = narrow(at);
            }
        }
    }
}

/// Slots are far fewer than 2^32: each costs at least [`SLOT_OVERHEAD_BYTES`] of the budget. So are the bytes of a key.
fn narrow(at: usize) -> u32 {
    u32::try_from(at).expect("fewer slots than that")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Reads go to the cache first and then to a map in place of the store; together they are one map.
        #[test]
        fn cache_and_store_are_one_map(
            budget_bytes in prop_oneof![Just(0usize), 200..4000usize],
            ops in proptest::collection::vec((0u16..200, 0u8..8, 0usize..40), 0..600),
        ) {
            let mut cache = Cache::new(budget_bytes);
            let (mut store, mut model) = (BTreeMap::new(), BTreeMap::new());
            for (key, what, len) in ops {
                let key = key.to_be_bytes().to_vec();
                match what {
                    0..=3 => {
                        let value = vec![what; len];
                        cache.set(&key, Some(&value));
                        model.insert(key, value);
                    }
                    4 => {
                        cache.set(&key, None);
                        model.remove(&key);
                    }
                    _ => {
                        let known = cache.get(&key).map(|value| value.map(<[u8]>::to_vec));
                        let found = known.unwrap_or_else(|| {
                            let stored: Option<Vec<u8>> = store.get(&key).cloned();
                            cache.learn(&key, stored.clone());
                            stored
                        });
                        prop_assert_eq!(found.as_ref(), model.get(&key));
                    }
                }
                if cache.is_over_budget() {
                    for (key, value) in cache.dirty() {
                        match value {
                            Some(value) => drop(store.insert(key.to_vec(), value.to_vec())),
                            None => drop(store.remove(key)),
                        }
                    }
                    cache.written();
                    cache.evict();
                    prop_assert!(!cache.has_dirty() && cache.used_bytes <= budget_bytes);
                }
            }
            for (key, value) in &model {
                let found = cache.get(key).map_or_else(|| store.get(key).cloned(), |v| v.map(<[u8]>::to_vec));
                prop_assert_eq!(found.as_ref(), Some(value));
            }
        }
    }
}
