//! What a failure looks like: one screen, the same in the terminal, in JUnit and in files; and the story of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cutwater_io::sim::Event;

use super::{clock, lines_to_copy};
use crate::verdict::{Outcome, Report};

/// How wide a line of the story may be, in characters; the rest of a longer one is cut.
const STORY_WIDTH: usize = 160;

/// The failure of a run, and how to see it again.
pub(super) fn text(report: &Report) -> String {
    let [oracle, property, expected, found] = report.verdict.explain();
    let [replay, test] = lines_to_copy(&report.scenario, report.seed);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "FAILURE {}  {}:{}  {oracle}: {property}",
        report.verdict.signature(),
        report.scenario,
        report.seed
    );
    let _ = writeln!(text, "  expected  {}", indent(&expected));
    let _ = writeln!(text, "  found     {}", indent(&found));
    let _ = writeln!(
        text,
        "  at        {}  digest {}  plan {}",
        clock(report.virtual_us),
        short(&report.digest),
        short(&report.plan)
    );
    let _ = writeln!(text, "  replay    {replay}");
    let _ = writeln!(text, "  test      {test}");
    text
}

/// One more seed that fails the same way.
pub(super) fn again(report: &Report) -> String {
    format!("again   {}  {}:{}\n", report.verdict.signature(), report.scenario, report.seed)
}

fn short(hex: &str) -> &str {
    if hex.is_empty() { "-" } else { hex }
}

fn indent(text: &str) -> String {
    text.replace('\n', "\n            ")
}

/// The story of a recorded run.
pub(super) fn story(outcome: &Outcome) -> String {
    let mut text = legend(&outcome.labels);
    for event in outcome.story.iter().flatten() {
        text.push_str(&line(event));
        text.push('\n');
    }
    text
}

fn legend(labels: &BTreeMap<u64, String>) -> String {
    let mut text = String::from("n0 is the harness");
    for (node, label) in labels {
        let _ = write!(text, ", n{node} {label}");
    }
    text.push('\n');
    text
}

/// An event in one line.
pub(super) fn line(event: &Event) -> String {
    let node = format!("n{}", event.node);
    let mut text = format!("{}  {node:<4} {:<14} ", clock(event.at_ns / 1000), event.kind);
    let mut lines = event.detail.lines();
    text.push_str(lines.next().unwrap_or_default());
    if text.chars().count() > STORY_WIDTH {
        text = text.chars().take(STORY_WIDTH - 1).collect();
        text.push('…');
    }
    // A panic brings its backtrace.
    for more in lines {
        text.push_str("\n    ");
        text.push_str(more);
    }
    text
}
