//! Changes of what is in tables: made durable in the MANIFEST, and then visible.
//!
//! Who has a change puts it into a queue and waits for the MANIFEST. Whoever gets that takes along all changes that wait (a
//! group commit, as of writes to the log): they are written together and synced once. A change that adds or drops a family
//! goes alone, as RocksDB has it (`VersionSet::ProcessManifestWrites`).
//!
//! A change is whole or not there, and those of a group are installed in the order in which they came. Its edits are checked
//! against the rules of the tree before anything is written. If the write fails, all of the group fail: nobody knows which of
//! them are durable, and the files of all are kept until that is known.

use std::collections::VecDeque;
use std::sync::Arc;

use cutwater_io::{buggify, point, sometimes};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::error::Error;
use super::families::Closed;
use super::filenames::FileKind;
use super::manifest::{Manifest, switch_current, write_current};
use super::points::{self, of_families};
use super::shared::{Shared, State, lock};
use super::version::{VersionEdit, VersionSet, WalAddition};

/// A change of what is in tables.
#[derive(Debug)]
pub(crate) struct Change {
    /// Of several families, or of one.
    pub(crate) edits: Vec<VersionEdit>,
    /// What they put into tables.
    pub(crate) flushes: Option<Arc<Closed>>,
    /// Levels of a family that is added.
    pub(crate) num_levels: usize,
}

/// What runs under the lock of the state when the change is visible.
type OnInstall = Box<dyn FnOnce(&mut State) + Send>;

/// A change that waits for the MANIFEST.
pub(crate) struct Waiting {
    during: &'static str,
    change: Change,
    on_install: OnInstall,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Changes that are written together.
#[derive(Default)]
struct Group {
    edits: Vec<VersionEdit>,
    /// Edits of families that were dropped meanwhile.
    left_out: Vec<VersionEdit>,
    on_install: Vec<OnInstall>,
    done: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("during", &self.during).field("change", &self.change).finish()
    }
}

impl Change {
    /// One that flushes nothing and adds no family.
    pub(crate) fn of(edit: VersionEdit) -> Change {
        Change { edits: vec![edit], flushes: None, num_levels: 0 }
    }

    /// So much of these logs is durable. RocksDB wants that said in an edit of its own.
    pub(crate) fn of_logs(wal_additions: Vec<WalAddition>) -> Change {
        Change::of(VersionEdit { wal_additions, ..VersionEdit::default() })
    }

    fn is_about_families(&self) -> bool {
        self.edits.iter().any(|edit| edit.column_family_add.is_some() || edit.column_family_drop)
    }
}

/// What these edits add that was not there before: a table that goes to another level was.
fn new_files(edits: &[VersionEdit]) -> Vec<FileKind> {
    let was_there = |edit: &VersionEdit, number| edit.deleted_files.iter().any(|(_, gone)| *gone == number);
    let tables = edits.iter().flat_map(|edit| {
        let numbers = edit.new_files.iter().map(|(_, file)| file.number);
        numbers.filter(|number| !was_there(edit, *number)).map(FileKind::Table)
    });
    let blobs = edits.iter().flat_map(|edit| &edit.blob_additions).map(|file| FileKind::Blob(file.number));
    tables.chain(blobs).collect()
}

/// The first change that waits, and those behind it that may go with it.
fn take_group(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut group: Vec<Waiting> = waiting.pop_front().into_iter().collect();
    let is_alone = group.iter().any(|first| first.change.is_about_families());
    while let Some(next) = waiting.pop_front_if(|next| !is_alone && !next.change.is_about_families()) {
        group.push(next);
    }
    group
}

impl Shared {
    /// Makes the change durable and then visible, together with `on_install`, which runs under the same lock. A family that
    /// it drops is set aside. What it says of one that was dropped meanwhile is left out, and the files that it adds for it are
    /// removed.
    ///
    /// # Errors
    /// Writes have stopped then: the edits may be durable or not.
    pub(crate) async fn install(
        &self,
        during: &'static str,
        change: Change,
        on_install: impl FnOnce(&mut State) + Send + 'static,
    ) -> Result<(), Error> {
        let (done, mut answer) = oneshot::channel();
        lock(&self.changes).push_back(Waiting { during, change, on_install: Box::new(on_install), done });
        let mut manifest = self.manifest.lock().await;
        loop {
            match answer.try_recv() {
                Ok(result) => return result,
                // Whoever took it along was stopped.
                Err(TryRecvError::Closed) => return Err(Error::Closed),
                Err(TryRecvError::Empty) => {}
            }
            let group = take_group(&mut lock(&self.changes));
            assert!(!group.is_empty(), "a change waits until it is answered");
            sometimes!(points::MANIFEST_GROUPED, group.len() > 1);
            self.install_group(&mut manifest, group).await;
        }
    }

