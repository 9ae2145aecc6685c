//! Snapshots of the cluster: what they are made of, how they are checked, and the machines that make and restore them.
//!
//! A full snapshot holds the rows of each partition at a cut, an increment its log from one cut to the next. Both are described by a
//! document that is written last. See `docs/snapshots.md`.

pub mod chain;
pub mod check;
pub mod create;
pub mod delete;
pub mod document;
pub mod files;
pub mod fold;
pub mod layout;
pub mod objects;
pub mod operation;
pub mod restore;
pub mod segment;
