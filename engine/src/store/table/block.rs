//! Blocks of key-value entries with shared prefixes (7.8.3 `table/block_based/block_builder.cc`).
//!
//! An entry says how much of the previous key it shares; every so many entries that is nothing (a restart), and the offsets
//! of the restarts at the end of the block allow a binary search. [`super::data_block`] has the blocks of a table's entries.

use std::ops::Range;

use bytes::Bytes;

use crate::store::coding::{Cursor, Malformed, put_fixed32, put_varint};

/// Encodes a block.
#[derive(Clone, Debug)]
pub struct BlockBuilder {
    restart_interval: usize,
    out: Vec<u8>,
    restarts: Vec<u32>,
    since_restart: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    /// With a restart every `restart_interval` entries.
    pub fn new(restart_interval: usize) -> Self {
        assert!(restart_interval > 0);
        BlockBuilder {
            restart_interval,
            out: Vec::new(),
            restarts: vec![0],
            since_restart: 0,
            last_key: Vec::new(),
        }
    }

    /// Adds an entry; the caller keeps the order.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        if self.since_restart == self.restart_interval {
            self.restarts.push(u32::try_from(self.out.len()).expect("a block is shorter than 4 GiB"));
            self.since_restart = 0;
        }
        let shared = match self.since_restart {
            0 => 0,
            _ => key.iter().zip(&self.last_key).take_while(|(a, b)| a == b).count(),
        };
        put_varint(&mut self.out, shared as u64);
        put_varint(&mut self.out, (key.len() - shared) as u64);
        put_varint(&mut self.out, value.len() as u64);
        self.out.extend_from_slice(&key[shared..]);
        self.out.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.since_restart += 1;
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Length of the block if it ended now. Bytes.
    pub fn len_bytes(&self) -> usize {
        self.out.len() + 4 * self.restarts.len() + 4
    }

    /// Appends the block to `file` and begins a new one.
    pub fn finish(&mut self, file: &mut Vec<u8>) {
        file.append(&mut self.out);
        for restart in &self.restarts {
            put_fixed32(file, *restart);
        }
        put_fixed32(file, self.restarts.len() as u32);
        self.restarts.truncate(1);
        self.since_restart = 0;
        self.last_key.clear();
    }
}

/// The upper bits of the number of restarts: behind them are buckets, a byte each, and how many (16 bits), which lead from the hash of a
/// user key to its restart. Whoever searches does without.
const HAS_HASH_INDEX: u32 = 0b1000;
const MAX_RESTARTS: u32 = (1 << 28) - 1;

/// Where the hash index begins that ends a block.
fn hash_index_at(block: &[u8]) -> Option<usize> {
    let (before, buckets) = block.split_last_chunk::<2>()?;
    before.len().checked_sub(usize::from(u16::from_le_bytes(*buckets)))
}

/// A block that was read; its checksum is right, and nothing else is taken for granted.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Bytes,
    entries_len: usize,
    restart_count: usize,
}

impl Block {
    /// Looks at the restarts.
    pub fn new(bytes: Bytes) -> Result<Block, Malformed> {
        let malformed = |what| Malformed { offset_bytes: bytes.len() as u64, what };
        let count_at = bytes.len().checked_sub(4).ok_or(malformed("a block is too short"))?;
        let count = Cursor::new(&bytes[count_at..]).fixed32()?;
        let restarts_end = match count >> 28 {
            0 => count_at,
            HAS_HASH_INDEX => hash_index_at(&bytes[..count_at])
                .ok_or(malformed("a block has no room for its hash index"))?,
            _ => return Err(malformed("a block with flags that nobody knows")),
        };
        let restart_count = (count & MAX_RESTARTS) as usize;
        let entries_len = restarts_end
            .checked_sub(4 * restart_count)
            .ok_or(malformed("a block has no room for its restarts"))?;
        Ok(Block { bytes, entries_len, restart_count })
    }

    /// The content, with the restarts.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length of the entries, behind which the restarts are. Bytes.
    pub fn entries_len(&self) -> usize {
        self.entries_len
    }

    /// How many restarts there are.
    pub fn restart_count(&self) -> usize {
        self.restart_count
    }

    /// At the first entry.
    pub fn iter(&self) -> BlockIter {
        BlockIter { block: self.clone(), at: 0, key: Vec::new() }
    }

    /// Where restart `i` says that it is, which may be anywhere.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn restart(&self, i: usize) -> usize {
        assert!(i < self.restart_count, "restart {i} of {}", self.restart_count);
        let at = self.entries_len + 4 * i;
        let bytes = self.bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }
}

/// The begin of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// How much of the previous key it shares. Bytes.
    pub shared: usize,
    /// How much of its key follows. Bytes.
    pub unshared: usize,
    /// Length of the value. Bytes.
    pub value_len: usize,
}

