//! The files of a capsule.
#![expect(clippy::disallowed_methods, reason = "a capsule is written to the real disk")]

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Finding, SCHEMA, Shrinking, regression};
use crate::explain::{Decided, Essential};
use crate::plan::Plan;
use crate::program::{self, replay_line};
use crate::timeline;
use crate::told::whole_line;
use crate::verdict::{Outcome, Report};

/// The plan that failed.
pub const PLAN: &str = "plan.json";
/// The smallest plan that fails alike.
pub const PLAN_MIN: &str = "plan.min.json";
const VERDICT: &str = "verdict.json";
const TRACE: &str = "trace.jsonl";
const README: &str = "README.md";
const REGRESSION: &str = "regression.rs";
const HISTORY: &str = "history.txt";
const TIMELINE: &str = "timeline.html";
const PERFETTO: &str = "trace.perfetto.json";
const DISK: &str = "disk-n";

/// How long the trace may be, in bytes; of a longer one the end is kept.
const TRACE_BYTES_MAX: usize = 14 << 20;
/// How long any other text may be, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// How many power failures have their disks listed.
const DISKS_MAX: usize = 4;

/// `verdict.json`, as it is written.
#[derive(Serialize)]
struct Told<'a> {
    schema: u32,
    signature: String,
    scenario: &'a str,
    /// Of the seeds that fail alike, those that were met.
    seeds: &'a [u64],
    versions: Versions,
    report: &'a Report,
    /// A second run of the plan, if it did not fail like the first.
    unrepeated: &'a Option<Report>,
    minimal: Option<ToldMinimal<'a>>,
}

#[derive(Serialize)]
struct Versions {
    cutwater: &'static str,
    plan: u32,
    /// Names the program that wrote it, if that can read itself.
    build: Option<String>,
}

#[derive(Serialize)]
struct ToldMinimal<'a> {
    ops: usize,
    faults: usize,
    shrinking: &'a Shrinking,
    report: &'a Report,
    essential: &'a Option<Essential>,
    decided: &'a Option<Decided>,
}

/// What is read back of `verdict.json`.
#[derive(Deserialize)]
pub(super) struct ReadBack {
    #[serde(default)]
    pub(super) versions: Option<ReadBackVersions>,
    pub(super) report: Report,
    #[serde(default)]
    pub(super) unrepeated: Option<Report>,
    pub(super) minimal: Option<ReadBackMinimal>,
}

#[derive(Deserialize)]
pub(super) struct ReadBackVersions {
    pub(super) build: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ReadBackMinimal {
    pub(super) report: Report,
}

/// Writes the capsule. `recorded` is a run of the minimal plan, `text` the failure on one screen.
///
/// # Errors
/// Those of the file system, with the path.
pub fn write(finding: &Finding, recorded: &Outcome, text: &str, dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| named(dir, &e))?;
    let minimal = finding.minimal.as_ref().map_or(&finding.plan, |minimal| &minimal.plan);
    let put = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(|e| named(&path, &e))
    };
    put(PLAN, &finding.plan.to_json())?;
    put(PLAN_MIN, &minimal.to_json())?;
    put(VERDICT, &verdict(finding))?;
    put(README, &readme(text, dir))?;
    put(TRACE, &trace(recorded))?;
    put(HISTORY, &history(recorded))?;
    put(TIMELINE, &timeline::html(minimal, recorded, &replay_line(&dir.display().to_string())))?;
    put(PERFETTO, &timeline::perfetto(minimal, recorded))?;
    put(REGRESSION, &regression::test_source(finding, text, dir))?;
    let losses = recorded.evidence.iter().flat_map(|evidence| &evidence.power_failures);
    for (loss, nth) in losses.take(DISKS_MAX).zip(1..) {
        let mut text = format!("power failure of n{} at {} us\n", loss.node, loss.at_us);
        for (title, lines) in
            [("lost", &loss.lost), ("kept", &loss.kept), ("before", &loss.before), ("after", &loss.after)]
        {
            let _ = write!(text, "\n{title}\n");
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        let text = first_lines(text.lines().map(String::from), TEXT_BYTES_MAX);
        put(&format!("{DISK}{}-crash{nth}.txt", loss.node), &text)?;
    }
    Ok(())
}

/// The error, with the path that it is about.
pub(crate) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn verdict(finding: &Finding) -> String {
    let minimal = finding.minimal.as_ref().map(|minimal| ToldMinimal {
        ops: minimal.plan.ops.len(),
        faults: minimal.plan.faults.len(),
        shrinking: &minimal.shrinking,
        report: &minimal.outcome.report,
        essential: &minimal.essential,
        decided: &minimal.decided,
    });
    let told = Told {
        schema: SCHEMA,
        signature: finding.report.verdict.signature(),
        scenario: &finding.report.scenario,
        seeds: &finding.seeds,
        versions: Versions {
            cutwater: env!("CARGO_PKG_VERSION"),
            plan: crate::plan::VERSION,
            build: program::build(),
        },
        report: &finding.report,
        unrepeated: &finding.unrepeated,
        minimal,
    };
    serde_json::to_string_pretty(&told).expect("a verdict is plain data") + "\n"
}

