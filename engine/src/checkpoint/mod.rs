//! Checkpoints: what they are made of, who decides their fate, how they come back.

mod acknowledge;
pub mod assign;
pub mod barrier;
pub mod changelog;
pub mod coordinator;
pub(crate) mod envelope;
pub mod fsck;
pub mod history;
pub mod job_state;
pub mod layout;
pub mod log;
pub mod metadata;
pub mod points;
pub mod read;
pub mod registry;
pub mod request;
pub mod snapshot;
pub mod sweep;
mod wire;
pub mod write;

pub use envelope::Malformed;
