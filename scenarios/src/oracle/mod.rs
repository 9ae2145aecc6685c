//! What the scenarios hold the engine against. Pure checkers over what was done and what was found, and who tells them.

pub mod attempts;
pub mod batches;
pub mod cold;
pub mod hoard;
pub mod job;
pub mod watch;
