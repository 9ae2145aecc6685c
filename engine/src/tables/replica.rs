//! Replication of one partition's log (PacificA).

mod message;
mod view;

pub use message::{LogShape, Message, RowsChunk, RowsTaken, Session};
pub use view::{IllegalView, PartitionView};