    async fn install_group(&self, manifest: &mut Manifest, waiting: Vec<Waiting>) {
        let during = waiting[0].during;
        let stopped = self.state().background.as_ref().filter(|b| !b.is_retrying).map(|b| b.error().clone());
        if let Some(error) = stopped {
            for Waiting { change, done, .. } in waiting {
                self.discard(new_files(&change.edits));
                let _ = done.send(Err(error.clone()));
            }
            return;
        }
        let (mut group, next) = match self.prepare(waiting) {
            Ok(prepared) => prepared,
            Err((what, waiting)) => {
                let error = self.fail(during, Error::corruption(manifest.path(), 0, what));
                return waiting.into_iter().for_each(|done| drop(done.send(Err(error.clone()))));
            }
        };
        let result = self.write(during, manifest, std::mem::take(&mut group.edits), &next).await;
        if result.is_ok() {
            point!(points::MANIFEST_SYNCED);
            self.show(group.left_out, group.on_install, next, manifest.number());
        }
        group.done.into_iter().for_each(|done| drop(done.send(result.clone())));
    }

    /// The edits of the group as they are to be written, and the set after them.
    #[expect(clippy::type_complexity, reason = "who waits is to be told either way")]
    fn prepare(
        &self,
        waiting: Vec<Waiting>,
    ) -> Result<(Group, VersionSet), (String, Vec<oneshot::Sender<Result<(), Error>>>)> {
        let (mut next, next_file_number, current_log) = {
            let state = self.state();
            (VersionSet::clone(&state.set), state.next_file_number, state.current_log())
        };
        let mut group = Group::default();
        let mut broken = None;
        for Waiting { mut change, on_install, done, .. } in waiting {
            group.done.push(done);
            group.on_install.push(on_install);
            let is_there = |edit: &VersionEdit| {
                edit.column_family_add.is_some() || next.family(edit.column_family).is_some()
            };
            let (mut edits, left_out): (Vec<_>, Vec<_>) =
                std::mem::take(&mut change.edits).into_iter().partition(is_there);
            sometimes!(of_families::DROPPED_MEANWHILE, !left_out.is_empty());
            group.left_out.extend(left_out);
            self.complete(&mut edits, &change, &next, next_file_number, current_log);
            match next.apply(&edits, |_| change.num_levels).and_then(|set| set.check().map(|()| set)) {
                Ok(set) => next = set,
                Err(what) => broken = broken.or(Some(what)),
            }
            group.edits.append(&mut edits);
        }
        match broken {
            None => Ok((group, next)),
            Some(what) => Err((what, group.done)),
        }
    }

    /// Adds to the edits of a change what they say of the whole store, and, if it lets go of logs that were tracked, one that
    /// says so.
    fn complete(
        &self,
        edits: &mut Vec<VersionEdit>,
        change: &Change,
        base: &VersionSet,
        next_file_number: u64,
        current_log: u64,
    ) {
        let first_log = self.state().families.first_log(change.flushes.as_deref(), current_log);
        let last_sequence =
            change.flushes.as_ref().map_or(0, |closed| closed.last_sequence).max(base.last_sequence());
        let new_files = edits.iter().flat_map(|edit| &edit.new_files);
        let last_sequence = new_files.map(|(_, file)| file.largest_sequence).fold(last_sequence, u64::max);
        let count = edits.len() as u32;
        for (edit, remaining) in edits.iter_mut().zip((0..count).rev()) {
            if !edit.wal_additions.is_empty() {
                continue;
            }
            edit.last_sequence = Some(last_sequence);
            edit.next_file_number = Some(next_file_number);
            edit.min_log_number_to_keep = Some(first_log);
            edit.atomic_group_remaining = (count > 1).then_some(remaining);
        }
        if base.tracked_logs().next().is_some_and(|(number, _)| number < first_log) && count > 0 {
            edits.push(VersionEdit { wal_deletion: Some(first_log), ..VersionEdit::default() });
        }
    }

