//! What a sweep has seen: sums over its runs, and whether they amount to anything.

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::points::Kind;
use serde::Serialize;

use crate::faults::{FaultClass, Receipts, receipts};
use crate::scenario::Scenario;
use crate::search::coverage::{self, Matrix};
use crate::verdict::Report;
use crate::vocabulary::Vocabulary;

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
    /// What the scenario demands and this campaign never saw.
    pub(super) void: Vec<String>,
}

/// Failures that look alike.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub(super) first: Report,
    pub(super) seeds: Vec<u64>,
    /// How many plans that no seed names fail like it.
    pub(super) unnamed: u64,
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
    pub(super) seed: u64,
    pub(super) digests: [String; 2],
    /// The first event that differs, from both sides, if the runs differed again when recorded.
    pub(super) first: Option<[String; 2]>,
}

/// Everything that a sweep has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Campaign {
    pub(super) elapsed_ms: u64,
    pub(super) interrupted: bool,
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
        receipts::add(&mut tally.receipts, &report.receipts);
        sum(&mut tally.points, &report.points);
        sum(&mut tally.sometimes, &report.sometimes);
        coverage::add(&mut tally.matrix, &report.matrix);
        if report.verdict.held() {
            tally.held += 1;
            return false;
        }
        tally.violated += 1;
        let key = format!("{}-{}", report.scenario, report.verdict.signature());
        let failure = self.failures.entry(key).or_insert_with(|| Failure {
            first: report.clone(),
            seeds: Vec::new(),
            unnamed: 0,
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

    /// Holds what was seen against what the scenarios demand.
    pub(super) fn judge(&mut self, scenarios: &[&dyn Scenario]) {
        for scenario in scenarios {
            let demands = scenario.demands();
            let Some(tally) = self.scenarios.get_mut(scenario.name()) else { continue };
            tally.unmet = unmet(&scenario.vocabulary(), &tally.matrix);
            if demands.after_plans == 0 || tally.plans < demands.after_plans {
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
    fn is_empty(&self) -> bool {
        !self.interrupted && self.scenarios.values().all(|tally| tally.plans == 0)
    }

    /// The exit status that this amounts to.
    pub(super) fn status(&self) -> u8 {
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
