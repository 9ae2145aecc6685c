//! The blocks that hold a table's entries, by internal key.
//!
//! A block is checked as a whole once, when it is read: its entries parse and ascend, its restarts are where entries begin
//! anew, and every entry belongs there (see [`Place`]). After that moving in it cannot fail, in either direction, and a
//! block that stays in memory need not be looked at again.

use std::ops::{Range, RangeInclusive};

use bytes::Bytes;

use super::block::{Block, BlockBuilder, EntryHeader};
use super::builder::DATA_RESTART_INTERVAL;
use crate::store::coding::{Cursor, Malformed};
use crate::store::key::{InternalKey, Tag, compare, split};

/// What the entries of a block must be.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// All come after it.
    pub after: Option<&'a InternalKey>,
    /// None comes after it.
    pub up_to: &'a InternalKey,
    /// What the table's entries have.
    pub sequences: &'a RangeInclusive<u64>,
}

/// The entries of an ingested table, with the sequence number that they were ingested as in the place of 0.
///
/// # Errors
/// If they are no such entries.
pub fn with_sequence(block: &Block, sequence: u64) -> Result<Block, Malformed> {
    let mut builder = BlockBuilder::new(DATA_RESTART_INTERVAL);
    let mut iter = block.iter();
    loop {
        let malformed = |what| Malformed { offset_bytes: iter.offset() as u64, what };
        let short = malformed("an internal key of less than eight bytes");
        let numbered = malformed("an entry of an ingested table has a sequence number");
        let Some((key, value)) = iter.next_entry()? else { break };
        let (user_key, tag) = split(key).ok_or(short)?;
        if tag.sequence() != 0 {
            return Err(numbered);
        }
        let tag = Tag(sequence << 8 | u64::from(tag.kind_byte()));
        builder.add(&InternalKey { user_key: Bytes::copy_from_slice(user_key), tag }.encode(), &value);
    }
    let mut bytes = Vec::new();
    builder.finish(&mut bytes);
    Block::new(bytes.into())
}

/// A block that was checked.
#[derive(Clone, Debug)]
pub struct DataBlock {
    block: Block,
}

impl DataBlock {
    /// Checks it.
    ///
    /// # Errors
    /// What does not hold.
    pub fn new(block: Block, place: &Place<'_>) -> Result<DataBlock, Malformed> {
        let malformed = |at: usize, what| Malformed { offset_bytes: at as u64, what };
        let elsewhere = malformed(0, "a whole block that belongs elsewhere");
        let mut restarts = (0..block.restart_count()).map(|i| block.restart(i)).peekable();
        let mut iter = block.iter();
        let mut last: Vec<u8> = Vec::new();
        loop {
            let at = iter.offset();
            let is_restart = restarts.next_if_eq(&at).is_some();
            if is_restart && Cursor::new(&block.bytes()[at..block.entries_len()]).u8().is_ok_and(|b| b != 0) {
                return Err(malformed(at, "an entry at a restart shares a part of its key"));
            }
            let Some(key) = iter.next_key()? else {
                if is_restart && at > 0 {
                    return Err(malformed(at, "a restart is where no entry begins"));
                }
                break;
            };
            let (user_key, tag) =
                split(key).ok_or(malformed(at, "an internal key of less than eight bytes"))?;
            if last.is_empty() {
                let is_after = |key: &InternalKey| compare(&key.user_key, key.tag, user_key, tag).is_lt();
                if !is_restart {
                    return Err(malformed(at, "a block does not begin with a restart"));
                }
                if !place.after.is_none_or(is_after) {
                    return Err(elsewhere);
                }
            } else if split(&last).is_some_and(|(k, t)| compare(k, t, user_key, tag).is_ge()) {
                return Err(malformed(at, "the entries of a table do not ascend"));
            }
            if !place.sequences.contains(&tag.sequence()) {
                return Err(elsewhere);
            }
            last.clear();
            last.extend_from_slice(key);
        }
        if restarts.next().is_some() {
            return Err(malformed(block.entries_len(), "a restart is where no entry begins"));
        }
        let is_within = |(k, t)| compare(k, t, &place.up_to.user_key, place.up_to.tag).is_le();
        if !split(&last).is_none_or(is_within) {
            return Err(elsewhere);
        }
        Ok(DataBlock { block })
    }

