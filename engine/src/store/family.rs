//! The handle of a family: a tree of its own in the store, with its own options, that shares log, sequence numbers and
//! snapshots with the others. This is what RocksDB calls a column family.
//!
//! A batch over several families is one write. A flush is of one family: after a crash its tables may hold what of the others
//! is still in the logs, which recovery replays for these alone. Creating and dropping are durable when they are answered, and
//! so do not wait for writes that were not synced.

use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Weak};

use cutwater_io::point;

use super::batch::WriteBatch;
use super::db::Store;
use super::error::Error;
use super::families::{FamilyKey, OpenFamily};
use super::ingest::IngestOptions;
use super::install::Change;
use super::iter::Iter;
use super::options::{FamilyOptions, WriteOptions};
use super::points::of_families as points;
use super::property::{Facts, TableInfo, tables_of};
use super::read::View;
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::version::{DEFAULT_FAMILY, VersionEdit};

/// An open family. Clones are cheap, and keep the store open. When it is dropped from the store, writes to it are refused, and
/// reads go on as long as there is a handle.
#[derive(Clone, Debug)]
pub struct Family {
    key: Arc<FamilyKey>,
    store: Store,
}

impl Family {
    pub(crate) fn new(store: Store, key: Arc<FamilyKey>) -> Family {
        Family { key, store }
    }

    pub(crate) fn key(&self) -> &Arc<FamilyKey> {
        &self.key
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Its id, as it stands in the files. No other family of the store ever has it.
    pub fn id(&self) -> u32 {
        self.key.id
    }

    /// Sets one key. Several, in this and other families: [`WriteBatch::put_in`].
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn put(&self, key: &[u8], value: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.put_in(self, key, value);
        self.store.write(batch, options).await
    }

    /// Removes one key.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn delete(&self, key: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.delete_in(self, key);
        self.store.write(batch, options).await
    }

    /// Removes one key that was put once since it was last removed: see [`WriteBatch::single_delete`].
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn single_delete(&self, key: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.single_delete_in(self, key);
        self.store.write(batch, options).await
    }

    /// Removes all keys from `begin` on, up to `end` and without it.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn delete_range(&self, begin: &[u8], end: &[u8], options: WriteOptions) -> Result<u64, Error> {
        let mut batch = WriteBatch::new();
        batch.delete_range_in(self, begin, end);
        self.store.write(batch, options).await
    }

    /// The value of a key now.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.view().get(&self.store.shared().files, None, key).await
    }

    /// The value of a key at a snapshot.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn get_at(&self, snapshot: &Snapshot, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.view_at(Some(snapshot)).get(&self.store.shared().files, Some(snapshot), key).await
    }

    /// Goes through a range in either direction, now or at a snapshot of the store.
    pub fn iter(&self, range: impl RangeBounds<Vec<u8>>, snapshot: Option<&Snapshot>) -> Iter {
        let shared = self.store.shared();
        self.view_at(snapshot).iter(&shared.files, shared.wake(), range, snapshot)
    }

    /// Writes what is in memory of it to tables (with [`super::Options::atomic_flush`], of all families), and returns when those
    /// are durable.
    ///
    /// # Errors
    /// [`Error::FamilyDropped`], or what stopped writes.
    pub async fn flush(&self) -> Result<(), Error> {
        self.store.flush_of(Some(self.key.clone())).await.map(drop)
    }

    /// Flushes it, and merges all its levels into the deepest in use.
    ///
    /// # Errors
    /// [`Error::FamilyDropped`], or what stopped writes.
    pub async fn compact_all(&self) -> Result<(), Error> {
        self.store.compact_of(Some(self.key.clone())).await
    }

    /// Makes tables that were written elsewhere part of it: see [`Store::ingest`].
    ///
    /// # Errors
    /// As [`Store::ingest`].
    pub async fn ingest(&self, files: &[impl AsRef<Path>], options: IngestOptions) -> Result<u64, Error> {
        let files = files.iter().map(|file| file.as_ref().to_owned()).collect();
        self.store.ingest_families(&[(self.clone(), files)], options).await
    }

    /// How many tables each level has, and their length in bytes.
    pub fn levels(&self) -> Vec<(usize, u64)> {
        self.view().version.level_sizes()
    }

    /// A property by RocksDB's name, such as `rocksdb.num-files-at-level0`; nothing if there is none of this name. See
    /// [`super::PROPERTIES`].
    ///
    /// # Errors
    /// I/O or damage, where tables are opened for it.
    pub async fn property(&self, name: &str) -> Result<Option<String>, Error> {
        let shared = self.store.shared();
        let View { memtables, version, .. } = self.view();
        let (old_versions, background_errors, is_stalled) = {
            let state = shared.state();
            let old_versions = state.old_versions.iter().filter_map(Weak::upgrade).collect();
            let is_stalled = super::commit::is_stalled(&state, self.key.id);
            (old_versions, u64::from(state.background.is_some()), is_stalled)
        };
        let facts = Facts {
            memtables,
            version,
            family: self.key.id,
            old_versions,
            snapshots: shared.snapshots.sequences(),
            background_errors,
            writes_are_stopped: background_errors > 0 || is_stalled,
        };
        facts.property(&shared.files, name).await
    }

    /// What is known of its tables, by level.
    ///
    /// # Errors
    /// I/O or damage.
    pub async fn tables(&self) -> Result<Vec<TableInfo>, Error> {
        tables_of(&self.store.shared().files, &self.key.name, &self.view().version).await
    }

    fn view(&self) -> View {
        self.view_at(None)
    }

    fn view_at(&self, snapshot: Option<&Snapshot>) -> View {
        View::at(self.store.shared(), self.key.id, snapshot)
    }
}

/// Adds a family to an open store. It is a task, as who waits for it may give up, and an edit must not be left half-written.
pub(super) async fn create(
    shared: Arc<Shared>,
    name: String,
    options: FamilyOptions,
) -> Result<Arc<FamilyKey>, Error> {
    let _one_at_a_time = shared.families_change.lock().await;
    shared.check_writable()?;
    let (id, log_number) = {
        let state = shared.state();
        if state.set.named(&name).is_some() {
            return Err(Error::FamilyExists { name });
        }
        let id = state.set.next_family().ok_or(Error::InvalidRequest("the ids of families are used up"))?;
        (id, state.current_log())
    };
    let num_levels = options.num_levels;
    let family = OpenFamily::new(FamilyKey::new(id, &name, shared.compact_wake.clone()), options);
    let key = family.key.clone();
    let edit = VersionEdit {
        column_family: id,
        column_family_add: Some(name),
        max_column_family: Some(id),
        log_number: Some(log_number),
        ..VersionEdit::default()
    };
    let change = Change { num_levels, ..Change::of(edit) };
    shared.install("the creation of a family", change, move |state| state.families.add(family)).await?;
    point!(points::FAMILY_ADDED);
    Ok(key)
}

/// Takes a family from an open store. As with [`create`].
pub(super) async fn drop_family(shared: Arc<Shared>, key: Arc<FamilyKey>) -> Result<(), Error> {
    let _one_at_a_time = shared.families_change.lock().await;
    shared.check_writable()?;
    shared.state().families.writable(&key)?;
    if key.id == DEFAULT_FAMILY {
        return Err(Error::InvalidRequest("the default family cannot be dropped"));
    }
    let edit = VersionEdit { column_family: key.id, column_family_drop: true, ..VersionEdit::default() };
    shared.install("the drop of a family", Change::of(edit), |_| {}).await?;
    point!(points::FAMILY_DROPPED);
    Ok(())
}
