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
    if report.named_by_seed {
        let _ = writeln!(text, "  replay    {replay}");
        let _ = writeln!(text, "  test      {test}");
    } else {
        let dir = format!("failures/{}-{}", report.scenario, report.verdict.signature());
        let _ = writeln!(
            text,
            "  replay    cargo cutwater replay OUT/{dir}/plan.json --trace   (OUT: see --out)"
        );
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Violation;
    use crate::verdict::Verdict;

    #[test]
    fn a_failure_fits_a_screen() {
        let violation = Violation::new("durability", "an acknowledged value is in the log")
            .of("value")
            .expected("14, acknowledged at 66584 us")
            .found("only {1, 2}");
        let verdicts = [
            Verdict::Violated(violation),
            Verdict::Panicked { message: "no\nway".into(), location: "store.rs:7".into(), node: 2 },
            Verdict::Aborted { signal: 11, stderr: "stack overflow".into() },
            Verdict::Hung { limit_s: 60 },
            Verdict::Invalid { reason: "no".into() },
        ];
        let texts: Vec<String> = verdicts
            .into_iter()
            .map(|verdict| {
                let mut report = Report::bare("store", 196, verdict);
                report.virtual_us = 3_723_000_042;
                report.digest = format!("{:032x}", 7);
                text(&report)
            })
            .collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

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
