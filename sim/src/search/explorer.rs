//! Which plan to run next.
//!
//! *Fresh*: one new seed after the other. *Guided*: every second plan is a mutant of a plan that reached edges which none
//! before it had; parents whose edges are rare are chosen more often. A plan that fails is reported and bred from no more: its
//! children would mostly fail alike.
//!
//! With one plan at a time, the same master seed explores the same plans; with several at once, the order in which they
//! end decides what is known when the next is made. Every plan found is data of its own, and replays whatever made it.

use std::collections::VecDeque;

use cutwater_io::sim::Key;

use super::coverage::{Coverage, EDGES};
use super::mutate::{Material, mutant};
use crate::plan::Plan;
use crate::runner::What;
use crate::scenario::Scenario;
use crate::verdict::Report;
use crate::vocabulary::Vocabulary;

/// How plans are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Strategy {
    /// New seeds only
    Fresh,
    /// Half new seeds, half mutants of plans that reached new edges
    Guided,
}

/// A plan that reached something new.
#[derive(Clone, Debug)]
struct Entry {
    plan: Plan,
    reached: Coverage,
}

/// Explores the plans of one scenario.
pub struct Explorer<'a> {
    scenario: &'a dyn Scenario,
    vocabulary: Vocabulary,
    strategy: Strategy,
    key: Key,
    next_seed: u64,
    turn: u64,
    /// How many runs took each edge.
    hits: Vec<u32>,
    entries: Vec<Entry>,
    /// Plans from elsewhere that have yet to show what they reach.
    waiting: VecDeque<Plan>,
}

impl<'a> Explorer<'a> {
    /// An explorer whose fresh seeds begin at `first_seed`.
    pub fn new(scenario: &'a dyn Scenario, strategy: Strategy, first_seed: u64) -> Explorer<'a> {
        Explorer {
            scenario,
            vocabulary: scenario.vocabulary(),
            strategy,
            key: Key::root(first_seed).child("explorer", &[]).child(scenario.name(), &[]),
            next_seed: first_seed,
            turn: 0,
            hits: vec![0; EDGES],
            entries: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// What it explores.
    pub fn scenario(&self) -> &'a dyn Scenario {
        self.scenario
    }

    /// Runs this plan before all others; it must be valid.
    pub fn resume(&mut self, plan: Plan) {
        self.waiting.push_back(plan);
    }

    /// The plan to run next.
    pub fn next(&mut self) -> What {
        if let Some(plan) = self.waiting.pop_front() {
            return What::Plan(Box::new(plan));
        }
        self.turn += 1;
        if self.strategy == Strategy::Guided && self.turn.is_multiple_of(2) && !self.entries.is_empty() {
            return What::Plan(Box::new(self.mutant()));
        }
        let seed = self.next_seed;
        self.next_seed = self.next_seed.wrapping_add(1);
        What::Seed(seed)
    }

    fn mutant(&self) -> Plan {
        let mut draw = self.key.draw("mutant", &[self.turn]);
        let parent = &self.entries[self.parent(draw.unit())];
        let other = &draw.pick(&self.entries).plan;
        let material = Material { vocabulary: &self.vocabulary, reached: &parent.reached, other };
        mutant(&parent.plan, &material, &mut draw)
    }

    /// The entry at `unit` of all, each as wide as its edges are rare.
    fn parent(&self, unit: f64) -> usize {
        let rarity = |entry: &Entry| -> f64 {
            entry.reached.edges.iter().map(|edge| 1.0 / f64::from(self.hits[usize::from(*edge)].max(1))).sum()
        };
        let weights: Vec<f64> = self.entries.iter().map(rarity).collect();
        let mut left = unit * weights.iter().sum::<f64>();
        for (i, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return i;
            }
        }
        weights.len() - 1
    }

    /// Learns what a plan reached. The plan is returned if it held and some edge of it is new.
    pub fn learn(&mut self, what: &What, report: &Report) -> Option<&Plan> {
        let reached = report.coverage.as_ref()?;
        let mut is_new = false;
        for edge in &reached.edges {
            let hits = &mut self.hits[usize::from(*edge)];
            is_new |= *hits == 0;
            *hits = hits.saturating_add(1);
        }
        if !is_new || !report.verdict.held() {
            return None;
        }
        let plan = match what {
            What::Seed(seed) => self.scenario.generate(*seed),
            What::Plan(plan) | What::Redrawn(plan, _) => (**plan).clone(),
        };
        self.entries.push(Entry { plan, reached: reached.clone() });
        self.entries.last().map(|entry| &entry.plan)
    }

    /// True if it learns from what plans reach.
    pub fn is_guided(&self) -> bool {
        self.strategy == Strategy::Guided
    }

    /// How many different edges were taken so far.
    pub fn edges(&self) -> usize {
        self.hits.iter().filter(|hits| **hits > 0).count()
    }

    /// How many plans it breeds from.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }
}
