//! Explaining a failure: what of the plan it needs, and when it was decided.
//!
//! **Essential** is what the run does not fail without: each operation and each fault is taken out alone, each knob put to its
//! default. (A plan that was shrunk to the end has essential items only.)
//!
//! **Decided** is the moment of no return: the run is repeated with everything after time *t* decided anew (devices draw from
//! another root, tasks run in another order, no fault strikes that had not), in several variants. Before the moment some of
//! them hold, after it all fail, whatever comes. The moment is found by bisection over the events of the run, which assumes
//! that the chance to fail only grows with *t*; a few more probes test that, and [`Decided::is_monotone`] tells.
//!
//! A fault that belongs to the failure has to have struck by then. A moment long before an oracle objects is the usual case:
//! the damage is done when the wrong thing is lost, and seen when it is read.

use std::io;

use cutwater_io::sim::Event;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::runner::{Redraw, What};
use crate::shrink::laboratory::{Bench, failed_ns};
use crate::shrink::{Laboratory, Personalities};
use crate::verdict::Verdict;

/// How many other ways a run goes on after each moment that is probed.
pub const VARIANTS: u64 = 8;
/// Schedule seeds with which a plan without an item is tried beside its own.
const SCHEDULES: [u64; 2] = [0, 1];
/// Moments before and after the one found that are probed to see whether the chance to fail only grows.
const CHECKS: usize = 3;
const NS_PER_US: u64 = 1000;

/// An item of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// An operation, by its id.
    Op(u32),
    /// A fault, by its id.
    Fault(u32),
    /// A knob that is not at its default.
    Knob(String),
    /// A site of `buggify!` that may fire.
    Oddity(String),
}

/// Which items the failure needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Essential {
    /// It does not fail without these.
    pub needed: Vec<Item>,
    /// It fails alike without any one of these.
    pub dispensable: Vec<Item>,
}

/// When the failure was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// After this event every variant fails.
    pub event: Event,
    /// What was probed: virtual time in nanoseconds from which all was decided anew, and how many of [`VARIANTS`] failed
    /// alike. In order of time.
    pub probes: Vec<(u64, u64)>,
    /// False if the chance to fail does not only grow: then there is no one moment, and the event is one of several.
    pub is_monotone: bool,
    /// True if it fails whatever is decided anew: no moment of the run matters, only what the plan does before the first.
    pub from_the_start: bool,
}

/// What may be taken out of a plan. The knob that chooses the file system is no such thing: without it the plan would run on
/// another one, and a shrunk plan says on which ones it fails.
fn items(plan: &Plan, personalities: Option<Personalities>) -> Vec<Item> {
    let file_system = personalities.map(|(knob, _)| knob);
    let knobs = plan.knobs.keys().filter(|knob| Some(knob.as_str()) != file_system);
    let mut items: Vec<Item> = plan.ops.iter().map(|op| Item::Op(op.id)).collect();
    items.extend(plan.faults.iter().map(|fault| Item::Fault(fault.id)));
    items.extend(knobs.cloned().map(Item::Knob));
    items.extend(plan.buggify.iter().cloned().map(Item::Oddity));
    items
}

/// Finds what `plan`, which fails with `signature`, needs to fail; `None` if the time is up before.
///
/// # Errors
/// Those of the laboratory.
pub fn essential(
    plan: &Plan,
    signature: &str,
    personalities: Option<Personalities>,
    bench: &mut Bench<'_>,
) -> io::Result<Option<Essential>> {
    let items = items(plan, personalities);
    let mut seeds = vec![plan.schedule_seed];
    seeds.extend(SCHEDULES.into_iter().filter(|seed| *seed != plan.schedule_seed));
    let mut essential = Essential { needed: items, dispensable: Vec::new() };
    for schedule_seed in seeds {
        let what: Vec<What> = essential
            .needed
            .iter()
            .map(|item| What::Plan(Box::new(Plan { schedule_seed, ..without(plan, item) })))
            .collect();
        let verdicts = bench.run(&what, &|_| false)?;
        if verdicts.iter().any(Option::is_none) {
            return Ok(None);
        }
        let items = std::mem::take(&mut essential.needed);
        for (item, verdict) in items.into_iter().zip(verdicts) {
            let fails = verdict.is_some_and(|verdict| verdict.signature() == signature);
            if fails { &mut essential.dispensable } else { &mut essential.needed }.push(item);
        }
    }
    Ok(Some(essential))
}

/// The plan without one item.
fn without(plan: &Plan, item: &Item) -> Plan {
    let mut plan = plan.clone();
    match item {
        Item::Op(id) => plan.ops.retain(|op| op.id != *id),
        Item::Fault(id) => plan.faults.retain(|fault| fault.id != *id),
        Item::Knob(name) => drop(plan.knobs.remove(name)),
        Item::Oddity(name) => plan.buggify.retain(|armed| armed != name),
    }
    plan
}

