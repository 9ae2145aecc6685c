//! Where candidates are run for real: each in a process of its own, several at once, within a budget of real time.

use std::io;
use std::time::{Duration, Instant};

use cutwater_io::sim::Event;
use indicatif::ProgressBar;

use super::Laboratory;
use crate::evidence::Evidence;
use crate::plan::Plan;
use crate::runner::{Job, Pool, What, process};
use crate::scenario::Scenario;
use crate::verdict::{Outcome, Verdict};

/// The longest that one candidate may run, in real time: one that hangs must not eat the budget of all.
const LIMIT_MAX: Duration = Duration::from_secs(10);

/// Runs candidates of one scenario.
pub struct Bench<'a> {
    scenario: &'a dyn Scenario,
    jobs: usize,
    limit: Duration,
    deadline: Option<Instant>,
    bar: ProgressBar,
    /// The last plan that was observed, and how it went.
    observed: Option<(String, Outcome)>,
}

#[expect(clippy::disallowed_methods, reason = "the budget is one of real time")]
fn real_now() -> Instant {
    Instant::now()
}

impl<'a> Bench<'a> {
    /// Runs up to `jobs` candidates at once, each for at most `limit` of real time; `time` is the budget of all.
    pub fn new(
        scenario: &'a dyn Scenario,
        jobs: usize,
        limit: Duration,
        time: Option<Duration>,
    ) -> Bench<'a> {
        Bench {
            scenario,
            jobs,
            limit: limit.min(LIMIT_MAX),
            deadline: time.and_then(|time| real_now().checked_add(time)),
            bar: ProgressBar::hidden(),
            observed: None,
        }
    }

    /// Shows progress there.
    pub fn with_bar(mut self, bar: ProgressBar) -> Bench<'a> {
        self.bar = bar;
        self
    }

    /// Runs all of `what`; those after the first whose verdict is `enough` may be missing.
    ///
    /// # Errors
    /// The system gives no more processes or pipes.
    pub fn run(
        &mut self,
        what: &[What],
        enough: &dyn Fn(&Verdict) -> bool,
    ) -> io::Result<Vec<Option<Verdict>>> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; what.len()];
        let mut pool = Pool::new(self.jobs, self.limit);
        let mut running: Vec<usize> = Vec::new();
        let mut next = 0;
        let mut end = what.len();
        loop {
            while pool.has_room() && next < end && !self.is_over() {
                pool.start(Job::new(self.scenario, what[next].clone()))?;
                running.push(next);
                next += 1;
            }
            // What runs beyond the first success is killed with the pool.
            if running.iter().all(|i| *i >= end) {
                return Ok(verdicts);
            }
            let Some((job, outcome)) = pool.next(Duration::from_millis(100))? else { continue };
            let found = running.iter().position(|i| what[*i] == job.what);
            let i = running.remove(found.expect("it was started"));
            if enough(&outcome.report.verdict) {
                end = end.min(i + 1);
            }
            verdicts[i] = Some(outcome.report.verdict);
        }
    }

    /// A recorded run of `plan`.
    ///
    /// # Errors
    /// The system gives no more processes or pipes.
    pub fn record(&mut self, plan: &Plan) -> io::Result<Outcome> {
        let id = plan.id();
        if let Some((known, outcome)) = &self.observed
            && *known == id
        {
            return Ok(outcome.clone());
        }
        let what = What::Plan(Box::new(plan.clone()));
        let job = Job { record: true, ..Job::new(self.scenario, what) };
        let mut outcome = Pool::run(job, self.limit)?;
        outcome.report.plan = id.clone();
        self.observed = Some((id, outcome.clone()));
        Ok(outcome)
    }
}

/// When a recorded run failed, in nanoseconds of virtual time: the objection of an oracle, a panic, or the last thing that
/// is known of it.
pub fn failed_ns(story: &[Event]) -> Option<u64> {
    let told = story.iter().find(|event| matches!(event.kind.as_str(), "oracle" | "panic"));
    told.or(story.last()).map(|event| event.at_ns)
}

impl Laboratory for Bench<'_> {
    fn verdicts(
        &mut self,
        plans: &[Plan],
        enough: &dyn Fn(&Verdict) -> bool,
    ) -> io::Result<Vec<Option<Verdict>>> {
        let what: Vec<What> = plans.iter().map(|plan| What::Plan(Box::new(plan.clone()))).collect();
        self.run(&what, enough)
    }

    fn observe(&mut self, plan: &Plan) -> io::Result<Option<(Evidence, u64)>> {
        let outcome = self.record(plan)?;
        let failed_us = outcome.story.as_deref().and_then(failed_ns).map(|ns| ns / 1000);
        Ok(outcome.evidence.zip(failed_us))
    }

    fn is_over(&self) -> bool {
        process::interrupted() || self.deadline.is_some_and(|deadline| real_now() >= deadline)
    }

    fn progress(&mut self, plan: &Plan, runs: u64) {
        self.bar.set_message(format!(
            "{} operations, {} faults after {runs} runs",
            plan.ops.len(),
            plan.faults.len()
        ));
        self.bar.tick();
    }
}
