//! A recorded run as a picture: `timeline.html` for people, `trace.perfetto.json` for Perfetto and its like.
//!
//! The page is one file without any reference to the outside: it opens from a disk. It shows a lane per machine (its lives,
//! what it was busy with, what its disk could still lose, what it lost), clients and the object store, messages as arrows,
//! faults as marks, and the moment an oracle objected, over virtual time. Beside it stands the list of events.
//!
//! *Left out*: of very long stories the common events far from the end ([`thin`]); frames that a fault duplicated; what a
//! node has in memory.

mod model;
mod perfetto;
mod read;
#[cfg(test)]
mod tests;
mod thin;

use std::io;
use std::path::Path;

use crate::html;
use crate::plan::Plan;
use crate::verdict::Outcome;

/// The page of a recorded run.
pub fn html(plan: &Plan, outcome: &Outcome) -> String {
    let timeline = read::build(plan, outcome);
    let title = format!("{}:{} {}", timeline.head.scenario, timeline.head.seed, timeline.head.verdict);
    // The data go in last: what they contain is not looked at again.
    include_str!("page.html")
        .replace("{{title}}", &html::escape(&title))
        .replace("{{style}}", &format!("{}{}", html::THEME, include_str!("page.css")))
        .replace("{{script}}", include_str!("page.js"))
        .replace("{{data}}", &html::embed(&timeline))
}

/// Writes the page of a recorded run.
///
/// # Errors
/// If the file cannot be written.
#[expect(clippy::disallowed_methods, reason = "a page is written to the real disk")]
pub fn write_html(plan: &Plan, outcome: &Outcome, path: &Path) -> io::Result<()> {
    std::fs::write(path, html(plan, outcome))
}

/// A recorded run in the format that ui.perfetto.dev opens.
pub fn perfetto(plan: &Plan, outcome: &Outcome) -> String {
    perfetto::json(&read::build(plan, outcome))
}

/// Writes a recorded run in the format that ui.perfetto.dev opens.
///
/// # Errors
/// If the file cannot be written.
#[expect(clippy::disallowed_methods, reason = "a trace is written to the real disk")]
pub fn write_perfetto(plan: &Plan, outcome: &Outcome, path: &Path) -> io::Result<()> {
    std::fs::write(path, perfetto(plan, outcome))
}
