//! Encodes a table. It does no I/O: the caller writes what [`TableBuilder::take_output`] gives, in order.

use super::block::BlockBuilder;
use super::compression::Compression;
use super::filter;
use super::format::{Footer, Handle, append_trailer};
use super::properties::{self, Counts, PROPERTIES_NAME, RANGE_DELETIONS_NAME};
use crate::store::key::{InternalKey, Tag, ValueKind, append, compare, split};
use crate::store::operands::MergeWith;
use crate::store::options::FamilyOptions;
use crate::store::tombstones::RangeTombstone;
use crate::store::version::{DEFAULT_FAMILY, DEFAULT_FAMILY_NAME};

pub(super) const DATA_RESTART_INTERVAL: usize = 16;

/// What became of the entries of a table.
#[derive(Clone, Debug)]
pub struct TableStats {
    /// First key.
    pub smallest: InternalKey,
    /// Last key.
    pub largest: InternalKey,
    /// Lowest sequence number.
    pub smallest_sequence: u64,
    /// Highest sequence number.
    pub largest_sequence: u64,
    /// How many, range tombstones included.
    pub entries: u64,
    /// How many range tombstones.
    pub range_tombstones: u64,
    /// Length of the file. Bytes.
    pub file_bytes: u64,
}

/// Builds one table.
#[derive(Debug)]
pub struct TableBuilder {
    block_bytes: usize,
    bloom_bits_per_key: u32,
    out: Vec<u8>,
    taken_bytes: u64,
    data: BlockBuilder,
    index: BlockBuilder,
    hashes: Vec<u64>,
    counts: Counts,
    tombstones: BlockBuilder,
    smallest: Option<InternalKey>,
    /// Where the range tombstones end.
    ranges_end: Option<InternalKey>,
    /// The internal key added last; empty before the first.
    last_key: Vec<u8>,
    smallest_sequence: u64,
    largest_sequence: u64,
}

impl TableBuilder {
    /// For the table `file_number` of the store `store_identity`, which is to be of `level`.
    pub fn new(options: &FamilyOptions, level: usize, file_number: u64, store_identity: &str) -> Self {
        let compression = options.compression_of(level);
        let store_identity = store_identity.to_owned();
        let merge_operator = options.merge_operator.as_ref().map(MergeWith::name);
        TableBuilder {
            block_bytes: options.block_bytes,
            bloom_bits_per_key: options.bloom_bits_per_key,
            out: Vec::new(),
            taken_bytes: 0,
            data: BlockBuilder::new(DATA_RESTART_INTERVAL),
            index: BlockBuilder::new(1),
            hashes: Vec::new(),
            counts: Counts {
                compression,
                file_number,
                store_identity,
                merge_operator: merge_operator.unwrap_or("nullptr").to_owned(),
                family_id: DEFAULT_FAMILY,
                family_name: DEFAULT_FAMILY_NAME.to_owned(),
                ..Counts::default()
            },
            tombstones: BlockBuilder::new(1),
            smallest: None,
            ranges_end: None,
            last_key: Vec::new(),
            smallest_sequence: u64::MAX,
            largest_sequence: 0,
        }
    }

    /// Of this family, as its properties say; else it is of the default one.
    pub fn of_family(mut self, id: u32, name: &str) -> Self {
        (self.counts.family_id, self.counts.family_name) = (id, name.to_owned());
        self
    }

    /// Of no store yet: a table that one may ingest.
    pub fn external(mut self) -> Self {
        (self.counts.family_id, self.counts.family_name) = (properties::NO_FAMILY, String::new());
        self.counts.is_external = true;
        self
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// If it does not come after the previous one.
    pub fn add(&mut self, user_key: &[u8], tag: Tag, value: &[u8]) {
        let last = split(&self.last_key);
        if let Some((last_key, last_tag)) = last {
            assert!(compare(last_key, last_tag, user_key, tag).is_lt(), "entries of a table must ascend");
        }
        if self.bloom_bits_per_key > 0 && last.is_none_or(|(last_key, _)| last_key != user_key) {
            self.hashes.push(filter::hash(user_key));
        }
        self.last_key.clear();
        append(&mut self.last_key, user_key, tag);
        self.data.add(&self.last_key, value);
        self.smallest.get_or_insert_with(|| InternalKey { user_key: user_key.to_vec().into(), tag });
        self.count(user_key, tag, value);
        let is_tombstone = matches!(tag.kind(), Some(ValueKind::Deletion | ValueKind::SingleDeletion));
        self.counts.deletions += u64::from(is_tombstone);
        self.counts.operands += u64::from(tag.kind() == Some(ValueKind::Merge));
        if self.data.len_bytes() >= self.block_bytes {
            self.finish_data_block();
        }
    }

    /// Adds a range tombstone. They come after all entries, by where they begin; of those that begin together the newest first.
    pub fn add_range_tombstone(&mut self, tombstone: &RangeTombstone) {
        let RangeTombstone { begin, end, .. } = tombstone;
        assert!(begin < end, "a range tombstone has a key");
        let (from, to) = (tombstone.first_key(), tombstone.end_key());
        self.tombstones.add(&from.encode(), end);
        self.count(begin, from.tag, end);
        self.counts.deletions += 1;
        self.counts.range_deletions += 1;
        self.smallest = self.smallest.take().into_iter().chain([from]).min();
        self.ranges_end = self.ranges_end.take().into_iter().chain([to]).max();
    }

    fn count(&mut self, user_key: &[u8], tag: Tag, value: &[u8]) {
        self.smallest_sequence = self.smallest_sequence.min(tag.sequence());
        self.largest_sequence = self.largest_sequence.max(tag.sequence());
        self.counts.entries += 1;
        self.counts.raw_key_bytes += user_key.len() as u64 + 8;
        self.counts.raw_value_bytes += value.len() as u64;
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.counts.entries == 0
    }

    /// Length of the file if it ended now, without its end. Bytes.
    pub fn len_bytes(&self) -> u64 {
        self.position() + self.data.len_bytes() as u64
    }

    /// Bytes encoded and not yet taken.
    pub fn pending_bytes(&self) -> usize {
        self.out.len()
    }

    /// The bytes that come next in the file.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.taken_bytes += self.out.len() as u64;
        std::mem::take(&mut self.out)
    }

