//! The parts of a blob file, and what a table holds in the place of a value (7.8.3 `db/blob/blob_log_format.h`,
//! `db/blob/blob_index.h`).
//!
//! A file is a header, records, and a footer. A record is a fixed part, the key and the value; the fixed part has a checksum of
//! itself and one of key and value. A file without a footer was not finished, and no edit names it.
//!
//! Expirations are read as far as they say that there is none: files with any belong to another engine of RocksDB.

use std::path::Path;

use crate::store::coding::{
    Cursor, Malformed, mask_crc, masked_crc32c, put_fixed32, put_fixed64, put_varint,
};
use crate::store::error::Error;
use crate::store::table::Compression;
use crate::store::version::BlobAddition;

/// Length of the header. Bytes.
pub const HEADER_BYTES: usize = 30;
/// Length of the fixed part of a record, before key and value. Bytes.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Length of the footer. Bytes.
pub const FOOTER_BYTES: usize = 32;

const MAGIC: u32 = 0x0024_8f37;
const VERSION: u32 = 1;
/// A blob that lies in a file. (Types 0 and 2 have an expiration.)
const INDEX_KIND: u8 = 1;

/// Length of the file that an edit adds, in bytes; it saturates for what no file can have.
pub fn file_bytes(file: &BlobAddition) -> u64 {
    file.total_bytes.saturating_add((HEADER_BYTES + FOOTER_BYTES) as u64)
}

/// The beginning of a blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose values.
    pub family: u32,
    /// How each value is compressed, as in the trailer of a block; 0 if it is not.
    pub compression: u8,
}

impl Header {
    /// How the values of the file at `path` are compressed.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub(crate) fn method(self, path: &Path) -> Result<Compression, Error> {
        let unsupported = |method| Error::unsupported(path, format!("blobs compressed with {method}"));
        Compression::from_u8(self.compression).map_err(unsupported)
    }

    /// Appends the encoding.
    pub fn encode(self, out: &mut Vec<u8>) {
        put_fixed32(out, MAGIC);
        put_fixed32(out, VERSION);
        put_fixed32(out, self.family);
        out.push(0);
        out.push(self.compression);
        put_fixed64(out, 0);
        put_fixed64(out, 0);
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is not the header of a blob file, or of one with expirations.
    pub fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if cursor.fixed32()? != MAGIC {
            return Err(Malformed { offset_bytes: 0, what: "not the magic number of a blob file" });
        }
        if cursor.fixed32()? != VERSION {
            return Err(Malformed { offset_bytes: 4, what: "a blob file of another version" });
        }
        let family = cursor.fixed32()?;
        if cursor.u8()? != 0 {
            return Err(Malformed { offset_bytes: 12, what: "blobs that expire" });
        }
        let compression = cursor.u8()?;
        match (cursor.fixed64()?, cursor.fixed64()?) {
            (0, 0) => Ok(Header { family, compression }),
            _ => Err(Malformed { offset_bytes: 14, what: "blobs that expire" }),
        }
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the key in bytes.
    pub key_bytes: u64,
    /// Length of the value as it is stored, in bytes.
    pub value_bytes: u64,
    crc: u32,
}

impl RecordHeader {
    /// Of this key and this stored value.
    pub fn of(key: &[u8], value: &[u8]) -> RecordHeader {
        let crc = mask_crc(crc32c::crc32c_append(crc32c::crc32c(key), value));
        RecordHeader { key_bytes: key.len() as u64, value_bytes: value.len() as u64, crc }
    }

    /// Appends the encoding.
    pub fn encode(self, out: &mut Vec<u8>) {
        let from = out.len();
        put_fixed64(out, self.key_bytes);
        put_fixed64(out, self.value_bytes);
        put_fixed64(out, 0);
        put_fixed32(out, masked_crc32c(&out[from..]));
        put_fixed32(out, self.crc);
    }

    /// Reads one.
    ///
    /// # Errors
    /// If its checksum is wrong, or the blob expires.
    pub fn decode(bytes: &[u8]) -> Result<RecordHeader, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let (key_bytes, value_bytes, expiration) = (cursor.fixed64()?, cursor.fixed64()?, cursor.fixed64()?);
        if cursor.fixed32()? != masked_crc32c(&bytes[..24]) {
            return Err(Malformed { offset_bytes: 24, what: "a wrong checksum of a record's header" });
        }
        if expiration != 0 {
            return Err(Malformed { offset_bytes: 16, what: "a blob that expires" });
        }
        Ok(RecordHeader { key_bytes, value_bytes, crc: cursor.fixed32()? })
    }

    /// True if key and value are what was written.
    pub fn matches(self, key: &[u8], value: &[u8]) -> bool {
        RecordHeader::of(key, value) == self
    }

    /// What a record of such a key and such a value takes in a file, in bytes.
    pub fn record_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
        (RECORD_HEADER_BYTES + key_bytes + value_bytes) as u64
    }
}

/// The end of a finished blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// How many records there are.
    pub count: u64,
}

