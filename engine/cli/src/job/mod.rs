//! Jobs from a shell: the processes that run them, and what a user asks of them.
//!
//! - [`spec`]: a job as it is typed: name, query, parameters.
//! - [`duration`]: `10s`, `500ms`.
//! - [`options`]: when checkpoints are taken.
//! - [`process`]: `coordinator`, `worker`, `run`.
//! - [`ask`]: `status`, `rescale`, `checkpoint`.

pub(crate) mod ask;
mod duration;
mod options;
pub(crate) mod process;
mod spec;
