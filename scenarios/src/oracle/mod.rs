//! What the scenarios hold the engine against. Pure checkers over what was done and what was found, and who tells them.

pub mod attempts;
pub mod batches;
pub mod calls;
pub mod cold;
pub mod cuts;
pub mod hoard;
pub mod job;
pub mod linearizable;
pub mod serializable;
pub mod watch;
