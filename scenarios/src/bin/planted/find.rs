//! The ways of looking for a bug: each asks the patched binary through its command line and reads its JSON.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::bug::Bug;

/// A patched binary, and how to run it.
pub struct Binary {
    pub path: PathBuf,
    /// A directory for what searches leave.
    pub scratch: PathBuf,
    pub jobs: Option<usize>,
}

/// How far searches without a number of seeds may go.
pub struct Limits {
    /// As on the command line: 90s, 10m.
    pub time: String,
    /// Longest sequence of a mini workload.
    pub mini: usize,
}

/// What one way of looking led to.
pub struct Found {
    /// The way.
    pub how: &'static str,
    /// Plans that were run, or images that were recovered from.
    pub looked_at: u64,
    /// How many of them failed.
    pub failing: u64,
    /// CPU time of all of it, in microseconds.
    pub cpu_us: u64,
    /// The first failure.
    pub first: Option<First>,
    /// Operations and faults of the first failing plan after shrinking.
    pub shrunk: Option<(u64, u64)>,
}

/// A first failure.
pub struct First {
    /// How to run it again: SCENARIO:SEED, or the path of a plan.
    pub plan: String,
    /// What fired.
    pub oracle: String,
    /// How many were looked at until then, itself included. Unknown for a census, which looks at many at once.
    pub until: Option<u64>,
    /// CPU time until then, in microseconds; of a census that of the whole.
    pub cpu_us: u64,
}

impl Found {
    pub fn is_found(&self) -> bool {
        self.first.is_some()
    }
}

