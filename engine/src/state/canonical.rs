//! Files of a canonical savepoint: keyed state in a form that owes nothing to the store it comes from.
//!
//! ```text
//! file:   magic "CWKS", version u16 LE | block.. | index | footer
//! block:  entry.. | masked CRC-32C, u32 LE            all of one key group
//! entry:  varint length, state id u16 BE, user key | varint length, value
//! index:  postcard: for each block its key group, where it begins, how long it is, how many entries it has
//! footer: where the index begins u64 LE, its length u32 LE, its masked CRC-32C u32 LE, magic "CWKSEND1"
//! ```
//! Entries are in the order of key group, state id, key, each once. The index lets a subtask read the blocks of its own key
//! groups and no others; so what is read is checked by the sums of its blocks, not by that of the whole.
//!
//! Pure, over bytes: who writes asks for [`Writer::finish`] before a file becomes too large, who reads fetches first the footer,
//! then the index, then the blocks that it needs. Bytes that are read are hostile: lengths are believed only as far as there
//! are bytes, and order and places are checked.
//!
//! *Not modelled*: compression; more than one value for a key (a list is one value here, as it is in the store).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::key_groups::{self, PREFIX_BYTES};
use crate::checkpoint::snapshot::KeyGroupRange;

/// Length of the footer, in bytes.
pub const FOOTER_BYTES: u64 = 24;

const MAGIC: [u8; 4] = *b"CWKS";
const VERSION: u16 = 1;
const HEADER_BYTES: u64 = 6;
const END: [u8; 8] = *b"CWKSEND1";
const CHECKSUM_BYTES: usize = 4;
/// A block is closed when it has this many bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// The longest index that is read, in bytes.
const MAX_INDEX_BYTES: u32 = 64 << 20;

/// Bytes that are not what a writer writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends otherwise.
    #[error("not a file of a canonical savepoint")]
    Foreign,
    /// Written by another version of this program.
    #[error("version {found}, this program reads {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Damaged.
    #[error("{what} at byte {at_byte}: checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// Which part.
        what: &'static str,
        /// Where it begins.
        at_byte: u64,
        /// As stored.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The sums are right and the content is not: the writer was wrong.
    #[error("{what}")]
    Content {
        /// What is wrong.
        what: &'static str,
    },
}

fn content<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed::Content { what })
}

/// A value of keyed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of the key.
    pub key_group: u16,
    /// Which state of the operator.
    pub state: u16,
    /// The user's key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

impl Entry {
    /// The key under which a store keeps it.
    pub fn store_key(&self) -> Vec<u8> {
        key_groups::store_key(self.key_group, self.state, &self.key)
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHandle {
    /// Of all its entries.
    pub key_group: u16,
    /// Where it begins in the file.
    pub offset_bytes: u64,
    /// Its length with the checksum.
    pub len_bytes: u32,
    /// How many entries it has, at least one.
    pub entries: u32,
}

/// Where the index is, according to the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHandle {
    /// Where it begins in the file.
    pub offset_bytes: u64,
    /// Its length.
    pub len_bytes: u32,
    crc: u32,
}

/// Builds a file.
#[derive(Debug)]
pub struct Writer {
    file: BytesMut,
    block: BytesMut,
    entries: u32,
    key_group: u16,
    index: Vec<BlockHandle>,
    last: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        let mut file = BytesMut::new();
        file.put_slice(&MAGIC);
        file.put_u16_le(VERSION);
        let (block, index, last) = (BytesMut::new(), Vec::new(), Vec::new());
        Writer { file, block, entries: 0, key_group: 0, index, last }
    }
}

impl Writer {
    /// Appends the entry that a store keeps under `store_key`. False if that is not a key of keyed state.
    ///
    /// # Panics
    /// If entries are not in order: a store gives them in order.
    #[must_use]
    pub fn push(&mut self, store_key: &[u8], value: &[u8]) -> bool {
        let Some(key_group) = key_groups::group_of_store_key(store_key) else { return false };
        assert!(self.last.is_empty() || self.last.as_slice() < store_key, "entries in order");
        self.last = store_key.to_vec();
        if key_group != self.key_group || self.block.len() >= BLOCK_BYTES {
            self.close_block();
        }
        self.key_group = key_group;
        for part in [&store_key[2..], value] {
            put_varint(&mut self.block, part.len() as u64);
            self.block.put_slice(part);
        }
        self.entries += 1;
        true
    }

