//! The files of a store that are read: its tables and blob files, open as long as they are needed. And what the store counts, as every
//! read of them does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::BlobCache;
use super::statistics::Counters;
use super::tables::TableCache;

/// See the module. Clones share what is open.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    pub(crate) tables: Arc<TableCache>,
    pub(crate) blobs: Arc<BlobCache>,
    pub(crate) counters: Arc<Counters>,
}

impl Files {
    /// Those in a directory; nothing is open yet.
    pub(crate) fn new(dir: &Path, block_cache_bytes: u64) -> Files {
        Files {
            dir: dir.to_owned(),
            tables: Arc::new(TableCache::new(dir, block_cache_bytes)),
            blobs: Arc::new(BlobCache::new(dir)),
            counters: Arc::default(),
        }
    }
}
