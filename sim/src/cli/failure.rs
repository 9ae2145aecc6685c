//! What a failure looks like while a sweep goes on, and the story of a run. (The failure on one screen is in `capsule`.)

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::capsule::name;
use crate::told::line;
use crate::verdict::{Outcome, Report};

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
