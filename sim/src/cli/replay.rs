//! `cutwater replay`: one plan again.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::source::{self, Source};
use super::{HELD, NONDETERMINISTIC, Registry, ReplayArgs, USAGE, Usage, VIOLATED, failure};
use crate::capsule;
use crate::capsule::kept::{self, Comparison};
use crate::plan::Plan;
use crate::program::replay_line;
use crate::runner::{Job, Pool, What};
use crate::timeline;
use crate::told::{clock, folded, words};
use crate::verdict::{Outcome, Verdict};

/// How many faults that never struck are told.
const NEVER_STRUCK_MAX: usize = 8;

/// The line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    /// How it compares with the run that the capsule keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    capsule: Option<&'a Comparison>,
}

pub(super) fn run(registry: &Registry<'_>, args: &ReplayArgs) -> Result<u8, Usage> {
    let Source { scenario, plan, path } = source::load(registry, &args.what)?;
    let record = args.trace || args.html.is_some() || args.perfetto.is_some();
    let job = Job { record, ..Job::new(scenario, What::Plan(Box::new(plan.clone()))) };
    let mut outcome = Pool::run(job, Duration::from_secs(args.limit))
        .map_err(|e| Usage(format!("cannot start a process: {e}")))?;
    // A child that gives no report knows not even its plan.
    outcome.report.plan = plan.id();
    let compared = path.as_deref().map_or(Ok(None), |path| kept::compare(path, &outcome.report));
    let compared = compared.map_err(|e| Usage(format!("no capsule to compare with: {e}")))?;
    draw(args, &plan, &outcome)?;
    if !args.trace {
        outcome.story = None;
    }
    if args.json {
        let line = Line { outcome: &outcome, capsule: compared.as_ref() };
        println!("{}", serde_json::to_string(&line).expect("an outcome is plain data"));
    } else {
        print!("{}", text(&outcome, path.as_deref()));
        print!("{}", never_struck(&plan, &outcome));
        if let Some(compared) = &compared {
            print!("{}", folded(&format!("capsule {}\n", compared.told().replace('\n', "\n        ")), 8));
        }
    }
    Ok(match outcome.report.verdict {
        _ if compared.is_some_and(|compared| compared.parted) => NONDETERMINISTIC,
        Verdict::Held => HELD,
        Verdict::Invalid { .. } => USAGE,
        _ => VIOLATED,
    })
}

/// Writes the pictures that were asked for.
fn draw(args: &ReplayArgs, plan: &Plan, outcome: &Outcome) -> Result<(), Usage> {
    let failed = |path: &Path, e| Usage(format!("{}: {e}", path.display()));
    if let Some(path) = &args.html {
        timeline::write_html(plan, outcome, &replay_line(&args.what), path).map_err(|e| failed(path, e))?;
    }
    if let Some(path) = &args.perfetto {
        timeline::write_perfetto(plan, outcome, path).map_err(|e| failed(path, e))?;
    }
    Ok(())
}

/// The faults that never struck, whatever came of the run: it says nothing about them.
fn never_struck(plan: &Plan, outcome: &Outcome) -> String {
    let never: Vec<_> = plan.faults.iter().filter(|f| outcome.never_struck.contains(&f.id)).collect();
    if never.is_empty() {
        return String::new();
    }
    let (all, struck) = (plan.faults.len(), plan.faults.len() - never.len());
    let mut text = format!("faults {all}, struck {struck}; never struck:\n");
    for fault in never.iter().take(NEVER_STRUCK_MAX) {
        text.push_str(&format!("  {:<9} {}\n", format!("fault {}", fault.id), words::fault(fault)));
    }
    if never.len() > NEVER_STRUCK_MAX {
        text.push_str(&format!("  ... and {} more\n", never.len() - NEVER_STRUCK_MAX));
    }
    folded(&text, 12)
}

fn text(outcome: &Outcome, path: Option<&Path>) -> String {
    let report = &outcome.report;
    let mut text = String::new();
    if outcome.story.is_some() {
        text.push_str(&failure::story(outcome));
        text.push('\n');
    }
    if report.verdict.held() {
        text.push_str(&format!(
            "{} {}  {}{}\n",
            report.verdict.name(),
            capsule::name(report),
            clock(report.virtual_us),
            if report.named_by_seed { format!("  plan {}", report.plan) } else { String::new() }
        ));
    } else {
        text.push_str(&capsule::plain(report, path));
    }
    text.push_str(&format!("digest {}  events {}\n", report.digest, report.events));
    text
}
