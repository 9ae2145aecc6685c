//! `report.html`: what a campaign amounts to, on one page that opens from a disk.
//!
//! It answers in this order: did anything fail, and how do I see it; does the campaign prove anything (demands, what was
//! never seen); what was run, how fast; which faults were delivered; which fault met which point. The last is the matrix:
//! a filled cell counts the plans' faults of that class that struck while a node was at that point, an empty one is a
//! combination that nobody has tried yet, and is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use super::campaign::{Campaign, Failure, PARTIAL, Pace, Tally};
use crate::faults::FaultClass;
use crate::html::{self, escape};
use crate::program::{lines_to_copy, replay_line};

/// Size of the chart of the throughput, in pixels.
const CHART: (f64, f64) = (900.0, 110.0);

/// What was kept of the failures of a campaign.
pub(super) struct Kept {
    /// The directory of their capsules, as a user reaches it.
    pub(super) capsules: PathBuf,
    /// The files in each, by the key of the failure.
    pub(super) files: BTreeMap<String, Vec<String>>,
}

/// The page.
pub(super) fn html(campaign: &Campaign, kept: &Kept) -> String {
    let style = format!("{}{}", html::THEME, include_str!("report.css"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>Cutwater: {}</title>\n<style>{style}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
        escape(status(campaign).0),
        body(campaign, kept)
    )
}

/// The verdict on the campaign, and the class of its badge.
fn status(campaign: &Campaign) -> (&'static str, &'static str) {
    match campaign.result() {
        super::HELD => ("all held", "held"),
        super::VIOLATED => ("violated", "violated"),
        super::VOID => ("void", "void"),
        _ => ("non-determinism", "violated"),
    }
}

fn body(campaign: &Campaign, kept: &Kept) -> String {
    let mut page = String::new();
    head(&mut page, campaign);
    findings(&mut page, campaign, kept);
    void(&mut page, campaign);
    scenarios(&mut page, campaign);
    throughput(&mut page, &campaign.pace);
    receipts(&mut page, campaign);
    for (name, tally) in &campaign.scenarios {
        matrix(&mut page, name, tally);
    }
    page
}

/// Adds to a page; writing to a string does not fail.
macro_rules! put {
    ($page:expr, $($arguments:tt)*) => {{ let _ = writeln!($page, $($arguments)*); }};
}

fn head(page: &mut String, campaign: &Campaign) {
    let (words, class) = status(campaign);
    let sum = |of: fn(&Tally) -> u64| campaign.scenarios.values().map(of).sum::<u64>();
    let (plans, seconds) = (sum(|t| t.plans), campaign.elapsed_ms as f64 / 1000.0);
    put!(page, "<h1>Campaign <span class=\"badge {class}\">{words}</span></h1>");
    put!(
        page,
        "<p class=\"dim\">{} plans in {}: {:.1} a second. {} of virtual time, {} of CPU time. {} plans were run twice, {} of \
         them went two ways.</p>",
        number(plans),
        duration(seconds),
        plans as f64 / seconds.max(0.001),
        duration(sum(|t| t.virtual_us) as f64 / 1e6),
        duration(sum(|t| t.cpu_us) as f64 / 1e6),
        number(campaign.run_twice),
        campaign.divergences.len()
    );
    if campaign.interrupted {
        put!(page, "<p class=\"bad\">{PARTIAL}.</p>");
    }
}

fn findings(page: &mut String, campaign: &Campaign, kept: &Kept) {
    put!(page, "<h2 id=\"findings\">Findings</h2>");
    if campaign.failures.is_empty() && campaign.divergences.is_empty() {
        put!(page, "<p>No plan failed.</p>");
        return;
    }
    if !campaign.failures.is_empty() {
        put!(
            page,
            "<table><tr><th>signature</th><th>scenario</th><th>what did not hold</th><th class=\"n\">plans</th><th>first</th><th>files</th></tr>"
        );
        for (key, failure) in &campaign.failures {
            finding(page, key, failure, kept);
        }
        put!(page, "</table>");
    }
    for divergence in &campaign.divergences {
        put!(
            page,
            "<p class=\"bad\">{}:{}: {}</p>\n<p><code>{}</code></p>",
            escape(&divergence.scenario),
            divergence.seed,
            escape(&divergence.told),
            escape(&divergence.replay)
        );
        for event in divergence.first.iter().flatten() {
            put!(page, "<p><code>{}</code></p>", escape(event));
        }
    }
}

fn finding(page: &mut String, key: &str, failure: &Failure, kept: &Kept) {
    let report = &failure.first;
    let [oracle, property, expected, found] = report.verdict.explain();
    let first = if report.named_by_seed {
        lines_to_copy(&report.scenario, report.seed).0
    } else {
        replay_line(&kept.capsules.join(key).display().to_string())
    };
    let first = escape(&first);
    let files = kept.files.get(key).map(Vec::as_slice).unwrap_or_default();
    // What one opens first comes first.
    let mut files: Vec<&String> = files.iter().collect();
    files.sort_by_key(|file| (*file != "timeline.html", *file != "README.md"));
    let links: Vec<String> = files
        .into_iter()
        .map(|file| format!("<a href=\"capsules/{}/{}\">{}</a>", address(key), address(file), escape(file)))
        .collect();
    put!(
        page,
        "<tr><td><code>{}</code></td><td>{}</td><td><b>{}</b>: {}<br><span class=\"dim\">expected</span> {}<br>\
         <span class=\"dim\">found</span> {}</td><td class=\"n\">{}</td><td><code>{first}</code></td><td class=\"files\">{}</td></tr>",
        escape(&report.verdict.signature()),
        escape(&report.scenario),
        escape(&oracle),
        escape(&property),
        escape(&expected),
        escape(&found),
        number(failure.plans()),
        links.join(" &middot; ")
    );
}

/// A part of a path in a link.
fn address(name: &str) -> String {
    let mut address = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            address.push(char::from(byte));
        } else {
            let _ = write!(address, "%{byte:02X}");
        }
    }
    address
}

