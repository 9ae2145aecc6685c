//! Reads a table. The index and the filter are kept in memory. Data blocks are read when asked for, unless the cache has
//! them, and each block's checksum is verified every time it is read from the file.
//!
//! A checksum says that a block is whole, not that it is the one that was asked for: a write that went astray leaves whole
//! blocks in the wrong place (RocksDB's format 6 mixes the place into the checksum; this is format 5). So every entry must
//! also lie between the separators that the index has for its block, and among the sequence numbers that the MANIFEST has
//! for the table.

use std::ops::{Bound, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::fs::File;
use cutwater_io::sometimes;

use super::block::Block;
use super::cache::BlockCache;
use super::compression::Compression;
use super::data_block::{BlockCursor, DataBlock, Place, with_sequence};
use super::filter::{FILTER_NAME, Filter};
use super::format::{FOOTER_BYTES, Footer, Handle, TRAILER_BYTES, check_trailer};
use super::properties::{
    DICTIONARY_NAME, NO_FAMILY, PROPERTIES_NAME, Properties, RANGE_DELETIONS_NAME, global_sequence_at,
};
use crate::store::coding::{Cursor, Malformed, unzigzag};
use crate::store::error::{Error, IoContext};
use crate::store::iter::{Entry, Seek};
use crate::store::key::{InternalKey, MAX_SEQUENCE, Tag, ValueKind, compare, split};
use crate::store::points;
use crate::store::tombstones::{RangeTombstone, Tombstones};
use crate::store::verify::verify_whole;
use crate::store::version::{DEFAULT_FAMILY, FileMeta};

/// What range tombstones over each other may take in memory: places of one over a span, beyond 16 for each.
const MAX_PLACES: usize = 1 << 20;

/// What a stray write puts in the wrong place at most. Bytes.
const STRAY_BYTES: u64 = 1 << 20;

/// An open table.
#[derive(Debug)]
pub struct Table {
    number: u64,
    file: File,
    path: PathBuf,
    len_bytes: u64,
    /// What the MANIFEST says its entries have.
    sequences: RangeInclusive<u64>,
    footer: Footer,
    properties: Properties,
    /// All entries have this sequence number, whatever they say.
    ingested_as: Option<u64>,
    index: Vec<IndexEntry>,
    filter: Option<Filter>,
    tombstones: Arc<Tombstones>,
    /// How many they were before they were cut.
    range_tombstones: u64,
    /// Where they are.
    tombstones_at: Option<Handle>,
    cache: Option<Arc<BlockCache>>,
}

/// A data block, and a key not before any of its keys.
#[derive(Clone, Debug)]
struct IndexEntry {
    separator: InternalKey,
    handle: Handle,
}

impl Table {
    /// Opens the table at `path`, which must be the one that `meta` describes. Without a cache each block is read from the
    /// file whenever it is needed.
    ///
    /// # Errors
    /// I/O, damage, or a feature that is not supported.
    pub async fn open(path: &Path, meta: &FileMeta, cache: Option<Arc<BlockCache>>) -> Result<Table, Error> {
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
            number: meta.number,
            file,
            path,
            len_bytes,
            sequences: meta.smallest_sequence..=meta.largest_sequence,
            footer,
            properties: Properties::default(),
            ingested_as: None,
            index: Vec::new(),
            filter: None,
            tombstones: Arc::default(),
            range_tombstones: 0,
            tombstones_at: None,
            cache,
        };
        table.read_meta(meta).await?;
        table.check_number(meta).await?;
        table.ingested_as = table.ingested_as(meta)?;
        table.index = table.read_index().await?;
        Ok(table)
    }

    /// How many entries it says it has.
    pub fn entries(&self) -> Option<u64> {
        self.properties.entries
    }

    /// The id of the family that it was written for, and its name, if it says so; else it is taken for the default one's.
    pub fn family(&self) -> (u32, Option<&str>) {
        let Properties { family_id, family_name, .. } = &self.properties;
        let id = family_id.filter(|id| *id != NO_FAMILY).unwrap_or(DEFAULT_FAMILY);
        (id, family_name.as_deref())
    }

    /// What it says of itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// False only if the key is not in it.
    pub fn may_contain(&self, user_key: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_contain(user_key))
    }

    /// How many range tombstones it has, as they were written.
    pub fn range_tombstones(&self) -> u64 {
        self.range_tombstones
    }

    /// Its range tombstones as they were written, for who does not know how far it reaches.
    pub(crate) async fn tombstones_as_written(&self) -> Result<Tombstones, Error> {
        let Some(handle) = self.tombstones_at else { return Ok(Tombstones::default()) };
        let block = self.block(handle).await?;
        let reach = (Bytes::new(), Bound::Unbounded);
        Ok(self.check(handle, self.range_tombstones_of(&block, reach))?.0)
    }

    /// Its range tombstones, no further than it reaches.
    pub fn tombstones(&self) -> &Arc<Tombstones> {
        &self.tombstones
    }

    async fn read_meta(&mut self, meta: &FileMeta) -> Result<(), Error> {
        let metaindex = self.block(self.footer.metaindex).await?;
        let mut has_properties = false;
        let mut iter = metaindex.iter();
        while let Some((name, value)) = self.check(self.footer.metaindex, iter.next_entry())? {
            let handle = self.check(self.footer.metaindex, Handle::decode(&mut Cursor::new(&value)))?;
            match name {
                PROPERTIES_NAME => {
                    self.properties = self.read_properties(handle).await?;
                    has_properties = true;
                }
                FILTER_NAME => self.filter = Filter::new(self.read(handle).await?),
                DICTIONARY_NAME => return Err(Error::unsupported(&self.path, "a compression dictionary")),
                RANGE_DELETIONS_NAME => {
                    let block = self.block(handle).await?;
                    // The properties come before, by their name.
                    self.ingested_as = self.ingested_as(meta)?;
                    let reach = (meta.smallest.user_key.clone(), meta.end());
                    let (tombstones, count) = self.check(handle, self.range_tombstones_of(&block, reach))?;
                    (self.tombstones, self.range_tombstones) = (tombstones.into(), count);
                    self.tombstones_at = Some(handle);
                }
                _ => {}
            }
        }
        if !has_properties && self.footer.format_version >= 3 {
            let at = self.footer.metaindex.offset_bytes;
            return Err(Error::corruption(&self.path, at, "a table without properties"));
        }
        if let Some(expected) = meta.range_tombstones.filter(|expected| *expected != self.range_tombstones) {
            let what =
                format!("it has {} range tombstones, the MANIFEST says {expected}", self.range_tombstones);
            return Err(Error::corruption(&self.path, self.footer.metaindex.offset_bytes, what));
        }
        match self.properties.unsupported {
            Some(what) => Err(Error::unsupported(&self.path, what)),
            None => Ok(()),
        }
    }

    /// The range tombstones in the block, and how many these are: others write them uncut.
    fn range_tombstones_of(
        &self,
        block: &Block,
        (from, to): (Bytes, Bound<&[u8]>),
    ) -> Result<(Tombstones, u64), Malformed> {
        let bad = |what| Malformed { offset_bytes: 0, what };
        let (mut tombstones, mut count, mut places) = (Tombstones::default(), 0, 0);
        let mut iter = block.iter();
        while let Some((key, end)) = iter.next_entry()? {
            let (begin, tag) =
                split(key).ok_or_else(|| bad("a range tombstone without a sequence number"))?;
            let sequence = self.ingested_as.unwrap_or(tag.sequence());
            if tag.kind() != Some(ValueKind::RangeDeletion) {
                return Err(bad("something else among the range tombstones"));
            }
            if !self.sequences.contains(&sequence) {
                return Err(bad("a range tombstone is not among the sequence numbers of its table"));
            }
            let (begin, end) = (Bytes::copy_from_slice(begin), Bytes::copy_from_slice(&end));
            places += tombstones.insert(RangeTombstone { begin, end, sequence }.within(&from, to));
            count += 1;
            if places > MAX_PLACES + 16 * count {
                return Err(bad("too many range tombstones lie over each other"));
            }
        }
        Ok((tombstones, count as u64))
    }

    async fn read_properties(&self, handle: Handle) -> Result<Properties, Error> {
        let mut bytes = self.fetch(handle).await?;
        let content = Bytes::copy_from_slice(&bytes[..bytes.len() - TRAILER_BYTES]);
        let global_sequence_at = global_sequence_at(&content);
        if let Some(at) = global_sequence_at.clone().filter(|_| self.is_broken(&bytes)) {
            bytes[at].fill(0);
        }
        let block = self.check(handle, Block::new(self.content(handle, bytes)?))?;
        let mut properties = self.check(handle, Properties::decode(&block))?;
        if let Some(at) = global_sequence_at {
            properties.global_sequence = Some(self.check(handle, Cursor::new(&content[at]).fixed64())?);
        }
        Ok(properties)
    }

    /// The sequence number of all entries, if the table was ingested. No checksum covers it, so it must be what the MANIFEST says.
    fn ingested_as(&self, meta: &FileMeta) -> Result<Option<u64>, Error> {
        let in_manifest = (meta.smallest_sequence == meta.largest_sequence).then_some(meta.largest_sequence);
        match (self.properties.global_sequence, in_manifest) {
            (Some(number), _) if number > MAX_SEQUENCE => {
                let what = format!("its entries are said to be of write {number}, which is none");
                Err(Error::corruption(&self.path, self.footer.metaindex.offset_bytes, what))
            }
            (Some(number), Some(expected)) if number != 0 && number != expected => {
                let what =
                    format!("its entries are said to be of write {number}, the MANIFEST says {expected}");
                Err(Error::corruption(&self.path, self.footer.metaindex.offset_bytes, what))
            }
            (Some(0), _) => Ok(in_manifest),
            (number, _) => Ok(number),
        }
    }

    /// A whole table can have been written over another of its length, if both are as small as what one stray write damages. A table
    /// of another number may also have been imported; then it is as a whole what the MANIFEST says.
    async fn check_number(&self, meta: &FileMeta) -> Result<(), Error> {
        match (self.properties.original_number, meta.crc32c()) {
            (Some(original), Some(crc32c)) if original != meta.number && self.len_bytes <= STRAY_BYTES => {
                verify_whole(&self.path, self.len_bytes, crc32c).await
            }
            _ => Ok(()),
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

    /// The first data block that can hold entries not before the internal key.
    fn block_of(&self, user_key: &[u8], tag: Tag) -> usize {
        let is_before =
            |e: &IndexEntry| compare(&e.separator.user_key, e.separator.tag, user_key, tag).is_lt();
        self.index.partition_point(is_before)
    }

    /// Data block `i`, if the cache has it.
    fn cached_block(&self, i: usize) -> Option<DataBlock> {
        self.cache.as_ref()?.get((self.number, self.index[i].handle.offset_bytes))
    }

    /// Data block `i`, from the file.
    async fn data_block(&self, i: usize, caching: Caching) -> Result<DataBlock, Error> {
        let handle = self.index[i].handle;
        let mut block = self.block(handle).await?;
        if let Some(sequence) = self.ingested_as {
            block = self.check(handle, with_sequence(&block, sequence))?;
        }
        let after = i.checked_sub(1).map(|before| &self.index[before].separator);
        let place = Place { after, up_to: &self.index[i].separator, sequences: &self.sequences };
        let block = self.check(handle, DataBlock::new(block, &place))?;
        if let (Some(cache), Caching::Keep) = (&self.cache, caching) {
            cache.insert((self.number, handle.offset_bytes), &block);
        }
        Ok(block)
    }

    /// The content of a block.
    async fn read(&self, handle: Handle) -> Result<Bytes, Error> {
        let bytes = self.fetch(handle).await?;
        self.content(handle, bytes)
    }

    /// A block with its trailer, as it is in the file.
    async fn fetch(&self, handle: Handle) -> Result<Vec<u8>, Error> {
        let bad = |what: &str| Error::corruption(&self.path, handle.offset_bytes, what);
        handle.end_within(self.len_bytes).ok_or_else(|| bad("a block is said to be outside the file"))?;
        let len = usize::try_from(handle.len_bytes).map_err(|_| bad("a block is said to be too long"))?;
        let mut bytes = vec![0; len + TRAILER_BYTES];
        self.file.read_exact_at(&mut bytes, handle.offset_bytes).await.during("read", &self.path)?;
        Ok(bytes)
    }

    fn is_broken(&self, block: &[u8]) -> bool {
        check_trailer(block, self.footer.checksum).is_err()
    }

    /// The content of a block with its trailer.
    fn content(&self, handle: Handle, mut bytes: Vec<u8>) -> Result<Bytes, Error> {
        let checked = check_trailer(&bytes, self.footer.checksum);
        sometimes!(points::BLOCK_REFUSED, checked.is_err());
        let len = self.check(handle, checked)?;
        let compression = Compression::from_u8(bytes[len])
            .map_err(|method| Error::unsupported(&self.path, format!("a block compressed with {method}")))?;
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

/// Whether blocks that had to be read stay in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// They may be wanted again.
    Keep,
    /// They are read once, and would only drive others out.
    Pass,
}

/// A position in a table: on an entry after a move that says so. Behind either end there is no way back but to seek.
#[derive(Debug)]
pub struct TableIter {
    table: Arc<Table>,
    caching: Caching,
    /// Which data block, and where in it.
    at: Option<(usize, BlockCursor)>,
}

impl TableIter {
    /// On no entry.
    pub fn new(table: Arc<Table>, caching: Caching) -> Self {
        TableIter { table, caching, at: None }
    }

    /// Moves to an entry, if there is one there.
    pub async fn seek(&mut self, to: Seek<'_>) -> Result<bool, Error> {
        let blocks = self.table.index.len();
        self.at = None;
        match to {
            Seek::First => self.first_from(0).await,
            Seek::Last => self.last_before(blocks).await,
            Seek::NotBefore(user_key, tag) => {
                let i = self.table.block_of(user_key, tag);
                if i == blocks {
                    return Ok(false);
                }
                let cursor = self.load(i).await?;
                Ok(cursor.seek(user_key, tag) || self.first_from(i + 1).await?)
            }
            Seek::Before(user_key, tag) => {
                let i = self.table.block_of(user_key, tag);
                if i == blocks {
                    return self.last_before(blocks).await;
                }
                let cursor = self.load(i).await?;
                Ok(cursor.seek_before(user_key, tag) || self.last_before(i).await?)
            }
        }
    }

    /// Moves on inside of its block, which is in memory. False if that takes [`TableIter::next`] or [`TableIter::prev`].
    pub fn step(&mut self, is_backward: bool) -> bool {
        let step = |(_, cursor): &mut (usize, BlockCursor)| {
            if is_backward { cursor.retreat() } else { cursor.advance() }
        };
        self.at.as_mut().is_some_and(step)
    }

    /// Moves to the next entry.
    pub async fn next(&mut self) -> Result<bool, Error> {
        let Some((i, cursor)) = &mut self.at else { return Ok(false) };
        if cursor.advance() {
            return Ok(true);
        }
        let next = *i + 1;
        self.first_from(next).await
    }

    /// Moves to the entry before.
    pub async fn prev(&mut self) -> Result<bool, Error> {
        let Some((i, cursor)) = &mut self.at else { return Ok(false) };
        if cursor.retreat() {
            return Ok(true);
        }
        let i = *i;
        self.last_before(i).await
    }

    /// The entry it is on.
    ///
    /// # Panics
    /// If the last move found none.
    pub fn entry(&self) -> Entry<'_> {
        let (_, cursor) = self.at.as_ref().expect("the last move found an entry");
        let (user_key, tag) = cursor.key();
        Entry { user_key, tag, value: cursor.value() }
    }

    /// To the first entry of block `i` or of those behind it.
    async fn first_from(&mut self, i: usize) -> Result<bool, Error> {
        for i in i..self.table.index.len() {
            if self.load(i).await?.first() {
                return Ok(true);
            }
        }
        self.at = None;
        Ok(false)
    }

    /// To the last entry of the blocks before `i`.
    async fn last_before(&mut self, i: usize) -> Result<bool, Error> {
        for i in (0..i).rev() {
            if self.load(i).await?.last() {
                return Ok(true);
            }
        }
        self.at = None;
        Ok(false)
    }

    async fn load(&mut self, i: usize) -> Result<&mut BlockCursor, Error> {
        self.at = None;
        // The future that reads is large, and would make those of all moves large, which are copied about at each.
        let block = match self.table.cached_block(i) {
            Some(block) => block,
            None => Box::pin(self.table.data_block(i, self.caching)).await?,
        };
        Ok(&mut self.at.insert((i, block.cursor())).1)
    }
}
