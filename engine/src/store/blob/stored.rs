//! A value as a blob file has it: as it is, or compressed like a block of a table (7.8.3 `db/blob/blob_file_builder.cc`,
//! `CompressBlobIfNeeded`). All values of a file are compressed in the same way, those that get longer as well; the header of the
//! file says how, and so does each index. Lengths and checksums of records are of what is stored.
//!
//! A value that moves to another file stays as it is stored, if that file has the same compression.

use std::borrow::Cow;

use crate::store::coding::Malformed;
use crate::store::table::Compression;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<'v> {
    /// What lies in the file.
    pub bytes: Cow<'v, [u8]>,
    /// How it is compressed.
    pub compression: Compression,
}

impl<'v> Stored<'v> {
    /// A value, compressed; nothing if it is too long for that.
    ///
    /// # Panics
    /// If the compression is not written; the options are checked long before.
    pub fn of(value: &'v [u8], compression: Compression) -> Option<Stored<'v>> {
        let bytes = match compression {
            Compression::None => Cow::Borrowed(value),
            _ => Cow::Owned(compression.compress_any(value)?),
        };
        Some(Stored { bytes, compression })
    }

    /// How long it says that the value is, if it says so. Not to be believed. Bytes.
    pub fn claimed_bytes(&self) -> Option<u64> {
        self.compression.claimed_bytes(&self.bytes).ok()
    }

    /// The value.
    ///
    /// # Errors
    /// If it does not decompress, or claims more than it can hold.
    pub fn into_value(self) -> Result<Vec<u8>, Malformed> {
        match self.compression {
            Compression::None => Ok(self.bytes.into_owned()),
            compression => compression.decompress(&self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_its_length_is_known_before() {
        let value = [b'v'; 500];
        for compression in [Compression::None, Compression::Snappy, Compression::Lz4] {
            let stored = Stored::of(&value, compression).unwrap();
            assert_eq!(stored.bytes.len() < 500, compression != Compression::None);
            assert_eq!(stored.claimed_bytes(), Some(500));
            assert_eq!(stored.into_value().as_deref(), Ok(&value[..]));
        }
    }

    #[test]
    fn what_claims_too_much_is_refused() {
        for compression in [Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let stored = Stored { bytes: Cow::Borrowed(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]), compression };
            assert_eq!(stored.claimed_bytes(), Some(u64::from(u32::MAX)));
            assert_eq!(
                stored.into_value().unwrap_err().what,
                "a compressed block claims more than it can hold"
            );
            let stored = Stored { bytes: Cow::Borrowed(&[]), compression };
            assert_eq!((stored.claimed_bytes(), stored.into_value().is_err()), (None, true));
        }
    }
}
