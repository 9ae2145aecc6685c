//! Faults: their classes, where they strike, how they are delivered, and the receipts they leave.
//!
//! - [`atlas`]: which copy of what may be damaged;
//! - [`sites`]: the calls into devices, and what can happen at each;
//! - `injector`: decides at every call and every point whether a fault of the plan strikes there;
//! - `deliver`: switches the faults that are states (a partition, a full disk) on and off through the devices' controls;
//! - [`receipts`]: what was armed, delivered, observed.

pub mod atlas;
mod class;
pub(crate) mod deliver;
pub(crate) mod injector;
pub mod receipts;
pub mod sites;

pub use class::FaultClass;
pub use deliver::Devices;
pub use receipts::{Receipt, Receipts};
