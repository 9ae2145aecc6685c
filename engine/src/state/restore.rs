//! From the snapshots of a checkpoint back to a store.
//!
//! A snapshot of exactly the subtask's key groups is opened as it is, and its table files are the base of the next
//! increment: they are in the object store already, and confirmed. Otherwise (the parallelism changed) each snapshot that
//! overlaps is opened in turn and the entries within the new range are copied into a new store, so that no key outside of
//! the range is there to be seen, now or after a compaction. A canonical snapshot is always copied: of its files only the
//! blocks with key groups of the range are read.
//!
//! A log ([`super::changelog`]) is replayed over its base, in the same way.
//!
//! Every file is checked by length and CRC-32C (a segment of an object by its own; the rest of the object is not read), and the names in a snapshot are not trusted: they may not leave the
//! directory. A restore works in a directory of its own and begins by wiping it, so that it can be interrupted and begun
//! again; it changes nothing in the object store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::{fs, point, sometimes, time};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::blob::Blobs;
use super::changelog::keyed::Restored;
use super::changelog::replay::replay;
use super::timers::{self, TIMERS};
use super::{Error, KeyedState, canonical, dirs, key_groups, points};
use crate::checkpoint::snapshot::{
    KeyGroupRange, KeyedSnapshot, StateFormat, StateKind, StateSchema, StoreFile,
};
use crate::store::{Options, Store, WriteBatch};

/// Files downloaded at the same time.
const PARALLEL_DOWNLOADS: usize = 4;
/// A batch of copied entries is written when it has this many.
const CLIP_BATCH_ENTRIES: usize = 256;

/// The state of a subtask from snapshots of a completed checkpoint; from nothing if there are none.
///
/// # Errors
/// If the snapshots do not cover the range, an object is missing or not the one that was written, or a store cannot be
/// opened. Nothing is used of a snapshot that is not whole.
#[tracing::instrument(name = "restore", level = "debug", skip_all)]
pub async fn restore(
    blobs: &Blobs,
    dir: &Path,
    options: Options,
    range: KeyGroupRange,
    max_parallelism: u16,
    snapshots: &[KeyedSnapshot],
) -> Result<KeyedState, Error> {
    dirs::remove(dir).await;
    create_dir(dir).await?;
    covered(range, snapshots)?;
    for snapshot in snapshots {
        let format = |reason| Error::Format { range: snapshot.range, reason };
        snapshot.format.check().map_err(format)?;
        snapshot.check_segments().map_err(format)?;
        check_names(snapshot)?;
    }
    let mut state = match snapshots {
        [] => KeyedState::open(dir, options, range, max_parallelism, &[]).await?,
        [one] if one.range == range && one.format == StateFormat::store() => {
            download(blobs, &dir.join("db"), one).await?;
            point!(points::RESTORE_AFTER_DOWNLOAD);
            let mut state = KeyedState::open(dir, options, range, max_parallelism, &one.shared).await?;
            state.set_restored(Restored::AsItWas(Box::new(one.clone())));
            replay(blobs, one, &state).await?;
            state
        }
        several => {
            sometimes!(points::RESCALED, several.iter().any(|snapshot| snapshot.range != range));
            let mut state = KeyedState::open(dir, options.clone(), range, max_parallelism, &[]).await?;
            state.set_restored(Restored::Copied);
            for (i, snapshot) in several.iter().enumerate() {
                if snapshot.format == StateFormat::canonical() {
                    load(blobs, snapshot, &state).await?;
                } else {
                    let source = dir.join(format!("source-{i}"));
                    clip(blobs, &source, options.clone(), snapshot, &state).await?;
                    replay(blobs, snapshot, &state).await?;
                }
            }
            state
        }
    };
    for snapshot in snapshots {
        state.adopt_schema(&snapshot.states)?;
    }
    if !snapshots.is_empty() {
        state.load_timers().await?;
    }
    point!(points::RESTORE_DONE);
    Ok(state)
}

/// Each key group of the range is in exactly one snapshot, or there is no snapshot at all.
fn covered(range: KeyGroupRange, snapshots: &[KeyedSnapshot]) -> Result<(), Error> {
    if snapshots.is_empty() {
        return Ok(());
    }
    for key_group in range.first..=range.last {
        let holders =
            snapshots.iter().filter(|s| (s.range.first..=s.range.last).contains(&key_group)).count();
        if holders != 1 {
            return Err(Error::Uncovered { key_group, range });
        }
    }
    Ok(())
}

/// A plain name, of the characters that names of store files are made of.
fn check_names(snapshot: &KeyedSnapshot) -> Result<(), Error> {
    let plain = |name: &str| {
        let tame = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(tame)
    };
    match files(snapshot).find(|file| !plain(&file.name)) {
        None => Ok(()),
        Some(file) => Err(Error::FileName { name: file.name.clone(), range: snapshot.range }),
    }
}

fn files(snapshot: &KeyedSnapshot) -> impl Iterator<Item = &StoreFile> {
    snapshot.shared.iter().chain(&snapshot.private)
}

async fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).await.map_err(|source| Error::File { path: dir.to_path_buf(), source })
}

async fn download(blobs: &Blobs, dir: &Path, snapshot: &KeyedSnapshot) -> Result<(), Error> {
    create_dir(dir).await?;
    // Boxed for the same reason as uploads are.
    let downloads: Vec<_> = files(snapshot).map(|file| one(blobs, dir, file).boxed()).collect();
    stream::iter(downloads).buffered(PARALLEL_DOWNLOADS).try_collect::<()>().await
}

