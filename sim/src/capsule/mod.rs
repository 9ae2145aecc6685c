//! A failure as a capsule: one directory with everything that somebody needs who was not there.
//!
//! | file | what |
//! |---|---|
//! | `README.md` | the failure on one screen: what was expected and found, the minimal plan, what it needs, how to repeat it |
//! | `plan.json`, `plan.min.json` | the plan that failed, and the smallest one that fails alike |
//! | `verdict.json` | signature, versions, the seeds that fail alike, both reports, what shrinking and explaining found |
//! | `trace.jsonl` | every event of the minimal plan, one a line |
//! | `timeline.html` | the same as a page, to be opened from disk |
//! | `trace.perfetto.json` | the same for ui.perfetto.dev |
//! | `history.txt` | what clients asked for and were told |
//! | `disk-n1-crash1.txt` | for each power failure: what was lost and kept, the disk before and after |
//! | `regression.rs` | a ready `#[test]` |
//!
//! [`capture`] makes one: it shrinks within a budget, explains, records the minimal plan, and writes. A directory is named
//! after scenario and signature, so that the seeds of a campaign that fail alike are counted in one place.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::explain::{self, Decided, Essential, Item};
use crate::plan::Plan;
use crate::runner::{Job, Pool, What};
use crate::scenario::Scenario;
use crate::shrink::laboratory::Bench;
use crate::shrink::{self, Subject};
use crate::verdict::{Outcome, Report, Verdict};

pub mod regression;
mod text;
mod write;

pub use text::one_screen;
pub(crate) use text::plain;
pub use write::{PLAN, PLAN_MIN, forget, read_report, write};

/// The version of `verdict.json`.
pub const SCHEMA: u32 = 1;
/// Of a plan with more items it takes too long to find out which are needed.
const EXPLAINED_ITEMS_MAX: usize = 60;

/// A failure, and what is known of it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The plan that failed.
    pub plan: Plan,
    /// How.
    pub report: Report,
    /// Seeds that fail alike, in order.
    pub seeds: Vec<u64>,
    /// The seed in the report names the plan, in this version of the code.
    pub seed_names_it: bool,
    /// The smallest plan that fails alike, if one was looked for.
    pub minimal: Option<Minimal>,
}

/// The smallest plan that fails alike.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// It.
    pub plan: Plan,
    /// A recorded run of it.
    pub outcome: Outcome,
    /// What it took, and what it shows.
    pub shrinking: Shrinking,
    /// What the failure needs.
    pub essential: Option<Essential>,
    /// When it was decided.
    pub decided: Option<Decided>,
}

/// What shrinking took, and what it showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shrinking {
    /// Runs.
    pub runs: u64,
    /// Nothing can be taken away; false if the budget came first.
    pub is_minimal: bool,
    /// Two runs of the minimal plan have the same verdict and digest.
    pub is_deterministic: bool,
    /// File systems with whether the plan fails on them, the strictest first.
    pub fails_on: Vec<(String, bool)>,
    /// Signatures that were met on the way, each with a plan that shows it.
    pub others: std::collections::BTreeMap<String, Plan>,
}

/// How much may be spent on shrinking and explaining one failure.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Real time for shrinking; explaining may take half as long again.
    pub time: Duration,
    /// Runs for shrinking.
    pub runs: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { time: Duration::from_secs(50), runs: 3_000 }
    }
}

/// How plans are run while a failure is looked into.
#[derive(Clone)]
pub struct Means<'a> {
    /// The scenario.
    pub scenario: &'a dyn Scenario,
    /// How many plans at once.
    pub jobs: usize,
    /// How long one may take, in real time.
    pub limit: Duration,
    /// Shows progress there.
    pub bar: ProgressBar,
}

