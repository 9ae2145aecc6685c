//! The bytes of a log segment: changes of keyed state, framed and checksummed.
//!
//! ```text
//! magic "CWLS" | version: u16 LE | from: u64 LE | to: u64 LE | to - from changes | masked CRC-32C of all before: u32 LE
//! change: length of the key: u32 LE | key in the store | length of the value: u32 LE, or 2^32 - 1: removed | value
//! ```
//!
//! A segment comes back from an object store and is hostile. [`open`] checks the frame; [`Changes`] checks each length before it
//! believes it, and that there are as many changes as the frame says. Offsets in errors are from the segment's first byte.

use bytes::Bytes;

use crate::checkpoint::envelope::masked_crc32c;

const MAGIC: [u8; 4] = *b"CWLS";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 22;
const TRAILER_BYTES: usize = 4;
/// Instead of the length of a value that was removed.
const REMOVED: u32 = u32::MAX;

/// Why bytes are not a log segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("at byte {offset}: ends too early")]
    Truncated {
        /// Where more was expected.
        offset: usize,
    },
    /// Something else altogether.
    #[error("at byte 0: not a log segment")]
    Magic,
    /// Written by another version of this program.
    #[error("at byte 4: format version {found}, this program reads {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Damaged.
    #[error("checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Not the segment that was looked for.
    #[error("holds the changes {}..{}, expected {}..{}", found.0, found.1, expected.0, expected.1)]
    Range {
        /// First change, and the one after the last, as stored.
        found: (u64, u64),
        /// As they should be.
        expected: (u64, u64),
    },
    /// More bytes than changes.
    #[error("at byte {offset}: {len_bytes} bytes behind the last change")]
    Behind {
        /// Where the last change ends.
        offset: usize,
        /// How many.
        len_bytes: usize,
    },
    /// A change of something that cannot be in the snapshot.
    #[error("at byte {offset}: change of a key of {what}")]
    Key {
        /// Where the change begins.
        offset: usize,
        /// What is wrong with its key.
        what: &'static str,
    },
}

/// Appends a change: what a key of the store holds from now on, or that it holds nothing.
///
/// # Panics
/// If key or value are longer than a state can be (4 GiB).
pub fn put_change(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    let narrow = |len: usize| u32::try_from(len).ok().filter(|len| *len != REMOVED).expect("less than 4 GiB");
    out.extend(narrow(key.len()).to_le_bytes());
    out.extend(key);
    out.extend(value.map_or(REMOVED, |value| narrow(value.len())).to_le_bytes());
    out.extend(value.unwrap_or_default());
}

/// The segment that holds `changes`, which are `from..to`.
pub fn seal(from: u64, to: u64, changes: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + changes.len() + TRAILER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(from.to_le_bytes());
    bytes.extend(to.to_le_bytes());
    bytes.extend(changes);
    bytes.extend(masked_crc32c(&bytes).to_le_bytes());
    bytes.into()
}

/// The changes of a segment that must hold `expected`, which are the first and the one after the last.
///
/// # Errors
/// If the frame is not whole or not that of these changes.
pub fn open(bytes: &[u8], expected: (u64, u64)) -> Result<Changes<'_>, Malformed> {
    if bytes.len() < HEADER_BYTES + TRAILER_BYTES {
        return Err(Malformed::Truncated { offset: bytes.len() });
    }
    let (covered, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    if covered[..4] != MAGIC {
        return Err(Malformed::Magic);
    }
    let found = u32::from_le_bytes(trailer.try_into().expect("split at four bytes"));
    let computed = masked_crc32c(covered);
    if found != computed {
        return Err(Malformed::Checksum { found, computed });
    }
    let version = u16::from_le_bytes([covered[4], covered[5]]);
    if version != VERSION {
        return Err(Malformed::Version { found: version });
    }
    let number = |at: usize| u64::from_le_bytes(covered[at..at + 8].try_into().expect("eight bytes"));
    let found = (number(6), number(14));
    if found != expected {
        return Err(Malformed::Range { found, expected });
    }
    let (from, to) = expected;
    Ok(Changes { bytes: covered, at: HEADER_BYTES, left: to.saturating_sub(from) })
}

