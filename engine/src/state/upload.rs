//! The asynchronous part of a snapshot: from hard links on the local disk to objects.
//!
//! Table files that a confirmed checkpoint holds are referenced by the handle it holds them under. Every other file goes
//! under a fresh name: tables to `shared/`, where they belong to the coordinator's registry once the snapshot is
//! acknowledged; the rest to the directory of the checkpoint. A materialisation ([`super::changelog`]) is of no checkpoint: all of
//! it goes to `shared/`.
//!
//! Small tables may go together into one object ([`super::merging`]); what a savepoint holds never does.
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

use super::backend::{LinkedSnapshot, Purpose};
use super::blob::Blobs;
use super::canonical::Writer;
use super::{Error, dirs, merging, points};
use crate::checkpoint::barrier::{SavepointFormat, Target};
use crate::checkpoint::snapshot::{CheckpointId, KeyedSnapshot, Segment, StateFormat, StoreFile};
use crate::store::{CheckpointFile, ReadOnlyOptions, ReadOnlyStore};

/// Modelled CPU of checksumming and sending a file: 1 ms for each begun 256 KiB.
pub(super) const CHARGE_BYTES: u64 = 256 << 10;
/// A file of a canonical savepoint is closed when it has this many bytes: it is in memory until then.
const CANONICAL_FILE_BYTES: usize = 32 << 20;

/// How a snapshot is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadOptions {
    /// Files that are uploaded at the same time, at least one.
    pub parallel: usize,
    /// New tables that are shorter go together into one object; 0: each has its own.
    pub merge_files_below_bytes: u64,
}

impl Default for UploadOptions {
    fn default() -> Self {
        UploadOptions { parallel: 4, merge_files_below_bytes: 0 }
    }
}

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

    /// All of them.
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().expect("no panic while noting").clone()
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
    options: UploadOptions,
    uploaded: &Uploaded,
) -> Result<KeyedSnapshot, Error> {
    let keyed = match &snapshot.purpose {
        Purpose::Checkpoint(_, Target::Savepoint { directory, format: SavepointFormat::Canonical }) => {
            let private = canonical(blobs, names, snapshot, directory, uploaded).boxed().await?;
            let (range, format) = (snapshot.range, StateFormat::canonical());
            let states = snapshot.states.clone();
            KeyedSnapshot {
                range,
                states,
                format,
                shared: Vec::new(),
                private,
                changelog: None,
                in_flight: None,
            }
        }
        _ => as_it_is(blobs, names, snapshot, options, uploaded).await?,
    };
    dirs::remove(&snapshot.dir).await;
    point!(points::UPLOAD_BEFORE_ACK);
    sometimes!(points::MATERIALISED, matches!(snapshot.purpose, Purpose::Materialisation(_)));
    Ok(keyed)
}

/// Finds or makes one object; gives the files in it, and whether they may be shared.
type Job<'a> = BoxFuture<'a, Result<(bool, Vec<StoreFile>), Error>>;

async fn as_it_is(
    blobs: &Blobs,
    names: &dyn Names,
    snapshot: &LinkedSnapshot,
    options: UploadOptions,
    uploaded: &Uploaded,
) -> Result<KeyedSnapshot, Error> {
    let (small, others): (Vec<_>, Vec<_>) =
        snapshot.files.files.iter().partition(|file| is_merged(snapshot, file, options));
    let groups = merging::pack(small, |file| file.len_bytes, options.merge_files_below_bytes);
    // Boxed, or the compiler cannot see that the whole may move between threads (rust-lang/rust#102211).
    let mut jobs: Vec<Job<'_>> =
        others.into_iter().map(|file| one(blobs, names, snapshot, file, uploaded).boxed()).collect();
    for group in groups {
        jobs.push(match group[..] {
            [alone] => one(blobs, names, snapshot, alone, uploaded).boxed(),
            _ => merged(blobs, names, snapshot, group, uploaded).boxed(),
        });
    }
    let done: Vec<_> = stream::iter(jobs).buffered(options.parallel.max(1)).try_collect().await?;
    let (shared, private): (Vec<_>, Vec<_>) = done.into_iter().partition(|(is_shared, _)| *is_shared);
    let strip = |done: Vec<(bool, Vec<StoreFile>)>| done.into_iter().flat_map(|(_, files)| files).collect();
    let (shared, private, format) = (strip(shared), strip(private), StateFormat::store());
    let (range, states) = (snapshot.range, snapshot.states.clone());
    Ok(KeyedSnapshot { range, states, format, shared, private, changelog: None, in_flight: None })
}

