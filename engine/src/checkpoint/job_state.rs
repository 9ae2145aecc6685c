//! What the register of a job holds, and how it may change.
//!
//! One value: who leads, which ids were given out, what can be restored from, what became of every checkpoint, and whether
//! the job is to run. As each version of the register holds all of it ([`super::log`]), none of these can disagree with
//! another: a checkpoint is complete, the surplus let go, and both noted in the list by one and the same write.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::history::{self, ClearedBy, Entry, EntryStatus, Present};
use super::layout::Layout;
use super::snapshot::{CheckpointId, FileHandle};

/// How many directories may wait to be removed; beyond, the oldest is left to its user.
pub const REMOVALS_MAX: usize = 256;

/// Whether there is anything left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The job runs, or should.
    Running,
    /// The savepoint with which it ends is complete: what it staged is to be committed, nothing more is read.
    Stopping {
        /// The savepoint.
        savepoint: CheckpointId,
    },
    /// All output is committed. Terminal.
    Finished,
    /// A user cancelled it. Terminal.
    Cancelled,
    /// It was restarted too often. Terminal.
    Failed {
        /// Why it was restarted last.
        reason: String,
    },
}

impl Status {
    /// True if only a user can bring the job back.
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Status::Running | Status::Stopping { .. })
    }
}

/// What becomes of the checkpoints of a job that ends (Flink: `ExternalizedCheckpointRetention`). A job that ends by itself
/// deletes them in any case, and one that only loses its leader never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retention {
    /// They are deleted, whatever the end.
    #[default]
    Never,
    /// They are deleted when a user cancels the job, and stay when it fails.
    DeleteOnCancellation,
    /// They stay when the job is cancelled or fails.
    RetainOnCancellation,
}

impl Retention {
    /// True if the checkpoints of a job with that end stay.
    pub fn keeps(self, end: &Status) -> bool {
        match (self, end) {
            (Retention::Never, _) | (_, Status::Finished) => false,
            (Retention::DeleteOnCancellation, end) => *end != Status::Cancelled,
            (Retention::RetainOnCancellation, _) => true,
        }
    }
}

/// A checkpoint that can be restored from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedCheckpoint {
    /// Which.
    pub id: CheckpointId,
    /// Its metadata object.
    pub metadata: FileHandle,
    /// It is the savepoint with which the job stopped: its files are its user's, and never deleted by us.
    pub is_savepoint: bool,
}

/// Whose the files of a checkpoint are that a job was started from (Flink: `RecoveryClaimMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimMode {
    /// Ours: deleted when nothing needs them any more.
    Claim,
    /// Another's: never deleted, and not referenced once a checkpoint of the job is complete.
    #[default]
    NoClaim,
}

/// Where the state of a job comes from when it is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// From the newest checkpoint of its own; from nothing if there is none.
    #[default]
    Newest,
    /// From nothing, whatever there is; until a checkpoint completes.
    Nothing,
    /// From what a user named; until a checkpoint completes.
    Origin(Box<Origin>),
}

/// What a user started a job from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// It.
    pub checkpoint: CompletedCheckpoint,
    /// Whose it is; `None` if it is one of the retained ones.
    pub claim: Option<ClaimMode>,
    /// State of vertices that the job does not have is left behind.
    pub allow_non_restored: bool,
}

/// Everything that outlives a leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Of the leader; grows with each takeover, from 1.
    pub epoch: u64,
    /// Where the leader accepts connections.
    pub leader: SocketAddr,
    /// How often the job was started, from 1.
    pub job_version: u32,
    /// Ids from here on were never given out. Ids below it may have been.
    pub next_id_bound: u64,
    /// Whether there is anything left to do.
    pub status: Status,
    /// Checkpoints that can be restored from, oldest first.
    pub retained: Vec<CompletedCheckpoint>,
    /// Where the state comes from.
    pub base: Base,
    /// See [`super::history`]; in order of the ids.
    pub history: Vec<Entry>,
    /// Directories in which nothing is needed any more: of savepoints that failed or were deleted, and of what was claimed.
    /// They stay here until they were found empty. Oldest first, at most [`REMOVALS_MAX`].
    pub removals: Vec<String>,
    /// How many checkpoints and savepoints ever completed.
    pub completed: u64,
    /// How many ever did not.
    pub failed: u64,
    /// Number of key groups; never changes.
    pub max_parallelism: u16,
    /// Parallelism asked for.
    pub parallelism: u16,
}