fn void(page: &mut String, campaign: &Campaign) {
    let missing = campaign.scenarios.values().any(|t| !t.void.is_empty() || !t.unseen.is_empty());
    put!(page, "<h2 id=\"demands\">What was never seen</h2>");
    if !missing {
        put!(
            page,
            "<p>Everything that the scenarios demand was seen, and every point and <code>sometimes!</code> besides.</p>"
        );
        return;
    }
    put!(
        page,
        "<table><tr><th>scenario</th><th>demanded: the campaign is void</th><th>not demanded of so few plans</th></tr>"
    );
    for (name, tally) in campaign.scenarios.iter().filter(|(_, t)| !t.void.is_empty() || !t.unseen.is_empty())
    {
        let list = |names: &mut dyn Iterator<Item = &str>| {
            names.map(|name| format!("<code>{}</code>", escape(name))).collect::<Vec<_>>().join("<br>")
        };
        let demanded = |point: &&str| tally.void.iter().any(|void| void.contains(point));
        put!(
            page,
            "<tr><td>{}</td><td class=\"bad\">{}</td><td>{}</td></tr>",
            escape(name),
            list(&mut tally.void.iter().map(String::as_str)),
            list(&mut tally.unseen.iter().copied().filter(|point| !demanded(point)))
        );
    }
    put!(page, "</table>");
}

fn scenarios(page: &mut String, campaign: &Campaign) {
    put!(page, "<h2 id=\"scenarios\">Scenarios</h2>\n<table><tr><th>scenario</th>");
    for title in [
        "plans",
        "held",
        "violated",
        "CPU ms a plan",
        "virtual s a CPU s",
        "events",
        "disk calls",
        "frames",
        "object requests",
    ] {
        put!(page, "<th class=\"n\">{title}</th>");
    }
    put!(page, "</tr>");
    for (name, t) in &campaign.scenarios {
        let violated = if t.violated > 0 { " bad" } else { "" };
        put!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n{violated}\">{}</td><td class=\"n\">{:.1}</td>\
             <td class=\"n\">{:.1}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(name),
            number(t.plans),
            number(t.held),
            number(t.violated),
            t.cpu_us as f64 / 1000.0 / t.plans.max(1) as f64,
            t.virtual_us as f64 / t.cpu_us.max(1) as f64,
            number(t.events),
            number(t.work.disk_calls),
            number(t.work.frames),
            number(t.work.object_requests)
        );
    }
    put!(page, "</table>");
}

