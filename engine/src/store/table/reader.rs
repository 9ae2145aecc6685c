//! Reads a table. The index and the filter are kept in memory, data blocks are read when asked for, and each block's
//! checksum is verified every time it is read.
//!
//! A checksum says that a block is whole, not that it is the one that was asked for: a write that went astray leaves whole
//! blocks in the wrong place (RocksDB's format 6 mixes the place into the checksum; this is format 5). So every entry must
//! also lie between the separators that the index has for its block, and among the sequence numbers that the MANIFEST has
//! for the table.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::fs::File;
use cutwater_io::sometimes;

use super::block::{Block, BlockIter};
use super::compression::Compression;
use super::filter::{FILTER_NAME, Filter};
use super::format::{FOOTER_BYTES, Footer, Handle, TRAILER_BYTES, check_trailer};
use super::properties::{DICTIONARY_NAME, PROPERTIES_NAME, Properties, RANGE_DELETIONS_NAME};
use crate::store::coding::{Cursor, Malformed, unzigzag};
use crate::store::error::{Error, IoContext};
use crate::store::iter::Entry;
use crate::store::key::{InternalKey, Tag, compare, split};
use crate::store::points;
use crate::store::version::FileMeta;

/// An open table.
#[derive(Debug)]
pub struct Table {
    file: File,
    path: PathBuf,
    len_bytes: u64,
    /// What the MANIFEST says its entries have.
    sequences: RangeInclusive<u64>,
    footer: Footer,
    properties: Properties,
    index: Vec<IndexEntry>,
    filter: Option<Filter>,
}

/// A data block, and a key not before any of its keys.
#[derive(Clone, Debug)]
struct IndexEntry {
    separator: InternalKey,
    handle: Handle,
}

impl Table {
    /// Opens the table at `path`, which must be the one that `meta` describes.
    ///
    /// # Errors
    /// I/O, damage, or a feature that is not supported.
    pub async fn open(path: &Path, meta: &FileMeta) -> Result<Table, Error> {
        let len_bytes = meta.len_bytes;
        let file = File::open(path).await.during("open", path)?;
        let actual = file.len().await.during("stat", path)?;
        if actual != len_bytes {
            let what = format!("the file has {actual} bytes, the MANIFEST says {len_bytes}");
            return Err(Error::corruption(path, actual.min(len_bytes), what));
        }
        let footer_at = len_bytes
            .checked_sub(FOOTER_BYTES as u64)
            .ok_or_else(|| Error::corruption(path, 0, "the file is too short for a table"))?;
        let mut bytes = [0; FOOTER_BYTES];
        file.read_exact_at(&mut bytes, footer_at).await.during("read", path)?;
        let footer = Footer::decode(&bytes).map_err(|m| Error::malformed(path, footer_at, m))?;
        let path = path.to_owned();
        let mut table = Table {
            file,
            path,
            len_bytes,
            sequences: meta.smallest_sequence..=meta.largest_sequence,
            footer,
            properties: Properties::default(),
            index: Vec::new(),
            filter: None,
        };
        table.read_meta().await?;
        table.index = table.read_index().await?;
        Ok(table)
    }

    /// How many entries it says it has.
    pub fn entries(&self) -> Option<u64> {
        self.properties.entries
    }