/// A change of the register by its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ids below the bound may be given out.
    ReserveIds {
        /// The new bound.
        bound: u64,
    },
    /// A checkpoint is about to be triggered because a user asked for it.
    Begin(Box<Entry>),
    /// A checkpoint is complete. In the same record, all but the newest `retain` are let go.
    Complete {
        /// Its entry, which is present.
        entry: Box<Entry>,
        /// How many to keep, at least one.
        retain: usize,
        /// The job ends with it.
        stops: bool,
    },
    /// A savepoint is complete, and the job goes on.
    Savepoint(Box<Entry>),
    /// Fates of checkpoints that did not complete.
    Note,
    /// A user deletes a checkpoint.
    Clear {
        /// Which.
        id: CheckpointId,
        /// When, in milliseconds since 1970; for people.
        at_unix_ms: u64,
    },
    /// Another parallelism is wanted.
    Rescale {
        /// Which.
        parallelism: u16,
    },
    /// The end.
    End {
        /// A terminal one.
        status: Status,
        /// The checkpoints stay.
        keep: bool,
        /// When, in milliseconds since 1970; for people.
        at_unix_ms: u64,
    },
    /// A user brings a job back that has ended.
    Start {
        /// From where.
        base: Base,
        /// So many ids are reserved above all that were ever given out.
        ids: u64,
    },
}

impl JobState {
    /// The state after a takeover by `leader`, which may give out `ids` ids at once. `previous` is what was read; without it
    /// the job is new, gets `max_parallelism` and `parallelism`, and starts from `base`.
    pub fn taken_over(
        previous: Option<&JobState>,
        leader: SocketAddr,
        ids: u64,
        max_parallelism: u16,
        parallelism: u16,
        base: Base,
    ) -> JobState {
        match previous {
            None => JobState {
                epoch: 1,
                leader,
                job_version: 1,
                next_id_bound: above(&base) + ids,
                status: Status::Running,
                retained: Vec::new(),
                base,
                history: Vec::new(),
                removals: Vec::new(),
                completed: 0,
                failed: 0,
                max_parallelism,
                parallelism,
            },
            Some(previous) => JobState {
                epoch: previous.epoch + 1,
                leader,
                next_id_bound: previous.next_id_bound + ids,
                ..previous.clone()
            },
        }
    }

    /// The state with the fates of `entries`, newest last, and without the removals that are done.
    pub fn noted(&self, entries: &[Entry], removed: &BTreeSet<String>) -> JobState {
        let mut next = self.clone();
        next.failed += entries.len() as u64;
        next.removals.retain(|directory| !removed.contains(directory));
        for entry in entries {
            next.remove(entry.directory());
            history::upsert(&mut next.history, entry.clone());
        }
        history::trim(&mut next.history);
        next
    }

    /// The state after `change`.
    ///
    /// # Panics
    /// If the change breaks what the register promises: ids grow and come from the reserved ones, an end is the end.
    pub fn changed(&self, change: &Change) -> JobState {
        let mut next = self.clone();
        match change {
            Change::ReserveIds { bound } => {
                assert!(*bound >= self.next_id_bound, "ids {bound} were reserved before");
                next.next_id_bound = *bound;
            }
            Change::Begin(entry) => {
                assert!(!self.status.is_terminal(), "{change:?} of {:?}", self.status);
                history::upsert(&mut next.history, (**entry).clone());
            }
            Change::Complete { entry, retain, stops } => {
                self.assert_runs(change);
                next.complete(entry, *retain);
                next.completed += 1;
                if *stops {
                    next.status = Status::Stopping { savepoint: entry.id };
                }
            }
            Change::Savepoint(entry) => {
                assert!(!self.status.is_terminal(), "{change:?} of {:?}", self.status);
                assert!(entry.present().is_some() && entry.id.0 < self.next_id_bound, "{entry:?}");
                history::upsert(&mut next.history, (**entry).clone());
                next.completed += 1;
            }
            Change::Note => {}
            Change::Clear { id, at_unix_ms } => {
                let cleared = self.history.iter().find(|entry| entry.id == *id);
                next.remove(cleared.and_then(Entry::directory));
                next.retained.retain(|checkpoint| checkpoint.id != *id);
                history::clear(&mut next.history, &[*id].into(), ClearedBy::User, *at_unix_ms);
            }
            Change::Rescale { parallelism } => next.parallelism = *parallelism,
            Change::End { status, keep, at_unix_ms } => {
                assert!(
                    !self.status.is_terminal() && status.is_terminal(),
                    "{change:?} of {:?}",
                    self.status
                );
                next.status = status.clone();
                if *keep {
                    next.base = Base::Newest;
                } else {
                    next.leave_origin(ClearedBy::Retention, *at_unix_ms);
                    let goes = |c: &CompletedCheckpoint| !c.is_savepoint;
                    let ids = next.retained.iter().filter(|c| goes(c)).map(|c| c.id).collect();
                    next.retained.clear();
                    history::clear(&mut next.history, &ids, ClearedBy::Retention, *at_unix_ms);
                }
            }
            Change::Start { base, ids } => {
                assert!(self.status.is_terminal(), "{change:?} of {:?}", self.status);
                next.status = Status::Running;
                next.job_version += 1;
                // What it stopped with is its user's again.
                next.retained.retain(|checkpoint| !checkpoint.is_savepoint);
                next.next_id_bound = self.next_id_bound.max(above(base)) + ids;
                next.base = base.clone();
            }
        }
        history::trim(&mut next.history);
        next
    }

