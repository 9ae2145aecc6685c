//! The simulated disk: what a crash may leave, what faults and damage do, and the same calls on a real file system.

mod damage;
mod faults;
mod litmus;
mod mid_sync;
mod process;
mod properties;
mod twin;
