//! Checkpoints: what they are made of, who decides their fate, how they come back.

pub mod points;
pub mod snapshot;