/// True if the file is new and small, and may share an object with others.
fn is_merged(snapshot: &LinkedSnapshot, file: &CheckpointFile, options: UploadOptions) -> bool {
    let may_be_shared =
        file.immutable && !matches!(snapshot.purpose, Purpose::Checkpoint(_, Target::Savepoint { .. }));
    may_be_shared
        && file.len_bytes < options.merge_files_below_bytes
        && !snapshot.base.contains_key(&file.name)
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
    Ok(StoreFile::whole(format!("{number:06}.state"), handle))
}

/// Finds or uploads one file; true if it may be shared.
async fn one(
    blobs: &Blobs,
    names: &dyn Names,
    snapshot: &LinkedSnapshot,
    file: &CheckpointFile,
    uploaded: &Uploaded,
) -> Result<(bool, Vec<StoreFile>), Error> {
    let known = snapshot.base.get(&file.name).filter(|_| file.immutable);
    sometimes!(points::REUSED, known.is_some());
    sometimes!(points::SEGMENT_REUSED, known.is_some_and(|known| known.segment.is_some()));
    let (is_shared, path) = match &snapshot.purpose {
        Purpose::Checkpoint(_, Target::Savepoint { directory, .. }) => (false, names.savepoint(directory)),
        Purpose::Checkpoint(checkpoint, _) if !file.immutable => (false, names.private(*checkpoint)),
        Purpose::Checkpoint(..) | Purpose::Materialisation(_) => (true, names.shared()),
    };
    let file = match known {
        Some(known) => known.clone(),
        None => put(blobs, snapshot, file, path, uploaded).await?,
    };
    Ok((is_shared, vec![file]))
}

async fn put(
    blobs: &Blobs,
    snapshot: &LinkedSnapshot,
    file: &CheckpointFile,
    path: String,
    uploaded: &Uploaded,
) -> Result<StoreFile, Error> {
    let local = snapshot.dir.join(&file.name);
    let content = read_whole(&local, file).await?;
    time::charge(Duration::from_millis((content.len() as u64).div_ceil(CHARGE_BYTES))).await;
    uploaded.note(&path);
    let handle = blobs.create(&path, Bytes::from(content)).await?;
    point!(points::UPLOAD_BETWEEN_FILES);
    Ok(StoreFile::whole(&file.name, handle))
}

/// Uploads several tables as one object; they may be shared.
async fn merged(
    blobs: &Blobs,
    names: &dyn Names,
    snapshot: &LinkedSnapshot,
    files: Vec<&CheckpointFile>,
    uploaded: &Uploaded,
) -> Result<(bool, Vec<StoreFile>), Error> {
    let (mut content, mut segments) = (Vec::new(), Vec::new());
    for file in &files {
        let bytes = read_whole(&snapshot.dir.join(&file.name), file).await?;
        segments.push(Segment {
            offset_bytes: content.len() as u64,
            len_bytes: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
        });
        content.extend(bytes);
    }
    time::charge(Duration::from_millis((content.len() as u64).div_ceil(CHARGE_BYTES))).await;
    let path = names.shared();
    uploaded.note(&path);
    let handle = blobs.create(&path, Bytes::from(content)).await?;
    point!(points::UPLOAD_BETWEEN_FILES);
    sometimes!(points::MERGED, true);
    let segments = files.into_iter().zip(segments);
    let segments = segments.map(|(file, segment)| StoreFile {
        name: file.name.clone(),
        handle: handle.clone(),
        segment: Some(segment),
    });
    Ok((true, segments.collect()))
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