/// Finds when the failure of `plan` was decided; `None` if it does not fail with `signature`, leaves no story, or the time
/// is up before.
///
/// # Errors
/// Those of the laboratory.
pub fn decided(plan: &Plan, signature: &str, bench: &mut Bench<'_>) -> io::Result<Option<Decided>> {
    let outcome = bench.record(plan)?;
    let is_hang = matches!(outcome.report.verdict, Verdict::Hung { .. });
    let Some(story) = outcome.story.filter(|_| !is_hang && outcome.report.verdict.signature() == signature)
    else {
        return Ok(None);
    };
    let Some(failed_ns) = failed_ns(&story) else { return Ok(None) };
    // Whole microseconds, as the plan counts in them: within one, faults strike in an order that no time can cut in two.
    let mut moments: Vec<u64> = story
        .iter()
        .filter(|event| event.at_ns <= failed_ns)
        .map(|event| end_of_us(event.at_ns / NS_PER_US))
        .collect();
    moments.dedup();
    let mut probed = Probed { plan, signature, bench, probes: Vec::new() };
    let from_the_start = probed.all_fail(0)?;
    // Smallest position after whose moment all fail; after the last one they do, it is the failure itself.
    let (mut low, mut high) = (0, moments.len() - 1);
    while low < high && !from_the_start && !probed.bench.is_over() {
        let middle = (low + high) / 2;
        if probed.all_fail(moments[middle])? { high = middle } else { low = middle + 1 }
    }
    if probed.bench.is_over() {
        return Ok(None);
    }
    let found = if from_the_start { 0 } else { high };
    for i in 1..=CHECKS {
        for position in [found * i / (CHECKS + 1), found + (moments.len() - 1 - found) * i / (CHECKS + 1)] {
            probed.all_fail(moments[position])?;
        }
    }
    let mut probes = probed.probes;
    probes.sort_unstable();
    probes.dedup();
    let event = culprit(&story, moments[found] - 1);
    Ok(Some(Decided { event, is_monotone: only_grows(&probes), probes, from_the_start }))
}

/// Where the microsecond ends, in nanoseconds.
fn end_of_us(us: u64) -> u64 {
    (us + 1) * NS_PER_US
}

struct Probed<'a, 'b> {
    plan: &'a Plan,
    signature: &'a str,
    bench: &'a mut Bench<'b>,
    probes: Vec<(u64, u64)>,
}

impl Probed<'_, '_> {
    /// True if every variant fails alike when everything from `after_ns` on is decided anew.
    fn all_fail(&mut self, after_ns: u64) -> io::Result<bool> {
        if let Some((_, failed)) = self.probes.iter().find(|(at, _)| *at == after_ns) {
            return Ok(*failed == VARIANTS);
        }
        let what: Vec<What> = (1..=VARIANTS)
            .map(|variant| What::Redrawn(Box::new(self.plan.clone()), Redraw { after_ns, variant }))
            .collect();
        let verdicts = self.bench.run(&what, &|_| false)?;
        let alike = |verdict: &&Verdict| verdict.signature() == self.signature;
        let failed = verdicts.iter().flatten().filter(alike).count() as u64;
        // A budget that ends leaves a moment without an answer.
        if verdicts.iter().all(Option::is_some) {
            self.probes.push((after_ns, failed));
        }
        Ok(failed == VARIANTS)
    }
}

/// What broke in the microsecond of `at_ns`, or else the last event up to then that changes something, rather than tells of it.
fn culprit(story: &[Event], at_ns: u64) -> Event {
    let until: Vec<&Event> = story.iter().take_while(|event| event.at_ns <= at_ns).collect();
    let matters = |event: &&&Event| {
        let kind = event.kind.as_str();
        let prefixes = ["crash", "fault.", "disk.", "objects.", "net.", "node.", "point", "op", "client."];
        prefixes.iter().any(|prefix| kind.starts_with(prefix))
    };
    let breaks = |event: &&&Event| {
        let kind = event.kind.as_str();
        event.at_ns / NS_PER_US == at_ns / NS_PER_US
            && ["crash", "fault.", "disk.power_fail"].iter().any(|prefix| kind.starts_with(prefix))
    };
    let last = |is_it: &dyn Fn(&&&Event) -> bool| until.iter().rev().find(|event| is_it(event));
    let found = last(&breaks).or_else(|| last(&matters)).or(until.last());
    (**found.expect("a story begins before it fails")).clone()
}

/// The chance to fail may waver by one or two of the variants, and once it is certain it stays so.
fn only_grows(probes: &[(u64, u64)]) -> bool {
    let mut most = 0;
    for (_, failed) in probes {
        if failed + 2 < most || (most == VARIANTS && *failed < VARIANTS) {
            return false;
        }
        most = most.max(*failed);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody is told to shrink a plan, which was shrunk, for the sake of its file system.
    #[test]
    fn the_file_system_is_no_item_of_a_plan() {
        let plan = r#"{"version":1,"scenario":"store","seed":7,"schedule_seed":1,"key":2,"horizon_us":1000,
            "topology":{"store":1},"knobs":{"personality":3,"block_bytes":64},"buggify":["store.early"],
            "ops":[{"id":4,"at_us":1,"actor":0,"verb":"put","args":[]}],"faults":[]}"#;
        let plan = Plan::from_json(plan).unwrap();
        let knob = |name: &str| Item::Knob(name.into());
        let others = [Item::Op(4), knob("block_bytes"), Item::Oddity("store.early".into())];
        assert_eq!(items(&plan, Some(("personality", &[(3, "btrfs")]))), others);
        // Where a scenario has no choice of file systems, a knob of that name is one like any other.
        assert!(items(&plan, None).contains(&knob("personality")));
    }
}
