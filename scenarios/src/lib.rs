//! What is run and what must hold: the scenarios, and the oracles that know the engine.
//!
//! The crate exists only in the simulated build.
#![cfg(madsim)]

use std::path::Path;

use cutwater_sim::scenario::Scenario;

pub mod oracle;
pub mod store;

/// Every scenario, in the order in which they are listed.
pub const ALL: &[&dyn Scenario] = &[&store::StoreScenario];

/// What a path is to the engine: the classes that faults can be anchored to.
pub(crate) fn classify(path: &Path) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once('.') {
        Some((_, "log")) => "wal",
        Some((_, "sst")) => "table",
        _ if name.starts_with("MANIFEST-") => "manifest",
        _ if name == "CURRENT" || name.ends_with(".dbtmp") => "current",
        _ => "other",
    }
}
