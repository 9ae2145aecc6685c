//! The properties of a table (7.8.3 `table/meta_blocks.cc`). Two of them are needed to read the index, the others are for
//! people and tools.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::block::{Block, BlockBuilder};
use super::compression::Compression;
use crate::store::coding::{Cursor, Malformed, put_varint};

/// Name of the meta block.
pub const PROPERTIES_NAME: &[u8] = b"rocksdb.properties";
/// Name of the meta block with which other blocks must be decompressed.
pub const DICTIONARY_NAME: &[u8] = b"rocksdb.compression_dict";
/// Name of the meta block of range tombstones.
pub const RANGE_DELETIONS_NAME: &[u8] = b"rocksdb.range_del";

const KEY_IS_USER_KEY: &str = "rocksdb.index.key.is.user.key";
const VALUE_IS_DELTA: &str = "rocksdb.index.value.is.delta.encoded";
const INDEX_TYPE: &str = "rocksdb.block.based.table.index.type";
const GLOBAL_SEQUENCE: &str = "rocksdb.external_sst_file.global_seqno";
const EXTERNAL_VERSION: &str = "rocksdb.external_sst_file.version";
const ORIGINAL_NUMBER: &str = "rocksdb.original.file.number";
const COMPARATOR: &str = "rocksdb.comparator";
const FAMILY_ID: &str = "rocksdb.column.family.id";
const FAMILY_NAME: &str = "rocksdb.column.family.name";

/// What RocksDB takes for the family of a table that was made outside of a store (7.8.3 `table/table_properties.cc`).
pub const NO_FAMILY: u32 = i32::MAX as u32;
/// Of tables to be ingested: they have a place for the sequence number that they are ingested as (7.8.3
/// `table/sst_file_writer_collectors.h`).
pub const EXTERNAL_TABLE_VERSION: u32 = 2;

/// What a builder counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Entries.
    pub entries: u64,
    /// Tombstones among them.
    pub deletions: u64,
    /// Range tombstones among those.
    pub range_deletions: u64,
    /// Merge operands among them.
    pub operands: u64,
    /// Data blocks.
    pub data_blocks: u64,
    /// Their length. Bytes.
    pub data_bytes: u64,
    /// Length of the index. Bytes.
    pub index_bytes: u64,
    /// Length of the filter. Bytes.
    pub filter_bytes: u64,
    /// Length of all internal keys. Bytes.
    pub raw_key_bytes: u64,
    /// Length of all values. Bytes.
    pub raw_value_bytes: u64,
    /// Of data blocks and of the index, where it is worth it.
    pub compression: Compression,
    /// The number of the file.
    pub file_number: u64,
    /// The uuid of the store.
    pub store_identity: String,
    /// Name of the merge operator; "nullptr" for none.
    pub merge_operator: String,
    /// The id of the family.
    pub family_id: u32,
    /// Its name; empty for none.
    pub family_name: String,
    /// The table is to be ingested by a store.
    pub is_external: bool,
}

