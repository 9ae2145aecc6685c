//! What the tasks of a store and its callers share.
//!
//! Three tasks write: commit (the log and the memtable), flush, compaction. Each owns what only it changes; the rest is in
//! [`State`] under a lock that is never held across an await. The MANIFEST has a lock of its own, which is.
//!
//! The first failure that leaves the outcome of a write unknown stops all writes (see [`Shared::fail`], and `background` for how
//! long). The files of an edit that failed are not removed as long as nobody knows whether it is durable: both outcomes must find
//! theirs. After a fatal failure, which only the next open clears up, no file is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cutwater_io::fs::{self, File};
use cutwater_io::{point, sometimes};
use tokio::sync::{Notify, oneshot};

use super::background::{Background, Severity};
use super::directory::Directory;
use super::error::Error;
use super::families::Families;
use super::filenames::FileKind;
use super::files::Files;
use super::install::Waiting;
use super::manifest::Manifest;
use super::options::Options;
use super::points;
use super::rate::RateLimiter;
use super::resume::Attempts;
use super::snapshot::SnapshotList;
use super::version::{Version, VersionSet};

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
    /// What flushes and compactions keep to.
    pub(crate) rate: Option<Arc<RateLimiter>>,
}

impl Site {
    pub(crate) fn new(dir: Directory, options: Options, identity: String) -> Site {
        let rate = options.rate_limit_bytes_per_s.map(|rate| Arc::new(RateLimiter::new(rate)));
        Site { dir, options, identity, rate }
    }
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    /// The last write that readers see.
    pub(crate) last_sequence: u64,
    pub(crate) families: Families,
    /// What is in tables.
    pub(crate) set: Arc<VersionSet>,
    /// Versions that somebody may still read.
    pub(crate) old_versions: Vec<Weak<Version>>,
    pub(crate) next_file_number: u64,
    pub(crate) obsolete_tables: BTreeSet<u64>,
    pub(crate) obsolete_blobs: BTreeSet<u64>,
    pub(crate) obsolete_manifests: BTreeSet<u64>,
    /// The MANIFEST that CURRENT names.
    pub(crate) manifest_number: u64,
    /// Logs that exist, with what was written to them. Bytes.
    pub(crate) wals: BTreeMap<u64, u64>,
    /// Who waits for a full compaction.
    pub(crate) manual_compactions: Vec<ManualCompaction>,
    /// What stopped writes, if they are stopped.
    pub(crate) background: Option<Background>,
    pub(crate) attempts: Attempts,
    /// The families whose filters are at work: once for each flush or compaction.
    pub(crate) filtering: Vec<u32>,
    pub(crate) is_closing: bool,
}

