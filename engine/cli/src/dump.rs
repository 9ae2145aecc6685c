//! What a store consists of, and what is in one of its files.

use std::path::Path;
use std::sync::Arc;

use cutwater_engine::store::blob::BlobIndex;
use cutwater_engine::store::blob::format::{
    FOOTER_BYTES, Footer, HEADER_BYTES, Header, RECORD_HEADER_BYTES, RecordHeader,
};
use cutwater_engine::store::filenames::FileKind;
use cutwater_engine::store::key::ValueKind;
use cutwater_engine::store::table::{Caching, Table, TableIter};
use cutwater_engine::store::version::FileMeta;
use cutwater_engine::store::{Compression, ReadOnlyOptions, ReadOnlyStore, Seek};
use cutwater_io::fs;
use serde_json::json;

use super::output::{Failure, Output};
use super::{manifest, wal};

/// Shows a directory or a file.
pub(crate) async fn dump(path: &Path, mut out: Output) -> Result<(), Failure> {
    let metadata = fs::metadata(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
    if metadata.is_dir {
        store(path, &mut out).await?;
        return out.end();
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match FileKind::parse(name) {
        Some(FileKind::Table(number)) => table(path, number, metadata.len_bytes, &mut out).await?,
        Some(FileKind::Blob(_)) => blobs(path, &mut out).await?,
        Some(FileKind::Wal(_)) => wal::show_log(path, &mut out).await?,
        Some(FileKind::Manifest(_)) => return manifest::show(path, out).await,
        _ => {
            return Err(
                format!("{}: neither a table, a blob file, a log nor a MANIFEST", path.display()).into()
            );
        }
    }
    out.end()
}

async fn store(dir: &Path, out: &mut Output) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(dir, ReadOnlyOptions::default()).await?;
    let (identity, sequence, unflushed) =
        (store.identity().to_owned(), store.last_sequence(), store.unflushed_bytes());
    out.say(
        &format!("store {identity}, {sequence} writes, {unflushed} bytes only in logs"),
        &json!({ "store": identity, "last_sequence": sequence, "unflushed_bytes": unflushed }),
    )?;
    for family in store.families() {
        for (level, (tables, bytes)) in store.levels(&family)?.into_iter().enumerate() {
            if tables == 0 && level > 0 {
                continue;
            }
            let text = format!("  family {family}  level {level}  {tables} tables  {bytes} bytes");
            let json = json!({ "family": family, "level": level, "tables": tables, "bytes": bytes });
            out.say(&text, &json)?;
        }
    }
    Ok(())
}

async fn table(path: &Path, number: u64, len_bytes: u64, out: &mut Output) -> Result<(), Failure> {
    let meta = FileMeta { number, len_bytes, largest_sequence: u64::MAX, ..FileMeta::default() };
    let table = Table::open(path, &meta, None).await?;
    let entries = table.entries();
    out.say(
        &format!("table {number}  {len_bytes} bytes  {} entries", entries.unwrap_or(0)),
        &json!({ "table": number, "len_bytes": len_bytes, "entries": entries }),
    )?;
    let mut iter = TableIter::new(Arc::new(table), Caching::Pass);
    let mut is_on_entry = iter.seek(Seek::First).await?;
    while is_on_entry {
        let entry = iter.entry();
        let (key, sequence) = (out.bytes(entry.user_key), entry.tag.sequence());
        let kind = entry.tag.kind().map_or_else(|| "unknown".to_owned(), |kind| format!("{kind:?}"));
        let value = match entry.tag.kind() {
            Some(ValueKind::BlobIndex) => match BlobIndex::decode(entry.value) {
                Ok(index) => {
                    format!(
                        "in blob file {} at byte {}, {} bytes",
                        index.file, index.offset_bytes, index.value_bytes
                    )
                }
                Err(m) => format!("not a place: {}", m.what),
            },
            _ => out.bytes(entry.value),
        };
        let json = json!({ "key": key, "sequence": sequence, "kind": kind, "value": value });
        out.say(&format!("  {key} @{sequence} {kind} : {value}"), &json)?;
        is_on_entry = iter.next().await?;
    }
    Ok(())
}

async fn blobs(path: &Path, out: &mut Output) -> Result<(), Failure> {
    let data = fs::read(path).await?;
    let damaged = |at: usize, what: &str| format!("corruption in {} at byte {at}: {what}", path.display());
    let header = Header::decode(&data).map_err(|m| damaged(m.offset_bytes as usize, m.what))?;
    let end = data.len().saturating_sub(FOOTER_BYTES).max(HEADER_BYTES);
    let footer = Footer::decode(&data[end.min(data.len())..]);
    let count = footer.as_ref().ok().map(|footer| footer.count);
    let compression =
        Compression::from_u8(header.compression).map_or_else(|method| method, Compression::name);
    let text = format!(
        "blob file of family {}  {compression}  {} bytes  {}",
        header.family,
        data.len(),
        count.map_or("not finished".to_owned(), |count| format!("{count} values"))
    );
    let json = json!({
        "family": header.family,
        "compression": compression,
        "len_bytes": data.len(),
        "values": count,
    });
    out.say(&text, &json)?;
    let mut at = HEADER_BYTES;
    while at < end {
        let head =
            data.get(at..at + RECORD_HEADER_BYTES).ok_or_else(|| damaged(at, "a record is cut off"))?;
        let record = RecordHeader::decode(head).map_err(|m| damaged(at, m.what))?;
        let left = end.saturating_sub(at + RECORD_HEADER_BYTES) as u64;
        let len_bytes = record.key_bytes.checked_add(record.value_bytes).filter(|len| *len <= left);
        let len_bytes = len_bytes.ok_or_else(|| damaged(at, "a record goes past the end"))? as usize;
        let body = &data[at + RECORD_HEADER_BYTES..][..len_bytes];
        let (key, value) = body.split_at(record.key_bytes as usize);
        let is_right = record.matches(key, value);
        let (key, value_bytes) = (out.bytes(key), value.len());
        let note = if is_right { "" } else { "  WRONG CHECKSUM" };
        let json = json!({ "at_bytes": at, "key": key, "value_bytes": value_bytes, "is_right": is_right });
        out.say(&format!("  {at:>10}  {key}  {value_bytes} bytes{note}"), &json)?;
        at += RECORD_HEADER_BYTES + len_bytes;
    }
    Ok(())
}
