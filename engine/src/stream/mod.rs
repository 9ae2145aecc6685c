//! The dataflow: what runs between two checkpoints.
//!
//! - [`graph`]: the vertices and edges of a job; [`queries`] builds them by name.
//! - [`record`], [`channel`], [`exchange`]: what flows, over what, and to whom.
//! - [`alignment`]: when the barriers of a checkpoint have arrived on all channels (pure).
//! - [`source`], [`operator`], [`sink`]: where records come from, what they do, where they go.
//! - [`task`]: the loops that run them and take their part in checkpoints.

pub mod alignment;
pub mod channel;
mod error;
pub mod exchange;
pub mod graph;
pub mod operator;
pub mod points;
pub mod queries;
pub mod record;
pub mod sink;
pub mod source;
pub mod task;

pub use error::Error;