    /// About how long the file would be now, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.file.len() + self.block.len()
    }

    fn close_block(&mut self) {
        if self.entries == 0 {
            return;
        }
        let crc = masked(&self.block);
        self.block.put_u32_le(crc);
        self.index.push(BlockHandle {
            key_group: self.key_group,
            offset_bytes: self.file.len() as u64,
            len_bytes: u32::try_from(self.block.len()).expect("a block and one entry more"),
            entries: self.entries,
        });
        self.file.put_slice(&self.block.split());
        self.entries = 0;
    }

    /// The file.
    pub fn finish(mut self) -> Bytes {
        self.close_block();
        let index = postcard::to_stdvec(&self.index).expect("numbers can be encoded");
        let offset_bytes = self.file.len() as u64;
        self.file.put_slice(&index);
        self.file.put_u64_le(offset_bytes);
        self.file.put_u32_le(u32::try_from(index.len()).expect("a few bytes for each block"));
        self.file.put_u32_le(masked(&index));
        self.file.put_slice(&END);
        self.file.freeze()
    }
}

/// Where the index of a file of `file_len_bytes` is; `footer` are its last bytes.
///
/// # Errors
/// If they are not a footer, or it leads outside of the file.
pub fn read_footer(mut footer: &[u8], file_len_bytes: u64) -> Result<IndexHandle, Malformed> {
    if footer.len() as u64 != FOOTER_BYTES || !footer.ends_with(&END) {
        return Err(Malformed::Foreign);
    }
    let (offset_bytes, len_bytes) = (footer.get_u64_le(), footer.get_u32_le());
    let crc = footer.get_u32_le();
    let end = offset_bytes.checked_add(u64::from(len_bytes));
    let fits = end.and_then(|end| end.checked_add(FOOTER_BYTES)) == Some(file_len_bytes);
    if !fits || offset_bytes < HEADER_BYTES || len_bytes > MAX_INDEX_BYTES {
        return content("an index outside of the file");
    }
    Ok(IndexHandle { offset_bytes, len_bytes, crc })
}

/// The blocks of a file, in order.
///
/// # Errors
/// If `bytes` are not its index.
pub fn read_index(bytes: &[u8], handle: IndexHandle) -> Result<Vec<BlockHandle>, Malformed> {
    checked("index", bytes, handle.offset_bytes, handle.crc)?;
    let Ok((index, [])) = postcard::take_from_bytes::<Vec<BlockHandle>>(bytes) else {
        return content("an index that cannot be decoded");
    };
    let (mut next, mut key_group) = (HEADER_BYTES, 0);
    for block in &index {
        if block.offset_bytes != next || block.key_group < key_group || block.entries == 0 {
            return content("blocks that do not follow each other");
        }
        next = block.offset_bytes.saturating_add(u64::from(block.len_bytes));
        key_group = block.key_group;
    }
    if next == handle.offset_bytes { Ok(index) } else { content("blocks that do not end at the index") }
}

/// Those of the blocks that hold key groups of the range: they follow each other.
pub fn blocks_of(index: &[BlockHandle], range: KeyGroupRange) -> &[BlockHandle] {
    let from = index.partition_point(|block| block.key_group < range.first);
    let to = index.partition_point(|block| block.key_group <= range.last);
    &index[from..to.max(from)]
}

/// The entries of a block, in order.
///
/// # Errors
/// If `bytes` are not that block.
pub fn read_block(bytes: &Bytes, handle: &BlockHandle) -> Result<Vec<Entry>, Malformed> {
    let Some(len) = bytes.len().checked_sub(CHECKSUM_BYTES) else {
        return content("a block that is too short");
    };
    if bytes.len() as u64 != u64::from(handle.len_bytes) {
        return content("a block of another length");
    }
    let mut left = bytes.slice(..len);
    checked("block", &left, handle.offset_bytes, (&bytes[len..]).get_u32_le())?;
    let mut entries: Vec<Entry> = Vec::new();
    while !left.is_empty() {
        let (mut key, value) = (take_part(&mut left)?, take_part(&mut left)?);
        if key.len() < PREFIX_BYTES - 2 {
            return content("a key without a state");
        }
        let entry = Entry { key_group: handle.key_group, state: key.get_u16(), key, value };
        if entries.last().is_some_and(|last| (last.state, &last.key) >= (entry.state, &entry.key)) {
            return content("entries out of order");
        }
        entries.push(entry);
    }
    if entries.len() as u64 == u64::from(handle.entries) {
        Ok(entries)
    } else {
        content("another number of entries")
    }
}

