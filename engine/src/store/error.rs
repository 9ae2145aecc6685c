//! What can go wrong in the store. Every error names what was done and where; damage is reported with file, offset and
//! what was found, never repaired by guessing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::background::Severity;
use super::coding::Malformed;

/// An error of the store. Cheap to clone: one failure may be the answer to many waiting callers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A call to the file system failed.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// Which call.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What it answered.
        source: Arc<io::Error>,
    },
    /// Bytes that the store wrote, and that were durable, are not what they were.
    #[error("corruption in {} at byte {offset_bytes}: {what}", file.display())]
    Corruption {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset_bytes: u64,
        /// What was found.
        what: String,
    },
    /// The file is sound, but uses a feature of RocksDB that this store does not have.
    #[error("{} uses an unsupported feature: {what}", file.display())]
    Unsupported {
        /// Which file.
        file: PathBuf,
        /// Which feature.
        what: String,
    },
    /// An option has a value that cannot work.
    #[error("option {option}: {reason}")]
    InvalidOption {
        /// The field of [`super::Options`] or [`super::FamilyOptions`].
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The request contradicts itself.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    /// Somebody else holds the directory: a store that is open, or who changes the backups in it.
    #[error("{} is locked by another store", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no store in the directory, and none was to be created.
    #[error("no store in {}", dir.display())]
    NotFound {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory of backups has none with this number.
    #[error("there is no backup {id} in {}", dir.display())]
    NoSuchBackup {
        /// The directory of backups.
        dir: PathBuf,
        /// The number.
        id: u32,
    },
    /// The target of a checkpoint, or of a restore exists.
    #[error("{} exists already", path.display())]
    AlreadyExists {
        /// The target.
        path: PathBuf,
    },
    /// The directory has families that were not to be opened. A store that is written must know all of its families.
    #[error("{} has families that were not opened: {}", dir.display(), names.join(", "))]
    FamiliesNotOpened {
        /// The directory.
        dir: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// There is no family of this name, and none was to be created.
    #[error("there is no family {name} in {}", dir.display())]
    NoSuchFamily {
        /// The directory.
        dir: PathBuf,
        /// The name.
        name: String,
    },
    /// There is a family of this name.
    #[error("there is a family {name} already")]
    FamilyExists {
        /// The name.
        name: String,
    },
    /// The family was dropped. Who has it open still reads what it held.
    #[error("the family {name} was dropped")]
    FamilyDropped {
        /// Its name.
        name: String,
    },
    /// A key has merge operands, and its family was opened without the operator for them, or that refuses them.
    #[error("the value of key {} cannot be merged: {what}", key.escape_ascii())]
    Unmergeable {
        /// The key.
        key: Vec<u8>,
        /// Why.
        what: String,
    },
    /// A key was added to a table that does not come after the one before.
    #[error("the key {} does not come after {}", key.escape_ascii(), after.escape_ascii())]
    OutOfOrder {
        /// The key.
        key: Vec<u8>,
        /// The one before.
        after: Vec<u8>,
    },
    /// The file is a sound table, and no table that this store, or this family of it, can ingest.
    #[error("{} cannot be ingested: {what}", file.display())]
    NotIngestible {
        /// The file.
        file: PathBuf,
        /// Why.
        what: String,
    },
    /// An earlier failure left the store unable to take writes; reads go on. Whether that passes says its severity; opening the store
    /// again clears it.
    #[error("writes are stopped{} since {during} failed: {source}", severity.until())]
    Background {
        /// What it takes to go on.
        severity: Severity,
        /// What was being done.
        during: &'static str,
        /// How it failed.
        source: Arc<Error>,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Damage found by a decoder whose bytes began at `base_bytes` of `file`.
    pub(crate) fn malformed(file: &Path, base_bytes: u64, m: Malformed) -> Error {
        Error::corruption(file, base_bytes + m.offset_bytes, m.what)
    }

    /// Damage.
    pub(crate) fn corruption(file: &Path, offset_bytes: u64, what: impl Into<String>) -> Error {
        Error::Corruption { file: file.to_owned(), offset_bytes, what: what.into() }
    }

    /// A feature we do not have.
    pub(crate) fn unsupported(file: &Path, what: impl Into<String>) -> Error {
        Error::Unsupported { file: file.to_owned(), what: what.into() }
    }

    /// What it takes until the store takes writes again, if this stopped them.
    pub fn severity(&self) -> Option<Severity> {
        match self {
            Error::Background { severity, .. } => Some(*severity),
            _ => None,
        }
    }

    /// True if damage of the disk's content caused it, directly or as a background error.
    pub fn is_corruption(&self) -> bool {
        match self {
            Error::Corruption { .. } => true,
            Error::Background { source, .. } => source.is_corruption(),
            _ => false,
        }
    }
}

/// Says what was done, and to what, when it failed.
pub(crate) trait IoContext<T> {
    fn during(self, op: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, op: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|e| Error::Io { op, path: path.to_owned(), source: Arc::new(e) })
    }
}
