//! Plans from seeds, and plans from bytes.
//!
//! A seed draws a *swarm* configuration: which classes of faults exist in this run (each with p = 1/2), how many of each,
//! which operations exist and how often, which knobs leave their defaults. Runs in which few things happen often find what
//! runs in which everything happens rarely do not. Half of the crashes are anchored on points of the system, where it is
//! between two durable states; the rest on calls into devices and on times. One plan in seven has no faults at all: it
//! tests the oracles.
//!
//! Every draw is keyed by what it decides, so that a new knob or verb leaves the other draws of a seed alone.
//!
//! The same code reads its choices from bytes ([`from_bytes`]), for fuzzers and property tests.

use std::ops::RangeInclusive;

use arbitrary::Unstructured;
use cutwater_io::points::Kind;
use cutwater_io::sim::{
    Crash, CrashKind, Draw, Errno, FsyncFail, Key, MetaAfterFailure, SiteFault, Survivors, ViewAfterFailure,
};

use crate::faults::{FaultClass, sites};
use crate::plan::{Act, Anchor, DELAY_MAX_US, Fault, HORIZON_MAX_US, Op, Plan, VERSION};
use crate::vocabulary::{Arg, Knob, Vocabulary};

/// Of a thousand seeds, how many have no faults.
const FAULT_FREE_PERMILLE: u64 = 150;

/// A source of choices. The lower end is the simplest choice.
trait Choose {
    /// A value in `low..=high`, each as likely.
    fn between(&mut self, low: u64, high: u64) -> u64;
    /// A value in `low..=high`, its logarithm uniform.
    fn log_between(&mut self, low: u64, high: u64) -> u64;
}

impl dyn Choose + '_ {
    /// True in `permille` of 1,000 cases; false is the simplest.
    fn chance(&mut self, permille: u64) -> bool {
        self.between(0, 999) >= 1000 - permille
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "nothing to choose from");
        &items[self.between(0, items.len() as u64 - 1) as usize]
    }

    fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.between(*range.start(), *range.end())
    }

    fn log_within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.log_between(*range.start(), *range.end())
    }
}

impl Choose for Draw {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        Draw::between(self, low, high)
    }
    fn log_between(&mut self, low: u64, high: u64) -> u64 {
        // Shifted by one, so that 0 has a logarithm.
        (self.log_uniform(low.saturating_add(1), high.saturating_add(1)) - 1).clamp(low, high)
    }
}

impl Choose for Unstructured<'_> {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        // It fails for want of bytes only; then the simplest choice stands.
        self.int_in_range(low..=high).unwrap_or(low)
    }
    fn log_between(&mut self, low: u64, high: u64) -> u64 {
        let bits = u64::from(64 - (high - low).leading_zeros());
        let bits = self.between(0, bits) as u32;
        let reach = 1u64.checked_shl(bits).map_or(u64::MAX, |power| power - 1);
        self.between(low, low.saturating_add(reach).min(high))
    }
}

/// Where choices come from: a key, with a draw of its own for each decision, or one run of bytes for all.
enum Source<'a, 'b> {
    Keyed(Key),
    Bytes(&'a mut Unstructured<'b>),
}

impl Source<'_, '_> {
    fn choose<T>(&mut self, purpose: &str, ids: &[u64], decide: impl FnOnce(&mut dyn Choose) -> T) -> T {
        match self {
            Source::Keyed(key) => decide(&mut key.draw(purpose, ids)),
            Source::Bytes(bytes) => decide(*bytes),
        }
    }
}

/// The plan that `seed` names for a scenario.
pub fn swarm(scenario: &str, vocabulary: &Vocabulary, seed: u64) -> Plan {
    let key = Key::root(seed).child(scenario, &[]);
    build(scenario, vocabulary, seed, Source::Keyed(key))
}

/// A valid plan from any bytes.
///
/// # Errors
/// None; the signature is that of `arbitrary`.
pub fn from_bytes(
    scenario: &str,
    vocabulary: &Vocabulary,
    bytes: &mut Unstructured<'_>,
) -> arbitrary::Result<Plan> {
    Ok(build(scenario, vocabulary, 0, Source::Bytes(bytes)))
}