fn readme(text: &str, dir: &Path) -> String {
    let keep = regression::add_line(dir);
    format!(
        "# A failure\n\n```text\n{text}```\n\n`{PLAN}` is the plan that failed, `{PLAN_MIN}` the smallest that fails alike; \
         `{TRACE}` has every event of the latter, `{HISTORY}` what clients saw, `{DISK}*` what each power failure took, \
         `{VERDICT}` all of it for programs. Once it is mended, this keeps it as a test:\n\n\
         ```sh\n{keep}\n```\n"
    )
}

fn trace(recorded: &Outcome) -> String {
    let lines: Vec<String> = recorded
        .story
        .iter()
        .flatten()
        .map(|event| serde_json::to_string(event).expect("an event is plain data") + "\n")
        .collect();
    let mut bytes = 0;
    let kept = lines.iter().rev().take_while(|line| {
        bytes += line.len();
        bytes <= TRACE_BYTES_MAX
    });
    lines[lines.len() - kept.count()..].concat()
}

fn history(recorded: &Outcome) -> String {
    let told = |kind: &str| kind == "op" || kind.starts_with("client.") || kind == "oracle";
    let events = recorded.story.iter().flatten().filter(|event| told(&event.kind));
    first_lines(events.map(whole_line), TEXT_BYTES_MAX)
}

/// As many whole lines as there is room for, and how many are left out.
fn first_lines(lines: impl Iterator<Item = String>, max_bytes: usize) -> String {
    let (mut text, mut left_out) = (String::new(), 0);
    for line in lines {
        if left_out > 0 || text.len() + line.len() >= max_bytes {
            left_out += 1;
        } else {
            text.push_str(&line);
            text.push('\n');
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "({left_out} more are left out: this file holds {max_bytes} bytes at most)");
    }
    text
}

/// What the capsule in `dir` tells; `None` if there is none.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_back(dir: &Path) -> io::Result<Option<ReadBack>> {
    let path = dir.join(VERDICT);
    match std::fs::read_to_string(&path) {
        Ok(text) => parsed(&path, &text).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(named(&path, &e)),
    }
}

fn parsed(path: &Path, text: &str) -> io::Result<ReadBack> {
    serde_json::from_str(text).map_err(|e| named(path, &e.into()))
}

/// The report of the plan that the capsule in `dir` keeps as the smallest.
///
/// # Errors
/// There is no capsule, or none of a failure that repeats.
pub fn read_report(dir: &Path) -> io::Result<Report> {
    let path = dir.join(VERDICT);
    let told = parsed(&path, &std::fs::read_to_string(&path).map_err(|e| named(&path, &e))?)?;
    if told.unrepeated.is_some() {
        return Err(named(&path, &io::Error::other("the failure did not repeat")));
    }
    Ok(told.minimal.map_or(told.report, |minimal| minimal.report))
}

/// Moves those of `names` that are in `dir` to a new directory below it, and says to which, if there were any.
///
/// # Errors
/// Those of the file system, with the path.
pub(crate) fn set_aside(dir: &Path, names: &[&str]) -> io::Result<Option<PathBuf>> {
    let is_there = |name: &&&str| dir.join(name).symlink_metadata().is_ok();
    let left: Vec<&&str> = names.iter().filter(is_there).collect();
    if left.is_empty() {
        return Ok(None);
    }
    let mut n = 1_u64;
    let aside = loop {
        let aside = dir.join(format!("earlier-{n}"));
        match std::fs::create_dir(&aside) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
            created => break created.map(|()| aside.clone()).map_err(|e| named(&aside, &e))?,
        }
    };
    for name in left {
        let from = dir.join(name);
        std::fs::rename(&from, aside.join(name)).map_err(|e| named(&from, &e))?;
    }
    Ok(Some(aside))
}

/// True if there is a capsule of another plan in `dir`.
pub(super) fn is_of_another(plan: &Plan, dir: &Path) -> bool {
    std::fs::read_to_string(dir.join(PLAN)).is_ok_and(|text| text != plan.to_json())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cutwater_io::sim::Event;

    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn a_history_has_every_line_whole() {
        let call = |detail: String| Event {
            at_ns: 0,
            node: 1,
            kind: "client.ok".into(),
            detail,
            facts: BTreeMap::new(),
        };
        let answers = ["é".repeat(1_000), "short".into()];
        let told = |answers: &[String]| {
            let story = Some(answers.iter().cloned().map(call).collect());
            let report = Report::bare("store", 0, Verdict::Held);
            history(&Outcome { story, ..Outcome::bare(report) })
        };
        let text = told(&answers);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(answers.iter().all(|answer| text.lines().any(|line| line.ends_with(answer))), "{text}");
        // Where there are too many, those that are there are whole, and the others are counted.
        let text = told(&vec![answers[0].clone(); 1_000]);
        let (last, lines) =
            text.lines().collect::<Vec<_>>().split_last().map(|(l, r)| (*l, r.len())).unwrap();
        assert!(text.lines().take(lines).all(|line| line.ends_with(&answers[0])), "a line is cut");
        assert!(lines > 400 && last.starts_with(&format!("({} more are left out", 1_000 - lines)), "{last}");
    }
}
