//! The ways of looking for a bug: each asks the patched binary through its command line and reads its JSON.
//!
//! A search looks at some plans even if the first fails, so that a rate can be told, and ends with the first failure after
//! them, or when its seeds or its time are over. Nothing is shrunk on the way, nor run twice: that costs more than the search.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bug::Bug;
use super::checked;

/// A patched binary, and how to run it.
pub struct Binary {
    pub path: PathBuf,
    /// A directory for what searches leave.
    pub scratch: PathBuf,
    pub jobs: Option<usize>,
}

/// How far searches go.
pub struct Limits {
    /// Seeds of the sweep; all of them are looked in if they were asked for.
    pub seeds: u64,
    pub all_seeds: bool,
    /// Real time of each other way of looking, and of shrinking.
    pub time: Duration,
    /// Longest sequence of a mini workload.
    pub mini: usize,
}

/// So many plans are looked at even if the first fails.
const LEAST_PLANS: u64 = 60;
/// A plan that takes longer than so many seconds of real time hangs.
const HUNG: &str = "20";
/// How many runs shrinking may take.
const SHRINKING_RUNS: &str = "1000";

/// What one way of looking led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The way.
    pub how: String,
    /// Plans that were run, or images that were recovered from.
    pub looked_at: u64,
    /// How many of them failed.
    pub failing: u64,
    /// CPU time of all of it, in microseconds.
    pub cpu_us: u64,
    /// The first failure.
    pub first: Option<First>,
}

/// A first failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// How to run it again: SCENARIO:SEED, or the path of a plan; empty if it was not kept.
    pub plan: String,
    /// What fired.
    pub oracle: String,
    /// How many were looked at until then, itself included. Unknown for a census, which looks at many at once.
    pub until: Option<u64>,
    /// CPU time until then, in microseconds; of a census that of the whole.
    pub cpu_us: u64,
}

/// What is left of a plan that was shrunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub ops: u64,
    pub faults: u64,
}

impl Binary {
    /// The lines of JSON that the command prints. It is told to end after the line of which `is_enough` says so. Its exit
    /// status does not matter: a failure is what we want.
    fn ask(&self, args: &[&str], mut is_enough: impl FnMut(&Value) -> bool) -> Result<Vec<Value>, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", self.path.display());
        let said = self.scratch.join("stderr");
        let mut command = Command::new(&self.path);
        command.args(args).arg("--json").stdout(Stdio::piped());
        command.stderr(std::fs::File::create(&said).map_err(|e| format!("{}: {e}", said.display()))?);
        if let Some(jobs) = self.jobs {
            command.args(["--jobs", &jobs.to_string()]);
        }
        let mut child = command.spawn().map_err(failed)?;
        let mut lines = Vec::new();
        let mut was_told = false;
        let stdout = child.stdout.take().expect("it is piped");
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = serde_json::from_str(&line.map_err(failed)?) else { continue };
            if !was_told && is_enough(&line) {
                // As Ctrl-C does: it keeps the plans of what failed, and ends.
                checked(Command::new("sh").args(["-c", "kill -INT \"$1\"", "sh", &child.id().to_string()]))?;
                was_told = true;
            }
            lines.push(line);
        }
        if child.wait().map_err(failed)?.code() == Some(2) {
            let said = std::fs::read_to_string(&said).map_err(|e| format!("{}: {e}", said.display()))?;
            return Err(format!("{}: {}", args.join(" "), said.trim()));
        }
        Ok(lines)
    }

    /// An empty directory for what a search leaves.
    fn fresh(&self, how: &str) -> Result<PathBuf, String> {
        let dir = self.scratch.join(how);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// A campaign that keeps the plans of its failures in a directory of its own, as they are.
    fn campaign(
        &self,
        how: &str,
        args: &[&str],
        is_enough: impl FnMut(&Value) -> bool,
    ) -> Result<Vec<Value>, String> {
        let out = self.fresh(how)?;
        let out = out.to_string_lossy();
        let bare = ["--no-shrink", "--check-determinism", "0", "--limit", HUNG, "--out", &out];
        self.ask(&[args, &bare].concat(), is_enough)
    }
}

