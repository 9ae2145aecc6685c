//! Oracle `no leak` of a job that still runs: a shared object that no checkpoint names does not stay.
//!
//! At its end a job sweeps what is left, and so does every new attempt: by then a task that never deletes anything has done no harm that
//! could be seen. While one attempt runs, each object under `shared/` is on its way into a checkpoint, or is about to go. How
//! long that may take is counted in completed checkpoints: so many as are retained, during which the registry may hold what an
//! aborted one named, and some more for uploads and deletions that are slow.
//!
//! *Judged only where nothing disturbs the plan, and until a checkpoint fails*: a deletion that an outage has swallowed is the
//! sweeper's business, and that of the next attempt. So is an upload that was given up with its checkpoint: the put may land
//! after the deletion that followed it.

use std::collections::BTreeMap;

use cutwater_engine::checkpoint::history::EntryStatus;
use cutwater_engine::checkpoint::layout::Object;
use cutwater_engine::checkpoint::snapshot::CheckpointId;
use cutwater_sim::scenario::Violation;

use super::job::JobOracle;

/// Checkpoints that may complete while a materialisation is uploaded or something is deleted.
const SLACK: u64 = 6;

/// See the module.
#[derive(Debug)]
pub struct Hoard {
    limit: u64,
    newest: Option<CheckpointId>,
    /// A checkpoint has failed.
    is_over: bool,
    /// Of each shared object that nothing names, how many checkpoints have completed meanwhile.
    unnamed: BTreeMap<String, u64>,
}

impl Hoard {
    /// Of a job that keeps so many checkpoints.
    pub fn new(retained: u64) -> Hoard {
        Hoard { limit: retained + SLACK, newest: None, is_over: false, unnamed: BTreeMap::new() }
    }

    /// The register has changed.
    ///
    /// # Errors
    /// If an object has been there for too long.
    pub fn look(&mut self, job: &JobOracle) -> Result<(), Violation> {
        if job.newest() == self.newest {
            return Ok(());
        }
        self.newest = job.newest();
        let mut entries = job.state().into_iter().flat_map(|state| &state.history);
        let failed = |status: &EntryStatus| {
            matches!(status, EntryStatus::Failed { .. } | EntryStatus::TimedOut { .. })
        };
        self.is_over |= entries.any(|entry| failed(&entry.status));
        if self.is_over {
            return Ok(());
        }
        let is_shared = |path: &&str| matches!(job.layout().parse(path), Some(Object::Shared { .. }));
        let before = std::mem::take(&mut self.unnamed);
        let count = |path: &str| (path.to_owned(), before.get(path).map_or(0, |count| count + 1));
        self.unnamed = job.leaks().into_iter().filter(is_shared).map(count).collect();
        match self.unnamed.iter().find(|(_, count)| **count > self.limit) {
            None => Ok(()),
            Some((path, count)) => Err(Violation::new("no leak", "what no checkpoint names does not stay")
                .of("shared object")
                .expected(format!("{path} to be named or deleted within {} checkpoints", self.limit))
                .found(format!("it is there after {count}"))),
        }
    }
}
