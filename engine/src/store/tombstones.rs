//! Range tombstones: each takes away all keys from one on, up to another, that were written before it.
//!
//! They lie beside the entries, not among them: in a list of their own in a memtable, in a block of their own in a table (7.8.3
//! `db/range_del_aggregator.cc`, `db/range_tombstone_fragmenter.cc`). A list is kept as spans that do not overlap, each with the
//! sequence numbers of the tombstones that lie over all of it, so that whoever has a key finds them in one step.
//!
//! In a table a tombstone reaches as far as the table does, and no further, whatever it says: where it went on is another
//! table's, whose entries may have been compacted since, and may have lost their sequence numbers.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::key::{InternalKey, Tag, ValueKind};

/// All that was written to keys from `begin` on, up to `end` and without it, before `sequence`, is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeTombstone {
    /// The first key.
    pub begin: Bytes,
    /// The first key behind it.
    pub end: Bytes,
    /// Its place among the writes.
    pub sequence: u64,
}

impl RangeTombstone {
    /// The internal key that it begins with.
    pub fn first_key(&self) -> InternalKey {
        InternalKey { user_key: self.begin.clone(), tag: Tag::new(self.sequence, ValueKind::RangeDeletion) }
    }

    /// The internal key that says of a table that it reaches as far as this does.
    pub fn end_key(&self) -> InternalKey {
        InternalKey { user_key: self.end.clone(), tag: Tag::behind_range() }
    }

    /// What of it lies between these keys; it may be none.
    pub fn within(self, from: &Bytes, to: Bound<&[u8]>) -> RangeTombstone {
        let end = match to {
            Bound::Included(last) if self.end[..] > *last => Bytes::from([last, &[0]].concat()).min(self.end),
            Bound::Excluded(end) if self.end[..] > *end => Bytes::copy_from_slice(end),
            _ => self.end,
        };
        RangeTombstone { begin: self.begin.max(from.clone()), end, sequence: self.sequence }
    }
}

/// Range tombstones, cut where any of them begins or ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones {
    /// By where they begin. No two overlap.
    spans: BTreeMap<Bytes, Span>,
}

/// What lies over all keys from one on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    end: Bytes,
    /// Of the tombstones, ascending; there is one.
    sequences: Vec<u64>,
}

impl Tombstones {
    /// Adds one. One that ends where it begins, or before, is none. Where many lie over each other each takes a place in every span that it
    /// lies over: returns how many more places there are.
    pub fn insert(&mut self, tombstone: RangeTombstone) -> usize {
        let RangeTombstone { begin, end, sequence } = tombstone;
        if begin >= end {
            return 0;
        }
        let mut places = self.cut(&begin) + self.cut(&end);
        let mut at = begin;
        let mut gaps = Vec::new();
        for (from, span) in self.spans.range_mut(at.clone()..end.clone()) {
            if at < *from {
                gaps.push((at, from.clone()));
            }
            let place = span.sequences.partition_point(|other| *other < sequence);
            if span.sequences.get(place) != Some(&sequence) {
                span.sequences.insert(place, sequence);
                places += 1;
            }
            at = span.end.clone();
        }
        if at < end {
            gaps.push((at, end));
        }
        for (from, end) in gaps {
            self.spans.insert(from, Span { end, sequences: vec![sequence] });
            places += 1;
        }
        places
    }

    /// Adds those of another list.
    pub fn extend(&mut self, others: &Tombstones) {
        for tombstone in others.iter() {
            self.insert(tombstone);
        }
    }