/// Seeds from 0 on, some more at a time. They end in any order; the first is the lowest.
pub fn sweep(binary: &Binary, bug: &Bug, limits: &Limits) -> Result<Found, String> {
    let mut lines: Vec<Value> = Vec::new();
    let mut next = 0;
    while next < limits.seeds {
        let step = if limits.all_seeds { limits.seeds } else { next.max(LEAST_PLANS) };
        let end = next.saturating_add(step).min(limits.seeds);
        let seeds = format!("{next}..{end}");
        let more = binary.campaign("sweep", &["sweep", &bug.scenario, "--seeds", &seeds], |_| false)?;
        lines.extend(more);
        next = end;
        if lines.iter().any(fails) {
            break;
        }
    }
    let mut plans: Vec<&Value> = lines.iter().filter(|line| is_plan(line)).collect();
    plans.sort_by_key(|line| line["seed"].as_u64());
    let found = told("sweep", &bug.scenario, &plans, &lines);
    if found.looked_at == 0 { Err("the sweep reported no plan".into()) } else { Ok(found) }
}

/// A guided search with a master seed of its own.
pub fn guided(binary: &Binary, bug: &Bug, limits: &Limits) -> Result<Found, String> {
    let time = format!("{}s", limits.time.as_secs());
    let args = ["fuzz", &bug.scenario, "--strategy", "guided", "--seed", "1", "--time", &time];
    searched("guided", binary, bug, limits, &args)
}

/// A run without faults in which each call fails once. It looks at nothing if that run fails by itself.
pub fn errors(binary: &Binary, bug: &Bug, limits: &Limits) -> Result<Found, String> {
    searched("errors", binary, bug, limits, &["errors", &bug.scenario])
}

fn searched(how: &str, binary: &Binary, bug: &Bug, limits: &Limits, args: &[&str]) -> Result<Found, String> {
    let since = Instant::now();
    let (mut looked_at, mut failing) = (0, 0);
    let lines = binary.campaign(how, args, |line| {
        looked_at += u64::from(is_plan(line));
        failing += u64::from(fails(line));
        failing > 0 && looked_at >= LEAST_PLANS || since.elapsed() >= limits.time
    })?;
    let plans: Vec<&Value> = lines.iter().filter(|line| is_plan(line)).collect();
    Ok(told(how, &bug.scenario, &plans, &lines))
}

/// A census of the crash images of all short sequences of operations, the shortest first; nothing if the scenario has no mini
/// workload.
pub fn census(binary: &Binary, bug: &Bug, limits: &Limits) -> Result<Option<Found>, String> {
    if bug.scenario != "store" {
        return Ok(None);
    }
    let since = Instant::now();
    let mut found = Found { how: "census".into(), looked_at: 0, failing: 0, cpu_us: 0, first: None };
    for length in 1..=limits.mini {
        let left = limits.time.saturating_sub(since.elapsed()).as_secs();
        if left == 0 {
            break;
        }
        let (mini, time) = (length.to_string(), format!("{left}s"));
        let lines = binary.ask(&["census", &bug.scenario, "--mini", &mini, "--time", &time], |_| false)?;
        let summary = lines.iter().find(|line| line["type"] == "summary");
        let summary = summary.ok_or_else(|| "the census has no summary".to_owned())?;
        let number = |name: &str| summary[name].as_u64().unwrap_or(0);
        found.looked_at += number("recovered");
        found.cpu_us += number("cpu_us");
        let violations = || lines.iter().filter(|line| line["type"] == "violation");
        found.failing += violations().filter_map(|violation| violation["count"].as_u64()).sum::<u64>();
        if let Some(violation) = violations().next() {
            let path = binary.fresh("census")?.join("plan.json");
            std::fs::write(&path, violation["plan"].to_string())
                .map_err(|e| format!("{}: {e}", path.display()))?;
            found.first = Some(First {
                plan: path.to_string_lossy().into_owned(),
                oracle: named(violation).unwrap_or_default(),
                until: None,
                cpu_us: found.cpu_us,
            });
            break;
        }
    }
    Ok(Some(found))
}

/// What is left of a failing plan after shrinking; nothing if it was not kept.
pub fn shrink(binary: &Binary, plan: &str, limits: &Limits) -> Result<Option<Size>, String> {
    if plan.is_empty() {
        return Ok(None);
    }
    let time = format!("{}s", limits.time.as_secs());
    let lines = binary.ask(&["shrink", plan, "--time", &time, "--runs", SHRINKING_RUNS], |_| false)?;
    let size = |line: &Value| Some(Size { ops: line["ops"].as_u64()?, faults: line["faults"].as_u64()? });
    lines.iter().find_map(size).map(Some).ok_or_else(|| format!("{plan} does not shrink"))
}

