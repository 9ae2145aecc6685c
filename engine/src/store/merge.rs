//! Sources of entries, one per memtable, table of level 0 and deeper level, and the merge of them by internal key.
//!
//! A merge goes one way; to turn round is to seek. An error of any source ends it: to go on without the source would show
//! older entries, or none, for new ones.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::iter::{Entry, Seek};
use super::key::{InternalKey, Tag, compare};
use super::memtable::Memtable;
use super::table::{Caching, TableIter};
use super::tables::TableCache;
use super::version::{FileMeta, Version};

/// Entries read from a memtable under one lock: few at first, as many seeks want no more.
const FIRST_CHUNK: usize = 8;
const MAX_CHUNK: usize = 128;

/// A position in a memtable.
#[derive(Debug)]
pub(crate) struct MemtableIter {
    mem: Arc<Memtable>,
    /// In the order of the last seek, as all moves until the next.
    chunk: Vec<(InternalKey, Bytes)>,
    at: usize,
}

impl MemtableIter {
    fn seek(&mut self, to: Seek<'_>) -> bool {
        let key = |user_key, tag| InternalKey { user_key: Bytes::copy_from_slice(user_key), tag };
        self.at = 0;
        self.chunk = match to {
            Seek::First => self.mem.chunk(Bound::Unbounded, FIRST_CHUNK),
            Seek::NotBefore(k, tag) => self.mem.chunk(Bound::Included(key(k, tag)), FIRST_CHUNK),
            Seek::Last => self.mem.chunk_back(Bound::Unbounded, FIRST_CHUNK),
            Seek::Before(k, tag) => self.mem.chunk_back(Bound::Excluded(key(k, tag)), FIRST_CHUNK),
        };
        !self.chunk.is_empty()
    }

    fn advance(&mut self, is_backward: bool) -> bool {
        self.at += 1;
        if self.at == self.chunk.len() {
            let Some((last, _)) = self.chunk.pop() else { return false };
            let limit = (2 * self.at).min(MAX_CHUNK);
            self.chunk = match is_backward {
                false => self.mem.chunk(Bound::Excluded(last), limit),
                true => self.mem.chunk_back(Bound::Excluded(last), limit),
            };
            self.at = 0;
        }
        self.at < self.chunk.len()
    }

    fn entry(&self) -> Entry<'_> {
        let (InternalKey { user_key, tag }, value) = &self.chunk[self.at];
        Entry { user_key, tag: *tag, value }
    }
}

/// A position in tables that follow each other.
#[derive(Debug)]
pub(crate) struct ChainIter {
    tables: Arc<TableCache>,
    files: Vec<Arc<FileMeta>>,
    caching: Caching,
    /// Which of the files.
    at: usize,
    table: Option<TableIter>,
}

impl ChainIter {
    async fn seek(&mut self, to: Seek<'_>) -> Result<bool, Error> {
        let count_before = |bound: fn(&FileMeta) -> &InternalKey, k: &[u8], tag| {
            let is_before = |f: &Arc<FileMeta>| compare(&bound(f).user_key, bound(f).tag, k, tag).is_lt();
            self.files.partition_point(is_before)
        };
        let first = match to {
            Seek::First => Some(0),
            Seek::NotBefore(k, tag) => Some(count_before(|f| &f.largest, k, tag)),
            Seek::Last => self.files.len().checked_sub(1),
            Seek::Before(k, tag) => count_before(|f| &f.smallest, k, tag).checked_sub(1),
        };
        let Some(first) = first.filter(|i| *i < self.files.len()) else {
            self.table = None;
            return Ok(false);
        };
        Ok(self.open(first, to).await? || self.go_on(to.is_backward()).await?)
    }

    async fn advance(&mut self, is_backward: bool) -> Result<bool, Error> {
        let Some(table) = &mut self.table else { return Ok(false) };
        let moved = if is_backward { table.prev().await? } else { table.next().await? };
        Ok(moved || self.go_on(is_backward).await?)
    }

    /// To the nearest entry of the files behind this one, in the direction of the moves.
    async fn go_on(&mut self, is_backward: bool) -> Result<bool, Error> {
        loop {
            let (next, end) = match is_backward {
                false => (self.at.checked_add(1), Seek::First),
                true => (self.at.checked_sub(1), Seek::Last),
            };
            let Some(next) = next.filter(|i| *i < self.files.len()) else {
                self.table = None;
                return Ok(false);
            };
            if self.open(next, end).await? {
                return Ok(true);
            }
        }
    }

    async fn open(&mut self, i: usize, to: Seek<'_>) -> Result<bool, Error> {
        let table = TableIter::new(self.tables.open(&self.files[i]).await?, self.caching);
        self.at = i;
        self.table.insert(table).seek(to).await
    }
}

/// Where entries come from.
#[derive(Debug)]
pub(crate) enum Source {
    Memtable(MemtableIter),
    Chain(ChainIter),
}

