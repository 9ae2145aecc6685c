//! `cutwater replay`: one plan again.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::{HELD, Registry, ReplayArgs, USAGE, Usage, VIOLATED, clock, failure};
use crate::plan::Plan;
use crate::runner::{Job, Pool, What};
use crate::timeline;
use crate::verdict::{Outcome, Verdict};

/// The longest plan file that is read, in bytes.
const PLAN_BYTES_MAX: u64 = 64 << 20;

pub(super) fn run(registry: &Registry<'_>, args: &ReplayArgs) -> Result<u8, Usage> {
    let job = job(registry, args)?;
    let plan = match &job.what {
        What::Seed(seed) => job.scenario.generate(*seed),
        What::Plan(plan) => (**plan).clone(),
    };
    let mut outcome = Pool::run(job, Duration::from_secs(args.limit))
        .map_err(|e| Usage(format!("cannot start a process: {e}")))?;
    draw(args, &plan, &outcome)?;
    if !args.trace {
        outcome.story = None;
    }
    if args.json {
        println!("{}", serde_json::to_string(&outcome).expect("an outcome is plain data"));
    } else {
        print!("{}", text(&outcome));
    }
    Ok(match outcome.report.verdict {
        Verdict::Held => HELD,
        Verdict::Invalid { .. } => USAGE,
        _ => VIOLATED,
    })
}

/// Writes the pictures that were asked for.
fn draw(args: &ReplayArgs, plan: &Plan, outcome: &Outcome) -> Result<(), Usage> {
    let failed = |path: &Path, e| Usage(format!("{}: {e}", path.display()));
    if let Some(path) = &args.html {
        timeline::write_html(plan, outcome, path).map_err(|e| failed(path, e))?;
    }
    if let Some(path) = &args.perfetto {
        timeline::write_perfetto(plan, outcome, path).map_err(|e| failed(path, e))?;
    }
    Ok(())
}

fn job<'a>(registry: &Registry<'a>, args: &ReplayArgs) -> Result<Job<'a>, Usage> {
    // What looks like a file is one: a scenario's name has neither slash nor dot.
    let record = args.trace || args.html.is_some() || args.perfetto.is_some();
    let is_path = args.what.contains(['/', '.']) || !args.what.contains(':');
    if !is_path {
        let (scenario, seed) = registry.seed(&args.what)?;
        return Ok(Job { record, ..Job::new(scenario, What::Seed(seed)) });
    }
    let path = &args.what;
    let text = read(Path::new(path)).map_err(|e| Usage(format!("{path}: {e}")))?;
    let plan = Plan::from_json(&text).map_err(|e| Usage(format!("{path}: {e}")))?;
    let scenario = registry.scenario(&plan.scenario).map_err(|e| Usage(format!("{path}: {e}")))?;
    plan.validate(&scenario.vocabulary()).map_err(|e| Usage(format!("{path}: {e}")))?;
    Ok(Job { record, ..Job::new(scenario, What::Plan(Box::new(plan))) })
}

#[expect(clippy::disallowed_types, reason = "a plan file lies on the real disk")]
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(PLAN_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > PLAN_BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {PLAN_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn text(outcome: &Outcome) -> String {
    let report = &outcome.report;
    let mut text = String::new();
    if outcome.story.is_some() {
        text.push_str(&failure::story(outcome));
        text.push('\n');
    }
    if report.verdict.held() {
        text.push_str(&format!(
            "{} {}:{}  {}  plan {}\n",
            report.verdict.name(),
            report.scenario,
            report.seed,
            clock(report.virtual_us),
            report.plan
        ));
    } else {
        text.push_str(&failure::text(report));
    }
    text.push_str(&format!("digest {}  events {}\n", report.digest, report.events));
    text
}
