//! A census of many plans: each in a process of its own, and what they add up to.
//!
//! What one plan has seen, the plans after it do not look at again. Since plans run beside each other, "after" is a fixed
//! distance ([`Window`]): the report depends on the plans and the settings alone.

use std::collections::BTreeMap;
use std::io::{self, PipeWriter, Write};
use std::time::Duration;

use serde::Serialize;

use super::window::{Ending, Window};
use super::{Finding, Findings, Seen, Settings, Taken, Tally, add_findings};
use crate::plan::Plan;
use crate::runner::execute::{self, execute_with};
use crate::runner::pool::on_fresh_thread;
use crate::runner::process::{self, Forked};
use crate::runner::{Job, Pool, What};
use crate::scenario::Scenario;
use crate::verdict::Verdict;

/// How many plans may be under way when a result is taken.
const WINDOW: usize = 16;

/// What a census came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Census {
    /// Plans that were run.
    pub plans: u64,
    /// The digest of the plan's own run, if there was only one plan: that of a run without a census.
    pub golden: Option<String>,
    /// What was looked at.
    #[serde(flatten)]
    pub tally: Tally,
    /// CPU time of all processes, in microseconds.
    pub cpu_us: u64,
    /// Real time, in milliseconds.
    pub elapsed_ms: u64,
    /// Not all plans or images were looked at, for want of time.
    pub cut_short: bool,
    /// Why branches could not be started, if so.
    pub trouble: Option<String>,
    /// How many ways to fail were found so far.
    #[serde(skip)]
    pub failing: usize,
    /// What did not hold, by signature.
    pub violations: Vec<Broken>,
}

/// A way in which something did not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// Names the failure.
    pub signature: String,
    /// The oracle.
    pub oracle: String,
    /// What should have held.
    pub property: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// How many images fail this way.
    pub count: u64,
    /// A plan fails this way by itself, without a crash of the census.
    pub undisturbed: bool,
    /// The plan, run on its own, fails with the same signature.
    pub reproduced: bool,
    /// The first such image, as a plan.
    pub plan: Plan,
}

/// Takes a census of the plans, all of `scenario`, of which up to `jobs` run at once; `progress` hears of each that ended.
///
/// # Errors
/// The system gives no more processes or pipes.
pub fn run(
    scenario: &dyn Scenario,
    plans: &mut dyn Iterator<Item = Plan>,
    settings: &Settings,
    jobs: usize,
    progress: &mut dyn FnMut(&Census),
) -> io::Result<Census> {
    let start_ms = process::real_ms();
    // Where it is not allowed a census takes longer.
    let _ = process::keep_code_mapped();
    let mut driver = Driver { census: Census::default(), found: BTreeMap::new(), seen: Seen::default() };
    let mut window = Window::new(WINDOW, jobs);
    match driver.go_through(scenario, plans, settings, &mut window, progress) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            driver.census.cut_short = true;
            window.kill();
        }
        result => result?,
    }
    driver.finish(scenario, settings.limit_s, start_ms)
}

/// What is known so far.
struct Driver {
    census: Census,
    /// By signature, with the plan that was run.
    found: BTreeMap<String, (Plan, Finding)>,
    seen: Seen,
}