    /// Length of the content. Bytes.
    pub fn len_bytes(&self) -> usize {
        self.block.bytes().len()
    }

    /// On no entry yet.
    pub fn cursor(&self) -> BlockCursor {
        BlockCursor { block: self.clone(), at: 0, next: 0, key: Vec::new(), value: 0..0 }
    }

    fn entries(&self) -> &[u8] {
        &self.block.bytes()[..self.block.entries_len()]
    }

    /// The header of the entry at `at`, and where its key goes on.
    fn header(&self, at: usize) -> (EntryHeader, usize) {
        let entry = &self.entries()[at..];
        if let [shared, unshared, value_len, ..] = *entry
            && (shared | unshared | value_len) < 0x80
        {
            let [shared, unshared, value_len] = [shared, unshared, value_len].map(usize::from);
            return (EntryHeader { shared, unshared, value_len }, at + 3);
        }
        let mut cursor = Cursor::new(entry);
        let header = EntryHeader::decode(&mut cursor).expect("the block was checked");
        (header, at + cursor.offset())
    }

    /// The last restart for which `is_before` holds of its offset, or the first.
    fn last_restart(&self, is_before: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, self.block.restart_count());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if is_before(self.block.restart(middle)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        if self.block.restart_count() == 0 { 0 } else { self.block.restart(low) }
    }
}

/// A position in a block: on an entry after a move that says so.
#[derive(Clone, Debug)]
pub struct BlockCursor {
    block: DataBlock,
    /// Where the entry begins.
    at: usize,
    /// Where it ends.
    next: usize,
    key: Vec<u8>,
    value: Range<usize>,
}

impl BlockCursor {
    /// To the first entry, if there is one.
    pub fn first(&mut self) -> bool {
        self.rewind(0);
        self.advance()
    }

    /// To the last entry, if there is one.
    pub fn last(&mut self) -> bool {
        let end = self.block.block.entries_len();
        let restart = self.block.last_restart(|at| at < end);
        self.rewind(restart);
        self.scan_to(end)
    }

    /// To the first entry that is not before the internal key. Without one it is behind the last.
    pub fn seek(&mut self, user_key: &[u8], tag: Tag) -> bool {
        let entries = self.block.entries();
        let is_before = |at: usize| {
            let (header, key_at) = self.block.header(at);
            split(&entries[key_at..key_at + header.unshared])
                .is_some_and(|(k, t)| compare(k, t, user_key, tag).is_lt())
        };
        let restart = self.block.last_restart(is_before);
        self.rewind(restart);
        while self.advance() {
            let (k, t) = self.key();
            if compare(k, t, user_key, tag).is_ge() {
                return true;
            }
        }
        false
    }

    /// To the last entry before the internal key.
    pub fn seek_before(&mut self, user_key: &[u8], tag: Tag) -> bool {
        if self.seek(user_key, tag) { self.retreat() } else { self.last() }
    }

    /// To the next entry.
    pub fn advance(&mut self) -> bool {
        self.at = self.next;
        if self.next == self.block.block.entries_len() {
            return false;
        }
        let (EntryHeader { shared, unshared, value_len }, key_at) = self.block.header(self.next);
        let value_at = key_at + unshared;
        self.key.truncate(shared);
        self.key.extend_from_slice(&self.block.block.bytes()[key_at..value_at]);
        self.value = value_at..value_at + value_len;
        self.next = self.value.end;
        true
    }

