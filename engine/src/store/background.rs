//! Background errors: what a failure leaves the store able to do. Pure.
//!
//! A failure while a write is logged, a memtable is flushed or an edit is written stops writes. What comes then is a matter of its
//! severity (RocksDB's `db/error_handler.cc` has more of them):
//!
//! - [`Severity::OutOfSpace`]: nothing is wrong with what is there. Writes are refused until there is space, and then go on by
//!   themselves; how is said in `resume`. What could not be decided meanwhile, an edit that may be in the MANIFEST or not, is
//!   decided by then, and the files of both outcomes are kept until it is.
//! - [`Severity::Fatal`]: the disk has failed, and nobody knows what it holds. The store takes writes again when it is opened anew.
//!   A sync that failed is among these even if it failed for space, where it was that of the directory: whose names are
//!   durable cannot be found out again, while a file that was not synced is given up and written anew.
//!
//! A compaction that finds no space stops nothing: it is tried again later. But if writes wait for compactions, as level 0 is full, it
//! is the store that ran out of space, and who waits is told.

use std::io::ErrorKind;
use std::path::Path;

use super::error::Error;
use super::filenames::FileKind;

/// What a failure leaves the store able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Writes are refused until there is space again; the store finds out by itself, or is asked to by
    /// [`Store::resume`](super::Store::resume).
    OutOfSpace,
    /// Writes are refused until the store is opened again.
    Fatal,
}

/// What stopped writes.
#[derive(Debug)]
pub(crate) struct Background {
    /// The first failure, or the first that is fatal.
    error: Error,
    severity: Severity,
    /// There may be space: flushes are tried.
    pub(crate) is_retrying: bool,
    /// Somebody wants it to be tried now.
    pub(crate) is_retry_wanted: bool,
    /// What nothing names, if what is in memory is what is on the disk.
    pub(crate) doubtful: Vec<FileKind>,
}

impl Severity {
    /// How long writes are stopped, for a message.
    pub(crate) fn until(self) -> &'static str {
        match self {
            Severity::OutOfSpace => " until there is space,",
            Severity::Fatal => "",
        }
    }

    /// That of a failure in the store of this directory.
    pub(crate) fn of(error: &Error, dir: &Path) -> Severity {
        if is_missing_space(error, dir) { Severity::OutOfSpace } else { Severity::Fatal }
    }
}

/// True if a call to the file system found no space, and nothing but space is missing for another one to do the same. `dir` is the
/// directory of the store.
pub(crate) fn is_missing_space(error: &Error, dir: &Path) -> bool {
    let Error::Io { op, path, source } = error else { return false };
    let loses_names = *op == "sync" && path == dir;
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) && !loses_names
}

impl Background {
    fn new(error: Error, severity: Severity) -> Background {
        Background { error, severity, is_retrying: false, is_retry_wanted: false, doubtful: Vec::new() }
    }

    /// What writers are told.
    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    pub(crate) fn is_fatal(&self) -> bool {
        self.severity == Severity::Fatal
    }

    /// True if what is in memory may be written to tables.
    pub(crate) fn lets_flush(background: Option<&Background>) -> bool {
        background.is_none_or(|background| background.is_retrying)
    }

    /// Takes another failure to account, and what is in doubt since. An attempt to resume that is under way has failed with it. Returns
    /// what writers are told from now on.
    pub(crate) fn add(
        slot: &mut Option<Background>,
        error: Error,
        severity: Severity,
        in_doubt: Vec<FileKind>,
    ) -> &Error {
        let background = slot.get_or_insert_with(|| Background::new(error.clone(), severity));
        if severity == Severity::Fatal && !background.is_fatal() {
            (background.error, background.severity) = (error, severity);
        }
        background.is_retrying = false;
        background.doubtful.extend(in_doubt);
        &background.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error::IoContext;

    const DIR: &str = "/db";

    fn failed(op: &'static str, path: &str, kind: ErrorKind) -> Error {
        let failed: std::io::Result<()> = Err(kind.into());
        failed.during(op, Path::new(path)).unwrap_err()
    }

    fn severity(op: &'static str, path: &str, kind: ErrorKind) -> Severity {
        Severity::of(&failed(op, path, kind), Path::new(DIR))
    }

    #[test]
    fn only_what_is_missing_comes_back() {
        assert_eq!(severity("write", "/db/000007.log", ErrorKind::StorageFull), Severity::OutOfSpace);
        assert_eq!(severity("sync", "/db/000007.log", ErrorKind::QuotaExceeded), Severity::OutOfSpace);
        assert_eq!(severity("sync", "/db/000007.log", ErrorKind::Other), Severity::Fatal);
        assert_eq!(severity("sync", "/db", ErrorKind::StorageFull), Severity::Fatal);
        assert_eq!(Severity::of(&Error::Closed, Path::new(DIR)), Severity::Fatal);
    }

    #[test]
    fn the_worst_failure_counts_and_of_equal_ones_the_first() {
        let mut slot = None;
        let add = |slot: &mut Option<Background>, number: u64, kind, severity| {
            let error = failed("write", &format!("/db/{number}"), kind);
            Background::add(slot, error, severity, vec![FileKind::Table(number)]).to_string()
        };
        add(&mut slot, 1, ErrorKind::StorageFull, Severity::OutOfSpace);
        assert!(!Background::lets_flush(slot.as_ref()));
        slot.as_mut().unwrap().is_retrying = true;
        assert!(Background::lets_flush(slot.as_ref()));
        let told = add(&mut slot, 2, ErrorKind::StorageFull, Severity::OutOfSpace);
        assert!(told.contains("/db/1") && !slot.as_ref().unwrap().is_retrying, "{told}");
        let told = add(&mut slot, 3, ErrorKind::Other, Severity::Fatal);
        assert!(told.contains("/db/3"), "{told}");
        let told = add(&mut slot, 4, ErrorKind::StorageFull, Severity::OutOfSpace);
        let background = slot.unwrap();
        assert!(told.contains("/db/3") && background.is_fatal(), "{told}");
        assert_eq!(background.doubtful, [1, 2, 3, 4].map(FileKind::Table));
    }
}
