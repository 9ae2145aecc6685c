//! What a scenario can do: the words that its plans are made of.
//!
//! The generator draws from it, the validator holds plans against it, `list` shows it. A knob's extremes stand beside its
//! default on purpose: they are where a swarm looks first.

use std::ops::RangeInclusive;

use cutwater_io::points::Point;

use crate::faults::{FaultClass, sites};

/// The words of a scenario.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// What nodes there are. They are numbered from 1 in this order, and created in it.
    pub roles: Vec<Role>,
    /// How many clients issue operations.
    pub actors: RangeInclusive<u64>,
    /// How many operations a plan has.
    pub ops: RangeInclusive<u64>,
    /// What clients can do.
    pub verbs: Vec<Verb>,
    /// Settings of the system and of the scenario.
    pub knobs: Vec<Knob>,
    /// Points of the system that faults can be anchored to.
    pub points: Vec<Point>,
    /// What a path or key can be to the system (the answers of [`crate::Scenario::classify`]).
    pub classes: Vec<&'static str>,
    /// Which classes of faults the system must survive.
    pub faults: Vec<FaultClass>,
    /// How long the safety phase may last, in microseconds of virtual time.
    pub horizon_us: RangeInclusive<u64>,
}

/// A kind of node.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// One line of explanation.
    pub about: &'static str,
    /// How many there may be.
    pub count: RangeInclusive<u64>,
}

/// A kind of operation.
#[derive(Clone, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// One line of explanation.
    pub about: &'static str,
    /// What it takes.
    pub args: Vec<Arg>,
    /// Never switched off by the swarm: without it a run shows nothing.
    pub always: bool,
}

/// An argument of an operation.
#[derive(Clone, Debug)]
pub struct Arg {
    /// Its name.
    pub name: &'static str,
    /// What values it may have; small ones are drawn more often if [`Arg::log`] says so.
    pub range: RangeInclusive<u64>,
    /// Draw its logarithm uniformly.
    pub log: bool,
}

/// A setting.
#[derive(Clone, Debug)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// One line of explanation, with the unit.
    pub about: &'static str,
    /// What it is if a plan does not say.
    pub default: u64,
    /// What it may be; both ends are hostile.
    pub range: RangeInclusive<u64>,
    /// Never moved by the generator; only plans written by hand set it.
    pub pinned: bool,
}

impl Role {
    /// A kind of node.
    pub fn new(name: &'static str, about: &'static str, count: RangeInclusive<u64>) -> Role {
        Role { name, about, count }
    }
}

impl Verb {
    /// A kind of operation without arguments.
    pub fn new(name: &'static str, about: &'static str) -> Verb {
        Verb { name, about, args: Vec::new(), always: false }
    }
    /// One more argument, drawn uniformly.
    pub fn arg(mut self, name: &'static str, range: RangeInclusive<u64>) -> Verb {
        self.args.push(Arg { name, range, log: false });
        self
    }
    /// One more argument, mostly small.
    pub fn log_arg(mut self, name: &'static str, range: RangeInclusive<u64>) -> Verb {
        self.args.push(Arg { name, range, log: true });
        self
    }
    /// Never switched off by the swarm.
    pub fn always(mut self) -> Verb {
        self.always = true;
        self
    }
}

impl Knob {
    /// A setting with its default between two hostile ends.
    ///
    /// # Panics
    /// If the default is not in the range.
    pub fn new(name: &'static str, about: &'static str, default: u64, range: RangeInclusive<u64>) -> Knob {
        assert!(range.contains(&default), "the default of {name} is not in its range");
        Knob { name, about, default, range, pinned: false }
    }
    /// Never moved by the generator.
    pub fn pinned(mut self) -> Knob {
        self.pinned = true;
        self
    }
}

impl Vocabulary {
    /// The role of this name.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.iter().find(|r| r.name == name)
    }
    /// True if a fault can strike at this site. A scenario that promises nothing of a network or of an object store has none, as
    /// far as its plans can know.
    pub fn has_site(&self, site: &str) -> bool {
        let classes = match site.split_once('.') {
            Some(("net", _)) => FaultClass::OF_NETWORK,
            Some(("objects", _)) => FaultClass::OF_STORE,
            _ => return sites::ALL.contains(&site),
        };
        sites::ALL.contains(&site) && self.faults.iter().any(|class| classes.contains(class))
    }
    /// The verb of this name.
    pub fn verb(&self, name: &str) -> Option<&Verb> {
        self.verbs.iter().find(|v| v.name == name)
    }
    /// The knob of this name.
    pub fn knob(&self, name: &str) -> Option<&Knob> {
        self.knobs.iter().find(|k| k.name == name)
    }
}
