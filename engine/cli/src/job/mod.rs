//! Jobs from a shell: the processes that run them, and what a user asks of them.
//!
//! - [`spec`]: a job as it is typed: name, query, parameters.
//! - [`duration`]: `10s`, `500ms`.
//! - [`options`]: when checkpoints are taken.
//! - [`origin`]: what a job is started from.
//! - [`process`]: `coordinator`, `worker`, `run`.
//! - [`ask`]: `status`, `rescale`, `cancel`, `start`.
//! - [`snapshot`]: `checkpoint`, `savepoint`, `stop`, and the list `checkpoints`.

pub(crate) mod ask;
mod duration;
mod options;
mod origin;
pub(crate) mod process;
pub(crate) mod snapshot;
mod spec;
