//! A plan: everything that decides a run, as data.
//!
//! A seed only names a plan. The plan is what is run, kept, replayed and checked in, as one JSON file. Nothing in
//! it is relative to anything that another part of the plan may move: operations have absolute not-before times and
//! explicit arguments, a fault is tied to a time, to an operation, or to the n-th passing of a place, and says exactly what
//! happens there. So taking one item out leaves the meaning of the rest alone.
//!
//! A plan read from a file is hostile until [`Plan::validate`] has held it against the scenario's [`Vocabulary`].

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Unstructured;
use cutwater_io::sim::{Crash, SiteFault};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::faults::{FaultClass, sites};
use crate::generate;
use crate::vocabulary::Vocabulary;

/// The version of plans that this build reads and writes.
pub const VERSION: u32 = 1;
/// The longest horizon of a plan, in microseconds: an hour.
pub const HORIZON_MAX_US: u64 = 3_600_000_000;
/// The longest that a fault may hold up one call or one task, in microseconds.
pub const DELAY_MAX_US: u64 = 20_000_000;
/// The most operations, and the most faults, in a plan.
pub const ITEMS_MAX: usize = 100_000;

/// What one run does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// See [`VERSION`].
    pub version: u32,
    /// The scenario it belongs to.
    pub scenario: String,
    /// The seed it was drawn from; kept for reference, decides nothing.
    pub seed: u64,
    /// Decides the order in which ready tasks run.
    pub schedule_seed: u64,
    /// Root of all draws inside the devices.
    pub key: u64,
    /// Virtual length of the safety phase in microseconds.
    pub horizon_us: u64,
    /// How many nodes there are of each role; a role not named has its lowest number.
    pub topology: BTreeMap<String, u64>,
    /// Settings; one not named has its default.
    pub knobs: BTreeMap<String, u64>,
    /// What clients do.
    pub ops: Vec<Op>,
    /// What breaks.
    pub faults: Vec<Fault>,
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Unique in the plan; unique values are derived from it.
    pub id: u32,
    /// Not before this virtual time, in microseconds.
    pub at_us: u64,
    /// The client that does it, from 0.
    pub actor: u16,
    /// What.
    pub verb: String,
    /// With what.
    pub args: Vec<u64>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Unique among the faults of the plan.
    pub id: u32,
    /// When.
    pub at: Anchor,
    /// What.
    pub act: Act,
}

/// What a fault is tied to. Node 0 is any node of a role; then `nth` counts the passings of all of them together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Anchor {
    /// A virtual time.
    Time {
        /// Microseconds since the start.
        at_us: u64,
    },
    /// A passing of a point.
    Point {
        /// The point's name.
        point: String,
        /// Whose passing.
        node: u64,
        /// The how many-th, from 1.
        nth: u32,
    },
    /// A call into a device.
    Site {
        /// Which call, as in `cutwater_io::sim::Site::name`.
        site: String,
        /// What the target is to the system under test; empty for any, and then `nth` counts them all together.
        class: String,
        /// Whose call.
        node: u64,
        /// The how many-th, from 1.
        nth: u32,
    },
    /// The moment at which an operation is issued.
    Op {
        /// Its id.
        op: u32,
    },
}

/// What happens. At a point or a site, node 0 is the node that passed there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Act {
    /// To the call itself; only with [`Anchor::Site`].
    Site(SiteFault),
    /// A node dies.
    Crash {
        /// Which.
        node: u64,
        /// How, and for how long.
        crash: Crash,
    },
    /// The passing task is held up; only with [`Anchor::Point`].
    Delay {
        /// For how long.
        us: u32,
    },
    /// No task of the node runs.
    Pause {
        /// Which.
        node: u64,
        /// For how long.
        for_us: u64,
    },
    /// Nothing gets from one group to the other.
    Partition {
        /// One side.
        from: Vec<u64>,
        /// The other side.
        to: Vec<u64>,
        /// In both directions.
        both: bool,
        /// For how long.
        for_us: u64,
    },
    /// Connections between two nodes stand still, and go on afterwards.
    Stall {
        /// One node.
        a: u64,
        /// The other.
        b: u64,
        /// For how long.
        for_us: u64,
    },
    /// Connections between two nodes break.
    Reset {
        /// One node.
        a: u64,
        /// The other.
        b: u64,
    },
    /// The disk takes no more data.
    DiskFull {
        /// Whose.
        node: u64,
        /// For how long.
        for_us: u64,
    },
    /// The disk answers nothing, and goes on afterwards.
    DiskStall {
        /// Whose.
        node: u64,
        /// For how long.
        for_us: u64,
    },
    /// The object store answers nobody.
    Outage {
        /// For how long.
        for_us: u64,
    },
    /// The object store tells everybody to slow down.
    ThrottleStore {
        /// For how long.
        for_us: u64,
    },
    /// One node does not reach the object store.
    IsolateFromStore {
        /// Which.
        node: u64,
        /// For how long.
        for_us: u64,
    },
}

