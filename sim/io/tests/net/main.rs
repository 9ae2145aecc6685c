//! The simulated network and the clocks of its nodes, and the same calls on loopback.

#[cfg(madsim)]
#[path = "../support/mod.rs"]
mod support;

mod clocks;
mod simulated;
mod slow;
mod twins;
