//! Java's `DataInput` over bytes that may be anything.
//!
//! Each call says what it wants to read, and an error says that and where it was. Counts are checked against the bytes that
//! are left before anything is allocated for them.

/// Bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}: {reason}")]
pub struct Malformed {
    /// Where the value begins.
    pub offset: usize,
    /// What should be there.
    pub what: &'static str,
    /// Why it is not.
    pub reason: Reason,
}

/// See [`Malformed::reason`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The bytes end before the value does.
    #[error("{wanted} bytes are wanted, {left} are left")]
    Truncated {
        /// How many it takes at least.
        wanted: u64,
        /// How many there are.
        left: usize,
    },
    /// A tag, mode or marker has no meaning.
    #[error("{found:#x} has no meaning")]
    Unknown {
        /// What is there.
        found: i64,
    },
    /// A number is less than zero or too large.
    #[error("{found} is out of range")]
    Range {
        /// What is there.
        found: i64,
    },
    /// A string is not in modified UTF-8.
    #[error("no modified UTF-8")]
    Text,
    /// A handle in a handle in a handle, and so on.
    #[error("nested deeper than {MAX_DEPTH}")]
    Depth,
    /// Bytes follow where there should be an end.
    #[error("{count} bytes follow")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// The format is of another version.
    #[error("version {found}, versions 3 to 6 are read")]
    Version {
        /// Which.
        found: i32,
    },
    /// There is a value of another kind.
    #[error("{wanted} must be there, and something else is")]
    Unexpected {
        /// What should be.
        wanted: &'static str,
    },
    /// The value must not be there.
    #[error("must be absent")]
    Present,
}

/// How deep handles may be nested. Flink nests a changelog's base, in it an incremental handle, in it a stream handle.
pub const MAX_DEPTH: u32 = 16;

/// The bytes, and how far they are read.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Of the first byte in the whole.
    base: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, base: 0, at: 0 }
    }

    /// Where it is, in bytes from the beginning of the whole.
    pub fn offset(&self) -> usize {
        self.base + self.at
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The value that began at `offset` is wrong.
    pub fn wrong(offset: usize, what: &'static str, reason: Reason) -> Malformed {
        Malformed { offset, what, reason }
    }

    /// So many bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        if count > self.left() {
            let reason = Reason::Truncated { wanted: count as u64, left: self.left() };
            return Err(Reader::wrong(self.offset(), what, reason));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    /// A part of so many bytes, to be read on its own.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn part(&mut self, count: usize, what: &'static str) -> Result<Reader<'a>, Malformed> {
        let base = self.offset();
        Ok(Reader { bytes: self.take(count, what)?, base, at: 0 })
    }

    /// All that is left must be nothing.
    ///
    /// # Errors
    /// If it is not.
    pub fn end(&self, what: &'static str) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            count => Err(Reader::wrong(self.offset(), what, Reason::Trailing { count })),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        Ok(self.take(N, what)?.try_into().expect("as many as were asked for"))
    }

    /// A byte.
    ///
    /// # Errors
    /// If there is none.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// Java's `int`.
    ///
    /// # Errors
    /// If there are fewer than four bytes.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    /// Java's `long`.
    ///
    /// # Errors
    /// If there are fewer than eight bytes.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    /// An `int` that is not negative.
    ///
    /// # Errors
    /// If it is, or there are too few bytes.
    pub fn u31(&mut self, what: &'static str) -> Result<u32, Malformed> {
        let offset = self.offset();
        let found = self.i32(what)?;
        u32::try_from(found).map_err(|_| Reader::wrong(offset, what, Reason::Range { found: found.into() }))
    }

    /// A `long` that is not negative.
    ///
    /// # Errors
    /// If it is, or there are too few bytes.
    pub fn u63(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let offset = self.offset();
        let found = self.i64(what)?;
        u64::try_from(found).map_err(|_| Reader::wrong(offset, what, Reason::Range { found }))
    }

    /// How many items follow, of at least `least_bytes` each.
    ///
    /// # Errors
    /// If it is negative, or there are not bytes enough for them.
    pub fn count(&mut self, least_bytes: usize, what: &'static str) -> Result<usize, Malformed> {
        let offset = self.offset();
        let count = self.u31(what)? as usize;
        let wanted = count as u64 * least_bytes as u64;
        match wanted <= self.left() as u64 {
            true => Ok(count),
            false => {
                let reason = Reason::Truncated { wanted, left: self.left() };
                Err(Reader::wrong(offset, what, reason))
            }
        }
    }

    /// Numbers that a count precedes.
    ///
    /// # Errors
    /// If there are too few bytes.
    pub fn longs(&mut self, count: usize, what: &'static str) -> Result<Vec<i64>, Malformed> {
        (0..count).map(|_| self.i64(what)).collect()
    }

    /// Bytes that their length precedes.
    ///
    /// # Errors
    /// If there are too few bytes.
    pub fn blob(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let count = self.count(1, what)?;
        self.take(count, what)
    }

    /// A string as `writeUTF` writes it: its length in bytes, and UTF-16 units of one to three bytes each. A surrogate without
    /// its other half, which Java allows, becomes U+FFFD.
    ///
    /// # Errors
    /// If there are too few bytes, or they are not that.
    pub fn utf(&mut self, what: &'static str) -> Result<String, Malformed> {
        let offset = self.offset();
        let count = usize::from(self.u16(what)?);
        let bytes = self.take(count, what)?;
        let units = units(bytes).ok_or_else(|| Reader::wrong(offset, what, Reason::Text))?;
        Ok(String::from_utf16_lossy(&units))
    }
}

fn units(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter().map(|byte| u16::from(*byte));
    while let Some(first) = rest.next() {
        let mut more = || rest.next().filter(|next| next & 0xc0 == 0x80).map(|next| next & 0x3f);
        units.push(match first {
            0x00..=0x7f => first,
            0xc0..=0xdf => (first & 0x1f) << 6 | more()?,
            0xe0..=0xef => (first & 0x0f) << 12 | more()? << 6 | more()?,
            _ => return None,
        });
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_java_writes_them() {
        let read = |bytes: &[u8]| {
            let with_len = [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
            Reader::new(&with_len).utf("a name")
        };
        assert_eq!(read(b"plain").unwrap(), "plain");
        assert_eq!(read(b"\xc0\x80\xc3\xa4\xe6\xb0\xb4").unwrap(), "\0\u{e4}\u{6c34}");
        assert_eq!(read(b"\xed\xa0\xbc\xed\xbc\x8a").unwrap(), "\u{1f30a}", "a pair of surrogates");
        assert_eq!(read(b"\xed\xa0\xbc!").unwrap(), "\u{fffd}!", "half of one");
        for wrong in [&b"\xc3"[..], b"\xc3\xc3", b"\xff", b"\x80", b"\xf0\x9f\x8c\x8a"] {
            assert_eq!(read(wrong), Err(Malformed { offset: 0, what: "a name", reason: Reason::Text }));
        }
    }

    #[test]
    fn a_count_is_believed_as_far_as_there_are_bytes() {
        let bytes = [0, 0, 0, 3, 1, 2, 3, 4, 5];
        assert_eq!(Reader::new(&bytes).count(1, "x"), Ok(3));
        let error = Reader::new(&bytes).count(2, "x").unwrap_err();
        assert_eq!(error.to_string(), "at byte 0: x: 6 bytes are wanted, 5 are left");
        assert!(Reader::new(&[0x7f, 0xff, 0xff, 0xff]).blob("x").is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff]).blob("x").is_err());
    }
}
