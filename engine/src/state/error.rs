//! Why keyed state could not be used, snapshotted or restored.

use std::path::PathBuf;

use crate::checkpoint::snapshot::{KeyGroupRange, StateSchema};

use super::blob;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of a key group that this subtask does not own: the sender routes by other rules.
    #[error("key group {key_group} is outside of {}..={}", range.first, range.last)]
    ForeignKey {
        /// The key's group.
        key_group: u16,
        /// What the subtask owns.
        range: KeyGroupRange,
    },
    /// Two states of an operator that cannot both be: one id for two names, or one name for two kinds.
    #[error("operator {operator}: state {new} is used where {known} is kept: one of them needs another name")]
    Conflict {
        /// The operator's uid.
        operator: String,
        /// What is kept.
        known: StateSchema,
        /// What is used.
        new: StateSchema,
    },
    /// Bytes of a state are not of its type, or a value has no bytes.
    #[error("operator {operator}, state {state}: {what}")]
    Value {
        /// The operator's uid.
        operator: String,
        /// The state's name.
        state: &'static str,
        /// What is wrong.
        what: String,
    },
    /// State of a subtask that is not keyed.
    #[error("operator {operator}, state {state}: {what}")]
    OperatorState {
        /// The operator's uid.
        operator: String,
        /// The state's name.
        state: String,
        /// What is wrong.
        what: String,
    },
    /// A snapshot names a file that cannot be a file of a store.
    #[error("snapshot of key groups {}..={} names a file {name:?}", range.first, range.last)]
    FileName {
        /// The name.
        name: String,
        /// The snapshot's key groups.
        range: KeyGroupRange,
    },
    /// The snapshots handed to a restore do not cover its key groups.
    #[error("no snapshot covers key group {key_group} of {}..={}", range.first, range.last)]
    Uncovered {
        /// The first key group without state.
        key_group: u16,
        /// What is to be restored.
        range: KeyGroupRange,
    },
    /// An entry of a restored store has no place in keyed state.
    #[error("restored store {dir}: entry with a key of {len_bytes} bytes is not keyed state")]
    Entry {
        /// Where the store is.
        dir: PathBuf,
        /// Length of the entry's key.
        len_bytes: usize,
    },
    /// A snapshot that this backend cannot read.
    #[error("snapshot of key groups {}..={}: {reason}", range.first, range.last)]
    Format {
        /// The snapshot's key groups.
        range: KeyGroupRange,
        /// Its format, and what can be read.
        reason: String,
    },
    /// A file of a canonical savepoint.
    #[error("object {path}: {source}")]
    Canonical {
        /// Which.
        path: String,
        /// What is wrong with it.
        source: super::canonical::Malformed,
    },
    /// A segment of a log.
    #[error("object {path}, log segment at byte {offset_bytes}: {source}")]
    LogSegment {
        /// The object.
        path: String,
        /// Where in the object the segment begins.
        offset_bytes: u64,
        /// What is wrong with it.
        source: super::changelog::frame::Malformed,
    },
    /// What a checkpoint is made of could not be uploaded.
    #[error("changelog: {reason}")]
    Changelog {
        /// What went wrong.
        reason: String,
    },
    /// The store.
    #[error("store {dir}: {source}")]
    Store {
        /// Where it is.
        dir: PathBuf,
        /// What it said.
        source: crate::store::Error,
    },
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// A local file is not what was written to it.
    #[error(
        "{path}: expected {} bytes{}, found {found_len_bytes} bytes with crc32c {found:08x}",
        expected.0, expected.1.map(|crc| format!(" with crc32c {crc:08x}")).unwrap_or_default()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Length in bytes that it should have, and CRC-32C if that is known.
        expected: (u64, Option<u32>),
        /// The length it has.
        found_len_bytes: u64,
        /// The checksum it has.
        found: u32,
    },
    /// An object.
    #[error(transparent)]
    Blob(#[from] blob::Error),
}
