//! The coordinator of a job: its machines alone, and whole processes of it.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/flaky.rs"]
mod flaky;

mod log;
mod machine;
mod process;
