//! Shrinking: from a plan that fails to one of which nothing can be taken away.
//!
//! Delta debugging over a plan, not over its bytes: draws are keyed and times absolute, so an item that is taken out leaves
//! the meaning of the others alone, and one pass after another can go over the plan, the cheapest payoff first:
//!
//! 1. what never struck, and everything after the failure ([`items`]);
//! 2. whole dimensions: all faults, each class, each verb, each client, nodes, knobs ([`items`]);
//! 3. faults, then operations, in halves, quarters, ... one by one (ddmin; [`items`]);
//! 4. values: knobs, arguments, times, durations, the how many-th ([`values`]);
//! 5. what a crash loses, two crashes to one, times to places, the strictest file system ([`crashes`]).
//!
//! The passes are repeated until none of them takes anything: the plan is then **1-minimal** over its operations and faults,
//! as the last round has tried to take out each alone.
//!
//! A candidate counts if it fails **alike**: with the same signature. One that fails otherwise is kept as another finding
//! and not followed. One that is no valid plan is not interesting. As an order of tasks may be part of a failure, and taking
//! something out moves it, each candidate is tried with several schedule seeds; the plan goes on with the one that failed.
//!
//! The result depends on the plan alone, not on how many candidates run at once: of those that fail alike the first in the
//! order of the pass is taken, and only those up to it count against the budget. No more are counted than it allows. (A budget
//! of time is another matter.)
//!
//! *Not done*: sequences of operations are not reordered, and two items are never taken out together unless they are
//! neighbours in a chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::evidence::Evidence;
use crate::plan::Plan;
use crate::verdict::Verdict;
use crate::vocabulary::Vocabulary;

mod crashes;
mod items;
pub mod laboratory;
#[cfg(test)]
mod tests;
mod values;

/// How many candidates are offered to the laboratory at once; of those after the first success the work is lost.
const BATCH: usize = 8;
/// Schedule seeds that are tried beside a candidate's own.
const OTHER_SCHEDULES: usize = 2;
/// More rounds than any plan was seen to need.
const ROUNDS_MAX: usize = 20;

/// What the passes need to know of a scenario.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The words of its plans.
    pub vocabulary: Vocabulary,
    /// The knob that says which file system the disks have, see [`crate::Scenario::personalities`].
    pub personalities: Option<Personalities>,
}

