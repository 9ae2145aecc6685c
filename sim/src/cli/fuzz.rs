//! `cutwater fuzz`: looks for failures until its time is over, with new seeds and, if it is told so, with mutants of the
//! plans that reached something new.
//!
//! The master seed is the date unless it is given: a night can be repeated by its number. Fresh seeds begin at a million
//! times the master seed. It never stops at a failure; failures are grouped by signature, and plans that no seed names are
//! kept under `--out` (`target/cutwater/fuzz` if it is not given).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::duration;
use super::sweep::{Source, campaign};
use super::{CampaignArgs, FuzzArgs, Registry, Usage};
use crate::capsule::named;
use crate::runner::Job;
use crate::scenario::Scenario;
use crate::search::corpus;
use crate::search::explorer::Explorer;
use crate::verdict::Report;

/// How many seeds a master seed has of its own.
const SEEDS: u64 = 1_000_000;
/// Where results go if no directory is named.
const OUT: &str = "target/cutwater/fuzz";

pub(super) fn run(registry: &Registry<'_>, args: &FuzzArgs) -> Result<u8, Usage> {
    let scenarios = registry.scenarios(&args.scenarios)?;
    let time = duration(&args.time)?;
    let master = args.seed.unwrap_or_else(today);
    let mut fuzz = Fuzz {
        explorers: scenarios
            .iter()
            .map(|scenario| Explorer::new(*scenario, args.strategy, master.wrapping_mul(SEEDS)))
            .collect(),
        turn: 0,
        corpus: args.corpus.clone(),
    };
    if let Some(dir) = &args.corpus {
        fuzz.resume(dir, registry.scenarios)
            .map_err(|e| Usage(format!("--corpus {}: {e}", dir.display())))?;
    }
    eprintln!("cutwater: fuzzing for {} s with master seed {master}", time.as_secs());
    // No seed names a mutant: it must be kept somewhere.
    let kept = args.campaign.out.clone().unwrap_or_else(|| OUT.into());
    let args = CampaignArgs { out: Some(kept), ..args.campaign.clone() };
    let status = campaign(registry, scenarios, &args, &mut fuzz, None, Some(time))?;
    for explorer in fuzz.explorers.iter().filter(|explorer| explorer.edges() > 0) {
        eprintln!(
            "cutwater: {}: {} edges, {} plans reached new ones",
            explorer.scenario().name(),
            explorer.edges(),
            explorer.entries()
        );
    }
    Ok(status)
}

/// The day as a number such as 20260131, in UTC.
#[expect(clippy::disallowed_methods, reason = "the date names a night, outside of every simulation")]
fn today() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    date(since.as_secs() / 86_400)
}

/// The date of a day, counted from 1970-01-01, as a number such as 20260131.
fn date(mut days: u64) -> u64 {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    year * 10_000 + month * 100 + days + 1
}

/// Scenarios in turn, each with its own explorer.
struct Fuzz<'a> {
    explorers: Vec<Explorer<'a>>,
    turn: usize,
    corpus: Option<PathBuf>,
}

impl Fuzz<'_> {
    #[expect(clippy::disallowed_methods, reason = "a corpus lies on the real disk")]
    fn resume(&mut self, dir: &Path, scenarios: &[&dyn Scenario]) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        for kept in corpus::read(dir, scenarios)? {
            match kept.plan {
                Ok(plan) => {
                    // Other scenarios may share the corpus.
                    let explorer = self.explorers.iter_mut().find(|e| e.scenario().name() == plan.scenario);
                    explorer.into_iter().for_each(|explorer| explorer.resume(plan.clone()));
                }
                Err(why) => eprintln!("cutwater: not resumed: {}: {why}", kept.path.display()),
            }
        }
        Ok(())
    }
}

impl<'a> Source<'a> for Fuzz<'a> {
    fn next(&mut self) -> Option<Job<'a>> {
        let among = self.explorers.len();
        let explorer = self.explorers.get_mut(self.turn % among)?;
        self.turn += 1;
        let edges = explorer.is_guided() || self.corpus.is_some();
        Some(Job { edges, ..Job::new(explorer.scenario(), explorer.choose()) })
    }

    fn learn(&mut self, job: &Job<'a>, report: &Report) -> std::io::Result<()> {
        let explorer = self.explorers.iter_mut().find(|e| e.scenario().name() == job.scenario.name());
        let explorer = explorer.expect("an explorer made the job");
        if let Some(plan) = explorer.learn(&job.what, report)
            && let Some(dir) = &self.corpus
        {
            corpus::write(dir, plan).map_err(|e| named(dir, &e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_day_has_a_number() {
        for (days, number) in
            [(0, 19_700_101), (59, 19_700_301), (789, 19_720_229), (19_723, 20_240_101), (20_148, 20_250_301)]
        {
            assert_eq!(super::date(days), number);
        }
    }
}
