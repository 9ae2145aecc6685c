//! Which files of a snapshot need not be uploaded again.
//!
//! A snapshot may reference a file only by the handle under which a *confirmed* checkpoint holds it: one that the
//! coordinator said is complete, not one that was merely uploaded (Flink: `RocksIncrementalSnapshotStrategy`, FLINK-23949).
//!
//! One case is easy to miss. Barriers travel through the data and may overtake the confirmation of the checkpoint before:
//! snapshot n+1 begins while n is not known to be complete, and uploads a file of n again under another name. When n is
//! then confirmed late, that file's handle of n may not become part of the base: n+1 does not reference it, so it dies
//! when n+1 subsumes n, while a snapshot n+2 could still name it. The base is therefore narrowed to the handles that every
//! snapshot begun since also references. In the same way a snapshot that references nothing (a full one) will have the
//! confirmed base die when it completes: what begins while its fate is open may not build on that base either.
//!
//! Files may be segments of one object ([`super::merging`]): they are the same only if object and segment are, and those of
//! an object that is mostly garbage are left out of the base.
//!
//! Pure: facts in, the base out.

use std::collections::BTreeMap;

use super::merging;
use crate::checkpoint::snapshot::{CheckpointId, StoreFile};

/// Files by their name in the store.
pub type Files = BTreeMap<String, StoreFile>;

/// What is known about the snapshots of one store.
#[derive(Clone, Debug, Default)]
pub struct Increments {
    confirmed: Files,
    /// Snapshots whose fate is open: what they reference for certain. While one uploads that is its base.
    open: BTreeMap<CheckpointId, Files>,
}

impl Increments {
    /// Of a store opened from the snapshot of a completed checkpoint, or (with no files) of a new store.
    pub fn new(confirmed: &[StoreFile]) -> Self {
        Increments { confirmed: by_name(confirmed), open: BTreeMap::new() }
    }

    /// A snapshot begins that references nothing and may be a base itself.
    pub fn begin_full(&mut self, checkpoint: CheckpointId) {
        self.begin(checkpoint, std::iter::empty());
    }

    /// A snapshot begins; returns the base: the files it may reference.
    pub fn begin(&mut self, checkpoint: CheckpointId, live: impl Iterator<Item = String>) -> Files {
        assert!(
            self.open.keys().next_back().is_none_or(|last| *last < checkpoint),
            "checkpoint {checkpoint} begins out of order"
        );
        let is_kept = |(name, file): &(&String, &StoreFile)| {
            self.open.values().all(|open| open.get(*name) == Some(*file))
        };
        let confirmed = live.filter_map(|name| self.confirmed.get_key_value(&name));
        let mut base: Files =
            confirmed.filter(is_kept).map(|(name, file)| (name.clone(), file.clone())).collect();
        merging::give_up_wasteful(&mut base);
        self.open.insert(checkpoint, base.clone());
        base
    }

    /// All files of a snapshot are uploaded.
    pub fn uploaded(&mut self, checkpoint: CheckpointId, shared: &[StoreFile]) {
        if let Some(open) = self.open.get_mut(&checkpoint) {
            *open = by_name(shared);
        }
    }

    /// The checkpoint is complete. If it is not one of ours (a savepoint, which references nothing and is never a base) that
    /// changes nothing: neither what is confirmed (FLINK-23949) nor what is open. Returns true if the base had to be narrowed because a newer snapshot had begun.
    pub fn complete(&mut self, checkpoint: CheckpointId) -> bool {
        if !self.open.contains_key(&checkpoint) {
            return false;
        }
        let newer = self.open.split_off(&CheckpointId(checkpoint.0.saturating_add(1)));
        let this = self.open.remove(&checkpoint);
        self.open = newer;
        let Some(mut base) = this else { return false };
        let whole = base.len();
        for later in self.open.values() {
            base.retain(|name, file| later.get(name) == Some(file));
        }
        let narrowed = base.len() < whole;
        self.confirmed = base;
        narrowed
    }

    /// The checkpoint will never be complete.
    pub fn abort(&mut self, checkpoint: CheckpointId) {
        self.open.remove(&checkpoint);
    }
}