    fn assert_runs(&self, change: &Change) {
        assert!(self.status == Status::Running, "{change:?} of a job that is {:?}", self.status);
    }

    fn complete(&mut self, entry: &Entry, retain: usize) {
        assert!(retain > 0, "the newest checkpoint is always kept");
        assert!(entry.id.0 < self.next_id_bound, "checkpoint {} has no reserved id", entry.id);
        assert!(self.retained.last().is_none_or(|last| last.id < entry.id), "ids complete in order");
        let Present { metadata, completed_unix_ms, .. } =
            entry.present().expect("a complete checkpoint is present");
        let (metadata, is_savepoint) = (metadata.clone(), entry.is_savepoint());
        self.retained.push(CompletedCheckpoint { id: entry.id, metadata, is_savepoint });
        self.leave_origin(ClearedBy::Subsumed, *completed_unix_ms);
        let surplus = self.retained.len().saturating_sub(retain);
        let gone = self.retained.drain(..surplus).filter(|c| !c.is_savepoint).map(|c| c.id).collect();
        history::upsert(&mut self.history, entry.clone());
        history::clear(&mut self.history, &gone, ClearedBy::Subsumed, *completed_unix_ms);
    }

    fn remove(&mut self, directory: Option<&str>) {
        let Some(directory) = directory.filter(|new| !self.removals.iter().any(|known| known == new)) else {
            return;
        };
        self.removals.push(directory.to_owned());
        let surplus = self.removals.len().saturating_sub(REMOVALS_MAX);
        self.removals.drain(..surplus);
    }

    /// What the job was started from has done its duty. If it was claimed, it goes.
    fn leave_origin(&mut self, by: ClearedBy, at_unix_ms: u64) {
        let Base::Origin(origin) = std::mem::take(&mut self.base) else { return };
        if origin.claim == Some(ClaimMode::Claim) {
            let location = &origin.checkpoint.metadata.path;
            let is_it = |entry: &&Entry| entry.location() == Some(location);
            let ids = self.history.iter().filter(is_it).map(|entry| entry.id).collect();
            history::clear(&mut self.history, &ids, by, at_unix_ms);
            let directory = Layout::directory_of(location).map(str::to_owned);
            self.remove(directory.as_deref());
        }
    }

    /// The newest checkpoint of the job's own.
    pub fn latest(&self) -> Option<&CompletedCheckpoint> {
        self.retained.last()
    }

    /// The newest checkpoint that was ever complete, as far as the list reaches back. A savepoint counts if the job ended with it.
    pub fn newest_completed(&self) -> Option<CheckpointId> {
        let counts = |entry: &&Entry| {
            entry.location().is_some() && (!entry.is_savepoint() || entry.source == history::Source::OnStop)
        };
        self.history.iter().rev().find(counts).map(|entry| entry.id)
    }

    /// What the job is restored from.
    pub fn restore_point(&self) -> Option<&CompletedCheckpoint> {
        match &self.base {
            Base::Newest => self.latest(),
            Base::Nothing => None,
            Base::Origin(origin) => Some(&origin.checkpoint),
        }
    }

    /// What the job was started from, until a checkpoint completes.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.base {
            Base::Origin(origin) => Some(origin),
            Base::Newest | Base::Nothing => None,
        }
    }

    /// Entries of checkpoints that earlier leaders left unfinished.
    pub fn abandoned(&self) -> Vec<&Entry> {
        let unfinished = |entry: &&Entry| entry.epoch < self.epoch && entry.status == EntryStatus::Creating;
        self.history.iter().filter(unfinished).collect()
    }

    /// Whether the value contradicts itself.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), String> {
        // A takeover adds to both; whoever stores numbers near the end of their range did not count up to them.
        if self.epoch == 0 || self.epoch > u64::MAX / 2 || self.next_id_bound > u64::MAX / 2 {
            return Err(format!("epoch {} or id bound {} out of range", self.epoch, self.next_id_bound));
        }
        if self.parallelism == 0 || self.parallelism > self.max_parallelism {
            return Err(format!("parallelism {} of {} key groups", self.parallelism, self.max_parallelism));
        }
        let ids: Vec<_> = self.retained.iter().map(|c| c.id.0).chain([self.next_id_bound]).collect();
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err(format!("checkpoint ids do not grow: {ids:?}"));
        }
        let listed: Vec<_> =
            self.history.iter().map(|entry| entry.id.0).chain([self.next_id_bound]).collect();
        if !listed.is_sorted_by(|a, b| a < b) {
            return Err(format!("ids of the list do not grow: {listed:?}"));
        }
        let known: BTreeSet<_> = ids.into_iter().collect();
        match self.origin() {
            Some(origin) if origin.claim.is_none() && !known.contains(&origin.checkpoint.id.0) => {
                Err(format!("starts from checkpoint {}, which is not retained", origin.checkpoint.id))
            }
            Some(origin) if origin.checkpoint.id.0 >= self.next_id_bound => {
                Err(format!("starts from checkpoint {}, whose id was not given out", origin.checkpoint.id))
            }
            _ => Ok(()),
        }
    }
}

