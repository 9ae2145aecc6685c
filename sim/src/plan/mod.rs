//! A plan: everything that decides a run, as data.
//!
//! A seed only names a plan. The plan is what is run, kept, replayed and checked in, as one JSON file. Nothing in
//! it is relative to anything that another part of the plan may move: operations have absolute not-before times and
//! explicit arguments, a fault is tied to a time, to an operation, or to the n-th passing of a place, and says exactly what
//! happens there. So taking one item out leaves the meaning of the rest alone.
//!
//! A plan read from a file is hostile until [`Plan::validate`] has held it against the scenario's [`Vocabulary`].

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::generate;
use crate::vocabulary::Vocabulary;

mod fault;
mod file;
mod validate;

pub use fault::{Act, Anchor, Fault};
pub(crate) use file::read_file;

/// The version of plans that this build reads and writes.
pub const VERSION: u32 = 1;
/// The longest horizon of a plan, in microseconds: an hour.
pub const HORIZON_MAX_US: u64 = 3_600_000_000;
/// The longest that a fault may hold up one call or one task, in microseconds.
pub const DELAY_MAX_US: u64 = 20_000_000;
/// How many times slower a link or a node may become.
pub const SLOW_FACTORS: std::ops::RangeInclusive<u32> = 2..=1000;
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
    /// Sites of `buggify!` that may fire, in order of name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buggify: Vec<String>,
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

/// Why something is not a plan: one line that says what and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

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
        serde_json::from_str(text).map_err(|e| match second_name(text, &e) {
            Some(name) => {
                let (line, column) = (e.line(), e.column());
                Invalid(format!("malformed plan: unknown field `{name}` at line {line} column {column}"))
            }
            None => Invalid(format!("malformed plan: {e}")),
        })
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

    /// How many nodes the roles have together; they are numbered from 1 in the order of the vocabulary's roles.
    pub fn node_count(&self, vocabulary: &Vocabulary) -> u64 {
        vocabulary.roles.iter().map(|role| self.count(role)).sum()
    }

    /// How many nodes of `role` there are.
    pub fn count(&self, role: &crate::vocabulary::Role) -> u64 {
        self.topology.get(role.name).copied().unwrap_or(*role.count.start())
    }
}

/// The name of the field at which reading stopped, if that was because a choice (an anchor, an act, ...) has more names than
/// its own: of those serde says only where they stand.
fn second_name<'a>(text: &'a str, error: &serde_json::Error) -> Option<&'a str> {
    if !error.is_syntax() {
        return None;
    }
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    let from = line.as_ptr().addr() - text.as_ptr().addr() + error.column();
    let name = text.get(from..)?.strip_prefix(',')?.trim_start().strip_prefix('"')?;
    let (name, rest) = name.split_once('"')?;
    rest.trim_start().starts_with(':').then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::FaultClass;
    use crate::vocabulary::{Knob, Role, Verb};
    use cutwater_io::sim::{Crash, CrashKind, Errno, SiteFault, Survivors, SyncEnd};

    cutwater_io::points! {
        point SWAP = "manifest.swap": "a point";
        buggify EARLY = "store.early": "a choice";
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
                FaultClass::SlowLink,
                FaultClass::Swizzle,
                FaultClass::ClockDrift,
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
            buggify: vec!["store.early".into()],
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

    fn power_fails(survivors: Survivors, down_us: u32) -> Act {
        Act::Crash { node: 0, crash: Crash { kind: CrashKind::PowerFail(survivors), down_us } }
    }

    #[test]
    fn the_network_has_sites_where_it_has_faults() {
        let (mut words, mut plan) = (vocabulary(), plan());
        plan.faults.truncate(1);
        plan.faults[0].at = Anchor::Site { site: "net.send".into(), class: String::new(), node: 0, nth: 1 };
        assert_eq!(plan.validate(&words), Ok(()));
        words.faults.retain(|class| !FaultClass::OF_NETWORK.contains(class));
        let refused = plan.validate(&words).unwrap_err().to_string();
        assert_eq!(
            refused,
            "faults[0]: nothing strikes at net.send: the scenario has no faults of a network"
        );
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
            |p| p.buggify = vec!["store.late".into()],
            |p| p.buggify = vec!["store.early".into(); 2],
            |p| p.ops[0].verb = "putt".into(),
            |p| p.ops[0].actor = 1,
            |p| p.ops[0].args = vec![],
            |p| p.ops[0].args = vec![8],
            |p| p.ops[0].at_us = 1_000_001,
            |p| p.ops.push(p.ops[0].clone()),
            |p| p.faults[1].id = 0,
            |p| p.faults[0].at = Anchor::Point { point: "manifest.swp".into(), node: 0, nth: 1 },
            |p| p.faults[0].at = Anchor::Point { point: "store.early".into(), node: 0, nth: 1 },
            |p| {
                let (point, site) = ("store.early".into(), "disk.sync".into());
                p.faults[0].at = Anchor::After { point, node: 0, nth: 1, site, class: String::new() };
            },
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
            |p| {
                let (site, class) = ("objects.put".into(), String::new());
                p.faults[0].at = Anchor::Site { site, class, node: 0, nth: 1 };
            },
            |p| p.faults[0].act = power_fails(Survivors::Prefix(1001), 0),
            |p| p.faults[0].act = power_fails(Survivors::Each { permille: 5000, key: 1 }, 0),
            |p| {
                let rest = Box::new(Survivors::Prefix(1001));
                p.faults[0].act = power_fails(Survivors::MidSync { end: SyncEnd::Garbage(1), rest }, 0);
            },
            |p| p.faults[0].act = power_fails(Survivors::None, u32::MAX),
            |p| {
                let of = |rest| Survivors::MidSync { end: SyncEnd::Garbage(1), rest: Box::new(rest) };
                p.faults[0].act = power_fails(of(of(Survivors::None)), 0);
            },
            |p| p.faults[2].at = Anchor::Op { op: 4 },
            |p| p.faults[2].act = Act::Partition { from: vec![1], to: vec![1], both: true, for_us: 9 },
            |p| p.faults[2].act = Act::Partition { from: vec![], to: vec![1], both: true, for_us: 9 },
            |p| p.faults[2].act = Act::Swizzle { nodes: vec![2, 2], for_us: 9 },
            |p| p.faults[2].act = Act::Swizzle { nodes: vec![], for_us: 9 },
            |p| p.faults[2].act = Act::SlowLink { a: 1, b: 2, factor: 1, for_us: 9 },
            |p| p.faults[2].act = Act::SlowLink { a: 1, b: 1, factor: 2, for_us: 9 },
            |p| p.faults[2].act = Act::ClockDrift { node: 1, ppm: -500_001, for_us: 9 },
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
            good.replace("\"down_us\"", "\"up_us\": 1, \"down_us\""),
            good.replace("\"Fail\": \"Eio\"", "\"Fail\": \"Eio\", \"at\": \"once\""),
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
