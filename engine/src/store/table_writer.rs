//! Writes a table that a store may [ingest](super::Store::ingest): what RocksDB calls an SST file of an `SstFileWriter`, which its
//! `IngestExternalFile` takes too.
//!
//! Keys come in strictly ascending order, each once. Entries have no place among the writes of a store yet: they get it, all the same
//! one, when the table is ingested. So a range tombstone takes away what the store holds, and nothing of its own table.
//!
//! The file is durable with its name once [`TableWriter::finish`] has returned. One that was begun and not finished is no table, and is
//! the caller's to remove.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cutwater_io::fs::{self, File};

use super::error::{Error, IoContext};
use super::key::{Tag, ValueKind};
use super::options::FamilyOptions;
use super::table::TableBuilder;
use super::tombstones::{RangeTombstone, Tombstones};

/// Bytes encoded before they are written.
const WRITE_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct TableWriter {
    path: PathBuf,
    file: File,
    offset_bytes: u64,
    builder: TableBuilder,
    has_operator: bool,
    last_key: Option<Vec<u8>>,
    tombstones: Tombstones,
    /// A write has failed: what of it is in the file is not known.
    has_failed: bool,
}

/// A table that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenTable {
    /// Where it is.
    pub path: PathBuf,
    /// Its length. Bytes.
    pub len_bytes: u64,
    /// How many entries it has, range tombstones included. (Those over each other are written as those that are left when they are
    /// cut where any of them begins or ends.)
    pub entries: u64,
    /// First key, or where the first range tombstone begins.
    pub smallest: Vec<u8>,
    /// Last key, or where the last range tombstone ends.
    pub largest: Vec<u8>,
}

impl TableWriter {
    /// Begins a table at `path`, where nothing may be. Of the options those count that are about tables: blocks, filter, compression (that
    /// of the deepest level), and whether there is a merge operator.
    ///
    /// # Errors
    /// An option that cannot work, or I/O.
    pub async fn create(path: impl AsRef<Path>, options: &FamilyOptions) -> Result<TableWriter, Error> {
        options.validate()?;
        let path = path.as_ref().to_owned();
        let file = File::create_new(&path).await.during("create", &path)?;
        Ok(TableWriter {
            path,
            file,
            offset_bytes: 0,
            builder: TableBuilder::new(options, options.num_levels - 1, 0, "cutwater table writer")
                .external(),
            has_operator: options.merge_operator.is_some(),
            last_key: None,
            tombstones: Tombstones::default(),
            has_failed: false,
        })
    }

    /// The key has this value.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`], or I/O, after which nothing more can be written; so for all that add something.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.add(key, ValueKind::Value, value).await
    }

    /// The key is gone.
    ///
    /// # Errors
    /// As [`TableWriter::put`].
    pub async fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        self.add(key, ValueKind::Deletion, b"").await
    }

    /// The key is gone, which was put once: see [`super::WriteBatch::single_delete`].
    ///
    /// # Errors
    /// As [`TableWriter::put`].
    pub async fn single_delete(&mut self, key: &[u8]) -> Result<(), Error> {
        self.add(key, ValueKind::SingleDeletion, b"").await
    }

    /// The operand changes what the key has.
    ///
    /// # Errors
    /// As [`TableWriter::put`]; or [`Error::InvalidRequest`] without a merge operator.
    pub async fn merge(&mut self, key: &[u8], operand: &[u8]) -> Result<(), Error> {
        if !self.has_operator {
            return Err(Error::InvalidRequest("a merge into a table whose family has no merge operator"));
        }
        self.add(key, ValueKind::Merge, operand).await
    }

    /// All keys from `begin` on, up to `end` and without it, are gone that the store has when it ingests the table. In any order, also as to
    /// the keys.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] after a write that failed.
    pub fn delete_range(&mut self, begin: &[u8], end: &[u8]) -> Result<(), Error> {
        self.check()?;
        let bytes = Bytes::copy_from_slice;
        self.tombstones.insert(RangeTombstone { begin: bytes(begin), end: bytes(end), sequence: 0 });
        Ok(())
    }

    /// Ends the table, and makes it durable: its contents, and its name in its directory. The name of that directory is the caller's.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if nothing was added, or I/O.
    pub async fn finish(mut self) -> Result<WrittenTable, Error> {
        self.check()?;
        for tombstone in self.tombstones.iter() {
            self.builder.add_range_tombstone(&tombstone);
        }
        if self.builder.is_empty() {
            return Err(Error::InvalidRequest("a table without entries"));
        }
        self.write_pending().await?;
        let fresh = TableBuilder::new(&FamilyOptions::default(), 0, 0, "");
        let (stats, end) = std::mem::replace(&mut self.builder, fresh).finish();
        self.write(&end).await?;
        self.file.sync_data().await.during("sync", &self.path)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::sync_dir(parent).await.during("sync", parent)?;
        Ok(WrittenTable {
            path: self.path,
            len_bytes: stats.file_bytes,
            entries: stats.entries,
            smallest: stats.smallest.user_key.to_vec(),
            largest: stats.largest.user_key.to_vec(),
        })
    }

    async fn add(&mut self, key: &[u8], kind: ValueKind, value: &[u8]) -> Result<(), Error> {
        self.check()?;
        if let Some(after) = self.last_key.as_ref().filter(|last| last[..] >= *key) {
            return Err(Error::OutOfOrder { key: key.to_vec(), after: after.clone() });
        }
        self.builder.add(key, Tag::new(0, kind), value);
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(key);
        match self.builder.pending_bytes() >= WRITE_BYTES {
            true => self.write_pending().await,
            false => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self.has_failed {
            true => Err(Error::InvalidRequest("a table whose writing has failed")),
            false => Ok(()),
        }
    }

    async fn write_pending(&mut self) -> Result<(), Error> {
        let bytes = self.builder.take_output();
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // Until it is over, and for good if nobody waits for that.
        self.has_failed = true;
        self.file.write_all_at(bytes, self.offset_bytes).await.during("write", &self.path)?;
        self.offset_bytes += bytes.len() as u64;
        self.has_failed = false;
        Ok(())
    }
}
