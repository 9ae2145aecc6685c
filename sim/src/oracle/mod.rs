//! Oracles: pure checkers over data, told everything that happened, living outside of the system.

pub mod kv;
