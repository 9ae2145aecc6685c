//! What the tasks of a store and its callers share.
//!
//! Three tasks write: commit (the log and the memtable), flush, compaction. Each owns what only it changes; the rest is in
//! [`State`] under a lock that is never held across an await. The MANIFEST has a lock of its own, which is.
//!
//! The first failure that leaves the outcome of a write unknown stops all writes (see [`Shared::fail`]). From then on no
//! file is removed: whether a failed edit is durable will only be known when the store is opened again, and both outcomes
//! must find their files.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cutwater_io::fs::{self, File};
use cutwater_io::{buggify, point, sometimes};
use tokio::sync::{Notify, oneshot};

use super::blob::BlobCache;
use super::directory::Directory;
use super::error::Error;
use super::filenames::FileKind;
use super::key::InternalKey;
use super::manifest::Manifest;
use super::memtable::Memtable;
use super::options::Options;
use super::points;
use super::snapshot::SnapshotList;
use super::tables::TableCache;
use super::version::{Version, VersionEdit};

/// Locks; a panic elsewhere does not matter, as no critical section leaves anything half-done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where tables are written, and how.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) dir: Directory,
    pub(crate) options: Options,
    pub(crate) identity: String,
}

/// A memtable that waits for its flush.
#[derive(Clone, Debug)]
pub(crate) struct Immutable {
    pub(crate) mem: Arc<Memtable>,
    /// Once it is flushed, logs below this number are not needed.
    pub(crate) next_log_number: u64,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    /// The last write that readers see.
    pub(crate) last_sequence: u64,
    pub(crate) mem: Arc<Memtable>,
    /// Oldest first.
    pub(crate) immutable: VecDeque<Immutable>,
    pub(crate) version: Arc<Version>,
    /// Versions that somebody may still read.
    pub(crate) old_versions: Vec<Weak<Version>>,
    pub(crate) next_file_number: u64,
    /// Memtables up to this id are in tables.
    pub(crate) flushed_memtable: u64,
    /// Where the compaction of each level goes on.
    pub(crate) cursors: Vec<Option<InternalKey>>,
    pub(crate) obsolete_tables: BTreeSet<u64>,
    pub(crate) obsolete_blobs: BTreeSet<u64>,
    pub(crate) obsolete_manifests: BTreeSet<u64>,
    /// The MANIFEST that CURRENT names.
    pub(crate) manifest_number: u64,
    /// Logs that exist.
    pub(crate) wals: BTreeSet<u64>,
    /// Who waits for a full compaction.
    pub(crate) manual_compactions: Vec<oneshot::Sender<Result<(), Error>>>,
    pub(crate) background: Option<Error>,
    pub(crate) is_closing: bool,
}

/// All that is shared. Holds the directory's lock: who still can write keeps others out.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) site: Site,
    pub(crate) state: Mutex<State>,
    pub(crate) tables: Arc<TableCache>,
    pub(crate) blobs: Arc<BlobCache>,
    pub(crate) snapshots: Arc<SnapshotList>,
    pub(crate) manifest: tokio::sync::Mutex<Manifest>,
    /// Directories of checkpoints whose own names are durable. Held while a checkpoint is made.
    pub(crate) durable_parents: tokio::sync::Mutex<BTreeSet<PathBuf>>,
    pub(crate) purging: tokio::sync::Mutex<()>,
    /// A flush or a compaction ended, or writes stopped.
    pub(crate) progress: Notify,
    pub(crate) flush_wake: Notify,
    pub(crate) compact_wake: Arc<Notify>,
    /// Given back when the store is closed.
    pub(crate) lock: Mutex<Option<File>>,
}