impl Binary {
    /// The lines of JSON that the command prints. Its exit status does not matter: a failure is what we want.
    fn ask(&self, args: &[&str]) -> Result<Vec<Value>, String> {
        let mut command = Command::new(&self.path);
        command.args(args).arg("--json").stderr(Stdio::piped());
        if let Some(jobs) = self.jobs {
            command.args(["--jobs", &jobs.to_string()]);
        }
        let output = command.output().map_err(|e| format!("{}: {e}", self.path.display()))?;
        if output.status.code() == Some(2) {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// Seeds from 0 on. They end in any order; the first is the lowest.
pub fn sweep(binary: &Binary, bug: &Bug, seeds: u64) -> Result<Found, String> {
    let lines = binary.ask(&["sweep", &bug.scenario, "--seeds", &format!("0..{seeds}")])?;
    let mut plans: Vec<&Value> = lines.iter().filter(|line| line["seed"].is_u64()).collect();
    plans.sort_by_key(|line| line["seed"].as_u64());
    let mut found = count("sweep", &plans);
    if let Some((at, first)) = first_failing(&plans) {
        let plan = format!("{}:{}", bug.scenario, first["seed"]);
        found.first = Some(first_of(&plans[..=at], plan));
    }
    nonempty(bug, found)
}

/// A guided search with a master seed of its own.
pub fn guided(binary: &Binary, bug: &Bug, limits: &Limits) -> Result<Found, String> {
    let args = ["fuzz", &bug.scenario, "--strategy", "guided", "--seed", "1", "--time", &limits.time];
    nonempty(bug, searched("guided", binary, &args)?)
}

/// A run without faults in which each call fails once. It looks at nothing if that run fails by itself.
pub fn errors(binary: &Binary, bug: &Bug) -> Result<Found, String> {
    searched("errors", binary, &["errors", &bug.scenario])
}

/// A search whose plans no seed names: those of its failures are left in the scratch directory.
fn searched(how: &'static str, binary: &Binary, args: &[&str]) -> Result<Found, String> {
    let out = fresh(&binary.scratch.join(how))?;
    let lines = binary.ask(&[args, &["--out", &out.to_string_lossy()]].concat())?;
    let plans: Vec<&Value> = lines.iter().filter(|line| line["seed"].is_u64()).collect();
    let mut found = count(how, &plans);
    if let Some((at, _)) = first_failing(&plans) {
        found.first = Some(first_of(&plans[..=at], kept_plan(&out).unwrap_or_default()));
    }
    Ok(found)
}

/// A census of the crash images of all short sequences of operations; nothing if the scenario has no mini workload.
pub fn census(binary: &Binary, bug: &Bug, limits: &Limits) -> Result<Option<Found>, String> {
    if bug.scenario != "store" {
        return Ok(None);
    }
    let mini = limits.mini.to_string();
    let lines = binary.ask(&["census", &bug.scenario, "--mini", &mini, "--time", &limits.time])?;
    let summary = lines
        .iter()
        .find(|line| line["type"] == "summary")
        .ok_or_else(|| format!("{}: the census has no summary", bug.name))?;
    let number = |name: &str| summary[name].as_u64().unwrap_or(0);
    let violations = lines.iter().filter(|line| line["type"] == "violation");
    let failing = violations.clone().filter_map(|violation| violation["count"].as_u64()).sum();
    let mut found = Found {
        how: "census",
        looked_at: number("recovered"),
        failing,
        cpu_us: number("cpu_us"),
        first: None,
        shrunk: None,
    };
    if let Some(violation) = violations.clone().next() {
        let path = fresh(&binary.scratch.join("census"))?.join("plan.json");
        std::fs::write(&path, violation["plan"].to_string())
            .map_err(|e| format!("{}: {e}", path.display()))?;
        found.first = Some(First {
            plan: path.to_string_lossy().into_owned(),
            oracle: named(violation).unwrap_or_default(),
            until: None,
            cpu_us: found.cpu_us,
        });
    }
    Ok(Some(found))
}

/// Shrinks the first failing plan, and notes what is left of it.
pub fn shrink(binary: &Binary, bug: &Bug, found: &mut Found) -> Result<(), String> {
    let Some(first) = found.first.as_ref().filter(|first| !first.plan.is_empty()) else { return Ok(()) };
    let lines = binary.ask(&["shrink", &first.plan])?;
    let size = |line: &Value| Some((line["ops"].as_u64()?, line["faults"].as_u64()?));
    found.shrunk = lines.iter().find_map(size);
    match found.shrunk {
        Some(_) => Ok(()),
        None => Err(format!("{}: {} does not shrink", bug.name, first.plan)),
    }
}

fn count(how: &'static str, plans: &[&Value]) -> Found {
    let failing = plans.iter().filter(|line| failed_oracle(&line["verdict"]).is_some()).count();
    Found {
        how,
        looked_at: plans.len() as u64,
        failing: failing as u64,
        cpu_us: cpu_us(plans),
        first: None,
        shrunk: None,
    }
}

fn cpu_us(plans: &[&Value]) -> u64 {
    plans.iter().filter_map(|line| line["cpu_us"].as_u64()).sum()
}

fn first_failing<'a>(plans: &[&'a Value]) -> Option<(usize, &'a Value)> {
    let failing = |(_, line): &(usize, &&Value)| failed_oracle(&line["verdict"]).is_some();
    plans.iter().enumerate().find(failing).map(|(at, line)| (at, *line))
}

/// The last of `plans` is the first that fails.
fn first_of(plans: &[&Value], plan: String) -> First {
    let oracle = plans.last().and_then(|line| failed_oracle(&line["verdict"])).unwrap_or_default();
    First { plan, oracle, until: Some(plans.len() as u64), cpu_us: cpu_us(plans) }
}

fn nonempty(bug: &Bug, found: Found) -> Result<Found, String> {
    match found.looked_at {
        0 => Err(format!("{}: the {} reported no plan", bug.name, found.how)),
        _ => Ok(found),
    }
}

/// What fired, if the verdict is not `held`: the oracle and the property it found broken.
fn failed_oracle(verdict: &Value) -> Option<String> {
    if verdict == "held" {
        return None;
    }
    named(&verdict["violated"]).or_else(|| match verdict {
        Value::Object(fields) => fields.keys().next().cloned(),
        other => other.as_str().map(Into::into),
    })
}

fn named(violation: &Value) -> Option<String> {
    Some(format!("{}: {}", violation["oracle"].as_str()?, violation["property"].as_str()?))
}

/// The plan of a failure that a search has kept.
fn kept_plan(out: &Path) -> Option<String> {
    let mut kept: Vec<PathBuf> =
        std::fs::read_dir(out.join("failures")).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    kept.sort();
    Some(kept.first()?.join("plan.json").to_string_lossy().into_owned())
}

/// An empty directory.
fn fresh(dir: &Path) -> Result<PathBuf, String> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_failure_is_the_lowest_seed_and_costs_all_before_it() {
        let violated = json!({ "violated": { "oracle": "o", "property": "p" } });
        let lines = [json!("held"), violated, json!({ "panicked": {} })]
            .map(|v| json!({ "verdict": v, "cpu_us": 5 }));
        let plans: Vec<&Value> = lines.iter().collect();
        let (at, _) = first_failing(&plans).unwrap();
        let first = first_of(&plans[..=at], "s:1".into());
        assert_eq!((first.until, first.cpu_us, first.oracle.as_str()), (Some(2), 10, "o: p"));
        assert_eq!(count("sweep", &plans).failing, 2);
        assert_eq!(failed_oracle(&lines[2]["verdict"]).as_deref(), Some("panicked"));
        assert_eq!(failed_oracle(&json!("timed_out")).as_deref(), Some("timed_out"));
    }
}