fn build(scenario: &str, vocabulary: &Vocabulary, seed: u64, mut source: Source<'_, '_>) -> Plan {
    let mut plan = Plan {
        version: VERSION,
        scenario: scenario.into(),
        seed,
        schedule_seed: source.choose("schedule", &[], |c| c.between(0, u64::MAX)),
        key: source.choose("key", &[], |c| c.between(0, u64::MAX)),
        horizon_us: source
            .choose("horizon", &[], |c| c.log_within(&vocabulary.horizon_us))
            .clamp(1, HORIZON_MAX_US),
        topology: Default::default(),
        knobs: Default::default(),
        ops: Vec::new(),
        faults: Vec::new(),
    };
    for (i, role) in vocabulary.roles.iter().enumerate() {
        let count = source.choose("role", &[i as u64], |c| c.within(&role.count));
        plan.topology.insert(role.name.into(), count);
    }
    for knob in vocabulary.knobs.iter().filter(|knob| !knob.pinned) {
        let value = source.choose(&format!("knob.{}", knob.name), &[], |c| knob_value(knob, c));
        plan.knobs.insert(knob.name.into(), value);
    }
    add_ops(&mut plan, vocabulary, &mut source);
    let fault_free = source.choose("fault-free", &[], |c| !c.chance(1000 - FAULT_FREE_PERMILLE));
    if !fault_free {
        add_faults(&mut plan, vocabulary, &mut source);
    }
    plan
}

fn knob_value(knob: &Knob, c: &mut dyn Choose) -> u64 {
    if !c.chance(500) {
        return knob.default;
    }
    match c.between(0, 3) {
        0 => *knob.range.start(),
        1 => *knob.range.end(),
        _ => c.log_within(&knob.range),
    }
}

fn add_ops(plan: &mut Plan, vocabulary: &Vocabulary, source: &mut Source<'_, '_>) {
    if vocabulary.verbs.is_empty() {
        return;
    }
    let actors = source.choose("actors", &[], |c| c.within(&vocabulary.actors)).max(1);
    let count = source.choose("ops", &[], |c| c.log_within(&vocabulary.ops));
    let mut weights: Vec<u64> = vocabulary
        .verbs
        .iter()
        .map(|verb| {
            source.choose(&format!("weight.{}", verb.name), &[], |c| {
                if verb.always || !c.chance(300) { c.log_between(1, 100) } else { 0 }
            })
        })
        .collect();
    if weights.iter().all(|&weight| weight == 0) {
        weights[0] = 1;
    }
    for i in 0..count {
        let op = source.choose("op", &[i], |c| {
            let verb = &vocabulary.verbs[weighted(&weights, c)];
            Op {
                id: i as u32,
                at_us: c.between(0, plan.horizon_us),
                actor: c.between(0, actors - 1) as u16,
                verb: verb.name.into(),
                args: verb.args.iter().map(|arg| arg_value(arg, c)).collect(),
            }
        });
        plan.ops.push(op);
    }
    plan.ops.sort_by_key(|op| (op.at_us, op.id));
}

fn weighted(weights: &[u64], c: &mut dyn Choose) -> usize {
    let mut at = c.between(0, weights.iter().sum::<u64>() - 1);
    for (i, &weight) in weights.iter().enumerate() {
        if at < weight {
            return i;
        }
        at -= weight;
    }
    unreachable!("the draw is below the sum of the weights")
}

fn arg_value(arg: &Arg, c: &mut dyn Choose) -> u64 {
    if arg.log { c.log_within(&arg.range) } else { c.within(&arg.range) }
}

/// What faults are drawn for: the parts of a plan that they refer to.
struct Frame<'a> {
    vocabulary: &'a Vocabulary,
    points: Vec<&'static str>,
    nodes: u64,
    horizon_us: u64,
    ops: Vec<u32>,
}

fn add_faults(plan: &mut Plan, vocabulary: &Vocabulary, source: &mut Source<'_, '_>) {
    let frame = Frame {
        vocabulary,
        points: vocabulary.points.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect(),
        nodes: plan.node_count(vocabulary),
        horizon_us: plan.horizon_us,
        ops: plan.ops.iter().map(|op| op.id).collect(),
    };
    if frame.nodes == 0 {
        return;
    }
    for &class in &vocabulary.faults {
        let count = source.choose(class.name(), &[], |c| if c.chance(500) { c.log_between(1, 6) } else { 0 });
        for i in 0..count {
            if let Some((at, act)) = source.choose(class.name(), &[1, i], |c| frame.fault(class, c)) {
                plan.faults.push(Fault { id: plan.faults.len() as u32, at, act });
            }
        }
    }
}

