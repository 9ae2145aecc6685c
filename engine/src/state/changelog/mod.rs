//! Incremental checkpoints by changelog: every change of keyed state is written to a log as well, and a checkpoint is a base and
//! the log from there on (Flink's FLIP-158).
//!
//! A checkpoint without a log makes the store flush, and uploads what compactions have made new, which may be much more than what
//! has changed. With a log a checkpoint waits for no store: most of its changes are in the object store before its barrier
//! comes, and only the last of them have to follow. The store is *materialised* now and then, whenever suits it, so that the log
//! does not grow without bound. The price is that every change is uploaded twice, and that a restore replays the log.
//!
//! - [`log`]: sequence numbers, pieces, what checkpoints are built on, when what is deleted (pure).
//! - [`frame`]: the bytes of a segment (pure).
//! - [`keyed`]: the state of a subtask whose changes are logged.
//! - [`upload`]: from pieces to segments in the object store.
//! - [`replay`]: from segments back to a store.
//!
//! Who drives this is the task (`stream::task::changelog`). Leaves out: a log that several subtasks write to, and reading a log from
//! local copies.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod frame;
pub mod keyed;
pub mod log;
pub mod replay;
pub mod upload;

/// The most that may be asked to be collected before it is uploaded, in bytes: less than what makes a task stop.
pub const UPLOAD_BYTES_MAX: usize = 32 << 20;

/// How changes are logged; an option of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangelogOptions {
    /// From one materialisation of a subtask's store to the next. The first comes at a drawn moment within that time, so that
    /// subtasks take turns; one comes early if the log has become one of too many segments.
    pub materialise_every: Duration,
    /// Changes are uploaded before any checkpoint asks for them when they are so many bytes; at most [`UPLOAD_BYTES_MAX`].
    pub upload_bytes: usize,
    /// What there is of them is uploaded every so often.
    pub upload_every: Duration,
}

impl Default for ChangelogOptions {
    fn default() -> Self {
        ChangelogOptions {
            materialise_every: Duration::from_secs(10 * 60),
            upload_bytes: 4 << 20,
            upload_every: Duration::from_secs(1),
        }
    }
}

impl ChangelogOptions {
    /// What cannot be, by name.
    ///
    /// # Errors
    /// If anything would be done without a pause, or more collected than a task may keep.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.materialise_every.is_zero() {
            return Err("materialise_every must not be 0");
        }
        if self.upload_every.is_zero() || self.upload_bytes == 0 {
            return Err("upload_every and upload_bytes must not be 0");
        }
        if self.upload_bytes > UPLOAD_BYTES_MAX {
            return Err("upload_bytes must not be above 32 MiB");
        }
        Ok(())
    }
}
