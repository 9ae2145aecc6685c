//! Snapshots of the cluster: what they are made of, how they are checked, and the machines that make and restore them.
//!
//! A full snapshot holds the rows of each partition at a cut, an increment its log from one cut to the next. Both are described by a
//! document that is written last. See `docs/snapshots.md`.
//!
//! - Formats: names ([`layout`]), files of rows and of entries ([`segment`]), documents ([`document`]).
//! - Pure: from documents to a way to the wanted state ([`chain`]), from rows and logs to the rows at a cut or at a time ([`fold`]).
//! - Pure machines, each made from a record of the register ([`operation`]): [`create`], [`restore`], [`delete`].
//! - The edge, over an object store: [`objects`], [`files`], reading a partition for a restore ([`load`]), proving a snapshot ([`check`]).
//!
//! Not here: who asks partitions, changes the register and carries out what the machines say; that is the node's process.

pub mod chain;
pub mod check;
pub mod create;
pub mod delete;
pub mod document;
pub mod files;
pub mod fold;
pub mod layout;
pub mod load;
pub mod objects;
pub mod operation;
pub mod restore;
pub mod segment;