/// Why something is not a plan: one line that says what and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(Invalid(format!($($message)*)));
        }
    };
}

impl Plan {
    /// Reads a plan. What it says is not yet held against a vocabulary.
    ///
    /// # Errors
    /// Not JSON, another version, an unknown or missing field.
    pub fn from_json(text: &str) -> Result<Plan, Invalid> {
        #[derive(Deserialize)]
        struct Header {
            version: Option<u64>,
        }
        let header: Header = serde_json::from_str(text).map_err(|e| Invalid(format!("not a plan: {e}")))?;
        match header.version {
            Some(v) if v == u64::from(VERSION) => {}
            Some(v) => {
                return Err(Invalid(format!("plan of version {v}; this build reads version {VERSION}")));
            }
            None => return Err(Invalid("not a plan: no field `version`".into())),
        }
        serde_json::from_str(text).map_err(|e| Invalid(format!("malformed plan: {e}")))
    }

    /// The plan as a file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a plan is plain data");
        text.push('\n');
        text
    }

    /// Names the plan's content: two plans with the same id are the same plan.
    pub fn id(&self) -> String {
        let compact = serde_json::to_vec(self).expect("a plan is plain data");
        format!("{:016x}", xxh3_64(&compact))
    }

    /// Always a valid plan, whatever the bytes.
    ///
    /// # Errors
    /// Never for want of bytes: exhausted input yields the smallest choices.
    pub fn arbitrary(
        scenario: &str,
        vocabulary: &Vocabulary,
        bytes: &mut Unstructured<'_>,
    ) -> arbitrary::Result<Plan> {
        generate::from_bytes(scenario, vocabulary, bytes)
    }

    /// Holds the plan against what the scenario can do.
    ///
    /// # Errors
    /// The first thing that is not in the vocabulary or does not fit together.
    pub fn validate(&self, vocabulary: &Vocabulary) -> Result<(), Invalid> {
        ensure!(
            self.version == VERSION,
            "plan of version {}; this build reads version {VERSION}",
            self.version
        );
        ensure!(
            (1..=HORIZON_MAX_US).contains(&self.horizon_us),
            "horizon_us: {} is not in 1..={HORIZON_MAX_US}",
            self.horizon_us
        );
        ensure!(self.ops.len() <= ITEMS_MAX, "ops: {} are more than {ITEMS_MAX}", self.ops.len());
        ensure!(self.faults.len() <= ITEMS_MAX, "faults: {} are more than {ITEMS_MAX}", self.faults.len());
        for (name, &count) in &self.topology {
            let role = vocabulary
                .role(name)
                .ok_or_else(|| unknown("topology", "role", name, vocabulary.roles.iter().map(|r| r.name)))?;
            ensure!(role.count.contains(&count), "topology.{name}: {count} is not in {:?}", role.count);
        }
        for (name, &value) in &self.knobs {
            let knob = vocabulary
                .knob(name)
                .ok_or_else(|| unknown("knobs", "knob", name, vocabulary.knobs.iter().map(|k| k.name)))?;
            ensure!(knob.range.contains(&value), "knobs.{name}: {value} is not in {:?}", knob.range);
        }
        self.validate_ops(vocabulary)?;
        self.validate_faults(vocabulary)
    }

    fn validate_ops(&self, vocabulary: &Vocabulary) -> Result<(), Invalid> {
        let mut ids = BTreeSet::new();
        for (i, op) in self.ops.iter().enumerate() {
            ensure!(ids.insert(op.id), "ops[{i}]: the id {} is used twice", op.id);
            ensure!(op.at_us <= self.horizon_us, "ops[{i}]: at_us {} lies beyond the horizon", op.at_us);
            ensure!(
                u64::from(op.actor) < *vocabulary.actors.end(),
                "ops[{i}]: actor {} is not below {}",
                op.actor,
                vocabulary.actors.end()
            );
            let verb = vocabulary.verb(&op.verb).ok_or_else(|| {
                unknown(&format!("ops[{i}]"), "verb", &op.verb, vocabulary.verbs.iter().map(|v| v.name))
            })?;
            ensure!(
                op.args.len() == verb.args.len(),
                "ops[{i}]: {} takes {} arguments, not {}",
                op.verb,
                verb.args.len(),
                op.args.len()
            );
            for (value, arg) in op.args.iter().zip(&verb.args) {
                ensure!(
                    arg.range.contains(value),
                    "ops[{i}]: {} {value} is not in {:?}",
                    arg.name,
                    arg.range
                );
            }
        }
        Ok(())
    }

    fn validate_faults(&self, vocabulary: &Vocabulary) -> Result<(), Invalid> {
        let mut ids = BTreeSet::new();
        let ops: BTreeSet<u32> = self.ops.iter().map(|op| op.id).collect();
        let nodes = self.node_count(vocabulary);
        for (i, fault) in self.faults.iter().enumerate() {
            let at = format!("faults[{i}]");
            ensure!(ids.insert(fault.id), "{at}: the id {} is used twice", fault.id);
            self.validate_anchor(&at, &fault.at, vocabulary, &ops, nodes)?;
            validate_act(&at, fault, nodes)?;
            let class = fault.class();
            ensure!(
                vocabulary.faults.contains(&class),
                "{at}: the scenario {} has no faults of class {}",
                self.scenario,
                class.name()
            );
        }
        Ok(())
    }

    fn validate_anchor(
        &self,
        at: &str,
        anchor: &Anchor,
        vocabulary: &Vocabulary,
        ops: &BTreeSet<u32>,
        nodes: u64,
    ) -> Result<(), Invalid> {
        match anchor {
            Anchor::Time { at_us } => {
                ensure!(*at_us <= self.horizon_us, "{at}: at_us {at_us} lies beyond the horizon");
            }
            Anchor::Op { op } => ensure!(ops.contains(op), "{at}: there is no op {op}"),
            Anchor::Point { point, node, nth } => {
                if !vocabulary.points.iter().any(|p| p.name == point) {
                    return Err(unknown(at, "point", point, std::iter::empty()));
                }
                ensure!(*nth > 0, "{at}: nth counts from 1");
                ensure!(*node <= nodes, "{at}: there is no node {node}, only {nodes}");
            }
            Anchor::Site { site, class, node, nth } => {
                if !sites::ALL.contains(&site.as_str()) {
                    return Err(unknown(at, "site", site, sites::ALL.iter().copied()));
                }
                ensure!(
                    class.is_empty() || vocabulary.classes.contains(&class.as_str()),
                    "{at}: unknown class `{class}` (there are {})",
                    vocabulary.classes.join(", ")
                );
                ensure!(*nth > 0, "{at}: nth counts from 1");
                ensure!(*node <= nodes, "{at}: there is no node {node}, only {nodes}");
            }
        }
        Ok(())
    }

    /// How many nodes the roles have together; they are numbered from 1 in the order of the vocabulary's roles.
    pub fn node_count(&self, vocabulary: &Vocabulary) -> u64 {
        vocabulary.roles.iter().map(|role| self.count(role)).sum()
    }

    /// How many nodes of `role` there are.
    pub fn count(&self, role: &crate::vocabulary::Role) -> u64 {
        self.topology.get(role.name).copied().unwrap_or(*role.count.start())
    }
}

