//! Ordered reading: one source per memtable, table of level 0 and deeper level, merged by internal key, and on top of that
//! the user's [`Iter`], which shows of each key the newest entry its snapshot can see.
//!
//! An error of any source ends the merge: to go on without it would show older entries, or none, for new ones.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::key::{InternalKey, Tag, ValueKind, compare};
use super::memtable::Memtable;
use super::shared::WakeOnDrop;
use super::table::TableIter;
use super::tables::TableCache;
use super::version::{FileMeta, Version};

/// Entries read from a memtable under one lock.
const MEMTABLE_CHUNK: usize = 64;

/// An entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the user calls it.
    pub user_key: Bytes,
    /// Which write of it.
    pub tag: Tag,
    /// The value; empty for a tombstone.
    pub value: Bytes,
}

/// A position in a memtable.
#[derive(Debug)]
pub(crate) struct MemtableIter {
    mem: Arc<Memtable>,
    from: Bound<InternalKey>,
    chunk: std::vec::IntoIter<(InternalKey, Bytes)>,
}

impl MemtableIter {
    fn next(&mut self) -> Option<Entry> {
        if self.chunk.len() == 0 {
            let chunk = self.mem.chunk(self.from.clone(), MEMTABLE_CHUNK);
            self.from = Bound::Excluded(chunk.last()?.0.clone());
            self.chunk = chunk.into_iter();
        }
        let (InternalKey { user_key, tag }, value) = self.chunk.next()?;
        Some(Entry { user_key, tag, value })
    }
}

/// A position in tables that follow each other.
#[derive(Debug)]
pub(crate) struct ChainIter {
    tables: Arc<TableCache>,
    files: Vec<Arc<FileMeta>>,
    next_file: usize,
    table: Option<TableIter>,
}

impl ChainIter {
    async fn seek(&mut self, user_key: &[u8], tag: Tag) -> Result<(), Error> {
        let is_before =
            |f: &Arc<FileMeta>| compare(&f.largest.user_key, f.largest.tag, user_key, tag).is_lt();
        self.next_file = self.files.partition_point(is_before);
        self.table = None;
        if self.open_next().await?
            && let Some(table) = &mut self.table
        {
            table.seek(user_key, tag).await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some(table) = &mut self.table
                && let Some(entry) = table.next().await?
            {
                return Ok(Some(entry));
            }
            if !self.open_next().await? {
                return Ok(None);
            }
        }
    }

    async fn open_next(&mut self) -> Result<bool, Error> {
        let Some(file) = self.files.get(self.next_file) else {
            self.table = None;
            return Ok(false);
        };
        self.table = Some(TableIter::new(self.tables.open(file).await?));
        self.next_file += 1;
        Ok(true)
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
        Source::Memtable(MemtableIter { mem, from: Bound::Unbounded, chunk: Vec::new().into_iter() })
    }

    /// Tables that are disjoint and in order.
    pub(crate) fn chain(tables: &Arc<TableCache>, files: Vec<Arc<FileMeta>>) -> Source {
        Source::Chain(ChainIter { tables: tables.clone(), files, next_file: 0, table: None })
    }

    /// All sources of a version.
    pub(crate) fn of_version(tables: &Arc<TableCache>, version: &Version) -> Vec<Source> {
        let (level0, deeper) = version.levels.split_first().expect("there is a level 0");
        let level0 = level0.iter().map(|f| vec![f.clone()]);
        let deeper = deeper.iter().filter(|files| !files.is_empty()).cloned();
        level0.chain(deeper).map(|files| Source::chain(tables, files)).collect()
    }

    async fn seek(&mut self, user_key: &[u8], tag: Tag) -> Result<(), Error> {
        match self {
            Source::Memtable(iter) => {
                let key = InternalKey { user_key: Bytes::copy_from_slice(user_key), tag };
                iter.from = Bound::Included(key);
                iter.chunk = Vec::new().into_iter();
                Ok(())
            }
            Source::Chain(iter) => iter.seek(user_key, tag).await,
        }
    }

    async fn next(&mut self) -> Result<Option<Entry>, Error> {
        match self {
            Source::Memtable(iter) => Ok(iter.next()),
            Source::Chain(iter) => iter.next().await,
        }
    }
}

