//! The one place that builds the names of a job's objects, and reads them back.
//!
//! ```text
//! <job>/log/<version>                                      the register of the job (checkpoint::log)
//! <job>/chk-<id>/_metadata                                 what a completed checkpoint is made of
//! <job>/chk-<id>/<epoch>-<number>-<vertex>-<subtask>-<u>   a file of one checkpoint alone
//! <job>/shared/<epoch>-<number>/<u>                        a table file, owned by the registry of shared state
//! <job>/sink/staged/<epoch>-<number>/<name>                output that is not yet committed
//! <job>/out/<transaction>                                  committed output
//! <job>/savepoints/savepoint-<job>-<u>/...                 a savepoint, unless its user named another directory
//! ```
//!
//! A name says who made the object: the checkpoint, the attempt (epoch and number), the task. That is what lets the
//! sweeper tell an orphan of a dead attempt from the work of a live one without asking anybody. No name is ever used
//! twice with different content: ids and attempts are never reused, and `<u>` is a random UUID.

use crate::checkpoint::snapshot::CheckpointId;
use crate::cluster::rpc::{Attempt, TaskId};

const METADATA: &str = "_metadata";

/// Names of the objects of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    job: String,
}

/// A job cannot be called that.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("job name {name:?}: 1 to 64 letters, digits, '-' or '_' are allowed")]
pub struct InvalidName {
    /// The name given.
    pub name: String,
}

/// What the name of an object says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A version of the job's register.
    Log {
        /// The version.
        version: u64,
    },
    /// The metadata of a checkpoint.
    Metadata {
        /// The checkpoint.
        checkpoint: CheckpointId,
    },
    /// A file of one checkpoint alone.
    Private {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Who wrote it.
        attempt: Attempt,
        /// Who wrote it, within the attempt.
        task: TaskId,
    },
    /// A file that several checkpoints may reference.
    Shared {
        /// Who wrote it.
        attempt: Attempt,
    },
    /// Output that is not yet committed.
    Staged {
        /// Who wrote it.
        attempt: Attempt,
    },
    /// A file of a savepoint.
    Savepoint {
        /// The savepoint's directory.
        directory: String,
    },
    /// Committed output.
    Output {
        /// The transaction.
        transaction: String,
    },
}

impl Layout {
    /// The names of `job`.
    ///
    /// # Errors
    /// If the name could not be a part of a path in every store.
    pub fn new(job: &str) -> Result<Layout, InvalidName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if job.is_empty() || job.len() > 64 || !job.chars().all(allowed) {
            return Err(InvalidName { name: job.into() });
        }
        Ok(Layout { job: job.into() })
    }

    /// The job.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Where the versions of the register are.
    pub fn log_prefix(&self) -> String {
        format!("{}/log", self.job)
    }

    /// A version of the register. Names sort as versions do.
    pub fn log(&self, version: u64) -> String {
        format!("{}/log/{version:020}", self.job)
    }

    /// The metadata of a checkpoint.
    pub fn metadata(&self, checkpoint: CheckpointId) -> String {
        format!("{}/chk-{checkpoint}/{METADATA}", self.job)
    }

    /// Where the output is committed that the job to which `staged` belongs has staged there; `None` if that is not where a
    /// job stages output.
    pub fn output_of(staged: &str, transaction: &str) -> Option<String> {
        let (job, _) = staged.split_once("/sink/staged/")?;
        Some(Layout::new(job).ok()?.output(transaction))
    }

    /// The metadata of a savepoint in `directory`.
    pub fn metadata_in(directory: &str) -> String {
        format!("{directory}/{METADATA}")
    }

    /// The directory of a checkpoint or savepoint, by its metadata; `None` if that has another name.
    pub fn directory_of(metadata: &str) -> Option<&str> {
        metadata.strip_suffix(METADATA)?.strip_suffix('/')
    }

    /// The directory of a new savepoint: under `target`, or where the job has its own. `unique` is 12 hexadecimal digits.
    pub fn savepoint(&self, target: Option<&str>, unique: &str) -> String {
        let job: String = self.job.chars().take(6).collect();
        match target.map(|target| target.trim_matches('/')).filter(|target| !target.is_empty()) {
            Some(target) => format!("{target}/savepoint-{job}-{unique}"),
            None => format!("{}/savepoints/savepoint-{job}-{unique}", self.job),
        }
    }

    /// A file of one checkpoint alone. `unique` is a UUID.
    pub fn private(&self, checkpoint: CheckpointId, attempt: Attempt, task: TaskId, unique: &str) -> String {
        let TaskId { vertex, subtask } = task;
        format!("{}/chk-{checkpoint}/{}-{vertex}-{subtask}-{unique}", self.job, segment(attempt))
    }

    /// A file that several checkpoints may reference. `unique` is a UUID.
    pub fn shared(&self, attempt: Attempt, unique: &str) -> String {
        format!("{}/shared/{}/{unique}", self.job, segment(attempt))
    }

    /// Output that is not yet committed. `name` is unique within the attempt.
    pub fn staged(&self, attempt: Attempt, name: &str) -> String {
        format!("{}/sink/staged/{}/{name}", self.job, segment(attempt))
    }

    /// Where committed output is.
    pub fn output_prefix(&self) -> String {
        format!("{}/out", self.job)
    }

    /// The committed output of a transaction.
    pub fn output(&self, transaction: &str) -> String {
        format!("{}/out/{transaction}", self.job)
    }

    /// What `path` is; `None` if this layout could not have built it.
    pub fn parse(&self, path: &str) -> Option<Object> {
        let path = path.strip_prefix(&self.job)?.strip_prefix('/')?;
        let (directory, name) = path.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        if directory == "log" {
            let version = (name.len() == 20).then(|| number(name, true))??;
            Some(Object::Log { version })
        } else if directory == "out" {
            Some(Object::Output { transaction: name.into() })
        } else if let Some(attempt) = directory.strip_prefix("shared/") {
            Some(Object::Shared { attempt: parse_attempt(attempt)? })
        } else if let Some(attempt) = directory.strip_prefix("sink/staged/") {
            Some(Object::Staged { attempt: parse_attempt(attempt)? })
        } else if let Some(savepoint) = directory.strip_prefix("savepoints/savepoint-") {
            let is_ours = !savepoint.is_empty() && !savepoint.contains('/');
            is_ours.then(|| Object::Savepoint { directory: format!("{}/{directory}", self.job) })
        } else {
            let checkpoint = CheckpointId(number(directory.strip_prefix("chk-")?, false)?);
            if name == METADATA {
                Some(Object::Metadata { checkpoint })
            } else {
                parse_private(checkpoint, name)
            }
        }
    }
}

