//! The keyed state of one subtask, in a store of its own: bytes by (state, current key), and the timers of its keys.
//!
//! The store runs without a write-ahead log: what a crash loses is read again from the last completed checkpoint, so that
//! only the snapshot at a barrier has to reach disk. A snapshot has a synchronous part (what is cached is written, then
//! flush and hard links, during which no record is processed) and an asynchronous one ([`super::upload`]).
//!
//! Before the store lies a write-back cache (`state::cache`). It is coherent by three rules: every read and write goes
//! through it; all that is dirty is written, in one batch, before the store is iterated over or linked; and before anything is
//! evicted. A batch that fails fails the task, so that nothing is ever half written and gone on with.
//!
//! What the bytes mean is said by the descriptors of [`super::kinds`].
//!
//! Leaves out: time to live.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cutwater_io::{point, sometimes};

use super::cache::Cache;
use super::changelog::keyed::{Logged, Restored};
use super::increment::{Files, Increments};
use super::timers::{self, TIMERS, Timer, TimerQueue};
use super::{Error, dirs, key_groups, points};
use crate::checkpoint::barrier::Target;
use crate::checkpoint::changelog::MaterialisationId;
use crate::checkpoint::snapshot::{
    CheckpointId, KeyGroupRange, KeyedSnapshot, StateKind, StateSchema, StoreFile,
};
use crate::store::{CheckpointFiles, Iter, MergeWith, Options, Store, WriteBatch, WriteOptions};

/// Which state of an operator: the hash of its name, part of the format of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateId(pub u16);

impl StateId {
    /// The id of a name: FNV-1a (64 bits), modulo 65535, so that 0xFFFF stays for timers.
    pub const fn of(name: &str) -> StateId {
        let (bytes, mut i, mut hash) = (name.as_bytes(), 0, 0xcbf2_9ce4_8422_2325_u64);
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        StateId((hash % 0xFFFF) as u16)
    }
}

/// Where bytes of the current key are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// The one entry of a state.
    Value(StateId),
    /// The entry of a state under this.
    Entry(StateId, &'a [u8]),
}

/// No log: see the module.
const WITHOUT_LOG: WriteOptions = WriteOptions { sync: false, disable_wal: true };

/// Of the cache, in bytes, unless something else is said.
pub const CACHE_BYTES: usize = 8 << 20;

/// See the module.
pub struct KeyedState {
    store: Store,
    dir: PathBuf,
    /// Whose state it is, for errors.
    operator: String,
    range: KeyGroupRange,
    max_parallelism: u16,
    increments: Increments,
    /// If changes are logged.
    logged: Option<Logged>,
    restored: Restored,
    merge_operator: Option<MergeWith>,
    cache: Cache,
    schema: BTreeMap<StateId, StateSchema>,
    timers: TimerQueue,
    key: Bytes,
    /// Of `key`.
    key_group: u16,
    /// A store's key under construction.
    scratch: Vec<u8>,
}

/// The entries of one state and one key, as they were when this was made.
pub(super) struct Scan {
    entries: Iter,
    prefix_len: usize,
}

impl Scan {
    /// The next: what follows the prefix, and the bytes.
    pub(super) async fn next(&mut self, state: &KeyedState) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        let entry = self.entries.next().await.map_err(|e| state.failed(e))?;
        Ok(entry.map(|(mut key, value)| (key.split_off(self.prefix_len), value)))
    }
}

/// What a snapshot is for, which says where its files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A checkpoint or a savepoint.
    Checkpoint(CheckpointId, Target),
    /// The base of checkpoints to come: all its files are shared.
    Materialisation(MaterialisationId),
}