    /// Makes the edits durable, in this MANIFEST or with a new one.
    async fn write(
        &self,
        during: &'static str,
        manifest: &mut Manifest,
        edits: Vec<VersionEdit>,
        next: &VersionSet,
    ) -> Result<(), Error> {
        if edits.is_empty() {
            return Ok(());
        }
        let is_long = manifest.len_bytes() >= self.site.options.max_manifest_bytes;
        let added = new_files(&edits);
        if is_long || manifest.is_given_up() || buggify!(points::MANIFEST_ROLLS_EARLY) {
            self.roll_manifest(during, manifest, next, added).await
        } else {
            manifest.append(edits).await.map_err(|e| self.fail_in_doubt(during, e, added))
        }
    }

    /// Begins a new MANIFEST with `set`, which has these files that were not there before.
    async fn roll_manifest(
        &self,
        during: &'static str,
        manifest: &mut Manifest,
        set: &VersionSet,
        mut added: Vec<FileKind>,
    ) -> Result<(), Error> {
        sometimes!(points::MANIFEST_GIVEN_UP, manifest.is_given_up());
        let (dir, number) = (&self.site.dir, self.allocate_number());
        added.push(FileKind::Manifest(number));
        let begin = async {
            let edits = set.snapshot(number + 1);
            let fresh = Manifest::create(dir, number, &self.site.identity, edits).await?;
            point!(points::MANIFEST_ROLLED);
            write_current(dir, number).await.map(|temporary| (fresh, temporary))
        };
        let (fresh, temporary) = match begin.await {
            Ok(begun) => begun,
            // CURRENT does not name it, nor will it.
            Err(e) => {
                self.discard(added);
                return Err(self.fail(during, e));
            }
        };
        // CURRENT may name either, until this has an answer that is none but good.
        manifest.give_up();
        switch_current(dir, &temporary).await.map_err(|e| self.fail_in_doubt(during, e, added))?;
        let old = std::mem::replace(manifest, fresh).number();
        self.state().remember_obsolete(FileKind::Manifest(old));
        Ok(())
    }

    /// Makes what is durable visible.
    fn show(
        &self,
        left_out: Vec<VersionEdit>,
        on_install: Vec<OnInstall>,
        next: VersionSet,
        manifest_number: u64,
    ) {
        let mut state = self.state();
        let base = state.set.clone();
        state.manifest_number = manifest_number;
        new_files(&left_out).into_iter().for_each(|file| state.remember_obsolete(file));
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
        on_install.into_iter().for_each(|on_install| on_install(&mut state));
        drop(state);
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(edit: VersionEdit) -> Waiting {
        let (done, _) = oneshot::channel();
        Waiting { during: "a test", change: Change::of(edit), on_install: Box::new(|_| {}), done }
    }

    fn add_log(number: u64) -> Waiting {
        let log = WalAddition { number, synced_bytes: Some(1) };
        waiting(VersionEdit { wal_additions: vec![log], ..VersionEdit::default() })
    }

    #[test]
    fn families_come_and_go_alone() {
        let create =
            || waiting(VersionEdit { column_family_add: Some("a".to_owned()), ..VersionEdit::default() });
        let drop = || waiting(VersionEdit { column_family_drop: true, ..VersionEdit::default() });
        let mut queue =
            VecDeque::from([add_log(1), add_log(2), create(), drop(), add_log(3), add_log(4), create()]);
        let mut sizes = Vec::new();
        while !queue.is_empty() {
            sizes.push(take_group(&mut queue).len());
        }
        assert_eq!(sizes, [2, 1, 1, 2, 1]);
    }

    #[test]
    fn a_table_that_moves_is_not_new() {
        let file = |number| super::super::version::FileMeta { number, ..Default::default() };
        let moved = VersionEdit {
            deleted_files: vec![(1, 7)],
            new_files: vec![(2, file(7)), (2, file(8))],
            ..VersionEdit::default()
        };
        assert_eq!(new_files(&[moved]), [FileKind::Table(8)]);
    }
}
