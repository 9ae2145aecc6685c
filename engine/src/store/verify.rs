//! Checks the whole structure on disk: what a scrubber would do.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::fs::File;

use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::iter::{Entry, Seek};
use super::key::InternalKey;
use super::table::{Caching, TableIter};
use super::tables::TableCache;
use super::version::{FileMeta, VersionSet};

/// Read at once when a whole file is checked. Bytes.
const READ_BYTES: usize = 1 << 20;

/// Checks the rules of all trees, and every block of every table against its checksum and what the MANIFEST says of it.
pub(crate) async fn verify(dir: &Path, tables: &TableCache, set: &VersionSet) -> Result<(), Error> {
    set.check().map_err(|what| Error::corruption(dir, 0, what))?;
    for (_, file) in set.files() {
        verify_table(dir, tables, file).await?;
    }
    Ok(())
}

async fn verify_table(dir: &Path, tables: &TableCache, file: &Arc<FileMeta>) -> Result<(), Error> {
    if let Some(crc32c) = file.crc32c() {
        verify_whole(dir, file, crc32c).await?;
    }
    let table = tables.open_fresh(file).await?;
    let mut iter = TableIter::new(table.clone(), Caching::Pass);
    let (mut first, mut last, mut count) = (None, None, 0u64);
    let (mut smallest, mut largest) = (u64::MAX, 0);
    let mut is_on_entry = iter.seek(Seek::First).await?;
    while is_on_entry {
        let Entry { user_key, tag, .. } = iter.entry();
        let key = InternalKey { user_key: Bytes::copy_from_slice(user_key), tag };
        if !table.may_contain(user_key) {
            return Err(mismatch(dir, file, format!("the filter denies the key {:?}", key.user_key)));
        }
        (smallest, largest) = (tag.sequence().min(smallest), tag.sequence().max(largest));
        first.get_or_insert_with(|| key.clone());
        last = Some(key);
        count += 1;
        is_on_entry = iter.next().await?;
    }
    if first.as_ref() != Some(&file.smallest) || last.as_ref() != Some(&file.largest) {
        return Err(mismatch(dir, file, "its first or last key is not that of the MANIFEST".to_owned()));
    }
    if (smallest, largest) != (file.smallest_sequence, file.largest_sequence) {
        return Err(mismatch(dir, file, format!("its sequence numbers are {smallest} to {largest}")));
    }
    match table.entries() {
        Some(stated) if stated != count => {
            Err(mismatch(dir, file, format!("{count} entries, it says {stated}")))
        }
        _ => Ok(()),
    }
}

/// Every byte of the file, those outside of blocks included.
async fn verify_whole(dir: &Path, meta: &FileMeta, expected: u32) -> Result<(), Error> {
    let path = FileKind::Table(meta.number).path(dir);
    let file = File::open(&path).await.during("open", &path)?;
    let (mut found, mut at) = (0, 0);
    let mut buffer = vec![0; READ_BYTES];
    while at < meta.len_bytes {
        let left = usize::try_from(meta.len_bytes - at).unwrap_or(usize::MAX).min(READ_BYTES);
        file.read_exact_at(&mut buffer[..left], at).await.during("read", &path)?;
        found = crc32c::crc32c_append(found, &buffer[..left]);
        at += left as u64;
    }
    match found == expected {
        true => Ok(()),
        false => {
            Err(mismatch(dir, meta, format!("its crc32c is {found:08x}, the MANIFEST says {expected:08x}")))
        }
    }
}

fn mismatch(dir: &Path, file: &FileMeta, what: String) -> Error {
    Error::corruption(&FileKind::Table(file.number).path(dir), 0, what)
}
