//! Checkpoints: what they are made of, who decides their fate, how they come back.

pub mod assign;
mod envelope;
pub mod layout;
pub mod log;
pub mod metadata;
pub mod points;
pub mod snapshot;

pub use envelope::Malformed;