/// One change of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Where in the segment it begins.
    pub offset: usize,
    /// The key in the store.
    pub key: &'a [u8],
    /// What is there now; `None` if nothing.
    pub value: Option<&'a [u8]>,
}

/// The changes of a segment, in order.
#[derive(Clone, Debug)]
pub struct Changes<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u64,
}

impl<'a> Changes<'a> {
    fn take(&mut self, len_bytes: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len_bytes).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(Malformed::Truncated { offset: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn take_len(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn change(&mut self) -> Result<Change<'a>, Malformed> {
        let wide = |len: u32| usize::try_from(len).expect("as wide at least");
        let offset = self.at;
        let key_len = self.take_len()?;
        let key = self.take(wide(key_len))?;
        let value = match self.take_len()? {
            REMOVED => None,
            len => Some(self.take(wide(len))?),
        };
        Ok(Change { offset, key, value })
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Result<Change<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let (offset, len_bytes) = (self.at, self.bytes.len() - self.at);
            self.at = self.bytes.len();
            return (len_bytes > 0).then_some(Err(Malformed::Behind { offset, len_bytes }));
        }
        let change = self.change();
        // Behind the first error there is nothing to be had.
        self.left = if change.is_ok() { self.left - 1 } else { 0 };
        if change.is_err() {
            self.at = self.bytes.len();
        }
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    fn sealed(changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Bytes {
        let mut body = Vec::new();
        for (key, value) in changes {
            put_change(&mut body, key, value.as_deref());
        }
        seal(7, 7 + changes.len() as u64, &body)
    }

    fn read(bytes: &[u8], expected: (u64, u64)) -> Result<Owned, Malformed> {
        let owned = |change: Change<'_>| (change.key.to_vec(), change.value.map(<[u8]>::to_vec));
        open(bytes, expected)?.map(|change| change.map(owned)).collect()
    }

    /// A frame whose checksum is right, around anything.
    fn forged(from: u64, to: u64, body: &[u8]) -> Result<Owned, Malformed> {
        read(&seal(from, to, body), (from, to))
    }

    #[test]
    fn counts_and_lengths_are_not_believed() {
        let mut one = Vec::new();
        put_change(&mut one, b"k", Some(b"v"));
        assert_eq!(forged(3, 4, &one).unwrap().len(), 1);
        assert!(matches!(forged(3, 5, &one), Err(Malformed::Truncated { .. })), "a change is missing");
        assert!(matches!(forged(3, 3, &one), Err(Malformed::Behind { offset: 22, len_bytes: 10 })));
        assert!(matches!(forged(4, 3, &[]), Ok(none) if none.is_empty()), "the handle's check refuses that");
        assert!(matches!(forged(0, u64::MAX, &[255; 8]), Err(Malformed::Truncated { .. })));
        assert!(matches!(read(&seal(3, 4, &one), (3, 5)), Err(Malformed::Range { .. })));
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_read_and_no_bit_may_flip(
            changes in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))), 0..9),
            bit in any::<proptest::sample::Index>(), cut in any::<proptest::sample::Index>(),
        ) {
            let bytes = sealed(&changes);
            let expected = (7, 7 + changes.len() as u64);
            prop_assert_eq!(read(&bytes, expected).unwrap(), changes);
            let mut damaged = bytes.to_vec();
            let bit = bit.index(bytes.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&damaged, expected).is_err());
            prop_assert!(read(&bytes[..cut.index(bytes.len())], expected).is_err());
        }

        #[test]
        fn hostile_bodies_are_errors_and_no_panics(body in proptest::collection::vec(any::<u8>(), 0..80), n in 0u64..9) {
            drop(forged(1, 1 + n, &body));
            drop(read(&body, (1, 1 + n)));
        }
    }
}
