//! Open blob files, by number, and the values in them. A file stays open until it is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::format::BlobIndex;
use super::reader::BlobReader;
use crate::store::error::Error;
use crate::store::filenames::FileKind;
use crate::store::shared::lock;
use crate::store::version::{BlobFile, BlobFiles};

/// The open blob files of a directory.
#[derive(Debug)]
pub(crate) struct BlobCache {
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<BlobReader>>>,
}

impl BlobCache {
    pub(crate) fn new(dir: &Path) -> BlobCache {
        BlobCache { dir: dir.to_owned(), open: Mutex::default() }
    }

    /// The value of `key` that a table says lies where `index` tells, in one of `files`.
    pub(crate) async fn value(&self, files: &BlobFiles, key: &[u8], index: &[u8]) -> Result<Vec<u8>, Error> {
        let index = self.decode(key, index)?;
        self.reader(files, &index).await?.get(key, &index).await
    }

    /// The file of `files` in which a value lies.
    pub(crate) async fn reader(
        &self,
        files: &BlobFiles,
        index: &BlobIndex,
    ) -> Result<Arc<BlobReader>, Error> {
        let path = FileKind::Blob(index.file).path(&self.dir);
        let file = files.get(index.file);
        let file = file.ok_or_else(|| {
            Error::corruption(&path, 0, "a table has a value in it, and the MANIFEST not it")
        })?;
        self.open(file).await
    }

    /// What an entry of `key` says of the place of its value.
    pub(crate) fn decode(&self, key: &[u8], index: &[u8]) -> Result<BlobIndex, Error> {
        BlobIndex::decode(index).map_err(|m| {
            let what =
                format!("the entry of {} does not say where its value lies: {}", key.escape_ascii(), m.what);
            Error::corruption(&self.dir, 0, what)
        })
    }

    /// The file, opened if it is not.
    pub(crate) async fn open(&self, file: &BlobFile) -> Result<Arc<BlobReader>, Error> {
        if let Some(reader) = lock(&self.open).get(&file.added.number) {
            return Ok(reader.clone());
        }
        let reader = Arc::new(self.open_fresh(file).await?);
        Ok(lock(&self.open).entry(file.added.number).or_insert(reader).clone())
    }

    /// Opens the file anew.
    pub(crate) async fn open_fresh(&self, file: &BlobFile) -> Result<BlobReader, Error> {
        BlobReader::open(&FileKind::Blob(file.added.number).path(&self.dir), file.family, &file.added).await
    }

    /// Closes the file once nobody reads it.
    pub(crate) fn evict(&self, number: u64) {
        lock(&self.open).remove(&number);
    }
}
