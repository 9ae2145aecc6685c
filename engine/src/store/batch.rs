//! Write batches: a set of changes that is applied as a whole, in the form the WAL holds them (7.8.3 `db/write_batch.cc`):
//! sequence fixed64, count fixed32, then records. Each counted record takes one sequence number.
//!
//! Written: put, delete, single delete, range delete and merge, and log data (which is not counted and changes nothing). The records of the default family have
//! tags of their own, without its number. All records of RocksDB are recognised; those that this store cannot apply are
//! refused by name at recovery.

use std::sync::Arc;

use bytes::Bytes;

use super::coding::{Cursor, Malformed, put_length_prefixed, put_varint};
use super::families::FamilyKey;
use super::family::Family;
use super::key::ValueKind;

/// Bytes before the first record.
pub const BATCH_HEADER_BYTES: usize = 12;

const LOG_DATA: u8 = 3;
const FAMILY_DELETION: u8 = 4;
const FAMILY_VALUE: u8 = 5;
const FAMILY_MERGE: u8 = 6;
const FAMILY_SINGLE_DELETION: u8 = 8;
const FAMILY_RANGE_DELETION: u8 = 0xE;

/// Changes to be applied together, to one family or to several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteBatch {
    bytes: Vec<u8>,
    count: u32,
    changes_default: bool,
    /// Those that are changed, but for the default one.
    families: Vec<Arc<FamilyKey>>,
    /// Ids of those with operands among the changes.
    merges_into: Vec<u32>,
}

impl Default for WriteBatch {
    fn default() -> Self {
        WriteBatch {
            bytes: vec![0; BATCH_HEADER_BYTES],
            count: 0,
            changes_default: false,
            families: Vec::new(),
            merges_into: Vec::new(),
        }
    }
}

impl WriteBatch {
    /// Without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`, in the default family.
    ///
    /// # Panics
    /// If either has 4 GiB or more.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_to(None, key, value);
    }

    /// Sets `key` to `value` in a family.
    ///
    /// # Panics
    /// As [`WriteBatch::put`].
    pub fn put_in(&mut self, family: &Family, key: &[u8], value: &[u8]) {
        self.put_to(Some(family.key()), key, value);
    }

    /// Removes `key` from the default family.
    ///
    /// # Panics
    /// If it has 4 GiB or more.
    pub fn delete(&mut self, key: &[u8]) {
        self.delete_from(None, key);
    }

    /// Removes `key` from a family.
    ///
    /// # Panics
    /// As [`WriteBatch::delete`].
    pub fn delete_in(&mut self, family: &Family, key: &[u8]) {
        self.delete_from(Some(family.key()), key);
    }

    /// Removes `key` from the default family, which was put at most once since it was last removed, and is never removed by
    /// [`WriteBatch::delete`] nor changed by operands: else an older value may come back. In return the tombstone goes as soon as it meets
    /// the value (RocksDB's `SingleDelete`).
    ///
    /// # Panics
    /// As [`WriteBatch::delete`].
    pub fn single_delete(&mut self, key: &[u8]) {
        self.single_delete_from(None, key);
    }

    /// As [`WriteBatch::single_delete`], in a family.
    ///
    /// # Panics
    /// As [`WriteBatch::delete`].
    pub fn single_delete_in(&mut self, family: &Family, key: &[u8]) {
        self.single_delete_from(Some(family.key()), key);
    }

    /// Removes all keys from `begin` on, up to `end` and without it, from the default family. Nothing if it ends before it begins.
    ///
    /// # Panics
    /// As [`WriteBatch::put`].
    pub fn delete_range(&mut self, begin: &[u8], end: &[u8]) {
        self.delete_range_from(None, begin, end);
    }

    /// As [`WriteBatch::delete_range`], in a family.
    ///
    /// # Panics
    /// As [`WriteBatch::put`].
    pub fn delete_range_in(&mut self, family: &Family, begin: &[u8], end: &[u8]) {
        self.delete_range_from(Some(family.key()), begin, end);
    }

    /// Changes the value of `key` by an operand, in the default family.
    ///
    /// # Panics
    /// As [`WriteBatch::put`].
    pub fn merge(&mut self, key: &[u8], operand: &[u8]) {
        self.merge_to(None, key, operand);
    }

    /// Changes the value of `key` by an operand, in a family.
    ///
    /// # Panics
    /// As [`WriteBatch::put`].
    pub fn merge_in(&mut self, family: &Family, key: &[u8], operand: &[u8]) {
        self.merge_to(Some(family.key()), key, operand);
    }

    fn merge_to(&mut self, family: Option<&Arc<FamilyKey>>, key: &[u8], operand: &[u8]) {
        self.begin(family, ValueKind::Merge as u8, FAMILY_MERGE);
        put_length_prefixed(&mut self.bytes, key);
        put_length_prefixed(&mut self.bytes, operand);
        let id = family.map_or(0, |family| family.id);
        if !self.merges_into.contains(&id) {
            self.merges_into.push(id);
        }
    }

    /// The families with operands among the changes.
    pub(crate) fn merges_into(&self) -> &[u32] {
        &self.merges_into
    }

    fn put_to(&mut self, family: Option<&Arc<FamilyKey>>, key: &[u8], value: &[u8]) {
        self.begin(family, ValueKind::Value as u8, FAMILY_VALUE);
        put_length_prefixed(&mut self.bytes, key);
        put_length_prefixed(&mut self.bytes, value);
    }

    fn delete_from(&mut self, family: Option<&Arc<FamilyKey>>, key: &[u8]) {
        self.begin(family, ValueKind::Deletion as u8, FAMILY_DELETION);
        put_length_prefixed(&mut self.bytes, key);
    }

    fn single_delete_from(&mut self, family: Option<&Arc<FamilyKey>>, key: &[u8]) {
        self.begin(family, ValueKind::SingleDeletion as u8, FAMILY_SINGLE_DELETION);
        put_length_prefixed(&mut self.bytes, key);
    }

    fn delete_range_from(&mut self, family: Option<&Arc<FamilyKey>>, begin: &[u8], end: &[u8]) {
        if begin < end {
            self.begin(family, ValueKind::RangeDeletion as u8, FAMILY_RANGE_DELETION);
            put_length_prefixed(&mut self.bytes, begin);
            put_length_prefixed(&mut self.bytes, end);
        }
    }

    fn begin(&mut self, family: Option<&Arc<FamilyKey>>, tag: u8, family_tag: u8) {
        match family.filter(|family| family.id != 0) {
            None => {
                self.bytes.push(tag);
                self.changes_default = true;
            }
            Some(family) => {
                self.bytes.push(family_tag);
                put_varint(&mut self.bytes, u64::from(family.id));
                if !self.families.iter().any(|known| Arc::ptr_eq(known, family)) {
                    self.families.push(family.clone());
                }
            }
        }
        self.count += 1;
    }

    /// True if it changes the default family.
    pub(crate) fn changes_default(&self) -> bool {
        self.changes_default
    }

    /// The families that it changes, but for the default one.
    pub(crate) fn families(&self) -> &[Arc<FamilyKey>] {
        &self.families
    }

    /// Adds bytes that only the log keeps.
    pub fn log_data(&mut self, data: &[u8]) {
        self.bytes.push(LOG_DATA);
        put_length_prefixed(&mut self.bytes, data);
    }

    /// How many changes there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// True without changes.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length of the encoding in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The encoding, with the sequence number of the first change.
    pub fn encode(mut self, first_sequence: u64) -> Bytes {
        self.bytes[..8].copy_from_slice(&first_sequence.to_le_bytes());
        self.bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        self.bytes.into()
    }
}