impl Footer {
    /// Appends the encoding.
    pub fn encode(self, out: &mut Vec<u8>) {
        let from = out.len();
        put_fixed32(out, MAGIC);
        put_fixed64(out, self.count);
        put_fixed64(out, 0);
        put_fixed64(out, 0);
        put_fixed32(out, masked_crc32c(&out[from..]));
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or its checksum is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Footer, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if cursor.fixed32()? != MAGIC {
            return Err(Malformed { offset_bytes: 0, what: "not the magic number of a blob file's footer" });
        }
        let count = cursor.fixed64()?;
        let expirations = (cursor.fixed64()?, cursor.fixed64()?);
        if cursor.fixed32()? != masked_crc32c(&bytes[..FOOTER_BYTES - 4]) {
            return Err(Malformed { offset_bytes: 28, what: "a wrong checksum of a footer" });
        }
        match expirations {
            (0, 0) => Ok(Footer { count }),
            _ => Err(Malformed { offset_bytes: 12, what: "blobs that expire" }),
        }
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobIndex {
    /// The blob file.
    pub file: u64,
    /// Of the value itself, behind the record's header and key. Bytes.
    pub offset_bytes: u64,
    /// Length of the value as it is stored, in bytes.
    pub value_bytes: u64,
    /// How it is compressed.
    pub compression: u8,
}

impl BlobIndex {
    /// The encoding: the value of an entry of kind [`BlobIndex`](crate::store::key::ValueKind::BlobIndex).
    pub fn encode(self) -> Vec<u8> {
        let mut out = vec![INDEX_KIND];
        put_varint(&mut out, self.file);
        put_varint(&mut out, self.offset_bytes);
        put_varint(&mut out, self.value_bytes);
        out.push(self.compression);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or of a blob that expires.
    pub fn decode(bytes: &[u8]) -> Result<BlobIndex, Malformed> {
        let mut cursor = Cursor::new(bytes);
        match cursor.u8()? {
            INDEX_KIND => {}
            0 | 2 => return Err(Malformed { offset_bytes: 0, what: "a blob that expires" }),
            _ => return Err(Malformed { offset_bytes: 0, what: "an unknown kind of blob index" }),
        }
        let index = BlobIndex {
            file: cursor.varint64()?,
            offset_bytes: cursor.varint64()?,
            value_bytes: cursor.varint64()?,
            compression: cursor.u8()?,
        };
        if cursor.is_empty() { Ok(index) } else { Err(cursor.malformed("bytes behind a blob index")) }
    }

    /// Where the record begins, and where it ends, for a key of this length. `None` if no file can have it there.
    pub fn record(&self, key_bytes: usize) -> Option<(u64, u64)> {
        let before = (RECORD_HEADER_BYTES + key_bytes) as u64;
        let begins = self.offset_bytes.checked_sub(before).filter(|at| *at >= HEADER_BYTES as u64)?;
        Some((begins, self.offset_bytes.checked_add(self.value_bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn the_parts_have_the_lengths_of_the_format() {
        let header = Header { family: 7, compression: 4 };
        let bytes = encoded(|out| header.encode(out));
        assert_eq!((bytes.len(), Header::decode(&bytes)), (HEADER_BYTES, Ok(header)));
        let record = RecordHeader::of(b"key", b"value");
        let bytes = encoded(|out| record.encode(out));
        assert_eq!((bytes.len(), RecordHeader::decode(&bytes)), (RECORD_HEADER_BYTES, Ok(record)));
        assert!(record.matches(b"key", b"value") && !record.matches(b"keyv", b"alue"));
        let footer = Footer { count: 3 };
        let bytes = encoded(|out| footer.encode(out));
        assert_eq!((bytes.len(), Footer::decode(&bytes)), (FOOTER_BYTES, Ok(footer)));
    }

    #[test]
    fn every_flipped_bit_of_a_part_with_a_checksum_is_seen() {
        let record = encoded(|out| RecordHeader::of(b"key", b"value").encode(out));
        let footer = encoded(|out| Footer { count: 3 }.encode(out));
        for bit in 0..record.len() * 8 {
            let mut bytes = record.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let matches = RecordHeader::decode(&bytes).is_ok_and(|record| record.matches(b"key", b"value"));
            assert!(!matches, "bit {bit} of a record");
        }
        for bit in 0..footer.len() * 8 {
            let mut bytes = footer.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bytes).is_err(), "bit {bit} of a footer");
        }
    }

    #[test]
    fn an_index_lies_behind_the_header() {
        let index = BlobIndex { file: 9, offset_bytes: 65, value_bytes: 10, compression: 0 };
        assert_eq!(index.record(3), Some((30, 75)));
        assert_eq!(index.record(4), None);
        assert_eq!(BlobIndex { offset_bytes: u64::MAX, ..index }.record(3), None);
        assert_eq!(BlobIndex::decode(&[2, 1, 1, 1, 0]).unwrap_err().what, "a blob that expires");
    }

    proptest! {
        #[test]
        fn indexes_survive_the_format(file: u64, offset_bytes: u64, value_bytes: u64, compression: u8) {
            let index = BlobIndex { file, offset_bytes, value_bytes, compression };
            prop_assert_eq!(BlobIndex::decode(&index.encode()), Ok(index));
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Header::decode(&bytes);
            let _ = RecordHeader::decode(&bytes);
            let _ = Footer::decode(&bytes);
            let _ = BlobIndex::decode(&bytes);
        }
    }
}