/// A knob, and its values from the strictest file system to the weakest.
pub type Personalities = (&'static str, &'static [(u64, &'static str)]);

/// Where candidates are run.
pub trait Laboratory {
    /// The verdicts of candidates, in their order. Those after the first of which `enough` is true may be missing.
    ///
    /// # Errors
    /// Nothing can be run any more.
    fn verdicts(
        &mut self,
        plans: &[Plan],
        enough: &dyn Fn(&Verdict) -> bool,
    ) -> io::Result<Vec<Option<Verdict>>>;

    /// What a recorded run of the plan leaves, and when it failed, in microseconds of virtual time.
    ///
    /// # Errors
    /// Nothing can be run any more.
    fn observe(&mut self, plan: &Plan) -> io::Result<Option<(Evidence, u64)>>;

    /// True if the time is up.
    fn is_over(&self) -> bool;

    /// The plan has become smaller; for people who wait.
    fn progress(&mut self, plan: &Plan, runs: u64);
}

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest plan that fails alike.
    pub plan: Plan,
    /// How many runs that took.
    pub runs: u64,
    /// Nothing can be taken away; false if the budget came first.
    pub is_minimal: bool,
    /// The file systems on which the plan fails alike, of all, the strictest first; empty if the scenario has no choice.
    pub fails_on: Vec<(&'static str, bool)>,
    /// Plans that failed otherwise, by signature.
    pub others: BTreeMap<String, Plan>,
}

/// Looks for the smallest plan that fails with `signature`, in at most `runs` runs.
///
/// # Errors
/// Those of the laboratory.
pub fn shrink(
    plan: &Plan,
    subject: &Subject,
    signature: &str,
    runs: u64,
    laboratory: &mut dyn Laboratory,
) -> io::Result<Shrunk> {
    let mut search = Search {
        best: plan.clone(),
        subject,
        signature,
        runs_left: runs,
        runs: 0,
        laboratory,
        known: BTreeMap::new(),
        counted: BTreeSet::new(),
        others: BTreeMap::new(),
    };
    let is_minimal = search.run()?;
    let fails_on = search.personalities()?;
    let Search { best: plan, runs, others, .. } = search;
    Ok(Shrunk { plan, runs, is_minimal, fails_on, others })
}

/// A search in progress.
struct Search<'a> {
    best: Plan,
    subject: &'a Subject,
    signature: &'a str,
    runs_left: u64,
    runs: u64,
    laboratory: &'a mut dyn Laboratory,
    /// Verdicts by the id of the plan.
    known: BTreeMap<String, Verdict>,
    /// Plans that were counted against the budget.
    counted: BTreeSet<String>,
    others: BTreeMap<String, Plan>,
}

impl Search<'_> {
    /// True if nothing can be taken away any more.
    fn run(&mut self) -> io::Result<bool> {
        self.drop_idle()?;
        for round in 0..ROUNDS_MAX {
            let before = self.best.id();
            self.truncate()?;
            self.drop_dimensions()?;
            if round == 0 {
                self.simplest_crashes()?;
            }
            self.drop_faults()?;
            self.drop_ops()?;
            self.drop_ops_and_passings()?;
            self.merge_crashes()?;
            self.simplify_values()?;
            self.anchor_to_places()?;
            self.strictest_personality()?;
            self.lose_least()?;
            if self.is_over() {
                return Ok(false);
            }
            if self.best.id() == before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_over(&self) -> bool {
        self.runs_left == 0 || self.laboratory.is_over()
    }

    fn alike(&self, verdict: &Verdict) -> bool {
        verdict.signature() == self.signature
    }

    /// Takes the first of `candidates` that fails alike, and says which it was.
    fn first_alike(&mut self, candidates: Vec<Plan>) -> io::Result<Option<usize>> {
        let mut offered = candidates.into_iter().enumerate().peekable();
        while offered.peek().is_some() {
            let mut batch: Vec<(usize, Plan)> = Vec::new();
            for (i, plan) in offered.by_ref().take(BATCH) {
                if plan != self.best && plan.validate(&self.subject.vocabulary).is_ok() {
                    batch.extend(with_schedules(&plan).into_iter().map(|plan| (i, plan)));
                }
            }
            if let Some(i) = self.first_of_batch(batch)? {
                return Ok(Some(i));
            }
            if self.is_over() {
                break;
            }
        }
        Ok(None)
    }

    fn first_of_batch(&mut self, batch: Vec<(usize, Plan)>) -> io::Result<Option<usize>> {
        let mut ids: Vec<String> = batch.iter().map(|(_, plan)| plan.id()).collect();
        ids.truncate(self.affordable(&ids));
        // What is known to fail alike ends the batch before it is run.
        let known_success =
            ids.iter().position(|id| self.known.get(id).is_some_and(|verdict| self.alike(verdict)));
        let end = known_success.unwrap_or(ids.len());
        let new: Vec<usize> = (0..end).filter(|i| !self.known.contains_key(&ids[*i])).collect();
        let plans: Vec<Plan> = new.iter().map(|i| batch[*i].1.clone()).collect();
        if !plans.is_empty() {
            let signature = self.signature;
            let enough = |verdict: &Verdict| verdict.signature() == signature;
            let verdicts = self.laboratory.verdicts(&plans, &enough)?;
            for (i, verdict) in new.into_iter().zip(verdicts) {
                if let Some(verdict) = verdict {
                    self.known.insert(ids[i].clone(), verdict);
                }
            }
        }
        for ((i, plan), id) in batch.into_iter().zip(ids) {
            let Some(verdict) = self.known.get(&id).cloned() else { continue };
            if self.counted.insert(id) {
                self.runs += 1;
                self.runs_left = self.runs_left.saturating_sub(1);
            }
            if self.alike(&verdict) {
                self.best = plan;
                self.laboratory.progress(&self.best, self.runs);
                return Ok(Some(i));
            }
            if !matches!(verdict, Verdict::Held | Verdict::Invalid { .. }) {
                self.others.entry(verdict.signature()).or_insert(plan);
            }
        }
        Ok(None)
    }

    /// How many of these plans, from the first on, the budget still allows.
    fn affordable(&self, ids: &[String]) -> usize {
        let mut new: BTreeSet<&str> = BTreeSet::new();
        for (i, id) in ids.iter().enumerate().filter(|(_, id)| !self.counted.contains(*id)) {
            new.insert(id);
            if new.len() as u64 > self.runs_left {
                return i;
            }
        }
        ids.len()
    }

    /// Takes `change`d plans as long as they fail alike: `change` is offered the plan and the number of the attempt, and
    /// answers with a candidate, `None` at the end. A number is not offered twice, unless what it was about is gone.
    fn sweep(&mut self, mut change: impl FnMut(&Plan, usize) -> Option<Plan>) -> io::Result<()> {
        let mut at = 0;
        loop {
            let candidates: Vec<Plan> = (at..at + BATCH).map_while(|i| change(&self.best, i)).collect();
            if candidates.is_empty() || self.is_over() {
                return Ok(());
            }
            let offered = candidates.len();
            match self.first_alike(candidates)? {
                // What was at this place is gone; what comes after it is there now.
                Some(i) => at += i,
                None => at += offered,
            }
        }
    }

    /// Tries to take out every one of `count` things, in chunks of halves, quarters, ... one (ddmin). `without` takes the
    /// plan and a range of positions.
    fn chunks(
        &mut self,
        count: impl Fn(&Plan) -> usize,
        without: impl Fn(&Plan, std::ops::Range<usize>) -> Plan,
    ) -> io::Result<()> {
        let mut size = count(&self.best).div_ceil(2);
        while size > 0 && !self.is_over() {
            self.sweep(|plan, i| {
                let (left, start) = (count(plan), i * size);
                (start < left).then(|| without(plan, start..(start + size).min(left)))
            })?;
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        Ok(())
    }
}

/// The candidate with its own schedule, and with a few others.
fn with_schedules(plan: &Plan) -> Vec<Plan> {
    let others = (0..).filter(|seed| *seed != plan.schedule_seed).take(OTHER_SCHEDULES);
    let with = |schedule_seed| Plan { schedule_seed, ..plan.clone() };
    std::iter::once(plan.schedule_seed).chain(others).map(with).collect()
}
