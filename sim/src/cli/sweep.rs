//! `cutwater sweep`: many seeds.
//!
//! Scenarios take turns, seed by seed, so that a sweep cut short by time or Ctrl-C has treated them alike. Some plans are
//! run a second time in another process, and the digests compared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use cutwater_io::points::Point;
use cutwater_io::sim::Key;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::campaign::{Campaign, Divergence, Failure};
use super::out::Out;
use super::table::{self, Paint};
use super::{Annotate, CampaignArgs, Registry, SweepArgs, Usage, failure, github};
use crate::capsule::{self, Budget, Captured, Means};
use crate::plan::Plan;
use crate::runner::{Job, Pool, What, process};
use crate::scenario::Scenario;
use crate::told::line;
use crate::verdict::{Outcome, Report, Verdict};

/// How often a plan with two digests is run again, recorded, in the hope of seeing where its runs part.
const RECORDED_PAIRS: usize = 3;

/// How many plans that fail alike are told of while a sweep goes on.
const TOLD_MAX: u64 = 4;
/// How many failures of a sweep are shrunk and explained; the others are kept as they are.
const CAPTURES_MAX: usize = 5;
/// How long shrinking one of them may take; explaining it may take half as long again.
const CAPTURE_TIME: Duration = Duration::from_secs(14);

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum JsonLine<'a> {
    Plan(&'a Report),
    Divergence(&'a Divergence),
    /// A failure, once the sweep is over.
    Finding {
        /// Scenario and signature.
        name: &'a str,
        /// Its capsule.
        dir: &'a Path,
        /// The failure on one screen.
        text: &'a str,
    },
    Summary(&'a Campaign),
}

struct Sweep<'a> {
    args: &'a CampaignArgs,
    scenarios: Vec<&'a dyn Scenario>,
    limit: Duration,
    out: Option<Out>,
    bar: ProgressBar,
    start: Instant,
    campaign: Campaign,
    /// The first plan of each scenario, which is run twice, whatever is drawn.
    firsts: BTreeMap<&'static str, What>,
    /// First runs whose plans are to run, or are running, once more.
    twice: VecDeque<(Job<'a>, Report)>,
    again: Vec<(Job<'a>, Report)>,
    /// The last plan under other schedules.
    schedules: VecDeque<Job<'a>>,
    /// The plan of the first run of each failure, by the name of its capsule.
    plans: BTreeMap<String, Plan>,
}

#[expect(clippy::disallowed_methods, reason = "a sweep is bounded in real time")]
fn real_now() -> Instant {
    Instant::now()
}

/// Where the plans of a campaign come from.
pub(super) trait Source<'a> {
    /// The next plan to run; `None` if there are no more.
    fn next(&mut self) -> Option<Job<'a>>;
    /// A plan has run.
    fn learn(&mut self, job: &Job<'a>, report: &Report) -> std::io::Result<()>;
    /// True if the campaign is void without what the scenarios demand.
    fn is_held_to_demands(&self) -> bool {
        true
    }
}

/// Seeds in turn, scenario by scenario.
struct Seeds<I>(I);

impl<'a, I: Iterator<Item = (&'a dyn Scenario, u64)>> Source<'a> for Seeds<I> {
    fn next(&mut self) -> Option<Job<'a>> {
        self.0.next().map(|(scenario, seed)| Job::new(scenario, What::Seed(seed)))
    }
    fn learn(&mut self, _: &Job<'a>, _: &Report) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the sweep, and returns the exit status.
pub(super) fn run(registry: &Registry<'_>, args: &SweepArgs) -> Result<u8, Usage> {
    let scenarios = registry.scenarios(&args.scenarios)?;
    let seeds = seeds(&args.seeds)?;
    let (shard, shards) = args.shard.as_deref().map_or(Ok((0, 1)), parse_shard)?;
    let time = args.time.as_deref().map(super::duration).transpose()?;
    if args.campaign.schedules > 1 && args.campaign.out.is_none() {
        return Err(Usage("--schedules: no seed names these plans, so name a directory with --out".into()));
    }

    // The first seed that leaves `shard` when divided by `shards`; the sum may be beyond 64 bits.
    let ahead = (u128::from(shard) + u128::from(shards - seeds.start % shards)) % u128::from(shards);
    let first = seeds.start.saturating_add(u64::try_from(ahead).expect("a remainder is below its divisor"));
    let total = seeds.end.saturating_sub(first).div_ceil(shards).saturating_mul(scenarios.len() as u64);
    let stride = usize::try_from(shards).unwrap_or(usize::MAX);
    let items = (first..seeds.end)
        .step_by(stride)
        .flat_map(|seed| scenarios.iter().map(move |scenario| (*scenario, seed)));
    let total = total.saturating_mul(args.campaign.schedules);
    campaign(registry, scenarios.clone(), &args.campaign, &mut Seeds(items), Some(total), time)
}

/// Runs what `source` gives until it has no more or the time is over, and returns the exit status.
pub(super) fn campaign<'a>(
    registry: &Registry<'a>,
    scenarios: Vec<&'a dyn Scenario>,
    args: &'a CampaignArgs,
    source: &mut dyn Source<'a>,
    total: Option<u64>,
    time: Option<Duration>,
) -> Result<u8, Usage> {
    let jobs = super::jobs(args.jobs)?;
    let out = args.out.as_deref().map(Out::open).transpose()?;
    process::catch_interrupt();
    let mut sweep = Sweep {
        args,
        scenarios,
        limit: Duration::from_secs(args.limit),
        out,
        bar: bar(total, args.json),
        start: real_now(),
        campaign: Campaign::default(),
        schedules: VecDeque::new(),
        firsts: BTreeMap::new(),
        twice: VecDeque::new(),
        again: Vec::new(),
        plans: BTreeMap::new(),
    };
    let trouble = sweep.work(source, jobs, time);
    sweep.campaign.elapsed_ms = sweep.elapsed_ms();
    let captured = if trouble.is_ok() { sweep.capture(jobs) } else { Ok(()) };
    let written = sweep.finish(registry, source.is_held_to_demands());
    match trouble.and(captured).and(written) {
        Ok(()) => Ok(sweep.campaign.status()),
        Err(e) => Err(Usage(format!("the campaign could not go on, or leave its results: {e}"))),
    }
}

impl<'a> Sweep<'a> {
    fn work(
        &mut self,
        source: &mut dyn Source<'a>,
        jobs: usize,
        time: Option<Duration>,
    ) -> std::io::Result<()> {
        let mut pool = Pool::new(jobs, self.limit);
        loop {
            let over = time.is_some_and(|time| self.start.elapsed() >= time);
            while pool.has_room() {
                if let Some((job, first)) = self.twice.pop_front() {
                    pool.start(Job { again: true, ..job.clone() })?;
                    self.again.push((job, first));
                } else if over {
                    break;
                } else if let Some(job) = self.schedules.pop_front() {
                    pool.start(job)?;
                } else if let Some(job) = source.next() {
                    self.firsts.entry(job.scenario.name()).or_insert_with(|| job.what.clone());
                    self.schedules.extend((1..self.args.schedules).map(|k| scheduled(&job, k)));
                    pool.start(job)?;
                } else {
                    break;
                }
            }
            if pool.is_idle() {
                return Ok(());
            }
            if let Some((job, outcome)) = pool.next(Duration::from_millis(100))? {
                if !job.again {
                    source.learn(&job, &outcome.report)?;
                }
                self.ended(&job, outcome)?;
            }
            if process::interrupted() {
                self.campaign.interrupted = true;
                return Ok(());
            }
        }
    }

    fn ended(&mut self, job: &Job<'a>, outcome: Outcome) -> std::io::Result<()> {
        let mut report = outcome.report;
        // A child that gives no report knows not even its plan.
        if report.plan.is_empty() {
            report.plan = job.plan().id();
        }
        if job.again {
            let same = |first: &Job<'_>| first.scenario.name() == report.scenario && first.what == job.what;
            let i =
                self.again.iter().position(|(first, _)| same(first)).expect("a second run follows a first");
            let (_, first) = self.again.swap_remove(i);
            self.campaign.run_twice += 1;
            return self.compare(job, &first, &report);
        }
        // It was for the search alone.
        report.coverage = None;
        self.bar.inc(1);
        if self.args.json {
            self.print_json(&JsonLine::Plan(&report));
        }
        let is_new = self.campaign.add(&report);
        self.campaign.pace.ended(self.elapsed_ms());
        if !report.verdict.held() {
            self.failed(job, &report, is_new);
        }
        let permille = self.args.check_determinism;
        let is_first = self.firsts.get(job.scenario.name()) == Some(&job.what);
        let twice = permille > 0 && is_first || is_drawn(&report.plan, permille);
        if twice && !matches!(report.verdict, Verdict::Hung { .. }) {
            self.twice.push_back((job.clone(), report));
        }
        Ok(())
    }

    /// Says so at once; what there is to say comes when the sweep is over.
    fn failed(&mut self, job: &Job<'a>, report: &Report, is_new: bool) {
        let failure = self.campaign.failures.get(&Campaign::failure_name(report));
        let nth = failure.map_or(1, Failure::plans);
        if !self.args.json && nth <= TOLD_MAX {
            let more = if nth == TOLD_MAX { "  (more like it are only counted)" } else { "" };
            self.print(&format!("{}{more}\n", failure::brief(report, is_new)));
        }
        self.keep_plan(job, report);
    }

    /// Keeps the plan of a run that is the first of its failures.
    fn keep_plan(&mut self, job: &Job<'a>, report: &Report) {
        let name = Campaign::failure_name(report);
        if self.campaign.failures.get(&name).is_some_and(|failure| failure.first.plan == report.plan) {
            self.plans.insert(name, job.plan());
        }
    }

    /// A capsule for each failure; the first few are looked into.
    fn capture(&mut self, jobs: usize) -> std::io::Result<()> {
        let root = self.out.as_ref().map_or_else(capsule::default_root, Out::capsules);
        let failures: Vec<(String, Report, Vec<u64>)> = self
            .campaign
            .failures
            .iter()
            .map(|(name, failure)| (name.clone(), failure.first.clone(), failure.seeds.clone()))
            .collect();
        self.bar.reset();
        self.bar.set_style(
            ProgressStyle::with_template("{spinner} looking into {prefix}  {elapsed}  {msg}")
                .expect("the template is well formed"),
        );
        for (i, (name, report, seeds)) in failures.into_iter().enumerate() {
            self.campaign.interrupted |= process::interrupted();
            let scenario = self.scenarios.iter().find(|s| s.name() == report.scenario);
            let scenario = *scenario.expect("only what was asked for was run");
            let looks = i < CAPTURES_MAX && !self.args.no_shrink && !self.campaign.interrupted;
            let budget = looks.then_some(Budget { time: CAPTURE_TIME, ..Budget::default() });
            self.bar.set_prefix(name.clone());
            let means = Means { scenario, jobs, limit: self.limit, bar: self.bar.clone() };
            let plan = self.plans[&name].clone();
            let captured = capsule::capture(&means, &plan, &report, &seeds, budget, &root)?;
            self.campaign.run_twice += 1;
            self.doubt(&captured, &report);
            if let Some(aside) = &captured.aside {
                self.bar.suspend(|| {
                    eprintln!(
                        "cutwater: an earlier capsule {name}, of another plan, is in {} now",
                        aside.display()
                    );
                });
            }
            if self.args.json {
                let (dir, text) = (&captured.dir, &captured.text);
                self.print_json(&JsonLine::Finding { name: &name, dir, text });
            } else {
                self.print(&format!("\n{}", captured.text));
            }
            if let Some(failure) = self.campaign.failures.get_mut(&name) {
                failure.unrepeated = captured.finding.unrepeated.is_some();
                failure.text = captured.text;
            }
        }
        self.campaign.interrupted |= process::interrupted();
        Ok(())
    }

    /// A failure that did not repeat, or of which the smallest plan went two ways.
    fn doubt(&mut self, captured: &Captured, report: &Report) {
        let capsule = captured.dir.display().to_string();
        if let Some(again) = &captured.finding.unrepeated {
            self.diverged(Divergence::new(&capsule, report, again));
        } else if let Some(minimal) = &captured.finding.minimal
            && let Some(again) = &minimal.other
        {
            self.diverged(Divergence::new(&capsule, &minimal.outcome.report, again));
        }
    }

    /// Two runs of one plan.
    fn compare(&mut self, job: &Job<'a>, first: &Report, second: &Report) -> std::io::Result<()> {
        // A run that the watchdog ended says nothing about digests.
        if matches!(second.verdict, Verdict::Hung { .. }) {
            return Ok(());
        }
        if first.digest == second.digest && first.verdict == second.verdict {
            return Ok(());
        }
        let mut parted = None;
        for _ in 0..RECORDED_PAIRS {
            let record = || Pool::run(Job { record: true, ..job.clone() }, self.limit);
            parted = first_difference(&record()?, &record()?);
            if parted.is_some() {
                break;
            }
        }
        let what = match &self.out {
            Some(out) if !first.named_by_seed => out.divergence(&job.plan())?.display().to_string(),
            _ => format!("{}:{}", first.scenario, first.seed),
        };
        self.diverged(Divergence { first: parted, ..Divergence::new(&what, first, second) });
        Ok(())
    }

    fn diverged(&mut self, divergence: Divergence) {
        if self.args.json {
            self.print_json(&JsonLine::Divergence(&divergence));
        } else {
            self.print(&divergence_text(&divergence));
        }
        self.campaign.divergences.push(divergence);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn finish(&mut self, registry: &Registry<'_>, demanding: bool) -> std::io::Result<()> {
        self.bar.finish_and_clear();
        if self.campaign.failures.values().any(|failure| !failure.text.is_empty()) && !self.args.json {
            self.print("\n");
        }
        self.campaign.judge(&self.scenarios, demanding);
        let written = self.out.as_ref().map_or(Ok(()), |out| out.results(&self.campaign));
        let written = written.and_then(|()| match self.args.annotate {
            Some(Annotate::Github) => self.annotate(),
            None => Ok(()),
        });
        if self.args.json {
            self.print_json(&JsonLine::Summary(&self.campaign));
        } else {
            let paint = Paint::new(colour());
            // A sweep of one scenario is not measured on what only another can reach.
            let reachable: BTreeSet<&str> =
                self.scenarios.iter().flat_map(|s| s.vocabulary().points).map(|p| p.name).collect();
            let points: Vec<Point> =
                registry.points.iter().filter(|p| reachable.contains(p.name)).copied().collect();
            self.print(&table::text(&self.campaign, &points, self.args.matrix, paint));
            if let Some(out) = &self.out {
                self.print(&format!("report  {}\n", out.report().display()));
            }
        }
        written
    }

    fn annotate(&self) -> std::io::Result<()> {
        let text = github::annotations(&self.campaign);
        if self.args.json {
            eprint!("{text}");
        } else {
            self.print(&text);
        }
        github::write_summary(&self.campaign)
    }

    fn print_json(&self, line: &JsonLine<'_>) {
        let line = serde_json::to_string(line).expect("a report is plain data");
        self.print(&(line + "\n"));
    }

    fn print(&self, text: &str) {
        self.bar.suspend(|| {
            // A reader that has gone away ends the process by a signal; nothing else can fail here that could be told.
            let _ = std::io::stdout().write_all(text.as_bytes());
        });
    }
}

/// True if the plan is one of those that are run twice, `permille` of a thousand. It is drawn by what the plan is, not by its
/// number, so that every part of a campaign has its share.
fn is_drawn(plan: &str, permille: u64) -> bool {
    xxh3_64(plan.as_bytes()) % 1000 < permille
}

fn first_difference(a: &Outcome, b: &Outcome) -> Option<[String; 2]> {
    let (mut a, mut b) = (a.story.iter().flatten(), b.story.iter().flatten());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (x, y) if x == y => {}
            (x, y) => {
                let side = |e: Option<_>| e.map_or_else(|| "(the run has ended)".into(), line);
                return Some([side(x), side(y)]);
            }
        }
    }
}

