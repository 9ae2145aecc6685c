//! The seam between a system under test and the world.
//!
//! One import, two worlds. In an ordinary build [`fs`], [`net`], [`objects`], [`time`], [`task`] and [`entropy`] are thin
//! wrappers over the operating system, tokio and `object_store`. With `--cfg madsim` the same names, with the same
//! signatures and the same error kinds, are devices of a deterministic simulation (module `sim`, which only exists in
//! that build and is how a harness drives them).
//!
//! A system that touches the world only through this crate runs unchanged in both.

pub mod entropy;
pub mod fs;
pub mod net;
pub mod objects;
pub mod points;
#[cfg(madsim)]
pub mod sim;
pub mod task;
pub mod time;

/// True if this build is the simulation.
pub const SIMULATED: bool = cfg!(madsim);
