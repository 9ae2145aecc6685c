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

use crate::explain::{self, Decided, Essential};
use crate::plan::Plan;
use crate::runner::{Job, Pool, What, process};
use crate::scenario::Scenario;
use crate::shrink::laboratory::Bench;
use crate::shrink::{self, Personalities, Subject};
use crate::verdict::{Outcome, Report, Verdict};
use crate::vocabulary::Vocabulary;

pub(crate) mod kept;
pub mod regression;
mod text;
mod write;

pub use text::one_screen;
pub(crate) use text::{name, plain, setting, unrepeated};
pub use write::{PLAN, PLAN_MIN, read_report, write};
pub(crate) use write::{named, set_aside};

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
    /// How the same plan ended when it was run once more, if not like this.
    pub unrepeated: Option<Report>,
}

/// The smallest plan that fails alike.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// It.
    pub plan: Plan,
    /// What its operations are made of.
    pub vocabulary: Vocabulary,
    /// The knob that says which file system the disks have, and the names of its values.
    pub personalities: Option<Personalities>,
    /// A recorded run of it.
    pub outcome: Outcome,
    /// What it took, and what it shows.
    pub shrinking: Shrinking,
    /// What the failure needs.
    pub essential: Option<Essential>,
    /// When it was decided.
    pub decided: Option<Decided>,
    /// Another run of it, if that went another way.
    pub other: Option<Report>,
}

/// What shrinking took, and what it showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shrinking {
    /// Runs.
    pub runs: u64,
    /// Nothing can be taken away; false if the budget came first.
    pub is_minimal: bool,
    /// It was not the budget: somebody pressed Ctrl-C.
    #[serde(default)]
    pub interrupted: bool,
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
        let interrupted = !shrunk.is_minimal && process::interrupted();
        let mut bench = self.bench(budget.time / 2);
        let few = shrunk.plan.ops.len() + shrunk.plan.faults.len() <= EXPLAINED_ITEMS_MAX;
        let essential = if few {
            explain::essential(&shrunk.plan, signature, subject.personalities, &mut bench)?
        } else {
            None
        };
        let decided = explain::decided(&shrunk.plan, signature, &mut bench)?;
        let outcome = self.run(&shrunk.plan, true)?;
        let again = self.run(&shrunk.plan, false)?;
        let same = repeats(&again.report, &outcome.report);
        let shrinking = Shrinking {
            runs: shrunk.runs,
            is_minimal: shrunk.is_minimal,
            interrupted,
            is_deterministic: same,
            fails_on: shrunk.fails_on.into_iter().map(|(name, fails)| (name.into(), fails)).collect(),
            others: shrunk.others,
        };
        let other = (!same).then_some(again.report);
        let Subject { vocabulary, personalities } = subject;
        Ok(Minimal {
            plan: shrunk.plan,
            vocabulary,
            personalities,
            outcome,
            shrinking,
            essential,
            decided,
            other,
        })
    }
}

/// True if the recorded run of a plan ended like the one that was not recorded. Recording takes time: if that is what the
/// watchdog was waiting for, it says nothing.
pub(crate) fn fails_alike(report: &Report, recorded: &Report) -> bool {
    let hung = |report: &Report| matches!(report.verdict, Verdict::Hung { .. });
    report.verdict.signature() == recorded.verdict.signature() || hung(recorded) && !hung(report)
}

/// True if the recorded run of a plan is the same as the one that was not recorded, as far as can be known.
fn repeats(report: &Report, recorded: &Report) -> bool {
    let hung = matches!(recorded.verdict, Verdict::Hung { .. });
    fails_alike(report, recorded) && (hung || report.digest == recorded.digest)
}

/// A capsule that was written.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Where.
    pub dir: PathBuf,
    /// Where a capsule of this name, but of another plan, was moved to, if there was one.
    pub aside: Option<PathBuf>,
    /// What is in it.
    pub finding: Finding,
    /// The failure on one screen.
    pub text: String,
}

/// Looks into a failure, and writes its capsule below `root`. Without a budget the plan is kept as it is, and so it is if it
/// does not fail alike a second time: there is nothing to look into, and what is known of the first run is all that there is.
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
    let mut recorded = means.run(plan, true)?;
    let unrepeated = (!fails_alike(report, &recorded.report)).then(|| recorded.report.clone());
    let minimal = match budget {
        Some(budget) if unrepeated.is_none() && !matches!(report.verdict, Verdict::Invalid { .. }) => {
            Some(means.look_into(plan, &signature, budget)?)
        }
        _ => None,
    };
    if let Some(minimal) = &minimal {
        recorded = minimal.outcome.clone();
    }
    let finding = Finding {
        plan: plan.clone(),
        report: report.clone(),
        seeds: seeds.to_vec(),
        seed_names_it: means.scenario.generate(plan.seed) == *plan,
        minimal,
        unrepeated,
    };
    let name = format!("{}-{signature}", report.scenario);
    let dir = root.join(&name);
    let aside = if write::is_of_another(plan, &dir) { set_aside(root, &[&name])? } else { None };
    let text = one_screen(&finding, Some(&dir));
    write(&finding, &recorded, &text, &dir)?;
    Ok(Captured { dir, aside, finding, text })
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
