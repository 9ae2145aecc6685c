//! The envelope of what is one value in one object (the coordinator's records, documents of snapshots): magic, format version, body,
//! CRC-32C.
//!
//! ```text
//! magic: 4 bytes | format version: u16 LE | body: postcard | masked CRC-32C of all before: u32 LE
//! ```
//!
//! The checksum is masked as RocksDB masks its own: bytes that end with their plain CRC all have the same CRC, and the
//! checksum that a [`super::snapshot::FileHandle`] holds of the whole object would tell nothing apart.
//!
//! Bytes that come back from a store are hostile until the checksum says otherwise, and no further trusted than that:
//! a length inside the body never allocates more than the bytes that are there.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

const HEADER_BYTES: usize = 6;
const TRAILER_BYTES: usize = 4;

/// The format version of all that needs no later one.
pub(crate) const FIRST_VERSION: u16 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the smallest envelope.
    #[error("truncated: {len_bytes} bytes")]
    Truncated {
        /// What there is.
        len_bytes: usize,
    },
    /// Something else altogether.
    #[error("wrong magic")]
    Magic,
    /// Written by another version of this program.
    #[error("format version {found}, this program reads {FIRST_VERSION} to {newest}")]
    Version {
        /// The version found.
        found: u16,
        /// The newest that is read.
        newest: u16,
    },
    /// Damaged.
    #[error("checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The body is not a value of the type, or is followed by something.
    #[error("body: {0}")]
    Body(postcard::Error),
    /// The value contradicts itself or its name.
    #[error("{0}")]
    Inconsistent(String),
}

/// Wraps a value in the form of a format version.
pub(crate) fn seal<T: Serialize>(magic: [u8; 4], version: u16, value: &T) -> Bytes {
    let mut bytes = Vec::from(magic);
    bytes.extend(version.to_le_bytes());
    let mut bytes = postcard::to_extend(value, bytes)
        .expect("the values of this module hold nothing that cannot be encoded");
    bytes.extend(masked_crc32c(&bytes).to_le_bytes());
    bytes.into()
}

/// RocksDB's mask (`util/crc32c.h`).
pub(crate) fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Unwraps a value of any format version up to `newest`.
pub(crate) fn open<T: DeserializeOwned>(magic: [u8; 4], newest: u16, bytes: &[u8]) -> Result<T, Malformed> {
    if bytes.len() < HEADER_BYTES + TRAILER_BYTES {
        return Err(Malformed::Truncated { len_bytes: bytes.len() });
    }
    let (covered, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let (header, body) = covered.split_at(HEADER_BYTES);
    if header[..4] != magic {
        return Err(Malformed::Magic);
    }
    let found = u32::from_le_bytes(trailer.try_into().expect("split at four bytes"));
    let computed = masked_crc32c(covered);
    if found != computed {
        return Err(Malformed::Checksum { found, computed });
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if !(FIRST_VERSION..=newest).contains(&version) {
        return Err(Malformed::Version { found: version, newest });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Malformed::Body(postcard::Error::DeserializeBadEncoding)),
        Err(error) => Err(Malformed::Body(error)),
    }
}
