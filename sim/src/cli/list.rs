//! `cutwater list`: scenarios, fault classes, points, oracles, each with a line of explanation.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cutwater_io::points::{Kind, Point};
use serde_json::{Value, json};

use super::{HELD, Registry};
use crate::faults::FaultClass;
use crate::told::folded;

pub(super) fn run(registry: &Registry<'_>, as_json: bool) -> u8 {
    if as_json {
        println!("{:#}", to_json(registry));
    } else {
        print!("{}", text(registry));
    }
    HELD
}

pub(super) fn text(registry: &Registry<'_>) -> String {
    let mut text = String::from("Scenarios\n");
    for scenario in registry.scenarios {
        let _ = writeln!(text, "  {:<26} {}", scenario.name(), scenario.about());
    }
    let mut seen = BTreeSet::new();
    text.push_str("\nOracles\n");
    for oracle in registry.scenarios.iter().flat_map(|s| s.oracles()).filter(|o| seen.insert(o.name)) {
        let _ = writeln!(text, "  {:<26} {}", oracle.name, oracle.about);
    }
    text.push_str("\nFault classes\n");
    for class in FaultClass::ALL {
        let _ = writeln!(text, "  {:<26} {}", class.name(), class.about());
    }
    let kinds = [
        ("Points", Kind::Point),
        ("Sometimes", Kind::Sometimes),
        ("Never", Kind::Never),
        ("Buggify", Kind::Buggify),
    ];
    for (title, kind) in kinds {
        let points: Vec<&Point> = registry.points.iter().filter(|p| p.kind == kind).collect();
        if points.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}");
        for point in points {
            let _ = writeln!(text, "  {:<26} {}", point.name, point.about);
        }
    }
    for scenario in registry.scenarios {
        let vocabulary = scenario.vocabulary();
        let _ = writeln!(text, "\nKnobs of {}", scenario.name());
        for knob in &vocabulary.knobs {
            let _ = writeln!(
                text,
                "  {:<26} {} (default {}, {} to {})",
                knob.name,
                knob.about,
                knob.default,
                knob.range.start(),
                knob.range.end()
            );
        }
    }
    folded(&text, 29)
}

fn to_json(registry: &Registry<'_>) -> Value {
    let named = |name: &str, about: &str| json!({ "name": name, "about": about });
    let points = |kind: Kind| -> Vec<Value> {
        let of_kind = |p: &&Point| p.kind == kind;
        registry.points.iter().filter(of_kind).map(|p| named(p.name, p.about)).collect()
    };
    let scenarios: Vec<Value> = registry
        .scenarios
        .iter()
        .map(|scenario| {
            let v = scenario.vocabulary();
            json!({
                "name": scenario.name(),
                "about": scenario.about(),
                "oracles": scenario.oracles().iter().map(|o| named(o.name, o.about)).collect::<Vec<_>>(),
                "faults": v.faults.iter().map(|f| f.name()).collect::<Vec<_>>(),
                "verbs": v.verbs.iter().map(|verb| named(verb.name, verb.about)).collect::<Vec<_>>(),
                "roles": v.roles.iter().map(|r| json!({
                    "name": r.name, "about": r.about, "low": r.count.start(), "high": r.count.end(),
                })).collect::<Vec<_>>(),
                "knobs": v.knobs.iter().map(|k| json!({
                    "name": k.name, "about": k.about, "default": k.default,
                    "low": k.range.start(), "high": k.range.end(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "scenarios": scenarios,
        "fault_classes": FaultClass::ALL.iter().map(|c| named(c.name(), c.about())).collect::<Vec<_>>(),
        "points": points(Kind::Point),
        "sometimes": points(Kind::Sometimes),
        "never": points(Kind::Never),
        "buggify": points(Kind::Buggify),
    })
}