impl Source {
    pub(crate) fn memtable(mem: Arc<Memtable>) -> Source {
        Source::Memtable(MemtableIter { mem, chunk: Vec::new(), at: 0 })
    }

    /// Tables that are disjoint and in order.
    pub(crate) fn chain(tables: &Arc<TableCache>, files: Vec<Arc<FileMeta>>, caching: Caching) -> Source {
        Source::Chain(ChainIter { tables: tables.clone(), files, caching, at: 0, table: None })
    }

    /// All sources of a version.
    pub(crate) fn of_version(tables: &Arc<TableCache>, version: &Version) -> Vec<Source> {
        let (level0, deeper) = version.levels.split_first().expect("there is a level 0");
        let level0 = level0.iter().map(|f| vec![f.clone()]);
        let deeper = deeper.iter().filter(|files| !files.is_empty()).cloned();
        level0.chain(deeper).map(|files| Source::chain(tables, files, Caching::Keep)).collect()
    }

    async fn seek(&mut self, to: Seek<'_>) -> Result<bool, Error> {
        match self {
            Source::Memtable(iter) => Ok(iter.seek(to)),
            Source::Chain(iter) => iter.seek(to).await,
        }
    }

    async fn advance(&mut self, is_backward: bool) -> Result<bool, Error> {
        match self {
            Source::Memtable(iter) => Ok(iter.advance(is_backward)),
            Source::Chain(iter) => iter.advance(is_backward).await,
        }
    }

    /// Moves on if the next entry is in memory.
    fn step(&mut self, is_backward: bool) -> bool {
        match self {
            Source::Memtable(iter) => iter.advance(is_backward),
            Source::Chain(iter) => iter.table.as_mut().is_some_and(|table| table.step(is_backward)),
        }
    }

    /// The entry it is on; it must be on one.
    fn entry(&self) -> Entry<'_> {
        match self {
            Source::Memtable(iter) => iter.entry(),
            Source::Chain(iter) => iter.table.as_ref().expect("it is on an entry").entry(),
        }
    }
}

/// Entries of all sources in the order of internal keys, or against it.
#[derive(Debug)]
pub(crate) struct Merge {
    sources: Vec<Source>,
    /// The sources that are on an entry, as their entries follow each other.
    order: Vec<usize>,
    is_backward: bool,
}

impl Merge {
    /// On no entry yet.
    pub(crate) fn idle(sources: Vec<Source>) -> Merge {
        Merge { sources, order: Vec::new(), is_backward: false }
    }

    /// On the first entry not before the internal key, or the first of all.
    pub(crate) async fn new(sources: Vec<Source>, from: Option<(&[u8], Tag)>) -> Result<Merge, Error> {
        let mut merge = Merge::idle(sources);
        merge.seek(from.map_or(Seek::First, |(user_key, tag)| Seek::NotBefore(user_key, tag))).await?;
        Ok(merge)
    }

    /// Moves to an entry, if there is one there, and sets the direction of the moves that follow.
    pub(crate) async fn seek(&mut self, to: Seek<'_>) -> Result<(), Error> {
        self.order.clear();
        self.is_backward = to.is_backward();
        for i in 0..self.sources.len() {
            if self.sources[i].seek(to).await? {
                let place = self.order.partition_point(|other| self.precedes(*other, i));
                self.order.insert(place, i);
            }
        }
        Ok(())
    }

    /// Moves to the next entry. Of equal ones, that of the earlier source comes first.
    pub(crate) async fn advance(&mut self) -> Result<(), Error> {
        let Some(&first) = self.order.first() else { return Ok(()) };
        // Of the entries of a block only the first takes a future.
        let has_moved = self.sources[first].step(self.is_backward)
            || self.sources[first].advance(self.is_backward).await?;
        if has_moved {
            self.reorder(first);
        } else {
            self.order.remove(0);
        }
        Ok(())
    }

    /// Puts the first source, which has moved, where it is now.
    fn reorder(&mut self, first: usize) {
        // Mostly the next entry is of the same source: one comparison then.
        let mut place = 0;
        while self.order.get(place + 1).is_some_and(|other| self.precedes(*other, first)) {
            self.order[place] = self.order[place + 1];
            place += 1;
        }
        self.order[place] = first;
    }

    /// The entry it is on.
    pub(crate) fn entry(&self) -> Option<Entry<'_>> {
        self.order.first().map(|first| self.sources[*first].entry())
    }

    /// True if it goes against the order.
    pub(crate) fn is_backward(&self) -> bool {
        self.is_backward
    }

    fn precedes(&self, a: usize, b: usize) -> bool {
        let (x, y) = (self.sources[a].entry(), self.sources[b].entry());
        let order = compare(x.user_key, x.tag, y.user_key, y.tag);
        (if self.is_backward { order.reverse() } else { order }).then(a.cmp(&b)).is_lt()
    }
}
