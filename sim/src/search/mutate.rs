//! A plan that differs a little from one that reached something new.
//!
//! A mutant takes one to four steps from its parent. Each step is valid by construction: it draws only from the
//! vocabulary, from plans that were valid, and from what the parent's run was seen to do. A fault that was anchored to an
//! operation which is gone strikes at the time at which that was due.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::points::Kind;
use cutwater_io::sim::{CrashKind, Draw};

use super::coverage::Coverage;
use crate::faults::{FaultClass, sites};
use crate::generate::faults as swarm;
use crate::plan::{Act, Anchor, Fault, Op, Plan};
use crate::vocabulary::Vocabulary;

/// A mutant takes up to this many steps.
const STEPS_MAX: u64 = 4;
/// A plan with so many faults gets no more of them.
const FAULTS_MAX: usize = 64;

/// What a mutant is made from.
pub struct Material<'a> {
    /// The words of the scenario.
    pub vocabulary: &'a Vocabulary,
    /// What the parent's run did.
    pub reached: &'a Coverage,
    /// Another plan that reached something new.
    pub other: &'a Plan,
}

/// A mutant of `parent`.
pub fn mutant(parent: &Plan, material: &Material<'_>, draw: &mut Draw) -> Plan {
    let mut plan = parent.clone();
    for _ in 0..draw.between(1, STEPS_MAX) {
        step(&mut plan, material, draw);
    }
    if plan == *parent {
        plan.schedule_seed = draw.u64();
    }
    plan
}

fn step(plan: &mut Plan, material: &Material<'_>, draw: &mut Draw) {
    let vocabulary = material.vocabulary;
    match draw.below(16) {
        0 | 1 => splice_ops(plan, material.other, vocabulary, draw),
        2 => splice_faults(plan, material.other, vocabulary),
        3..=6 => with_fault(plan, draw, |plan, i, draw| move_fault(plan, i, vocabulary, draw)),
        7 => with_fault(plan, draw, |plan, i, draw| duplicate(plan, i, vocabulary, draw)),
        8 => with_fault(plan, draw, |plan, i, _| drop(plan.faults.remove(i))),
        9 | 10 => change_crash(plan, draw),
        11 => set_knob(plan, vocabulary, draw),
        12 => plan.schedule_seed = draw.u64(),
        13 => plan.key = draw.u64(),
        _ => insert_fault(plan, material, draw),
    }
}

fn with_fault(plan: &mut Plan, draw: &mut Draw, change: impl FnOnce(&mut Plan, usize, &mut Draw)) {
    if !plan.faults.is_empty() {
        let i = draw.below(plan.faults.len() as u64) as usize;
        change(plan, i, draw);
    }
}

fn push(plan: &mut Plan, at: Anchor, act: Act) {
    if plan.faults.len() < FAULTS_MAX {
        let id = plan.faults.iter().map(|fault| fault.id).max().map_or(0, |id| id.saturating_add(1));
        if plan.faults.iter().all(|fault| fault.id != id) {
            plan.faults.push(Fault { id, at, act });
        }
    }
}

/// Puts a stretch of time of `other` in the place of the same stretch.
fn splice_ops(plan: &mut Plan, other: &Plan, vocabulary: &Vocabulary, draw: &mut Draw) {
    let (a, b) = (draw.between(0, plan.horizon_us), draw.between(0, plan.horizon_us));
    let stretch = a.min(b)..=a.max(b);
    let (gone, mut ops): (Vec<Op>, Vec<Op>) =
        std::mem::take(&mut plan.ops).into_iter().partition(|op| stretch.contains(&op.at_us));
    let room = (*vocabulary.ops.end() as usize).saturating_sub(ops.len());
    let taken: BTreeSet<u32> = ops.iter().map(|op| op.id).collect();
    let mut free = (0..).filter(|id| !taken.contains(id));
    let new = other.ops.iter().filter(|op| stretch.contains(&op.at_us)).take(room);
    // Ids below the count of all operations are enough, so the iterator cannot run dry.
    let new: Vec<Op> = new.zip(free.by_ref()).map(|(op, id)| Op { id, ..op.clone() }).collect();
    ops.extend(new);
    ops.sort_by_key(|op| (op.at_us, op.id));
    plan.ops = ops;
    let due: BTreeMap<u32, u64> = gone.iter().map(|op| (op.id, op.at_us)).collect();
    for fault in &mut plan.faults {
        if let Anchor::Op { op } = fault.at
            && let Some(&at_us) = due.get(&op)
        {
            fault.at = Anchor::Time { at_us };
        }
    }
}

