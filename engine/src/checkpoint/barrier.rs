//! What a barrier says: which checkpoint begins here, and how it is to be taken.
//!
//! The options travel with the barrier (as Flink's `CheckpointOptions` do) because a task learns of a checkpoint from its
//! input: whatever it has to know must have come the same way. All barriers of one checkpoint say the same, except that one
//! which has overtaken once goes on as an unaligned one.

use serde::{Deserialize, Serialize};

use super::snapshot::CheckpointId;

/// The longest directory of a savepoint, in bytes.
pub const MAX_DIRECTORY_BYTES: usize = 1024;

/// The mark between the records that belong to a checkpoint and those that do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// Which.
    pub checkpoint: CheckpointId,
    /// How.
    pub options: CheckpointOptions,
}

/// How a checkpoint is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointOptions {
    /// Where its files go.
    pub target: Target,
    /// Whether the barrier waits for the records before it.
    pub alignment: Alignment,
    /// Whether the job ends with it.
    pub stop: Option<Stop>,
}

/// Where the files of a checkpoint go, and what they may leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// To the job's directories; files that a confirmed checkpoint holds are referenced.
    #[default]
    Increment,
    /// To the job's directories; no file of an earlier checkpoint is referenced, but later ones may reference these.
    Full,
    /// To a directory of its own, which holds everything.
    Savepoint {
        /// Path in the object store, without a slash at the end.
        directory: String,
        /// What the files look like.
        format: SavepointFormat,
    },
}

/// What the files of a savepoint look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SavepointFormat {
    /// Entries in the order of their keys, which any backend can read.
    Canonical,
    /// The files of the backend, as they are.
    Native,
}

/// Whether a barrier waits for the records before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alignment {
    /// It waits until all channels have delivered it.
    #[default]
    Aligned,
    /// It waits for at most so long, then overtakes.
    AlignedFor {
        /// In microseconds.
        timeout_us: u64,
    },
    /// It overtakes what lies in the channels, which becomes part of the checkpoint.
    Unaligned,
}

/// How a job ends with a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stop {
    /// It is to go on later: nothing is emitted after the barrier.
    Suspend,
    /// It is over: time runs to its end before the barrier, which fires all timers.
    Drain,
}

impl Barrier {
    /// Of a checkpoint with the usual options.
    pub fn aligned(checkpoint: CheckpointId) -> Barrier {
        Barrier { checkpoint, options: CheckpointOptions::default() }
    }
}

impl CheckpointOptions {
    /// What holds for the barrier. A savepoint holds no input in flight, and after a job's last checkpoint nothing is processed
    /// any more: such barriers overtake nothing, whatever they say.
    pub fn alignment(&self) -> Alignment {
        match (&self.target, self.stop) {
            (Target::Increment | Target::Full, None) => self.alignment,
            _ => Alignment::Aligned,
        }
    }
}

impl Target {
    /// True if the files of the checkpoint are to lie in a directory of their own, and `path` is directly in there.
    pub fn holds(&self, path: &str) -> bool {
        let Target::Savepoint { directory, .. } = self else { return false };
        let name = path.strip_prefix(directory.as_str()).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
    }
}