    /// False only if the key is not in it.
    pub fn may_contain(&self, user_key: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(user_key))
    }

    async fn read_meta(&mut self) -> Result<(), Error> {
        let metaindex = self.block(self.footer.metaindex).await?;
        let mut has_properties = false;
        let mut iter = metaindex.iter();
        while let Some((name, value)) = self.check(self.footer.metaindex, iter.next_entry())? {
            let handle = self.check(self.footer.metaindex, Handle::decode(&mut Cursor::new(&value)))?;
            match name {
                PROPERTIES_NAME => {
                    let block = self.block(handle).await?;
                    self.properties = self.check(handle, Properties::decode(&block))?;
                    has_properties = true;
                }
                FILTER_NAME => self.filter = Filter::new(self.read(handle).await?),
                DICTIONARY_NAME => return Err(Error::unsupported(&self.path, "a compression dictionary")),
                RANGE_DELETIONS_NAME => return Err(Error::unsupported(&self.path, "range tombstones")),
                _ => {}
            }
        }
        if !has_properties && self.footer.format_version >= 3 {
            let at = self.footer.metaindex.offset_bytes;
            return Err(Error::corruption(&self.path, at, "a table without properties"));
        }
        match self.properties.unsupported {
            Some(what) => Err(Error::unsupported(&self.path, what)),
            None => Ok(()),
        }
    }

    async fn read_index(&self) -> Result<Vec<IndexEntry>, Error> {
        let at = self.footer.index;
        let block = self.block(at).await?;
        let mut iter = block.iter();
        let mut index: Vec<IndexEntry> = Vec::new();
        loop {
            let previous = index.last().map(|entry| entry.handle);
            let next = if self.properties.index_value_is_delta {
                iter.next_delta_entry(|is_delta, cursor| delta_handle(is_delta, previous, cursor))
            } else {
                let entry = iter.next_entry();
                entry.and_then(|e| e.map(|(k, v)| Ok((k, Handle::decode(&mut Cursor::new(&v))?))).transpose())
            };
            let Some((key, handle)) = self.check(at, next)? else { break };
            let separator = match self.properties.index_key_is_user_key {
                // No entry of that user key comes after it: as an internal key it is the last there can be.
                true => Some(InternalKey { user_key: Bytes::copy_from_slice(key), tag: Tag(0) }),
                false => InternalKey::decode(key),
            };
            let separator = separator.ok_or_else(|| {
                Error::corruption(&self.path, at.offset_bytes, "an index key of less than eight bytes")
            })?;
            index.push(IndexEntry { separator, handle });
        }
        if index.windows(2).any(|pair| pair[0].separator >= pair[1].separator) {
            return Err(Error::corruption(
                &self.path,
                at.offset_bytes,
                "the keys of the index do not ascend",
            ));
        }
        Ok(index)
    }

    /// True if data block `i` may hold such an entry.
    fn belongs(&self, i: usize, user_key: &[u8], tag: Tag) -> bool {
        let order = |of: &IndexEntry| compare(user_key, tag, &of.separator.user_key, of.separator.tag);
        let is_behind = i.checked_sub(1).is_none_or(|before| order(&self.index[before]).is_gt());
        is_behind && order(&self.index[i]).is_le() && self.sequences.contains(&tag.sequence())
    }

    /// The content of a block.
    async fn read(&self, handle: Handle) -> Result<Bytes, Error> {
        let bad = |what: &str| Error::corruption(&self.path, handle.offset_bytes, what);
        handle.end_within(self.len_bytes).ok_or_else(|| bad("a block is said to be outside the file"))?;
        let len = usize::try_from(handle.len_bytes).map_err(|_| bad("a block is said to be too long"))?;
        let mut bytes = vec![0; len + TRAILER_BYTES];
        self.file.read_exact_at(&mut bytes, handle.offset_bytes).await.during("read", &self.path)?;
        let checked = check_trailer(&bytes, self.footer.checksum);
        sometimes!(points::BLOCK_REFUSED, checked.is_err());
        let len = self.check(handle, checked)?;
        let compression =
            Compression::from_u8(bytes[len]).map_err(|what| Error::unsupported(&self.path, what))?;
        bytes.truncate(len);
        if compression != Compression::None {
            bytes = self.check(handle, compression.decompress(&bytes))?;
        }
        Ok(bytes.into())
    }

    async fn block(&self, handle: Handle) -> Result<Block, Error> {
        let bytes = self.read(handle).await?;
        self.check(handle, Block::new(bytes))
    }

    fn check<T>(&self, handle: Handle, result: Result<T, Malformed>) -> Result<T, Error> {
        result.map_err(|m| Error::malformed(&self.path, handle.offset_bytes, m))
    }
}

