//! The simulated object store, and the same calls on a local directory.

#[cfg(madsim)]
#[path = "../support/mod.rs"]
mod support;

mod refusals;
mod simulated;
mod twins;
