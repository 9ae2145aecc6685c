//! How what was found is told: a row of a Markdown table, or a line of JSON.

use serde_json::{Value, json};

use super::bug::{Bug, Demand};
use super::find::Found;

/// The head of the table.
pub const HEAD: &str = "\
| bug | what | source | scenario | found first by | first | looked at until then | CPU s until then | failing | what fires | shrunk |
|---|---|---|---|---|---|---|---|---|---|---|";

/// One row: the way that was the cheapest, and how many failed in each.
pub fn row(bug: &Bug, found: &[Found]) -> String {
    let rates: Vec<String> =
        found.iter().map(|f| format!("{} of {} ({})", f.failing, f.looked_at, f.how)).collect();
    let cells = match cheapest(found) {
        Some((by, first)) => [
            by.how.into(),
            if first.plan.starts_with(&format!("{}:", bug.scenario)) {
                first.plan.clone()
            } else {
                "-".into()
            },
            first.until.map_or("-".into(), |until| until.to_string()),
            seconds(first.cpu_us),
            rates.join(", "),
            first.oracle.clone(),
            by.shrunk.map_or("-".into(), |(ops, faults)| format!("{ops} ops, {faults} faults")),
        ],
        None => {
            let why = match &bug.demand {
                Demand::Nothing(reason) => reason.clone(),
                Demand::Seeds(_) => "-".into(),
            };
            let dash = || "-".to_owned();
            ["**not found**".into(), dash(), dash(), dash(), rates.join(", "), why, dash()]
        }
    };
    format!("| {} | {} | {} | {} | {} |", bug.name, bug.about, bug.source, bug.scenario, cells.join(" | "))
}

/// One line.
pub fn json(bug: &Bug, found: &[Found]) -> Value {
    let ways = found.iter().map(|f| {
        json!({
            "how": f.how,
            "looked_at": f.looked_at,
            "failing": f.failing,
            "cpu_us": f.cpu_us,
            "first": f.first.as_ref().map(|first| json!({
                "plan": first.plan,
                "oracle": first.oracle,
                "until": first.until,
                "cpu_us": first.cpu_us,
            })),
            "shrunk": f.shrunk.map(|(ops, faults)| json!({ "ops": ops, "faults": faults })),
        })
    });
    json!({
        "bug": bug.name,
        "about": bug.about,
        "source": bug.source,
        "scenario": bug.scenario,
        "demands": match &bug.demand {
            Demand::Seeds(seeds) => json!({ "seeds": seeds }),
            Demand::Nothing(reason) => json!({ "nothing": reason }),
        },
        "ways": ways.collect::<Vec<_>>(),
    })
}

/// What found it with the least CPU time.
fn cheapest(found: &[Found]) -> Option<(&Found, &super::find::First)> {
    let with_first = found.iter().filter_map(|f| Some((f, f.first.as_ref()?)));
    with_first.min_by_key(|(_, first)| first.cpu_us)
}

fn seconds(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e6)
}