/// Appends the block of properties.
pub fn build(counts: &Counts, out: &mut Vec<u8>) {
    let varint = |v: u64| {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, v);
        bytes
    };
    let mut properties: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("rocksdb.block.based.table.prefix.filtering", b"0".to_vec()),
        ("rocksdb.block.based.table.whole.key.filtering", b"1".to_vec()),
        (INDEX_TYPE, vec![0; 4]),
        (FAMILY_ID, varint(u64::from(counts.family_id))),
        (COMPARATOR, b"leveldb.BytewiseComparator".to_vec()),
        ("rocksdb.compression", counts.compression.name().into()),
        ("rocksdb.creating.db.identity", counts.store_identity.clone().into_bytes()),
        ("rocksdb.creation.time", varint(0)),
        ("rocksdb.data.size", varint(counts.data_bytes)),
        ("rocksdb.deleted.keys", varint(counts.deletions)),
        ("rocksdb.filter.size", varint(counts.filter_bytes)),
        ("rocksdb.fixed.key.length", varint(0)),
        ("rocksdb.format.version", varint(0)),
        (KEY_IS_USER_KEY, varint(0)),
        ("rocksdb.index.size", varint(counts.index_bytes)),
        (VALUE_IS_DELTA, varint(0)),
        ("rocksdb.merge.operands", varint(counts.operands)),
        ("rocksdb.merge.operator", counts.merge_operator.clone().into_bytes()),
        ("rocksdb.num.data.blocks", varint(counts.data_blocks)),
        ("rocksdb.num.entries", varint(counts.entries)),
        ("rocksdb.num.filter_entries", varint(0)),
        ("rocksdb.num.range-deletions", varint(counts.range_deletions)),
        ("rocksdb.oldest.key.time", varint(0)),
        (ORIGINAL_NUMBER, varint(counts.file_number)),
        ("rocksdb.raw.key.size", varint(counts.raw_key_bytes)),
        ("rocksdb.raw.value.size", varint(counts.raw_value_bytes)),
    ]);
    if !counts.family_name.is_empty() {
        properties.insert(FAMILY_NAME, counts.family_name.clone().into_bytes());
    }
    if counts.is_external {
        properties.insert(EXTERNAL_VERSION, EXTERNAL_TABLE_VERSION.to_le_bytes().to_vec());
        properties.insert(GLOBAL_SEQUENCE, vec![0; 8]);
    }
    let mut block = BlockBuilder::new(usize::MAX);
    for (name, value) in properties {
        block.add(name.as_bytes(), &value);
    }
    block.finish(out);
}

/// What reading needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Index keys have no tag.
    pub index_key_is_user_key: bool,
    /// Index values are deltas.
    pub index_value_is_delta: bool,
    /// The table was made elsewhere and ingested: its entries have 0, and stand for entries of this sequence number; 0 if only the
    /// MANIFEST has it.
    pub global_sequence: Option<u64>,
    /// How it says that, if it was made to be ingested.
    pub external_version: Option<u32>,
    /// A feature that we do not have.
    pub unsupported: Option<&'static str>,
    /// How many entries the table says it has.
    pub entries: Option<u64>,
    /// How many of these are tombstones.
    pub deletions: Option<u64>,
    /// The number that it was written under.
    pub original_number: Option<u64>,
    /// The id of the family that it was written for, and its name, as far as it says so.
    pub family_id: Option<u32>,
    /// See `family_id`.
    pub family_name: Option<String>,
}

impl Properties {
    /// Reads the block.
    pub fn decode(block: &Block) -> Result<Properties, Malformed> {
        let mut found = Properties::default();
        let mut iter = block.iter();
        while let Some((name, value)) = iter.next_entry()? {
            let number = || Cursor::new(&value).varint64();
            match std::str::from_utf8(name).unwrap_or_default() {
                KEY_IS_USER_KEY => found.index_key_is_user_key = number()? != 0,
                VALUE_IS_DELTA => found.index_value_is_delta = number()? != 0,
                INDEX_TYPE if value[..] != [0; 4] => {
                    found.unsupported = Some("an index other than binary search")
                }
                GLOBAL_SEQUENCE => found.global_sequence = Some(Cursor::new(&value).fixed64()?),
                EXTERNAL_VERSION => found.external_version = Some(Cursor::new(&value).fixed32()?),
                COMPARATOR if value[..] != b"leveldb.BytewiseComparator"[..] => {
                    found.unsupported = Some("a comparator other than leveldb.BytewiseComparator");
                }
                ORIGINAL_NUMBER => found.original_number = Some(number()?),
                FAMILY_ID => found.family_id = u32::try_from(number()?).ok(),
                FAMILY_NAME => found.family_name = String::from_utf8(value.to_vec()).ok(),
                "rocksdb.deleted.keys" => found.deletions = Some(number()?),
                "rocksdb.num.entries" => found.entries = Some(number()?),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Where the global sequence number is in the content of the block, if there is one. It is written over zeros when the table is ingested,
/// and the checksum of the block stays as it was.
pub fn global_sequence_at(content: &Bytes) -> Option<Range<usize>> {
    let mut iter = Block::new(content.clone()).ok()?.iter();
    while let Ok(Some((name, value))) = iter.next_entry() {
        if name == GLOBAL_SEQUENCE.as_bytes() && value.len() == 8 {
            return Some(iter.offset() - 8..iter.offset());
        }
    }
    None
}
