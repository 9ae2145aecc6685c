//! The handle of an open store.

use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cutwater_io::task::{self, AbortOnDrop};
use tokio::sync::{mpsc, oneshot};

use super::batch::WriteBatch;
use super::checkpoint::{self, CheckpointFiles};
use super::commit::{self, Request, Write};
use super::error::Error;
use super::filenames::FileKind;
use super::iter::{Iter, Seek, value_of};
use super::key::{Tag, ValueKind, compare};
use super::memtable::Memtable;
use super::merge::Source;
use super::options::{Options, WriteOptions};
use super::shared::{Shared, WakeOnDrop, lock};
use super::snapshot::Snapshot;
use super::table::{BlockCacheStats, Caching, TableIter};
use super::verify::Verified;
use super::version::{FileMeta, Version};
use super::{compaction, flush, recovery, verify};

/// Requests that wait for the commit task before callers wait to send theirs.
const MAX_WAITING_REQUESTS: usize = 1024;

/// An open store. Clones share it. When the last is dropped without [`Store::close`], its tasks are stopped where they are,
/// as in a crash of the process: what was not flushed is in the log, or lost if it was not logged.
#[derive(Clone, Debug)]
pub struct Store(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    tasks: Mutex<Vec<AbortOnDrop<()>>>,
}

/// What a read looks at.
struct View {
    sequence: u64,
    /// Newest first.
    memtables: Vec<Arc<Memtable>>,
    version: Arc<Version>,
}

