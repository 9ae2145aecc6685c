//! What must hold of files before they are ingested. All of every file is read, and nothing is done.
//!
//! Checked are every block against its checksum, the order of the entries and where they are, that the filter denies none; that the table was
//! made to be ingested, for this family or for none, and in our order of keys; that no entry has a sequence number, or its value in
//! a blob file; that each key is there once; that merge operands have an operator. Tables of one family must not overlap: nothing would
//! say which is newer.

use std::path::Path;
use std::sync::Arc;

use cutwater_io::fs;

use super::{Wanted, refused};
use crate::store::error::{Error, IoContext};
use crate::store::filenames::FileKind;
use crate::store::iter::Entry;
use crate::store::key::ValueKind;
use crate::store::options::FamilyOptions;
use crate::store::repair::inspect::{FoundTable, table_at};
use crate::store::shared::Shared;
use crate::store::table::Table;
use crate::store::table::properties::{EXTERNAL_TABLE_VERSION, NO_FAMILY};
use crate::store::version::FileMeta;

/// Checks all files, and returns with each what the MANIFEST is to say of it, but for its number and its sequence number. By family, and by
/// where they begin.
pub(super) async fn check_all(shared: &Shared, wanted: &[Wanted]) -> Result<Vec<(Wanted, FileMeta)>, Error> {
    if wanted.is_empty() {
        return Err(Error::InvalidRequest("no tables to ingest"));
    }
    let mut checked = Vec::new();
    for (key, path) in wanted {
        let options = shared.state().families.writable(key)?.options.clone();
        // By what is there, and not by its name, which may be another one of the same directory.
        let beside = path.with_file_name(FileKind::Current.name());
        if fs::try_exists(&beside).await.during("stat", &beside)? {
            return Err(refused(path, "it lies in the directory of a store"));
        }
        let meta = check(path, key.id, &options).await?;
        checked.push(((key.clone(), path.clone()), meta));
    }
    checked.sort_by(|((a, _), a_meta), ((b, _), b_meta)| {
        (a.id, &a_meta.smallest).cmp(&(b.id, &b_meta.smallest))
    });
    for pair in checked.windows(2) {
        let [((a, before), a_meta), ((b, path), b_meta)] = pair else { unreachable!("there are two") };
        if a.id == b.id && !a_meta.ends_before(&b_meta.smallest.user_key) {
            let what = format!("it overlaps {}, and nothing says which is newer", before.display());
            return Err(refused(path, what));
        }
    }
    Ok(checked)
}

/// Checks one file.
async fn check(path: &Path, family: u32, options: &FamilyOptions) -> Result<FileMeta, Error> {
    let mut last_key: Option<Vec<u8>> = None;
    let is_fine = |table: &Table, entry: &Entry<'_>| {
        if last_key.as_ref().is_some_and(|last| last[..] >= *entry.user_key) {
            return Err(refused(path, format!("the key {} is in it twice", entry.user_key.escape_ascii())));
        }
        if !table.may_contain(entry.user_key) {
            let what = format!("the filter denies the key {}", entry.user_key.escape_ascii());
            return Err(Error::corruption(path, 0, what));
        }
        match entry.tag.kind() {
            Some(ValueKind::Merge) if options.merge_operator.is_none() => {
                let key = entry.user_key.escape_ascii();
                return Err(refused(
                    path,
                    format!("the key {key} has an operand, and the family no operator"),
                ));
            }
            Some(ValueKind::BlobIndex) => return Err(refused(path, "it has values in blob files")),
            _ => {}
        }
        let last_key = last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(entry.user_key);
        Ok(())
    };
    let FoundTable { meta, properties, .. } = table_at(path, 0, is_fine).await?;
    match properties.external_version {
        Some(EXTERNAL_TABLE_VERSION) => {}
        None => return Err(refused(path, "it was not made to be ingested")),
        Some(version) => return Err(refused(path, format!("it is a table of version {version}"))),
    }
    match properties.global_sequence {
        Some(0) => {}
        // No checksum covers it.
        Some(number) => {
            let what = format!("its entries are said to be of write {number}: of another store, or of none");
            return Err(Error::corruption(path, 0, what));
        }
        None => return Err(refused(path, "it has no place for a sequence number")),
    }
    if let Some(other) = properties.family_id.filter(|id| *id != NO_FAMILY && *id != family) {
        return Err(refused(path, format!("it was made for the family {other}")));
    }
    if meta.largest_sequence != 0 {
        return Err(refused(path, "its entries have places among the writes of another store"));
    }
    Ok(Arc::unwrap_or_clone(meta))
}
