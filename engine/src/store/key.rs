//! Internal keys: a user key, the sequence number of the write, and what kind of write it was.
//!
//! On disk an internal key is the user key followed by fixed64(sequence << 8 | kind). Order: user keys ascending, then
//! sequence and kind *descending*, so that a search for (key, sequence) meets the newest entry not above it first
//! (7.8.3 `db/dbformat.h`).

use std::cmp::{Ordering, Reverse};

use bytes::Bytes;

/// The largest sequence number there can be.
pub const MAX_SEQUENCE: u64 = (1 << 56) - 1;

/// What an entry is. The numbers are RocksDB's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ValueKind {
    /// A tombstone.
    Deletion = 0x0,
    /// A value.
    Value = 0x1,
    /// An operand to be merged.
    Merge = 0x2,
    /// A tombstone for a key that was written once; it goes when a compaction has dropped what it hides.
    SingleDeletion = 0x7,
    /// A tombstone for a range of keys; only in its own block of a table.
    RangeDeletion = 0xF,
    /// Where in a blob file the value is.
    BlobIndex = 0x11,
    /// A tombstone with a user timestamp.
    DeletionWithTimestamp = 0x14,
    /// A value made of columns.
    WideColumnEntity = 0x16,
}

impl ValueKind {
    /// The kind with this number.
    pub fn from_u8(byte: u8) -> Option<ValueKind> {
        Some(match byte {
            0x0 => ValueKind::Deletion,
            0x1 => ValueKind::Value,
            0x2 => ValueKind::Merge,
            0x7 => ValueKind::SingleDeletion,
            0xF => ValueKind::RangeDeletion,
            0x11 => ValueKind::BlobIndex,
            0x14 => ValueKind::DeletionWithTimestamp,
            0x16 => ValueKind::WideColumnEntity,
            _ => return None,
        })
    }
}

/// Sequence and kind in one number, as in the last eight bytes of an internal key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub u64);

impl Tag {
    /// Of an entry.
    ///
    /// # Panics
    /// If the sequence number is beyond [`MAX_SEQUENCE`].
    pub fn new(sequence: u64, kind: ValueKind) -> Tag {
        assert!(sequence <= MAX_SEQUENCE, "sequence number {sequence} does not fit 56 bits");
        Tag(sequence << 8 | kind as u64)
    }

    /// Sorts before every entry of its user key that `sequence` can see, and after those it cannot.
    pub fn seek(sequence: u64) -> Tag {
        Tag(sequence.min(MAX_SEQUENCE) << 8 | 0xff)
    }

    /// Of the upper bound of a table that a range tombstone reaches to: sorts before every entry of its user key, none of which
    /// is in the table.
    pub fn behind_range() -> Tag {
        Tag::new(MAX_SEQUENCE, ValueKind::RangeDeletion)
    }

    /// The sequence number.
    pub fn sequence(self) -> u64 {
        self.0 >> 8
    }

    /// The kind's number, which may be none that we know.
    pub fn kind_byte(self) -> u8 {
        self.0 as u8
    }

    /// The kind, if we know it.
    pub fn kind(self) -> Option<ValueKind> {
        ValueKind::from_u8(self.kind_byte())
    }
}

/// An internal key in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalKey {
    /// What the user calls it.
    pub user_key: Bytes,
    /// Which write of it.
    pub tag: Tag,
}

impl InternalKey {
    /// Decodes; nothing if there are fewer than eight bytes.
    pub fn decode(bytes: &[u8]) -> Option<InternalKey> {
        let (user_key, tag) = split(bytes)?;
        Some(InternalKey { user_key: Bytes::copy_from_slice(user_key), tag })
    }

    /// The bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.user_key.len() + 8);
        append(&mut out, &self.user_key, self.tag);
        out
    }
}

impl PartialOrd for InternalKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InternalKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.user_key, self.tag, &other.user_key, other.tag)
    }
}

/// Appends an internal key.
pub fn append(out: &mut Vec<u8>, user_key: &[u8], tag: Tag) {
    out.extend_from_slice(user_key);
    out.extend_from_slice(&tag.0.to_le_bytes());
}

/// User key and tag of an encoded internal key; nothing if there are fewer than eight bytes.
pub fn split(bytes: &[u8]) -> Option<(&[u8], Tag)> {
    let (user_key, tag) = bytes.split_last_chunk::<8>()?;
    Some((user_key, Tag(u64::from_le_bytes(*tag))))
}

/// The order of internal keys.
pub fn compare(a_key: &[u8], a_tag: Tag, b_key: &[u8], b_tag: Tag) -> Ordering {
    a_key.cmp(b_key).then(Reverse(a_tag).cmp(&Reverse(b_tag)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn newer_entries_of_a_key_come_first() {
        let key = |k: &str, s, kind| InternalKey {
            user_key: Bytes::copy_from_slice(k.as_bytes()),
            tag: Tag::new(s, kind),
        };
        assert!(key("a", 5, ValueKind::Value) < key("a", 4, ValueKind::Value));
        assert!(key("a", 5, ValueKind::Value) < key("a", 5, ValueKind::Deletion));
        assert!(key("a", 1, ValueKind::Value) < key("b", 9, ValueKind::Value));
        let seek = InternalKey { user_key: Bytes::from_static(b"a"), tag: Tag::seek(4) };
        assert!(key("a", 5, ValueKind::Value) < seek && seek < key("a", 4, ValueKind::WideColumnEntity));
    }

    proptest! {
        #[test]
        fn roundtrip(user_key: Vec<u8>, sequence in 0..=MAX_SEQUENCE) {
            let key = InternalKey { user_key: user_key.into(), tag: Tag::new(sequence, ValueKind::Merge) };
            prop_assert_eq!(InternalKey::decode(&key.encode()), Some(key.clone()));
            prop_assert_eq!(key.tag.sequence(), sequence);
            prop_assert_eq!(key.tag.kind(), Some(ValueKind::Merge));
        }
    }
}
