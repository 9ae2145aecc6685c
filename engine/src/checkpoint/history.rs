//! The list of a job's checkpoints, as a console shows it: what asked for each, and what became of it.
//!
//! It lives in the register beside what it describes, so that it survives a leader (Flink keeps its statistics in memory and
//! loses them). A request of a user stands in it before its barrier is sent: a later leader finds it, says that it failed
//! with the leader, and removes the files of an unfinished savepoint. A periodic checkpoint enters when its fate is known.
//!
//! ```text
//! creating -> present -> cleared
//!          -> timed out
//!          -> failed
//! ```
//!
//! Bounded: entries of what can be restored stay, of all others the newest [`ENTRIES`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::barrier::SavepointFormat;
use super::snapshot::{CheckpointId, FileHandle};

/// How many entries are kept of checkpoints that cannot be restored.
pub const ENTRIES: usize = 32;

/// How many entries are kept at all. Savepoints beyond are forgotten here; their files are their owner's.
pub const ENTRIES_MAX: usize = 256;

/// A checkpoint or savepoint in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub id: CheckpointId,
    /// What is made.
    pub kind: Kind,
    /// What asked for it.
    pub source: Source,
    /// The user's words, or ours.
    pub description: String,
    /// How the user who asked for it finds it again.
    pub trigger_id: Option<String>,
    /// The how many-th start of the job.
    pub job_version: u32,
    /// The leader that triggered it.
    pub epoch: u64,
    /// Wall clock at the trigger, in milliseconds since 1970; for people.
    pub triggered_unix_ms: u64,
    /// What became of it.
    pub status: EntryStatus,
}

/// What is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A checkpoint, which belongs to the job.
    Checkpoint {
        /// Nothing of an earlier one was to be referenced.
        full: bool,
    },
    /// A savepoint, which belongs to its user.
    Savepoint {
        /// Its directory.
        directory: String,
        /// What its files look like.
        format: SavepointFormat,
    },
}

/// What asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The interval.
    Periodic,
    /// A user, while the job runs on.
    Manual,
    /// A user who stops the job.
    OnStop,
    /// The end of all input.
    EndOfInput,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryStatus {
    /// Under way.
    Creating,
    /// It can be restored from.
    Present(Present),
    /// It could be restored from.
    Cleared {
        /// What there was.
        was: Present,
        /// Why it went.
        by: ClearedBy,
        /// When, in milliseconds since 1970; for people.
        at_unix_ms: u64,
    },
    /// It was not acknowledged in time.
    TimedOut {
        /// Who was waited for.
        reason: String,
        /// When, in milliseconds since 1970; for people.
        at_unix_ms: u64,
    },
    /// It was given up.
    Failed {
        /// Why.
        reason: String,
        /// When, in milliseconds since 1970; for people.
        at_unix_ms: u64,
    },
}

/// What there is of a completed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Its metadata object.
    pub metadata: FileHandle,
    /// Wall clock at the last acknowledgement, in milliseconds since 1970; for people.
    pub completed_unix_ms: u64,
    /// Sum of the lengths of all files it references, in bytes.
    pub state_bytes: u64,
    /// Of those, what it was the first to reference.
    pub new_bytes: u64,
}

/// Why a checkpoint can no longer be restored from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClearedBy {
    /// Newer ones took its place.
    Subsumed,
    /// A user deleted it.
    User,
    /// The job ended, and its checkpoints with it.
    Retention,
}

impl Entry {
    /// The entry, failed.
    pub fn failed(self, reason: impl Into<String>, at_unix_ms: u64) -> Entry {
        Entry { status: EntryStatus::Failed { reason: reason.into(), at_unix_ms }, ..self }
    }

    /// What there is of it, if it can be restored from.
    pub fn present(&self) -> Option<&Present> {
        match &self.status {
            EntryStatus::Present(present) => Some(present),
            _ => None,
        }
    }

    /// The path of its metadata, if it was ever complete.
    pub fn location(&self) -> Option<&str> {
        match &self.status {
            EntryStatus::Present(was) | EntryStatus::Cleared { was, .. } => Some(&was.metadata.path),
            _ => None,
        }
    }

