//! Which entries must outlive a flush or a compaction. Pure.
//!
//! Snapshots cut the history of a key into strata; of each stratum only the newest entry can ever be seen, or, if that is a merge
//! operand, all down to the first that is none. A tombstone that every snapshot sees, over nothing that lies deeper, hides
//! nothing but what is dropped with it. So is an entry under a range tombstone that nothing tells it apart from; a range tombstone goes
//! where a tombstone of a key would.

use std::sync::Arc;

use cutwater_io::sometimes;

use super::iter::Entry;
use super::key::ValueKind;
use super::memtable::Memtable;
use super::points;
use super::tombstones::{RangeTombstone, Tombstones};
use super::version::FileMeta;

/// Decides entry by entry, in the order of internal keys.
#[derive(Debug)]
pub(crate) struct Retention {
    /// Ascending.
    snapshots: Vec<u64>,
    /// Tables below the output that may hold older entries; nothing if tombstones must stay.
    deeper: Option<Vec<Arc<FileMeta>>>,
    /// Single deletions do not go with what they hide.
    keeps_single_deletions: bool,
    /// All that lie over the entries and come with them.
    tombstones: Tombstones,
    /// The last entry that counts.
    last: Option<Last>,
}

#[derive(Debug, Default)]
struct Last {
    key: Vec<u8>,
    sequence: u64,
    stratum: u64,
    /// It is an operand, and so is every newer one of its stratum: what lies below it counts, too.
    is_operand: bool,
}

impl Retention {
    /// `snapshots` ascend. Without `deeper` all tombstones are kept.
    pub(crate) fn new(snapshots: Vec<u64>, deeper: Option<Vec<Arc<FileMeta>>>) -> Self {
        assert!(snapshots.is_sorted(), "snapshots ascend");
        Retention {
            snapshots,
            deeper,
            keeps_single_deletions: false,
            tombstones: Tombstones::default(),
            last: None,
        }
    }

    /// For a memtable that becomes a table of level 0.
    pub(crate) fn of_memtable(mem: &Memtable, snapshots: Vec<u64>) -> Self {
        let tombstones = mem.tombstones().map(Arc::unwrap_or_clone);
        Retention::new(snapshots, None).under(tombstones.unwrap_or_default())
    }

    /// What single deletions hide may be in a file that is not at hand, too.
    pub(crate) fn keeping_single_deletions(self) -> Self {
        Retention { keeps_single_deletions: true, ..self }
    }

    /// True if a single deletion goes with the value that it meets.
    pub(crate) fn drops_single_deletions(&self) -> bool {
        !self.keeps_single_deletions
    }

    /// With these range tombstones over the entries.
    pub(crate) fn under(self, tombstones: Tombstones) -> Self {
        Retention { tombstones, ..self }
    }

    /// The oldest snapshot that sees the sequence number; `u64::MAX` stands for the present.
    fn stratum(&self, sequence: u64) -> u64 {
        let i = self.snapshots.partition_point(|s| *s < sequence);
        self.snapshots.get(i).copied().unwrap_or(u64::MAX)
    }

    /// True if the entry must be kept.
    pub(crate) fn keeps(&mut self, entry: &Entry<'_>) -> bool {
        let stratum = self.stratum(entry.tag.sequence());
        if let Some(last) = &self.last
            && last.key[..] == *entry.user_key
        {
            if last.stratum == stratum && !last.is_operand {
                // If the value that hides it goes with a single deletion, what this one hides must not come back.
                let is_single = entry.tag.kind() == Some(ValueKind::SingleDeletion);
                return is_single && !self.is_over_nothing(entry.user_key, entry.tag.sequence());
            }
            // In two files that a repair has found.
            if last.sequence == entry.tag.sequence() {
                return false;
            }
            sometimes!(points::SNAPSHOT_KEPT, last.stratum != stratum);
        }
        let last = self.last.get_or_insert_default();
        last.key.clear();
        last.key.extend_from_slice(entry.user_key);
        last.sequence = entry.tag.sequence();
        last.stratum = stratum;
        last.is_operand = entry.tag.kind() == Some(ValueKind::Merge);
        if self.tombstones.covering(entry.user_key, stratum) > entry.tag.sequence() {
            sometimes!(points::ENTRY_UNDER_RANGE_DROPPED, true);
            return false;
        }
        let is_tombstone = matches!(entry.tag.kind(), Some(ValueKind::Deletion | ValueKind::SingleDeletion));
        // What it hides has a lower sequence number, so lies in the same oldest stratum and is dropped after it.
        let drops = is_tombstone && self.is_over_nothing(entry.user_key, entry.tag.sequence());
        sometimes!(points::TOMBSTONE_DROPPED, drops);
        !drops
    }

