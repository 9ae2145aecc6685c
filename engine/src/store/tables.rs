//! Open tables, by number. A table stays open until its file is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::error::Error;
use super::filenames::FileKind;
use super::shared::lock;
use super::table::Table;
use super::version::FileMeta;

/// The open tables of a directory.
#[derive(Debug)]
pub(crate) struct TableCache {
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<Table>>>,
}

impl TableCache {
    pub(crate) fn new(dir: &Path) -> Self {
        TableCache { dir: dir.to_owned(), open: Mutex::default() }
    }

    /// The table, opened if it is not.
    pub(crate) async fn open(&self, file: &FileMeta) -> Result<Arc<Table>, Error> {
        if let Some(table) = lock(&self.open).get(&file.number) {
            return Ok(table.clone());
        }
        let path = FileKind::Table(file.number).path(&self.dir);
        let table = Arc::new(Table::open(&path, file).await?);
        Ok(lock(&self.open).entry(file.number).or_insert(table).clone())
    }

    /// Opens the table anew, without what is remembered of it.
    pub(crate) async fn open_fresh(&self, file: &FileMeta) -> Result<Arc<Table>, Error> {
        let path = FileKind::Table(file.number).path(&self.dir);
        Table::open(&path, file).await.map(Arc::new)
    }

    /// Closes the table once nobody reads it.
    pub(crate) fn evict(&self, number: u64) {
        lock(&self.open).remove(&number);
    }
}