impl EntryHeader {
    /// Reads one. Three small numbers, in nearly every case.
    pub fn decode(cursor: &mut Cursor<'_>) -> Result<EntryHeader, Malformed> {
        let [shared, unshared, value_len] = [cursor.varint32()?, cursor.varint32()?, cursor.varint32()?];
        let [shared, unshared, value_len] = [shared, unshared, value_len].map(|len| len as usize);
        Ok(EntryHeader { shared, unshared, value_len })
    }
}

/// A position in a block of which nothing is taken for granted.
#[derive(Clone, Debug)]
pub struct BlockIter {
    block: Block,
    at: usize,
    key: Vec<u8>,
}

impl BlockIter {
    /// Where the next entry begins.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next key and value.
    pub fn next_entry(&mut self) -> Result<Option<(&[u8], Bytes)>, Malformed> {
        let value = self.next_range()?;
        Ok(value.map(|value| (&self.key[..], self.block.bytes.slice(value))))
    }

    /// As [`BlockIter::next_entry`] without the value.
    pub fn next_key(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let value = self.next_range()?;
        Ok(value.map(|_| &self.key[..]))
    }

    fn next_range(&mut self) -> Result<Option<Range<usize>>, Malformed> {
        if self.at == self.block.entries_len {
            return Ok(None);
        }
        let base = self.at;
        let mut cursor = Cursor::new(&self.block.bytes[base..self.block.entries_len]);
        let shifted = |m: Malformed| Malformed { offset_bytes: m.offset_bytes + base as u64, ..m };
        let EntryHeader { shared, unshared, value_len } =
            EntryHeader::decode(&mut cursor).map_err(shifted)?;
        take_key(&mut self.key, shared, unshared, &mut cursor).map_err(shifted)?;
        let value = cursor.take_range(value_len).map_err(shifted)?;
        self.at = base + cursor.offset();
        Ok(Some(base + value.start..base + value.end))
    }

    /// As [`BlockIter::next_entry`] for the index of format_version 4 and 5 with delta-encoded handles: the value has no
    /// length, `read` takes it and is told whether the entry shares a prefix (and holds a delta).
    pub fn next_delta_entry<T>(
        &mut self,
        read: impl FnOnce(bool, &mut Cursor<'_>) -> Result<T, Malformed>,
    ) -> Result<Option<(&[u8], T)>, Malformed> {
        if self.at == self.block.entries_len {
            return Ok(None);
        }
        let base = self.at;
        let mut cursor = Cursor::new(&self.block.bytes[base..self.block.entries_len]);
        let shifted = |m: Malformed| Malformed { offset_bytes: m.offset_bytes + base as u64, ..m };
        let shared = cursor.varint32().map_err(shifted)? as usize;
        let unshared = cursor.varint32().map_err(shifted)? as usize;
        take_key(&mut self.key, shared, unshared, &mut cursor).map_err(shifted)?;
        let value = read(shared != 0, &mut cursor).map_err(shifted)?;
        self.at = base + cursor.offset();
        Ok(Some((&self.key, value)))
    }
}

/// Makes `key`, the one of the entry before, that of this one.
fn take_key(
    key: &mut Vec<u8>,
    shared: usize,
    unshared: usize,
    cursor: &mut Cursor<'_>,
) -> Result<(), Malformed> {
    if shared > key.len() {
        return Err(cursor.malformed("an entry shares more than the previous key has"));
    }
    let suffix = cursor.take(unshared)?;
    key.truncate(shared);
    key.extend_from_slice(suffix);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn roundtrip(maps: Vec<BTreeMap<Vec<u8>, Vec<u8>>>, interval in 1usize..20) {
            // One builder makes one block after the other.
            let mut builder = BlockBuilder::new(interval);
            for map in &maps {
                map.iter().for_each(|(key, value)| builder.add(key, value));
                let mut bytes = Vec::new();
                let expected_len = builder.len_bytes();
                builder.finish(&mut bytes);
                prop_assert_eq!(bytes.len(), expected_len);
                let mut iter = Block::new(bytes.into()).unwrap().iter();
                for (key, value) in map {
                    let (found, found_value) = iter.next_entry().unwrap().unwrap();
                    prop_assert_eq!(found, &key[..]);
                    prop_assert_eq!(&found_value[..], &value[..]);
                }
                prop_assert!(iter.next_entry().unwrap().is_none());
            }
        }

        #[test]
        fn anything_is_read_without_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..4], 0..80)) {
            if let Ok(block) = Block::new(bytes.into()) {
                let mut iter = block.iter();
                while let Ok(Some(_)) = iter.next_entry() {}
                let mut iter = block.iter();
                while let Ok(Some(_)) = iter.next_delta_entry(|_, cursor| cursor.varint64()) {}
            }
        }
    }
}