fn validate_act(at: &str, fault: &Fault, nodes: u64) -> Result<(), Invalid> {
    let passing = matches!(fault.at, Anchor::Point { .. } | Anchor::Site { .. });
    let node_exists = |node: u64| {
        ensure!(node <= nodes, "{at}: there is no node {node}, only {nodes}");
        ensure!(node > 0 || passing, "{at}: node 0 (the one that passed) needs a point or a site");
        Ok(())
    };
    match &fault.act {
        Act::Site(what) => match &fault.at {
            Anchor::Site { site, .. } => {
                ensure!(sites::allows(site, what), "{at}: {what:?} cannot happen at {site}");
            }
            _ => return Err(Invalid(format!("{at}: a fault of a call needs a site"))),
        },
        Act::Delay { .. } => {
            ensure!(matches!(fault.at, Anchor::Point { .. }), "{at}: a delay needs a point");
        }
        Act::Crash { node, .. }
        | Act::Pause { node, .. }
        | Act::DiskFull { node, .. }
        | Act::DiskStall { node, .. }
        | Act::IsolateFromStore { node, .. } => node_exists(*node)?,
        Act::Partition { from, to, .. } => {
            ensure!(!from.is_empty() && !to.is_empty(), "{at}: a partition has two sides");
            for &node in from.iter().chain(to) {
                node_exists(node)?;
            }
            ensure!(!from.iter().any(|n| to.contains(n)), "{at}: a node is on both sides of the partition");
        }
        Act::Stall { a, b, .. } | Act::Reset { a, b } => {
            node_exists(*a)?;
            node_exists(*b)?;
            ensure!(a != b, "{at}: a node has no connection to itself");
        }
        Act::Outage { .. } | Act::ThrottleStore { .. } => {}
    }
    // A call that is held up goes on being so after the world is healed.
    let held_up_us = match &fault.act {
        Act::Site(SiteFault::Delay(us)) | Act::Delay { us } => u64::from(*us),
        _ => 0,
    };
    ensure!(held_up_us <= DELAY_MAX_US, "{at}: a delay of {held_up_us} us is longer than {DELAY_MAX_US}");
    let duration = fault.act.duration_us();
    ensure!(duration <= HORIZON_MAX_US, "{at}: {duration} us are longer than {HORIZON_MAX_US}");
    Ok(())
}