fn by_name(files: &[StoreFile]) -> Files {
    files.iter().map(|file| (file.name.clone(), file.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::FileHandle;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn file(name: &str, path: &str) -> StoreFile {
        let handle = FileHandle { path: path.into(), len_bytes: 1, crc32c: 0 };
        StoreFile::whole(name, handle)
    }

    fn names(files: &Files) -> Vec<&str> {
        files.values().map(|file| file.handle.path.as_str()).collect()
    }

    #[test]
    fn only_a_confirmed_snapshot_is_a_base() {
        let mut increments = Increments::new(&[]);
        let live = || ["a".to_string()].into_iter();
        assert!(increments.begin(CheckpointId(1), live()).is_empty());
        increments.uploaded(CheckpointId(1), &[file("a", "a1")]);
        assert!(increments.begin(CheckpointId(2), live()).is_empty(), "1 is uploaded and not confirmed");
        increments.abort(CheckpointId(2));
        assert!(!increments.complete(CheckpointId(1)));
        assert_eq!(names(&increments.begin(CheckpointId(3), live())), ["a1"]);
        increments.abort(CheckpointId(3));
        assert_eq!(names(&increments.begin(CheckpointId(4), live())), ["a1"], "an abort changes nothing");
        assert!(increments.begin(CheckpointId(5), std::iter::empty()).is_empty(), "the file died");
    }

    #[test]
    fn a_late_confirmation_does_not_revive_a_handle_that_the_next_snapshot_replaced() {
        let mut increments = Increments::new(&[]);
        let live = || ["a".to_string()].into_iter();
        increments.begin(CheckpointId(1), live());
        increments.uploaded(CheckpointId(1), &[file("a", "a1")]);
        increments.begin(CheckpointId(2), live());
        assert!(increments.complete(CheckpointId(1)), "confirmed after 2 had begun");
        assert!(increments.begin(CheckpointId(3), live()).is_empty(), "a1 dies when 2 subsumes 1");
        increments.uploaded(CheckpointId(2), &[file("a", "a2")]);
        increments.uploaded(CheckpointId(3), &[file("a", "a3")]);
        assert!(increments.complete(CheckpointId(2)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Full,
        Savepoint,
        Upload,
        Complete,
        Notify,
        Abort,
    }

    proptest! {
        /// Against a coordinator that keeps only the newest completed checkpoint and deletes what it does not reference.
        #[test]
        fn a_base_never_names_a_deleted_object(steps in proptest::collection::vec(
            prop_oneof![2 => Just(Step::Begin), 1 => Just(Step::Full), 1 => Just(Step::Savepoint), 2 => Just(Step::Upload), 2 => Just(Step::Complete), 2 => Just(Step::Notify), 1 => Just(Step::Abort)],
            0..60,
        )) {
            let mut increments = Increments::new(&[]);
            let (mut next, mut uploads) = (0u64, 0);
            let mut deleted = BTreeSet::new();
            let mut begun: BTreeMap<u64, Files> = BTreeMap::new();
            let mut acked: BTreeMap<u64, Vec<StoreFile>> = BTreeMap::new();
            let mut retained: Vec<StoreFile> = Vec::new();
            let mut notices = std::collections::VecDeque::new();
            for step in steps {
                match step {
                    Step::Begin => {
                        next += 1;
                        // Files live for three snapshots.
                        let live = (next.saturating_sub(2)..=next).map(|n| format!("{n}"));
                        let base = increments.begin(CheckpointId(next), live);
                        begun.insert(next, base);
                    }
                    Step::Full => {
                        next += 1;
                        increments.begin_full(CheckpointId(next));
                        begun.insert(next, Files::new());
                    }
                    // It subsumes nothing.
                    Step::Savepoint => {
                        next += 1;
                        notices.push_back(next);
                    }
                    Step::Upload => {
                        let Some((id, base)) = begun.pop_first() else { continue };
                        let mut shared = Vec::new();
                        for name in (id.saturating_sub(2)..=id).map(|n| format!("{n}")) {
                            uploads += 1;
                            let path = base.get(&name).map_or(format!("{name}@{uploads}"), |f| f.handle.path.clone());
                            prop_assert!(!deleted.contains(&path), "{path} was deleted");
                            shared.push(file(&name, &path));
                        }
                        increments.uploaded(CheckpointId(id), &shared);
                        acked.insert(id, shared);
                    }
                    Step::Complete => {
                        let Some((id, shared)) = acked.pop_first() else { continue };
                        let kept: BTreeSet<_> = shared.iter().map(|f| f.handle.path.clone()).collect();
                        // A snapshot in flight holds its base: the registry hears of it before the next completion.
                        deleted.extend(retained.iter().map(|f| f.handle.path.clone()).filter(|p| !kept.contains(p)));
                        retained = shared;
                        notices.push_back(id);
                    }
                    Step::Notify => {
                        if let Some(id) = notices.pop_front() { increments.complete(CheckpointId(id)); }
                    }
                    Step::Abort => {
                        let Some((id, _)) = begun.pop_last() else { continue };
                        increments.abort(CheckpointId(id));
                    }
                }
            }
        }
    }
}
