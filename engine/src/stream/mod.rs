//! The dataflow: what runs between two checkpoints.
//!
//! - [`graph`]: the vertices and edges of a job; [`queries`] builds them by name.
//! - [`record`], [`channel`], [`exchange`]: what flows, over what, and to whom.
//! - [`alignment`]: when a task may snapshot, and what of its input belongs to the snapshot (pure).
//! - [`in_flight`]: what a barrier overtook, into the object store and back.
//! - [`source`], [`operator`], [`sink`]: where records come from, what they do, where they go.
//! - [`task`]: the loops that run them and take their part in checkpoints.

pub mod alignment;
pub mod channel;
mod error;
pub mod exchange;
pub mod graph;
pub mod in_flight;
pub mod operator;
pub mod points;
pub mod queries;
pub mod record;
pub mod sink;
pub mod source;
pub mod task;

pub use error::Error;
