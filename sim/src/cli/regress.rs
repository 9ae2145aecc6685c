//! `cutwater regress`: failures that are kept as tests.
#![expect(clippy::disallowed_methods, reason = "regressions are files on the real disk")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shrink::cannot_run;
use super::source::{self, Source};
use super::{HELD, Registry, RegressVerb, Usage, VIOLATED};
use crate::capsule::Means;
use crate::capsule::read_report;
use crate::capsule::regression::{Reaches, Regression, Standing, VERSION};
use crate::plan::{Plan, read_file};
use crate::program::replay_line;
use crate::told::folded;
use crate::verdict::Report;
use crate::vocabulary::Vocabulary;

/// The longest that a plan may take while it is added.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(registry: &Registry<'_>, verb: &RegressVerb) -> Result<u8, Usage> {
    match verb {
        RegressVerb::Add { capsule, story, to } => add(registry, capsule, story, to),
        RegressVerb::Run { path, limit } => run_all(registry, path, Duration::from_secs(*limit)),
    }
}

/// Keeps the minimal plan of a capsule. What it must reach is what it reached when it failed and, if it holds by now, still
/// reaches.
fn add(registry: &Registry<'_>, capsule: &Path, story: &str, to: &Path) -> Result<u8, Usage> {
    let story = story.trim().to_string();
    if !story.contains(char::is_alphanumeric) {
        return Err(Usage(format!(
            "--story {story:?}: say what happened, what was lost, and why it cannot any more"
        )));
    }
    let failed = read_report(capsule)
        .map_err(|e| Usage(format!("{} is no capsule to keep: {e}", capsule.display())))?;
    let Source { scenario, plan, .. } = source::load(registry, &capsule.to_string_lossy())?;
    let means = Means { scenario, jobs: 1, limit: LIMIT, bar: indicatif::ProgressBar::hidden() };
    let must = Reaches::of(&failed);
    let (plan, now) = long_enough(&means, plan, &must)?;
    let mended = now.verdict.held();
    let reaches = if mended { must.common(&Reaches::of(&now)) } else { must.clone() };
    let signature = failed.verdict.signature();
    let missed = must.beyond(&reaches);
    let regression = Regression { regression: VERSION, story, signature, mended, reaches, plan };
    let dir = to.join(scenario.name());
    std::fs::create_dir_all(&dir).map_err(|e| Usage(format!("{}: {e}", dir.display())))?;
    let file = place(&regression, &dir, &scenario.vocabulary())?;
    std::fs::write(&file, regression.to_json()).map_err(|e| Usage(format!("{}: {e}", file.display())))?;
    let state = if mended { "mended: it must hold from here on" } else { "not mended yet" };
    println!("{}  {state}", file.display());
    if let Some(missed) = missed {
        println!("beware: it holds without {missed}, which it reached when it failed");
    }
    Ok(HELD)
}

/// The file for a regression: of a failure that is kept as not mended, and is by now, the same one; otherwise a new one, for
/// more than one bug may have a signature.
fn place(regression: &Regression, dir: &Path, vocabulary: &Vocabulary) -> Result<PathBuf, Usage> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    for file in files {
        // What cannot be read is another matter: `regress run` says so.
        let Ok(kept) = read_file(&file) else { continue };
        let Ok(kept) = Regression::from_json(&kept) else { continue };
        if !kept.keeps_the_same(regression, vocabulary) {
            continue;
        }
        return match (kept.mended, regression.mended) {
            (false, true) => Ok(file),
            (true, false) => {
                Err(Usage(format!("{} keeps this failure already, as mended: it is back", file.display())))
            }
            _ => Err(Usage(format!("{} keeps this failure already", file.display()))),
        };
    }
    let signature = &regression.signature;
    let others = (2_u64..).map(|n| format!("{signature}-{n}.json"));
    let mut names = std::iter::once(format!("{signature}.json")).chain(others).map(|name| dir.join(name));
    Ok(names.find(|path| path.symlink_metadata().is_err()).expect("there are more numbers than files"))
}

/// The plan, and a run of it. The horizon of a minimal plan ends with the failure; mended code may do more before it gets to
/// the same place (a sync takes time), and after the horizon nothing strikes. So the horizon is widened until a run that
/// holds reaches all that the failing one did, or the scenario allows no more.
fn long_enough(means: &Means<'_>, plan: Plan, must: &Reaches) -> Result<(Plan, Report), Usage> {
    let most_us = (*means.scenario.vocabulary().horizon_us.end()).max(plan.horizon_us);
    let mut longer = plan.clone();
    loop {
        let report = means.run(&longer, false).map_err(|e| cannot_run(&e))?.report;
        let reached = Reaches::of(&report);
        if !report.verdict.held() || must.beyond(&reached).is_none() || longer.horizon_us == most_us {
            return Ok((longer, report));
        }
        longer.horizon_us = longer.horizon_us.saturating_mul(2).min(most_us);
    }
}

/// Runs every regression at `path`, and says of each what was expected of it, and what came.
fn run_all(registry: &Registry<'_>, path: &Path, limit: Duration) -> Result<u8, Usage> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    // Whoever asks for regressions means some: a wrong directory must not be green.
    if files.is_empty() {
        return Err(Usage(format!("{}: no regression (a file NAME.json) is kept here", path.display())));
    }
    let mut broken = 0;
    for file in &files {
        match stands(registry, file, limit)? {
            Standing::AsItShould(how) => print!("{}", told("ok", file, &how)),
            Standing::Broken(how) => {
                broken += 1;
                print!("{}", told("BROKEN", file, &how));
                println!("        {}", replay_line(&file.display().to_string()));
            }
        }
    }
    println!("{} regressions, {broken} broken", files.len());
    Ok(if broken > 0 { VIOLATED } else { HELD })
}

/// What there is to say of a file. What a run says may hold any bytes of the system under test.
fn told(word: &str, file: &Path, how: &str) -> String {
    let how = how.replace(char::is_control, " ");
    folded(&format!("{word:<7} {}: {how}\n", file.display()), 8)
}

fn stands(registry: &Registry<'_>, file: &Path, limit: Duration) -> Result<Standing, Usage> {
    let read = read_file(file).map_err(|e| Usage(e.to_string()));
    let parsed = read.and_then(|text| Regression::from_json(&text).map_err(|e| Usage(e.to_string())));
    let regression = match parsed {
        Ok(regression) => regression,
        Err(e) => return Ok(Standing::Broken(format!("stale: {e}"))),
    };
    let scenario = match source::fitting(registry, &regression.plan) {
        Ok(scenario) => scenario,
        Err(e) => return Ok(Standing::Broken(format!("stale: the plan is none any more: {e}"))),
    };
    let means = Means { scenario, jobs: 1, limit, bar: indicatif::ProgressBar::hidden() };
    let outcome = means.run(&regression.plan, false).map_err(|e| cannot_run(&e))?;
    Ok(regression.judge(&outcome.report))
}

/// The JSON files at `path`, in order.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Usage> {
    let said = |e| Usage(format!("{}: {e}", path.display()));
    if path.metadata().map_err(said)?.is_file() {
        files.push(path.into());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(said)?;
    let entries = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>();
    let mut entries = entries.map_err(said)?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, files)?;
        } else if entry.extension().is_some_and(|extension| extension == "json") {
            files.push(entry);
        }
    }
    Ok(())
}
