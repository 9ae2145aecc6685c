//! Checkpoints: what they are made of, who decides their fate, how they come back.

mod acknowledge;
pub mod assign;
pub mod coordinator;
mod envelope;
pub mod fsck;
pub mod layout;
pub mod log;
pub mod metadata;
pub mod points;
pub mod read;
pub mod registry;
pub mod snapshot;
pub mod sweep;
pub mod write;

pub use envelope::Malformed;