/// A full compaction that somebody asked for.
#[derive(Debug)]
pub(crate) struct ManualCompaction {
    /// Of this family, or of all.
    pub(crate) family: Option<u32>,
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

/// All that is shared. Holds the directory's lock: who still can write keeps others out.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) site: Site,
    pub(crate) state: Mutex<State>,
    pub(crate) files: Files,
    pub(crate) snapshots: Arc<SnapshotList>,
    pub(crate) manifest: tokio::sync::Mutex<Manifest>,
    /// What is to be installed by whoever gets the MANIFEST next.
    pub(crate) changes: Mutex<VecDeque<Waiting>>,
    /// Directories of checkpoints whose own names are durable. Held while a checkpoint is made.
    pub(crate) durable_parents: tokio::sync::Mutex<BTreeSet<PathBuf>>,
    pub(crate) purging: tokio::sync::Mutex<()>,
    /// Held while tables are ingested.
    pub(crate) ingesting: tokio::sync::Mutex<()>,
    /// Held for reading by compactions, from before they are picked until they are installed, and for writing while levels are chosen for
    /// tables that are ingested, until these are there.
    pub(crate) placing: tokio::sync::RwLock<()>,
    /// Held while families come or go, and while a checkpoint waits for all of them to be flushed.
    pub(crate) families_change: tokio::sync::Mutex<()>,
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
            FileKind::Wal(number) => self.wals.insert(number, 0).is_none(),
            FileKind::Manifest(number) => self.obsolete_manifests.insert(number),
            _ => false,
        };
    }

    /// The log that is written.
    pub(crate) fn current_log(&self) -> u64 {
        *self.wals.last_key_value().expect("there is a log that is written").0
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
            Some(background) => Err(background.error().clone()),
            None if state.is_closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Stops all writes, and returns the error that they get from now on: the first failure's. What is an answer already is
    /// returned as it is.
    pub(crate) fn fail(&self, during: &'static str, source: Error) -> Error {
        self.fail_in_doubt(during, source, Vec::new())
    }

    /// As [`Shared::fail`]. Nobody knows whether these files are named by what is on the disk, or are there at all.
    pub(crate) fn fail_in_doubt(
        &self,
        during: &'static str,
        source: Error,
        in_doubt: Vec<FileKind>,
    ) -> Error {
        if matches!(source, Error::Background { .. } | Error::Closed) {
            return source;
        }
        sometimes!(points::BACKGROUND_ERROR, true);
        let severity = Severity::of(&source, self.site.dir.path());
        let error = Error::Background { severity, during, source: Arc::new(source) };
        tracing::warn!(%error, "writes are refused");
        let answer = Background::add(&mut self.state().background, error, severity, in_doubt).clone();
        self.wake_all();
        answer
    }

    /// What has an iterator wake the compaction task once it is done.
    pub(crate) fn wake(&self) -> WakeOnDrop {
        WakeOnDrop(self.compact_wake.clone())
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

    /// Files that were begun, or are whole, and that no edit names or will name.
    pub(crate) fn discard(&self, files: Vec<FileKind>) {
        let mut state = self.state();
        files.into_iter().for_each(|file| state.remember_obsolete(file));
    }

    /// Removes files that nothing needs any more. On return all that could be removed are gone; the others are tried again
    /// next time.
    pub(crate) async fn purge(&self) {
        let _one_at_a_time = self.purging.lock().await;
        let mut doomed = Vec::new();
        {
            let mut state = self.state();
            if state.background.as_ref().is_some_and(Background::is_fatal) {
                return;
            }
            state.families.forget_dropped();
            state.old_versions.retain(|v| v.strong_count() > 0);
            let live: Vec<Arc<Version>> = state.old_versions.iter().filter_map(Weak::upgrade).collect();
            let present: BTreeSet<u64> = state.set.files().map(|(_, f)| f.number).collect();
            let is_live = |n: &u64| live.iter().any(|v| v.contains(*n));
            let tables: Vec<u64> = state.obsolete_tables.iter().copied().filter(|n| !is_live(n)).collect();
            for number in tables {
                assert!(!present.contains(&number), "table {number} of the present version is to be removed");
                state.obsolete_tables.remove(&number);
                doomed.push(FileKind::Table(number));
            }
            let present: BTreeSet<u64> = state.set.blobs().map(|file| file.added.number).collect();
            let is_read = |n: &u64| live.iter().any(|v| v.blobs.get(*n).is_some());
            let blobs: Vec<u64> = state.obsolete_blobs.iter().copied().filter(|n| !is_read(n)).collect();
            for number in blobs {
                assert!(
                    !present.contains(&number),
                    "blob file {number} of the present version is to be removed"
                );
                state.obsolete_blobs.remove(&number);
                doomed.push(FileKind::Blob(number));
            }
            let first_log = state.set.first_log();
            let needed = state.wals.split_off(&first_log);
            doomed.extend(std::mem::replace(&mut state.wals, needed).into_keys().map(FileKind::Wal));
            doomed.extend(std::mem::take(&mut state.obsolete_manifests).into_iter().map(FileKind::Manifest));
        }
        if doomed.is_empty() {
            return;
        }
        point!(points::OBSOLETE_BEFORE_DELETE);
        for file in doomed {
            match file {
                FileKind::Table(number) => self.files.tables.evict(number),
                FileKind::Blob(number) => self.files.blobs.evict(number),
                _ => {}
            }
            let path = file.path(self.site.dir.path());
            match fs::remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an obsolete file stays for now");
                    self.state().remember_obsolete(file);
                }
                _ => self.files.counters.removed_files.add(1),
            }
        }
    }
}
