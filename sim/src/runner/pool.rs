//! Children, up to so many at once: their pipes, their ends, the watchdog.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::execute::{self, execute};
use super::process::{self, Child, Forked};
use super::story;
use crate::plan::Plan;
use crate::scenario::Scenario;
use crate::told;
use crate::verdict::{Outcome, Report, Verdict};

/// Stack of the thread that runs a simulation, in bytes; memory is only taken as it is used.
const STACK_BYTES: usize = 64 << 20;
/// How much of a dead child's stderr is kept, in bytes.
const STDERR_BYTES: usize = 2_000;
/// The largest report that is read, in bytes; a recorded story of a long run stays well below.
const REPORT_BYTES_MAX: usize = 1 << 30;

/// A plan to run.
#[derive(Clone)]
pub struct Job<'a> {
    /// The scenario.
    pub scenario: &'a dyn Scenario,
    /// Which plan.
    pub what: What,
    /// Keep the events.
    pub record: bool,
    /// A second run of the same plan; nothing but a mark for the caller.
    pub again: bool,
    /// Report what a search wants to know, see [`Report::coverage`].
    pub edges: bool,
}

/// Which plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The one that a seed names.
    Seed(u64),
    /// This one.
    Plan(Box<Plan>),
    /// This one up to some moment, and from then on everything decided anew.
    Redrawn(Box<Plan>, Redraw),
}

/// From when on a run goes another way than its plan says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redraw {
    /// From the first event at or after this virtual time, in nanoseconds: no fault strikes any more, devices draw anew,
    /// tasks run in another order.
    pub after_ns: u64,
    /// Which other way, from 1.
    pub variant: u64,
}

impl<'a> Job<'a> {
    /// A first run, of which only the report is kept.
    pub fn new(scenario: &'a dyn Scenario, what: What) -> Job<'a> {
        Job { scenario, what, record: false, again: false, edges: false }
    }

    /// The plan.
    pub fn plan(&self) -> Plan {
        match &self.what {
            What::Seed(seed) => self.scenario.generate(*seed),
            What::Plan(plan) | What::Redrawn(plan, _) => (**plan).clone(),
        }
    }

    /// True if the seed alone names the plan.
    pub fn named_by_seed(&self) -> bool {
        match &self.what {
            What::Seed(_) => true,
            What::Plan(plan) | What::Redrawn(plan, _) => **plan == self.scenario.generate(plan.seed),
        }
    }

    /// The seed that names the plan, or that it was drawn from.
    pub fn seed(&self) -> u64 {
        match &self.what {
            What::Seed(seed) => *seed,
            What::Plan(plan) | What::Redrawn(plan, _) => plan.seed,
        }
    }
}

struct Running<'a> {
    job: Job<'a>,
    child: Child,
    bytes: Vec<u8>,
    since: Instant,
    killed: bool,
}

/// Runs plans, each in a process of its own.
pub struct Pool<'a> {
    running: Vec<Running<'a>>,
    width: usize,
    limit: Duration,
}

#[expect(clippy::disallowed_methods, reason = "the watchdog watches real time, outside of every simulation")]
fn real_now() -> Instant {
    Instant::now()
}