    /// Parts the span around a key there. Returns how many more places there are.
    fn cut(&mut self, key: &Bytes) -> usize {
        let before = (Bound::Unbounded, Bound::Excluded(key.clone()));
        let Some((_, span)) = self.spans.range_mut(before).next_back() else { return 0 };
        if *key < span.end {
            let behind = Span { end: std::mem::replace(&mut span.end, key.clone()), ..span.clone() };
            let places = behind.sequences.len();
            self.spans.insert(key.clone(), behind);
            return places;
        }
        0
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The sequence number of the newest tombstone over the key that is not above `up_to`; 0 if there is none.
    pub fn covering(&self, key: &[u8], up_to: u64) -> u64 {
        let not_behind = (Bound::Unbounded, Bound::Included(key));
        let span = self.spans.range::<[u8], _>(not_behind).next_back().map(|(_, span)| span);
        let Some(span) = span.filter(|span| *key < span.end[..]) else { return 0 };
        let count = span.sequences.partition_point(|sequence| *sequence <= up_to);
        count.checked_sub(1).map_or(0, |newest| span.sequences[newest])
    }

    /// All of them as they were cut, by where they begin; of those that begin together the newest first.
    pub fn iter(&self) -> impl Iterator<Item = RangeTombstone> {
        self.spans.iter().flat_map(|(begin, span)| {
            let of_span = |sequence: &u64| RangeTombstone {
                begin: begin.clone(),
                end: span.end.clone(),
                sequence: *sequence,
            };
            span.sequences.iter().rev().map(of_span)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tombstone(begin: &'static str, end: &'static str, sequence: u64) -> RangeTombstone {
        RangeTombstone { begin: begin.into(), end: end.into(), sequence }
    }

    fn list(of: &[RangeTombstone]) -> Tombstones {
        let mut list = Tombstones::default();
        for tombstone in of {
            list.insert(tombstone.clone());
        }
        list
    }

    #[test]
    fn those_that_overlap_are_cut() {
        let list = list(&[tombstone("b", "e", 5), tombstone("d", "g", 9)]);
        let cut: Vec<RangeTombstone> = list.iter().collect();
        let expected =
            [tombstone("b", "d", 5), tombstone("d", "e", 9), tombstone("d", "e", 5), tombstone("e", "g", 9)];
        assert_eq!(cut, expected);
        let newest = |key: &str, up_to| list.covering(key.as_bytes(), up_to);
        assert_eq!((newest("a", 99), newest("b", 99), newest("d", 99), newest("d", 8)), (0, 5, 9, 5));
        assert_eq!((newest("e", 8), newest("g", 99), newest("b", 4)), (0, 0, 0), "an end is not taken away");
    }

    #[test]
    fn one_reaches_as_far_as_its_table() {
        let whole = tombstone("b", "m", 5);
        let within = |from: &'static str, to| whole.clone().within(&from.into(), to);
        assert_eq!(within("a", Bound::Included(b"z")), whole);
        assert_eq!(within("c", Bound::Excluded(b"f")), tombstone("c", "f", 5));
        assert_eq!(within("c", Bound::Included(b"f")), tombstone("c", "f\0", 5));
        assert!(list(&[within("n", Bound::Included(b"z"))]).is_empty());
    }

    #[test]
    fn what_lies_over_each_other_is_counted() {
        let mut list = Tombstones::default();
        let mut insert = |begin, end, sequence| list.insert(tombstone(begin, end, sequence));
        assert_eq!((insert("b", "f", 1), insert("b", "g", 2), insert("d", "e", 3)), (1, 2, 5));
        assert_eq!(list.iter().count(), 8);
    }

    #[test]
    fn one_that_ends_before_it_begins_is_none() {
        assert!(list(&[tombstone("b", "b", 5), tombstone("c", "b", 6)]).is_empty());
    }

    proptest! {
        #[test]
        fn a_key_is_under_those_that_were_laid_over_it(
            laid in prop::collection::vec((0u8..20, 0u8..20, 1u64..9), 0..12),
            key in 0u8..20,
            up_to in 0u64..10,
        ) {
            let tombstones: Vec<RangeTombstone> = laid
                .iter()
                .map(|(begin, end, sequence)| RangeTombstone {
                    begin: vec![*begin].into(),
                    end: vec![*end].into(),
                    sequence: *sequence,
                })
                .collect();
            let list = list(&tombstones);
            let over = |(begin, end, sequence): &&(u8, u8, u64)| {
                (*begin..*end).contains(&key) && *sequence <= up_to
            };
            let expected = laid.iter().filter(over).map(|(_, _, sequence)| *sequence).max().unwrap_or(0);
            prop_assert_eq!(list.covering(&[key], up_to), expected);
            let parts: Vec<RangeTombstone> = list.iter().collect();
            prop_assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].begin || pair[0].begin == pair[1].begin));
            let mut again = Tombstones::default();
            again.extend(&list);
            prop_assert_eq!(again, list);
        }
    }
}
