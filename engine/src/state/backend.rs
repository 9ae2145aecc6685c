//! The keyed state of one subtask: values by (state, key), in a store of its own.
//!
//! The store runs without a write-ahead log: what a crash loses is read again from the last completed checkpoint, so that
//! only the snapshot at a barrier has to reach disk. A snapshot has a synchronous part (flush and hard links, during which
//! no record is processed) and an asynchronous one ([`super::upload`]).
//!
//! Leaves out: list and map state, timers, time to live.

use std::path::{Path, PathBuf};

use cutwater_io::{point, sometimes};

use super::increment::{Files, Increments};
use super::{Error, dirs, key_groups, points};
use crate::checkpoint::barrier::Target;
use crate::checkpoint::snapshot::{CheckpointId, KeyGroupRange, StoreFile};
use crate::store::{CheckpointFiles, MergeWith, Options, Store, WriteBatch, WriteOptions};

/// Which state of an operator; part of the format of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateId(pub u16);

/// No log: see the module.
const WITHOUT_LOG: WriteOptions = WriteOptions { sync: false, disable_wal: true };

/// See the module.
pub struct KeyedState {
    store: Store,
    dir: PathBuf,
    range: KeyGroupRange,
    max_parallelism: u16,
    increments: Increments,
    merge_operator: Option<MergeWith>,
}

/// The synchronous part of a snapshot: hard links to the files of the store at the barrier.
#[derive(Debug)]
pub struct LinkedSnapshot {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Where its files go.
    pub target: Target,
    /// The key groups it covers.
    pub range: KeyGroupRange,
    /// Where the links are.
    pub dir: PathBuf,
    /// What there is.
    pub files: CheckpointFiles,
    /// Those that may be referenced instead of uploaded.
    pub base: Files,
    /// What merge operands in the store mean.
    pub merge_operator: Option<MergeWith>,
}

impl KeyedState {
    /// Opens a store for a subtask under `dir` (in `dir/db`), which holds nothing or what a restore put there.
    /// `confirmed` are the files of the completed checkpoint it comes from, if it was opened as it was.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub async fn open(
        dir: &Path,
        options: Options,
        range: KeyGroupRange,
        max_parallelism: u16,
        confirmed: &[StoreFile],
    ) -> Result<KeyedState, Error> {
        assert!(range.first <= range.last && range.last < max_parallelism, "{range:?} of {max_parallelism}");
        let db = dir.join("db");
        let merge_operator = options.family.merge_operator.clone();
        let store = Store::open(&db, options).await.map_err(|source| Error::Store { dir: db, source })?;
        let increments = Increments::new(confirmed);
        Ok(KeyedState { store, dir: dir.to_path_buf(), range, max_parallelism, increments, merge_operator })
    }

    /// The key groups of this subtask.
    pub fn range(&self) -> KeyGroupRange {
        self.range
    }

    /// Number of key groups of the job.
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// The store, for checks.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the key is not this subtask's, or the store fails.
    pub async fn get(&self, state: StateId, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = self.locate(state, key)?;
        self.store.get(&key).await.map_err(|e| self.failed(e))
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// As [`KeyedState::get`].
    pub async fn put(&mut self, state: StateId, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let key = self.locate(state, key)?;
        self.store.put(&key, value, WITHOUT_LOG).await.map(drop).map_err(|e| self.failed(e))
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// As [`KeyedState::get`].
    pub async fn delete(&mut self, state: StateId, key: &[u8]) -> Result<(), Error> {
        let key = self.locate(state, key)?;
        self.store.delete(&key, WITHOUT_LOG).await.map(drop).map_err(|e| self.failed(e))
    }

    /// Writes entries of another store as they are; all must lie within the range.
    pub(super) async fn adopt(&self, batch: WriteBatch) -> Result<(), Error> {
        self.store.write(batch, WITHOUT_LOG).await.map(drop).map_err(|e| self.failed(e))
    }

    fn locate(&self, state: StateId, key: &[u8]) -> Result<Vec<u8>, Error> {
        let key_group = key_groups::key_group(key, self.max_parallelism);
        if !(self.range.first..=self.range.last).contains(&key_group) {
            return Err(Error::ForeignKey { key_group, range: self.range });
        }
        Ok(key_groups::store_key(key_group, state.0, key))
    }

    fn failed(&self, source: crate::store::Error) -> Error {
        Error::Store { dir: self.dir.join("db"), source }
    }

    /// The synchronous part of a snapshot. No record may be processed until it returns.
    ///
    /// # Errors
    /// If the store cannot be flushed or linked: the task has failed.
    ///
    /// # Panics
    /// If the ids of snapshots do not grow.
    pub async fn link(&mut self, checkpoint: CheckpointId, target: &Target) -> Result<LinkedSnapshot, Error> {
        point!(points::SNAPSHOT_BEFORE_LINKS);
        let dir = self.dir.join(format!("chk-{checkpoint}"));
        let files = self.store.checkpoint(&dir).await.map_err(|e| self.failed(e))?;
        let immutable = files.files.iter().filter(|file| file.immutable).map(|file| file.name.clone());
        let base = match target {
            Target::Increment => self.increments.begin(checkpoint, immutable),
            Target::Full => {
                self.increments.begin_full(checkpoint);
                Files::new()
            }
            // It stands alone: nothing of it is referenced, and it is not a base.
            Target::Savepoint { .. } => Files::new(),
        };
        point!(points::SNAPSHOT_AFTER_LINKS);
        let (range, target, merge_operator) = (self.range, target.clone(), self.merge_operator.clone());
        Ok(LinkedSnapshot { checkpoint, target, range, dir, files, base, merge_operator })
    }

    /// The asynchronous part is done; `shared` are the table files of the snapshot.
    pub fn uploaded(&mut self, checkpoint: CheckpointId, shared: &[StoreFile]) {
        self.increments.uploaded(checkpoint, shared);
    }

    /// The checkpoint is complete: later snapshots may reference its files.
    pub fn complete(&mut self, checkpoint: CheckpointId) {
        let narrowed = self.increments.complete(checkpoint);
        sometimes!(points::BASE_NARROWED, narrowed);
    }

    /// The checkpoint will never be complete.
    pub fn abort(&mut self, checkpoint: CheckpointId) {
        self.increments.abort(checkpoint);
    }

    /// Closes the store and removes its directory; failures leave files that the next start of the process removes.
    pub async fn close(self) {
        let KeyedState { store, dir, .. } = self;
        if let Err(error) = store.close().await {
            tracing::debug!(dir = %dir.display(), %error, "closing a store");
        }
        dirs::remove(&dir).await;
    }
}
