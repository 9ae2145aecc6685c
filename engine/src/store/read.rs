//! Reading one family: what a read looks at, and the search for a key in it.

use std::ops::RangeBounds;
use std::sync::Arc;

use super::error::Error;
use super::families::OpenFamily;
use super::files::Files;
use super::iter::{Iter, Seek, value_of};
use super::key::{Tag, compare};
use super::memtable::Memtable;
use super::merge::Source;
use super::shared::{Shared, WakeOnDrop};
use super::snapshot::Snapshot;
use super::table::{Caching, TableIter};
use super::version::{FileMeta, Version};

/// What a read looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) sequence: u64,
    /// Newest first.
    pub(crate) memtables: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
}

impl View {
    /// The family now. One that was dropped is what it was then.
    pub(crate) fn of(shared: &Shared, family: u32) -> View {
        let state = shared.state();
        let open = state.families.get(family).map(OpenFamily::memtables);
        let open = open.and_then(|memtables| Some((memtables, &state.set.family(family)?.version)));
        let found = open.or_else(|| state.families.dropped(family));
        let (memtables, version) = found.expect("a family is kept as long as somebody has it open");
        View { sequence: state.last_sequence, memtables, version: version.clone() }
    }

    /// The value of a key, now or at a snapshot.
    pub(crate) async fn get(
        &self,
        files: &Files,
        snapshot: Option<&Snapshot>,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let sequence = snapshot.map_or(self.sequence, Snapshot::sequence);
        match self.memtables.iter().find_map(|mem| mem.get(key, sequence)) {
            Some((kind, value)) => value_of(&files.blobs, &self.version, key, kind, value.to_vec()).await,
            None => self.get_in_tables(files, sequence, key).await,
        }
    }

    async fn get_in_tables(
        &self,
        files: &Files,
        sequence: u64,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let tag = Tag::seek(sequence);
        let (level0, deeper) = self.version.levels.split_first().expect("there is a level 0");
        let is_before = |f: &Arc<FileMeta>| compare(&f.largest.user_key, f.largest.tag, key, tag).is_lt();
        let deeper = deeper.iter().filter_map(|files| files.get(files.partition_point(is_before)));
        let may_hold = |f: &&Arc<FileMeta>| f.smallest.user_key[..] <= *key && *key <= f.largest.user_key[..];
        for file in level0.iter().chain(deeper).filter(may_hold) {
            let table = files.tables.open(file).await?;
            if !table.may_contain(key) {
                continue;
            }
            let mut iter = TableIter::new(table, Caching::Keep);
            if iter.seek(Seek::NotBefore(key, tag)).await? {
                let entry = iter.entry();
                if entry.user_key == key {
                    let (kind, value) = (entry.tag.kind(), entry.value.to_vec());
                    return value_of(&files.blobs, &self.version, key, kind, value).await;
                }
            }
        }
        Ok(None)
    }

    /// Goes through a range, now or at a snapshot.
    pub(crate) fn iter(
        self,
        files: &Files,
        wake: WakeOnDrop,
        range: impl RangeBounds<Vec<u8>>,
        snapshot: Option<&Snapshot>,
    ) -> Iter {
        let sequence = snapshot.map_or(self.sequence, Snapshot::sequence);
        let mut sources: Vec<Source> = self.memtables.into_iter().map(Source::memtable).collect();
        sources.extend(Source::of_version(&files.tables, &self.version));
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        Iter::new(bounds, sequence, sources, self.version, files.blobs.clone(), wake)
    }
}
