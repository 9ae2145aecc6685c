//! Looking for trouble on purpose: what a run reached, and which plans to run next.
//!
//! - [`coverage`]: which classes of faults met which points, which edges of the system's behaviour a run took, and which
//!   calls into devices it made;
//! - [`mutate`]: a plan that differs a little from one that reached something new;
//! - [`explorer`]: half fresh seeds, half mutants of the plans that reached new edges;
//! - [`corpus`]: those plans as files;
//! - [`errors`]: every call site fails once, in every way.
//!
//! *Left out*: coverage of code. Edges between points tell states of the system apart that its authors named; which lines a
//! whole cluster executed is mostly noise.

pub mod corpus;
pub mod coverage;
pub mod errors;
pub mod explorer;
pub mod mutate;
