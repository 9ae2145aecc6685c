//! The smallest pieces of RocksDB's formats: little-endian integers, LEB128 varints, length-prefixed strings, zigzag, and
//! the masked crc32c. [`Cursor`] reads them from bytes that may be anything: it never panics, never allocates by a length
//! it was told, and says where and what was wrong.

use std::ops::Range;

/// Bytes that do not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset_bytes}")]
pub struct Malformed {
    /// Where in the bytes given to the decoder.
    pub offset_bytes: u64,
    /// What was expected or wrong.
    pub what: &'static str,
}

/// Appends a little-endian u32.
pub fn put_fixed32(out: &mut Vec<u8>, v: u32) {
    out.extend_from_slice(&v.to_le_bytes());
}

/// Appends a little-endian u64.
pub fn put_fixed64(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_le_bytes());
}

/// Appends a LEB128 varint of at most ten bytes. A varint32 is the same with a smaller value.
pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a varint32 length and the bytes.
///
/// # Panics
/// If there are 4 GiB of bytes or more; what enters the store is checked long before.
pub fn put_length_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    assert!(u32::try_from(bytes.len()).is_ok(), "a string of {} bytes has no varint32 length", bytes.len());
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Signed to unsigned, small magnitudes first.
pub fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

const MASK_DELTA: u32 = 0xa282_ead8;

/// Masks a crc32c, so that the checksum of bytes that contain checksums stays a good one (LevelDB `crc32c.h`).
pub fn mask_crc(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK_DELTA)
}

/// The masked crc32c of bytes.
pub fn masked_crc32c(bytes: &[u8]) -> u32 {
    mask_crc(crc32c::crc32c(bytes))
}

/// A read position in bytes that may be anything.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// The position.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// True at the end.
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// An error at this position.
    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { offset_bytes: self.at as u64, what }
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(self.malformed("a byte is missing"))?;
        self.at += 1;
        Ok(byte)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let range = self.take_range(len)?;
        Ok(&self.bytes[range])
    }

    /// Where the next `len` bytes are.
    pub fn take_range(&mut self, len: usize) -> Result<Range<usize>, Malformed> {
        if len > self.bytes.len() - self.at {
            return Err(self.malformed("a length goes past the end"));
        }
        let range = self.at..self.at + len;
        self.at = range.end;
        Ok(range)
    }

    /// A little-endian u32.
    pub fn fixed32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A little-endian u64.
    pub fn fixed64(&mut self) -> Result<u64, Malformed> {
        let low = u64::from(self.fixed32()?);
        Ok(u64::from(self.fixed32()?) << 32 | low)
    }

    /// A varint of up to 64 bits.
    pub fn varint64(&mut self) -> Result<u64, Malformed> {
        let start = *self;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(start.malformed("a varint does not fit 64 bits"))
    }

    /// A varint of up to 32 bits.
    pub fn varint32(&mut self) -> Result<u32, Malformed> {
        let start = *self;
        u32::try_from(self.varint64()?).map_err(|_| start.malformed("a varint does not fit 32 bits"))
    }

    /// A varint32 length and that many bytes.
    pub fn length_prefixed(&mut self) -> Result<&'a [u8], Malformed> {
        let range = self.length_prefixed_range()?;
        Ok(&self.bytes[range])
    }

    /// Where the bytes of a length-prefixed string are.
    pub fn length_prefixed_range(&mut self) -> Result<Range<usize>, Malformed> {
        let len = self.varint32()?;
        self.take_range(len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crc_is_that_of_rocksdb() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(mask_crc(0xe306_9283), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn overlong_varints_are_refused() {
        assert_eq!(Cursor::new(&[0xff; 11]).varint64().unwrap_err().what, "a varint does not fit 64 bits");
        assert_eq!(
            Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint32().unwrap_err().what,
            "a varint does not fit 32 bits"
        );
        assert_eq!(Cursor::new(&[0x80]).varint64().unwrap_err().what, "a byte is missing");
    }

    proptest! {
        #[test]
        fn roundtrip(a: u64, b: u32, c: i64, s: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_varint(&mut out, u64::from(b));
            put_varint(&mut out, zigzag(c));
            put_length_prefixed(&mut out, &s);
            put_fixed32(&mut out, b);
            put_fixed64(&mut out, a);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.varint64(), Ok(a));
            prop_assert_eq!(cursor.varint32(), Ok(b));
            prop_assert_eq!(cursor.varint64().map(unzigzag), Ok(c));
            prop_assert_eq!(cursor.length_prefixed(), Ok(&s[..]));
            prop_assert_eq!(cursor.fixed32(), Ok(b));
            prop_assert_eq!(cursor.fixed64(), Ok(a));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn anything_is_read_without_panic(bytes: Vec<u8>) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.length_prefixed().is_ok() && !cursor.is_empty() {}
            let _ = Cursor::new(&bytes).varint64();
            let _ = Cursor::new(&bytes).fixed64();
        }
    }
}
