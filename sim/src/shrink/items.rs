//! Passes that take out whole items: what never struck, what comes after the failure, dimensions, chunks.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use super::Search;
use crate::faults::FaultClass;
use crate::plan::{Anchor, Op, Plan};

/// Parts of the horizon that are tried, per mille.
const HORIZONS: [u64; 6] = [20, 60, 125, 250, 500, 750];

impl Search<'_> {
    /// Takes out all faults that never struck: without them the run is the same.
    pub(super) fn drop_idle(&mut self) -> io::Result<()> {
        let Some((evidence, _)) = self.laboratory.observe(&self.best)? else { return Ok(()) };
        let struck: BTreeSet<u32> = evidence.struck.iter().map(|struck| struck.fault).collect();
        let mut plan = self.best.clone();
        plan.faults.retain(|fault| struck.contains(&fault.id));
        self.first_alike(vec![plan]).map(drop)
    }

    /// Takes out what comes after the failure, and shortens the run.
    pub(super) fn truncate(&mut self) -> io::Result<()> {
        let failed_us = self.laboratory.observe(&self.best)?.map(|(_, failed_us)| failed_us);
        let horizon_us = self.best.horizon_us;
        let mut horizons: Vec<u64> = HORIZONS.iter().map(|permille| horizon_us / 1000 * permille).collect();
        horizons.extend(failed_us.filter(|failed_us| *failed_us < horizon_us).map(|us| us + 1));
        horizons.sort_unstable();
        let candidates = horizons.into_iter().map(|us| until(&self.best, us.max(1)));
        self.first_alike(candidates.collect()).map(drop)
    }

    /// Tries to do without whole dimensions.
    pub(super) fn drop_dimensions(&mut self) -> io::Result<()> {
        let personality = self.subject.personalities.map(|(name, _)| name);
        let mut plain = self.best.clone();
        plain.knobs.retain(|name, _| Some(name.as_str()) == personality);
        self.first_alike(vec![plain])?;
        let least = Plan { topology: Default::default(), ..self.best.clone() };
        self.first_alike(vec![least])?;
        let bare = Plan { faults: Vec::new(), ..self.best.clone() };
        self.first_alike(vec![bare])?;

        let tame = Plan { buggify: Vec::new(), ..self.best.clone() };
        self.first_alike(vec![tame])?;
        let oddities = self.best.buggify.clone();
        self.each(&oddities, |plan, name| plan.buggify.retain(|armed| armed != name))?;

        let classes: Vec<FaultClass> = unique(self.best.faults.iter().map(|fault| fault.class()));
        self.each(&classes, |plan, class| {
            plan.faults.retain(|fault| fault.class() != *class);
        })?;
        let verbs: Vec<String> = unique(self.best.ops.iter().map(|op| op.verb.clone()));
        self.each(&verbs, |plan, verb| take_ops(plan, |op| op.verb == *verb))?;
        let actors: Vec<u16> = unique(self.best.ops.iter().map(|op| op.actor));
        self.each(&actors, |plan, actor| take_ops(plan, |op| op.actor == *actor))?;
        let roles: Vec<String> = self.best.topology.keys().cloned().collect();
        self.each(&roles, |plan, role| {
            plan.topology.remove(role);
        })?;
        self.each(&roles, |plan, role| {
            if let Some(count) = plan.topology.get_mut(role) {
                *count = count.saturating_sub(1);
            }
        })
    }

    /// Tries each change alone, one after the other.
    pub(super) fn each<T>(&mut self, things: &[T], change: impl Fn(&mut Plan, &T)) -> io::Result<()> {
        let mut at = 0;
        while at < things.len() && !self.is_over() {
            let candidates = things[at..].iter().take(super::BATCH).map(|thing| {
                let mut plan = self.best.clone();
                change(&mut plan, thing);
                plan
            });
            let candidates: Vec<Plan> = candidates.collect();
            let offered = candidates.len();
            at += self.first_alike(candidates)?.map_or(offered, |i| i + 1);
        }
        Ok(())
    }

    pub(super) fn drop_faults(&mut self) -> io::Result<()> {
        self.chunks(
            |plan| plan.faults.len(),
            |plan, range| {
                let mut plan = plan.clone();
                plan.faults.drain(range);
                plan
            },
        )
    }

    /// By client, then all together.
    pub(super) fn drop_ops(&mut self) -> io::Result<()> {
        let actors: Vec<u16> = unique(self.best.ops.iter().map(|op| op.actor));
        if actors.len() > 1 {
            for actor in actors {
                self.chunks(
                    |plan| of(plan, actor).len(),
                    |plan, range| {
                        let ids = of(plan, actor)[range].to_vec();
                        let mut plan = plan.clone();
                        take_ops(&mut plan, |op| ids.contains(&op.id));
                        plan
                    },
                )?;
            }
        }
        self.chunks(|plan| plan.ops.len(), without_ops)
    }
}