/// Ctrl-C ends a wait.
fn unless_interrupted() -> io::Result<()> {
    if process::interrupted() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

impl Driver {
    fn go_through(
        &mut self,
        scenario: &dyn Scenario,
        plans: &mut dyn Iterator<Item = Plan>,
        settings: &Settings,
        window: &mut Window<Plan>,
        progress: &mut dyn FnMut(&Census),
    ) -> io::Result<()> {
        for plan in plans {
            if settings.until_ms.is_some_and(|ms| process::real_ms() >= ms) {
                self.census.cut_short = true;
                break;
            }
            while let Some(ending) = window.before_next(&mut unless_interrupted)? {
                self.take(ending, settings.limit_s);
                progress(&self.census);
            }
            let job = Job::new(scenario, What::Plan(Box::new(plan.clone())));
            match process::fork(false)? {
                Forked::Child(report) => be_golden(&job, settings, std::mem::take(&mut self.seen), report),
                Forked::Parent(child) => window.push(plan, child),
            }
        }
        while let Some(ending) = window.take_first(&mut unless_interrupted)? {
            self.take(ending, settings.limit_s);
            progress(&self.census);
        }
        Ok(())
    }

    fn take(&mut self, ending: Ending<Plan>, limit_s: u32) {
        let plan = ending.what;
        self.census.plans += 1;
        self.census.cpu_us += ending.ended.cpu_us;
        let taken: Taken = serde_json::from_slice(&ending.report).unwrap_or_else(|_| {
            let signal = ending.ended.signal;
            let verdict = if signal == process::ALARM {
                Verdict::Hung { limit_s: limit_s.into() }
            } else {
                Verdict::Aborted { signal, stderr: String::new() }
            };
            Taken::of(verdict)
        });
        self.census.golden = (self.census.plans == 1).then_some(taken.digest);
        self.census.tally.add(&taken.tally);
        self.census.cut_short |= taken.tally.left_out > 0;
        self.seen.0.extend(taken.seen);
        self.census.trouble = self.census.trouble.take().or(taken.trouble);
        let mut findings = Findings::new();
        if !taken.verdict.held() {
            // The plan itself fails, without any crash of the census.
            add_findings(
                &mut findings,
                [(taken.verdict.signature(), Finding::of_plan(&plan, taken.verdict))].into(),
            );
        }
        add_findings(&mut findings, taken.findings);
        for (signature, finding) in findings {
            match self.found.get_mut(&signature) {
                Some((_, first)) => {
                    first.count += finding.count;
                    first.undisturbed |= finding.undisturbed;
                }
                None => drop(self.found.insert(signature, (plan.clone(), finding))),
            }
        }
        self.census.failing = self.found.len();
    }

    /// Runs what was found as plans.
    fn finish(mut self, scenario: &dyn Scenario, limit_s: u32, start_ms: u64) -> io::Result<Census> {
        for (signature, (base, finding)) in self.found {
            let mut plans = finding.cut.plans(&base);
            let mut reproduced = None;
            for (i, plan) in plans.iter().enumerate() {
                let job = Job::new(scenario, What::Plan(Box::new(plan.clone())));
                let outcome = Pool::run(job, Duration::from_secs(limit_s.into()))?;
                if outcome.report.verdict.signature() == signature {
                    reproduced = Some(i);
                    break;
                }
            }
            let [oracle, property, expected, found] = finding.verdict.explain();
            self.census.violations.push(Broken {
                signature,
                oracle,
                property,
                expected,
                found,
                count: finding.count,
                undisturbed: finding.undisturbed,
                reproduced: reproduced.is_some(),
                plan: plans.swap_remove(reproduced.unwrap_or(0)),
            });
        }
        self.census.elapsed_ms = process::real_ms() - start_ms;
        Ok(self.census)
    }
}

/// The life of the process of a plan.
fn be_golden(job: &Job<'_>, settings: &Settings, seen: Seen, mut report: PipeWriter) -> ! {
    execute::note_panics(false);
    process::alarm(settings.limit_s);
    let taken = on_fresh_thread(|| {
        let (outcome, taken) = execute_with(job, Some((settings.clone(), seen)));
        let taken = taken.unwrap_or_else(|| Taken::of(outcome.report.verdict));
        Taken { digest: outcome.report.digest, ..taken }
    });
    let taken = taken.unwrap_or_else(|_| Taken::of(execute::panic_verdict()));
    let bytes = serde_json::to_vec(&taken).expect("plain data");
    let sent = report.write_all(&bytes);
    process::exit_now(i32::from(sent.is_err()))
}
