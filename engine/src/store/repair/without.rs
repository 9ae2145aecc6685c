//! What is left of a table whose values lie, in part, in blob files that are lost.
//!
//! The entry of a value that is lost becomes a tombstone, as new as the value was. Were it left out, the value before it would come back
//! as if it were the present one; so would it if the whole table were set aside. The key is absent then, and whoever wrote to it later
//! is read as ever. An operand that lies on a lost value is put on nothing: what it makes of the key is not what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::blob::BlobIndex;
use crate::store::error::Error;
use crate::store::filenames::FileKind;
use crate::store::iter::Seek;
use crate::store::key::{Tag, ValueKind};
use crate::store::memtable::Memtable;
use crate::store::table::{Caching, Table, TableIter};
use crate::store::version::FileMeta;

/// The entries of a table. All of it is in memory; its values in blob files are not.
#[derive(Debug, Default)]
pub(super) struct Without {
    pub(super) memtable: Arc<Memtable>,
    /// By blob file.
    pub(super) lost: BTreeMap<u64, LostValues>,
}

/// The values that a table had in a blob file that is lost.
#[derive(Debug)]
pub(super) struct LostValues {
    pub(super) count: u64,
    pub(super) first: Bytes,
    pub(super) last: Bytes,
}

impl LostValues {
    /// In words.
    pub(super) fn why(&self, blob: u64) -> String {
        let LostValues { count, first, last } = self;
        let values = if *count == 1 { "1 value".to_owned() } else { format!("{count} values") };
        format!(
            "{values} in {}, which cannot be read, of keys {} to {}: they read as deleted, and the rest is in a new table",
            FileKind::Blob(blob).name(),
            first.escape_ascii(),
            last.escape_ascii(),
        )
    }
}

/// Reads a table that was read before, and does without its values in `lost` blob files.
pub(super) async fn read(dir: &Path, meta: &FileMeta, lost: &BTreeSet<u64>) -> Result<Without, Error> {
    let path = FileKind::Table(meta.number).path(dir);
    let table = Arc::new(Table::open(&path, meta, None).await?);
    let mut without = Without::default();
    let mut iter = TableIter::new(table.clone(), Caching::Pass);
    let mut is_on_entry = iter.seek(Seek::First).await?;
    while is_on_entry {
        let entry = iter.entry();
        let key = Bytes::copy_from_slice(entry.user_key);
        let blob = match entry.tag.kind() {
            Some(ValueKind::BlobIndex) => {
                let index = BlobIndex::decode(entry.value).map_err(|m| Error::malformed(&path, 0, m))?;
                Some(index.file).filter(|file| lost.contains(file))
            }
            _ => None,
        };
        match blob {
            Some(blob) => {
                without.count(blob, &key);
                let tag = Tag::new(entry.tag.sequence(), ValueKind::Deletion);
                without.memtable.insert(key, tag, Bytes::new());
            }
            None => without.memtable.insert(key, entry.tag, Bytes::copy_from_slice(entry.value)),
        }
        is_on_entry = iter.next().await?;
    }
    for tombstone in table.tombstones_as_written().await?.iter() {
        let tag = Tag::new(tombstone.sequence, ValueKind::RangeDeletion);
        without.memtable.insert(tombstone.begin, tag, tombstone.end);
    }
    Ok(without)
}

impl Without {
    /// Keys come in their order.
    fn count(&mut self, blob: u64, key: &Bytes) {
        let first = || LostValues { count: 0, first: key.clone(), last: key.clone() };
        let values = self.lost.entry(blob).or_insert_with(first);
        values.count += 1;
        values.last = key.clone();
    }
}
