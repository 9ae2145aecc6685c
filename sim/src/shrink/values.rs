//! Passes that make what is left simpler: knobs, arguments, times, durations, the how many-th, names of clients.

use std::io;

use cutwater_io::sim::{Crash, SiteFault};

use super::Search;
use super::items::unique;
use crate::plan::{Act, Anchor, Plan};

/// Between two operations, when all are moved together, in microseconds.
const STEP_US: u64 = 1_000;
/// How long a node is down at least, for the simplest plan, in microseconds.
const DOWN_US: u32 = 1_000;

impl Search<'_> {
    pub(super) fn simplify_values(&mut self) -> io::Result<()> {
        self.knobs()?;
        self.arguments_together()?;
        self.arguments()?;
        self.op_times()?;
        self.faults()?;
        self.names()
    }

    /// Each knob to its default, else as near to it as it will go.
    fn knobs(&mut self) -> io::Result<()> {
        let personality = self.subject.personalities.map(|(name, _)| name);
        let names: Vec<String> =
            self.best.knobs.keys().filter(|name| Some(name.as_str()) != personality).cloned().collect();
        self.each(&names, |plan, name| {
            plan.knobs.remove(name);
        })?;
        for name in names {
            let default = self.subject.vocabulary.knob(&name).map(|knob| knob.default);
            let (Some(&value), Some(default)) = (self.best.knobs.get(&name), default) else { continue };
            self.nearest(default, value, |plan, value| {
                plan.knobs.insert(name.clone(), value);
            })?;
        }
        Ok(())
    }

    /// Moves a value that is known to fail towards one that is not, by bisection.
    fn nearest(&mut self, to: u64, from: u64, set: impl Fn(&mut Plan, u64)) -> io::Result<()> {
        let (mut holds, mut fails) = (to, from);
        while holds.abs_diff(fails) > 1 && !self.is_over() {
            let middle = holds.min(fails) + holds.abs_diff(fails) / 2;
            let mut plan = self.best.clone();
            set(&mut plan, middle);
            if self.first_alike(vec![plan])?.is_some() {
                fails = middle;
            } else {
                holds = middle;
            }
        }
        Ok(())
    }

    /// The distinct values of an argument to the smallest that there are: keys become the first keys.
    fn arguments_together(&mut self) -> io::Result<()> {
        let vocabulary = &self.subject.vocabulary;
        let names = unique(vocabulary.verbs.iter().flat_map(|verb| verb.args.iter().map(|arg| arg.name)));
        self.each(&names, |plan, name| {
            let place = |verb: &str| vocabulary.verb(verb)?.args.iter().position(|arg| arg.name == *name);
            let values = unique(plan.ops.iter().filter_map(|op| Some(op.args[place(&op.verb)?])));
            for op in &mut plan.ops {
                let Some(i) = place(&op.verb) else { continue };
                let low = vocabulary.verb(&op.verb).map_or(0, |verb| *verb.args[i].range.start());
                let rank = values.partition_point(|value| *value < op.args[i]) as u64;
                op.args[i] = op.args[i].min(low + rank);
            }
        })
    }

    fn arguments(&mut self) -> io::Result<()> {
        let places: Vec<(u32, usize)> =
            self.best.ops.iter().flat_map(|op| (0..op.args.len()).map(|i| (op.id, i))).collect();
        for (id, i) in places {
            let Some(op) = self.best.ops.iter().find(|op| op.id == id) else { continue };
            let arg = self.subject.vocabulary.verb(&op.verb).map(|verb| *verb.args[i].range.start());
            let (low, value) = (arg.unwrap_or_default(), op.args[i]);
            let set = |plan: &mut Plan, value: u64| {
                plan.ops.iter_mut().filter(|op| op.id == id).for_each(|op| op.args[i] = value);
            };
            let with = |value: u64| {
                let mut plan = self.best.clone();
                set(&mut plan, value);
                plan
            };
            let smallest = [low, low.saturating_add(1)].into_iter().filter(|least| *least < value);
            let candidates: Vec<Plan> = smallest.map(with).collect();
            if !candidates.is_empty() && self.first_alike(candidates)?.is_none() {
                self.nearest(low.saturating_add(1), value, set)?;
            }
        }
        Ok(())
    }

    /// All operations together to the start, a step apart; then each alone.
    fn op_times(&mut self) -> io::Result<()> {
        let stepped = |step_us: u64| {
            let mut plan = self.best.clone();
            for (op, i) in plan.ops.iter_mut().zip(0..) {
                op.at_us = op.at_us.min(i * step_us);
            }
            plan
        };
        self.first_alike(vec![stepped(0), stepped(STEP_US), stepped(10 * STEP_US)])?;
        let ids: Vec<u32> = self.best.ops.iter().map(|op| op.id).collect();
        self.each(&ids, |plan, id| {
            let at = plan.ops.iter().position(|op| op.id == *id);
            if let Some(at) = at {
                plan.ops[at].at_us =
                    if at == 0 { 0 } else { plan.ops[at].at_us.min(plan.ops[at - 1].at_us + STEP_US) };
            }
        })
    }

    fn faults(&mut self) -> io::Result<()> {
        for position in 0..self.best.faults.len() {
            // Each step is tried again from where the one before has led.
            loop {
                let anchors = simpler_anchors(&self.best.faults[position].at);
                let candidates =
                    anchors.into_iter().map(|at| self.with_fault(position, |fault| fault.at = at.clone()));
                if self.first_alike(candidates.collect())?.is_none() {
                    break;
                }
            }
            for shorter in [0, DOWN_US] {
                let plan = self.with_fault(position, |fault| shorten(&mut fault.act, |_| shorter));
                if self.first_alike(vec![plan])?.is_some() {
                    break;
                }
            }
            loop {
                let plan = self.with_fault(position, |fault| shorten(&mut fault.act, |us| us / 2));
                if self.first_alike(vec![plan])?.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn with_fault(&self, position: usize, change: impl Fn(&mut crate::plan::Fault)) -> Plan {
        let mut plan = self.best.clone();
        change(&mut plan.faults[position]);
        plan
    }

    /// Clients are numbered from 0; the roots of all draws are the simplest numbers.
    fn names(&mut self) -> io::Result<()> {
        let actors = unique(self.best.ops.iter().map(|op| op.actor));
        let mut renamed = self.best.clone();
        for op in &mut renamed.ops {
            op.actor = actors.partition_point(|actor| *actor < op.actor) as u16;
        }
        self.first_alike(vec![renamed])?;
        let together = Plan {
            ops: self.best.ops.iter().cloned().map(|op| crate::plan::Op { actor: 0, ..op }).collect(),
            ..self.best.clone()
        };
        self.first_alike(vec![together])?;
        if self.best.key == 0 {
            return Ok(());
        }
        self.first_alike(vec![Plan { key: 0, ..self.best.clone() }]).map(drop)
    }
}

/// Values below `value` that are tried in its place, the simplest first.
fn below(value: u64, low: u64) -> Vec<u64> {
    let half = low + value.saturating_sub(low) / 2;
    let mut values = vec![low, low.saturating_add(1), half, value.saturating_sub(1)];
    values.retain(|v| *v < value && *v >= low);
    values.dedup();
    values
}

fn simpler_anchors(anchor: &Anchor) -> Vec<Anchor> {
    let fewer = |nth: u32| below(u64::from(nth), 1).into_iter().map(|nth| nth as u32);
    match anchor {
        Anchor::Time { at_us } => {
            let thousands = at_us / 1000 * 1000;
            let all = [0, at_us / 2, thousands];
            all.into_iter().filter(|us| us < at_us).map(|at_us| Anchor::Time { at_us }).collect()
        }
        Anchor::Point { point, node, nth } => {
            fewer(*nth).map(|nth| Anchor::Point { point: point.clone(), node: *node, nth }).collect()
        }
        Anchor::Site { site, class, node, nth } => fewer(*nth)
            .map(|nth| Anchor::Site { site: site.clone(), class: class.clone(), node: *node, nth })
            .collect(),
        Anchor::After { point, node, nth, site, class } => fewer(*nth)
            .map(|nth| Anchor::After {
                point: point.clone(),
                node: *node,
                nth,
                site: site.clone(),
                class: class.clone(),
            })
            .collect(),
        Anchor::Op { .. } => Vec::new(),
    }
}

/// Changes how long a fault lasts; never to something longer.
fn shorten(act: &mut Act, to: impl Fn(u32) -> u32) {
    let less = |us: &mut u32| *us = to(*us).min(*us);
    let crash = |crash: &mut Crash| crash.down_us = to(crash.down_us).min(crash.down_us);
    match act {
        Act::Site(SiteFault::Delay(us) | SiteFault::LateLand(us)) | Act::Delay { us } => less(us),
        Act::Site(SiteFault::CrashBefore(c) | SiteFault::CrashAfter(c)) | Act::Crash { crash: c, .. } => {
            crash(c)
        }
        Act::Pause { for_us, .. }
        | Act::Partition { for_us, .. }
        | Act::Stall { for_us, .. }
        | Act::DiskFull { for_us, .. }
        | Act::DiskStall { for_us, .. }
        | Act::DiskSlow { for_us, .. }
        | Act::SlowLink { for_us, .. }
        | Act::SlowNode { for_us, .. }
        | Act::Swizzle { for_us, .. }
        | Act::ClockDrift { for_us, .. }
        | Act::ExpireCredentials { for_us, .. }
        | Act::Outage { for_us }
        | Act::ThrottleStore { for_us }
        | Act::IsolateFromStore { for_us, .. } => {
            let most = u32::try_from(*for_us).unwrap_or(u32::MAX);
            *for_us = u64::from(to(most)).min(*for_us);
        }
        _ => {}
    }
}
