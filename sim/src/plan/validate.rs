//! Holds a plan against what its scenario can do. A plan read from a file is hostile until this has passed it.

use std::collections::BTreeSet;

use cutwater_io::points::Kind;
use cutwater_io::sim::clock::DRIFT_PPM_MAX;
use cutwater_io::sim::{Crash, CrashKind, Damage, SiteFault, Survivors};

use super::{
    Act, Anchor, DELAY_MAX_US, Fault, HORIZON_MAX_US, ITEMS_MAX, Invalid, Plan, SLOW_FACTORS, VERSION,
};
use crate::faults::sites;
use crate::vocabulary::Vocabulary;

/// The most by which a plan may slow a disk down.
const SLOWNESS_MAX: u32 = 1000;
/// All of what may survive a power failure, in parts per thousand.
const ALL_PERMILLE: u16 = 1000;

macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(Invalid(format!($($message)*)));
        }
    };
}

impl Plan {
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
        for name in &self.buggify {
            let known = || vocabulary.points.iter().filter(|p| p.kind == Kind::Buggify).map(|p| p.name);
            if !known().any(|site| site == name) {
                return Err(unknown("buggify", "site", name, known()));
            }
        }
        ensure!(self.buggify.is_sorted_by(|a, b| a < b), "buggify: names are in order, each once");
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
            validate_act(&at, fault, vocabulary, nodes)?;
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
                validate_point(at, point, vocabulary)?;
                validate_count(at, *node, *nth, nodes)?;
            }
            Anchor::Site { site, class, node, nth } => {
                validate_site(at, site, class, vocabulary)?;
                validate_count(at, *node, *nth, nodes)?;
            }
            Anchor::After { point, node, nth, site, class } => {
                validate_point(at, point, vocabulary)?;
                validate_site(at, site, class, vocabulary)?;
                validate_count(at, *node, *nth, nodes)?;
            }
        }
        Ok(())
    }
}

fn validate_point(at: &str, point: &str, vocabulary: &Vocabulary) -> Result<(), Invalid> {
    let Some(known) = vocabulary.points.iter().find(|p| p.name == point) else {
        return Err(unknown(at, "point", point, std::iter::empty()));
    };
    let kind = known.kind.name();
    ensure!(known.kind == Kind::Point, "{at}: `{point}` is a {kind}, not a point: nothing strikes there");
    Ok(())
}

fn validate_site(at: &str, site: &str, class: &str, vocabulary: &Vocabulary) -> Result<(), Invalid> {
    if !sites::ALL.contains(&site) {
        return Err(unknown(at, "site", site, sites::ALL.iter().copied()));
    }
    ensure!(
        vocabulary.has_site(site),
        "{at}: nothing strikes at {site}: the scenario has no faults of {}",
        if site.starts_with("net.") { "a network" } else { "an object store" }
    );
    ensure!(
        class.is_empty() || vocabulary.classes.contains(&class),
        "{at}: unknown class `{class}` (there are {})",
        vocabulary.classes.join(", ")
    );
    Ok(())
}

fn validate_crash(at: &str, crash: &Crash) -> Result<(), Invalid> {
    let down_us = u64::from(crash.down_us);
    ensure!(down_us <= HORIZON_MAX_US, "{at}: down_us: {down_us} us are longer than {HORIZON_MAX_US}");
    let mut survivors = match &crash.kind {
        CrashKind::PowerFail(survivors) => survivors,
        CrashKind::ProcessKill => return Ok(()),
    };
    if let Survivors::MidSync { rest, .. } = survivors {
        survivors = rest;
        let nested = matches!(survivors, Survivors::MidSync { .. });
        ensure!(!nested, "{at}: a sync under way comes to one end, not to several");
    }
    if let Survivors::Prefix(permille) | Survivors::Each { permille, .. } = survivors {
        ensure!(
            *permille <= ALL_PERMILLE,
            "{at}: of what was not synced {permille} permille survive, more than {ALL_PERMILLE}"
        );
    }
    Ok(())
}