/// What came of `plans`, which are in the order in which they count.
fn told(how: &str, scenario: &str, plans: &[&Value], lines: &[Value]) -> Found {
    let first = plans.iter().position(|line| fails(line)).map(|at| {
        let line = plans[at];
        let by_seed = line["named_by_seed"] == true;
        First {
            plan: if by_seed {
                format!("{scenario}:{}", line["seed"])
            } else {
                kept_plan(lines, &line["plan"]).unwrap_or_default()
            },
            oracle: failed_oracle(&line["verdict"]).unwrap_or_default(),
            until: Some(at as u64 + 1),
            cpu_us: cpu_us(&plans[..=at]),
        }
    });
    Found {
        how: how.into(),
        looked_at: plans.len() as u64,
        failing: plans.iter().filter(|line| fails(line)).count() as u64,
        cpu_us: cpu_us(plans),
        first,
    }
}

fn cpu_us(plans: &[&Value]) -> u64 {
    plans.iter().filter_map(|line| line["cpu_us"].as_u64()).sum()
}

fn is_plan(line: &Value) -> bool {
    line["type"] == "plan"
}

fn fails(line: &Value) -> bool {
    is_plan(line) && failed_oracle(&line["verdict"]).is_some()
}

/// What fired, if the verdict is not `held`: the oracle and the property it found broken, or an assertion.
fn failed_oracle(verdict: &Value) -> Option<String> {
    if verdict == "held" {
        return None;
    }
    if verdict["panicked"]["location"].as_str().is_some_and(|location| location.starts_with("engine/")) {
        return Some("an assertion of the engine".into());
    }
    named(&verdict["violated"]).or_else(|| match verdict {
        Value::Object(fields) => fields.keys().next().cloned(),
        other => other.as_str().map(Into::into),
    })
}

fn named(violation: &Value) -> Option<String> {
    Some(format!("{}: {}", violation["oracle"].as_str()?, violation["property"].as_str()?))
}

/// The plan of this id in the capsules of a campaign, each of which holds the first of its failures.
fn kept_plan(lines: &[Value], id: &Value) -> Option<String> {
    let capsules =
        lines.iter().filter(|line| line["type"] == "finding").filter_map(|line| line["dir"].as_str());
    let is_of = |dir: &&Path| {
        let verdict = std::fs::read(dir.join("verdict.json")).unwrap_or_default();
        serde_json::from_slice(&verdict).is_ok_and(|verdict: Value| verdict["report"]["plan"] == *id)
    };
    Some(capsules.map(Path::new).find(is_of)?.join("plan.json").to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_failure_costs_all_before_it() {
        let violated = json!({ "violated": { "oracle": "o", "property": "p" } });
        let verdicts = [json!("held"), violated, json!({ "panicked": {} })];
        let lines = verdicts.map(|verdict| {
            json!({ "type": "plan", "verdict": verdict, "cpu_us": 5, "seed": 1, "named_by_seed": true })
        });
        let plans: Vec<&Value> = lines.iter().collect();
        let found = told("sweep", "s", &plans, &lines);
        let first = found.first.as_ref().unwrap();
        assert_eq!((first.until, first.cpu_us, first.oracle.as_str()), (Some(2), 10, "o: p"));
        assert_eq!((found.looked_at, found.failing, first.plan.as_str()), (3, 2, "s:1"));
        assert_eq!(failed_oracle(&lines[2]["verdict"]).as_deref(), Some("panicked"));
        let assertion = json!({ "panicked": { "location": "engine/src/a.rs:1" } });
        assert_eq!(failed_oracle(&assertion).as_deref(), Some("an assertion of the engine"));
        assert_eq!(failed_oracle(&json!("timed_out")).as_deref(), Some("timed_out"));
        assert_eq!(told("sweep", "s", &plans[..1], &lines).first, None);
    }

    #[test]
    fn a_mutant_is_found_in_the_capsule_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("verdict.json"), r#"{"report":{"plan":"a"}}"#).unwrap();
        let lines = [json!({ "type": "finding", "dir": dir.path() })];
        let kept = kept_plan(&lines, &json!("a")).expect("it was kept");
        assert_eq!(Path::new(&kept), dir.path().join("plan.json"));
        assert_eq!(kept_plan(&lines, &json!("b")), None);
    }
}
