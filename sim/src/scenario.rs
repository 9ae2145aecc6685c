//! A scenario: what is run and what must hold.

use std::path::Path;

use cutwater_io::sim::net::FrameNamer;
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::census::mini::MiniWorkload;
use crate::faults::FaultClass;
use crate::faults::deliver::Devices;
use crate::generate;
use crate::plan::Plan;
use crate::shrink::Personalities;
use crate::vocabulary::Vocabulary;
use crate::world::World;

/// What is run and what must hold. One value of it serves every run; it keeps no state between them.
pub trait Scenario: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// One line of explanation.
    fn about(&self) -> &'static str;
    /// The words its plans are made of.
    fn vocabulary(&self) -> Vocabulary;
    /// What must hold.
    fn oracles(&self) -> &'static [OracleInfo];
    /// What a campaign must have seen, or it is void.
    fn demands(&self) -> Demands {
        Demands::default()
    }
    /// The plan that `seed` names. It must depend on nothing else.
    fn generate(&self, seed: u64) -> Plan {
        generate::swarm(self.name(), &self.vocabulary(), seed)
    }
    /// The knob that says which file system the disks have, and its values with their names, from the strictest to the
    /// weakest: a failure is told with those that show it.
    fn personalities(&self) -> Option<Personalities> {
        None
    }
    /// What a path or key is to the system under test; one of [`Vocabulary::classes`], or `other`.
    fn classify(&self) -> fn(&Path) -> &'static str {
        |_| "other"
    }
    /// What a frame on the network is called in a story.
    fn name_frames(&self) -> FrameNamer {
        |_| None
    }
    /// How the devices of this plan behave when nothing is broken.
    fn devices(&self, plan: &Plan) -> Devices {
        let _ = plan;
        Devices::default()
    }
    /// What a census of all short sequences of operations is made of, if it makes sense.
    fn mini(&self) -> Option<MiniWorkload> {
        None
    }
    /// Runs the plan of `world`: sets up nodes, drives clients, calls [`World::heal`], and judges.
    ///
    /// # Errors
    /// What did not hold.
    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>>;
}

/// An oracle of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct OracleInfo {
    /// Its name.
    pub name: &'static str,
    /// What holds, in one line.
    pub about: &'static str,
}

/// What a campaign of at least [`Demands::after_plans`] plans must have seen.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// A smaller campaign is never void. 0 for no demands at all.
    pub after_plans: u64,
    /// Classes of which a fault must have been delivered.
    pub delivered: Vec<FaultClass>,
    /// Points that must have been passed.
    pub points: Vec<&'static str>,
    /// `sometimes!` that must have held.
    pub sometimes: Vec<&'static str>,
    /// Cells of the matrix: a fault of the class must have met the point.
    pub cells: Vec<(FaultClass, &'static str)>,
}

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{oracle}: {property}: expected {expected}, found {found}")]
pub struct Violation {
    /// Which oracle says so.
    pub oracle: String,
    /// What should have held; the same words for every instance of it.
    pub property: String,
    /// What kind of thing it did not hold for (`key`, `sstable`, ...), never which one.
    pub entity_class: String,
    /// What was expected, with values.
    pub expected: String,
    /// What was found, with values.
    pub found: String,
}

impl Violation {
    /// Says that `property` of `oracle` does not hold.
    pub fn new(oracle: &str, property: &str) -> Violation {
        Violation {
            oracle: oracle.into(),
            property: property.into(),
            entity_class: String::new(),
            expected: "it to hold".into(),
            found: "it did not".into(),
        }
    }
    /// What kind of thing it did not hold for.
    pub fn of(mut self, entity_class: &str) -> Violation {
        self.entity_class = entity_class.into();
        self
    }
    /// What was expected.
    pub fn expected(mut self, expected: impl std::fmt::Display) -> Violation {
        self.expected = expected.to_string();
        self
    }
    /// What was found.
    pub fn found(mut self, found: impl std::fmt::Display) -> Violation {
        self.found = found.to_string();
        self
    }
    /// Names the failure, not the run: two runs that fail alike have the same signature.
    pub fn signature(&self) -> String {
        signature(&[&self.oracle, &self.property, &self.entity_class])
    }
}

/// A short hash of what a failure is.
pub(crate) fn signature(parts: &[&str]) -> String {
    let joined = parts.join("\u{1f}");
    format!("{:08x}", xxh3_64(joined.as_bytes()) >> 32)
}
