//! Keyed state: what a key remembers, kept in a store of the subtask that owns the key.
//!
//! - [`key_groups`]: which subtask owns a key, at any parallelism, and where the key lies in its store.
//! - [`backend`]: the state of one subtask, and its snapshots; `cache` before its store (pure).
//! - [`kinds`]: values, lists, maps, by name and type; [`timers`].
//! - [`operator_state`]: what subtasks that are not keyed remember.
//! - [`increment`]: which files of a snapshot are already in the object store (pure).
//! - [`changelog`]: the log of changes that checkpoints may be made of instead.
//! - [`merging`]: which small files share an object, and when that has become wasteful (pure).
//! - [`canonical`]: files of savepoints that owe nothing to a store (pure).
//! - [`upload`]: the asynchronous part of a snapshot.
//! - [`restore`]: from snapshots, of the same or of another parallelism, back to a store.
//! - [`blob`]: objects that are written once and checked when they are read.
//!
//! State is never durable on the local disk: the stores run without a log and their directories are wiped when the process
//! starts. What survives is what a completed checkpoint references in the object store.

pub mod backend;
pub mod blob;
mod cache;
pub mod canonical;
pub mod changelog;
pub mod dirs;
mod error;
pub mod increment;
pub mod key_groups;
pub mod kinds;
pub mod merging;
pub mod operator_state;
pub mod points;
pub mod restore;
pub mod timers;
pub mod upload;

pub use backend::{KeyedState, StateId};
pub use error::Error;
pub use kinds::{Data, ListState, MapState, ReducingState, ValueState};
pub use timers::Timer;
