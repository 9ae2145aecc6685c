//! Encodes a table. It does no I/O: the caller writes what [`TableBuilder::take_output`] gives, in order.

use bytes::Bytes;

use super::block::BlockBuilder;
use super::filter;
use super::format::{Footer, Handle, append_trailer};
use super::properties::{self, Counts, PROPERTIES_NAME};
use crate::store::key::{InternalKey, Tag, ValueKind, append, compare};
use crate::store::options::Options;

const DATA_RESTART_INTERVAL: usize = 16;

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
    /// How many.
    pub entries: u64,
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
    smallest: Option<InternalKey>,
    largest: Option<InternalKey>,
    smallest_sequence: u64,
    largest_sequence: u64,
    scratch: Vec<u8>,
}

impl TableBuilder {
    /// For the table `file_number` of the store `store_identity`.
    pub fn new(options: &Options, file_number: u64, store_identity: &str) -> Self {
        TableBuilder {
            block_bytes: options.block_bytes,
            bloom_bits_per_key: options.bloom_bits_per_key,
            out: Vec::new(),
            taken_bytes: 0,
            data: BlockBuilder::new(DATA_RESTART_INTERVAL),
            index: BlockBuilder::new(1),
            hashes: Vec::new(),
            counts: Counts { file_number, store_identity: store_identity.to_owned(), ..Counts::default() },
            smallest: None,
            largest: None,
            smallest_sequence: u64::MAX,
            largest_sequence: 0,
            scratch: Vec::new(),
        }
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// If it does not come after the previous one.
    pub fn add(&mut self, user_key: &Bytes, tag: Tag, value: &[u8]) {
        if let Some(last) = &self.largest {
            let order = compare(&last.user_key, last.tag, user_key, tag);
            assert!(order.is_lt(), "entries of a table must ascend");
        }
        if self.bloom_bits_per_key > 0 && self.largest.as_ref().is_none_or(|last| last.user_key != *user_key)
        {
            self.hashes.push(filter::hash(user_key));
        }
        self.scratch.clear();
        append(&mut self.scratch, user_key, tag);
        self.data.add(&self.scratch, value);
        let key = InternalKey { user_key: user_key.clone(), tag };
        self.smallest.get_or_insert_with(|| key.clone());
        self.largest = Some(key);
        self.smallest_sequence = self.smallest_sequence.min(tag.sequence());
        self.largest_sequence = self.largest_sequence.max(tag.sequence());
        self.counts.entries += 1;
        self.counts.raw_key_bytes += self.scratch.len() as u64;
        self.counts.raw_value_bytes += value.len() as u64;
        let is_tombstone = matches!(tag.kind(), Some(ValueKind::Deletion | ValueKind::SingleDeletion));
        self.counts.deletions += u64::from(is_tombstone);
        if self.data.len_bytes() >= self.block_bytes {
            self.finish_data_block();
        }
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
            let handle = self.append_block(|out| out.extend_from_slice(&filter));
            meta.add(filter::FILTER_NAME, &encoded(handle));
        }
        let mut index = self.index.clone();
        let index_handle = self.append_block(|out| index.finish(out));
        self.counts.index_bytes = index_handle.len_bytes + super::format::TRAILER_BYTES as u64;
        let counts = self.counts.clone();
        let handle = self.append_block(|out| properties::build(&counts, out));
        meta.add(PROPERTIES_NAME, &encoded(handle));
        let meta_handle = self.append_block(|out| meta.finish(out));
        Footer::encode(meta_handle, index_handle, &mut self.out);
        let stats = TableStats {
            smallest: self.smallest.clone().expect("there are entries"),
            largest: self.largest.clone().expect("there are entries"),
            smallest_sequence: self.smallest_sequence,
            largest_sequence: self.largest_sequence,
            entries: self.counts.entries,
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
        let last_key = self.data.last_key().to_vec();
        let mut data = std::mem::replace(&mut self.data, BlockBuilder::new(DATA_RESTART_INTERVAL));
        let handle = self.append_block(|out| data.finish(out));
        self.index.add(&last_key, &encoded(handle));
        self.counts.data_blocks += 1;
    }

    fn append_block(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Handle {
        let offset_bytes = self.position();
        let start = self.out.len();
        encode(&mut self.out);
        let len_bytes = (self.out.len() - start) as u64;
        append_trailer(&mut self.out, start);
        Handle { offset_bytes, len_bytes }
    }
}

fn encoded(handle: Handle) -> Vec<u8> {
    let mut out = Vec::new();
    handle.encode(&mut out);
    out
}
