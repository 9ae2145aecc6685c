//! `cutwater shrink`: the smallest plan that fails the same way.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::source::{self, Source};
use super::{
    HELD, INTERRUPTED, NONDETERMINISTIC, Registry, ShrinkArgs, Usage, VIOLATED, duration, failure_head, jobs,
};
use crate::capsule::{Budget, Finding, Means, fails_alike, one_screen, unrepeated};
use crate::plan::Plan;
use crate::program::command_line;
use crate::runner::process;
use crate::verdict::Report;

pub(super) fn run(registry: &Registry<'_>, args: &ShrinkArgs) -> Result<u8, Usage> {
    let budget = Budget { time: duration(&args.time)?, runs: args.runs };
    let (jobs, limit) = (jobs(args.jobs)?, Duration::from_secs(args.limit));
    let Source { scenario, plan, .. } = source::load(registry, &args.what)?;
    let means = Means { scenario, jobs, limit, bar: spinner(args.json) };
    process::catch_interrupt();
    let report = match failing(&means, &plan, &args.what)? {
        Fails::Alike(report) => *report,
        Fails::Not(status) => return Ok(status),
    };
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
        let (minimal, unrepeated) = (Some(minimal), None);
        let finding = Finding { plan, report, seeds, seed_names_it, minimal, unrepeated };
        print!("{}", one_screen(&finding, args.out.as_deref()));
        if args.out.is_none() {
            // What is replayed above is the plan that was given.
            println!("  keep      {}", command_line(&["shrink", &args.what, "--out", "plan.min.json"]));
        }
    }
    Ok(if process::interrupted() { INTERRUPTED } else { VIOLATED })
}

/// Whether a plan fails in a way that can be looked into.
pub(super) enum Fails {
    /// It does, each time.
    Alike(Box<Report>),
    /// It does not, which was said; the exit status.
    Not(u8),
}

/// Runs the plan twice.
pub(super) fn failing(means: &Means<'_>, plan: &Plan, what: &str) -> Result<Fails, Usage> {
    let report = means.run(plan, false).map_err(|e| cannot_run(&e))?.report;
    if report.verdict.held() {
        println!("{what} holds: there is nothing to look into");
        return Ok(Fails::Not(HELD));
    }
    let again = means.run(plan, true).map_err(|e| cannot_run(&e))?.report;
    if !fails_alike(&report, &again) {
        print!("{}", failure_head(&report));
        println!("  beware    {}", unrepeated(&again));
        return Ok(Fails::Not(NONDETERMINISTIC));
    }
    Ok(Fails::Alike(Box::new(report)))
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