async fn one(blobs: &Blobs, dir: &Path, file: &StoreFile) -> Result<(), Error> {
    let content = match &file.segment {
        None => blobs.read(&file.handle).await?,
        Some(segment) => blobs.read_segment(&file.handle, segment).await?,
    };
    let path = dir.join(&file.name);
    write(&path, content).await.map_err(|source| Error::File { path, source })
}

async fn write(path: &PathBuf, content: Bytes) -> std::io::Result<()> {
    // A name twice in one snapshot would be two contents for one file: `create_new` refuses the second.
    let file = fs::File::create_new(path).await?;
    file.write_all_at(&content, 0).await
}

/// Copies what the files of a canonical snapshot hold of the state's range.
async fn load(blobs: &Blobs, snapshot: &KeyedSnapshot, into: &KeyedState) -> Result<(), Error> {
    let Some(both) = key_groups::intersect(snapshot.range, into.range()) else { return Ok(()) };
    for StoreFile { handle, .. } in files(snapshot) {
        let malformed = |source| Error::Canonical { path: handle.path.clone(), source };
        let foreign = || malformed(canonical::Malformed::Foreign);
        let footer_at = handle.len_bytes.checked_sub(canonical::FOOTER_BYTES).ok_or_else(foreign)?;
        let footer = blobs.read_part(handle, footer_at..handle.len_bytes).await?;
        let index_at = canonical::read_footer(&footer, handle.len_bytes).map_err(malformed)?;
        let index = blobs.read_part(handle, index_at.offset_bytes..footer_at).await?;
        let index = canonical::read_index(&index, index_at).map_err(malformed)?;
        let mut batch = WriteBatch::new();
        let mut count = 0;
        for block in canonical::blocks_of(&index, both) {
            let part = block.offset_bytes..block.offset_bytes + u64::from(block.len_bytes);
            let bytes = blobs.read_part(handle, part).await?;
            for entry in canonical::read_block(&bytes, block).map_err(malformed)? {
                // Who wrote the file may have counted key groups otherwise.
                let group = key_of(&snapshot.states, entry.state, &entry.key)
                    .map(|key| key_groups::key_group(&key, into.max_parallelism()));
                if group != Some(entry.key_group) {
                    return Err(malformed(canonical::Malformed::Content {
                        what: "a key of another key group",
                    }));
                }
                batch.put(&entry.store_key(), &entry.value);
                count += 1;
                if count % CLIP_BATCH_ENTRIES == 0 {
                    into.adopt(std::mem::take(&mut batch)).await?;
                    time::charge(Duration::from_millis(1)).await;
                    point!(points::RESTORE_CLIPPING);
                }
            }
        }
        if count % CLIP_BATCH_ENTRIES != 0 {
            into.adopt(batch).await?;
        }
    }
    Ok(())
}

/// The user key in what follows the state id in a store's key; `None` if the state is none of these, or it is malformed.
fn key_of(states: &[StateSchema], state: u16, rest: &Bytes) -> Option<Bytes> {
    if state == TIMERS.0 {
        return Some(timers::decode(rest)?.key);
    }
    match states.iter().find(|schema| schema.id == state)?.kind {
        StateKind::Value | StateKind::Reducing => Some(rest.clone()),
        StateKind::List | StateKind::Map => key_groups::key_of_entry(rest).map(Bytes::copy_from_slice),
    }
}

/// Copies what the snapshot holds of the state's range.
async fn clip(
    blobs: &Blobs,
    dir: &Path,
    options: Options,
    snapshot: &KeyedSnapshot,
    into: &KeyedState,
) -> Result<(), Error> {
    let Some(both) = key_groups::intersect(snapshot.range, into.range()) else { return Ok(()) };
    download(blobs, dir, snapshot).await?;
    point!(points::RESTORE_AFTER_DOWNLOAD);
    let failed = |source| Error::Store { dir: dir.to_path_buf(), source };
    let store = Store::open(dir, options).await.map_err(failed)?;
    let copied = copy(&store, dir, both, into).await;
    point!(points::RESTORE_AFTER_CLIP);
    let closed = store.close().await.map_err(failed);
    dirs::remove(dir).await;
    copied.and(closed)
}

async fn copy(store: &Store, dir: &Path, range: KeyGroupRange, into: &KeyedState) -> Result<(), Error> {
    let (from, to) = key_groups::store_bounds(range);
    let to = to.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut entries = store.iter((std::ops::Bound::Included(from), to), None);
    let failed = |source| Error::Store { dir: dir.to_path_buf(), source };
    loop {
        let mut batch = WriteBatch::new();
        let mut count = 0;
        while count < CLIP_BATCH_ENTRIES {
            let Some((key, value)) = entries.next().await.map_err(failed)? else { break };
            let group = key_groups::group_of_store_key(&key);
            if !group.is_some_and(|group| (range.first..=range.last).contains(&group)) {
                return Err(Error::Entry { dir: dir.to_path_buf(), len_bytes: key.len() });
            }
            batch.put(&key, &value);
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        into.adopt(batch).await?;
        time::charge(Duration::from_millis(1)).await;
        point!(points::RESTORE_CLIPPING);
    }
}
