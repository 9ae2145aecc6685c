//! What a sweep has seen: sums over its runs, and whether they amount to anything.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::points::Kind;
use serde::Serialize;

use crate::capsule;
use crate::faults::{FaultClass, Receipts, receipts};
use crate::program::replay_line;
use crate::scenario::Scenario;
use crate::search::coverage::{self, Matrix};
use crate::verdict::{Report, Work};
use crate::vocabulary::Vocabulary;

/// What is said of a campaign that was interrupted.
pub(super) const PARTIAL: &str =
    "interrupted: these results are partial, there were more plans to run or to look into";

/// What is said of a campaign that ran nothing.
pub(super) const EMPTY: &str = "void: no plan was run";

/// Sums over the runs of one scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tally {
    pub(super) plans: u64,
    pub(super) held: u64,
    pub(super) violated: u64,
    pub(super) events: u64,
    pub(super) virtual_us: u64,
    pub(super) cpu_us: u64,
    pub(super) stale_calls: u64,
    pub(super) receipts: Receipts,
    pub(super) points: BTreeMap<String, u64>,
    pub(super) sometimes: BTreeMap<String, u64>,
    /// How often a fault of each class met each point.
    pub(super) matrix: Matrix,
    /// Cells of the matrix that the scenario has and that stayed empty: the points that a class never met.
    pub(super) unmet: BTreeMap<FaultClass, Vec<&'static str>>,
    /// Points and `sometimes!` of the scenario that this campaign never saw.
    pub(super) unseen: Vec<&'static str>,
    /// What the scenario demands and this campaign never saw.
    pub(super) void: Vec<String>,
    /// What the devices had to do.
    pub(super) work: Work,
}

/// How many plans ended in each stretch of real time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pace {
    /// Length of a stretch.
    pub(super) every_ms: u64,
    /// By stretch; the last one goes on.
    pub(super) plans: Vec<u64>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { every_ms: 1_000, plans: Vec::new() }
    }
}

impl Pace {
    /// The most stretches; a campaign that lasts longer has longer ones.
    const STRETCHES_MAX: usize = 300;

    /// A plan ended at this time since the start.
    pub(super) fn ended(&mut self, at_ms: u64) {
        let mut stretch = at_ms / self.every_ms;
        while stretch >= Self::STRETCHES_MAX as u64 {
            self.plans = self.plans.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.every_ms *= 2;
            stretch = at_ms / self.every_ms;
        }
        let stretch = usize::try_from(stretch).expect("below the most");
        if self.plans.len() <= stretch {
            self.plans.resize(stretch + 1, 0);
        }
        self.plans[stretch] += 1;
    }
}

/// Failures that look alike.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub(super) first: Report,
    pub(super) seeds: Vec<u64>,
    /// How many plans that no seed names fail like it.
    pub(super) unnamed: u64,
    /// The first did not fail like this when it was run once more.
    pub(super) unrepeated: bool,
    /// The first in one line, and in one screen; written when the campaign is judged.
    pub(super) title: String,
    pub(super) text: String,
}

impl Failure {
    /// How many plans failed like this.
    pub(super) fn plans(&self) -> u64 {
        self.seeds.len() as u64 + self.unnamed
    }
}

/// A plan that was run twice with two results.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Divergence {
    pub(super) scenario: String,
    /// Of the plan, or that it was made from.
    pub(super) seed: u64,
    /// Of both runs; that of a run that gave no report is empty.
    pub(super) digests: [String; 2],
    /// What differs, in one line.
    pub(super) told: String,
    /// What to type to see it again.
    pub(super) replay: String,
    /// The first event that differs, from both sides, if the runs differed again when recorded.
    pub(super) first: Option<[String; 2]>,
}

impl Divergence {
    /// Two runs of the plan that `what` names to this program.
    pub(super) fn new(what: &str, first: &Report, second: &Report) -> Divergence {
        let digests = [first, second].map(|report| report.digest.clone());
        let verdicts = [first, second].map(|report| report.verdict.name());
        let told = if digests.contains(&String::new()) {
            format!("one plan, two ends: {}, and when it was run again {}", verdicts[0], verdicts[1])
        } else {
            format!("one plan, two digests: {}", digests.join(" and "))
        };
        let (scenario, seed) = (first.scenario.clone(), first.seed);
        Divergence { scenario, seed, digests, told, replay: replay_line(what), first: None }
    }
}

/// Everything that a sweep has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Campaign {
    pub(super) elapsed_ms: u64,
    /// It did not get to its end: everything here is a part.
    pub(super) interrupted: bool,
    pub(super) pace: Pace,
    pub(super) scenarios: BTreeMap<String, Tally>,
    /// By scenario and signature.
    pub(super) failures: BTreeMap<String, Failure>,
    pub(super) divergences: Vec<Divergence>,
    /// Plans that were run a second time.
    pub(super) run_twice: u64,
}