/// The first id above that of an origin.
fn above(base: &Base) -> u64 {
    let restored = if let Base::Origin(origin) = base { origin.checkpoint.id.0 } else { 0 };
    restored + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, savepoint: Option<&str>, status: EntryStatus) -> Entry {
        let kind = match savepoint {
            Some(directory) => history::Kind::Savepoint {
                directory: directory.into(),
                format: crate::checkpoint::barrier::SavepointFormat::Native,
            },
            None => history::Kind::Checkpoint { full: false },
        };
        Entry {
            id: CheckpointId(id),
            kind,
            source: history::Source::Manual,
            description: String::new(),
            trigger_id: None,
            job_version: 1,
            epoch: 1,
            triggered_unix_ms: 0,
            status,
        }
    }

    fn present(path: &str) -> EntryStatus {
        let metadata = FileHandle { path: path.into(), len_bytes: 1, crc32c: 1 };
        EntryStatus::Present(Present { metadata, completed_unix_ms: 1, state_bytes: 1, new_bytes: 1 })
    }

    fn new_job() -> JobState {
        JobState::taken_over(None, ([127, 0, 0, 1], 1).into(), 100, 8, 1, Base::Newest)
    }

    #[test]
    fn a_long_history_does_not_make_a_deletion_forget_its_files() {
        let savepoint = entry(1, Some("job/savepoints/a"), present("job/savepoints/a/_metadata"));
        let job = new_job().changed(&Change::Savepoint(Box::new(savepoint)));
        let failed: Vec<Entry> =
            (2..60).map(|id| entry(id, None, EntryStatus::Creating).failed("no", 1)).collect();
        let job = job.noted(&failed, &BTreeSet::new());
        let job = job.changed(&Change::Clear { id: CheckpointId(1), at_unix_ms: 2 });
        assert_eq!(job.removals, ["job/savepoints/a"]);
        let job = job.noted(&[], &["job/savepoints/a".to_owned()].into());
        assert!(job.removals.is_empty() && job.check().is_ok());
    }

    #[test]
    fn what_a_job_stopped_with_is_its_user_s_when_it_is_brought_back() {
        let stop = entry(3, Some("s"), present("s/_metadata"));
        let job = new_job().changed(&Change::Complete { entry: Box::new(stop), retain: 5, stops: true });
        assert_eq!(job.status, Status::Stopping { savepoint: CheckpointId(3) });
        let job = job.changed(&Change::End { status: Status::Cancelled, keep: true, at_unix_ms: 1 });
        let checkpoint = job.retained[0].clone();
        let origin = Origin { checkpoint, claim: Some(ClaimMode::Claim), allow_non_restored: false };
        let job = job.changed(&Change::Start { base: Base::Origin(Box::new(origin)), ids: 4 });
        assert_eq!(
            (job.retained.len(), job.restore_point().map(|point| point.id)),
            (0, Some(CheckpointId(3)))
        );
        let next = entry(101, None, present("job/chk-101/_metadata"));
        let job = job.changed(&Change::Complete { entry: Box::new(next), retain: 5, stops: false });
        assert_eq!(job.retained.len(), 1, "nothing refers to what was claimed");
        assert_eq!(job.removals, ["s"]);
        assert_eq!(job.history[0].status.to_string(), "cleared: newer ones took its place");
    }

    #[test]
    fn what_stays_after_an_end_is_as_in_flink() {
        // FINISHED, CANCELED, FAILED as in `CheckpointRetentionPolicy` of Flink 1.20.1.
        let ends = [Status::Finished, Status::Cancelled, Status::Failed { reason: String::new() }];
        let stays = |retention: Retention| ends.clone().map(|end| retention.keeps(&end));
        assert_eq!(stays(Retention::Never), [false, false, false]);
        assert_eq!(stays(Retention::DeleteOnCancellation), [false, false, true]);
        assert_eq!(stays(Retention::RetainOnCancellation), [false, true, true]);
    }
}