fn unknown<'a>(at: &str, what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Invalid {
    let known: Vec<&str> = known.collect();
    if known.is_empty() {
        Invalid(format!("{at}: unknown {what} `{name}`"))
    } else {
        Invalid(format!("{at}: unknown {what} `{name}` (there are {})", known.join(", ")))
    }
}

impl Act {
    /// How long it lasts; 0 for what happens at once.
    pub fn duration_us(&self) -> u64 {
        match self {
            Act::Site(_) | Act::Crash { .. } | Act::Reset { .. } => 0,
            Act::Delay { us } => u64::from(*us),
            Act::Pause { for_us, .. }
            | Act::Partition { for_us, .. }
            | Act::Stall { for_us, .. }
            | Act::DiskFull { for_us, .. }
            | Act::DiskStall { for_us, .. }
            | Act::Outage { for_us }
            | Act::ThrottleStore { for_us }
            | Act::IsolateFromStore { for_us, .. } => *for_us,
        }
    }
}

impl Fault {
    /// Its class.
    pub fn class(&self) -> FaultClass {
        let site = match &self.at {
            Anchor::Site { site, .. } => site.as_str(),
            _ => "",
        };
        FaultClass::of(site, &self.act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Knob, Role, Verb};
    use cutwater_io::sim::{CrashKind, Errno, Survivors};

    cutwater_io::points! {
        point SWAP = "manifest.swap": "a point";
    }

    fn vocabulary() -> Vocabulary {
        Vocabulary {
            roles: vec![Role::new("store", "stores", 1..=2)],
            actors: 1..=1,
            ops: 0..=9,
            verbs: vec![Verb::new("put", "writes").arg("key", 0..=7)],
            knobs: vec![Knob::new("buffer_bytes", "bytes", 4096, 1..=65_536)],
            points: ALL.to_vec(),
            classes: vec!["wal"],
            faults: vec![
                FaultClass::PowerFail,
                FaultClass::DiskError,
                FaultClass::Partition,
                FaultClass::Pause,
            ],
            horizon_us: 1..=1_000_000,
        }
    }

    fn plan() -> Plan {
        let crash = Crash { kind: CrashKind::PowerFail(Survivors::Prefix(500)), down_us: 2_000 };
        Plan {
            version: VERSION,
            scenario: "store".into(),
            seed: 7,
            schedule_seed: 1,
            key: u64::MAX,
            horizon_us: 1_000_000,
            topology: [("store".into(), 2)].into(),
            knobs: [("buffer_bytes".into(), 64)].into(),
            ops: vec![Op { id: 3, at_us: 500, actor: 0, verb: "put".into(), args: vec![5] }],
            faults: vec![
                Fault {
                    id: 0,
                    at: Anchor::Point { point: "manifest.swap".into(), node: 0, nth: 2 },
                    act: Act::Crash { node: 0, crash },
                },
                Fault {
                    id: 1,
                    at: Anchor::Site { site: "disk.write".into(), class: "wal".into(), node: 1, nth: 4 },
                    act: Act::Site(SiteFault::Fail(Errno::Eio)),
                },
                Fault {
                    id: 2,
                    at: Anchor::Op { op: 3 },
                    act: Act::Partition { from: vec![1], to: vec![2], both: true, for_us: 9 },
                },
            ],
        }
    }

    #[test]
    fn a_plan_is_a_file_that_people_can_read() {
        let plan = plan();
        assert_eq!(plan.validate(&vocabulary()), Ok(()));
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        insta::assert_snapshot!(plan.to_json());
    }

    #[test]
    fn what_is_no_plan_is_refused_in_one_line() {
        type Break = fn(&mut Plan);
        let breaks: &[Break] = &[
            |p| p.version = 9,
            |p| p.horizon_us = 0,
            |p| p.topology = [("stores".into(), 1)].into(),
            |p| p.topology = [("store".into(), 3)].into(),
            |p| p.knobs = [("buffer".into(), 1)].into(),
            |p| p.knobs = [("buffer_bytes".into(), 0)].into(),
            |p| p.ops[0].verb = "putt".into(),
            |p| p.ops[0].actor = 1,
            |p| p.ops[0].args = vec![],
            |p| p.ops[0].args = vec![8],
            |p| p.ops[0].at_us = 1_000_001,
            |p| p.ops.push(p.ops[0].clone()),
            |p| p.faults[1].id = 0,
            |p| p.faults[0].at = Anchor::Point { point: "manifest.swp".into(), node: 0, nth: 1 },
            |p| p.faults[0].at = Anchor::Point { point: "manifest.swap".into(), node: 3, nth: 1 },
            |p| p.faults[0].at = Anchor::Point { point: "manifest.swap".into(), node: 0, nth: 0 },
            |p| p.faults[0].at = Anchor::Time { at_us: 1 },
            |p| p.faults[1].at = Anchor::Op { op: 3 },
            |p| p.faults[1].act = Act::Site(SiteFault::Hang),
            |p| p.faults[1].act = Act::Delay { us: 1 },
            |p| {
                p.faults[1].at =
                    Anchor::Site { site: "disk.writ".into(), class: String::new(), node: 0, nth: 1 }
            },
            |p| {
                p.faults[1].at =
                    Anchor::Site { site: "disk.write".into(), class: "log".into(), node: 0, nth: 1 }
            },
            |p| p.faults[2].at = Anchor::Op { op: 4 },
            |p| p.faults[2].act = Act::Partition { from: vec![1], to: vec![1], both: true, for_us: 9 },
            |p| p.faults[2].act = Act::Partition { from: vec![], to: vec![1], both: true, for_us: 9 },
            |p| p.faults[2].act = Act::Outage { for_us: 9 },
            |p| p.faults[2].act = Act::Pause { node: 1, for_us: u64::MAX },
        ];
        let mut said = String::new();
        for spoil in breaks {
            let mut plan = plan();
            spoil(&mut plan);
            let invalid = plan.validate(&vocabulary()).unwrap_err().to_string();
            assert!(!invalid.contains('\n'));
            said.push_str(&invalid);
            said.push('\n');
        }
        let good = plan().to_json();
        let texts = [
            String::new(),
            "[]".into(),
            "{}".into(),
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace("\"seed\"", "\"sead\""),
            good.replace("\"Eio\"", "\"Eioo\""),
            good.replace("\"key\": 18446744073709551615", "\"key\": -1"),
        ];
        for text in texts {
            let invalid = Plan::from_json(&text).unwrap_err().to_string();
            assert!(!invalid.contains('\n'));
            said.push_str(&invalid);
            said.push('\n');
        }
        insta::assert_snapshot!(said);
    }
}
