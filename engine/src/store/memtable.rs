//! What was written and is not yet in a table: an ordered map of internal keys.
//!
//! One writer (the commit task) inserts; readers take short locks and never wait for I/O under them. A reader sees an
//! entry as soon as it is inserted, but asks only for sequence numbers that were published after the whole batch was in.

use std::cmp;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::key::{InternalKey, Tag, ValueKind};
use super::tombstones::{RangeTombstone, Tombstones};

/// What an entry costs beyond its bytes, roughly. Bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// What a range tombstone costs for each span of keys that it lies over. Bytes.
const PLACE_BYTES: u64 = 8;

/// A memtable.
#[derive(Debug, Default)]
pub struct Memtable {
    entries: RwLock<BTreeMap<Prefixed, Bytes>>,
    /// Shared with those who read: copied when one is added meanwhile.
    tombstones: RwLock<Arc<Tombstones>>,
    /// Most memtables have none, and need no lock to say so.
    has_tombstones: AtomicBool,
    size_bytes: AtomicU64,
    has_unlogged: AtomicBool,
    /// 0 if nothing of it is in a log.
    first_log: AtomicU64,
}

/// An internal key behind the first bytes of its user key: most comparisons need not follow the pointer to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefixed {
    prefix: u64,
    key: InternalKey,
}

impl Prefixed {
    fn new(key: InternalKey) -> Self {
        let mut prefix = [0; 8];
        let len = key.user_key.len().min(prefix.len());
        prefix[..len].copy_from_slice(&key.user_key[..len]);
        Prefixed { prefix: u64::from_be_bytes(prefix), key }
    }
}

impl PartialOrd for Prefixed {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Prefixed {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| self.key.cmp(&other.key))
    }
}

impl Memtable {
    /// Adds an entry. The value of a range tombstone is where it ends.
    pub fn insert(&self, user_key: Bytes, tag: Tag, value: Bytes) {
        let mut cost = (user_key.len() + value.len()) as u64 + ENTRY_OVERHEAD_BYTES;
        if tag.kind() == Some(ValueKind::RangeDeletion) {
            let tombstone = RangeTombstone { begin: user_key, end: value, sequence: tag.sequence() };
            let mut tombstones = self.tombstones.write().unwrap_or_else(PoisonError::into_inner);
            cost += Arc::make_mut(&mut tombstones).insert(tombstone) as u64 * PLACE_BYTES;
            self.has_tombstones.store(true, Ordering::Release);
        } else {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            entries.insert(Prefixed::new(InternalKey { user_key, tag }), value);
        }
        self.size_bytes.fetch_add(cost, Ordering::Relaxed);
    }