/// The synchronous part of a snapshot: hard links to the files of the store at the barrier.
#[derive(Debug)]
pub struct LinkedSnapshot {
    /// What it is for.
    pub purpose: Purpose,
    /// The key groups it covers.
    pub range: KeyGroupRange,
    /// The states that are in it.
    pub states: Vec<StateSchema>,
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
        Ok(KeyedState {
            store,
            dir: dir.to_path_buf(),
            operator: String::new(),
            range,
            max_parallelism,
            increments: Increments::new(confirmed),
            logged: None,
            restored: Restored::Nothing,
            merge_operator,
            cache: Cache::new(CACHE_BYTES),
            schema: BTreeMap::new(),
            timers: TimerQueue::default(),
            key: Bytes::new(),
            key_group: u16::MAX,
            scratch: Vec::new(),
        })
    }

    /// Says whose state it is, and how many bytes its cache may have.
    pub fn configure(&mut self, operator: &str, cache_bytes: usize) {
        self.operator = operator.into();
        self.cache.set_budget_bytes(cache_bytes);
    }

    /// The key groups of this subtask.
    pub fn range(&self) -> KeyGroupRange {
        self.range
    }

    /// Number of key groups of the job.
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// The store, for checks. What is cached may not be in it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key whose state is meant from now on.
    ///
    /// # Errors
    /// If the key is not this subtask's.
    pub fn set_key(&mut self, key: Bytes) -> Result<&mut KeyedState, Error> {
        let key_group = key_groups::key_group(&key, self.max_parallelism);
        if !(self.range.first..=self.range.last).contains(&key_group) {
            return Err(Error::ForeignKey { key_group, range: self.range });
        }
        (self.key, self.key_group) = (key, key_group);
        Ok(self)
    }

    /// The current key.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// What is known of the states in the snapshots that this was restored from.
    ///
    /// # Errors
    /// If they contradict each other.
    pub(super) fn adopt_schema(&mut self, states: &[StateSchema]) -> Result<(), Error> {
        for state in states {
            match self.schema.get(&StateId(state.id)) {
                Some(known) if known != state => return Err(self.conflict(known, state)),
                _ => drop(self.schema.insert(StateId(state.id), state.clone())),
            }
        }
        Ok(())
    }

    /// A state is used.
    ///
    /// # Errors
    /// If its id stands for another name, or its name for another kind, here or in what was restored.
    pub fn declare(&mut self, id: StateId, name: &'static str, kind: StateKind) -> Result<(), Error> {
        match self.schema.get(&id) {
            Some(known) if known.name == name && known.kind == kind => Ok(()),
            Some(known) => Err(self.conflict(known, &StateSchema { id: id.0, name: name.into(), kind })),
            None => {
                self.schema.insert(id, StateSchema { id: id.0, name: name.into(), kind });
                Ok(())
            }
        }
    }

    fn conflict(&self, known: &StateSchema, new: &StateSchema) -> Error {
        Error::Conflict { operator: self.operator.clone(), known: known.clone(), new: new.clone() }
    }

    /// Bytes that are not a value of a state.
    pub(super) fn wrong(&self, state: &'static str, what: String) -> Error {
        Error::Value { operator: self.operator.clone(), state, what }
    }

    /// The bytes at a place of the current key, as `of` makes something of them.
    pub(super) async fn read<T: Send>(
        &mut self,
        place: Place<'_>,
        of: impl FnOnce(Option<&[u8]>) -> T + Send,
    ) -> Result<T, Error> {
        self.locate(place);
        if let Some(known) = self.cache.get(&self.scratch) {
            return Ok(of(known));
        }
        let stored = self.store.get(&self.scratch).await.map_err(|e| self.failed(e))?;
        let answer = of(stored.as_deref());
        self.cache.learn(&self.scratch, stored);
        self.make_room().await?;
        Ok(answer)
    }

    /// Sets or removes the bytes at a place of the current key.
    pub(super) async fn write(&mut self, place: Place<'_>, value: Option<&[u8]>) -> Result<(), Error> {
        self.locate(place);
        self.change(value);
        self.make_room().await
    }

    /// What `scratch` stands for is this from now on.
    fn change(&mut self, value: Option<&[u8]>) {
        self.cache.set(&self.scratch, value);
        if let Some(Logged { log, .. }) = &mut self.logged {
            log.append(&self.scratch, value);
        }
    }

    /// The entries of a state of the current key that are under something that begins with `prefix`.
    pub(super) async fn scan(&mut self, state: StateId, prefix: &[u8]) -> Result<Scan, Error> {
        self.write_back().await?;
        self.locate(Place::Entry(state, prefix));
        let from = self.scratch.clone();
        let to = key_groups::after_prefix(&from).map_or(Bound::Unbounded, Bound::Excluded);
        let prefix_len = from.len() - prefix.len();
        Ok(Scan { entries: self.store.iter((Bound::Included(from), to), None), prefix_len })
    }

    fn locate(&mut self, place: Place<'_>) {
        assert!(self.key_group < self.max_parallelism, "state is that of a key, and none was set");
        self.scratch.clear();
        match place {
            Place::Value(state) => {
                key_groups::put_store_key(&mut self.scratch, self.key_group, state.0, &self.key);
            }
            Place::Entry(state, suffix) => {
                key_groups::put_entry_key(&mut self.scratch, self.key_group, state.0, &self.key, suffix);
            }
        }
    }

    async fn make_room(&mut self) -> Result<(), Error> {
        if self.cache.is_over_budget() {
            self.write_back().await?;
            self.cache.evict();
            sometimes!(points::EVICTED, true);
        }
        Ok(())
    }

    /// Writes what is dirty, so that the store holds all there is.
    async fn write_back(&mut self) -> Result<(), Error> {
        if !self.cache.has_dirty() {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        for (key, value) in self.cache.dirty() {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        self.adopt(batch).await?;
        self.cache.written();
        Ok(())
    }

    /// Sets a timer of the current key; nothing if there is the same already.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn set_timer(&mut self, time_ms: i64, namespace: &[u8]) -> Result<(), Error> {
        let timer = self.timer(time_ms, namespace);
        self.locate_timer(&timer);
        if self.timers.insert(timer) {
            self.change(Some(&[]));
        }
        self.make_room().await
    }

    /// Removes a timer of the current key, if there is such.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn delete_timer(&mut self, time_ms: i64, namespace: &[u8]) -> Result<(), Error> {
        let timer = self.timer(time_ms, namespace);
        self.locate_timer(&timer);
        if self.timers.remove(&timer) {
            self.change(None);
        }
        self.make_room().await
    }

    /// Takes out the first timer that is due at `watermark_ms`, and makes its key the current one.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn pop_timer(&mut self, watermark_ms: i64) -> Result<Option<Timer>, Error> {
        let Some(timer) = self.timers.pop_due(watermark_ms) else { return Ok(None) };
        self.set_key(timer.key.clone())?;
        self.locate_timer(&timer);
        self.change(None);
        self.make_room().await?;
        Ok(Some(timer))
    }

    /// How many timers are set.
    pub fn timers(&self) -> usize {
        self.timers.len()
    }

    fn timer(&self, time_ms: i64, namespace: &[u8]) -> Timer {
        Timer { time_ms, key: self.key.clone(), namespace: Bytes::copy_from_slice(namespace) }
    }

    fn locate_timer(&mut self, timer: &Timer) {
        self.scratch.clear();
        key_groups::put_store_key(&mut self.scratch, self.key_group, TIMERS.0, &[]);
        timers::encode(timer, &mut self.scratch);
    }

    /// Finds the timers that the store holds, after a restore.
    pub(super) async fn load_timers(&mut self) -> Result<(), Error> {
        for key_group in self.range.first..=self.range.last {
            let from = key_groups::store_key(key_group, TIMERS.0, &[]);
            let to = key_groups::after_prefix(&from).map_or(Bound::Unbounded, Bound::Excluded);
            let mut entries = self.store.iter((Bound::Included(from), to), None);
            while let Some((key, _)) = entries.next().await.map_err(|e| self.failed(e))? {
                let timer = timers::decode(&key[key_groups::PREFIX_BYTES..])
                    .filter(|timer| key_groups::key_group(&timer.key, self.max_parallelism) == key_group);
                let Some(timer) = timer else {
                    return Err(Error::Entry { dir: self.dir.clone(), len_bytes: key.len() });
                };
                self.timers.insert(timer);
            }
        }
        Ok(())
    }

    /// Writes entries of another store as they are; all must lie within the range.
    pub(super) async fn adopt(&self, batch: WriteBatch) -> Result<(), Error> {
        self.store.write(batch, WITHOUT_LOG).await.map(drop).map_err(|e| self.failed(e))
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
        let (dir, files) = self.link_to(&format!("chk-{checkpoint}")).await?;
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
        Ok(self.linked(Purpose::Checkpoint(checkpoint, target.clone()), dir, files, base))
    }

    /// Links all files of the store, with all that is cached, into a new directory of that name.
    pub(super) async fn link_to(&mut self, name: &str) -> Result<(PathBuf, CheckpointFiles), Error> {
        self.write_back().await?;
        point!(points::SNAPSHOT_BEFORE_LINKS);
        let dir = self.dir.join(name);
        let files = self.store.checkpoint(&dir).await.map_err(|e| self.failed(e))?;
        point!(points::SNAPSHOT_AFTER_LINKS);
        Ok((dir, files))
    }

    pub(super) fn linked(
        &self,
        purpose: Purpose,
        dir: PathBuf,
        files: CheckpointFiles,
        base: Files,
    ) -> LinkedSnapshot {
        let (range, states, merge_operator) = (self.range, self.schema(), self.merge_operator.clone());
        LinkedSnapshot { purpose, range, states, dir, files, base, merge_operator }
    }

    /// The states that there are.
    pub(super) fn schema(&self) -> Vec<StateSchema> {
        self.schema.values().cloned().collect()
    }

    /// What the state came from, which is said once.
    pub(super) fn take_restored(&mut self) -> Restored {
        std::mem::replace(&mut self.restored, Restored::Copied)
    }

    pub(super) fn set_restored(&mut self, restored: Restored) {
        self.restored = restored;
    }

    pub(super) fn logged_mut(&mut self) -> Option<&mut Logged> {
        self.logged.as_mut()
    }

    pub(super) fn set_logged(&mut self, logged: Logged) {
        self.logged = Some(logged);
    }

    /// True if changes are logged.
    pub fn is_logged(&self) -> bool {
        self.logged.is_some()
    }

    /// The asynchronous part is done, and the coordinator is about to be told of this.
    pub fn uploaded(&mut self, checkpoint: CheckpointId, snapshot: &KeyedSnapshot) {
        self.increments.uploaded(checkpoint, &snapshot.shared);
        self.log_acknowledged(snapshot);
    }

    /// The checkpoint is complete: later snapshots may reference its files.
    pub fn complete(&mut self, checkpoint: CheckpointId) {
        if let Some(Logged { log, .. }) = &mut self.logged {
            let truncated = log.complete(checkpoint);
            sometimes!(points::LOG_TRUNCATED, truncated);
        }
        let narrowed = self.increments.complete(checkpoint);
        sometimes!(points::BASE_NARROWED, narrowed);
    }

    /// The checkpoint will never be complete.
    pub fn abort(&mut self, checkpoint: CheckpointId) {
        if let Some(Logged { log, .. }) = &mut self.logged {
            log.abort(checkpoint);
        }
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
