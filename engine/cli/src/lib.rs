//! What the binary `cutwater-engine` is made of, as far as tests have to get at it: a job over HTTP.
//!
//! Only in the real build; in the simulation this is empty.

#[cfg(not(madsim))]
pub mod web;
