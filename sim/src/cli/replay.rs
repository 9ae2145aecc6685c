//! `cutwater replay`: one plan again.

use std::path::Path;
use std::time::Duration;

use super::source::{self, Source};
use super::{HELD, Registry, ReplayArgs, USAGE, Usage, VIOLATED, clock, failure};
use crate::capsule;
use crate::runner::{Job, Pool, What};
use crate::verdict::{Outcome, Verdict};

pub(super) fn run(registry: &Registry<'_>, args: &ReplayArgs) -> Result<u8, Usage> {
    let Source { scenario, plan, path } = source::load(registry, &args.what)?;
    let job = Job { scenario, what: What::Plan(Box::new(plan)), record: args.trace, again: false };
    let outcome = Pool::run(job, Duration::from_secs(args.limit))
        .map_err(|e| Usage(format!("cannot start a process: {e}")))?;
    if args.json {
        println!("{}", serde_json::to_string(&outcome).expect("an outcome is plain data"));
    } else {
        print!("{}", text(&outcome, path.as_deref()));
    }
    Ok(match outcome.report.verdict {
        Verdict::Held => HELD,
        Verdict::Invalid { .. } => USAGE,
        _ => VIOLATED,
    })
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
            "{} {}:{}  {}  plan {}\n",
            report.verdict.name(),
            report.scenario,
            report.seed,
            clock(report.virtual_us),
            report.plan
        ));
    } else {
        text.push_str(&capsule::plain(report, path));
    }
    text.push_str(&format!("digest {}  events {}\n", report.digest, report.events));
    text
}
