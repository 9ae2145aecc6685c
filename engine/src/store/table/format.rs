//! Handles, block trailers and the footer (7.8.3 `table/format.cc`).

use super::compression::Compression;
use crate::store::coding::{Cursor, Malformed, mask_crc, put_fixed32, put_fixed64, put_varint};

/// Compression type and checksum after each block. Bytes.
pub const TRAILER_BYTES: usize = 5;
/// Length of the footer. Bytes.
pub const FOOTER_BYTES: usize = 53;
/// Last eight bytes of a block-based table.
pub const MAGIC: u64 = 0x88e2_41b7_85f4_cff7;
/// What we write.
pub const FORMAT_VERSION: u32 = 5;

const HANDLES_BYTES: usize = 40;

/// Where a block is: offset and length without its trailer, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handle {
    /// Of its first byte.
    pub offset_bytes: u64,
    /// Without the trailer.
    pub len_bytes: u64,
}

impl Handle {
    /// Appends the encoding.
    pub fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset_bytes);
        put_varint(out, self.len_bytes);
    }

    /// Reads one.
    pub fn decode(cursor: &mut Cursor<'_>) -> Result<Handle, Malformed> {
        Ok(Handle { offset_bytes: cursor.varint64()?, len_bytes: cursor.varint64()? })
    }

    /// The end of the block with its trailer, if that is at most `limit_bytes`.
    pub fn end_within(self, limit_bytes: u64) -> Option<u64> {
        let end = self.offset_bytes.checked_add(self.len_bytes)?.checked_add(TRAILER_BYTES as u64)?;
        (end <= limit_bytes).then_some(end)
    }
}

/// How blocks are checked. RocksDB can also write none (type 0); such a table cannot be told from a damaged one, and a single
/// flipped bit in the footer, which has no checksum itself, would turn all checks off. So it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Masked crc32c.
    Crc32c,
    /// Low half of XXH3-64.
    Xxh3,
}

impl Checksum {
    /// The checksum of a block and the byte that names its compression.
    pub fn of(self, block: &[u8], compression: u8) -> u32 {
        match self {
            Checksum::Crc32c => mask_crc(crc32c::crc32c_append(crc32c::crc32c(block), &[compression])),
            Checksum::Xxh3 => {
                let low = xxhash_rust::xxh3::xxh3_64(block) as u32;
                low ^ u32::from(compression).wrapping_mul(0x6b90_83d9)
            }
        }
    }

    fn from_u8(byte: u8) -> Option<Checksum> {
        match byte {
            1 => Some(Checksum::Crc32c),
            4 => Some(Checksum::Xxh3),
            _ => None,
        }
    }
}

/// The end of a table, from which all else is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// How blocks are checked.
    pub checksum: Checksum,
    /// 2 to 5.
    pub format_version: u32,
    /// Names other meta blocks.
    pub metaindex: Handle,
    /// Names the data blocks.
    pub index: Handle,
}

impl Footer {
    /// Appends the encoding; always with crc32c and [`FORMAT_VERSION`], as nothing else is written.
    pub fn encode(metaindex: Handle, index: Handle, out: &mut Vec<u8>) {
        out.push(1);
        let start = out.len();
        metaindex.encode(out);
        index.encode(out);
        out.resize(start + HANDLES_BYTES, 0);
        put_fixed32(out, FORMAT_VERSION);
        put_fixed64(out, MAGIC);
    }

    /// Reads the last [`FOOTER_BYTES`] of a table.
    pub fn decode(bytes: &[u8]) -> Result<Footer, Malformed> {
        let at = |offset_bytes, what| Malformed { offset_bytes, what };
        if bytes.len() != FOOTER_BYTES {
            return Err(at(0, "the file is too short for a table"));
        }
        let mut end = Cursor::new(&bytes[FOOTER_BYTES - 12..]);
        let format_version = end.fixed32()?;
        if end.fixed64()? != MAGIC {
            return Err(at(FOOTER_BYTES as u64 - 8, "not the magic number of a block-based table"));
        }
        if !(2..=FORMAT_VERSION).contains(&format_version) {
            return Err(at(FOOTER_BYTES as u64 - 12, "a format_version other than 2 to 5"));
        }
        let checksum = Checksum::from_u8(bytes[0]).ok_or(at(0, "an unknown checksum type, or none"))?;
        let mut handles = Cursor::new(&bytes[..=HANDLES_BYTES]);
        handles.u8()?;
        let metaindex = Handle::decode(&mut handles)?;
        let index = Handle::decode(&mut handles)?;
        Ok(Footer { checksum, format_version, metaindex, index })
    }
}

/// Checks a block that was read with its trailer, and returns its length without. The byte there names its compression.
///
/// # Errors
/// If the checksum does not match.
pub fn check_trailer(block: &[u8], checksum: Checksum) -> Result<usize, Malformed> {
    let len = block
        .len()
        .checked_sub(TRAILER_BYTES)
        .ok_or(Malformed { offset_bytes: 0, what: "a block has no trailer" })?;
    let (content, trailer) = block.split_at(len);
    let stored = Cursor::new(&trailer[1..]).fixed32()?;
    if checksum.of(content, trailer[0]) != stored {
        return Err(Malformed { offset_bytes: 0, what: "a block's checksum does not match" });
    }
    Ok(len)
}

/// Appends a block's trailer to the block that begins at `start`.
pub fn append_trailer(out: &mut Vec<u8>, start: usize, compression: Compression) {
    let checksum = Checksum::Crc32c.of(&out[start..], compression.to_u8());
    out.push(compression.to_u8());
    put_fixed32(out, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn footer_roundtrip(a: u64, b: u64, c: u64, d: u64) {
            let (metaindex, index) = (Handle { offset_bytes: a, len_bytes: b }, Handle { offset_bytes: c, len_bytes: d });
            let mut out = Vec::new();
            Footer::encode(metaindex, index, &mut out);
            let expected = Footer { checksum: Checksum::Crc32c, format_version: 5, metaindex, index };
            prop_assert_eq!(Footer::decode(&out), Ok(expected));
        }

        #[test]
        fn anything_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut padded = bytes.clone();
            padded.resize(FOOTER_BYTES - 12, 0xff);
            put_fixed32(&mut padded, 5);
            put_fixed64(&mut padded, MAGIC);
            let _ = Footer::decode(&padded);
            let _ = Footer::decode(&bytes);
            let _ = check_trailer(&bytes, Checksum::Crc32c);
        }

        #[test]
        fn a_changed_byte_of_a_block_is_noticed(content: Vec<u8>, at: prop::sample::Index, xor in 1u8..) {
            let mut block = content;
            append_trailer(&mut block, 0, Compression::Lz4);
            prop_assert_eq!(check_trailer(&block, Checksum::Crc32c), Ok(block.len() - TRAILER_BYTES));
            let at = at.index(block.len());
            block[at] ^= xor;
            prop_assert!(check_trailer(&block, Checksum::Crc32c).is_err());
        }
    }
}
