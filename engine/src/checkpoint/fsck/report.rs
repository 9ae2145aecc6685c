//! What was found.

use std::collections::{BTreeMap, BTreeSet};

use super::Files;
use crate::checkpoint::snapshot::CheckpointMetadata;
use crate::flink;

/// What was found at a place.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All that a job retains was looked at, and not one checkpoint.
    pub is_job: bool,
    /// Checkpoints whose metadata could be read, in order.
    pub checkpoints: Vec<Checkpoint>,
    /// What a restore would fail on, each once, however many subtasks name a file.
    pub damage: BTreeSet<Damage>,
    /// What nobody names.
    pub orphans: Vec<Orphan>,
    /// Files that were looked at.
    pub files: u64,
    /// Sum of their lengths.
    pub len_bytes: u64,
    /// Files in other stores than the one given, by name; nobody has looked at them.
    pub elsewhere: BTreeSet<String>,
    /// Every path that some metadata names.
    pub(super) named: BTreeSet<String>,
}

/// A checkpoint whose metadata could be read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Of the metadata, in the store.
    pub path: String,
    /// What it says.
    pub content: Content,
}

/// See [`Checkpoint::content`].
#[derive(Clone, Debug)]
pub enum Content {
    /// Ours.
    Ours(CheckpointMetadata),
    /// Flink's.
    Flink(flink::Metadata),
}

/// A file is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The metadata that names it, in the store.
    pub metadata: String,
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub wrong: Wrong,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.wrong)
    }
}

/// See [`Damage::wrong`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Wrong {
    /// It is not there.
    #[error("missing")]
    Missing {
        /// How long it should be, if that is known.
        expected_bytes: Option<u64>,
    },
    /// A relative name leads to nothing.
    #[error(
        "missing: the metadata names it as {relative:?}, relative to its own directory, where it is not (Flink 1.20.1 reports such a checkpoint \
         as completed and cannot restore it: FLINK-39964)"
    )]
    RelativeMissing {
        /// The name in the metadata.
        relative: String,
    },
    /// A relative name leads out of the directory of the metadata.
    #[error(
        "the metadata names it as {relative:?}: that leaves the directory of the metadata, and is lost when that is moved"
    )]
    Leaves {
        /// The name in the metadata.
        relative: String,
    },
    /// It is shorter or longer.
    #[error("{found_bytes} bytes long, and should be {expected_bytes}")]
    Length {
        /// How long it is.
        found_bytes: u64,
        /// How long it should be.
        expected_bytes: u64,
    },
    /// It is shorter than a part of it that is named.
    #[error("{found_bytes} bytes long, and a part of it up to byte {expected_bytes} is named")]
    Segment {
        /// How long it is.
        found_bytes: u64,
        /// How long it should be at least.
        expected_bytes: u64,
    },
    /// A part of it should be a segment of a log.
    #[error("log segment at byte {offset_bytes}: {reason}")]
    LogSegment {
        /// Where it begins.
        offset_bytes: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It has the right length and other bytes.
    #[error("checksum {found_crc32c:08x}, and should be {expected_crc32c:08x}")]
    Checksum {
        /// Of the content.
        found_crc32c: u32,
        /// As recorded.
        expected_crc32c: u32,
    },
    /// The file is right, and a part of it that is named as a file of a store is not what was written there.
    #[error(
        "{len_bytes} bytes from {offset_bytes} on: checksum {found_crc32c:08x}, and should be {expected_crc32c:08x}"
    )]
    SegmentChecksum {
        /// Where the part begins.
        offset_bytes: u64,
        /// How long it is.
        len_bytes: u64,
        /// Of the content.
        found_crc32c: u32,
        /// As recorded.
        expected_crc32c: u32,
    },
    /// The metadata cannot be read.
    #[error("metadata: {reason}")]
    Metadata {
        /// Why.
        reason: String,
    },
    /// The register of the job cannot be read.
    #[error("register: {reason}")]
    Register {
        /// Why.
        reason: String,
    },
    /// The metadata contradicts itself.
    #[error("inconsistent: {reason}")]
    Inconsistent {
        /// How.
        reason: String,
    },
    /// The store fails to give it.
    #[error("unreadable: {reason}")]
    Unreadable {
        /// What the store said.
        reason: String,
    },
}

/// A file that nobody names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The file.
    pub path: String,
    /// How long it is, if it was listed with it.
    pub len_bytes: u64,
}

impl Report {
    /// Whether everything that was looked at could be restored.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    pub(super) fn damage(&mut self, metadata: &str, path: &str, wrong: Wrong) {
        self.damage.insert(Damage { metadata: metadata.into(), path: path.into(), wrong });
    }

    /// What was listed and nobody names, but `own`.
    pub(super) fn orphans_among(&mut self, listed: BTreeMap<String, u64>, own: &str) {
        let metadata: BTreeSet<&str> =
            self.checkpoints.iter().map(|checkpoint| checkpoint.path.as_str()).collect();
        let damaged: BTreeSet<&str> = self.damage.iter().map(|damage| damage.metadata.as_str()).collect();
        let is_orphan = |path: &str| {
            path != own && !self.named.contains(path) && !metadata.contains(path) && !damaged.contains(path)
        };
        let orphans = listed.into_iter().filter(|(path, _)| is_orphan(path));
        self.orphans = orphans.map(|(path, len_bytes)| Orphan { path, len_bytes }).collect();
    }

    pub(super) fn counted(mut self, files: &Files) -> Report {
        let found: Vec<u64> = files.seen.values().flatten().map(|seen| seen.len_bytes).collect();
        (self.files, self.len_bytes) = (found.len() as u64, found.iter().sum());
        self
    }
}
