//! A change of the set of tables, with all that RocksDB can say in one.
//!
//! What the store reads beyond what it has is kept in the edit, and refused by name where it would matter.

use std::ops::Bound;

use crate::store::key::{InternalKey, Tag};

/// One record of a MANIFEST.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionEdit {
    /// The uuid of the store.
    pub db_id: Option<String>,
    /// The number of the MANIFEST that this is the first edit of. A field of this engine; RocksDB passes it over.
    pub manifest_number: Option<u64>,
    /// CRC-32C of all of the MANIFEST that is before this edit. A field of this engine; RocksDB passes it over.
    pub follows_crc32c: Option<u32>,
    /// Name of the order of keys.
    pub comparator: Option<String>,
    /// Logs with a lower number are not needed by this column family.
    pub log_number: Option<u64>,
    /// Of the past; 0.
    pub prev_log_number: Option<u64>,
    /// Above every number in use.
    pub next_file_number: Option<u64>,
    /// At least the highest sequence number in any table.
    pub last_sequence: Option<u64>,
    /// The highest number a column family ever had.
    pub max_column_family: Option<u32>,
    /// Logs with a lower number are not needed by anybody.
    pub min_log_number_to_keep: Option<u64>,
    /// Where the compaction of a level went on: (level, key).
    pub compact_cursors: Vec<(u32, Vec<u8>)>,
    /// (level, number).
    pub deleted_files: Vec<(u32, u64)>,
    /// (level, table).
    pub new_files: Vec<(u32, FileMeta)>,
    /// New blob files.
    pub blob_additions: Vec<BlobAddition>,
    /// Blobs that nothing refers to any more.
    pub blob_garbage: Vec<BlobGarbage>,
    /// Logs created, or synced so far.
    pub wal_additions: Vec<WalAddition>,
    /// Logs with a lower number are gone.
    pub wal_deletion: Option<u64>,
    /// Which column family this is about; 0 is the default one.
    pub column_family: u32,
    /// The column family is created, with this name.
    pub column_family_add: Option<String>,
    /// The column family is dropped.
    pub column_family_drop: bool,
    /// Part of a group that holds as a whole; so many edits of it follow.
    pub atomic_group_remaining: Option<u32>,
}

impl VersionEdit {
    /// True if it changes which tables the family has, or which logs it needs.
    pub(super) fn changes_tables(&self) -> bool {
        let tables = !self.deleted_files.is_empty() || !self.new_files.is_empty();
        let blobs = !self.blob_additions.is_empty() || !self.blob_garbage.is_empty();
        tables || blobs || self.log_number.is_some()
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Its number.
    pub number: u64,
    /// Its length. Bytes.
    pub len_bytes: u64,
    /// First key.
    pub smallest: InternalKey,
    /// Last key.
    pub largest: InternalKey,
    /// Lowest sequence number.
    pub smallest_sequence: u64,
    /// Highest sequence number.
    pub largest_sequence: u64,
    /// The oldest blob file it refers to; 0 for none.
    pub oldest_blob_file_number: u64,
    /// Of the oldest data in it, in seconds since 1970; 0 if unknown.
    pub oldest_ancestor_time_s: u64,
    /// When it was created, in seconds since 1970; 0 if unknown.
    pub file_creation_time_s: u64,
    /// Checksum of the whole file, if one was made.
    pub checksum: Vec<u8>,
    /// What made the checksum; "Unknown" for none.
    pub checksum_function: String,
    /// Order of level 0; 0 if unknown.
    pub epoch_number: u64,
    /// How many range tombstones it has; nothing if that is not known. A field of this engine; RocksDB passes it over.
    pub range_tombstones: Option<u64>,
}

impl Default for FileMeta {
    fn default() -> Self {
        let key = || InternalKey { user_key: bytes::Bytes::new(), tag: Tag(0) };
        FileMeta {
            number: 0,
            len_bytes: 0,
            smallest: key(),
            largest: key(),
            smallest_sequence: 0,
            largest_sequence: 0,
            oldest_blob_file_number: 0,
            oldest_ancestor_time_s: 0,
            file_creation_time_s: 0,
            checksum: Vec::new(),
            checksum_function: "Unknown".to_owned(),
            epoch_number: 0,
            range_tombstones: None,
        }
    }
}

/// What RocksDB calls the checksum that is made here: CRC-32C of the file, big-endian (`util/file_checksum_helper.h`).
const CRC32C_FUNCTION: &str = "FileChecksumCrc32c";

impl FileMeta {
    /// Behind which key it ends: a range tombstone that reaches to a key does not take it away.
    pub fn end(&self) -> Bound<&[u8]> {
        match self.largest.tag == Tag::behind_range() {
            true => Bound::Excluded(&self.largest.user_key),
            false => Bound::Included(&self.largest.user_key),
        }
    }

    /// True if it has nothing of the key, nor of any behind it.
    pub fn ends_before(&self, key: &[u8]) -> bool {
        match self.end() {
            Bound::Included(last) => *last < *key,
            Bound::Excluded(end) => *end <= *key,
            Bound::Unbounded => false,
        }
    }

    /// True if it may have entries of the key, or a tombstone over it.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.smallest.user_key[..] <= *key && !self.ends_before(key)
    }

    /// With the CRC-32C of the whole file.
    pub fn with_crc32c(self, crc32c: u32) -> FileMeta {
        FileMeta {
            checksum: crc32c.to_be_bytes().to_vec(),
            checksum_function: CRC32C_FUNCTION.to_owned(),
            ..self
        }
    }

    /// The CRC-32C of the whole file, if it was recorded.
    pub fn crc32c(&self) -> Option<u32> {
        let is_known = self.checksum_function == CRC32C_FUNCTION;
        <[u8; 4]>::try_from(&self.checksum[..]).ok().filter(|_| is_known).map(u32::from_be_bytes)
    }
}

/// A new blob file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobAddition {
    /// Its number.
    pub number: u64,
    /// Blobs in it.
    pub total_count: u64,
    /// Sum of 32 + key + value over them. Bytes.
    pub total_bytes: u64,
    /// What made the checksum.
    pub checksum_method: Vec<u8>,
    /// The checksum.
    pub checksum_value: Vec<u8>,
}

impl BlobAddition {
    /// With the CRC-32C of the whole file.
    pub fn with_crc32c(self, crc32c: u32) -> BlobAddition {
        BlobAddition {
            checksum_method: CRC32C_FUNCTION.as_bytes().to_vec(),
            checksum_value: crc32c.to_be_bytes().to_vec(),
            ..self
        }
    }

    /// The CRC-32C of the whole file, if it was recorded.
    pub fn crc32c(&self) -> Option<u32> {
        let is_known = self.checksum_method == CRC32C_FUNCTION.as_bytes();
        <[u8; 4]>::try_from(&self.checksum_value[..]).ok().filter(|_| is_known).map(u32::from_be_bytes)
    }
}

/// Blobs of a file that became garbage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobGarbage {
    /// The file.
    pub number: u64,
    /// How many more.
    pub count: u64,
    /// How much more, as in [`BlobAddition::total_bytes`].
    pub bytes: u64,
}

/// A log was created, or synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalAddition {
    /// The log.
    pub number: u64,
    /// How much of it is durable. Bytes.
    pub synced_bytes: Option<u64>,
}
