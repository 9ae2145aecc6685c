//! Reading a job's register and its checkpoints: for coordinators, oracles and tools.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::objects::Path;
use cutwater_io::time;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::envelope::Malformed;
use super::job_state::{CompletedCheckpoint, JobState};
use super::layout::{InvalidName, Layout, Object};
use super::log::{Record, Value, decode_record};
use super::metadata::{self, MetadataError};
use super::snapshot::{CheckpointMetadata, FileHandle};

/// How long one call to the store may take before its outcome counts as unknown.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest object of the register or of a checkpoint's metadata that is read, in bytes.
const MAX_OBJECT_BYTES: u64 = 256 << 20;

/// How many names of a listing are taken at once; as many as S3 gives in one answer.
const ANSWER_KEYS: usize = 1000;

/// How many objects are asked for at once.
const CONCURRENCY: usize = 16;

/// Something of a job could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The job cannot exist.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The store failed.
    #[error("{path}: {source}")]
    Store {
        /// The object or prefix.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The store did not answer.
    #[error("{path}: no answer within {CALL_TIMEOUT:?}")]
    TimedOut {
        /// The object or prefix.
        path: String,
    },
    /// The store said that the object exists, and then that it does not.
    #[error("{path}: exists, and cannot be found")]
    Vanished {
        /// The object.
        path: String,
    },
    /// There is no checkpoint or savepoint where one was looked for.
    #[error("{path}: there is no checkpoint or savepoint: neither this object nor {path}/_metadata exists")]
    NoCheckpoint {
        /// Where.
        path: String,
    },
    /// A version of the register is damaged.
    #[error("{path}: {reason}")]
    Record {
        /// The object.
        path: String,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// A checkpoint's metadata is damaged.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// An object is not the one that was written.
    #[error("{path}: {found}, expected {expected_bytes} bytes with checksum {expected_crc32c:08x}")]
    OtherContent {
        /// The object.
        path: String,
        /// What there is.
        found: String,
        /// Length of what was written.
        expected_bytes: u64,
        /// CRC-32C of what was written.
        expected_crc32c: u32,
    },
}

impl ReadError {
    /// True if the store failed, rather than what was read from it.
    pub fn is_transient(&self) -> bool {
        matches!(self, ReadError::Store { .. } | ReadError::TimedOut { .. } | ReadError::Vanished { .. })
    }
}

/// Runs one call to the store with its time limit.
pub(super) async fn call<T>(
    path: &str,
    call: impl Future<Output = object_store::Result<T>>,
) -> Result<T, ReadError> {
    match time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ReadError::Store { path: path.into(), source }),
        Err(time::Elapsed) => Err(ReadError::TimedOut { path: path.into() }),
    }
}