/// Plans per second over the time of the campaign.
fn throughput(page: &mut String, pace: &Pace) {
    if pace.plans.len() < 2 {
        return;
    }
    let (width, height) = CHART;
    let per_s = |plans: u64| plans as f64 * 1000.0 / pace.every_ms as f64;
    // What stands last has only begun.
    let rates: Vec<f64> = pace.plans[..pace.plans.len() - 1].iter().map(|plans| per_s(*plans)).collect();
    let most = rates.iter().copied().fold(1.0, f64::max);
    let step = width / rates.len() as f64;
    let mut path = format!("M0 {height}");
    for (i, rate) in rates.iter().enumerate() {
        let _ = write!(path, "V{:.1}H{:.1}", height - rate / most * (height - 16.0), (i + 1) as f64 * step);
    }
    put!(page, "<h2 id=\"throughput\">Throughput</h2>");
    put!(page, "<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\">", width + 90.0, height + 20.0);
    put!(page, "<path class=\"area\" d=\"{path}V{height}Z\"/>");
    put!(
        page,
        "<line x1=\"0\" x2=\"{width}\" y1=\"16\" y2=\"16\"/><text x=\"{}\" y=\"20\">{most:.0} plans/s</text>",
        width + 6.0
    );
    put!(page, "<text x=\"0\" y=\"{}\">0 s</text>", height + 15.0);
    let end = rates.len() as f64 * pace.every_ms as f64 / 1000.0;
    put!(page, "<text x=\"{width}\" y=\"{}\" text-anchor=\"end\">{}</text>", height + 15.0, duration(end));
    put!(page, "</svg>");
}

fn receipts(page: &mut String, campaign: &Campaign) {
    let receipts = campaign.receipts();
    put!(page, "<h2 id=\"faults\">Faults</h2>");
    if receipts.is_empty() {
        put!(page, "<p>No plan had one.</p>");
        return;
    }
    let most = receipts.values().map(|r| r.delivered).max().unwrap_or(0).max(1);
    put!(
        page,
        "<table><tr><th>class</th><th class=\"n\">armed</th><th class=\"n\">delivered</th><th class=\"n\">observed</th><th></th></tr>"
    );
    for (class, r) in &receipts {
        let bad = if r.delivered == 0 { " class=\"bad\"" } else { "" };
        put!(
            page,
            "<tr><td{bad} title=\"{}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td><span class=\"bar\" style=\"width:{}px\"></span></td></tr>",
            escape(class.about()),
            class.name(),
            number(r.armed),
            number(r.delivered),
            number(r.observed),
            r.delivered * 260 / most
        );
    }
    put!(page, "</table>");
}

/// Fault classes over points of one scenario.
fn matrix(page: &mut String, name: &str, tally: &Tally) {
    let mut classes: BTreeSet<FaultClass> = tally.matrix.keys().copied().collect();
    classes.extend(tally.unmet.keys());
    let mut points: BTreeSet<&str> =
        tally.matrix.values().flat_map(|row| row.keys().map(String::as_str)).collect();
    points.extend(tally.unmet.values().flatten());
    if classes.is_empty() || points.is_empty() {
        return;
    }
    let met: usize = tally.matrix.values().map(BTreeMap::len).sum();
    let unmet: usize = tally.unmet.values().map(Vec::len).sum();
    let most = tally.matrix.values().flat_map(BTreeMap::values).max().copied().unwrap_or(1);
    put!(page, "<h2>Faults and points: {}</h2>", escape(name));
    put!(
        page,
        "<p class=\"dim\">A fault of the class struck at the point so many times; {met} of {} cells are filled.</p>",
        met + unmet
    );
    put!(page, "<div class=\"scroll\"><table class=\"matrix\"><thead><tr><th></th>");
    for class in &classes {
        put!(page, "<th title=\"{}\"><span>{}</span></th>", escape(class.about()), class.name());
    }
    put!(page, "</tr></thead><tbody>");
    for point in points {
        let _ = write!(page, "<tr><th>{}</th>", escape(point));
        for class in &classes {
            cell(page, tally, *class, point, most);
        }
        put!(page, "</tr>");
    }
    put!(page, "</tbody></table></div>");
    if unmet > 0 {
        put!(page, "<details><summary>{unmet} empty cells</summary>");
        for (class, points) in tally.unmet.iter().filter(|(_, points)| !points.is_empty()) {
            put!(
                page,
                "<p><b>{}</b> never met <code>{}</code></p>",
                class.name(),
                escape(&points.join(", "))
            );
        }
        put!(page, "</details>");
    }
}

