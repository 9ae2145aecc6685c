//! What the tasks of a store and its callers share.
//!
//! Three tasks write: commit (the log and the memtable), flush, compaction. Each owns what only it changes; the rest is in
//! [`State`] under a lock that is never held across an await. The MANIFEST has a lock of its own, which is.
//!
//! The first failure that leaves the outcome of a write unknown stops all writes (see [`Shared::fail`]). From then on no
//! file is removed: whether a failed edit is durable will only be known when the store is opened again, and both outcomes
//! must find their files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cutwater_io::fs::{self, File};
use cutwater_io::{buggify, point, sometimes};
use tokio::sync::{Notify, oneshot};

use super::directory::Directory;
use super::error::Error;
use super::families::{Closed, Families};
use super::filenames::FileKind;
use super::files::Files;
use super::manifest::Manifest;
use super::options::Options;
use super::points::{self, of_families};
use super::snapshot::SnapshotList;
use super::version::{Version, VersionEdit, VersionSet};

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
    pub(crate) background: Option<Error>,
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

/// A change of what is in tables.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// Of several families, or of one.
    pub(crate) edits: Vec<VersionEdit>,
    /// What they put into tables.
    pub(crate) flushes: Option<&'a Closed>,
    /// Levels of a family that is added.
    pub(crate) num_levels: usize,
}

impl Change<'_> {
    /// One that flushes nothing and adds no family.
    pub(crate) fn of(edit: VersionEdit) -> Change<'static> {
        Change { edits: vec![edit], flushes: None, num_levels: 0 }
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

    /// Makes the change durable and then visible, together with `on_install`, which runs under the same lock. A family that
    /// they drop is set aside. What they say of one that was dropped meanwhile is left out, and the files that they add for it are
    /// removed.
    ///
    /// # Errors
    /// Writes have stopped then: the edits may be durable or not.
    pub(crate) async fn install(
        &self,
        during: &'static str,
        change: Change<'_>,
        on_install: impl FnOnce(&mut State),
    ) -> Result<(), Error> {
        let mut manifest = self.manifest.lock().await;
        let (base, next_file_number, first_log) = {
            let state = self.state();
            if let Some(e) = &state.background {
                return Err(e.clone());
            }
            let first_log = state.families.first_log(change.flushes, state.current_log());
            (state.set.clone(), state.next_file_number, first_log)
        };
        let is_there = |edit: &VersionEdit| {
            edit.column_family_add.is_some() || base.family(edit.column_family).is_some()
        };
        let (mut edits, left_out): (Vec<_>, Vec<_>) = change.edits.into_iter().partition(is_there);
        sometimes!(of_families::DROPPED_MEANWHILE, !left_out.is_empty());
        let last_sequence = change.flushes.map_or(0, |closed| closed.last_sequence).max(base.last_sequence());
        let new_files = edits.iter().flat_map(|edit| &edit.new_files);
        let last_sequence = new_files.map(|(_, file)| file.largest_sequence).fold(last_sequence, u64::max);
        let count = edits.len() as u32;
        for (edit, remaining) in edits.iter_mut().zip((0..count).rev()) {
            edit.last_sequence = Some(last_sequence);
            edit.next_file_number = Some(next_file_number);
            edit.min_log_number_to_keep = Some(first_log);
            edit.atomic_group_remaining = (count > 1).then_some(remaining);
        }
        let levels_of = |_: &str| change.num_levels;
        let next = base.apply(&edits, levels_of).and_then(|next| next.check().map(|()| next));
        let next = next.map_err(|what| self.fail(during, Error::corruption(manifest.path(), 0, what)))?;
        let is_long = manifest.len_bytes() >= self.site.options.max_manifest_bytes;
        let replaced = if edits.is_empty() {
            Ok(None)
        } else if is_long || buggify!(points::MANIFEST_ROLLS_EARLY) {
            self.roll_manifest(&mut manifest, &next).await.map(Some)
        } else {
            manifest.append(edits).await.map(|()| None)
        };
        let replaced = replaced.map_err(|e| self.fail(during, e))?;
        point!(points::MANIFEST_SYNCED);
        let mut state = self.state();
        state.obsolete_manifests.extend(replaced);
        state.manifest_number = manifest.number();
        let unwanted = left_out.iter().flat_map(|edit| &edit.new_files).map(|(_, file)| file.number);
        state.obsolete_tables.extend(unwanted);
        let unwanted = left_out.iter().flat_map(|edit| &edit.blob_additions).map(|file| file.number);
        state.obsolete_blobs.extend(unwanted);
        for (id, family) in base.families() {
            let after = next.family(id).map(|family| &family.version);
            if after.is_some_and(|after| Arc::ptr_eq(after, &family.version)) {
                continue;
            }
            let is_gone = |number: &u64| !after.is_some_and(|after| after.contains(*number));
            state.obsolete_tables.extend(family.version.files().map(|(_, f)| f.number).filter(is_gone));
            let blobs = family.version.blobs.iter().map(|file| file.added.number);
            let is_gone = |number: &u64| after.is_none_or(|after| after.blobs.get(*number).is_none());
            state.obsolete_blobs.extend(blobs.filter(is_gone));
            state.old_versions.push(Arc::downgrade(&family.version));
            if after.is_none() {
                state.families.drop_family(id, family.version.clone());
            }
        }
        state.set = Arc::new(next);
        on_install(&mut state);
        drop(state);
        self.wake_all();
        Ok(())
    }

    /// Begins a new MANIFEST with `set`, and returns the number of the old one.
    async fn roll_manifest(&self, manifest: &mut Manifest, set: &VersionSet) -> Result<u64, Error> {
        let number = self.allocate_number();
        let edits = set.snapshot(number + 1);
        let fresh = Manifest::create(&self.site.dir, number, &self.site.identity, edits).await?;
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
