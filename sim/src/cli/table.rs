//! The table at the end of a sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cutwater_io::points::{Kind, Point};

use super::campaign::{Campaign, EMPTY, PARTIAL};
use crate::capsule::name;
use crate::told::folded;

/// How many missing names are shown before the rest is only counted.
const NAMES_MAX: usize = 40;
/// How many of the emptiest rows and columns of the matrix are named.
const EMPTIEST: usize = 3;

/// Colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    pub(super) fn new(on: bool) -> Paint {
        Paint { on }
    }
    pub(super) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }
    pub(super) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }
    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// The whole table.
pub(super) fn text(campaign: &Campaign, points: &[Point], whole_matrix: bool, paint: Paint) -> String {
    let mut text = String::new();
    scenarios(&mut text, campaign, paint);
    faults(&mut text, campaign, paint);
    coverage(&mut text, campaign, points, paint);
    matrix(&mut text, campaign, whole_matrix, paint);
    ending(&mut text, campaign, paint);
    folded(&text, 4)
}

fn scenarios(text: &mut String, campaign: &Campaign, paint: Paint) {
    let head = format!(
        "{:<14} {:>8} {:>8} {:>9} {:>9} {:>12} {:>14}",
        "scenario", "plans", "held", "violated", "plans/s", "virtual s", "virtual/CPU s"
    );
    let _ = writeln!(text, "{}", paint.bold(&head));
    let seconds = (campaign.elapsed_ms as f64 / 1000.0).max(0.001);
    for (name, t) in &campaign.scenarios {
        let row = format!(
            "{name:<14} {:>8} {:>8} {:>9} {:>9.1} {:>12.1} {:>14.1}",
            t.plans,
            t.held,
            t.violated,
            t.plans as f64 / seconds,
            t.virtual_us as f64 / 1e6,
            t.virtual_us as f64 / t.cpu_us.max(1) as f64,
        );
        let _ = writeln!(text, "{}", if t.violated > 0 { paint.bad(&row) } else { row });
    }
}

fn faults(text: &mut String, campaign: &Campaign, paint: Paint) {
    let receipts = campaign.receipts();
    if receipts.is_empty() {
        return;
    }
    let head = format!("\n{:<22} {:>9} {:>9} {:>9}", "fault class", "armed", "delivered", "observed");
    let _ = writeln!(text, "{}", paint.bold(&head));
    for (class, r) in &receipts {
        let row = format!("{:<22} {:>9} {:>9} {:>9}", class.name(), r.armed, r.delivered, r.observed);
        let _ = writeln!(text, "{}", if r.delivered == 0 { paint.bad(&row) } else { row });
    }
}

fn coverage(text: &mut String, campaign: &Campaign, points: &[Point], paint: Paint) {
    text.push('\n');
    let kinds = [
        ("points passed", Kind::Point, campaign.seen(|t| &t.points)),
        ("sometimes held", Kind::Sometimes, campaign.seen(|t| &t.sometimes)),
        ("buggify fired", Kind::Buggify, campaign.seen(|t| &t.sometimes)),
    ];
    for (title, kind, seen) in kinds {
        let all: BTreeSet<&str> = points.iter().filter(|p| p.kind == kind).map(|p| p.name).collect();
        if all.is_empty() {
            continue;
        }
        let missing: Vec<&str> = all.iter().copied().filter(|name| !seen.contains(name)).collect();
        let _ = write!(text, "{title}: {} of {}", all.len() - missing.len(), all.len());
        if !missing.is_empty() {
            let named = missing.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
            let rest = missing.len().saturating_sub(NAMES_MAX);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            let _ = write!(text, "; {}", paint.bad(&format!("missing: {named}{more}")));
        }
        text.push('\n');
    }
    let held = campaign.seen(|t| &t.sometimes);
    for point in points.iter().filter(|p| p.kind == Kind::Never && held.contains(p.name)) {
        let _ = writeln!(text, "{}", paint.bad(&format!("must never hold, and did: {}", point.name)));
    }
}

/// How many cells of fault class x point were filled, and where most are empty; all the empty ones if asked for.
fn matrix(text: &mut String, campaign: &Campaign, whole: bool, paint: Paint) {
    for (name, tally) in &campaign.scenarios {
        let met: usize = tally.matrix.values().map(BTreeMap::len).sum();
        let unmet: usize = tally.unmet.values().map(Vec::len).sum();
        if met + unmet == 0 {
            continue;
        }
        let _ = write!(text, "{name}: faults met points in {met} of {} cells", met + unmet);
        let mut by_point: BTreeMap<&str, usize> = BTreeMap::new();
        for point in tally.unmet.values().flatten() {
            *by_point.entry(point).or_default() += 1;
        }
        let by_class = tally.unmet.iter().map(|(class, points)| (class.name(), points.len())).collect();
        for (title, rows) in
            [("classes", emptiest(by_class)), ("points", emptiest(by_point.into_iter().collect()))]
        {
            if !rows.is_empty() {
                let _ = write!(text, "; emptiest {title}: {}", rows.join(", "));
            }
        }
        text.push('\n');
        for (class, points) in tally.unmet.iter().filter(|_| whole) {
            let _ = writeln!(text, "  {:<22} never met {}", class.name(), paint.bad(&points.join(", ")));
        }
    }
}

/// The few rows with the most empty cells.
fn emptiest(mut rows: Vec<(&str, usize)>) -> Vec<String> {
    rows.sort_by_key(|(_, empty)| std::cmp::Reverse(*empty));
    rows.iter().take(EMPTIEST).map(|(name, empty)| format!("{name} ({empty})")).collect()
}

fn ending(text: &mut String, campaign: &Campaign, paint: Paint) {
    if campaign.run_twice > 0 {
        let _ = writeln!(
            text,
            "run twice: {} plans, {} went two ways",
            campaign.run_twice,
            campaign.divergences.len()
        );
    }
    for (name, tally) in &campaign.scenarios {
        for what in &tally.void {
            let _ = writeln!(text, "{}", paint.bad(&format!("void: {name}: {what}")));
        }
    }
    for failure in campaign.failures.values() {
        let report = &failure.first;
        let [oracle, property, ..] = report.verdict.explain();
        let plans = failure.plans();
        let row = format!(
            "{} {}: {oracle}: {property}: {plans} plan{}, first {}{}",
            report.verdict.signature(),
            report.scenario,
            if plans == 1 { "" } else { "s" },
            name(report),
            if failure.unrepeated { ", which did not fail again" } else { "" }
        );
        let _ = writeln!(text, "{}", paint.bad(&row));
    }
    let line = match campaign.result() {
        super::HELD => paint.good("all held"),
        super::VIOLATED => paint.bad("violated"),
        super::VOID if campaign.is_empty() => paint.bad(EMPTY),
        super::VOID => paint.bad("void: the campaign never saw what it must have seen"),
        _ => paint.bad("non-determinism: every other result of this sweep is in doubt"),
    };
    let _ = writeln!(text, "{line} in {:.1} s", campaign.elapsed_ms as f64 / 1000.0);
    if campaign.interrupted {
        let _ = writeln!(text, "{}", paint.bad(PARTIAL));
    }
}
