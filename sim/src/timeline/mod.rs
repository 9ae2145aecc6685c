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

/// The script of the page: its parts in the order in which they build on each other.
const SCRIPT: &str = concat!(
    include_str!("page/time.js"),
    include_str!("page/lanes.js"),
    include_str!("page/parts.js"),
    include_str!("page/draw.js"),
    include_str!("page/events.js"),
    include_str!("page/hands.js"),
);

/// The page of a recorded run; `again` is what to type to see it again.
pub fn html(plan: &Plan, outcome: &Outcome, again: &str) -> String {
    let mut timeline = read::build(plan, outcome);
    timeline.head.again = again.into();
    let title = format!("{}:{} {}", timeline.head.scenario, timeline.head.seed, timeline.head.verdict);
    // The data go in last: what they contain is not looked at again.
    include_str!("page/page.html")
        .replace("{{title}}", &html::escape(&title))
        .replace("{{style}}", &format!("{}{}", html::THEME, include_str!("page/page.css")))
        .replace("{{script}}", SCRIPT)
        .replace("{{data}}", &html::embed(&timeline))
}

/// Writes the page of a recorded run, see [`html`].
///
/// # Errors
/// If the file cannot be written.
#[expect(clippy::disallowed_methods, reason = "a page is written to the real disk")]
pub fn write_html(plan: &Plan, outcome: &Outcome, again: &str, path: &Path) -> io::Result<()> {
    std::fs::write(path, html(plan, outcome, again))
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