    /// The last entry is dropped after all, with what it hid: what comes next counts as if neither had been there.
    pub(crate) fn forget_last(&mut self) {
        self.last = None;
    }

    /// True if a snapshot sees the entry of this sequence number, or a newer one in its stead.
    pub(crate) fn is_seen(&self, sequence: u64) -> bool {
        self.stratum(sequence) != u64::MAX
    }

    /// True if two entries of a key are seen by the same snapshots.
    pub(crate) fn are_together(&self, one: u64, other: u64) -> bool {
        self.stratum(one) == self.stratum(other)
    }

    /// True if no older entry of the key counts that is not at hand: all that there is lies in this stratum.
    pub(crate) fn is_over_nothing(&self, key: &[u8], sequence: u64) -> bool {
        self.stratum(sequence) == self.stratum(0) && self.is_bottommost(key)
    }

    fn is_bottommost(&self, key: &[u8]) -> bool {
        self.deeper.as_ref().is_some_and(|files| !files.iter().any(|file| file.may_hold(key)))
    }

    /// The range tombstones that must be kept: of those over the same keys the newest of each stratum.
    pub(crate) fn tombstones(&self) -> Vec<RangeTombstone> {
        let mut kept: Vec<RangeTombstone> = Vec::new();
        for tombstone in self.tombstones.iter() {
            let stratum = self.stratum(tombstone.sequence);
            let is_hidden = kept.last().is_some_and(|newer| {
                newer.begin == tombstone.begin && self.stratum(newer.sequence) == stratum
            });
            let is_over_nothing = stratum == self.stratum(0) && self.is_range_bottommost(&tombstone);
            sometimes!(points::RANGE_TOMBSTONE_DROPPED, is_over_nothing);
            if !is_hidden && !is_over_nothing {
                kept.push(tombstone);
            }
        }
        kept
    }

    fn is_range_bottommost(&self, tombstone: &RangeTombstone) -> bool {
        let touches = |file: &Arc<FileMeta>| {
            file.smallest.user_key < tombstone.end && !file.ends_before(&tombstone.begin)
        };
        self.deeper.as_ref().is_some_and(|files| !files.iter().any(touches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{InternalKey, Tag};

    fn kept(snapshots: &[u64], deeper: Option<Vec<Arc<FileMeta>>>, entries: &[(u64, ValueKind)]) -> Vec<u64> {
        let mut retention = Retention::new(snapshots.to_vec(), deeper);
        let entry = |&(s, kind)| Entry { user_key: b"k", tag: Tag::new(s, kind), value: b"" };
        entries.iter().map(entry).filter(|e| retention.keeps(e)).map(|e| e.tag.sequence()).collect()
    }

    use ValueKind::{Deletion as D, Merge as M, Value as V};

    #[test]
    fn operands_are_kept_with_what_is_below_them() {
        let history = [(9, M), (8, M), (6, V), (5, V), (3, M), (2, D), (1, V)];
        assert_eq!(kept(&[], None, &history), [9, 8, 6]);
        assert_eq!(kept(&[5], None, &history), [9, 8, 6, 5]);
        assert_eq!(kept(&[4], None, &history), [9, 8, 6, 3, 2]);
        assert_eq!(kept(&[4, 8], Some(vec![]), &history), [9, 8, 6, 3]);
    }

    #[test]
    fn of_each_stratum_the_newest_is_kept() {
        let history = [(9, V), (8, V), (6, D), (5, V), (3, V), (1, V)];
        assert_eq!(kept(&[], None, &history), [9]);
        assert_eq!(kept(&[5], None, &history), [9, 5]);
        assert_eq!(kept(&[2, 5, 6, 7], None, &history), [9, 6, 5, 1]);
        assert_eq!(kept(&[9], None, &history), [9]);
    }

    #[test]
    fn tombstones_go_only_at_the_bottom_and_unseen_by_the_choice_of_snapshots() {
        let history = [(6, D), (5, V), (3, V)];
        assert_eq!(kept(&[], None, &history), [6]);
        assert_eq!(kept(&[], Some(vec![]), &history), Vec::<u64>::new());
        // Snapshot 5 sees the value, the present must see the tombstone above it.
        assert_eq!(kept(&[5], Some(vec![]), &history), [6, 5]);
        assert_eq!(kept(&[7], Some(vec![]), &history), Vec::<u64>::new());
        let key = |k: &'static str| InternalKey { user_key: k.into(), tag: Tag(0) };
        let over = |a, b| Arc::new(FileMeta { smallest: key(a), largest: key(b), ..FileMeta::default() });
        assert_eq!(kept(&[], Some(vec![over("a", "z")]), &history), [6]);
        assert_eq!(kept(&[], Some(vec![over("l", "z")]), &history), Vec::<u64>::new());
    }
}
