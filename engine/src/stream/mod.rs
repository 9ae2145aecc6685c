//! The dataflow: what runs between two checkpoints.
//!
//! - [`job`]: what a job is written in, with [`functions`], [`window`]s and [`join`]s; [`queries`] are jobs by name.
//! - [`graph`]: what it becomes: vertices and edges.
//! - [`record`], [`channel`], [`exchange`], [`emit`]: what flows, over what, and to whom.
//! - [`alignment`]: when a task may snapshot, and what of its input belongs to the snapshot (pure).
//! - [`in_flight`]: what a barrier overtook, into the object store and back.
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
pub mod in_flight;
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
