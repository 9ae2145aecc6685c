//! Blocks of key-value entries with shared prefixes (7.8.3 `table/block_based/block_builder.cc`).
//!
//! An entry says how much of the previous key it shares; every so many entries that is nothing (a restart), and the offsets
//! of the restarts at the end of the block allow a binary search.

use bytes::Bytes;

use crate::store::coding::{Cursor, Malformed, put_fixed32, put_varint};
use crate::store::key::{Tag, compare, split};

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
        *self = BlockBuilder::new(self.restart_interval);
    }
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
        if count >> 28 != 0 {
            return Err(malformed("a block with a hash index, which is not supported"));
        }
        let restart_count = count as usize;
        let entries_len = count_at
            .checked_sub(4 * restart_count)
            .ok_or(malformed("a block has no room for its restarts"))?;
        Ok(Block { bytes, entries_len, restart_count })
    }

    /// At the first entry.
    pub fn iter(&self) -> BlockIter {
        BlockIter { block: self.clone(), at: 0, key: Vec::new() }
    }

    fn restart(&self, i: usize) -> Result<usize, Malformed> {
        let at = self.entries_len + 4 * i;
        let offset = Cursor::new(&self.bytes[at..]).fixed32()? as usize;
        if offset > self.entries_len {
            return Err(Malformed { offset_bytes: at as u64, what: "a restart is outside its block" });
        }
        Ok(offset)
    }
}

/// A position in a block.
#[derive(Clone, Debug)]
pub struct BlockIter {
    block: Block,
    at: usize,
    key: Vec<u8>,
}

impl BlockIter {
    /// The next key and value.
    pub fn next_entry(&mut self) -> Result<Option<(&[u8], Bytes)>, Malformed> {
        if self.at == self.block.entries_len {
            return Ok(None);
        }
        let base = self.at;
        let mut cursor = Cursor::new(&self.block.bytes[base..self.block.entries_len]);
        let shifted = |m: Malformed| Malformed { offset_bytes: m.offset_bytes + base as u64, ..m };
        let shared = cursor.varint32().map_err(shifted)? as usize;
        let unshared = cursor.varint32().map_err(shifted)? as usize;
        let value_len = cursor.varint32().map_err(shifted)? as usize;
        if shared > self.key.len() {
            return Err(shifted(cursor.malformed("an entry shares more than the previous key has")));
        }
        let suffix = cursor.take(unshared).map_err(shifted)?;
        let value = cursor.take_range(value_len).map_err(shifted)?;
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        self.at = base + cursor.offset();
        Ok(Some((&self.key, self.block.bytes.slice(base + value.start..base + value.end))))
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
        if shared > self.key.len() {
            return Err(shifted(cursor.malformed("an entry shares more than the previous key has")));
        }
        let suffix = cursor.take(unshared).map_err(shifted)?;
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        let value = read(shared != 0, &mut cursor).map_err(shifted)?;
        self.at = base + cursor.offset();
        Ok(Some((&self.key, value)))
    }

    /// Moves to the last restart whose key is before the internal key, from where a scan finds the first not before it.
    pub fn seek_restart(&mut self, user_key: &[u8], tag: Tag) -> Result<(), Malformed> {
        let (mut low, mut high) = (0, self.block.restart_count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let mut probe =
                BlockIter { block: self.block.clone(), at: self.block.restart(middle)?, key: Vec::new() };
            let is_before = match probe.next_entry()? {
                Some((key, _)) => match split(key) {
                    Some((k, t)) => compare(k, t, user_key, tag).is_lt(),
                    None => {
                        return Err(Malformed {
                            offset_bytes: 0,
                            what: "an internal key of less than eight bytes",
                        });
                    }
                },
                None => false,
            };
            if is_before {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.at = if self.block.restart_count == 0 { 0 } else { self.block.restart(low)? };
        self.key.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{ValueKind, append};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn roundtrip_and_seek(map: BTreeMap<Vec<u8>, Vec<u8>>, interval in 1usize..20, probe: Vec<u8>) {
            let mut builder = BlockBuilder::new(interval);
            for (key, value) in &map {
                let mut internal = Vec::new();
                append(&mut internal, key, Tag::new(7, ValueKind::Value));
                builder.add(&internal, value);
            }
            let mut bytes = Vec::new();
            let expected_len = builder.len_bytes();
            builder.finish(&mut bytes);
            prop_assert_eq!(bytes.len(), expected_len);
            let block = Block::new(bytes.into()).unwrap();
            let mut iter = block.iter();
            for (key, value) in &map {
                let (found, found_value) = iter.next_entry().unwrap().unwrap();
                prop_assert_eq!(split(found).unwrap().0, &key[..]);
                prop_assert_eq!(&found_value[..], &value[..]);
            }
            prop_assert!(iter.next_entry().unwrap().is_none());
            let tag = Tag::seek(9);
            iter.seek_restart(&probe, tag).unwrap();
            let mut found = None;
            while let Some((key, _)) = iter.next_entry().unwrap() {
                let (key, t) = split(key).unwrap();
                if compare(key, t, &probe, tag).is_ge() {
                    found = Some(key.to_vec());
                    break;
                }
            }
            prop_assert_eq!(found.as_ref(), map.range(probe..).next().map(|(k, _)| k));
        }

        #[test]
        fn anything_is_read_without_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..4], 0..80)) {
            if let Ok(block) = Block::new(bytes.into()) {
                let mut iter = block.iter();
                while let Ok(Some(_)) = iter.next_entry() {}
                let mut iter = block.iter();
                let _ = iter.seek_restart(b"k", Tag::seek(1));
                while let Ok(Some(_)) = iter.next_delta_entry(|_, cursor| cursor.varint64()) {}
            }
        }
    }
}
