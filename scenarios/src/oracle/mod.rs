//! What the scenarios hold the engine against. Pure checkers over what was done and what was found.

pub mod batches;
pub mod job;