fn delta_handle(
    is_delta: bool,
    previous: Option<Handle>,
    cursor: &mut Cursor<'_>,
) -> Result<Handle, Malformed> {
    let bad = cursor.malformed("a delta-encoded handle has no predecessor");
    if !is_delta {
        return Handle::decode(cursor);
    }
    let delta = unzigzag(cursor.varint64()?);
    let Some(previous) = previous else { return Err(bad) };
    let offset_bytes =
        previous.offset_bytes.checked_add(previous.len_bytes).and_then(|end| end.checked_add(5));
    let len_bytes = previous.len_bytes.checked_add_signed(delta);
    offset_bytes.zip(len_bytes).map(|(offset_bytes, len_bytes)| Handle { offset_bytes, len_bytes }).ok_or(bad)
}

/// A position in a table.
#[derive(Debug)]
pub struct TableIter {
    table: Arc<Table>,
    next_block: usize,
    block: Option<(Handle, BlockIter)>,
    /// The first entry that a seek found.
    found: Option<Entry>,
    last: Option<(Bytes, Tag)>,
}

impl TableIter {
    /// Before the first entry.
    pub fn new(table: Arc<Table>) -> Self {
        TableIter { table, next_block: 0, block: None, found: None, last: None }
    }

    /// Moves to before the first entry that is not before the internal key.
    pub async fn seek(&mut self, user_key: &[u8], tag: Tag) -> Result<(), Error> {
        let is_before =
            |e: &IndexEntry| compare(&e.separator.user_key, e.separator.tag, user_key, tag).is_lt();
        self.next_block = self.table.index.partition_point(is_before);
        (self.block, self.found, self.last) = (None, None, None);
        if self.load_block().await? {
            let (handle, iter) = self.block.as_mut().expect("it was just loaded");
            let handle = *handle;
            let moved = iter.seek_restart(user_key, tag);
            self.table.check(handle, moved)?;
        }
        while let Some(entry) = self.next().await? {
            if compare(&entry.user_key, entry.tag, user_key, tag).is_ge() {
                self.found = Some(entry);
                break;
            }
        }
        Ok(())
    }

    /// The next entry.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        if let Some(entry) = self.found.take() {
            return Ok(Some(entry));
        }
        loop {
            if let Some((handle, iter)) = &mut self.block {
                let handle = *handle;
                let next = self.table.check(handle, iter.next_entry())?;
                if let Some((key, value)) = next {
                    let Some((user_key, tag)) = split(key) else {
                        let what = "an internal key of less than eight bytes";
                        return Err(Error::corruption(&self.table.path, handle.offset_bytes, what));
                    };
                    if self.last.as_ref().is_some_and(|(k, t)| compare(k, *t, user_key, tag).is_ge()) {
                        let what = "the entries of a table do not ascend";
                        return Err(Error::corruption(&self.table.path, handle.offset_bytes, what));
                    }
                    if !self.table.belongs(self.next_block - 1, user_key, tag) {
                        let what = "a whole block that belongs elsewhere";
                        return Err(Error::corruption(&self.table.path, handle.offset_bytes, what));
                    }
                    let user_key = Bytes::copy_from_slice(user_key);
                    self.last = Some((user_key.clone(), tag));
                    return Ok(Some(Entry { user_key, tag, value }));
                }
            }
            if !self.load_block().await? {
                return Ok(None);
            }
        }
    }

    async fn load_block(&mut self) -> Result<bool, Error> {
        let Some(entry) = self.table.index.get(self.next_block) else {
            self.block = None;
            return Ok(false);
        };
        let handle = entry.handle;
        self.block = Some((handle, self.table.block(handle).await?.iter()));
        self.next_block += 1;
        Ok(true)
    }
}