impl Frame<'_> {
    /// A fault of this class, if these nodes can have one.
    fn fault(&self, class: FaultClass, c: &mut dyn Choose) -> Option<(Anchor, Act)> {
        use FaultClass as F;
        match class {
            F::ProcessKill | F::PowerFail => Some(self.crash(class, c)),
            F::DiskError => {
                let fault = c
                    .pick(&[SiteFault::Fail(Errno::Eio), SiteFault::Fail(Errno::Eintr), SiteFault::Short])
                    .clone();
                Some(self.at_site(fault, c))
            }
            F::DiskFull if c.chance(500) => Some(self.at_site(SiteFault::Fail(Errno::Enospc), c)),
            F::DiskFull => Some(self.state(c, |node, for_us| Act::DiskFull { node, for_us })),
            F::FsyncFailure => {
                let view = *c.pick(&[ViewAfterFailure::KeepNew, ViewAfterFailure::RevertOld]);
                let meta = *c.pick(&[MetaAfterFailure::CommitSize, MetaAfterFailure::NoSize]);
                Some(self.at_site(SiteFault::Fsync(FsyncFail { view, meta }), c))
            }
            F::DiskSlow if c.chance(500) => {
                let us = self.delay(c);
                Some(self.at_sites_of("disk.", SiteFault::Delay(us), c))
            }
            F::DiskSlow => Some(self.state(c, |node, for_us| Act::DiskStall { node, for_us })),
            F::Partition => self.partition(true, c),
            F::PartitionOneWay => self.partition(false, c),
            F::NetStall => self.pair(c, |a, b, for_us| Act::Stall { a, b, for_us }),
            F::NetReset if self.nodes < 2 || c.chance(500) => Some(self.at_site(SiteFault::Reset, c)),
            F::NetReset => self.pair(c, |a, b, _| Act::Reset { a, b }),
            F::ConnectHang => Some(self.at_site(SiteFault::Hang, c)),
            F::Pause if c.chance(500) && !self.points.is_empty() => {
                let us = self.delay(c);
                Some((self.at_point(c), Act::Delay { us }))
            }
            F::Pause => Some(self.state(c, |node, for_us| Act::Pause { node, for_us })),
            F::StoreFailBefore => Some(self.at_site(SiteFault::FailBefore, c)),
            F::StoreFailAfter => Some(self.at_site(SiteFault::FailAfter, c)),
            F::StoreLateLanding => {
                let us = self.duration(c) as u32;
                Some(self.at_site(SiteFault::LateLand(us), c))
            }
            F::StoreThrottle if c.chance(500) => Some(self.at_site(SiteFault::Throttle, c)),
            F::StoreThrottle => Some(self.state(c, |_, for_us| Act::ThrottleStore { for_us })),
            F::StoreOutage => Some(self.state(c, |_, for_us| Act::Outage { for_us })),
            F::StoreIsolation => Some(self.state(c, |node, for_us| Act::IsolateFromStore { node, for_us })),
        }
    }

    /// A crash: half of them at points, a quarter at calls that change something durable, a quarter at times.
    fn crash(&self, class: FaultClass, c: &mut dyn Choose) -> (Anchor, Act) {
        let kind = match class {
            FaultClass::ProcessKill => CrashKind::ProcessKill,
            _ => CrashKind::PowerFail(survivors(c)),
        };
        let crash = Crash { kind, down_us: self.duration(c) as u32 };
        match c.between(0, 3) {
            0 => (self.at_time(c), Act::Crash { node: self.some_node(c), crash }),
            1 => {
                let fault =
                    if c.chance(500) { SiteFault::CrashAfter(crash) } else { SiteFault::CrashBefore(crash) };
                let with_store = self.vocabulary.faults.iter().any(|f| f.name().starts_with("store_"));
                let stores =
                    if with_store && c.chance(300) { sites::STORE_CHANGES } else { sites::DISK_CHANGES };
                let site = *c.pick(stores);
                (self.site(site, c), Act::Site(fault))
            }
            _ if self.points.is_empty() => (self.at_time(c), Act::Crash { node: self.some_node(c), crash }),
            _ => (self.at_point(c), Act::Crash { node: 0, crash }),
        }
    }

    /// A state that lasts: anchored to a time, a point, or an operation.
    fn state(&self, c: &mut dyn Choose, act: impl FnOnce(u64, u64) -> Act) -> (Anchor, Act) {
        let for_us = self.duration(c);
        let at = self.moment(c);
        let passing = matches!(at, Anchor::Point { .. });
        let node = if passing && c.chance(500) { 0 } else { self.some_node(c) };
        (at, act(node, for_us))
    }

    fn partition(&self, both: bool, c: &mut dyn Choose) -> Option<(Anchor, Act)> {
        if self.nodes < 2 {
            return None;
        }
        let for_us = self.duration(c);
        let (mut from, mut to): (Vec<u64>, Vec<u64>) = (1..=self.nodes).partition(|_| c.chance(500));
        // Nobody is cut off from nobody: then the last changes over.
        if to.is_empty() {
            to.extend(from.pop());
        } else if from.is_empty() {
            from.extend(to.pop());
        }
        Some((self.moment(c), Act::Partition { from, to, both, for_us }))
    }

    fn pair(&self, c: &mut dyn Choose, act: impl FnOnce(u64, u64, u64) -> Act) -> Option<(Anchor, Act)> {
        if self.nodes < 2 {
            return None;
        }
        let for_us = self.duration(c);
        let a = self.some_node(c);
        let b = (a + c.between(0, self.nodes - 2)) % self.nodes + 1;
        Some((self.moment(c), act(a, b, for_us)))
    }

    fn at_site(&self, fault: SiteFault, c: &mut dyn Choose) -> (Anchor, Act) {
        self.at_sites_of("", fault, c)
    }

    fn at_sites_of(&self, prefix: &str, fault: SiteFault, c: &mut dyn Choose) -> (Anchor, Act) {
        let places: Vec<&str> = sites::ALL
            .iter()
            .copied()
            .filter(|site| site.starts_with(prefix) && sites::allows(site, &fault))
            .collect();
        let site = *c.pick(&places);
        (self.site(site, c), Act::Site(fault))
    }

    fn site(&self, site: &str, c: &mut dyn Choose) -> Anchor {
        let classes = &self.vocabulary.classes;
        // The network has addresses, not files: no class of the system's tells them apart.
        let any = classes.is_empty() || site.starts_with("net.") || c.chance(500);
        let class = if any { String::new() } else { (*c.pick(classes)).into() };
        let reach = if any { 200 } else { 40 };
        Anchor::Site { site: site.into(), class, node: self.any_node(c), nth: c.log_between(1, reach) as u32 }
    }

    fn at_point(&self, c: &mut dyn Choose) -> Anchor {
        let point = (*c.pick(&self.points)).into();
        Anchor::Point { point, node: self.any_node(c), nth: c.log_between(1, 12) as u32 }
    }

    fn at_time(&self, c: &mut dyn Choose) -> Anchor {
        Anchor::Time { at_us: c.between(0, self.horizon_us) }
    }

    fn moment(&self, c: &mut dyn Choose) -> Anchor {
        match c.between(0, 3) {
            1 if !self.points.is_empty() => self.at_point(c),
            2 if !self.ops.is_empty() => Anchor::Op { op: *c.pick(&self.ops) },
            _ => self.at_time(c),
        }
    }

    fn some_node(&self, c: &mut dyn Choose) -> u64 {
        c.between(1, self.nodes)
    }

    /// A node, or as often any.
    fn any_node(&self, c: &mut dyn Choose) -> u64 {
        if c.chance(500) { self.some_node(c) } else { 0 }
    }

    /// How long one call is held up.
    fn delay(&self, c: &mut dyn Choose) -> u32 {
        self.duration(c).min(DELAY_MAX_US) as u32
    }

    /// Mostly short: from a millisecond to a quarter of the horizon.
    fn duration(&self, c: &mut dyn Choose) -> u64 {
        c.log_between(1_000, (self.horizon_us / 4).clamp(1_000, 4_000_000_000))
    }
}

