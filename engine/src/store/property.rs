//! Properties of a family, by RocksDB's names (7.8.3 `include/rocksdb/db.h`, `DB::Properties`), and what is known of its tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blob::format::file_bytes;
use super::error::Error;
use super::filenames::FileKind;
use super::files::Files;
use super::memtable::Memtable;
use super::version::Version;

/// The names of properties that have one value. Besides there is `rocksdb.num-files-at-level<N>`.
pub const PROPERTIES: &[&str] = &[
    "rocksdb.background-errors",
    "rocksdb.block-cache-capacity",
    "rocksdb.block-cache-usage",
    "rocksdb.cur-size-active-mem-table",
    "rocksdb.cur-size-all-mem-tables",
    "rocksdb.estimate-num-keys",
    "rocksdb.is-write-stopped",
    "rocksdb.levelstats",
    "rocksdb.live-blob-file-garbage-size",
    "rocksdb.live-blob-file-size",
    "rocksdb.live-sst-files-size",
    "rocksdb.mem-table-flush-pending",
    "rocksdb.num-blob-files",
    "rocksdb.num-entries-active-mem-table",
    "rocksdb.num-entries-imm-mem-tables",
    "rocksdb.num-immutable-mem-table",
    "rocksdb.num-snapshots",
    "rocksdb.oldest-snapshot-sequence",
    "rocksdb.total-blob-file-size",
];

/// What properties are made of.
pub(crate) struct Facts {
    /// Newest first; the first takes writes.
    pub(crate) memtables: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    /// The id of the family.
    pub(crate) family: u32,
    /// Versions of before, of all families, that somebody still reads.
    pub(crate) old_versions: Vec<Arc<Version>>,
    /// Ascending.
    pub(crate) snapshots: Vec<u64>,
    pub(crate) background_errors: u64,
    pub(crate) writes_are_stopped: bool,
}

impl Facts {
    /// The value of the property, if there is one of this name.
    pub(crate) async fn property(&self, files: &Files, name: &str) -> Result<Option<String>, Error> {
        let Facts { memtables, version, snapshots, .. } = self;
        let Some(name) = name.strip_prefix("rocksdb.") else { return Ok(None) };
        if let Some(level) = name.strip_prefix("num-files-at-level") {
            let files = level.parse().ok().and_then(|level: usize| version.levels.get(level));
            return Ok(files.map(|files| files.len().to_string()));
        }
        let size = |of: &[Arc<Memtable>]| of.iter().map(|mem| mem.size_bytes()).sum::<u64>();
        let entries = |of: &[Arc<Memtable>]| of.iter().map(|mem| mem.entries()).sum::<u64>();
        let (active, immutable) = memtables.split_at(memtables.len().min(1));
        let blobs = || version.blobs.iter();
        let cache = files.tables.block_cache();
        Ok(Some(match name {
            "levelstats" => return Ok(Some(level_stats(version))),
            "background-errors" => self.background_errors,
            "is-write-stopped" => u64::from(self.writes_are_stopped),
            "block-cache-capacity" => cache.budget_bytes,
            "block-cache-usage" => cache.used_bytes,
            "cur-size-active-mem-table" => size(active),
            "cur-size-all-mem-tables" => size(memtables),
            "num-entries-active-mem-table" => entries(active),
            "num-entries-imm-mem-tables" => entries(immutable),
            "num-immutable-mem-table" => immutable.len() as u64,
            "mem-table-flush-pending" => u64::from(!immutable.is_empty()),
            "estimate-num-keys" => entries(memtables).saturating_add(self.keys_in_tables(files).await?),
            "live-sst-files-size" => version.files().map(|(_, file)| file.len_bytes).sum(),
            "num-blob-files" => blobs().count() as u64,
            "live-blob-file-size" => blobs().map(|file| file_bytes(&file.added)).sum(),
            "live-blob-file-garbage-size" => blobs().map(|file| file.garbage_bytes).sum(),
            "total-blob-file-size" => self.total_blob_bytes(),
            "num-snapshots" => snapshots.len() as u64,
            "oldest-snapshot-sequence" => snapshots.first().copied().unwrap_or(0),
            _ => return Ok(None),
        })
        .map(|number| number.to_string()))
    }

    /// With those that only versions of before need.
    fn total_blob_bytes(&self) -> u64 {
        let versions = [&self.version].into_iter().chain(&self.old_versions);
        let blobs =
            versions.flat_map(|version| version.blobs.iter()).filter(|file| file.family == self.family);
        let by_number: BTreeMap<u64, u64> =
            blobs.map(|file| (file.added.number, file_bytes(&file.added))).collect();
        by_number.into_values().sum()
    }

    /// Entries that are no tombstones, less one for each tombstone.
    async fn keys_in_tables(&self, files: &Files) -> Result<u64, Error> {
        let (mut entries, mut deletions) = (0u64, 0u64);
        for (_, file) in self.version.files() {
            let table = files.tables.open(file).await?;
            entries = entries.saturating_add(table.entries().unwrap_or(0));
            deletions = deletions.saturating_add(table.properties().deletions.unwrap_or(0));
        }
        Ok(entries.saturating_sub(deletions.saturating_mul(2)))
    }
}

/// As RocksDB prints it. Where it is not known how many levels there are, the deepest in use is the last, or the seventh.
fn level_stats(version: &Version) -> String {
    let mut out = "Level Files Size(MB)\n--------------------\n".to_owned();
    let used = version.files().map(|(level, _)| level + 1).max().unwrap_or(0).max(7);
    for (level, (files, bytes)) in version.level_sizes().into_iter().take(used).enumerate() {
        let size_mb = bytes as f64 / f64::from(1 << 20);
        out += &format!("{level:3} {files:8} {size_mb:8.0}\n");
    }
    out
}

/// A table of a family. (RocksDB's `LiveFileMetaData`.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// The name of the family.
    pub family: String,
    /// Its level.
    pub level: usize,
    /// Its number.
    pub number: u64,
    /// The name of its file.
    pub name: String,
    /// Its length. Bytes.
    pub len_bytes: u64,
    /// Its first key.
    pub smallest: Vec<u8>,
    /// Its last key, or where its last range tombstone ends.
    pub largest: Vec<u8>,
    /// Lowest sequence number of its entries.
    pub smallest_sequence: u64,
    /// Highest sequence number of its entries.
    pub largest_sequence: u64,
    /// How many entries it has, tombstones included, as it says.
    pub entries: Option<u64>,
    /// How many of these are tombstones, as it says.
    pub deletions: Option<u64>,
    /// The oldest blob file that it has values in, if it has any.
    pub oldest_blob_file: Option<u64>,
}

/// The tables of a family, by level.
pub(crate) async fn tables_of(
    files: &Files,
    family: &str,
    version: &Version,
) -> Result<Vec<TableInfo>, Error> {
    let mut tables = Vec::new();
    for (level, file) in version.files() {
        let table = files.tables.open(file).await?;
        tables.push(TableInfo {
            family: family.to_owned(),
            level,
            number: file.number,
            name: FileKind::Table(file.number).name(),
            len_bytes: file.len_bytes,
            smallest: file.smallest.user_key.to_vec(),
            largest: file.largest.user_key.to_vec(),
            smallest_sequence: file.smallest_sequence,
            largest_sequence: file.largest_sequence,
            entries: table.entries(),
            deletions: table.properties().deletions,
            oldest_blob_file: Some(file.oldest_blob_file_number).filter(|number| *number > 0),
        });
    }
    Ok(tables)
}
