//! `cutwater errors`: each call site of a run fails once, in each way that it can; exhaustive, and linear in the call sites.

use std::time::Duration;

use super::sweep::{Source, campaign};
use super::{CampaignArgs, ErrorsArgs, Registry, Usage, VIOLATED};
use crate::runner::{Job, Pool, What};
use crate::scenario::Scenario;
use crate::search::errors;
use crate::verdict::Report;

/// Where results go if no directory is named.
const OUT: &str = "target/cutwater/errors";

pub(super) fn run(registry: &Registry<'_>, args: &ErrorsArgs) -> Result<u8, Usage> {
    let (scenario, seed) = match args.what.contains(':') {
        true => registry.seed(&args.what)?,
        false => (registry.scenario(&args.what)?, 0),
    };
    let golden = errors::golden(&scenario.generate(seed));
    let job = Job { edges: true, ..Job::new(scenario, What::Plan(Box::new(golden.clone()))) };
    let outcome = Pool::run(job, Duration::from_secs(args.campaign.limit))
        .map_err(|e| Usage(format!("cannot start a process: {e}")))?;
    if !outcome.report.verdict.held() {
        let text = crate::capsule::plain(&outcome.report, None);
        eprintln!("cutwater: it fails without any fault:\n{text}");
        return Ok(VIOLATED);
    }
    let reached = outcome.report.coverage.unwrap_or_default();
    let sweep = errors::sweep(&golden, &scenario.vocabulary(), &reached);
    let total = sweep.plans.len() as u64;
    let mut source = Errors { scenario, plans: sweep.plans.into_iter(), runs: 0, struck: 0, failed: 0 };
    let out = args.campaign.out.clone().unwrap_or_else(|| OUT.into());
    let args = CampaignArgs { out: Some(out), ..args.campaign.clone() };
    let status = campaign(registry, vec![scenario], &args, &mut source, Some(total), None)?;
    eprintln!(
        "cutwater: {} call sites, {} of {total} plans run, {} struck, {} failed",
        sweep.call_sites, source.runs, source.struck, source.failed
    );
    Ok(status)
}

struct Errors<'a> {
    scenario: &'a dyn Scenario,
    plans: std::vec::IntoIter<crate::Plan>,
    runs: u64,
    struck: u64,
    failed: u64,
}

impl<'a> Source<'a> for Errors<'a> {
    fn next(&mut self) -> Option<Job<'a>> {
        self.plans.next().map(|plan| Job::new(self.scenario, What::Plan(Box::new(plan))))
    }

    fn learn(&mut self, _: &Job<'a>, report: &Report) -> std::io::Result<()> {
        self.runs += 1;
        self.struck += u64::from(report.receipts.values().any(|receipt| receipt.delivered > 0));
        self.failed += u64::from(!report.verdict.held());
        Ok(())
    }

    fn is_held_to_demands(&self) -> bool {
        false
    }
}
