//! Flink's checkpoints, as far as their `_metadata` tells: which operators there are, and which files hold their state.
//!
//! The formats are those that Flink 1.11 and later write (versions 3 to 6; 1.20 writes 4, 2.x writes 6). They are Java's
//! `DataOutput`: big endian, strings in modified UTF-8, a tag before each handle. [`decode`] reads them all.
//!
//! - [`reader`]: numbers and strings, and errors that name the offset.
//! - [`metadata`]: the file as a whole: masters' states, operators, properties.
//! - [`operator`]: an operator, its subtasks, and its state that has no key.
//! - [`keyed`]: handles of keyed state: whole, incremental, changelog.
//! - [`channel`]: handles of records that were under way (unaligned checkpoints).
//! - [`stream`]: what all handles end in: bytes in the metadata itself, or files.
//! - [`places`]: the files, and who names them.
//! - [`java`] and [`properties`]: the serialised Java object at the end.
//!
//! Any bytes are safe: a count is believed only as far as there are bytes for it, and nesting is bounded.
//!
//! Left out: versions 1 and 2 (before 1.11), and what is *in* the files: that is Flink's serialisers' own.

pub mod channel;
pub mod java;
pub mod keyed;
pub mod metadata;
pub mod operator;
pub mod places;
pub mod properties;
pub mod reader;
pub mod stream;

pub use metadata::{MAGIC, Metadata, decode};
pub use places::{CHANGES, Place};
pub use reader::{Malformed, Reason};
pub use stream::StreamHandle;
