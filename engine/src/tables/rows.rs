//! Rows: keys, values, versions, and the sum that tells whether two copies hold the same.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::ids::LogIndex;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 64 << 10;

/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 4 << 20;

/// The most bytes of keys and values that a transaction writes.
pub const MAX_TRANSACTION_BYTES: usize = 4 << 20;

/// A value and the index of the entry that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The index of the entry that wrote it, in the log of its partition: how a transaction notices that it has changed.
    pub version: LogIndex,
    /// What was written.
    pub value: Bytes,
}

/// A key that was read, and what version it had; `None` if there was no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The key.
    pub key: Bytes,
    /// The version seen.
    pub version: Option<LogIndex>,
}

/// A key and what shall stand there; `None` removes the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Option<Bytes>,
}

/// The sum over the rows of a partition: equal if the rows are, whatever the order in which they came and whichever versions
/// they have. Kept as rows change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The number of rows.
    pub rows: u64,
    /// Wrapping sum of the rows' hashes.
    pub sum: u128,
}

impl Content {
    /// Counts a row in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.add_hash(row_hash(key, value));
    }

    /// Counts a row in by its [`row_hash`].
    pub fn add_hash(&mut self, hash: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    /// Counts a row out that was counted in.
    ///
    /// # Panics
    /// If there is none.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.remove_hash(row_hash(key, value));
    }

    /// Counts a row out by its [`row_hash`].
    ///
    /// # Panics
    /// If there is none.
    pub fn remove_hash(&mut self, hash: u128) {
        self.rows = self.rows.checked_sub(1).expect("a row that was counted in");
        self.sum = self.sum.wrapping_sub(hash);
    }
}

/// The hash of a row. The value's is seeded by the key's: a key and a value cannot pass for another pair by moving bytes between them.
pub fn row_hash(key: &[u8], value: &[u8]) -> u128 {
    let of_key = xxh3_128_with_seed(key, 0);
    let seed = u64::try_from(of_key & u128::from(u64::MAX)).expect("64 bits");
    xxh3_128_with_seed(value, seed).wrapping_add(of_key.rotate_left(64)) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_what_is_removed_leaves_nothing() {
        let (mut one, mut other) = (Content::default(), Content::default());
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        other.add(b"c", b"3");
        other.add(b"b", b"2");
        other.add(b"a", b"1");
        assert_ne!(one, other);
        other.remove(b"c", b"3");
        assert_eq!(one, other);
    }

    #[test]
    fn bytes_do_not_move_between_key_and_value() {
        let of = |key: &[u8], value: &[u8]| {
            let mut content = Content::default();
            content.add(key, value);
            content
        };
        assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
        assert_ne!(of(b"ab", b""), of(b"", b"ab"));
        assert_ne!(of(b"a", b"b"), of(b"b", b"a"));
    }
}