/// Takes over the faults of `other` as far as they fit: nodes, operations and the horizon may be others.
fn splice_faults(plan: &mut Plan, other: &Plan, vocabulary: &Vocabulary) {
    for fault in &other.faults {
        let mut with = plan.clone();
        push(&mut with, fault.at.clone(), fault.act.clone());
        if with.validate(vocabulary).is_ok() {
            *plan = with;
        }
    }
}

/// One more or one less, never below `low`.
fn beside(n: u64, low: u64, high: u64, draw: &mut Draw) -> u64 {
    if draw.chance(500) { n.saturating_add(1).min(high) } else { n.saturating_sub(1).max(low) }
}

fn nth_beside(nth: u32, draw: &mut Draw) -> u32 {
    beside(u64::from(nth), 1, u64::from(u32::MAX), draw) as u32
}

/// Moves a fault to the passing, point, call, operation or time beside it.
fn move_fault(plan: &mut Plan, i: usize, vocabulary: &Vocabulary, draw: &mut Draw) {
    let Fault { at, act, .. } = &mut plan.faults[i];
    match at {
        Anchor::Time { at_us } => {
            let by = draw.log_uniform(1, plan.horizon_us.max(2));
            *at_us = if draw.chance(500) { at_us.saturating_add(by) } else { at_us.saturating_sub(by) }
                .min(plan.horizon_us);
        }
        Anchor::Op { op } => {
            let here = plan.ops.iter().position(|o| o.id == *op).unwrap_or_default() as u64;
            let there = beside(here, 0, (plan.ops.len() as u64).saturating_sub(1), draw);
            if let Some(beside) = plan.ops.get(there as usize) {
                *op = beside.id;
            }
        }
        Anchor::Point { point, nth, .. } => {
            if draw.chance(500) {
                *nth = nth_beside(*nth, draw);
            } else {
                *point = point_beside(point, vocabulary, draw);
            }
        }
        Anchor::Site { site, class, nth, .. } => match draw.below(3) {
            0 => *nth = nth_beside(*nth, draw),
            1 => change_site(site, class, act, vocabulary, draw),
            _ => change_class(site, class, vocabulary, draw),
        },
        Anchor::After { point, nth, site, class, .. } => match draw.below(4) {
            0 => *nth = nth_beside(*nth, draw),
            1 => *point = point_beside(point, vocabulary, draw),
            2 => change_site(site, class, act, vocabulary, draw),
            _ => change_class(site, class, vocabulary, draw),
        },
    }
}

fn points(vocabulary: &Vocabulary) -> Vec<&'static str> {
    vocabulary.points.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect()
}

fn point_beside(point: &str, vocabulary: &Vocabulary, draw: &mut Draw) -> String {
    let points = points(vocabulary);
    let here = points.iter().position(|p| *p == point).unwrap_or_default() as u64;
    let there = beside(here, 0, (points.len() as u64).saturating_sub(1), draw);
    points.get(there as usize).map_or(point, |p| p).to_string()
}

/// Another call at which the same can happen, in the same class of faults.
fn change_site(site: &mut String, class: &mut String, act: &Act, vocabulary: &Vocabulary, draw: &mut Draw) {
    let same_class = FaultClass::of(site, act);
    let allowed = |name: &str| match act {
        Act::Site(fault) => sites::allows(name, fault),
        _ => true,
    };
    let others: Vec<&str> = sites::ALL
        .iter()
        .copied()
        .filter(|name| vocabulary.has_site(name) && allowed(name) && FaultClass::of(name, act) == same_class)
        .collect();
    if !others.is_empty() {
        *site = (*draw.pick(&others)).into();
        change_class(site, class, vocabulary, draw);
    }
}

fn change_class(site: &str, class: &mut String, vocabulary: &Vocabulary, draw: &mut Draw) {
    // The network has addresses, not files.
    let any = site.starts_with("net.") || vocabulary.classes.is_empty() || draw.chance(300);
    *class = if any { String::new() } else { (*draw.pick(&vocabulary.classes)).into() };
}

/// The same once more, a little later.
fn duplicate(plan: &mut Plan, i: usize, vocabulary: &Vocabulary, draw: &mut Draw) {
    let Fault { at, act, .. } = plan.faults[i].clone();
    let before = plan.faults.len();
    push(plan, at, act);
    if plan.faults.len() > before {
        move_fault(plan, before, vocabulary, draw);
    }
}