/// A record of a batch. Keys and values share the batch's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry of the tree.
    Entry {
        /// Put, delete, merge and so on.
        kind: ValueKind,
        /// 0 is the default one.
        column_family: u32,
        /// The key, or where a range begins.
        key: Bytes,
        /// The value, the end of a range, or nothing for tombstones.
        value: Bytes,
    },
    /// Bytes that only the log keeps.
    LogData(Bytes),
    /// Nothing.
    Noop,
    /// A marker of a two-phase commit, with its number in the format.
    TwoPhase(u8),
}

/// A decoded batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedBatch {
    /// Sequence number of the first counted record.
    pub first_sequence: u64,
    /// How many records are counted.
    pub count: u32,
    /// All records in order.
    pub records: Vec<Record>,
}

impl DecodedBatch {
    /// Decodes.
    ///
    /// # Errors
    /// If a record is cut off or unknown, or the count is not that of the records.
    pub fn decode(bytes: &Bytes) -> Result<DecodedBatch, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let first_sequence = cursor.fixed64()?;
        let count = cursor.fixed32()?;
        let mut records = Vec::new();
        let mut counted = 0u32;
        while !cursor.is_empty() {
            let record = decode_record(bytes, &mut cursor)?;
            counted += u32::from(matches!(record, Record::Entry { .. }));
            records.push(record);
        }
        if counted != count {
            return Err(Malformed {
                offset_bytes: 8,
                what: "a batch has another number of records than it says",
            });
        }
        if first_sequence.checked_add(u64::from(count)).is_none_or(|end| end > super::key::MAX_SEQUENCE) {
            return Err(Malformed { offset_bytes: 0, what: "a batch's sequence numbers do not fit 56 bits" });
        }
        Ok(DecodedBatch { first_sequence, count, records })
    }
}

