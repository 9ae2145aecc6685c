//! The dataflow: what runs between two checkpoints.
//!
//! - [`job`]: what a job is written in, with [`functions`], [`window`]s and [`join`]s; [`queries`] are jobs by name.
//! - [`graph`]: what it becomes: vertices and edges.
//! - [`record`], [`channel`], [`exchange`], [`emit`]: what flows, over what, and to whom.
//! - [`alignment`]: when the barriers of a checkpoint have arrived on all channels (pure).
//! - [`watermark`]: how far event time has come (pure).
//! - [`source`], [`operator`], [`sink`]: where records come from, what is done with them, where they go.
//! - [`harness`]: one operator without a cluster, for tests.
//! - [`task`]: the loops that run them and take their part in checkpoints.

pub mod alignment;
pub mod channel;
pub mod emit;
mod error;
pub mod exchange;
pub mod functions;
pub mod graph;
pub mod harness;
pub mod job;
pub mod join;
pub mod operator;
pub mod points;
pub mod queries;
pub mod record;
pub mod sink;
pub mod source;
pub mod task;
pub mod watermark;
pub mod window;

pub use error::Error;
