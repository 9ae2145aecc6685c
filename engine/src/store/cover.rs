//! The range tombstones that an iterator goes under.
//!
//! Those of a table may lie over keys that come from deeper levels only, where the table has no entry. So they are taken together before
//! the first move, from all tables that have some, or may have: which those are the MANIFEST says of tables of this engine, and the
//! others are opened to see.

use std::ops::Bound;
use std::sync::Arc;

use super::error::Error;
use super::memtable::Memtable;
use super::tables::TableCache;
use super::tombstones::Tombstones;
use super::version::{FileMeta, Version};

/// See the module.
#[derive(Debug)]
pub(crate) struct Cover {
    parts: Vec<Arc<Tombstones>>,
    tables: Arc<TableCache>,
    /// Those that were not looked at yet.
    files: Vec<Arc<FileMeta>>,
}

impl Cover {
    /// Of the keys within the bounds.
    pub(crate) fn new(
        memtables: &[Arc<Memtable>],
        version: &Version,
        tables: &Arc<TableCache>,
        bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>),
    ) -> Cover {
        let matters = |file: &Arc<FileMeta>| file.range_tombstones != Some(0) && touches(file, bounds);
        let files = version.files().map(|(_, file)| file).filter(|file| matters(file)).cloned().collect();
        Cover {
            parts: memtables.iter().filter_map(|mem| mem.tombstones()).collect(),
            tables: tables.clone(),
            files,
        }
    }

    /// True if there are tables to be looked at first.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.files.is_empty()
    }

    /// Looks at them.
    pub(crate) async fn complete(&mut self) -> Result<(), Error> {
        while let Some(file) = self.files.last() {
            let table = self.tables.open(file).await?;
            self.files.pop();
            if !table.tombstones().is_empty() {
                self.parts.push(table.tombstones().clone());
            }
        }
        Ok(())
    }

    /// The sequence number of the newest tombstone over the key that is not above `up_to`; 0 if there is none.
    pub(crate) fn covering(&self, key: &[u8], up_to: u64) -> u64 {
        self.parts.iter().map(|part| part.covering(key, up_to)).max().unwrap_or(0)
    }
}

/// True if the table may have a key within the bounds.
fn touches(file: &FileMeta, (start, end): &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> bool {
    let first = &file.smallest.user_key[..];
    let begins_within = match end {
        Bound::Included(last) => *first <= last[..],
        Bound::Excluded(end) => *first < end[..],
        Bound::Unbounded => true,
    };
    let ends_before = match start {
        Bound::Included(key) | Bound::Excluded(key) => file.ends_before(key),
        Bound::Unbounded => false,
    };
    begins_within && !ends_before
}