fn divergence_text(divergence: &Divergence) -> String {
    let Divergence { scenario, seed, digests, told, replay, first } = divergence;
    let mut text = format!("NON-DETERMINISM  {scenario}:{seed}  {told}\n");
    match first {
        Some([one, other]) => text.push_str(&format!("  one run    {one}\n  the other  {other}\n")),
        // Where a run gave no report there is nothing to compare.
        None if digests.contains(&String::new()) => {}
        None => text.push_str("  recorded runs did not part; what differs depends on not recording\n"),
    }
    text + &format!("  replay     {replay}\n")
}

#[expect(clippy::disallowed_methods, reason = "the environment decides about the terminal, not about a plan")]
fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var("NO_COLOR").map_or(true, |v| v.is_empty())
}

/// The job of the same plan under its k-th other schedule.
fn scheduled<'a>(job: &Job<'a>, k: u64) -> Job<'a> {
    let mut plan = job.plan();
    plan.schedule_seed = Key::root(plan.schedule_seed).draw("schedule", &[k]).u64();
    Job { what: What::Plan(Box::new(plan)), ..job.clone() }
}

fn bar(total: Option<u64>, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let Some(total) = total else {
        let style = ProgressStyle::with_template("{spinner} {pos} plans  {per_sec}  {elapsed}")
            .expect("the template is well formed");
        return ProgressBar::no_length().with_style(style);
    };
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} plans  {per_sec}  {elapsed} of about {duration}")
            .expect("the template is well formed");
    ProgressBar::new(total).with_style(style)
}