/// Another choice of what survives, or of how long the node is down.
fn change_crash(plan: &mut Plan, draw: &mut Draw) {
    let longest_us = (plan.horizon_us / 2).clamp(1_000, u64::from(u32::MAX));
    let mut crashes: Vec<_> = plan.faults.iter_mut().filter_map(|fault| fault.act.crash_mut()).collect();
    if crashes.is_empty() {
        return;
    }
    let i = draw.below(crashes.len() as u64) as usize;
    match &mut crashes[i].kind {
        CrashKind::PowerFail(survivors) if draw.chance(700) => {
            *survivors = swarm::survivors(draw);
            swarm::with_garbage(crashes[i], draw);
        }
        _ => crashes[i].down_us = draw.log_uniform(1_000, longest_us) as u32,
    }
}

/// A knob to one of its ends, or back to its default.
fn set_knob(plan: &mut Plan, vocabulary: &Vocabulary, draw: &mut Draw) {
    let knobs: Vec<_> = vocabulary.knobs.iter().filter(|knob| !knob.pinned).collect();
    if knobs.is_empty() {
        return;
    }
    let knob = *draw.pick(&knobs);
    let value = *draw.pick(&[*knob.range.start(), *knob.range.end(), knob.default]);
    plan.knobs.insert(knob.name.into(), value);
}

/// A fault of the swarm, where the parent's run is known to have been.
fn insert_fault(plan: &mut Plan, material: &Material<'_>, draw: &mut Draw) {
    let vocabulary = material.vocabulary;
    if vocabulary.faults.is_empty() {
        return;
    }
    let class = *draw.pick(&vocabulary.faults);
    let Some((mut at, act)) = swarm::one(plan, vocabulary, class, draw) else { return };
    match &mut at {
        Anchor::Point { point, node, nth } | Anchor::After { point, node, nth, .. } => {
            let known = |name: &str| vocabulary.points.iter().any(|p| p.name == name);
            let passings: Vec<_> =
                material.reached.passings.iter().filter(|passings| known(&passings.point)).collect();
            if !passings.is_empty() {
                let passed = *draw.pick(&passings);
                point.clone_from(&passed.point);
                *node = passed.node;
                *nth = draw.between(1, u64::from(passed.count.max(1))) as u32;
            }
        }
        Anchor::Site { site, class, node, nth } => {
            let calls: Vec<_> = material.reached.calls.iter().filter(|calls| calls.site == *site).collect();
            if !calls.is_empty() {
                let made = *draw.pick(&calls);
                let known = vocabulary.classes.contains(&made.class.as_str());
                *class = if known { made.class.clone() } else { String::new() };
                *node = made.node;
                *nth = draw.between(1, u64::from(made.count.max(1))) as u32;
            }
        }
        _ => {}
    }
    push(plan, at, act);
}

#[cfg(test)]
mod tests {
    use cutwater_io::sim::Key;

    use super::*;
    use crate::generate;
    use crate::vocabulary::{Role, Verb};

    cutwater_io::points! {
        point ONE = "test.one": "a point";
        point TWO = "test.two": "another point";
        sometimes SOME = "test.some": "a condition";
        never NONE = "test.none": "what must not be";
    }

    fn vocabulary(faults: &[FaultClass]) -> Vocabulary {
        Vocabulary {
            roles: vec![Role::new("node", "works", 2..=3)],
            actors: 1..=2,
            ops: 0..=20,
            verbs: vec![Verb::new("put", "writes").arg("key", 0..=7)],
            knobs: vec![],
            points: ALL.to_vec(),
            classes: vec!["wal"],
            faults: faults.to_vec(),
            horizon_us: 10_000..=10_000_000,
        }
    }

    /// Whatever devices the scenario has, and over many generations.
    #[test]
    fn a_mutant_of_a_valid_plan_is_valid() {
        let with = |more: &[FaultClass]| [&[FaultClass::ProcessKill, FaultClass::PowerFail], more].concat();
        let worlds = [FaultClass::ALL.to_vec(), with(FaultClass::OF_NETWORK), with(&[])];
        for (world, faults) in worlds.iter().enumerate() {
            let vocabulary = vocabulary(faults);
            let other = generate::swarm("s", &vocabulary, 1_000);
            let (reached, mut plan) = (Coverage::default(), generate::swarm("s", &vocabulary, world as u64));
            for generation in 0..2_000 {
                let material = Material { vocabulary: &vocabulary, reached: &reached, other: &other };
                let mut draw = Key::root(7).draw("mutant", &[world as u64, generation]);
                plan = mutant(&plan, &material, &mut draw);
                assert_eq!(plan.validate(&vocabulary), Ok(()), "world {world}, generation {generation}");
            }
        }
    }
}
