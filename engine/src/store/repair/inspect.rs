//! What a file says of itself, without a MANIFEST.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::fs;

use crate::store::batch::{DecodedBatch, Record};
use crate::store::blob::BlobIndex;
use crate::store::blob::format::{FOOTER_BYTES, HEADER_BYTES, Header, RECORD_HEADER_BYTES, RecordHeader};
use crate::store::error::{Error, IoContext};
use crate::store::filenames::FileKind;
use crate::store::iter::{Entry, Seek};
use crate::store::key::{InternalKey, Tag, ValueKind};
use crate::store::log::{LogEnd, LogReader};
use crate::store::memtable::Memtable;
use crate::store::table::properties::Properties;
use crate::store::table::{Caching, Table, TableIter};
use crate::store::verify::{crc32c_of, entry_is_read};
use crate::store::version::{BlobAddition, FileMeta};

/// A table that was read to its end.
#[derive(Clone, Debug)]
pub(crate) struct FoundTable {
    pub(crate) family: u32,
    pub(crate) family_name: Option<String>,
    pub(crate) meta: Arc<FileMeta>,
    pub(crate) properties: Properties,
    /// Of each blob file, how many values it has there, and what their records take in bytes.
    pub(crate) values: BTreeMap<u64, (u64, u64)>,
}

/// A blob file that was read to its end.
#[derive(Clone, Debug)]
pub(super) struct FoundBlobs {
    pub(super) family: u32,
    pub(super) added: BlobAddition,
}

/// What of a log can be read.
#[derive(Debug, Default)]
pub(super) struct FoundLog {
    /// By family.
    pub(super) memtables: BTreeMap<u32, Arc<Memtable>>,
    /// Where records were passed over, and why.
    pub(super) skipped: Vec<(u64, String)>,
}

/// Reads a table to its end.
pub(super) async fn table(dir: &Path, number: u64) -> Result<FoundTable, Error> {
    table_at(&FileKind::Table(number).path(dir), number, |_, _| Ok(())).await
}