fn segment(attempt: Attempt) -> String {
    format!("{}-{}", attempt.epoch, attempt.number)
}

fn parse_attempt(segment: &str) -> Option<Attempt> {
    let (epoch, attempt) = segment.split_once('-')?;
    Some(Attempt { epoch: number(epoch, false)?, number: number(attempt, false)? })
}

fn parse_private(checkpoint: CheckpointId, name: &str) -> Option<Object> {
    let mut parts = name.splitn(5, '-');
    let attempt = Attempt { epoch: number(parts.next()?, false)?, number: number(parts.next()?, false)? };
    let task = TaskId { vertex: number(parts.next()?, false)?, subtask: number(parts.next()?, false)? };
    let unique = parts.next()?;
    (!unique.is_empty()).then_some(Object::Private { checkpoint, attempt, task })
}

/// A decimal number as `format!` writes it: no sign, and no leading zeros unless `padded`.
fn number<T: std::str::FromStr>(digits: &str, padded: bool) -> Option<T> {
    let canonical = padded || digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_built_is_read_back(id: u64, epoch: u64, number: u32, vertex: u16, subtask: u16, version: u64) {
            let layout = Layout::new("job-1").unwrap();
            let (checkpoint, attempt) = (CheckpointId(id), Attempt { epoch, number });
            let task = TaskId { vertex, subtask };
            let unique = "0c7a-1-2";
            let pairs = [
                (layout.log(version), Object::Log { version }),
                (layout.metadata(checkpoint), Object::Metadata { checkpoint }),
                (layout.private(checkpoint, attempt, task, unique), Object::Private { checkpoint, attempt, task }),
                (layout.shared(attempt, unique), Object::Shared { attempt }),
                (layout.staged(attempt, unique), Object::Staged { attempt }),
                (
                    Layout::metadata_in(&layout.savepoint(None, "0a1b")),
                    Object::Savepoint { directory: "job-1/savepoints/savepoint-job-1-0a1b".into() },
                ),
                (layout.output("t-1"), Object::Output { transaction: "t-1".into() }),
            ];
            for (path, object) in pairs {
                // The store may rewrite names that it cannot hold; ours it must leave alone.
                prop_assert_eq!(object_store::path::Path::from(path.as_str()).to_string(), path.as_str());
                prop_assert_eq!(layout.parse(&path), Some(object), "{}", path);
            }
        }

        #[test]
        fn reading_any_name_is_safe(path in ".{0,40}", tail in "[-0-9a-z_/]{0,40}") {
            let layout = Layout::new("job").unwrap();
            layout.parse(&path);
            for directory in ["chk-", "log/", "shared/", "sink/staged/"] {
                layout.parse(&format!("job/{directory}{tail}"));
            }
        }
    }

    #[test]
    fn foreign_names_are_nothing() {
        let layout = Layout::new("job").unwrap();
        for path in [
            "",
            "job",
            "job/",
            "jobs/log/00000000000000000001",
            "other/chk-1/_metadata",
            "job/chk-/_metadata",
            "job/chk-01/_metadata",
            "job/chk-+1/_metadata",
            "job/log/1",
            "job/shared/1/u",
            "job/shared/1-1/",
            "job/chk-1/1-1-0-0",
            "job/chk-1/1-1-0-0-",
            "job/chk-1/1-1-0-70000-u",
            "job/sink/1-1/u",
            "job/chk-1/x/_metadata",
        ] {
            assert_eq!(layout.parse(path), None, "{path}");
        }
        assert!(Layout::new("a/b").is_err() && Layout::new("").is_err() && Layout::new("..").is_err());
    }
}
