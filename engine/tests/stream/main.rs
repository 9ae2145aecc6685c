//! Jobs and the state of their tasks, from outside.

#[path = "../common/mod.rs"]
mod common;

mod changelog;
mod job;
mod kinds;
mod nexmark_kill;
mod sink;
mod state;
mod windows;