    /// Ends the table, and returns what is to be known of it and the last bytes of the file.
    ///
    /// # Panics
    /// If there are no entries: no table is empty.
    pub fn finish(mut self) -> (TableStats, Vec<u8>) {
        assert!(!self.is_empty(), "a table without entries");
        self.finish_data_block();
        self.counts.data_bytes = self.position();
        let mut meta = BlockBuilder::new(1);
        if self.bloom_bits_per_key > 0 {
            let filter = filter::build(&self.hashes, self.bloom_bits_per_key);
            self.counts.filter_bytes = filter.len() as u64;
            let start = self.out.len();
            self.out.extend_from_slice(&filter);
            let handle = self.seal_block(start, Compression::None);
            meta.add(filter::FILTER_NAME, &encoded(handle));
        }
        let start = self.out.len();
        self.index.finish(&mut self.out);
        let index_handle = self.seal_block(start, self.counts.compression);
        self.counts.index_bytes = index_handle.len_bytes + super::format::TRAILER_BYTES as u64;
        let start = self.out.len();
        properties::build(&self.counts, &mut self.out);
        let handle = self.seal_block(start, Compression::None);
        meta.add(PROPERTIES_NAME, &encoded(handle));
        if self.counts.range_deletions > 0 {
            let start = self.out.len();
            self.tombstones.finish(&mut self.out);
            let handle = self.seal_block(start, Compression::None);
            meta.add(RANGE_DELETIONS_NAME, &encoded(handle));
        }
        let start = self.out.len();
        meta.finish(&mut self.out);
        let meta_handle = self.seal_block(start, Compression::None);
        Footer::encode(meta_handle, index_handle, &mut self.out);
        let stats = TableStats {
            smallest: self.smallest.clone().expect("there are entries"),
            largest: InternalKey::decode(&self.last_key)
                .into_iter()
                .chain(self.ranges_end.clone())
                .max()
                .expect("there are entries"),
            smallest_sequence: self.smallest_sequence,
            largest_sequence: self.largest_sequence,
            entries: self.counts.entries,
            range_tombstones: self.counts.range_deletions,
            file_bytes: self.position(),
        };
        (stats, self.out)
    }

    fn position(&self) -> u64 {
        self.taken_bytes + self.out.len() as u64
    }

    fn finish_data_block(&mut self) {
        if self.data.is_empty() {
            return;
        }
        let start = self.out.len();
        self.data.finish(&mut self.out);
        let handle = self.seal_block(start, self.counts.compression);
        self.index.add(&self.last_key, &encoded(handle));
        self.counts.data_blocks += 1;
    }

    /// Compresses the block that begins at `start`, if that is worth it, and ends it with its trailer.
    fn seal_block(&mut self, start: usize, compression: Compression) -> Handle {
        let offset_bytes = self.taken_bytes + start as u64;
        let compressed = compression.compress(&self.out[start..]);
        let compression = if compressed.is_some() { compression } else { Compression::None };
        if let Some(block) = compressed {
            self.out.truncate(start);
            self.out.extend_from_slice(&block);
        }
        let len_bytes = (self.out.len() - start) as u64;
        append_trailer(&mut self.out, start, compression);
        Handle { offset_bytes, len_bytes }
    }
}

fn encoded(handle: Handle) -> Vec<u8> {
    let mut out = Vec::new();
    handle.encode(&mut out);
    out
}
