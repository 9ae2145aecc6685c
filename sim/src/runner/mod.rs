//! The runner: one plan, one process.
//!
//! A single-threaded parent forks a child for each plan. The child runs the simulation on a fresh thread, sends its report
//! through a pipe, and exits. What ran before it in the same process (counters, statics, thread-local generators) cannot
//! matter, and with the randomisation of address spaces off, neither can addresses. A panic, an abort, a stack overflow
//! or a hang of a child is a verdict on its plan, not the end of the sweep.
//!
//! - [`execute`](execute::execute): runs one plan in this thread;
//! - [`pool`]: children, their pipes, the watchdog;
//! - `process`: the system calls behind it, and the only unsafe code of the crate;
//! - `story`: what the system logs, for a recorded run.

pub mod execute;
pub mod pool;
pub(crate) mod process;
mod story;

pub use pool::{Job, Pool, Redraw, What};