/// Wakes the compaction task when dropped, so that it removes files which are no longer pinned.
#[derive(Debug)]
pub(crate) struct WakeOnDrop(pub(crate) Arc<Notify>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl State {
    /// The file is to be removed by the next purge.
    pub(crate) fn remember_obsolete(&mut self, file: FileKind) {
        match file {
            FileKind::Table(number) => self.obsolete_tables.insert(number),
            FileKind::Blob(number) => self.obsolete_blobs.insert(number),
            FileKind::Wal(number) => self.wals.insert(number),
            FileKind::Manifest(number) => self.obsolete_manifests.insert(number),
            _ => false,
        };
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn allocate_number(&self) -> u64 {
        let mut state = self.state();
        state.next_file_number += 1;
        state.next_file_number - 1
    }

    /// The answer to a write now, if it is no.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        let state = self.state();
        match &state.background {
            Some(e) => Err(e.clone()),
            None if state.is_closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Stops all writes, and returns the error that they get from now on: the first failure's.
    pub(crate) fn fail(&self, during: &'static str, source: Error) -> Error {
        sometimes!(points::BACKGROUND_ERROR, true);
        let mut state = self.state();
        let error = match source {
            Error::Background { .. } | Error::Closed => source,
            source => Error::Background { during, source: Arc::new(source) },
        };
        let answer = state.background.get_or_insert(error).clone();
        drop(state);
        self.wake_all();
        answer
    }

    pub(crate) fn wake_all(&self) {
        self.progress.notify_waiters();
        self.flush_wake.notify_one();
        self.compact_wake.notify_one();
    }

    /// Waits until `ready` answers; it is asked whenever there was progress.
    pub(crate) async fn wait_until<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let progress = self.progress.notified();
            let mut progress = std::pin::pin!(progress);
            progress.as_mut().enable();
            if let Some(answer) = ready(&mut self.state()) {
                return answer;
            }
            progress.await;
        }
    }

    /// Makes the edit durable and then visible, together with `on_install`, which runs under the same lock.
    ///
    /// # Errors
    /// Writes have stopped then: the edit may be durable or not.
    pub(crate) async fn install(
        &self,
        during: &'static str,
        mut edit: VersionEdit,
        on_install: impl FnOnce(&mut State),
    ) -> Result<(), Error> {
        let mut manifest = self.manifest.lock().await;
        let (base, next_file_number) = {
            let state = self.state();
            if let Some(e) = &state.background {
                return Err(e.clone());
            }
            (state.version.clone(), state.next_file_number)
        };
        let next = base.apply(&edit).and_then(|next| next.check().map(|()| next));
        let next = next.map_err(|what| self.fail(during, Error::corruption(manifest.path(), 0, what)))?;
        edit.next_file_number = Some(next_file_number);
        edit.last_sequence = Some(next.flushed_sequence);
        let is_long = manifest.len_bytes() >= self.site.options.max_manifest_bytes;
        let replaced = if is_long || buggify!(points::MANIFEST_ROLLS_EARLY) {
            self.roll_manifest(&mut manifest, &next).await.map(Some)
        } else {
            manifest.append(edit).await.map(|()| None)
        };
        let replaced = replaced.map_err(|e| self.fail(during, e))?;
        point!(points::MANIFEST_SYNCED);
        let mut state = self.state();
        state.obsolete_manifests.extend(replaced);
        state.manifest_number = manifest.number();
        state.obsolete_tables.extend(base.files().map(|(_, f)| f.number).filter(|n| !next.contains(*n)));
        let blobs = base.blobs.iter().map(|file| file.added.number);
        state.obsolete_blobs.extend(blobs.filter(|number| next.blobs.get(*number).is_none()));
        let old = std::mem::replace(&mut state.version, Arc::new(next));
        state.old_versions.push(Arc::downgrade(&old));
        on_install(&mut state);
        drop(state);
        self.wake_all();
        Ok(())
    }

    /// Begins a new MANIFEST with `version`, and returns the number of the old one.
    async fn roll_manifest(&self, manifest: &mut Manifest, version: &Version) -> Result<u64, Error> {
        let number = self.allocate_number();
        let edit = VersionEdit { next_file_number: Some(number + 1), ..version.snapshot() };
        let fresh = Manifest::create(&self.site.dir, number, &self.site.identity, edit).await?;
        point!(points::MANIFEST_ROLLED);
        super::manifest::set_current(&self.site.dir, number).await?;
        Ok(std::mem::replace(manifest, fresh).number())
    }

    /// Removes files that nothing needs any more. On return all that could be removed are gone; the others are tried again
    /// next time.
    pub(crate) async fn purge(&self) {
        let _one_at_a_time = self.purging.lock().await;
        let mut doomed = Vec::new();
        {
            let mut state = self.state();
            if state.background.is_some() {
                return;
            }
            state.old_versions.retain(|v| v.strong_count() > 0);
            let live: Vec<Arc<Version>> = state.old_versions.iter().filter_map(Weak::upgrade).collect();
            let is_live = |n: &u64| live.iter().any(|v| v.contains(*n));
            let tables: Vec<u64> = state.obsolete_tables.iter().copied().filter(|n| !is_live(n)).collect();
            for number in tables {
                assert!(
                    !state.version.contains(number),
                    "table {number} of the present version is to be removed"
                );
                state.obsolete_tables.remove(&number);
                doomed.push(FileKind::Table(number));
            }
            let is_read = |n: &u64| live.iter().any(|v| v.blobs.get(*n).is_some());
            let blobs: Vec<u64> = state.obsolete_blobs.iter().copied().filter(|n| !is_read(n)).collect();
            for number in blobs {
                assert!(
                    state.version.blobs.get(number).is_none(),
                    "blob file {number} of the present version is to be removed"
                );
                state.obsolete_blobs.remove(&number);
                doomed.push(FileKind::Blob(number));
            }
            let log_number = state.version.log_number;
            let needed = state.wals.split_off(&log_number);
            doomed.extend(std::mem::replace(&mut state.wals, needed).into_iter().map(FileKind::Wal));
            doomed.extend(std::mem::take(&mut state.obsolete_manifests).into_iter().map(FileKind::Manifest));
        }
        if doomed.is_empty() {
            return;
        }
        point!(points::OBSOLETE_BEFORE_DELETE);
        for file in doomed {
            match file {
                FileKind::Table(number) => self.tables.evict(number),
                FileKind::Blob(number) => self.blobs.evict(number),
                _ => {}
            }
            let path = file.path(self.site.dir.path());
            match fs::remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an obsolete file stays for now");
                    self.state().remember_obsolete(file);
                }
                _ => {}
            }
        }
    }
}