impl Store {
    /// Opens the store in `dir`, recovering what the last user left, or creates one.
    ///
    /// # Errors
    /// An option that cannot work, a directory in use, I/O, damage, or a feature of RocksDB that is not supported.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<Store, Error> {
        let (shared, wals) = recovery::open(dir.as_ref(), options).await?;
        let (requests, queue) = mpsc::channel(MAX_WAITING_REQUESTS);
        let tasks = vec![
            task::spawn(commit::run(shared.clone(), wals, queue)).abort_on_drop(),
            task::spawn(flush::run(shared.clone())).abort_on_drop(),
            task::spawn(compaction::run(shared.clone())).abort_on_drop(),
        ];
        Ok(Store(Arc::new(Handle { shared, requests, tasks: Mutex::new(tasks) })))
    }

    /// Applies a batch as a whole, and returns the sequence number of its last change.
    ///
    /// # Errors
    /// On anything but [`Error::InvalidRequest`], [`Error::Closed`] and an [`Error::Background`] of earlier the outcome is
    /// open: the batch may or may not be there when the store is opened again.
    pub async fn write(&self, batch: WriteBatch, options: WriteOptions) -> Result<u64, Error> {
        if options.sync && options.disable_wal {
            return Err(Error::InvalidRequest("a write cannot be synced without the log"));
        }
        if u32::try_from(batch.len_bytes()).is_err() {
            return Err(Error::InvalidRequest("a batch of 4 GiB or more"));
        }
        self.request(|done| Request::Write(Write { batch, options, done })).await
    }

    /// Sets one key.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn put(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.put(key, value);
        self.write(batch, options).await
    }

    /// Removes one key.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn delete(&self, key: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.delete(key);
        self.write(batch, options).await
    }

    /// The value of a key now.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let view = self.view();
        self.get_in(&view, view.sequence, key).await
    }

    /// The value of a key at a snapshot.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.get_in(&self.view(), snapshot.sequence(), key).await
    }

    /// Holds the present moment for reads.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared().state();
        self.shared().snapshots.take(state.last_sequence)
    }

    /// Goes through a range in either direction, now or at a snapshot.
    pub fn iter(&self, range: impl RangeBounds<Vec<u8>>, snapshot: Option<&Snapshot>) -> Iter {
        let view = self.view();
        let sequence = snapshot.map_or(view.sequence, Snapshot::sequence);
        let mut sources: Vec<Source> = view.memtables.into_iter().map(Source::memtable).collect();
        sources.extend(Source::of_version(&self.shared().tables, &view.version));
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let wake = WakeOnDrop(self.shared().compact_wake.clone());
        Iter::new(bounds, sequence, sources, view.version, self.shared().blobs.clone(), wake)
    }

    /// Makes every write durable that was logged so far.
    ///
    /// # Errors
    /// If the sync fails, nothing is known of what was not synced before, and writes stop.
    pub async fn sync_wal(&self) -> Result<(), Error> {
        self.request(Request::Sync).await
    }

    /// Writes what is in memory to tables, and returns when those are durable.
    ///
    /// # Errors
    /// What stopped writes.
    pub async fn flush(&self) -> Result<(), Error> {
        let id = self.request(Request::Rotate).await?;
        let done = |state: &mut super::shared::State| match &state.background {
            _ if state.flushed_memtable >= id => Some(Ok(())),
            Some(e) => Some(Err(e.clone())),
            None => state.is_closing.then_some(Err(Error::Closed)),
        };
        self.shared().wait_until(done).await
    }

    /// Flushes, and merges all levels into the deepest in use.
    ///
    /// # Errors
    /// What stopped writes.
    pub async fn compact_all(&self) -> Result<(), Error> {
        self.flush().await?;
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.shared().state();
            if state.is_closing {
                return Err(Error::Closed);
            }
            state.manual_compactions.push(done);
        }
        self.shared().compact_wake.notify_one();
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Makes a checkpoint in `dir`, which must not exist; see [`CheckpointFiles`]. Durable on return.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], I/O, or what stopped writes.
    pub async fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<CheckpointFiles, Error> {
        self.flush().await?;
        checkpoint::create(self.shared(), dir.as_ref()).await
    }

    /// The sequence number of the last write that reads see.
    pub fn last_sequence(&self) -> u64 {
        self.shared().state().last_sequence
    }

    /// The uuid of the store. File names of different stores collide; together with this they do not.
    pub fn identity(&self) -> &str {
        &self.shared().site.identity
    }

    /// How many tables each level has, and their length in bytes.
    pub fn levels(&self) -> Vec<(usize, u64)> {
        let version = self.shared().state().version.clone();
        version
            .levels
            .iter()
            .enumerate()
            .map(|(level, files)| (files.len(), version.level_bytes(level)))
            .collect()
    }

    /// What the cache of blocks has done so far, and holds.
    pub fn block_cache(&self) -> BlockCacheStats {
        self.shared().tables.block_cache()
    }

    /// Names of the files that the store needs now, ascending. Others of its kinds are only there because somebody still
    /// reads them, or because they are about to be removed.
    pub fn live_files(&self) -> Vec<String> {
        let state = self.shared().state();
        let own = [
            FileKind::Current,
            FileKind::Lock,
            FileKind::Identity,
            FileKind::Manifest(state.manifest_number),
        ];
        let tables = state.version.files().map(|(_, f)| FileKind::Table(f.number));
        let blobs = state.version.blobs.iter().map(|file| FileKind::Blob(file.added.number));
        let wals = state.wals.range(state.version.log_number..).map(|n| FileKind::Wal(*n));
        let mut names: Vec<String> =
            own.into_iter().chain(tables).chain(blobs).chain(wals).map(FileKind::name).collect();
        names.sort();
        names
    }

    /// What stopped writes, if they are stopped.
    pub fn background_error(&self) -> Option<Error> {
        self.shared().state().background.clone()
    }

    /// Checks the structure: levels disjoint, every table and blob file there with its length, every block and every value with its
    /// checksum, every entry where the MANIFEST says, no more garbage than it says. It reads what the disk holds; what is in
    /// memory counts for nothing.
    ///
    /// # Errors
    /// What does not hold, or I/O.
    pub async fn verify(&self) -> Result<Verified, Error> {
        let version = self.view().version;
        verify::verify(self.shared(), &version).await
    }

    /// Makes all writes durable, those that were not logged included, ends the tasks and gives the directory free. Other
    /// clones get [`Error::Closed`] from then on.
    ///
    /// # Errors
    /// If something could not be made durable. The store is closed all the same.
    pub async fn close(self) -> Result<(), Error> {
        let result = self.settle().await;
        self.shared().state().is_closing = true;
        self.shared().wake_all();
        let _ = self.0.requests.send(Request::Stop).await;
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        for task in tasks {
            let _ = task.await;
        }
        self.shared().purge().await;
        lock(&self.shared().lock).take();
        result
    }

    async fn settle(&self) -> Result<(), Error> {
        let has_unlogged = {
            let state = self.shared().state();
            let immutable = state.immutable.iter().any(|i| i.mem.has_unlogged());
            immutable || state.mem.has_unlogged()
        };
        if has_unlogged {
            self.flush().await?;
        }
        self.sync_wal().await
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (done, answer) = oneshot::channel();
        self.0.requests.send(make(done)).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    fn view(&self) -> View {
        let state = self.shared().state();
        let immutable = state.immutable.iter().rev().map(|i| i.mem.clone());
        View {
            sequence: state.last_sequence,
            memtables: [state.mem.clone()].into_iter().chain(immutable).collect(),
            version: state.version.clone(),
        }
    }

    async fn get_in(&self, view: &View, sequence: u64, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match view.memtables.iter().find_map(|mem| mem.get(key, sequence)) {
            Some((kind, value)) => self.resolve(&view.version, key, kind, value.to_vec()).await,
            None => self.get_in_tables(&view.version, sequence, key).await,
        }
    }

    async fn resolve(
        &self,
        version: &Version,
        key: &[u8],
        kind: Option<ValueKind>,
        value: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Error> {
        value_of(&self.shared().blobs, version, key, kind, value).await
    }

    async fn get_in_tables(
        &self,
        version: &Version,
        sequence: u64,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let tag = Tag::seek(sequence);
        let (level0, deeper) = version.levels.split_first().expect("there is a level 0");
        let is_before = |f: &Arc<FileMeta>| compare(&f.largest.user_key, f.largest.tag, key, tag).is_lt();
        let deeper = deeper.iter().filter_map(|files| files.get(files.partition_point(is_before)));
        let may_hold = |f: &&Arc<FileMeta>| f.smallest.user_key[..] <= *key && *key <= f.largest.user_key[..];
        for file in level0.iter().chain(deeper).filter(may_hold) {
            let table = self.shared().tables.open(file).await?;
            if !table.may_contain(key) {
                continue;
            }
            let mut iter = TableIter::new(table, Caching::Keep);
            if iter.seek(Seek::NotBefore(key, tag)).await? {
                let entry = iter.entry();
                if entry.user_key == key {
                    let (kind, value) = (entry.tag.kind(), entry.value.to_vec());
                    return self.resolve(version, key, kind, value).await;
                }
            }
        }
        Ok(None)
    }
}