/// `N` or `A..B`.
fn seeds(text: &str) -> Result<Range<u64>, Usage> {
    let bad = || Usage(format!("--seeds {text}: neither a number above 0 nor A..B with A below B"));
    let range = match text.split_once("..") {
        Some((a, b)) => a.parse().map_err(|_| bad())?..b.parse().map_err(|_| bad())?,
        None => 0..text.parse().map_err(|_| bad())?,
    };
    if range.is_empty() { Err(bad()) } else { Ok(range) }
}

/// `k/n`, as (k - 1, n).
fn parse_shard(text: &str) -> Result<(u64, u64), Usage> {
    let bad = || Usage(format!("--shard {text}: not k/n with 1 <= k <= n"));
    let (k, n) = text.split_once('/').ok_or_else(bad)?;
    let (k, n): (u64, u64) = (k.parse().map_err(|_| bad())?, n.parse().map_err(|_| bad())?);
    if (1..=n).contains(&k) { Ok((k - 1, n)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_campaign_has_its_share_of_plans_that_are_run_twice() {
        // Ids are hashes; these stand for those of 10,000 seeds.
        let drawn = |permille, part: u64| {
            let ids = (0..10_000).filter(|seed| seed % 4 == part).map(|seed: u64| format!("{seed:016x}"));
            ids.filter(|id| is_drawn(id, permille)).count()
        };
        for part in 0..4 {
            assert_eq!((drawn(0, part), drawn(1000, part)), (0, 2_500));
            let some = drawn(20, part);
            assert!((25..=80).contains(&some), "part {part} has {some} of 2500");
        }
    }

    #[test]
    fn bounds_are_read_or_refused() {
        assert_eq!(seeds("7").unwrap(), 0..7);
        assert_eq!(seeds("3..9").unwrap(), 3..9);
        for bad in ["", "0", "9..3", "x", "1..", "-1"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_shard("2/3").unwrap(), (1, 3));
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(parse_shard(bad).is_err(), "{bad}");
        }
        assert_eq!(super::super::duration("10m").unwrap(), Duration::from_secs(600));
        for bad in ["", "10", "m", "10d", "99999999999999999999s", "1µ"] {
            assert!(super::super::duration(bad).is_err(), "{bad}");
        }
    }
}
