//! The blob files of a version: which there are, how much is in them, and how much of that nothing needs any more.
//!
//! A table names only the lowest numbered blob file that it has values in: its *link*. It may have values in any higher one. So a
//! version keeps every blob file from the lowest that is linked on, except those without a link in which all is garbage; those
//! below it nothing can need (7.8.3 `db/version_builder.cc`, `SaveBlobFilesTo`). What a compaction read and did not write
//! again is garbage from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::edit::{BlobAddition, BlobGarbage, FileMeta, VersionEdit};

/// A blob file, and what of it nothing needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobFile {
    /// Whose values are in it.
    pub family: u32,
    /// What it was when it was finished.
    pub added: BlobAddition,
    /// So many of its values are garbage.
    pub garbage_count: u64,
    /// What their records take. Bytes.
    pub garbage_bytes: u64,
}

impl BlobFile {
    fn with_garbage(&self, more: &BlobGarbage) -> Result<BlobFile, String> {
        let sum = |a: u64, b: u64, most: u64| a.checked_add(b).filter(|sum| *sum <= most);
        let BlobFile { family, added, garbage_count, garbage_bytes } = self;
        match (
            sum(*garbage_count, more.count, added.total_count),
            sum(*garbage_bytes, more.bytes, added.total_bytes),
        ) {
            (Some(garbage_count), Some(garbage_bytes)) => {
                Ok(BlobFile { family: *family, added: added.clone(), garbage_count, garbage_bytes })
            }
            _ => Err(format!("blob file {} has more garbage than values", more.number)),
        }
    }

    fn is_all_garbage(&self) -> bool {
        self.garbage_count == self.added.total_count
    }
}

/// The blob files of a version, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobFiles(BTreeMap<u64, Arc<BlobFile>>);

impl BlobFiles {
    /// With what an edit says of them. What is not needed any more is still there: see [`BlobFiles::keep_needed`].
    pub(super) fn apply(&self, edit: &VersionEdit) -> Result<BlobFiles, String> {
        let mut next = self.clone();
        for added in &edit.blob_additions {
            let (family, added) = (edit.column_family, added.clone());
            let number = added.number;
            let file = BlobFile { family, added, garbage_count: 0, garbage_bytes: 0 };
            if next.0.insert(number, Arc::new(file)).is_some() {
                return Err(format!("blob file {number} is added twice"));
            }
        }
        for garbage in &edit.blob_garbage {
            let file = next.0.get_mut(&garbage.number);
            let file =
                file.ok_or_else(|| format!("garbage in blob file {}, which is not there", garbage.number))?;
            *file = Arc::new(file.with_garbage(garbage)?);
        }
        Ok(next)
    }

    /// Lets go of those that none of these tables can need.
    pub(super) fn keep_needed<'a>(&mut self, tables: impl Iterator<Item = &'a FileMeta>) {
        let linked: BTreeSet<u64> = links(tables).map(|(_, blob)| blob).collect();
        let Some(&lowest) = linked.first() else { return self.0.clear() };
        self.0.retain(|number, file| linked.contains(number) || *number > lowest && !file.is_all_garbage());
    }

    /// Checks that what the tables name is there.
    pub(super) fn check<'a>(&self, tables: impl Iterator<Item = &'a FileMeta>) -> Result<(), String> {
        for (table, blob) in links(tables) {
            match self.0.get(&blob) {
                None => return Err(format!("table {table} needs blob file {blob}, which is not there")),
                Some(file) if file.is_all_garbage() => {
                    return Err(format!("table {table} needs blob file {blob}, in which all is garbage"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A blob file.
    pub fn get(&self, number: u64) -> Option<&Arc<BlobFile>> {
        self.0.get(&number)
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<BlobFile>> + ExactSizeIterator {
        self.0.values()
    }

    /// Says the same to a version without blob files.
    pub(super) fn snapshot(&self, edit: &mut VersionEdit) {
        for file in self.iter() {
            edit.blob_additions.push(file.added.clone());
            if file.garbage_count > 0 {
                let (count, bytes) = (file.garbage_count, file.garbage_bytes);
                edit.blob_garbage.push(BlobGarbage { number: file.added.number, count, bytes });
            }
        }
    }
}

/// The tables that have values in blob files, each with the lowest of those.
fn links<'a>(tables: impl Iterator<Item = &'a FileMeta>) -> impl Iterator<Item = (u64, u64)> {
    tables
        .filter(|table| table.oldest_blob_file_number != 0)
        .map(|table| (table.number, table.oldest_blob_file_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(number: u64) -> BlobAddition {
        BlobAddition { number, total_count: 10, total_bytes: 1000, ..BlobAddition::default() }
    }

    fn table(number: u64, oldest_blob_file_number: u64) -> FileMeta {
        FileMeta { number, oldest_blob_file_number, ..FileMeta::default() }
    }

    fn with(numbers: &[u64], garbage: &[(u64, u64)]) -> Result<BlobFiles, String> {
        let blob_additions = numbers.iter().copied().map(added).collect();
        let blob_garbage = garbage
            .iter()
            .map(|&(number, count)| BlobGarbage { number, count, bytes: count * 100 })
            .collect();
        BlobFiles::default().apply(&VersionEdit { blob_additions, blob_garbage, ..VersionEdit::default() })
    }

    fn kept(blobs: &BlobFiles, tables: &[FileMeta]) -> Vec<u64> {
        let mut blobs = blobs.clone();
        blobs.keep_needed(tables.iter());
        blobs.iter().map(|file| file.added.number).collect()
    }

    #[test]
    fn a_blob_file_stays_as_long_as_a_table_can_need_it() {
        let blobs = with(&[3, 5, 7, 9], &[(7, 10), (9, 4)]).unwrap();
        assert_eq!(kept(&blobs, &[table(1, 5), table(2, 0)]), [5, 9], "the table may have values in 9");
        assert_eq!(kept(&blobs, &[table(1, 3), table(2, 7)]), [3, 5, 7, 9]);
        assert_eq!(kept(&blobs, &[table(2, 0)]), [0; 0]);
    }

    #[test]
    fn what_edits_cannot_say_is_refused() {
        assert_eq!(with(&[3, 3], &[]).unwrap_err(), "blob file 3 is added twice");
        assert_eq!(with(&[3], &[(4, 1)]).unwrap_err(), "garbage in blob file 4, which is not there");
        assert_eq!(with(&[3], &[(3, 6), (3, 5)]).unwrap_err(), "blob file 3 has more garbage than values");
        let blobs = with(&[3, 4], &[(4, 10)]).unwrap();
        let check = |blob| blobs.check([table(1, blob)].iter());
        assert_eq!(check(3), Ok(()));
        assert_eq!(check(2).unwrap_err(), "table 1 needs blob file 2, which is not there");
        assert_eq!(check(4).unwrap_err(), "table 1 needs blob file 4, in which all is garbage");
    }

    #[test]
    fn a_snapshot_gives_them_back() {
        let blobs = with(&[3, 5], &[(5, 2)]).unwrap();
        let mut edit = VersionEdit::default();
        blobs.snapshot(&mut edit);
        assert_eq!(BlobFiles::default().apply(&edit), Ok(blobs));
    }
}
