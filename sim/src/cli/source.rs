//! What a plan can be named by: a seed, a plan file, a capsule, a regression.

use std::path::{Path, PathBuf};

use super::{Registry, Usage};
use crate::capsule::regression::Regression;
use crate::capsule::{PLAN, PLAN_MIN};
use crate::plan::{Plan, read_file};
use crate::scenario::Scenario;

/// A plan that fits its scenario.
pub(super) struct Source<'a> {
    pub(super) scenario: &'a dyn Scenario,
    pub(super) plan: Plan,
    /// Where it was read, if no seed names it.
    pub(super) path: Option<PathBuf>,
}

/// The plan that `what` names: of a capsule the minimal one.
pub(super) fn load<'a>(registry: &Registry<'a>, what: &str) -> Result<Source<'a>, Usage> {
    // What looks like a file is one: a scenario's name has neither slash nor dot.
    let is_path = what.contains(['/', '.']) || !what.contains(':');
    if !is_path {
        let (scenario, seed) = registry.seed(what)?;
        return Ok(Source { scenario, plan: scenario.generate(seed), path: None });
    }
    let path = Path::new(what);
    if registry.scenarios.iter().any(|scenario| scenario.name() == what) && !path.exists() {
        return Err(Usage(format!("`{what}` is a scenario; name a plan of it by a seed, as in {what}:0")));
    }
    let file = if path.join(PLAN_MIN).is_file() {
        path.join(PLAN_MIN)
    } else if path.join(PLAN).is_file() {
        path.join(PLAN)
    } else if path.is_dir() {
        return Err(Usage(format!(
            "{}: a directory that is no capsule (a capsule holds {PLAN_MIN} or {PLAN})",
            path.display()
        )));
    } else {
        path.to_path_buf()
    };
    let said = |e: &dyn std::fmt::Display| Usage(format!("{}: {e}", file.display()));
    let text = read_file(&file).map_err(|e| said(&e))?;
    let plan = plan_of(&text).map_err(|e| said(&e))?;
    let scenario = fitting(registry, &plan).map_err(|e| said(&e))?;
    Ok(Source { scenario, plan, path: Some(path.to_path_buf()) })
}

/// A plan file, or a regression.
fn plan_of(text: &str) -> Result<Plan, Usage> {
    let fields: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let is_regression = fields.is_some_and(|fields| fields.get("regression").is_some());
    let plan =
        if is_regression { Regression::from_json(text).map(|r| r.plan) } else { Plan::from_json(text) };
    plan.map_err(|e| Usage(e.to_string()))
}

/// The scenario of a plan that is valid for it.
pub(super) fn fitting<'a>(registry: &Registry<'a>, plan: &Plan) -> Result<&'a dyn Scenario, Usage> {
    let scenario = registry.scenario(&plan.scenario)?;
    plan.validate(&scenario.vocabulary()).map_err(|e| Usage(e.to_string()))?;
    Ok(scenario)
}
