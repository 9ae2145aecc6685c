//! The directory of a store, and whether the names in it can still be made durable.
//!
//! A sync of a directory that fails loses names for good, those of others too: the kernel counts them as clean, and whoever
//! opens and syncs the directory later is told of a success (Rebello et al., "Can Applications Recover from fsync Failures?",
//! ATC 2020). A compaction, a flush and a log make names here side by side, so the failure of one is the failure of all that
//! have not been told of a success yet. It is remembered until the store is opened again, which makes new names for all that
//! was not durable. Directories outside of the store are not watched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cutwater_io::fs;

use super::error::{Error, IoContext};

/// See the module. Clones are one directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// The first sync that failed.
    failure: OnceLock<Error>,
}

impl Directory {
    /// A directory none of whose syncs has failed.
    pub(crate) fn new(path: &Path) -> Directory {
        Directory(Arc::new(Inner { path: path.to_owned(), failure: OnceLock::new() }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes all names in it durable.
    ///
    /// # Errors
    /// Its own, or that of any sync of this directory that has failed before this one is over.
    pub(crate) async fn sync(&self) -> Result<(), Error> {
        self.check()?;
        let synced = fs::sync_dir(self.path()).await.during("sync", self.path());
        if let Err(error) = synced {
            return Err(self.0.failure.get_or_init(|| error).clone());
        }
        self.check()
    }

    fn check(&self) -> Result<(), Error> {
        self.0.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_the_answer_to_every_later_sync() {
        let parent = tempfile::tempdir().unwrap();
        let dir = Directory::new(&parent.path().join("db"));
        let also = dir.clone();
        let first = dir.sync().await.expect_err("it is not there").to_string();
        fs::create_dir(dir.path()).await.unwrap();
        assert_eq!(also.sync().await.expect_err("it was not there").to_string(), first);
        Directory::new(dir.path()).sync().await.unwrap();
    }
}
