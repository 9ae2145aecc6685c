//! Plans that reached new edges, as files: `DIR/<scenario>-<id>.json`.
//!
//! A corpus outlives the build that wrote it. A plan that the vocabulary of today refuses is left where it is and named; what a
//! plan reaches is found out by running it, never stored.
#![expect(clippy::disallowed_methods, reason = "a corpus lies on the real disk")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::plan::{self, Plan};
use crate::scenario::Scenario;

/// A file in a corpus.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds, or why that cannot be run.
    pub plan: Result<Plan, String>,
}

/// Every plan in `dir`, in the order of their names.
///
/// # Errors
/// The directory cannot be read.
pub fn read(dir: &Path, scenarios: &[&dyn Scenario]) -> io::Result<Vec<Kept>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| Kept { plan: plan(&path, scenarios), path }).collect())
}

fn plan(path: &Path, scenarios: &[&dyn Scenario]) -> Result<Plan, String> {
    let text = plan::read_file(path).map_err(|e| e.to_string())?;
    let plan = Plan::from_json(&text).map_err(|e| e.to_string())?;
    let scenario = scenarios
        .iter()
        .find(|scenario| scenario.name() == plan.scenario)
        .ok_or_else(|| format!("unknown scenario `{}`", plan.scenario))?;
    plan.validate(&scenario.vocabulary()).map_err(|e| e.to_string())?;
    Ok(plan)
}

/// Adds a plan, unless it is there; a reader never sees half of it.
///
/// # Errors
/// The directory cannot be written to.
pub fn write(dir: &Path, plan: &Plan) -> io::Result<()> {
    let name = format!("{}-{}", plan.scenario, plan.id());
    let path = dir.join(format!("{name}.json"));
    if path.exists() {
        return Ok(());
    }
    let half = dir.join(format!("{name}.part"));
    std::fs::write(&half, plan.to_json())?;
    std::fs::rename(&half, &path)
}

/// Which of `sets` together have every element that all have: greedily the one with the most that is new. Ascending.
pub fn cover(sets: &[BTreeSet<u32>]) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut covered = BTreeSet::new();
    loop {
        let gain = |set: &BTreeSet<u32>| set.difference(&covered).count();
        // Of equals the first.
        let best = (0..sets.len()).max_by_key(|i| (gain(&sets[*i]), std::cmp::Reverse(*i)));
        let Some(best) = best.filter(|i| gain(&sets[*i]) > 0) else { break };
        covered.extend(&sets[best]);
        chosen.push(best);
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_has_everything_and_nothing_to_spare() {
        let sets: Vec<BTreeSet<u32>> =
            [&[1, 2][..], &[2, 3, 4], &[4], &[], &[1]].iter().map(|s| s.iter().copied().collect()).collect();
        assert_eq!(cover(&sets), [0, 1]);
        assert_eq!(cover(&[]), [0usize; 0]);
    }
}
