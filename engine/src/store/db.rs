//! The handle of an open store.

use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cutwater_io::sometimes;
use cutwater_io::task::{self, AbortOnDrop};
use tokio::sync::{mpsc, oneshot};

use super::batch::WriteBatch;
use super::checkpoint::{self, CheckpointFiles};
use super::commit::{self, Request, Write};
use super::error::Error;
use super::families::FamilyKey;
use super::family::{self as families, Family};
use super::filenames::FileKind;
use super::ingest::{self, IngestOptions};
use super::iter::Iter;
use super::options::{FamilyOptions, Options, WriteOptions};
use super::points::of_filters;
use super::property::TableInfo;
use super::read::View;
use super::resume;
use super::shared::{ManualCompaction, Shared, State, lock};
use super::snapshot::Snapshot;
use super::statistics::Statistics;
use super::table::BlockCacheStats;
use super::verify::Verified;
use super::version::{DEFAULT_FAMILY, VersionSet};
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

impl Store {
    /// Opens the store in `dir`, which has no family but the default one, recovering what the last user left, or creates one.
    ///
    /// # Errors
    /// As [`Store::open_families`].
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<Store, Error> {
        Store::open_families(dir, options, &[]).await
    }

    /// Opens the store in `dir` with all its families but the default one, whose options are among those of the store. See
    /// [`Store::family`], and [`Store::list_families`] for their names.
    ///
    /// # Errors
    /// An option that cannot work, a directory in use, I/O, damage, a feature of RocksDB that is not supported, a family that is not
    /// there, or one that is and is not to be opened.
    pub async fn open_families(
        dir: impl AsRef<Path>,
        options: Options,
        families: &[(&str, FamilyOptions)],
    ) -> Result<Store, Error> {
        let create_missing = options.create_missing_families;
        let (shared, wals) = recovery::open(dir.as_ref(), options, families).await?;
        let (requests, queue) = mpsc::channel(MAX_WAITING_REQUESTS);
        let tasks = vec![
            task::spawn(commit::run(shared.clone(), wals, queue)).abort_on_drop(),
            task::spawn(flush::run(shared.clone())).abort_on_drop(),
            task::spawn(compaction::run(shared.clone())).abort_on_drop(),
            task::spawn(resume::run(shared.clone(), requests.downgrade())).abort_on_drop(),
        ];
        let store = Store(Arc::new(Handle { shared, requests, tasks: Mutex::new(tasks) }));
        for (name, options) in families {
            if create_missing && store.family(name).is_none() {
                store.create_family(name, options.clone()).await?;
            }
        }
        Ok(store)
    }

    /// Names of the families of the store in `dir`, in the order in which they were created, the default one first. It need not
    /// be closed.
    ///
    /// # Errors
    /// [`Error::NotFound`], I/O, damage, or a feature of RocksDB that is not supported.
    pub async fn list_families(dir: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        recovery::list_families(dir.as_ref()).await
    }

    /// Applies a batch as a whole, and returns the sequence number of its last change.
    ///
    /// # Errors
    /// On anything but [`Error::InvalidRequest`], [`Error::Closed`] and an [`Error::Background`] of earlier the outcome is
    /// open: the batch may or may not be there when the store is opened again. If space was missing and the store has
    /// [resumed](Store::resume), it is not.
    pub async fn write(&self, batch: WriteBatch, options: WriteOptions) -> Result<u64, Error> {
        if options.sync && options.disable_wal {
            return Err(Error::InvalidRequest("a write cannot be synced without the log"));
        }
        if u32::try_from(batch.len_bytes()).is_err() {
            return Err(Error::InvalidRequest("a batch of 4 GiB or more"));
        }
        self.request(|done| Request::Write(Write { batch, options, done })).await
    }

    /// Sets one key of the default family; so for all calls here that are about keys. Those of others: [`Family`].
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

    /// Removes one key that was put once since it was last removed: see [`WriteBatch::single_delete`].
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn single_delete(&self, key: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.single_delete(key);
        self.write(batch, options).await
    }