/// All entries of a whole file, with everything checked: for tests and tools.
///
/// # Errors
/// If `file` is not one.
pub fn read_all(file: &Bytes) -> Result<Vec<Entry>, Malformed> {
    let len_bytes = file.len() as u64;
    if len_bytes < HEADER_BYTES + FOOTER_BYTES || !file.starts_with(&MAGIC) {
        return Err(Malformed::Foreign);
    }
    let found = u16::from_le_bytes([file[4], file[5]]);
    if found != VERSION {
        return Err(Malformed::Version { found });
    }
    let at = |offset_bytes: u64| usize::try_from(offset_bytes).expect("within the file");
    let handle = read_footer(&file[at(len_bytes - FOOTER_BYTES)..], len_bytes)?;
    let index = read_index(&file[at(handle.offset_bytes)..at(len_bytes - FOOTER_BYTES)], handle)?;
    let mut entries = Vec::new();
    for block in &index {
        let from = at(block.offset_bytes);
        entries.extend(read_block(&file.slice(from..from + block.len_bytes as usize), block)?);
    }
    Ok(entries)
}

fn checked(what: &'static str, bytes: &[u8], at_byte: u64, found: u32) -> Result<(), Malformed> {
    let computed = masked(bytes);
    if found == computed { Ok(()) } else { Err(Malformed::Checksum { what, at_byte, found, computed }) }
}

/// Masked as RocksDB masks its own: bytes that end with their plain CRC all have the same CRC.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_part(left: &mut Bytes) -> Result<Bytes, Malformed> {
    let mut len = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        if left.is_empty() {
            return content("a length that is cut off");
        }
        let byte = left.get_u8();
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if len <= left.len() {
                Ok(left.split_to(len))
            } else {
                content("a part that is cut off")
            };
        }
    }
    content("a length of too many bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn build(entries: &BTreeMap<(u16, u16, Vec<u8>), Vec<u8>>) -> Bytes {
        let mut writer = Writer::default();
        for ((group, state, key), value) in entries {
            assert!(writer.push(&key_groups::store_key(*group, *state, key), value));
        }
        writer.finish()
    }

    fn entries() -> impl Strategy<Value = BTreeMap<(u16, u16, Vec<u8>), Vec<u8>>> {
        let key = (0u16..6, 0u16..3, proptest::collection::vec(any::<u8>(), 0..6));
        proptest::collection::btree_map(key, proptest::collection::vec(any::<u8>(), 0..9000), 0..40)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_range_reads_its_own(entries in entries(), a in 0u16..6, b in 0u16..6) {
            let file = build(&entries);
            let read = read_all(&file).unwrap();
            let found: BTreeMap<_, _> =
                read.into_iter().map(|e| ((e.key_group, e.state, e.key.to_vec()), e.value.to_vec())).collect();
            prop_assert_eq!(&found, &entries);

            let range = KeyGroupRange { first: a.min(b), last: a.max(b) };
            let end = file.len() - FOOTER_BYTES as usize;
            let handle = read_footer(&file[end..], file.len() as u64).unwrap();
            let index = read_index(&file[handle.offset_bytes as usize..end], handle).unwrap();
            let mut within = BTreeMap::new();
            for block in blocks_of(&index, range) {
                let from = block.offset_bytes as usize;
                for e in read_block(&file.slice(from..from + block.len_bytes as usize), block).unwrap() {
                    within.insert((e.key_group, e.state, e.key.to_vec()), e.value.to_vec());
                }
            }
            let mut expected = entries;
            expected.retain(|(group, _, _), _| (range.first..=range.last).contains(group));
            prop_assert_eq!(within, expected);
        }

        #[test]
        fn damage_is_found(entries in entries(), at: proptest::sample::Index, flip in 1u8..) {
            let file = build(&entries);
            let mut damaged = file.to_vec();
            damaged[at.index(file.len())] ^= flip;
            prop_assert!(read_all(&damaged.into()).is_err());
            prop_assert!(read_all(&file.slice(..at.index(file.len()))).is_err());
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300), entries: u32, key_group: u16) {
            let bytes = Bytes::from(bytes);
            let _ = read_all(&bytes);
            let _ = read_all(&[&b"CWKS\x01\x00"[..], &bytes, &END].concat().into());
            // A right checksum around anything.
            let sealed: Bytes = [&bytes[..], &masked(&bytes).to_le_bytes()].concat().into();
            let handle = BlockHandle { key_group, offset_bytes: 6, len_bytes: sealed.len() as u32, entries };
            let _ = read_block(&sealed, &handle);
            let handle = IndexHandle { offset_bytes: 6, len_bytes: bytes.len() as u32, crc: masked(&bytes) };
            let _ = read_index(&bytes, handle);
        }
    }
}