fn validate_count(at: &str, node: u64, nth: u32, nodes: u64) -> Result<(), Invalid> {
    ensure!(nth > 0, "{at}: nth counts from 1");
    ensure!(node <= nodes, "{at}: there is no node {node}, only {nodes}");
    Ok(())
}

fn validate_act(at: &str, fault: &Fault, vocabulary: &Vocabulary, nodes: u64) -> Result<(), Invalid> {
    let passing = matches!(fault.at, Anchor::Point { .. } | Anchor::Site { .. } | Anchor::After { .. });
    let node_exists = |node: u64| {
        ensure!(node <= nodes, "{at}: there is no node {node}, only {nodes}");
        ensure!(node > 0 || passing, "{at}: node 0 (the one that passed) needs a point or a site");
        Ok(())
    };
    match &fault.act {
        Act::Site(what) => match &fault.at {
            Anchor::Site { site, .. } | Anchor::After { site, .. } => {
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
        | Act::ExpireCredentials { node, .. }
        | Act::ClockJump { node, .. }
        | Act::IsolateFromStore { node, .. } => node_exists(*node)?,
        Act::DiskSlow { node, factor, .. } => {
            node_exists(*node)?;
            ensure!(
                (1..=SLOWNESS_MAX).contains(factor),
                "{at}: factor {factor} is not in 1..={SLOWNESS_MAX}"
            );
        }
        Act::Rot { node, class, damage, .. } => {
            node_exists(*node)?;
            ensure!(
                class.is_empty() || vocabulary.classes.contains(&class.as_str()),
                "{at}: unknown class `{class}` (there are {})",
                vocabulary.classes.join(", ")
            );
            ensure!(
                matches!(damage, Damage::Eio | Damage::BitRot { .. }),
                "{at}: {damage:?} cannot happen to what is at rest"
            );
        }
        Act::SlowNode { node, factor, .. } => {
            node_exists(*node)?;
            ensure!(SLOW_FACTORS.contains(factor), "{at}: the factor {factor} is not in {SLOW_FACTORS:?}");
        }
        Act::ClockDrift { node, ppm, .. } => {
            node_exists(*node)?;
            ensure!(
                ppm.unsigned_abs() <= DRIFT_PPM_MAX.unsigned_abs(),
                "{at}: a drift of {ppm} ppm is more than {DRIFT_PPM_MAX}"
            );
        }
        Act::Swizzle { nodes: cut_off, .. } => {
            ensure!(!cut_off.is_empty(), "{at}: nobody is cut off");
            for &node in cut_off {
                node_exists(node)?;
            }
            let distinct: BTreeSet<u64> = cut_off.iter().copied().collect();
            ensure!(distinct.len() == cut_off.len(), "{at}: a node is cut off twice");
        }
        Act::Partition { from, to, .. } => {
            ensure!(!from.is_empty() && !to.is_empty(), "{at}: a partition has two sides");
            for &node in from.iter().chain(to) {
                node_exists(node)?;
            }
            ensure!(!from.iter().any(|n| to.contains(n)), "{at}: a node is on both sides of the partition");
        }
        Act::Stall { a, b, .. }
        | Act::Reset { a, b }
        | Act::SlowLink { a, b, .. }
        | Act::HalfOpen { believes: a, forgets: b } => {
            node_exists(*a)?;
            node_exists(*b)?;
            ensure!(a != b, "{at}: a node has no connection to itself");
            if let Act::SlowLink { factor, .. } = &fault.act {
                ensure!(
                    SLOW_FACTORS.contains(factor),
                    "{at}: the factor {factor} is not in {SLOW_FACTORS:?}"
                );
            }
        }
        Act::Outage { .. } | Act::ThrottleStore { .. } => {}
    }
    fault.act.crash().map_or(Ok(()), |crash| validate_crash(at, crash))?;
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