    /// To the entry before.
    pub fn retreat(&mut self) -> bool {
        let target = self.at;
        let restart = self.block.last_restart(|at| at < target);
        self.rewind(restart);
        self.scan_to(target)
    }

    /// The internal key of the entry it is on.
    pub fn key(&self) -> (&[u8], Tag) {
        split(&self.key).expect("the block was checked")
    }

    /// The value of the entry it is on.
    pub fn value(&self) -> &[u8] {
        &self.block.block.bytes()[self.value.clone()]
    }

    fn rewind(&mut self, restart: usize) {
        (self.at, self.next) = (restart, restart);
        self.key.clear();
    }

    /// To the entry that ends at `end`, if one does that is not before the present place.
    fn scan_to(&mut self, end: usize) -> bool {
        while self.next < end {
            self.advance();
        }
        self.at < end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{ValueKind, append};
    use crate::store::table::block::BlockBuilder;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ANY: RangeInclusive<u64> = 0..=u64::MAX;

    fn end() -> InternalKey {
        InternalKey { user_key: vec![0xff; 40].into(), tag: Tag(0) }
    }

    fn checked(bytes: Vec<u8>) -> Result<DataBlock, Malformed> {
        let place = Place { after: None, up_to: &end(), sequences: &ANY };
        DataBlock::new(Block::new(bytes.into())?, &place)
    }

    fn encoded(keys: &BTreeSet<InternalKey>, interval: usize) -> Vec<u8> {
        let mut builder = BlockBuilder::new(interval);
        for key in keys {
            builder.add(&key.encode(), &key.user_key);
        }
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        bytes
    }

    #[test]
    fn a_restart_behind_the_last_entry_is_refused() {
        let key = InternalKey { user_key: b"key".to_vec().into(), tag: Tag::new(1, ValueKind::Value) };
        let mut bytes = encoded(&[key].into(), 16);
        assert!(checked(bytes.clone()).is_ok());
        let entries_len = u32::try_from(bytes.len() - 8).unwrap();
        bytes.truncate(bytes.len() - 4);
        bytes.extend(entries_len.to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        assert_eq!(checked(bytes).unwrap_err().what, "a restart is where no entry begins");
    }

    fn key() -> impl Strategy<Value = InternalKey> {
        (prop::collection::vec(0u8..3, 0..4), 0u64..6)
            .prop_map(|(k, s)| InternalKey { user_key: k.into(), tag: Tag::new(s, ValueKind::Value) })
    }

    #[derive(Clone, Debug)]
    enum Move {
        First,
        Last,
        Next,
        Prev,
        Seek(InternalKey),
        SeekBefore(InternalKey),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            1 => Just(Move::First),
            1 => Just(Move::Last),
            4 => Just(Move::Next),
            4 => Just(Move::Prev),
            2 => key().prop_map(Move::Seek),
            2 => key().prop_map(Move::SeekBefore),
        ];
        prop::collection::vec(one, 0..30)
    }

    proptest! {
        #[test]
        fn it_moves_as_in_a_set(
            keys in prop::collection::btree_set(key(), 0..40),
            interval in 1usize..20,
            moves in moves(),
        ) {
            let block = checked(encoded(&keys, interval)).unwrap();
            let sorted: Vec<&InternalKey> = keys.iter().collect();
            let mut cursor = block.cursor();
            let mut model: Option<usize> = None;
            for step in moves {
                let (moved, to) = match &step {
                    Move::First => (cursor.first(), (!sorted.is_empty()).then_some(0)),
                    Move::Last => (cursor.last(), sorted.len().checked_sub(1)),
                    Move::Next => match model {
                        Some(i) => (cursor.advance(), Some(i + 1).filter(|i| *i < sorted.len())),
                        None => continue,
                    },
                    Move::Prev => match model {
                        Some(i) => (cursor.retreat(), i.checked_sub(1)),
                        None => continue,
                    },
                    Move::Seek(key) => {
                        let to = sorted.partition_point(|k| *k < key);
                        (cursor.seek(&key.user_key, key.tag), Some(to).filter(|i| *i < sorted.len()))
                    }
                    Move::SeekBefore(key) => {
                        let to = sorted.partition_point(|k| *k < key).checked_sub(1);
                        (cursor.seek_before(&key.user_key, key.tag), to)
                    }
                };
                prop_assert_eq!(moved, to.is_some(), "{:?}", step);
                if let Some(i) = to {
                    prop_assert_eq!(cursor.key(), (&sorted[i].user_key[..], sorted[i].tag), "{:?}", step);
                    prop_assert_eq!(cursor.value(), &sorted[i].user_key[..]);
                }
                model = to;
            }
        }

        #[test]
        fn what_passes_the_check_can_be_walked(
            keys in prop::collection::btree_set(key(), 0..20),
            interval in 1usize..5,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            probe in key(),
        ) {
            let mut bytes = encoded(&keys, interval);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let Ok(block) = checked(bytes) else { return Ok(()) };
            let mut cursor = block.cursor();
            let mut forward = Vec::new();
            let mut moved = cursor.first();
            while moved {
                forward.push(cursor.key().1);
                moved = cursor.advance();
            }
            let mut backward = Vec::new();
            let mut moved = cursor.last();
            while moved {
                backward.push(cursor.key().1);
                moved = cursor.retreat();
            }
            backward.reverse();
            prop_assert_eq!(forward, backward);
            cursor.seek(&probe.user_key, probe.tag);
            cursor.seek_before(&probe.user_key, probe.tag);
        }

        #[test]
        fn anything_is_checked_without_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..12], 0..80)) {
            let _ = checked(bytes);
        }
    }

    #[test]
    fn a_block_must_be_where_its_entries_belong() {
        let at = |k: &'static str, s| InternalKey { user_key: k.into(), tag: Tag::new(s, ValueKind::Value) };
        let bytes = encoded(&[at("b", 5), at("b", 3), at("c", 4)].into(), 2);
        let what = |after: Option<InternalKey>, up_to: InternalKey, sequences: RangeInclusive<u64>| {
            let place = Place { after: after.as_ref(), up_to: &up_to, sequences: &sequences };
            DataBlock::new(Block::new(bytes.clone().into()).unwrap(), &place).err().map(|m| m.what)
        };
        let elsewhere = Some("a whole block that belongs elsewhere");
        assert_eq!(what(None, at("c", 4), 3..=5), None);
        assert_eq!(what(Some(at("b", 6)), at("d", 0), 0..=9), None);
        assert_eq!(what(Some(at("b", 5)), at("d", 0), 0..=9), elsewhere);
        assert_eq!(what(None, at("c", 5), 0..=9), elsewhere);
        assert_eq!(what(None, at("d", 0), 4..=9), elsewhere);
        assert_eq!(what(None, at("d", 0), 0..=4), elsewhere);
    }

    #[test]
    fn restarts_must_be_where_entries_begin_anew() {
        let keys = [b"ka", b"kb", b"kc"].map(|k| {
            let mut key = Vec::new();
            append(&mut key, k, Tag::new(1, ValueKind::Value));
            key
        });
        let mut builder = BlockBuilder::new(2);
        keys.iter().for_each(|key| builder.add(key, b""));
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        let second = bytes.len() - 8;
        let mut what = |at: usize, byte: u8| {
            let was = std::mem::replace(&mut bytes[at], byte);
            let what = checked(bytes.clone()).map(|_| ()).map_err(|m| m.what);
            bytes[at] = was;
            what
        };
        // The second entry begins at 13 and shares one byte, the third at 25.
        assert_eq!(what(second, 25), Ok(()));
        assert_eq!(what(second, 13), Err("an entry at a restart shares a part of its key"));
        assert_eq!(what(second, 14), Err("a restart is where no entry begins"));
        assert_eq!(what(second - 4, 1), Err("a block does not begin with a restart"));
    }
}
