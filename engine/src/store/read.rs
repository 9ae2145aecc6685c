//! Reading one family: what a read looks at, and the search for a key in it.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use tokio::sync::Notify;

use super::cover::Cover;
use super::error::Error;
use super::files::Files;
use super::iter::{Iter, Reads, Seek, value_of};
use super::key::{Tag, ValueKind, compare};
use super::memtable::Memtable;
use super::merge::Source;
use super::operands::MergeWith;
use super::shared::{Shared, State, WakeOnDrop};
use super::snapshot::Snapshot;
use super::table::{Caching, TableIter};
use super::version::{FileMeta, Version};

/// What a read looks at.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) sequence: u64,
    /// Newest first.
    pub(crate) memtables: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    pub(crate) merge_operator: Option<MergeWith>,
}

impl View {
    /// The family now. One that was dropped is what it was then.
    pub(crate) fn of(shared: &Shared, family: u32) -> View {
        View::in_state(&shared.state(), family).expect("a family is kept as long as somebody has it open")
    }

    /// The family at the snapshot, or now.
    pub(crate) fn at(shared: &Shared, family: u32, snapshot: Option<&Snapshot>) -> View {
        let kept = snapshot.and_then(|snapshot| snapshot.view(family));
        kept.cloned().unwrap_or_else(|| View::of(shared, family))
    }

    /// As [`View::of`]; nothing if there is none of that number.
    pub(crate) fn in_state(state: &State, family: u32) -> Option<View> {
        let open = state.families.get(family).zip(state.set.family(family));
        let open = open.map(|(open, tables)| (open.memtables(), &tables.version, &*open.options));
        let (memtables, version, options) = open.or_else(|| state.families.dropped(family))?;
        Some(View {
            sequence: state.last_sequence,
            memtables,
            version: version.clone(),
            merge_operator: options.merge_operator.clone(),
        })
    }

    /// The value of a key, now or at a snapshot.
    pub(crate) async fn get(
        &self,
        files: &Files,
        snapshot: Option<&Snapshot>,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        files.counters.gets.add(1);
        let sequence = snapshot.map_or(self.sequence, Snapshot::sequence);
        match self.memtables.iter().find_map(|mem| mem.get(key, sequence)) {
            Some((Some(ValueKind::Merge), _)) => self.get_merged(files, sequence, key).await,
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
        for file in level0.iter().chain(deeper).filter(|file| file.may_hold(key)) {
            let table = files.tables.open(file).await?;
            let covering = table.tombstones().covering(key, sequence);
            if !table.may_contain(key) {
                files.counters.filter_useful.add(1);
                if covering > 0 {
                    return Ok(None);
                }
                continue;
            }
            let mut iter = TableIter::new(table, Caching::Keep);
            if iter.seek(Seek::NotBefore(key, tag)).await? {
                let entry = iter.entry();
                if entry.user_key == key && entry.tag.sequence() >= covering {
                    if entry.tag.kind() == Some(ValueKind::Merge) {
                        return self.get_merged(files, sequence, key).await;
                    }
                    let (kind, value) = (entry.tag.kind(), entry.value.to_vec());
                    return value_of(&files.blobs, &self.version, key, kind, value).await;
                }
            }
            // What lies deeper is older than the tombstone.
            if covering > 0 {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The value of a key whose newest entry is an operand: what an iterator finds there. Boxed, as few reads come here.
    async fn get_merged(&self, files: &Files, sequence: u64, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let range = (Bound::Included(key.to_vec()), Bound::Included(key.to_vec()));
        // The view pins the files.
        let wake = WakeOnDrop(Arc::new(Notify::new()));
        let mut iter = self.range(files, wake, range, sequence);
        Ok(Box::pin(iter.next()).await?.map(|(_, value)| value))
    }

    /// Goes through a range, now or at a snapshot.
    pub(crate) fn iter(
        &self,
        files: &Files,
        wake: WakeOnDrop,
        range: impl RangeBounds<Vec<u8>>,
        snapshot: Option<&Snapshot>,
    ) -> Iter {
        let sequence = snapshot.map_or(self.sequence, Snapshot::sequence);
        self.range(files, wake, (range.start_bound().cloned(), range.end_bound().cloned()), sequence)
    }

    fn range(
        &self,
        files: &Files,
        wake: WakeOnDrop,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        sequence: u64,
    ) -> Iter {
        let mut sources: Vec<Source> = self.memtables.iter().cloned().map(Source::memtable).collect();
        sources.extend(Source::of_version(&files.tables, &self.version));
        let reads = Reads {
            sequence,
            version: self.version.clone(),
            blobs: files.blobs.clone(),
            counters: files.counters.clone(),
            merge_operator: self.merge_operator.clone(),
        };
        let cover = Cover::new(&self.memtables, &self.version, &files.tables, &bounds);
        Iter::new(bounds, reads, cover, sources, wake)
    }
}
