//! `cutwater shrink`: the smallest plan that fails the same way.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::source::{self, Source};
use super::{HELD, Registry, ShrinkArgs, Usage, VIOLATED, duration, jobs};
use crate::capsule::{Budget, Finding, Means, one_screen};
use crate::plan::Plan;
use crate::verdict::Report;

pub(super) fn run(registry: &Registry<'_>, args: &ShrinkArgs) -> Result<u8, Usage> {
    let budget = Budget { time: duration(&args.time)?, runs: args.runs };
    let (jobs, limit) = (jobs(args.jobs)?, Duration::from_secs(args.limit));
    let Source { scenario, plan, .. } = source::load(registry, &args.what)?;
    let means = Means { scenario, jobs, limit, bar: spinner(args.json) };
    crate::runner::process::catch_interrupt();
    let report = failing(&means, &plan, &args.what)?;
    let Some(report) = report else { return Ok(HELD) };
    let minimal = means.look_into(&plan, &report.verdict.signature(), budget).map_err(|e| cannot_run(&e))?;
    means.bar.finish_and_clear();
    if let Some(file) = &args.out {
        write(file, &minimal.plan).map_err(|e| Usage(format!("--out {}: {e}", file.display())))?;
    }
    if args.json {
        let line = json!({
            "signature": report.verdict.signature(),
            "from": { "ops": plan.ops.len(), "faults": plan.faults.len() },
            "ops": minimal.plan.ops.len(),
            "faults": minimal.plan.faults.len(),
            "shrinking": minimal.shrinking,
            "essential": minimal.essential,
            "decided": minimal.decided,
            "report": minimal.outcome.report,
            "plan": minimal.plan,
        });
        println!("{line}");
    } else {
        let seeds = Vec::new();
        let seed_names_it = scenario.generate(plan.seed) == plan;
        let finding = Finding { plan, report, seeds, seed_names_it, minimal: Some(minimal) };
        print!("{}", one_screen(&finding, args.out.as_deref()));
    }
    Ok(VIOLATED)
}

/// The report of a run that fails; of one that holds it says so, and there is none.
pub(super) fn failing(means: &Means<'_>, plan: &Plan, what: &str) -> Result<Option<Report>, Usage> {
    let report = means.run(plan, false).map_err(|e| cannot_run(&e))?.report;
    if report.verdict.held() {
        println!("{what} holds: there is nothing to look into");
        return Ok(None);
    }
    Ok(Some(report))
}

pub(super) fn cannot_run(error: &std::io::Error) -> Usage {
    Usage(format!("cannot start a process: {error}"))
}

#[expect(clippy::disallowed_methods, reason = "a plan is written to the real disk")]
fn write(file: &std::path::Path, plan: &Plan) -> std::io::Result<()> {
    std::fs::write(file, plan.to_json())
}

/// Shows what has been reached so far, if somebody looks.
pub(super) fn spinner(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{spinner} {elapsed}  {msg}").expect("the template is well formed");
    ProgressBar::new_spinner().with_style(style)
}
