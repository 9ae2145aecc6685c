//! The asynchronous part of a snapshot: from hard links on the local disk to objects.
//!
//! Table files that a confirmed checkpoint holds are referenced by the handle it holds them under. Every other file goes
//! under a fresh name: tables to `shared/`, where they belong to the coordinator's registry once the snapshot is
//! acknowledged; the rest to the directory of the checkpoint.
//!
//! A savepoint stands alone: every file goes to its directory and belongs to it, whatever it is. A canonical one
//! is read out of the links, entry by entry.
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
use super::canonical::Writer;
use super::{Error, dirs, points};
use crate::checkpoint::barrier::{SavepointFormat, Target};
use crate::checkpoint::snapshot::{CheckpointId, FileHandle, KeyedSnapshot, StateFormat, StoreFile};
use crate::store::{CheckpointFile, ReadOnlyOptions, ReadOnlyStore};

/// Modelled CPU of checksumming and sending a file: 1 ms for each begun 256 KiB.
const CHARGE_BYTES: u64 = 256 << 10;
/// A file of a canonical savepoint is closed when it has this many bytes: it is in memory until then.
const CANONICAL_FILE_BYTES: usize = 32 << 20;

/// Names for new objects.
pub trait Names: Send + Sync {
    /// A fresh name for a file that later checkpoints may share.
    fn shared(&self) -> String;
    /// A fresh name for a file of one checkpoint.
    fn private(&self, checkpoint: CheckpointId) -> String;
    /// A fresh name for a file of a savepoint in that directory.
    fn savepoint(&self, directory: &str) -> String;
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
    let keyed = match &snapshot.target {
        Target::Savepoint { directory, format: SavepointFormat::Canonical } => {
            let private = canonical(blobs, names, snapshot, directory, uploaded).boxed().await?;
            let (range, format) = (snapshot.range, StateFormat::canonical());
            let states = snapshot.states.clone();
            KeyedSnapshot { range, states, format, shared: Vec::new(), private, in_flight: None }
        }
        _ => as_it_is(blobs, names, snapshot, parallel, uploaded).await?,
    };
    dirs::remove(&snapshot.dir).await;
    point!(points::UPLOAD_BEFORE_ACK);
    Ok(keyed)
}

async fn as_it_is(
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
    let (shared, private): (Vec<_>, Vec<_>) = files.into_iter().partition(|(is_shared, _)| *is_shared);
    let strip = |files: Vec<(bool, StoreFile)>| files.into_iter().map(|(_, file)| file).collect();
    let (shared, private, format) = (strip(shared), strip(private), StateFormat::store());
    let (range, states) = (snapshot.range, snapshot.states.clone());
    Ok(KeyedSnapshot { range, states, format, shared, private, in_flight: None })
}

/// Reads the entries out of the links and uploads them as files of a canonical savepoint.
async fn canonical(
    blobs: &Blobs,
    names: &dyn Names,
    snapshot: &LinkedSnapshot,
    directory: &str,
    uploaded: &Uploaded,
) -> Result<Vec<StoreFile>, Error> {
    let failed = |source| Error::Store { dir: snapshot.dir.clone(), source };
    let family = "default";
    let merge_operators = snapshot.merge_operator.iter().map(|with| (family.into(), with.clone())).collect();
    let options = ReadOnlyOptions { merge_operators, ..ReadOnlyOptions::default() };
    let store = ReadOnlyStore::open(&snapshot.dir, options).await.map_err(failed)?;
    let mut entries = store.iter(family, ..).map_err(failed)?;
    let (mut files, mut writer) = (Vec::new(), Writer::default());
    while let Some((key, value)) = entries.next().await.map_err(failed)? {
        if !writer.push(&key, &value) {
            return Err(Error::Entry { dir: snapshot.dir.clone(), len_bytes: key.len() });
        }
        if writer.len_bytes() >= CANONICAL_FILE_BYTES {
            let content = std::mem::take(&mut writer).finish();
            files.push(
                put_canonical(blobs, names.savepoint(directory), files.len(), content, uploaded).await?,
            );
        }
    }
    files.push(
        put_canonical(blobs, names.savepoint(directory), files.len(), writer.finish(), uploaded).await?,
    );
    Ok(files)
}

async fn put_canonical(
    blobs: &Blobs,
    path: String,
    number: usize,
    content: Bytes,
    uploaded: &Uploaded,
) -> Result<StoreFile, Error> {
    time::charge(Duration::from_millis((content.len() as u64).div_ceil(CHARGE_BYTES))).await;
    uploaded.note(&path);
    let handle = blobs.create(&path, content).await?;
    point!(points::UPLOAD_BETWEEN_FILES);
    Ok(StoreFile { name: format!("{number:06}.state"), handle })
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
    let (is_shared, path) = match &snapshot.target {
        Target::Savepoint { directory, .. } => (false, names.savepoint(directory)),
        _ if file.immutable => (true, names.shared()),
        _ => (false, names.private(snapshot.checkpoint)),
    };
    let handle = match known {
        Some(handle) => handle.clone(),
        None => put(blobs, snapshot, file, path, uploaded).await?,
    };
    Ok((is_shared, StoreFile { name: file.name.clone(), handle }))
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