/// Tries that are worth it for one operation: it may have made its fault's place be passed so many times.
const PASSINGS_MAX: u32 = 4;
/// With more operations it takes too long to try each together with how often a place is passed.
const COUNTED_OPS_MAX: usize = 60;

impl Search<'_> {
    /// Takes out operations together with the passings that they account for: the n-th passing of a place is an earlier one
    /// without them, so that neither can be made smaller alone.
    pub(super) fn drop_ops_and_passings(&mut self) -> io::Result<()> {
        let mut size = self.best.ops.len() / 2;
        while size > 0 && self.best.ops.len() <= COUNTED_OPS_MAX {
            let mut start = 0;
            while start < self.best.ops.len() && !self.is_over() {
                let end = (start + size).min(self.best.ops.len());
                let candidates = self.with_fewer_passings(&without_ops(&self.best, start..end), end - start);
                if self.first_alike(candidates)?.is_none() {
                    start = end;
                }
            }
            size /= 2;
        }
        Ok(())
    }

    /// The plan with each of its faults, and with all of them, at an earlier passing; `gone` operations were taken out of it.
    fn with_fewer_passings(&self, plan: &Plan, gone: usize) -> Vec<Plan> {
        let gone = gone as u32;
        let steps = if gone == 1 { (1..=PASSINGS_MAX).collect() } else { vec![gone, 2 * gone, 3 * gone] };
        let counted: Vec<usize> = (0..plan.faults.len())
            .filter(|i| nth_mut(&mut plan.faults[*i].at.clone()).is_some_and(|nth| *nth > 1))
            .collect();
        let mut which: Vec<&[usize]> = counted.chunks(1).collect();
        if counted.len() > 1 {
            which.push(&counted);
        }
        let mut plans = Vec::new();
        for positions in which {
            for step in &steps {
                let mut plan = plan.clone();
                let moved = positions.iter().filter(|i| match nth_mut(&mut plan.faults[**i].at) {
                    Some(nth) if *nth > *step => {
                        *nth -= step;
                        true
                    }
                    _ => false,
                });
                if moved.count() > 0 {
                    plans.push(plan);
                }
            }
        }
        plans
    }
}

fn nth_mut(anchor: &mut Anchor) -> Option<&mut u32> {
    match anchor {
        Anchor::Point { nth, .. } | Anchor::Site { nth, .. } | Anchor::After { nth, .. } => Some(nth),
        Anchor::Time { .. } | Anchor::Op { .. } => None,
    }
}

fn of(plan: &Plan, actor: u16) -> Vec<u32> {
    plan.ops.iter().filter(|op| op.actor == actor).map(|op| op.id).collect()
}

fn without_ops(plan: &Plan, range: Range<usize>) -> Plan {
    let ids: Vec<u32> = plan.ops[range].iter().map(|op| op.id).collect();
    let mut plan = plan.clone();
    take_ops(&mut plan, |op| ids.contains(&op.id));
    plan
}

/// Takes operations out; a fault that was anchored to one strikes at its time.
fn take_ops(plan: &mut Plan, gone: impl Fn(&Op) -> bool) {
    for fault in &mut plan.faults {
        if let Anchor::Op { op: id } = fault.at
            && let Some(op) = plan.ops.iter().find(|op| op.id == id && gone(op))
        {
            fault.at = Anchor::Time { at_us: op.at_us };
        }
    }
    plan.ops.retain(|op| !gone(op));
}

/// The plan with this horizon, and nothing beyond it.
fn until(plan: &Plan, horizon_us: u64) -> Plan {
    let mut plan = Plan { horizon_us, ..plan.clone() };
    plan.faults.retain(|fault| !matches!(fault.at, Anchor::Time { at_us } if at_us > horizon_us));
    let late: BTreeSet<u32> = plan.ops.iter().filter(|op| op.at_us > horizon_us).map(|op| op.id).collect();
    plan.faults.retain(|fault| !matches!(fault.at, Anchor::Op { op } if late.contains(&op)));
    plan.ops.retain(|op| !late.contains(&op.id));
    plan
}

pub(super) fn unique<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.collect::<BTreeSet<T>>().into_iter().collect()
}