fn cell(page: &mut String, tally: &Tally, class: FaultClass, point: &str, most: u64) {
    let about = escape(&format!("{} at {point}", class.name()));
    match tally.matrix.get(&class).and_then(|row| row.get(point)) {
        Some(n) => {
            let heat = 1 + (4.0 * (*n as f64).ln_1p() / (most as f64).ln_1p()).round() as u64;
            let _ = write!(page, "<td class=\"h{}\" title=\"{about}: {n}\">{}</td>", heat.min(5), short(*n));
        }
        None if tally.unmet.get(&class).is_some_and(|points| points.contains(&point)) => {
            let _ = write!(page, "<td class=\"empty\" title=\"{about}: never\"></td>");
        }
        None => page.push_str("<td class=\"none\"></td>"),
    }
}

/// A number that fits a cell.
fn short(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..10_000 => format!("{:.1}k", n as f64 / 1e3),
        10_000..1_000_000 => format!("{}k", n / 1_000),
        _ => format!("{}M", n / 1_000_000),
    }
}

/// A number in groups of three digits.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Receipt;
    use crate::scenario::Violation;
    use crate::verdict::{Report, Verdict};

    const HOSTILE: &str = "<script>alert(1)</script> \"&'";

    /// A campaign with one of everything, its numbers fixed.
    fn campaign() -> Campaign {
        let mut campaign = Campaign { elapsed_ms: 4_000, run_twice: 3, ..Campaign::default() };
        for seed in 0..1_200 {
            let mut report = Report::bare("store", seed, Verdict::Held);
            (report.virtual_us, report.cpu_us, report.events) = (2_000_000, 4_000, 900);
            report.work.disk_calls = 700;
            report.points = [("store.flush.synced".into(), 2)].into();
            report.receipts =
                [(FaultClass::PowerFail, Receipt { armed: 2, delivered: 1, observed: 1 })].into();
            report.matrix = [(FaultClass::PowerFail, [("store.flush.synced".to_string(), 1)].into())].into();
            campaign.add(&report);
        }
        let violation = Violation::new("durability", "an acknowledged value is there")
            .of("key")
            .expected(HOSTILE)
            .found("nothing");
        let mut failed = Report::bare("store", 7, Verdict::Violated(violation));
        failed.named_by_seed = true;
        campaign.add(&failed);
        let tally = campaign.scenarios.get_mut("store").unwrap();
        tally.unmet = [(FaultClass::DiskFull, vec!["store.flush.synced"])].into();
        tally.void = vec!["no fault of class disk_full".into()];
        tally.unseen = vec!["store.wal.rotated"];
        campaign.pace = Pace { every_ms: 1_000, plans: vec![250, 300, 350, 301] };
        campaign
    }

    #[test]
    fn the_report_of_a_campaign() {
        let campaign = campaign();
        let key = campaign.failures.keys().next().unwrap().clone();
        let files = [(key, vec!["plan.json".to_string(), "timeline.html".to_string()])].into();
        let kept = Kept { capsules: "out/capsules".into(), files };
        insta::assert_snapshot!(body(&campaign, &kept));
        assert!(!html(&campaign, &kept).contains("<script"));
    }

    #[test]
    fn results_that_are_partial_say_so() {
        let page =
            |campaign: &Campaign| body(campaign, &Kept { capsules: PathBuf::new(), files: BTreeMap::new() });
        let (whole, mut cut) = (campaign(), campaign());
        cut.interrupted = true;
        assert!(!page(&whole).contains(PARTIAL) && page(&cut).contains(PARTIAL));
        // What failed is not hidden by it.
        assert!(page(&cut).contains("violated"));
    }

    #[test]
    fn a_campaign_without_a_finding_says_so() {
        let page = body(&Campaign::default(), &Kept { capsules: PathBuf::new(), files: BTreeMap::new() });
        assert!(page.contains("No plan failed."), "{page}");
        assert!(page.contains("No plan had one."), "{page}");
    }
}