impl<'a> Pool<'a> {
    /// A pool of up to `width` children, each of which gets `limit` of real time.
    pub fn new(width: usize, limit: Duration) -> Pool<'a> {
        Pool { running: Vec::new(), width: width.max(1), limit }
    }

    /// True if another job can start.
    pub fn has_room(&self) -> bool {
        self.running.len() < self.width
    }

    /// True if nothing runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a job.
    ///
    /// # Errors
    /// The system gives no more processes or pipes.
    pub fn start(&mut self, job: Job<'a>) -> io::Result<()> {
        match process::fork(job.record)? {
            Forked::Child(report) => be_child(&job, report),
            Forked::Parent(child) => {
                self.running.push(Running {
                    job,
                    child,
                    bytes: Vec::new(),
                    since: real_now(),
                    killed: false,
                });
                Ok(())
            }
        }
    }

    /// The next job to end, if one does within `patience`.
    ///
    /// # Errors
    /// The system refuses to wait.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<(Job<'a>, Outcome)>> {
        let fds: Vec<&io::PipeReader> = self.running.iter().map(|r| &r.child.report).collect();
        let timeout_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let ready = process::readable(&fds, timeout_ms)?;
        let mut ended = None;
        for (i, running) in self.running.iter_mut().enumerate() {
            if !running.killed && running.since.elapsed() > self.limit {
                running.child.kill();
                running.killed = true;
            }
            if ready[i] && running.read()? {
                ended = ended.or(Some(i));
            }
        }
        Ok(ended.map(|i| self.running.remove(i).finish(self.limit)))
    }

    /// Runs one job to its end.
    ///
    /// # Errors
    /// See [`Pool::start`] and [`Pool::next`].
    pub fn run(job: Job<'a>, limit: Duration) -> io::Result<Outcome> {
        let mut pool = Pool::new(1, limit);
        pool.start(job)?;
        loop {
            if let Some((_, outcome)) = pool.next(Duration::from_millis(100))? {
                return Ok(outcome);
            }
        }
    }

    /// Runs all of `jobs`, as many at once as there are processors, and returns their reports in the same order.
    ///
    /// # Errors
    /// See [`Pool::start`] and [`Pool::next`].
    pub fn run_all(jobs: VecDeque<Job<'a>>, limit: Duration) -> io::Result<Vec<Report>> {
        let mut pool = Pool::new(std::thread::available_parallelism().map_or(1, usize::from), limit);
        let mut reports: Vec<Option<Report>> = vec![None; jobs.len()];
        let mut jobs: VecDeque<(usize, Job<'a>)> = jobs.into_iter().enumerate().collect();
        let mut started: Vec<(usize, Job<'a>)> = Vec::new();
        while !jobs.is_empty() || !pool.is_idle() {
            while pool.has_room()
                && let Some((i, job)) = jobs.pop_front()
            {
                pool.start(job.clone())?;
                started.push((i, job));
            }
            if let Some((job, outcome)) = pool.next(Duration::from_millis(100))? {
                let same =
                    |other: &Job<'_>| other.what == job.what && other.scenario.name() == job.scenario.name();
                let at = started.iter().position(|(_, other)| same(other)).expect("what ends was started");
                reports[started.swap_remove(at).0] = Some(outcome.report);
            }
        }
        Ok(reports.into_iter().flatten().collect())
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        for running in &self.running {
            running.child.kill();
            running.child.wait();
        }
    }
}

impl Running<'_> {
    /// Reads what there is; true at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 64 << 10];
        match self.child.report.read(&mut chunk) {
            Ok(0) => Ok(true),
            Ok(n) => {
                self.bytes.extend_from_slice(&chunk[..n]);
                Ok(self.bytes.len() > REPORT_BYTES_MAX)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl<'a> Running<'a> {
    fn finish(self, limit: Duration) -> (Job<'a>, Outcome) {
        let ended = self.child.wait();
        let mut outcome = serde_json::from_slice(&self.bytes).unwrap_or_else(|_| {
            let verdict = if self.killed {
                Verdict::Hung { limit_s: limit.as_secs() }
            } else {
                Verdict::Aborted { signal: ended.signal, stderr: self.child.said(STDERR_BYTES) }
            };
            let bare = Report::bare(self.job.scenario.name(), self.job.seed(), verdict);
            let report = match &self.job.what {
                What::Seed(_) => bare,
                What::Plan(plan) | What::Redrawn(plan, _) => {
                    Report { plan: plan.id(), named_by_seed: self.job.named_by_seed(), ..bare }
                }
            };
            let (mut story, labels) = story::unfinished(self.child.trace().as_deref());
            if let Some(events) = &mut story {
                told::in_words(events, &self.job.plan());
            }
            Outcome { story, labels, ..Outcome::bare(report) }
        });
        outcome.report.cpu_us = ended.cpu_us;
        (self.job, outcome)
    }
}

/// The life of a child.
fn be_child(job: &Job<'_>, mut report: io::PipeWriter) -> ! {
    execute::note_panics(job.record);
    if job.record {
        cutwater_io::sim::on_recorded(story::keep);
    }
    let outcome = on_fresh_thread(|| execute(job));
    // A panic outside of the simulation is one of the harness: it is reported all the same.
    let outcome = outcome.unwrap_or_else(|_| {
        Outcome::bare(Report::bare(job.scenario.name(), job.seed(), execute::panic_verdict()))
    });
    let bytes = serde_json::to_vec(&outcome).expect("a report is plain data");
    let sent = report.write_all(&bytes);
    process::exit_now(i32::from(sent.is_err()))
}

/// Runs `simulation` on a thread of its own, with a deep stack.
pub(crate) fn on_fresh_thread<T: Send>(simulation: impl FnOnce() -> T + Send) -> std::thread::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, simulation)
            .expect("a thread for the simulation")
            .join()
    })
}
