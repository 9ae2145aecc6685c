//! Open tables, by number, and the cache of their blocks. A table stays open until its file is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::error::Error;
use super::filenames::FileKind;
use super::shared::lock;
use super::table::{BlockCache, BlockCacheStats, Table};
use super::version::FileMeta;

/// The open tables of a directory.
#[derive(Debug)]
pub(crate) struct TableCache {
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<Table>>>,
    blocks: Option<Arc<BlockCache>>,
}

impl TableCache {
    /// Without a budget blocks are not cached.
    pub(crate) fn new(dir: &Path, block_cache_bytes: u64) -> Self {
        let blocks = (block_cache_bytes > 0).then(|| Arc::new(BlockCache::new(block_cache_bytes)));
        TableCache { dir: dir.to_owned(), open: Mutex::default(), blocks }
    }

    /// The table, opened if it is not.
    pub(crate) async fn open(&self, file: &FileMeta) -> Result<Arc<Table>, Error> {
        if let Some(table) = lock(&self.open).get(&file.number) {
            return Ok(table.clone());
        }
        let path = FileKind::Table(file.number).path(&self.dir);
        // Boxed, as few calls come here and all that wait for this one would be as large as it.
        let table = Arc::new(Box::pin(Table::open(&path, file, self.blocks.clone())).await?);
        Ok(lock(&self.open).entry(file.number).or_insert(table).clone())
    }

    /// Opens the table anew, without what is remembered of it or of its blocks.
    pub(crate) async fn open_fresh(&self, file: &FileMeta) -> Result<Arc<Table>, Error> {
        let path = FileKind::Table(file.number).path(&self.dir);
        Table::open(&path, file, None).await.map(Arc::new)
    }

    /// Closes the table once nobody reads it.
    pub(crate) fn evict(&self, number: u64) {
        lock(&self.open).remove(&number);
        if let Some(blocks) = &self.blocks {
            blocks.remove_table(number);
        }
    }

    /// What the cache of blocks has done; nothing was and is in it if there is none.
    pub(crate) fn block_cache(&self) -> BlockCacheStats {
        self.blocks.as_ref().map(|blocks| blocks.stats()).unwrap_or_default()
    }
}
