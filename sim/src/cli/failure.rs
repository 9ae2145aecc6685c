//! What a failure looks like while a sweep goes on, and the story of a run. (The failure on one screen is in `capsule`.)

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cutwater_io::sim::Event;

use super::clock;
use crate::capsule::name;
use crate::verdict::{Outcome, Report};

/// How wide a line of the story may be, in characters; the rest of a longer one is cut.
const STORY_WIDTH: usize = 160;

/// A failure in one line; a `new` one, or one more of a kind.
pub(super) fn brief(report: &Report, is_new: bool) -> String {
    let [oracle, property, ..] = report.verdict.explain();
    let (signature, name) = (report.verdict.signature(), name(report));
    if is_new {
        format!("failure {signature}  {name}  {oracle}: {property}")
    } else {
        format!("again   {signature}  {name}")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_story_has_a_limit_and_goes_on_below() {
        let event = |detail: &str| Event {
            at_ns: 1_234_567_890,
            node: 2,
            kind: "disk.sync".into(),
            detail: detail.into(),
            facts: BTreeMap::new(),
        };
        assert_eq!(line(&event("/wal")), "00:00:01.234567  n2   disk.sync      /wal");
        assert_eq!(line(&event(&"é".repeat(500))).chars().count(), STORY_WIDTH);
        assert_eq!(line(&event("a\nb")).lines().nth(1), Some("    b"));
    }
}
