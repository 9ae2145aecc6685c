//! The content of a transaction: `CWO1`, the records (key and value, each after its varint length), XXH3 (64 bits, little
//! endian) of all before it. The same bytes are staged and committed.
//!
//! Not CRC-32C: content that ends with its own CRC has the same CRC as any other such content, and handles
//! ([`crate::checkpoint::snapshot::FileHandle`]) tell contents apart by length and CRC-32C.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use crate::stream::record::{Decoder, Malformed, Record};

const MAGIC: &[u8; 4] = b"CWO1";
const CHECKSUM_BYTES: usize = 8;

/// Bytes that are not the content of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// They are too short or begin otherwise.
    #[error("not an output object")]
    Foreign,
    /// The checksum is wrong.
    #[error("output object of {len_bytes} bytes: checksum {found:016x}, expected {expected:016x}")]
    Checksum {
        /// Length of the object in bytes.
        len_bytes: usize,
        /// What it says.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The checksum is right and the records are not: the writer was wrong.
    #[error("output object: {0}")]
    Records(#[from] Malformed),
}

/// Content under construction.
#[derive(Debug, Default)]
pub(super) struct Builder {
    bytes: BytesMut,
}

impl Builder {
    pub(super) fn push(&mut self, record: &Record) {
        if self.bytes.is_empty() {
            self.bytes.put_slice(MAGIC);
        }
        record.encode(&mut self.bytes);
    }

    /// The content of what was pushed since the last call; `None` if nothing was.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.bytes.is_empty() {
            return None;
        }
        let mut bytes = self.bytes.split();
        let checksum = xxh3_64(&bytes);
        bytes.put_u64_le(checksum);
        Some(bytes.freeze())
    }
}

/// The records of a committed (or staged) object.
///
/// # Errors
/// If the bytes are not what a sink writes.
pub fn decode_output(bytes: &[u8]) -> Result<Vec<Record>, OutputError> {
    let Some(body) = bytes.strip_prefix(MAGIC) else { return Err(OutputError::Foreign) };
    let Some((records, checksum)) = body.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(OutputError::Foreign);
    };
    let (expected, found) = (u64::from_le_bytes(*checksum), xxh3_64(&bytes[..bytes.len() - CHECKSUM_BYTES]));
    if expected != found {
        return Err(OutputError::Checksum { len_bytes: bytes.len(), expected, found });
    }
    let mut decoder = Decoder::new(Bytes::copy_from_slice(records));
    let records: Result<Vec<Record>, Malformed> =
        std::iter::from_fn(|| decoder.record().transpose()).collect();
    Ok(records?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_built_is_decoded_and_damage_is_seen(
            parts in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 1..20),
            at: proptest::sample::Index, flip in 1u8..,
        ) {
            let records: Vec<Record> =
                parts.into_iter().map(|(k, v)| Record::new(k, v)).collect();
            let mut builder = Builder::default();
            records.iter().for_each(|record| builder.push(record));
            let content = builder.take().unwrap();
            prop_assert_eq!(builder.take(), None);
            prop_assert_eq!(decode_output(&content).unwrap(), records);
            let mut damaged = content.to_vec();
            damaged[at.index(content.len())] ^= flip;
            prop_assert!(decode_output(&damaged).is_err());
            prop_assert!(decode_output(&content[..at.index(content.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>) {
            let _ = decode_output(&bytes);
            let _ = decode_output(&[MAGIC.as_slice(), &bytes].concat());
        }
    }
}
