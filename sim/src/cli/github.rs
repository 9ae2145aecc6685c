//! What GitHub Actions is told: an annotation for each failure, and a summary of the step.
//!
//! Annotations are lines on stdout (on stderr beside `--json`), the summary is appended to the file that
//! `GITHUB_STEP_SUMMARY` names. What a failure says may hold any bytes of the system under test: it is escaped for both.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::campaign::{Campaign, PARTIAL};
use crate::capsule::named;
use crate::program::lines_to_copy;
use crate::verdict::{Report, Verdict};

/// The workflow commands of a campaign.
pub(super) fn annotations(campaign: &Campaign) -> String {
    let mut text = String::new();
    for failure in campaign.failures.values() {
        let report = &failure.first;
        let [oracle, property, ..] = report.verdict.explain();
        let title = format!("{} {}: {oracle}: {property}", report.verdict.signature(), report.scenario);
        let place = place(&report.verdict);
        let body = format!("{} plans fail like this\n{}", failure.plans(), failure.text);
        let _ = writeln!(text, "::error {place}title={}::{}", property_of(&title), data(&body));
    }
    if campaign.interrupted {
        let _ = writeln!(text, "::warning title=interrupted::{}", data(PARTIAL));
    }
    for divergence in &campaign.divergences {
        let what = format!(
            "{}:{}  {}\n{}",
            divergence.scenario, divergence.seed, divergence.told, divergence.replay
        );
        let _ = writeln!(text, "::error title=non-determinism::{}", data(&what));
    }
    for (name, tally) in &campaign.scenarios {
        for what in &tally.void {
            let _ = writeln!(text, "::error title=void::{}", data(&format!("{name}: {what}")));
        }
    }
    text
}

/// Where a failure is in the sources, if it says so itself.
fn place(verdict: &Verdict) -> String {
    let Verdict::Panicked { location, .. } = verdict else { return String::new() };
    let Some((file, line)) = location.rsplit_once(':') else { return String::new() };
    let is_ours = !file.starts_with('/') && line.parse::<u32>().is_ok();
    if is_ours { format!("file={},line={line},", property_of(file)) } else { String::new() }
}

/// Escapes what stands behind the second `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes the value of a property.
fn property_of(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The summary in Markdown.
pub(super) fn summary(campaign: &Campaign) -> String {
    let mut text = String::from(
        "### cutwater\n\n| scenario | plans | held | violated | virtual s | CPU s | cells of the matrix met |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, t) in &campaign.scenarios {
        let met: usize = t.matrix.values().map(|row| row.len()).sum();
        let unmet: usize = t.unmet.values().map(Vec::len).sum();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {:.0} | {:.0} | {met} of {} |",
            t.plans,
            t.held,
            t.violated,
            t.virtual_us as f64 / 1e6,
            t.cpu_us as f64 / 1e6,
            met + unmet
        );
    }
    if campaign.interrupted {
        let _ = writeln!(text, "\n**{PARTIAL}**");
    }
    if !campaign.failures.is_empty() {
        text.push_str("\n| signature | what | plans | to see it again |\n|---|---|---|---|\n");
    }
    for failure in campaign.failures.values() {
        let report = &failure.first;
        let [oracle, property, ..] = report.verdict.explain();
        let _ = writeln!(
            text,
            "| `{}` | {}: {} | {} | {} |",
            report.verdict.signature(),
            cell(&oracle),
            cell(&property),
            failure.plans(),
            again(report)
        );
    }
    for divergence in &campaign.divergences {
        let _ = writeln!(
            text,
            "\n**non-determinism**: {}:{}: {}",
            divergence.scenario, divergence.seed, divergence.told
        );
    }
    for (name, tally) in &campaign.scenarios {
        for what in &tally.void {
            let _ = writeln!(text, "\n**void**: {name}: {}", cell(what));
        }
    }
    text
}

fn again(report: &Report) -> String {
    if report.named_by_seed {
        let (replay, _) = lines_to_copy(&report.scenario, report.seed);
        format!("`{replay}`")
    } else {
        format!("the capsule `{}` in the artefacts", Campaign::failure_name(report))
    }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\r', '\n'], " ")
}

/// Appends the summary to the file that the step is given, if there is one.
#[expect(clippy::disallowed_types, reason = "the CI system names a real file in the environment")]
pub(super) fn write_summary(campaign: &Campaign) -> io::Result<()> {
    use std::io::Write as _;
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(summary(campaign).as_bytes()));
    written.map_err(|e| named(Path::new(&path), &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Violation;

    #[test]
    fn hostile_text_stays_in_its_place() {
        let mut campaign = Campaign::default();
        let violation = Violation::new("model", "reads, 100% of them: equal | a map")
            .expected("a\n::error::b")
            .found("<b>\r\nc");
        for (seed, verdict) in [
            (3, Verdict::Violated(violation)),
            (4, Verdict::Panicked { message: "no".into(), location: "engine/src/a,b.rs:7".into(), node: 1 }),
            (5, Verdict::Panicked { message: "no".into(), location: "/rustc/x/core.rs:8".into(), node: 1 }),
        ] {
            campaign.add(&Report::bare("store", seed, verdict));
        }
        // It is then that failures get their text.
        campaign.judge(&[], false);
        let text = format!("{}\n{}", annotations(&campaign), summary(&campaign));
        assert_eq!(annotations(&campaign).lines().count(), 3, "one line for each failure");
        assert!(text.contains("a%0A"), "what was expected is told, and escaped: {text}");
        insta::assert_snapshot!(text);
        campaign.interrupted = true;
        for text in [annotations(&campaign), summary(&campaign)] {
            assert_eq!(text.matches(PARTIAL).count(), 1, "{text}");
        }
    }
}
