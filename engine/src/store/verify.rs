//! Checks the whole structure on disk: what a scrubber would do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::fs::File;

use super::blob::format::file_bytes;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::files::Files;
use super::iter::{Entry, Seek};
use super::key::{InternalKey, Tag, ValueKind};
use super::table::{Caching, TableIter};
use super::version::{BlobFile, FileMeta, VersionSet};

/// Read at once when a whole file is checked. Bytes.
pub(crate) const READ_BYTES: usize = 1 << 20;

/// What a check of the whole structure has found that is no damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Values in blob files that no table has and that do not count as garbage: their space is not given free in time. None of this
    /// engine's making.
    pub uncounted_garbage: u64,
}

/// Checks the rules of all trees; every block of every table against its checksum and what the MANIFEST says of it; every value in
/// every blob file, and that no value is counted as garbage that a table still has.
///
/// # Errors
/// The first thing that does not hold.
pub(crate) async fn verify(files: &Files, set: &VersionSet) -> Result<Verified, Error> {
    verify_each(files, set, Err).await
}

/// As [`verify`]; whatever does not hold is handed to `found`, which says whether to go on. What counts as no garbage is
/// known only if everything holds.
pub(crate) async fn verify_each(
    files: &Files,
    set: &VersionSet,
    mut found: impl FnMut(Error) -> Result<(), Error>,
) -> Result<Verified, Error> {
    let dir = &files.dir;
    set.check().map_err(|what| Error::corruption(dir, 0, what)).or_else(&mut found)?;
    let mut needed = BTreeMap::new();
    for (_, file) in set.files() {
        verify_table(files, file, &mut needed).await.or_else(&mut found)?;
    }
    let mut verified = Verified::default();
    for file in set.blobs() {
        let of_tables = needed.remove(&file.added.number).unwrap_or(0);
        match verify_blobs(files, file, of_tables).await {
            Ok(uncounted) => verified.uncounted_garbage += uncounted,
            Err(error) => found(error)?,
        }
    }
    for (number, count) in needed {
        let what = format!("tables have {count} values in it, and the MANIFEST not it");
        found(Error::corruption(&FileKind::Blob(number).path(dir), 0, what))?;
    }
    Ok(verified)
}

/// How many of its values, of which tables have `needed`, are garbage and do not count as such.
async fn verify_blobs(files: &Files, file: &BlobFile, needed: u64) -> Result<u64, Error> {
    let (kind, added) = (FileKind::Blob(file.added.number), &file.added);
    if let Some(crc32c) = added.crc32c() {
        verify_whole(&kind.path(&files.dir), file_bytes(added), crc32c).await?;
    }
    files.blobs.open_fresh(file).await?.verify(added).await?;
    let left = added.total_count - file.garbage_count;
    left.checked_sub(needed).ok_or_else(|| {
        let what = format!("tables have {needed} values in it, and all but {left} count as garbage");
        Error::corruption(&kind.path(&files.dir), 0, what)
    })
}

/// Counts in `needed` the values that it has in each blob file.
async fn verify_table(
    files: &Files,
    file: &Arc<FileMeta>,
    needed: &mut BTreeMap<u64, u64>,
) -> Result<(), Error> {
    let dir = &files.dir;
    if let Some(crc32c) = file.crc32c() {
        verify_whole(&FileKind::Table(file.number).path(dir), file.len_bytes, crc32c).await?;
    }
    let mut oldest_blob = u64::MAX;
    let table = files.tables.open_fresh(file).await?;
    let mut iter = TableIter::new(table.clone(), Caching::Pass);
    let (mut first, mut last, mut count) = (None, None, 0u64);
    let (mut smallest, mut largest) = (u64::MAX, 0);
    let mut is_on_entry = iter.seek(Seek::First).await?;
    while is_on_entry {
        let Entry { user_key, tag, value } = iter.entry();
        if tag.kind() == Some(ValueKind::BlobIndex) {
            let index = files.blobs.decode(user_key, value)?;
            *needed.entry(index.file).or_insert(0) += 1;
            oldest_blob = oldest_blob.min(index.file);
        }
        if !entry_is_read(tag) {
            let path = FileKind::Table(file.number).path(dir);
            return Err(Error::unsupported(&path, format!("an entry of type {}", tag.kind_byte())));
        }
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
    for tombstone in table.tombstones().iter() {
        let (sequence, from, to) = (tombstone.sequence, tombstone.first_key(), tombstone.end_key());
        (smallest, largest) = (sequence.min(smallest), sequence.max(largest));
        (first, last) = (first.into_iter().chain([from]).min(), last.into_iter().chain([to]).max());
    }
    count += table.range_tombstones();
    if first.as_ref() != Some(&file.smallest) || last.as_ref() != Some(&file.largest) {
        return Err(mismatch(dir, file, "its first or last key is not that of the MANIFEST".to_owned()));
    }
    let linked = file.oldest_blob_file_number;
    if oldest_blob != if linked == 0 { u64::MAX } else { linked } {
        return Err(mismatch(
            dir,
            file,
            format!("the MANIFEST says that its values are in blob files from {linked} on"),
        ));
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

/// True if reads take such an entry for something.
pub(crate) fn entry_is_read(tag: Tag) -> bool {
    use ValueKind as K;
    matches!(tag.kind(), Some(K::Value | K::BlobIndex | K::Merge | K::Deletion | K::SingleDeletion))
}

/// Every byte of the file, those outside of blocks and records included.
///
/// # Errors
/// I/O, or another checksum than `expected`.
pub(crate) async fn verify_whole(path: &Path, len_bytes: u64, expected: u32) -> Result<(), Error> {
    let found = crc32c_of(path, len_bytes).await?;
    match found == expected {
        true => Ok(()),
        false => {
            let what = format!("its crc32c is {found:08x}, the MANIFEST says {expected:08x}");
            Err(Error::corruption(path, 0, what))
        }
    }
}

/// Of the first `len_bytes` of a file.
pub(crate) async fn crc32c_of(path: &Path, len_bytes: u64) -> Result<u32, Error> {
    let file = File::open(path).await.during("open", path)?;
    let (mut found, mut at) = (0, 0);
    let mut buffer = vec![0; READ_BYTES];
    while at < len_bytes {
        let left = usize::try_from(len_bytes - at).unwrap_or(usize::MAX).min(READ_BYTES);
        file.read_exact_at(&mut buffer[..left], at).await.during("read", path)?;
        found = crc32c::crc32c_append(found, &buffer[..left]);
        at += left as u64;
    }
    Ok(found)
}

fn mismatch(dir: &Path, file: &FileMeta, what: String) -> Error {
    Error::corruption(&FileKind::Table(file.number).path(dir), 0, what)
}