/// Reads the table at `path` to its end. It goes on as long as `is_fine` has no objection to an entry.
pub(crate) async fn table_at(
    path: &Path,
    number: u64,
    mut is_fine: impl FnMut(&Table, &Entry<'_>) -> Result<(), Error>,
) -> Result<FoundTable, Error> {
    let len_bytes = fs::metadata(path).await.during("stat", path)?.len_bytes;
    // Before the blocks are checked, and after: what is checked must be what the checksum is of.
    let crc32c = crc32c_of(path, len_bytes).await?;
    let open = FileMeta { number, len_bytes, largest_sequence: u64::MAX, ..FileMeta::default() };
    let table = Arc::new(Table::open(path, &open, None).await?);
    let (mut first, mut last, mut count) = (None, None, 0u64);
    let (mut smallest_sequence, mut largest_sequence) = (u64::MAX, 0);
    let mut values: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut iter = TableIter::new(table.clone(), Caching::Pass);
    let mut is_on_entry = iter.seek(Seek::First).await?;
    while is_on_entry {
        let entry = iter.entry();
        if !entry_is_read(entry.tag) {
            return Err(Error::unsupported(path, format!("an entry of type {}", entry.tag.kind_byte())));
        }
        if entry.tag.kind() == Some(ValueKind::BlobIndex) {
            let index = BlobIndex::decode(entry.value).map_err(|m| Error::malformed(path, 0, m))?;
            let (count, bytes) = values.entry(index.file).or_default();
            *count += 1;
            let record = (RECORD_HEADER_BYTES + entry.user_key.len()) as u64;
            *bytes = bytes.saturating_add(record).saturating_add(index.value_bytes);
        }
        is_fine(&table, &entry)?;
        let sequence = entry.tag.sequence();
        (smallest_sequence, largest_sequence) =
            (smallest_sequence.min(sequence), largest_sequence.max(sequence));
        let key = InternalKey { user_key: Bytes::copy_from_slice(entry.user_key), tag: entry.tag };
        first.get_or_insert_with(|| key.clone());
        last = Some(key);
        count += 1;
        is_on_entry = iter.next().await?;
    }
    for tombstone in table.tombstones_as_written().await?.iter() {
        let sequence = tombstone.sequence;
        let (from, to) = (tombstone.first_key(), tombstone.end_key());
        (smallest_sequence, largest_sequence) =
            (smallest_sequence.min(sequence), largest_sequence.max(sequence));
        (first, last) = (first.into_iter().chain([from]).min(), last.into_iter().chain([to]).max());
    }
    count += table.range_tombstones();
    let (Some(smallest), Some(largest)) = (first, last) else {
        return Err(Error::corruption(path, 0, "a table without entries"));
    };
    if let Some(stated) = table.entries().filter(|stated| *stated != count) {
        return Err(Error::corruption(path, 0, format!("{count} entries, it says {stated}")));
    }
    let oldest_blob_file_number = values.keys().next().copied().unwrap_or(0);
    let range_tombstones = Some(table.range_tombstones());
    let meta = FileMeta {
        smallest,
        largest,
        smallest_sequence,
        largest_sequence,
        oldest_blob_file_number,
        range_tombstones,
        ..open
    };
    if crc32c_of(path, len_bytes).await? != crc32c {
        return Err(Error::corruption(path, 0, "what is read of it is not the same twice"));
    }
    let meta = Arc::new(meta.with_crc32c(crc32c));
    let (family, family_name) = table.family();
    let (family_name, properties) = (family_name.map(str::to_owned), table.properties().clone());
    Ok(FoundTable { family, family_name, meta, properties, values })
}

/// Reads a blob file to its end.
pub(super) async fn blobs(dir: &Path, number: u64) -> Result<FoundBlobs, Error> {
    let path = FileKind::Blob(number).path(dir);
    let data = fs::read(&path).await.during("read", &path)?;
    let bad = |at: usize, what: &str| Error::corruption(&path, at as u64, what);
    let header = Header::decode(&data).map_err(|m| Error::malformed(&path, 0, m))?;
    header.method(&path)?;
    let end = data.len().checked_sub(FOOTER_BYTES).filter(|end| *end >= HEADER_BYTES);
    let end = end.ok_or_else(|| bad(data.len(), "it was not finished"))?;
    let footer = crate::store::blob::format::Footer::decode(&data[end..])
        .map_err(|m| Error::malformed(&path, end as u64, m))?;
    let (mut at, mut count) = (HEADER_BYTES, 0);
    while at < end {
        let head = data[at..end].get(..RECORD_HEADER_BYTES).ok_or_else(|| bad(at, "a record is cut off"))?;
        let record = RecordHeader::decode(head).map_err(|m| Error::malformed(&path, at as u64, m))?;
        let left = (end - at - RECORD_HEADER_BYTES) as u64;
        let len = record.key_bytes.checked_add(record.value_bytes).filter(|len| *len <= left);
        let len = len.ok_or_else(|| bad(at, "a record goes past the end"))? as usize;
        let (key, value) = data[at + RECORD_HEADER_BYTES..][..len].split_at(record.key_bytes as usize);
        if !record.matches(key, value) {
            return Err(bad(at, "a value with a wrong checksum"));
        }
        at += RECORD_HEADER_BYTES + len;
        count += 1;
    }
    if footer.count != count {
        return Err(bad(end, "it does not hold as many values as it says"));
    }
    let total_bytes = (end - HEADER_BYTES) as u64;
    let added = BlobAddition { number, total_count: count, total_bytes, ..BlobAddition::default() };
    Ok(FoundBlobs { family: header.family, added: added.with_crc32c(crc32c::crc32c(&data)) })
}

/// Reads what can be read of a log.
pub(super) async fn log(dir: &Path, number: u64) -> Result<FoundLog, Error> {
    let path = FileKind::Wal(number).path(dir);
    let data = fs::read(&path).await.during("read", &path)?;
    let mut reader = LogReader::new(&data, number);
    let mut found = FoundLog::default();
    loop {
        let at = reader.offset();
        let record = match reader.next_record() {
            Ok(record) => Bytes::from(record.into_owned()),
            Err(LogEnd::Clean { .. }) => return Ok(found),
            Err(LogEnd::Unsupported { offset_bytes, what }) => {
                found.skipped.push((offset_bytes, what.to_owned()));
                return Ok(found);
            }
            Err(LogEnd::Damaged(damage)) => {
                found.skipped.push((damage.record_offset_bytes, damage.what.to_owned()));
                if reader.skip_to_intact_after(damage.record_offset_bytes) {
                    continue;
                }
                return Ok(found);
            }
        };
        if let Err(what) = insert(&record, &mut found.memtables) {
            found.skipped.push((at, what));
        }
    }
}

/// The writes of one record, or none of them.
fn insert(record: &Bytes, memtables: &mut BTreeMap<u32, Arc<Memtable>>) -> Result<(), String> {
    let batch = DecodedBatch::decode(record).map_err(|m| m.what.to_owned())?;
    let is_read = |record: &Record| match record {
        Record::Entry { kind, .. } => {
            let is_range = *kind == ValueKind::RangeDeletion;
            is_range || entry_is_read(Tag::new(0, *kind)) && *kind != ValueKind::BlobIndex
        }
        Record::TwoPhase(_) => false,
        Record::LogData(_) | Record::Noop => true,
    };
    if !batch.records.iter().all(is_read) {
        return Err("a write of a kind that is not supported".to_owned());
    }
    let mut sequence = batch.first_sequence;
    for record in batch.records {
        if let Record::Entry { kind, column_family, key, value } = record {
            memtables.entry(column_family).or_default().insert(key, Tag::new(sequence, kind), value);
            sequence += 1;
        }
    }
    Ok(())
}