impl Campaign {
    /// Adds a run; true if it fails in a new way.
    pub(super) fn add(&mut self, report: &Report) -> bool {
        let tally = self.scenarios.entry(report.scenario.clone()).or_default();
        tally.plans += 1;
        tally.events += report.events;
        tally.virtual_us += report.virtual_us;
        tally.cpu_us += report.cpu_us;
        tally.stale_calls += report.stale_calls;
        tally.work += report.work;
        receipts::add(&mut tally.receipts, &report.receipts);
        sum(&mut tally.points, &report.points);
        sum(&mut tally.sometimes, &report.sometimes);
        coverage::add(&mut tally.matrix, &report.matrix);
        if report.verdict.held() {
            tally.held += 1;
            return false;
        }
        tally.violated += 1;
        let failure = self.failures.entry(Campaign::failure_name(report)).or_insert_with(|| Failure {
            first: report.clone(),
            seeds: Vec::new(),
            unnamed: 0,
            unrepeated: false,
            title: String::new(),
            text: String::new(),
        });
        if !report.named_by_seed {
            failure.unnamed += 1;
            return failure.plans() == 1;
        }
        // Plans end in any order; the table names the smallest seed.
        if !failure.first.named_by_seed || report.seed < failure.first.seed {
            failure.first = report.clone();
        }
        let at = failure.seeds.partition_point(|seed| *seed < report.seed);
        failure.seeds.insert(at, report.seed);
        failure.plans() == 1
    }

    /// What failures like that of `report` are called, and the directory of their capsule.
    pub(super) fn failure_name(report: &Report) -> String {
        format!("{}-{}", report.scenario, report.verdict.signature())
    }

    /// Holds what was seen against what the scenarios have and, if it is a campaign that must, against what they demand.
    pub(super) fn judge(&mut self, scenarios: &[&dyn Scenario], demanding: bool) {
        for failure in self.failures.values_mut() {
            let [oracle, property, ..] = failure.first.verdict.explain();
            failure.title = format!("{oracle}: {property}");
            if failure.text.is_empty() {
                failure.text = capsule::plain(&failure.first, None);
            }
        }
        for scenario in scenarios {
            let demands = scenario.demands();
            let Some(tally) = self.scenarios.get_mut(scenario.name()) else { continue };
            let vocabulary = scenario.vocabulary();
            tally.unmet = unmet(&vocabulary, &tally.matrix);
            let seen = |name| tally.points.contains_key(name) || tally.sometimes.contains_key(name);
            let wanted = vocabulary.points.iter().filter(|p| p.kind != Kind::Never).map(|p| p.name);
            tally.unseen = wanted.filter(|name| !seen(*name)).collect();
            if !demanding || demands.after_plans == 0 || tally.plans < demands.after_plans {
                continue;
            }
            let delivered = |class| tally.receipts.get(class).is_some_and(|r| r.delivered > 0);
            let mut void = Vec::new();
            void.extend(
                demands
                    .delivered
                    .iter()
                    .filter(|c| !delivered(c))
                    .map(|c| format!("no fault of class {}", c.name())),
            );
            let unseen = |counts: &BTreeMap<String, u64>, name: &str| !counts.contains_key(name);
            void.extend(
                demands
                    .points
                    .iter()
                    .filter(|p| unseen(&tally.points, p))
                    .map(|p| format!("point {p} never passed")),
            );
            void.extend(
                demands
                    .sometimes
                    .iter()
                    .filter(|s| unseen(&tally.sometimes, s))
                    .map(|s| format!("{s} never held")),
            );
            let met = |class, point| tally.matrix.get(class).is_some_and(|row| row.contains_key(point));
            void.extend(
                demands
                    .cells
                    .iter()
                    .filter(|(class, point)| !met(class, *point))
                    .map(|(class, point)| format!("{} never met {point}", class.name())),
            );
            tally.void = void;
        }
    }

    /// Names seen over all scenarios.
    pub(super) fn seen(&self, counts: impl Fn(&Tally) -> &BTreeMap<String, u64>) -> BTreeSet<&str> {
        self.scenarios.values().flat_map(|t| counts(t).keys().map(String::as_str)).collect()
    }

    /// Faults over all scenarios.
    pub(super) fn receipts(&self) -> Receipts {
        let mut total = Receipts::new();
        for tally in self.scenarios.values() {
            receipts::add(&mut total, &tally.receipts);
        }
        total
    }

    /// True if no plan was run, and nobody asked it to end before one was.
    pub(super) fn is_empty(&self) -> bool {
        !self.interrupted && self.scenarios.values().all(|tally| tally.plans == 0)
    }

    /// The exit status: a campaign that was interrupted says so, whatever it has seen.
    pub(super) fn status(&self) -> u8 {
        if self.interrupted { super::INTERRUPTED } else { self.result() }
    }

    /// What the plans that were run amount to, as an exit status.
    pub(super) fn result(&self) -> u8 {
        if !self.divergences.is_empty() {
            super::NONDETERMINISTIC
        } else if !self.failures.is_empty() {
            super::VIOLATED
        } else if self.is_empty() || self.scenarios.values().any(|t| !t.void.is_empty()) {
            super::VOID
        } else {
            super::HELD
        }
    }
}

fn unmet(vocabulary: &Vocabulary, matrix: &Matrix) -> BTreeMap<FaultClass, Vec<&'static str>> {
    let points = || vocabulary.points.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name);
    let of = |class: &FaultClass| {
        let row = matrix.get(class);
        points().filter(|point| row.is_none_or(|row| !row.contains_key(*point))).collect::<Vec<_>>()
    };
    let rows = vocabulary.faults.iter().map(|class| (*class, of(class)));
    rows.filter(|(_, points)| !points.is_empty()).collect()
}

fn sum(total: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (name, n) in more {
        *total.entry(name.clone()).or_default() += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_campaign_is_told_in_longer_stretches() {
        let mut pace = Pace::default();
        (0..1_000).for_each(|s| pace.ended(s * 1_000 + 999));
        assert_eq!(pace.every_ms, 4_000);
        assert_eq!(pace.plans, vec![4; 250]);
    }
}
