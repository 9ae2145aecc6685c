//! `cutwater corpus`: what a guided search has kept, brought together and cut down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CorpusVerb, HELD, Registry, Usage, VIOLATED};
use crate::plan::Plan;
use crate::runner::{Job, Pool, What};
use crate::scenario::Scenario;
use crate::search::corpus::{self, Kept};
use crate::verdict::Report;

/// A plan of a corpus may take so much real time.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(registry: &Registry<'_>, verb: &CorpusVerb) -> Result<u8, Usage> {
    match verb {
        CorpusVerb::List { dir } => list(&read(registry, dir)?),
        CorpusVerb::Min { dir } => {
            let plans = runnable(registry, dir)?;
            let (needed, _) = needed(registry, &plans)?;
            let spare: Vec<&PathBuf> =
                plans.iter().map(|(path, _)| path).filter(|path| !needed.contains(*path)).collect();
            for path in &spare {
                remove(path).map_err(|e| Usage(format!("{}: {e}", path.display())))?;
            }
            println!("{} plans, {} removed", plans.len() - spare.len(), spare.len());
            Ok(HELD)
        }
        CorpusVerb::Merge { dir, from } => {
            create(dir).map_err(|e| Usage(format!("{}: {e}", dir.display())))?;
            let mut plans = runnable(registry, dir)?;
            let before = plans.len();
            for dir in from {
                plans.extend(runnable(registry, dir)?);
            }
            let (needed, failed) = needed(registry, &plans)?;
            let mut added = 0;
            for (_, plan) in plans.iter().skip(before).filter(|(path, _)| needed.contains(path)) {
                corpus::write(dir, plan).map_err(|e| Usage(format!("{}: {e}", dir.display())))?;
                added += 1;
            }
            println!("{added} plans added of {}, {failed} fail", plans.len() - before);
            Ok(if failed > 0 { VIOLATED } else { HELD })
        }
    }
}

fn read(registry: &Registry<'_>, dir: &Path) -> Result<Vec<Kept>, Usage> {
    corpus::read(dir, registry.scenarios).map_err(|e| Usage(format!("{}: {e}", dir.display())))
}

/// The plans in `dir` that can be run, with their files. What cannot may not even be ours: it is named, and left as it is.
fn runnable(registry: &Registry<'_>, dir: &Path) -> Result<Vec<(PathBuf, Plan)>, Usage> {
    let mut plans = Vec::new();
    for Kept { path, plan } in read(registry, dir)? {
        match plan {
            Ok(plan) => plans.push((path, plan)),
            Err(why) => {
                let told = format!("{}: left out: {why}", path.display());
                eprintln!("cutwater: {}", told.replace(char::is_control, " "));
            }
        }
    }
    Ok(plans)
}

#[expect(clippy::disallowed_methods, reason = "a corpus lies on the real disk")]
fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_file(path)
}

#[expect(clippy::disallowed_methods, reason = "a corpus lies on the real disk")]
fn create(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)
}

fn list(kept: &[Kept]) -> Result<u8, Usage> {
    println!("{:<12} {:<18} {:>5} {:>7}  file", "scenario", "plan", "ops", "faults");
    for Kept { path, plan } in kept {
        match plan {
            Ok(plan) => println!(
                "{:<12} {:<18} {:>5} {:>7}  {}",
                plan.scenario,
                plan.id(),
                plan.ops.len(),
                plan.faults.len(),
                path.display()
            ),
            Err(why) => println!("{:<12} {:<18} {:>5} {:>7}  {}: {why}", "-", "-", "-", "-", path.display()),
        }
    }
    Ok(HELD)
}

/// The files that together reach everything that all of them do, and how many plans failed; what fails is needed, too.
fn needed(registry: &Registry<'_>, plans: &[(PathBuf, Plan)]) -> Result<(BTreeSet<PathBuf>, usize), Usage> {
    let reports = run_all(registry, plans)?;
    let mut edges: Vec<BTreeSet<u32>> = Vec::new();
    let mut names: BTreeMap<&str, u32> = BTreeMap::new();
    let mut needed = BTreeSet::new();
    for ((path, _), report) in plans.iter().zip(&reports) {
        if !report.verdict.held() {
            needed.insert(path.clone());
        }
        // The edges of different scenarios are different edges.
        let count = names.len() as u32;
        let of = *names.entry(report.scenario.as_str()).or_insert(count);
        let reached = report.coverage.iter().flat_map(|coverage| &coverage.edges);
        edges.push(reached.map(|edge| of << 16 | u32::from(*edge)).collect());
    }
    let failed = needed.len();
    needed.extend(corpus::cover(&edges).into_iter().map(|i| plans[i].0.clone()));
    Ok((needed, failed))
}

/// Runs the plans, and returns their reports in the same order.
fn run_all(registry: &Registry<'_>, plans: &[(PathBuf, Plan)]) -> Result<Vec<Report>, Usage> {
    let scenarios: BTreeMap<&str, &dyn Scenario> =
        registry.scenarios.iter().map(|scenario| (scenario.name(), *scenario)).collect();
    let jobs: VecDeque<Job<'_>> = plans
        .iter()
        .map(|(_, plan)| Job {
            edges: true,
            ..Job::new(scenarios[plan.scenario.as_str()], What::Plan(Box::new(plan.clone())))
        })
        .collect();
    Pool::run_all(jobs, LIMIT).map_err(|e| Usage(format!("cannot start a process: {e}")))
}