    /// Its range tombstones, if there are any.
    pub fn tombstones(&self) -> Option<Arc<Tombstones>> {
        let has_some = self.has_tombstones.load(Ordering::Acquire);
        has_some.then(|| self.tombstones.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Notes that some of it is in no log.
    pub fn mark_unlogged(&self) {
        self.has_unlogged.store(true, Ordering::Relaxed);
    }

    /// True if some of it is in no log.
    pub fn has_unlogged(&self) -> bool {
        self.has_unlogged.load(Ordering::Relaxed)
    }

    /// Notes, before it is appended, that an entry goes to this log.
    pub fn note_log(&self, number: u64) {
        let _ = self.first_log.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The first log that holds something of it.
    pub fn first_log(&self) -> Option<u64> {
        Some(self.first_log.load(Ordering::Relaxed)).filter(|number| *number > 0)
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.size_bytes() == 0
    }

    /// How many entries it has, without range tombstones.
    pub fn entries(&self) -> u64 {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Roughly what it takes in memory. Bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// The newest entry of `user_key` that `sequence` can see. Of what a range tombstone takes away it says that it is gone.
    pub fn get(&self, user_key: &[u8], sequence: u64) -> Option<(Option<ValueKind>, Bytes)> {
        let newest = self.newest_entry(user_key, sequence);
        let covering = self.tombstones().map_or(0, |tombstones| tombstones.covering(user_key, sequence));
        match newest {
            Some((tag, value)) if tag.sequence() >= covering => Some((tag.kind(), value)),
            _ => (covering > 0).then(|| (Some(ValueKind::Deletion), Bytes::new())),
        }
    }

    fn newest_entry(&self, user_key: &[u8], sequence: u64) -> Option<(Tag, Bytes)> {
        let from = InternalKey { user_key: Bytes::copy_from_slice(user_key), tag: Tag::seek(sequence) };
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (Prefixed { key, .. }, value) = entries.range(Prefixed::new(from)..).next()?;
        (key.user_key == user_key).then(|| (key.tag, value.clone()))
    }

    /// Up to `limit` entries from a bound on, ascending.
    pub fn chunk(&self, from: Bound<InternalKey>, limit: usize) -> Vec<(InternalKey, Bytes)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let range = entries.range((from.map(Prefixed::new), Bound::Unbounded));
        range.take(limit).map(|(k, v)| (k.key.clone(), v.clone())).collect()
    }

    /// Up to `limit` entries before a bound, descending.
    pub fn chunk_back(&self, before: Bound<InternalKey>, limit: usize) -> Vec<(InternalKey, Bytes)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let range = entries.range((Bound::Unbounded, before.map(Prefixed::new))).rev();
        range.take(limit).map(|(k, v)| (k.key.clone(), v.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_does_not_change_the_order(
            a in prop::collection::vec(0u8..3, 0..12),
            b in prop::collection::vec(0u8..3, 0..12),
            tags: (u64, u64),
        ) {
            let key = |k: &[u8], tag| InternalKey { user_key: Bytes::copy_from_slice(k), tag: Tag(tag) };
            let (a, b) = (key(&a, tags.0), key(&b, tags.1));
            prop_assert_eq!(Prefixed::new(a.clone()).cmp(&Prefixed::new(b.clone())), a.cmp(&b));
        }
    }

    #[test]
    fn a_reader_sees_what_its_sequence_can_see() {
        let mem = Memtable::default();
        let put = |s, v: &'static str| {
            mem.insert(Bytes::from_static(b"k"), Tag::new(s, ValueKind::Value), v.into())
        };
        put(3, "three");
        put(5, "five");
        mem.insert(Bytes::from_static(b"k"), Tag::new(7, ValueKind::Deletion), Bytes::new());
        assert_eq!(mem.get(b"k", 2), None);
        assert_eq!(mem.get(b"k", 4).unwrap().1, "three");
        assert_eq!(mem.get(b"k", 6).unwrap().1, "five");
        assert_eq!(mem.get(b"k", 9).unwrap().0, Some(ValueKind::Deletion));
        assert_eq!(mem.get(b"j", 9), None);
    }

    #[test]
    fn ranges_over_each_other_cost_what_they_take() {
        let mem = Memtable::default();
        for i in 1..=1000u64 {
            let end = i.to_be_bytes().to_vec();
            mem.insert(Bytes::from_static(b""), Tag::new(i, ValueKind::RangeDeletion), end.into());
        }
        // Each lies over all keys that those before it lie over: half a million places.
        assert!(mem.size_bytes() > 8 * 500_000, "{}", mem.size_bytes());
    }

    #[test]
    fn a_range_takes_away_what_was_written_before_it() {
        let mem = Memtable::default();
        let insert =
            |k: &'static [u8], tag, v: &'static str| mem.insert(Bytes::from_static(k), tag, v.into());
        insert(b"k", Tag::new(3, ValueKind::Value), "three");
        assert!(mem.tombstones().is_none());
        insert(b"a", Tag::new(5, ValueKind::RangeDeletion), "m");
        insert(b"k", Tag::new(7, ValueKind::Value), "seven");
        assert_eq!(mem.get(b"k", 4).unwrap().1, "three");
        assert_eq!(mem.get(b"k", 6).unwrap().0, Some(ValueKind::Deletion));
        assert_eq!(mem.get(b"k", 7).unwrap().1, "seven");
        assert_eq!(mem.get(b"b", 7).unwrap().0, Some(ValueKind::Deletion), "what lies deeper is gone, too");
        assert_eq!(mem.get(b"m", 7), None);
    }
}