/// The object's bytes; `None` if it does not exist.
pub(super) async fn get(store: &dyn ObjectStore, path: &str) -> Result<Option<Bytes>, ReadError> {
    let read = async {
        let result = match store.get(&Path::from(path)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        if result.meta.size > MAX_OBJECT_BYTES {
            let source = format!("{} bytes are more than {MAX_OBJECT_BYTES}", result.meta.size).into();
            return Err(object_store::Error::Generic { store: "cutwater", source });
        }
        result.bytes().await.map(Some)
    };
    call(path, read).await
}

/// All that a listing names. The time limit is for each answer of the store, and a long listing takes many.
pub(super) async fn list(
    prefix: &str,
    listing: impl Stream<Item = object_store::Result<ObjectMeta>>,
) -> Result<Vec<String>, ReadError> {
    let mut answers = pin!(listing.map_ok(|meta| meta.location.to_string()).try_ready_chunks(ANSWER_KEYS));
    let mut names = Vec::new();
    loop {
        let answer = async { answers.try_next().await.map_err(|error| error.1) };
        match call(prefix, answer).await? {
            Some(some) => names.extend(some),
            None => return Ok(names),
        }
    }
}

/// The highest version at or above `from` in the register; 0 if there is none.
pub(crate) async fn newest_version(
    store: &dyn ObjectStore,
    layout: &Layout,
    from: u64,
) -> Result<u64, ReadError> {
    let prefix = layout.log_prefix();
    // The offset is exclusive.
    let offset = Path::from(layout.log(from.saturating_sub(1)));
    let names = list(&prefix, store.list_with_offset(Some(&Path::from(prefix.as_str())), &offset)).await?;
    let version = |name: &String| match layout.parse(name) {
        Some(Object::Log { version }) => Some(version),
        _ => None,
    };
    Ok(names.iter().filter_map(version).max().unwrap_or(0))
}

/// A version of the register; `None` if it does not exist.
pub(super) async fn record<V: Value>(
    store: &dyn ObjectStore,
    layout: &Layout,
    version: u64,
) -> Result<Option<Result<Record<V>, Malformed>>, ReadError> {
    let Some(bytes) = get(store, &layout.log(version)).await? else { return Ok(None) };
    Ok(Some(decode_record::<V>(&bytes).and_then(|record| match record.version {
        found if found == version => Ok(record),
        found => Err(Malformed::Inconsistent(format!("holds version {found}"))),
    })))
}

/// The truth about a job or a cluster: the highest version of its register; `None` if it never had one.
///
/// # Errors
/// If the store fails or the version is damaged. An older version is never taken instead.
pub async fn newest_record<V: Value>(
    store: &dyn ObjectStore,
    layout: &Layout,
) -> Result<Option<Record<V>>, ReadError> {
    loop {
        let newest = newest_version(store, layout, 0).await?;
        if newest == 0 {
            return Ok(None);
        }
        // Absent means deleted as old since it was listed: there are newer ones now.
        if let Some(record) = record(store, layout, newest).await? {
            return record.map(Some).map_err(|reason| ReadError::Record { path: layout.log(newest), reason });
        }
    }
}

/// The state of `job`; `None` if it never had a leader.
///
/// # Errors
/// As [`newest_record`].
pub async fn load_job_state(store: &dyn ObjectStore, job: &str) -> Result<Option<JobState>, ReadError> {
    Ok(newest_record(store, &Layout::new(job)?).await?.map(|record: Record| *record.state))
}

/// The metadata of a completed checkpoint.
///
/// # Errors
/// If the store fails, or the object is missing, damaged or not the one that was recorded.
pub async fn load_metadata(
    store: &dyn ObjectStore,
    checkpoint: &CompletedCheckpoint,
) -> Result<CheckpointMetadata, ReadError> {
    let handle = &checkpoint.metadata;
    let Some(bytes) = get(store, &handle.path).await? else {
        return Err(other_content(handle, "nothing".into()));
    };
    let (len_bytes, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
    if (len_bytes, crc32c) != (handle.len_bytes, handle.crc32c) {
        return Err(other_content(handle, format!("{len_bytes} bytes with checksum {crc32c:08x}")));
    }
    Ok(metadata::decode(&bytes, &handle.path)?)
}

/// The checkpoint or savepoint at `path`, which is its directory or its metadata object, under whatever name.
///
/// # Errors
/// If there is neither, the store fails, or the object is not metadata.
pub async fn resolve(
    store: &dyn ObjectStore,
    path: &str,
) -> Result<(FileHandle, CheckpointMetadata), ReadError> {
    // In this order: below an object a file system has no names to ask for.
    let (path, bytes) = match get(store, path).await? {
        Some(bytes) => (path.to_owned(), bytes),
        None => {
            let in_directory = Layout::metadata_in(path);
            match get(store, &in_directory).await? {
                Some(bytes) => (in_directory, bytes),
                None => return Err(ReadError::NoCheckpoint { path: path.into() }),
            }
        }
    };
    let found = metadata::decode(&bytes, &path)?;
    let handle = FileHandle { len_bytes: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes), path };
    Ok((handle, found))
}

/// Checks that every file a checkpoint needs is there with its length. A staged transaction may instead be committed
/// already. (Checksums are for the tasks to check as they read.)
///
/// # Errors
/// If the store fails, or a file is missing or has another length.
pub async fn verify_files(
    store: &dyn ObjectStore,
    layout: &Layout,
    checkpoint: &CheckpointMetadata,
) -> Result<(), ReadError> {
    let mut needed = Vec::new();
    for state in checkpoint.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
        let staged: BTreeMap<&str, &str> =
            state.transactions().iter().map(|t| (t.staged.path.as_str(), t.id.as_str())).collect();
        for handle in state.shared_files().chain(state.private_files()) {
            let committed =
                |id: &&str| Layout::output_of(&handle.path, id).unwrap_or_else(|| layout.output(id));
            let instead = staged.get(handle.path.as_str()).map(committed);
            needed.push((handle.clone(), instead));
        }
    }
    let checks = needed.into_iter().map(|(handle, instead)| verify_file(store, handle, instead));
    futures::stream::iter(checks).buffered(CONCURRENCY).try_collect().await
}

async fn verify_file(
    store: &dyn ObjectStore,
    handle: FileHandle,
    instead: Option<String>,
) -> Result<(), ReadError> {
    match size(store, &handle.path).await? {
        Some(len_bytes) if len_bytes == handle.len_bytes => Ok(()),
        Some(len_bytes) => Err(other_content(&handle, format!("{len_bytes} bytes"))),
        None => match instead {
            Some(committed) if size(store, &committed).await?.is_some() => Ok(()),
            _ => Err(other_content(&handle, "nothing".into())),
        },
    }
}

pub(super) async fn size(store: &dyn ObjectStore, path: &str) -> Result<Option<u64>, ReadError> {
    let location = Path::from(path);
    let head = async {
        match store.head(&location).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    call(path, head).await
}

fn other_content(handle: &FileHandle, found: String) -> ReadError {
    let FileHandle { path, len_bytes, crc32c } = handle.clone();
    ReadError::OtherContent { path, found, expected_bytes: len_bytes, expected_crc32c: crc32c }
}

/// Every object of a job that a sweep may have to judge: of checkpoints, of shared state, staged output; and what lies in
/// the `abandoned` directories.
pub(crate) async fn list_sweepable(
    store: &dyn ObjectStore,
    layout: &Layout,
    abandoned: &BTreeSet<String>,
) -> Result<Vec<String>, ReadError> {
    let job = layout.job();
    let root = Path::from(job);
    let top = call(job, store.list_with_delimiter(Some(&root))).await?;
    let swept = |prefix: &&Path| {
        prefix
            .parts()
            .nth(1)
            .is_some_and(|p| p.as_ref().starts_with("chk-") || ["shared", "sink"].contains(&p.as_ref()))
    };
    let mut listed = Vec::new();
    for prefix in top.common_prefixes.iter().filter(swept) {
        listed.extend(list(prefix.as_ref(), store.list(Some(prefix))).await?);
    }
    for directory in abandoned {
        let prefix = Path::from(directory.as_str());
        listed.extend(list(directory, store.list(Some(&prefix))).await?);
    }
    listed.sort();
    Ok(listed)
}