fn survivors(c: &mut dyn Choose) -> Survivors {
    match c.between(0, 5) {
        0 => Survivors::None,
        1 => Survivors::All,
        2 => Survivors::Prefix(c.between(0, 1000) as u16),
        3 => Survivors::AllBut(c.between(0, u64::from(u16::MAX)) as u16),
        4 => Survivors::Only(c.between(0, u64::from(u16::MAX)) as u16),
        _ => Survivors::Each {
            permille: c.between(50, 950) as u16,
            key: c.between(0, u64::from(u32::MAX)) as u32,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Role, Verb};
    use proptest::prelude::*;

    cutwater_io::points! {
        point ONE = "test.one": "a point";
        sometimes SOME = "test.some": "a condition";
    }

    pub(crate) fn vocabulary() -> Vocabulary {
        Vocabulary {
            roles: vec![Role::new("coordinator", "leads", 1..=2), Role::new("worker", "works", 0..=3)],
            actors: 1..=3,
            ops: 0..=50,
            verbs: vec![
                Verb::new("put", "writes").arg("key", 0..=7).log_arg("len_bytes", 0..=100_000).always(),
                Verb::new("sync", "syncs"),
            ],
            knobs: vec![
                Knob::new("buffer_bytes", "bytes", 4096, 0..=u64::MAX),
                Knob::new("broken", "a planted bug", 0, 0..=1).pinned(),
            ],
            points: ALL.to_vec(),
            classes: vec!["wal", "table"],
            faults: FaultClass::ALL.to_vec(),
            horizon_us: 10_000..=60_000_000,
        }
    }

    #[test]
    fn a_seed_always_names_the_same_plan_and_another_another() {
        let v = vocabulary();
        for seed in 0..200 {
            let plan = swarm("s", &v, seed);
            assert_eq!(plan.validate(&v), Ok(()), "seed {seed}");
            assert_eq!(plan, swarm("s", &v, seed));
            assert_ne!(plan.id(), swarm("s", &v, seed + 1).id());
            assert!(!plan.knobs.contains_key("broken"), "a pinned knob stays");
        }
    }

    #[test]
    fn seeds_differ_in_what_exists() {
        let v = vocabulary();
        let plans: Vec<Plan> = (0..2000).map(|seed| swarm("s", &v, seed)).collect();
        let free = plans.iter().filter(|p| p.faults.is_empty()).count();
        assert!((200..400).contains(&free), "{free} of 2000 have no faults");
        let mut points = 0;
        let mut crashes = 0;
        for class in FaultClass::ALL {
            let with = plans.iter().filter(|p| p.faults.iter().any(|f| f.class() == *class)).count();
            assert!((600..1100).contains(&with), "{with} of 2000 have {}", class.name());
        }
        for fault in plans.iter().flat_map(|p| &p.faults) {
            if matches!(fault.class(), FaultClass::ProcessKill | FaultClass::PowerFail) {
                crashes += 1;
                points += usize::from(matches!(fault.at, Anchor::Point { .. }));
            }
        }
        let share = points * 100 / crashes;
        assert!((45..=55).contains(&share), "{share} % of the crashes are at points");
        let without_sync = plans.iter().filter(|p| p.ops.iter().all(|op| op.verb == "put")).count();
        assert!(without_sync > 400, "an operation is off in {without_sync} of 2000");
    }

    /// What a new knob draws leaves everything else of a seed as it was.
    #[test]
    fn draws_are_keyed() {
        let (before, mut more) = (vocabulary(), vocabulary());
        more.knobs.insert(0, Knob::new("new", "a new one", 1, 0..=9));
        for seed in 0..50 {
            let (a, mut b) = (swarm("s", &before, seed), swarm("s", &more, seed));
            b.knobs.remove("new");
            assert_eq!(a, b);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_valid_plan(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let v = vocabulary();
            let plan = Plan::arbitrary("s", &v, &mut Unstructured::new(&bytes)).unwrap();
            prop_assert_eq!(plan.validate(&v), Ok(()));
            prop_assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        }
    }
}