impl Means<'_> {
    fn bench(&self, time: Duration) -> Bench<'_> {
        Bench::new(self.scenario, self.jobs, self.limit, Some(time)).with_bar(self.bar.clone())
    }

    /// Runs a plan, recorded or not.
    ///
    /// # Errors
    /// The system gives no more processes or pipes.
    pub fn run(&self, plan: &Plan, record: bool) -> io::Result<Outcome> {
        let what = What::Plan(Box::new(plan.clone()));
        let mut outcome = Pool::run(Job { record, ..Job::new(self.scenario, what) }, self.limit)?;
        // A child that gives no report knows neither.
        outcome.report.plan = plan.id();
        outcome.report.seed = plan.seed;
        Ok(outcome)
    }

    /// Shrinks `plan`, which fails with `signature`, and explains what is left.
    ///
    /// # Errors
    /// The system gives no more processes or pipes.
    pub fn look_into(&self, plan: &Plan, signature: &str, budget: Budget) -> io::Result<Minimal> {
        let vocabulary = self.scenario.vocabulary();
        let subject = Subject { vocabulary, personalities: self.scenario.personalities() };
        let mut bench = self.bench(budget.time);
        let shrunk = shrink::shrink(plan, &subject, signature, budget.runs, &mut bench)?;
        let mut bench = self.bench(budget.time / 2);
        let few = shrunk.plan.ops.len() + shrunk.plan.faults.len() <= EXPLAINED_ITEMS_MAX;
        let mut essential = if few { explain::essential(&shrunk.plan, signature, &mut bench)? } else { None };
        // Of the file systems it is told anyway on which ones it fails.
        if let (Some(essential), Some((knob, _))) = (&mut essential, subject.personalities) {
            essential.forget(&Item::Knob(knob.into()));
        }
        let decided = explain::decided(&shrunk.plan, signature, &mut bench)?;
        let outcome = self.run(&shrunk.plan, true)?;
        let again = self.run(&shrunk.plan, false)?;
        let same =
            |a: &Report, b: &Report| a.digest == b.digest && a.verdict.signature() == b.verdict.signature();
        let shrinking = Shrinking {
            runs: shrunk.runs,
            is_minimal: shrunk.is_minimal,
            is_deterministic: same(&outcome.report, &again.report),
            fails_on: shrunk.fails_on.into_iter().map(|(name, fails)| (name.into(), fails)).collect(),
            others: shrunk.others,
        };
        Ok(Minimal { plan: shrunk.plan, outcome, shrinking, essential, decided })
    }
}

/// A capsule that was written.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Where.
    pub dir: PathBuf,
    /// What is in it.
    pub finding: Finding,
    /// The failure on one screen.
    pub text: String,
}

/// Looks into a failure, and writes its capsule below `root`. Without a budget the plan is kept as it is.
///
/// # Errors
/// The system gives no more processes, or the directory cannot be written.
pub fn capture(
    means: &Means<'_>,
    plan: &Plan,
    report: &Report,
    seeds: &[u64],
    budget: Option<Budget>,
    root: &Path,
) -> io::Result<Captured> {
    let signature = report.verdict.signature();
    let minimal = match budget {
        Some(budget) if !matches!(report.verdict, Verdict::Invalid { .. }) => {
            Some(means.look_into(plan, &signature, budget)?)
        }
        _ => None,
    };
    let recorded = match &minimal {
        Some(minimal) => minimal.outcome.clone(),
        None => means.run(plan, true)?,
    };
    let finding = Finding {
        plan: plan.clone(),
        report: report.clone(),
        seeds: seeds.to_vec(),
        seed_names_it: means.scenario.generate(plan.seed) == *plan,
        minimal,
    };
    let dir = root.join(format!("{}-{signature}", report.scenario));
    let text = one_screen(&finding, Some(&dir));
    write(&finding, &recorded, &text, &dir)?;
    Ok(Captured { dir, finding, text })
}

/// Where capsules go if nobody says: `cutwater/` in the build directory of this program, or in `target/` here.
pub fn default_root() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let build = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    let build = build.map_or_else(|| PathBuf::from("target"), Path::to_path_buf);
    // Shorter to copy if it lies below this directory.
    let here = std::env::current_dir().unwrap_or_default();
    build.strip_prefix(&here).map(Path::to_path_buf).unwrap_or(build).join("cutwater")
}
