//! The asynchronous part of a snapshot: from hard links on the local disk to objects.
//!
//! Table files that a confirmed checkpoint holds are referenced by the handle it holds them under. Every other file goes
//! under a fresh name: tables to `shared/`, where they belong to the coordinator's registry once the snapshot is
//! acknowledged; the rest to the directory of the checkpoint.
//!
//! An upload that is given up (its checkpoint was aborted before the acknowledgement) deletes what it may have written:
//! [`Uploaded`] notes each name *before* its put. A put that lands after that is an orphan, which the coordinator's sweeper
//! finds. What was acknowledged is never deleted here: the coordinator owns it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::{fs, point, sometimes, time};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::backend::LinkedSnapshot;
use super::blob::Blobs;
use super::{Error, dirs, points};
use crate::checkpoint::snapshot::{CheckpointId, FileHandle, KeyedSnapshot, StoreFile};
use crate::store::CheckpointFile;

/// Modelled CPU of checksumming and sending a file: 1 ms for each begun 256 KiB.
const CHARGE_BYTES: u64 = 256 << 10;

/// Names for new objects.
pub trait Names: Send + Sync {
    /// A fresh name for a file that later checkpoints may share.
    fn shared(&self) -> String;
    /// A fresh name for a file of one checkpoint.
    fn private(&self, checkpoint: CheckpointId) -> String;
}

/// The names under which an upload may have written something.
#[derive(Clone, Debug, Default)]
pub struct Uploaded(Arc<Mutex<Vec<String>>>);

impl Uploaded {
    /// To be called before the put.
    pub fn note(&self, path: &str) {
        self.0.lock().expect("no panic while noting").push(path.into());
    }

    /// Deletes all of it, as far as the store lets us. To be called when the upload has ended without acknowledgement.
    pub async fn discard(self, blobs: &Blobs) {
        let paths = std::mem::take(&mut *self.0.lock().expect("no panic while noting"));
        for path in &paths {
            blobs.discard(path).await;
        }
        sometimes!(points::ABORTED_CLEANED, !paths.is_empty());
    }
}

/// Uploads a snapshot and removes its links.
///
/// # Errors
/// If a local file cannot be read, is not what was written, or the object store goes on failing: there is no checkpoint.
#[tracing::instrument(name = "upload", level = "debug", skip_all)]
pub async fn upload(
    blobs: &Blobs,
    names: &dyn Names,
    snapshot: &LinkedSnapshot,
    parallel: usize,
    uploaded: &Uploaded,
) -> Result<KeyedSnapshot, Error> {
    let files = snapshot.files.files.iter();
    // Boxed, or the compiler cannot see that the whole may move between threads (rust-lang/rust#102211).
    let files: Vec<BoxFuture<'_, Result<(bool, StoreFile), Error>>> =
        files.map(|file| one(blobs, names, snapshot, file, uploaded).boxed()).collect();
    let files: Vec<(bool, StoreFile)> = stream::iter(files).buffered(parallel.max(1)).try_collect().await?;
    let (shared, private): (Vec<_>, Vec<_>) = files.into_iter().partition(|(immutable, _)| *immutable);
    let strip = |files: Vec<(bool, StoreFile)>| files.into_iter().map(|(_, file)| file).collect();
    dirs::remove(&snapshot.dir).await;
    point!(points::UPLOAD_BEFORE_ACK);
    let states = snapshot.states.clone();
    Ok(KeyedSnapshot { range: snapshot.range, states, shared: strip(shared), private: strip(private) })
}

/// Finds or uploads one file; true if it may be shared.
async fn one(
    blobs: &Blobs,
    names: &dyn Names,
    snapshot: &LinkedSnapshot,
    file: &CheckpointFile,
    uploaded: &Uploaded,
) -> Result<(bool, StoreFile), Error> {
    let known = snapshot.base.get(&file.name).filter(|_| file.immutable);
    sometimes!(points::REUSED, known.is_some());
    let handle = match known {
        Some(handle) => handle.clone(),
        None => {
            let path = if file.immutable { names.shared() } else { names.private(snapshot.checkpoint) };
            put(blobs, snapshot, file, path, uploaded).await?
        }
    };
    Ok((file.immutable, StoreFile { name: file.name.clone(), handle }))
}

async fn put(
    blobs: &Blobs,
    snapshot: &LinkedSnapshot,
    file: &CheckpointFile,
    path: String,
    uploaded: &Uploaded,
) -> Result<FileHandle, Error> {
    let local = snapshot.dir.join(&file.name);
    let content = read_whole(&local, file).await?;
    time::charge(Duration::from_millis((content.len() as u64).div_ceil(CHARGE_BYTES))).await;
    uploaded.note(&path);
    let handle = blobs.create(&path, Bytes::from(content)).await?;
    point!(points::UPLOAD_BETWEEN_FILES);
    Ok(handle)
}

/// The file, if it is what was written.
async fn read_whole(path: &Path, file: &CheckpointFile) -> Result<Vec<u8>, Error> {
    let content = fs::read(path).await.map_err(|source| Error::File { path: path.to_owned(), source })?;
    let (found, found_len_bytes) = (crc32c::crc32c(&content), content.len() as u64);
    if found_len_bytes != file.len_bytes || file.crc32c.is_some_and(|expected| expected != found) {
        sometimes!(points::UPLOAD_DAMAGED, true);
        let path = path.to_owned();
        return Err(Error::Damaged { path, expected: (file.len_bytes, file.crc32c), found_len_bytes, found });
    }
    Ok(content)
}
