//! Writing a job's register and its checkpoints: the edge that executes what the pure machines decide.

use std::time::Duration;

use bytes::Bytes;
use cutwater_io::objects::Path;
use cutwater_io::{point, sometimes, time};
use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::layout::Layout;
use super::log::{Append, Fact, Outcome, Record, Step, Value, encode_record};
use super::read::{self, ReadError, call};
use super::snapshot::{CheckpointMetadata, FileHandle};
use super::{metadata, points};

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// How many deletions are under way at once.
const CONCURRENCY: usize = 8;

/// What creating an object led to.
enum Created {
    New,
    Exists,
}

async fn create(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<Created, ReadError> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let location = Path::from(path);
    let put = async {
        match store.put_opts(&location, bytes.into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    };
    call(path, put).await
}

/// Changes the register, and returns only when the outcome is known: as long as the store gives no definite answer, it
/// asks again. Dropping the future leaves the outcome unknown.
pub async fn append<V: Value>(store: &dyn ObjectStore, layout: &Layout, record: Record<V>) -> Outcome<V> {
    point!(points::BEFORE_APPEND);
    let bytes = encode_record(&record);
    let version = record.version;
    let mut append = Append::new(record);
    let mut retry = FIRST_RETRY;
    let outcome = loop {
        let fact = match append.next() {
            Step::Put => {
                create(store, &layout.log(version), bytes.clone()).await.map(|created| match created {
                    Created::New => Fact::Created,
                    Created::Exists => Fact::Exists,
                })
            }
            Step::Read => read::record(store, layout, version)
                .await
                .map(|found| found.map_or(Fact::Gone, Fact::Content)),
            Step::List => read::newest_version(store, layout, version).await.map(Fact::Newest),
            Step::Done(outcome) => break outcome.clone(),
        };
        if let Err(error) = &fact {
            tracing::warn!(%error, version, "a change of the register has an unknown outcome; asking again");
            time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
        append.learn(fact.unwrap_or(Fact::Unknown));
    };
    sometimes!(points::APPEND_RESOLVED_LANDED, append.doubted() && outcome == Outcome::Landed);
    sometimes!(points::APPEND_RESOLVED_LOST, append.doubted() && matches!(outcome, Outcome::Lost(_)));
    sometimes!(points::APPEND_SUPERSEDED, outcome == Outcome::Superseded);
    if outcome == Outcome::Landed {
        point!(points::AFTER_APPEND);
    }
    outcome
}

/// Deletes the version that became too old when `newest` landed, if the last `keep` are kept. Failing is harmless: see [`trim_all`].
pub async fn trim(store: &dyn ObjectStore, layout: &Layout, newest: u64, keep: u64) {
    if newest > keep {
        delete(store, vec![layout.log(newest - keep)]).await;
    }
}

/// Deletes every version that is too old beside `newest`: also those whose deletion failed, or whose put landed late.
pub async fn trim_all(store: &dyn ObjectStore, layout: &Layout, newest: u64, keep: u64) {
    let prefix = layout.log_prefix();
    let oldest_kept = layout.log(newest.saturating_sub(keep) + 1);
    match read::list(&prefix, store.list(Some(&Path::from(prefix.as_str())))).await {
        Ok(mut old) => {
            old.retain(|version| *version < oldest_kept);
            old.sort();
            delete(store, old).await;
        }
        Err(error) => tracing::info!(%error, "old versions are left to the next sweep"),
    }
}

/// Writes the metadata of a checkpoint whose id no one else has.
///
/// # Errors
/// If the store fails for the whole of `limit`: then the object may exist, or come to exist later.
pub async fn write_metadata(
    store: &dyn ObjectStore,
    path: String,
    checkpoint: &CheckpointMetadata,
    limit: Duration,
) -> Result<FileHandle, ReadError> {
    point!(points::BEFORE_METADATA);
    let bytes = metadata::encode(checkpoint);
    let handle = FileHandle { len_bytes: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes), path };
    let started = time::now();
    let mut retry = FIRST_RETRY;
    loop {
        let error = match create_same(store, &handle, &bytes).await {
            Ok(()) => break,
            Err(error) => error,
        };
        if started.elapsed() >= limit || matches!(error, ReadError::OtherContent { .. }) {
            return Err(error);
        }
        time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
    point!(points::AFTER_METADATA);
    Ok(handle)
}

async fn create_same(store: &dyn ObjectStore, handle: &FileHandle, bytes: &Bytes) -> Result<(), ReadError> {
    match create(store, &handle.path, bytes.clone()).await? {
        Created::New => Ok(()),
        // An earlier try of ours may have landed.
        Created::Exists => match read::get(store, &handle.path).await? {
            Some(found) if found == bytes => Ok(()),
            // S3 answers a create that raced another request with a conflict, which reads as if the object existed. Nobody
            // else has this name, so the next try decides.
            None => Err(ReadError::Vanished { path: handle.path.clone() }),
            Some(_) => Err(ReadError::OtherContent {
                path: handle.path.clone(),
                found: "something else".into(),
                expected_bytes: handle.len_bytes,
                expected_crc32c: handle.crc32c,
            }),
        },
    }
}

/// Deletes objects that nobody references any more. What cannot be deleted is left to the sweeper.
pub async fn delete(store: &dyn ObjectStore, paths: Vec<String>) {
    let deletions = paths.into_iter().map(|path| async move {
        let location = Path::from(path.as_str());
        match call(&path, store.delete(&location)).await {
            Ok(()) | Err(ReadError::Store { source: object_store::Error::NotFound { .. }, .. }) => {}
            Err(error) => tracing::info!(%error, "not deleted, left to the sweeper"),
        }
    });
    futures::stream::iter(deletions).buffered(CONCURRENCY).collect::<()>().await;
}