    /// The directory that is its alone, if it is a savepoint.
    pub fn directory(&self) -> Option<&str> {
        match &self.kind {
            Kind::Savepoint { directory, .. } => Some(directory),
            Kind::Checkpoint { .. } => None,
        }
    }

    /// True if it is a savepoint.
    pub fn is_savepoint(&self) -> bool {
        matches!(self.kind, Kind::Savepoint { .. })
    }
}

impl std::fmt::Display for EntryStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryStatus::Creating => f.write_str("creating"),
            EntryStatus::Present(_) => f.write_str("present"),
            EntryStatus::Cleared { by: ClearedBy::Subsumed, .. } => {
                f.write_str("cleared: newer ones took its place")
            }
            EntryStatus::Cleared { by: ClearedBy::User, .. } => f.write_str("cleared: deleted by a user"),
            EntryStatus::Cleared { by: ClearedBy::Retention, .. } => f.write_str("cleared: the job ended"),
            EntryStatus::TimedOut { reason, .. } => write!(f, "timed out: {reason}"),
            EntryStatus::Failed { reason, .. } => write!(f, "failed: {reason}"),
        }
    }
}

/// Puts an entry in its place in the list, which is in order of the ids.
pub(super) fn upsert(history: &mut Vec<Entry>, entry: Entry) {
    match history.binary_search_by_key(&entry.id, |known| known.id) {
        Ok(at) => history[at] = entry,
        Err(at) => history.insert(at, entry),
    }
}

/// Marks entries as cleared.
pub(super) fn clear(history: &mut [Entry], ids: &BTreeSet<CheckpointId>, by: ClearedBy, at_unix_ms: u64) {
    for entry in history.iter_mut().filter(|entry| ids.contains(&entry.id)) {
        if let EntryStatus::Present(was) = &entry.status {
            entry.status = EntryStatus::Cleared { was: was.clone(), by, at_unix_ms };
        }
    }
}

/// Forgets the oldest entries beyond the bounds.
pub(super) fn trim(history: &mut Vec<Entry>) {
    let is_live = |entry: &Entry| matches!(entry.status, EntryStatus::Present(_) | EntryStatus::Creating);
    let mut surplus = history.iter().filter(|entry| !is_live(entry)).count().saturating_sub(ENTRIES);
    history.retain(|entry| {
        let goes = surplus > 0 && !is_live(entry);
        surplus -= usize::from(goes);
        !goes
    });
    let mut surplus = history.len().saturating_sub(ENTRIES_MAX);
    history.retain(|entry| {
        let goes = surplus > 0 && entry.is_savepoint();
        surplus -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, status: EntryStatus) -> Entry {
        Entry {
            id: CheckpointId(id),
            kind: Kind::Checkpoint { full: false },
            source: Source::Periodic,
            description: String::new(),
            trigger_id: None,
            job_version: 1,
            epoch: 1,
            triggered_unix_ms: 0,
            status,
        }
    }

    fn present() -> EntryStatus {
        let metadata = FileHandle { path: "p".into(), len_bytes: 1, crc32c: 1 };
        EntryStatus::Present(Present { metadata, completed_unix_ms: 1, state_bytes: 1, new_bytes: 1 })
    }

    #[test]
    fn what_can_be_restored_outlives_what_cannot() {
        let mut history = Vec::new();
        upsert(&mut history, entry(1, present()));
        for id in (2..100).rev() {
            upsert(&mut history, entry(id, EntryStatus::Creating).failed("no", 5));
        }
        assert!(history.is_sorted_by_key(|entry| entry.id));
        trim(&mut history);
        assert_eq!(history.len(), ENTRIES + 1);
        assert_eq!((history[0].id, history[1].id), (CheckpointId(1), CheckpointId(100 - ENTRIES as u64)));
        clear(&mut history, &[CheckpointId(1), CheckpointId(99)].into(), ClearedBy::User, 7);
        assert_eq!(history[0].status.to_string(), "cleared: deleted by a user");
        assert_eq!(history[0].location(), Some("p"));
        assert_eq!(history.last().unwrap().status.to_string(), "failed: no", "only what was there goes");
    }
}