/// Entries of all sources in the order of internal keys.
#[derive(Debug)]
pub(crate) struct Merge {
    sources: Vec<(Source, Option<Entry>)>,
}

impl Merge {
    /// From the first entry not before the internal key, or from the beginning.
    pub(crate) async fn new(sources: Vec<Source>, from: Option<(&[u8], Tag)>) -> Result<Merge, Error> {
        let mut heads = Vec::with_capacity(sources.len());
        for mut source in sources {
            if let Some((user_key, tag)) = from {
                source.seek(user_key, tag).await?;
            }
            let head = source.next().await?;
            heads.push((source, head));
        }
        Ok(Merge { sources: heads })
    }

    /// The next entry. Of equal ones, that of the earlier source comes first.
    pub(crate) async fn next(&mut self) -> Result<Option<Entry>, Error> {
        let heads =
            self.sources.iter().enumerate().filter_map(|(i, (_, head))| head.as_ref().map(|head| (i, head)));
        let first = heads.min_by(|(_, a), (_, b)| compare(&a.user_key, a.tag, &b.user_key, b.tag));
        let Some((i, _)) = first else { return Ok(None) };
        let (source, head) = &mut self.sources[i];
        let following = source.next().await?;
        Ok(std::mem::replace(head, following))
    }
}

/// Goes forward through the keys of a range, as of one moment. It pins what it reads; a store that was closed in between
/// can no longer protect the files, and the iterator then may end with an I/O error.
#[derive(Debug)]
pub struct Iter {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    sequence: u64,
    pending: Option<Vec<Source>>,
    merge: Option<Merge>,
    last_key: Option<Bytes>,
    _version: Arc<Version>,
    _wake: WakeOnDrop,
}

impl Iter {
    pub(crate) fn new(
        (start, end): (Bound<Vec<u8>>, Bound<Vec<u8>>),
        sequence: u64,
        sources: Vec<Source>,
        version: Arc<Version>,
        wake: WakeOnDrop,
    ) -> Iter {
        let (pending, merge, last_key) = (Some(sources), None, None);
        Iter { start, end, sequence, pending, merge, last_key, _version: version, _wake: wake }
    }

    /// The next key and its value, or nothing at the end of the range. After an error there is nothing more.
    ///
    /// # Errors
    /// I/O, damage, or a kind of entry that is not supported.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        let result = self.advance().await;
        if !matches!(result, Ok(Some(_))) {
            self.merge = None;
        }
        result
    }

    async fn advance(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        if let Some(sources) = self.pending.take() {
            // An excluded start: behind all of its entries.
            let from = match &self.start {
                Bound::Included(key) => Some((&key[..], Tag(u64::MAX))),
                Bound::Excluded(key) => Some((&key[..], Tag(0))),
                Bound::Unbounded => None,
            };
            self.merge = Some(Merge::new(sources, from).await?);
        }
        let Some(merge) = &mut self.merge else { return Ok(None) };
        while let Some(entry) = merge.next().await? {
            let is_inside = match &self.end {
                Bound::Included(end) => entry.user_key <= *end,
                Bound::Excluded(end) => entry.user_key < *end,
                Bound::Unbounded => true,
            };
            if !is_inside {
                return Ok(None);
            }
            let is_excluded = matches!(&self.start, Bound::Excluded(start) if entry.user_key == *start);
            let is_older = self.last_key.as_ref() == Some(&entry.user_key);
            if is_excluded || is_older || entry.tag.sequence() > self.sequence {
                continue;
            }
            self.last_key = Some(entry.user_key.clone());
            if let Some(value) = visible_value(entry.tag.kind(), entry.value)? {
                return Ok(Some((entry.user_key.to_vec(), value.to_vec())));
            }
        }
        Ok(None)
    }
}

/// What the newest entry of a key means: its value, or that there is none.
pub(crate) fn visible_value(kind: Option<ValueKind>, value: Bytes) -> Result<Option<Bytes>, Error> {
    match kind {
        Some(ValueKind::Value) => Ok(Some(value)),
        Some(ValueKind::Deletion | ValueKind::SingleDeletion) => Ok(None),
        other => Err(Error::unsupported(std::path::Path::new("an entry"), format!("value type {other:?}"))),
    }
}
