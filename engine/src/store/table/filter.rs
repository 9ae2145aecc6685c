//! A bloom filter over the user keys of a table.
//!
//! The bits are ours, not RocksDB's: it looks for the name of its own policy, does not find it, and reads without a filter.
//! Layout: the bits, then one byte that says how many probes there are. Probes by double hashing of XXH3-64 (Kirsch and
//! Mitzenmacher, "Less hashing, same performance").

use bytes::Bytes;

/// Name of the meta block.
pub const FILTER_NAME: &[u8] = b"fullfilter.cutwater.Bloom";

/// What goes into the filter for a key.
pub fn hash(user_key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(user_key)
}

/// Encodes a filter over hashes of keys.
pub fn build(hashes: &[u64], bits_per_key: u32) -> Vec<u8> {
    let bits = (hashes.len() as u64 * u64::from(bits_per_key)).max(64).next_multiple_of(8);
    let probes = (u64::from(bits_per_key) * 69 / 100).clamp(1, 30) as u8;
    let mut out = vec![0; (bits / 8) as usize + 1];
    for hash in hashes {
        for bit in probe_bits(*hash, probes, bits) {
            out[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }
    *out.last_mut().expect("there is at least the byte for the probes") = probes;
    out
}

fn probe_bits(hash: u64, probes: u8, bits: u64) -> impl Iterator<Item = u64> {
    let step = hash.rotate_left(32) | 1;
    (0..u64::from(probes)).map(move |i| hash.wrapping_add(i.wrapping_mul(step)) % bits)
}

/// A filter that was read.
#[derive(Clone, Debug)]
pub struct Filter {
    bytes: Bytes,
}

impl Filter {
    /// Nothing if it is not one of ours; reading goes on without it.
    pub fn new(bytes: Bytes) -> Option<Filter> {
        let probes = *bytes.last()?;
        (bytes.len() > 1 && (1..=30).contains(&probes)).then_some(Filter { bytes })
    }

    /// False only if the key is not in the table.
    pub fn may_contain(&self, user_key: &[u8]) -> bool {
        let (bits, probes) = self.bytes.split_at(self.bytes.len() - 1);
        let mut bits_of_key = probe_bits(hash(user_key), probes[0], bits.len() as u64 * 8);
        bits_of_key.all(|bit| bits[(bit / 8) as usize] & 1 << (bit % 8) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_few_others() {
        let hashes: Vec<u64> = (0u32..1000).map(|i| hash(&i.to_le_bytes())).collect();
        let filter = Filter::new(build(&hashes, 10).into()).unwrap();
        assert!((0u32..1000).all(|i| filter.may_contain(&i.to_le_bytes())));
        let wrong = (1000u32..11_000).filter(|i| filter.may_contain(&i.to_le_bytes())).count();
        assert!(wrong < 300, "{wrong} of 10000");
    }

    #[test]
    fn foreign_bytes_are_no_filter() {
        assert!(Filter::new(Bytes::new()).is_none());
        assert!(Filter::new(Bytes::from_static(&[5])).is_none());
        assert!(Filter::new(Bytes::from_static(&[0, 31])).is_none());
    }
}
