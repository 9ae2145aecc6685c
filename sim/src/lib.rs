//! The harness: plans, faults, histories, and the runner of a deterministic simulation.
//!
//! A **scenario** ([`Scenario`]) says what is run and what must hold. A **seed** names a **plan** ([`Plan`]): a piece of
//! data with everything that decides a run. The **world** ([`World`]) runs a plan over the simulated devices of
//! `cutwater_io::sim`, and gives back a **report** ([`Report`]). The **runner** gives every plan a process of its own, and
//! the **command line** ([`cli`]) sweeps over seeds, replays one, and lists what there is.
//!
//! The harness knows nothing of the system under test. `examples/toy.rs` is a complete small system in one file.
//!
//! The whole crate exists only in the simulated build (`--cfg madsim`, which this repository's `.cargo/config.toml` sets);
//! elsewhere there is only [`refuse`].

#[cfg(madsim)]
pub mod capsule;
#[cfg(madsim)]
pub mod census;
#[cfg(madsim)]
pub mod cli;
#[cfg(madsim)]
pub mod evidence;
#[cfg(madsim)]
pub mod explain;
#[cfg(madsim)]
pub mod faults;
#[cfg(madsim)]
pub mod generate;
#[cfg(madsim)]
pub mod history;
#[cfg(madsim)]
mod html;
#[cfg(madsim)]
pub mod plan;
#[cfg(madsim)]
mod program;
#[cfg(madsim)]
pub mod runner;
#[cfg(madsim)]
pub mod scenario;
#[cfg(madsim)]
pub mod search;
#[cfg(madsim)]
pub mod shrink;
#[cfg(madsim)]
pub mod strategy;
#[cfg(madsim)]
pub mod testing;
#[cfg(madsim)]
pub mod timeline;
#[cfg(madsim)]
mod told;
#[cfg(madsim)]
pub mod verdict;
#[cfg(madsim)]
pub mod vocabulary;
#[cfg(madsim)]
pub mod world;

#[cfg(madsim)]
pub use self::{
    faults::FaultClass,
    history::History,
    plan::{Act, Anchor, Fault, Op, Plan},
    scenario::{Demands, OracleInfo, Scenario, Violation},
    verdict::{Report, Verdict},
    vocabulary::Vocabulary,
    world::World,
};

/// What a binary of the simulation does in a build that is not one: it says so, and exits with status 2.
pub fn refuse() -> std::process::ExitCode {
    eprintln!(
        "built without --cfg madsim (is RUSTFLAGS set? it replaces .cargo/config.toml): nothing is simulated"
    );
    std::process::ExitCode::from(2)
}