    /// Removes all keys from `begin` on, up to `end` and without it. However many they are, this is one write, and
    /// their space is given free by compactions.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn delete_range(&self, begin: &[u8], end: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.delete_range(begin, end);
        self.write(batch, options).await
    }

    /// The value of a key now.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        View::of(self.shared(), DEFAULT_FAMILY).get(&self.shared().files, None, key).await
    }

    /// The value of a key at a snapshot.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let view = View::at(self.shared(), DEFAULT_FAMILY, Some(snapshot));
        view.get(&self.shared().files, Some(snapshot), key).await
    }

    /// Holds the present moment for reads.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared().state();
        let snapshot = self.shared().snapshots.take(state.last_sequence);
        sometimes!(of_filters::SNAPSHOT_KEEPS_TABLES, !state.filtering.is_empty());
        if state.filtering.is_empty() {
            return snapshot;
        }
        let view = |family: &u32| Some((*family, View::in_state(&state, *family)?));
        let views = state.filtering.iter().filter_map(view).collect();
        snapshot.keeping(views, self.shared().wake())
    }

    /// Goes through a range in either direction, now or at a snapshot.
    pub fn iter(&self, range: impl RangeBounds<Vec<u8>>, snapshot: Option<&Snapshot>) -> Iter {
        View::at(self.shared(), DEFAULT_FAMILY, snapshot).iter(
            &self.shared().files,
            self.shared().wake(),
            range,
            snapshot,
        )
    }

    /// Makes every write durable that was logged so far.
    ///
    /// # Errors
    /// If the sync fails, nothing is known of what was not synced before, and writes stop.
    pub async fn sync_wal(&self) -> Result<(), Error> {
        self.request(Request::Sync).await
    }

    /// Writes what is in memory of all families to tables, in one atomic step, and returns when those are durable. (RocksDB's
    /// `Flush` without families is that of the default one alone; see [`Family::flush`].)
    ///
    /// # Errors
    /// What stopped writes.
    pub async fn flush(&self) -> Result<(), Error> {
        self.flush_of(None).await.map(drop)
    }

    /// Flushes, and merges in each family all levels into the deepest in use.
    ///
    /// # Errors
    /// What stopped writes.
    pub async fn compact_all(&self) -> Result<(), Error> {
        self.compact_of(None).await
    }

    /// Makes tables that were written elsewhere, by a [`super::TableWriter`] or RocksDB's `SstFileWriter`, part of the default family, and
    /// returns the sequence number of the last. They are above all that was written before, and durable on return. Files of one
    /// call must not overlap.
    ///
    /// # Errors
    /// What is wrong with a file: [`Error::NotIngestible`], damage, I/O, a feature that is not supported. Or what stopped writes. On
    /// any error but an [`Error::Background`] and an [`Error::Closed`] nothing of the files is in the store, nor will be.
    pub async fn ingest(&self, files: &[impl AsRef<Path>], options: IngestOptions) -> Result<u64, Error> {
        self.default_family().ingest(files, options).await
    }

    /// As [`Store::ingest`], for several families: after every crash all tables are there, or none.
    ///
    /// # Errors
    /// As [`Store::ingest`]; or [`Error::FamilyDropped`].
    pub async fn ingest_families(
        &self,
        files: &[(Family, Vec<PathBuf>)],
        options: IngestOptions,
    ) -> Result<u64, Error> {
        let of_family = |(family, files): &(Family, Vec<PathBuf>)| -> Vec<_> {
            files.iter().map(|file| (family.key().clone(), file.clone())).collect()
        };
        let wanted = files.iter().flat_map(of_family).collect();
        let (shared, requests) = (self.0.shared.clone(), self.0.requests.clone());
        task::spawn(ingest::run(shared, requests, wanted, options)).await.unwrap_or(Err(Error::Closed))
    }

    /// Makes a checkpoint in `dir`, which must not exist; see [`CheckpointFiles`]. It has all families, as they were at one
    /// moment. Durable on return.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], I/O, or what stopped writes.
    pub async fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<CheckpointFiles, Error> {
        let set = self.settled().await?;
        checkpoint::create(self.shared(), &set, dir.as_ref()).await
    }

    /// Flushes all families, and returns what holds all of them as they were at one moment. Whoever has it keeps its files.
    pub(crate) async fn settled(&self) -> Result<Arc<VersionSet>, Error> {
        // No family comes or goes between the moment and its end in tables.
        let _stays = self.shared().families_change.lock().await;
        self.flush_of(None).await
    }

    /// The default family.
    pub fn default_family(&self) -> Family {
        let key = self.shared().state().families.default_family().key.clone();
        Family::new(self.clone(), key)
    }

    /// The family of this name, if there is one.
    pub fn family(&self, name: &str) -> Option<Family> {
        let key = {
            let state = self.shared().state();
            state.families.get(state.set.named(name)?)?.key.clone()
        };
        Some(Family::new(self.clone(), key))
    }

    /// Names of the families, the default one first, then in the order in which they were created.
    pub fn families(&self) -> Vec<String> {
        self.shared().state().families.open().map(|family| family.key.name.to_string()).collect()
    }

    /// Creates a family. It is durable on return, whatever becomes of writes that were not synced before.
    ///
    /// # Errors
    /// [`Error::FamilyExists`], an option that cannot work, or what stopped writes.
    pub async fn create_family(&self, name: &str, options: FamilyOptions) -> Result<Family, Error> {
        options.validate()?;
        let created = task::spawn(families::create(self.0.shared.clone(), name.to_owned(), options)).await;
        let key = created.unwrap_or(Err(Error::Closed))?;
        Ok(Family::new(self.clone(), key))
    }

    /// Drops a family, with all that is in it, durably. Who has it open still reads what it held; writes to it are refused from
    /// now on. What it took on the disk is given free once nobody has it open.
    ///
    /// # Errors
    /// [`Error::FamilyDropped`] if it was, [`Error::InvalidRequest`] for the default family, or what stopped writes.
    pub async fn drop_family(&self, family: &Family) -> Result<(), Error> {
        let dropped = task::spawn(families::drop_family(self.0.shared.clone(), family.key().clone())).await;
        dropped.unwrap_or(Err(Error::Closed))
    }

    /// Flushes a family, or all, and returns what the store consists of since.
    pub(crate) async fn flush_of(&self, family: Option<Arc<FamilyKey>>) -> Result<Arc<VersionSet>, Error> {
        let closed = self.request(|done| Request::Rotate(family, done)).await?;
        let done = |state: &mut State| match (closed.installed.get(), &state.background) {
            (Some(set), _) => Some(Ok(set.clone())),
            (None, Some(background)) => Some(Err(background.error().clone())),
            (None, None) => state.is_closing.then_some(Err(Error::Closed)),
        };
        self.shared().wait_until(done).await
    }

    /// Compacts a family, or all.
    pub(crate) async fn compact_of(&self, family: Option<Arc<FamilyKey>>) -> Result<(), Error> {
        let id = family.as_ref().map(|family| family.id);
        self.flush_of(family).await?;
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.shared().state();
            if state.is_closing {
                return Err(Error::Closed);
            }
            state.manual_compactions.push(ManualCompaction { family: id, done });
        }
        self.shared().compact_wake.notify_one();
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// The sequence number of the last write that reads see.
    pub fn last_sequence(&self) -> u64 {
        self.shared().state().last_sequence
    }

    /// The uuid of the store. File names of different stores collide; together with this they do not.
    pub fn identity(&self) -> &str {
        &self.shared().site.identity
    }

    /// How many tables each level of the default family has, and their length in bytes.
    pub fn levels(&self) -> Vec<(usize, u64)> {
        View::of(self.shared(), DEFAULT_FAMILY).version.level_sizes()
    }

    /// What it has done since it was opened.
    pub fn statistics(&self) -> Statistics {
        self.shared().files.counters.read(self.block_cache())
    }

    /// A property of the default family; see [`Family::property`].
    ///
    /// # Errors
    /// As [`Family::property`].
    pub async fn property(&self, name: &str) -> Result<Option<String>, Error> {
        self.default_family().property(name).await
    }

    /// What is known of the tables of all families. (RocksDB's `GetLiveFilesMetaData`.)
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, Error> {
        let mut tables = Vec::new();
        for family in self.families().iter().filter_map(|name| self.family(name)) {
            tables.extend(family.tables().await?);
        }
        Ok(tables)
    }

    /// What the cache of blocks has done so far, and holds.
    pub fn block_cache(&self) -> BlockCacheStats {
        self.shared().files.tables.block_cache()
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
        let tables = state.set.files().map(|(_, f)| FileKind::Table(f.number));
        let blobs = state.set.blobs().map(|file| FileKind::Blob(file.added.number));
        let wals = state.wals.range(state.set.first_log()..).map(|(number, _)| FileKind::Wal(*number));
        let files = own.into_iter().chain(tables).chain(blobs).chain(wals);
        let mut names: Vec<String> = files.map(FileKind::name).collect();
        names.sort();
        names
    }

    /// What stopped writes, if they are stopped.
    pub fn background_error(&self) -> Option<Error> {
        self.shared().state().background.as_ref().map(|background| background.error().clone())
    }

    /// Takes writes again if they were stopped for want of space and there is some now. It happens by itself, too, every half a
    /// second; this is for who knows better, and for who wants to wait. On return all that was acknowledged before is in tables, and a
    /// write that was answered with an error meanwhile is not there, and will not be. If writes are not stopped it does nothing.
    ///
    /// # Errors
    /// What stops writes still.
    pub async fn resume(&self) -> Result<(), Error> {
        resume::resume_now(self.shared()).await
    }

    /// Checks the structure: levels disjoint, every table and blob file there with its length, every block and every value with its
    /// checksum, every entry where the MANIFEST says, no more garbage than it says. It reads what the disk holds; what is in
    /// memory counts for nothing.
    ///
    /// # Errors
    /// What does not hold, or I/O.
    pub async fn verify(&self) -> Result<Verified, Error> {
        let set = self.shared().state().set.clone();
        verify::verify(&self.shared().files, &set).await
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
        // A family may be about to come or go.
        drop(self.shared().families_change.lock().await);
        // Tables may be about to be ingested.
        drop(self.shared().ingesting.lock().await);
        self.shared().purge().await;
        lock(&self.shared().lock).take();
        result
    }

    async fn settle(&self) -> Result<(), Error> {
        let has_unlogged = self.shared().state().families.has_unlogged();
        if has_unlogged {
            self.flush().await?;
        }
        self.sync_wal().await
    }

    pub(crate) fn shared(&self) -> &Shared {
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
}