fn decode_record(bytes: &Bytes, cursor: &mut Cursor<'_>) -> Result<Record, Malformed> {
    let unknown = cursor.malformed("an unknown record in a batch");
    let tag = cursor.u8()?;
    let (kind, has_family, has_value) = match tag {
        0x0 => (ValueKind::Deletion, false, false),
        0x1 => (ValueKind::Value, false, true),
        0x2 => (ValueKind::Merge, false, true),
        LOG_DATA => return Ok(Record::LogData(bytes.slice(cursor.length_prefixed_range()?))),
        FAMILY_DELETION => (ValueKind::Deletion, true, false),
        FAMILY_VALUE => (ValueKind::Value, true, true),
        FAMILY_MERGE => (ValueKind::Merge, true, true),
        0x7 => (ValueKind::SingleDeletion, false, false),
        FAMILY_SINGLE_DELETION => (ValueKind::SingleDeletion, true, false),
        0x9 | 0x12 | 0x13 => return Ok(Record::TwoPhase(tag)),
        0xA..=0xC => {
            cursor.length_prefixed()?;
            return Ok(Record::TwoPhase(tag));
        }
        0x15 => {
            cursor.length_prefixed()?;
            cursor.length_prefixed()?;
            return Ok(Record::TwoPhase(tag));
        }
        0xD => return Ok(Record::Noop),
        FAMILY_RANGE_DELETION => (ValueKind::RangeDeletion, true, true),
        0xF => (ValueKind::RangeDeletion, false, true),
        0x10 => (ValueKind::BlobIndex, true, true),
        0x11 => (ValueKind::BlobIndex, false, true),
        0x16 => (ValueKind::WideColumnEntity, false, true),
        0x17 => (ValueKind::WideColumnEntity, true, true),
        _ => return Err(unknown),
    };
    let column_family = if has_family { cursor.varint32()? } else { 0 };
    let key = bytes.slice(cursor.length_prefixed_range()?);
    let value = if has_value { bytes.slice(cursor.length_prefixed_range()?) } else { Bytes::new() };
    Ok(Record::Entry { kind, column_family, key, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wrong_count_is_refused() {
        let mut batch = WriteBatch::new();
        batch.put(b"k", b"v");
        batch.log_data(b"note");
        let mut bytes = batch.encode(9).to_vec();
        assert!(DecodedBatch::decode(&bytes.clone().into()).is_ok());
        bytes[8] = 2;
        assert!(DecodedBatch::decode(&bytes.into()).unwrap_err().what.contains("another number of records"));
    }

    #[test]
    fn the_default_family_has_the_tags_without_a_number() {
        let other = FamilyKey::new(300, "other", Arc::default());
        let default = FamilyKey::new(0, "default", Arc::default());
        let mut batch = WriteBatch::new();
        batch.put_to(Some(&default), b"k", b"v");
        assert_eq!((batch.families().len(), batch.changes_default()), (0, true));
        batch.delete_from(Some(&other), b"k");
        batch.put_to(Some(&other), b"k", b"v");
        assert_eq!((batch.families().len(), batch.count()), (1, 3));
        batch.single_delete_from(Some(&default), b"k");
        batch.single_delete_from(Some(&other), b"k");
        batch.delete_range_from(Some(&default), b"k", b"m");
        batch.delete_range_from(Some(&other), b"k", b"m");
        batch.delete_range(b"m", b"m");
        assert_eq!(batch.count(), 7);
        let bytes = batch.encode(7);
        let puts = b"\x01\x01k\x01v\x04\xac\x02\x01k\x05\xac\x02\x01k\x01v";
        let others = b"\x07\x01k\x08\xac\x02\x01k\x0f\x01k\x01m\x0e\xac\x02\x01k\x01m";
        assert_eq!(bytes[BATCH_HEADER_BYTES..], [&puts[..], &others[..]].concat());
    }

    proptest! {
        #[test]
        fn roundtrip(
            ops: Vec<(u32, Vec<u8>, Option<Vec<u8>>)>,
            first_sequence in 0u64..1 << 50,
        ) {
            let mut batch = WriteBatch::new();
            let mut expected = Vec::new();
            for (id, key, value) in ops {
                let column_family = id % 3 * (id >> 16);
                let family = FamilyKey::new(column_family, "name", Arc::default());
                match &value {
                    Some(value) => batch.put_to(Some(&family), &key, value),
                    None => batch.delete_from(Some(&family), &key),
                }
                let kind = if value.is_some() { ValueKind::Value } else { ValueKind::Deletion };
                let value = value.unwrap_or_default().into();
                expected.push(Record::Entry { kind, column_family, key: key.into(), value });
            }
            let decoded = DecodedBatch::decode(&batch.encode(first_sequence)).unwrap();
            prop_assert_eq!(decoded, DecodedBatch { first_sequence, count: expected.len() as u32, records: expected });
        }

        #[test]
        fn anything_is_read_without_panic(mut bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..0x18], 0..60)) {
            let _ = DecodedBatch::decode(&bytes.clone().into());
            bytes.splice(..bytes.len().min(12), [0; 12]);
            let _ = DecodedBatch::decode(&bytes.into());
        }
    }
}
