//! The story of a run in words, where the devices tell of a fault as of a value.
//!
//! A device knows what strikes it, and tells that as data; all of it comes out of the plan, where it is looked up. A crash that
//! the plan does not have (a process that ended by itself, a branch of a census) is told by its facts.

use std::collections::BTreeMap;

use cutwater_io::sim::{Event, PointAction, SiteFault};

use super::words;
use crate::plan::{Act, Plan};

/// Puts what the events of a run of `plan` tell of faults into words. Their facts stay data.
pub(crate) fn in_words(events: &mut [Event], plan: &Plan) {
    let known = values(plan);
    for event in events {
        let value = match event.kind.as_str() {
            "crash" => event.detail.as_str(),
            "fault.strike" => event.detail.split_once(": ").map_or("", |(_, value)| value),
            _ => continue,
        };
        let words = known.get(value).cloned().or_else(|| by_facts(event));
        let place = event.detail.len() - value.len();
        if let Some(words) = words {
            event.detail.replace_range(place.., &words);
        }
    }
}

/// What the faults of a plan are to a device, and in words.
fn values(plan: &Plan) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for fault in &plan.faults {
        match &fault.act {
            Act::Site(fault) => {
                known.insert(format!("{fault:?}"), at_a_call(fault));
            }
            Act::Delay { us } => {
                known.insert(format!("{:?}", PointAction::Delay(*us)), words::held_up(*us));
            }
            _ => {}
        }
        if let Some(crash) = fault.act.crash() {
            let told = words::crash_of(0, crash);
            known.insert(format!("{:?}", PointAction::Crash(crash.clone())), told.clone());
            known.insert(format!("{crash:?}"), told);
        }
    }
    known
}

fn at_a_call(fault: &SiteFault) -> String {
    let told = words::site_fault(fault);
    match fault {
        SiteFault::CrashBefore(_) => format!("before it {told}"),
        SiteFault::CrashAfter(_) => format!("after it {told}"),
        _ => told,
    }
}

fn by_facts(event: &Event) -> Option<String> {
    let what = match event.text("crash")? {
        "power_fail" => "power fails",
        _ => "the process is killed",
    };
    let down_us = event.number("down_us").unwrap_or(0);
    Some(if down_us == 0 { what.into() } else { format!("{what}, down for {}", words::ms(down_us)) })
}

#[cfg(test)]
mod tests {
    use cutwater_io::sim::{Crash, CrashKind, Errno, Fact};

    use super::*;
    use crate::plan::{Anchor, Fault};

    #[test]
    fn what_devices_tell_as_values_is_told_in_words() {
        let crash = Crash { kind: CrashKind::ProcessKill, down_us: 1_500 };
        let acts = [
            Act::Site(SiteFault::Fail(Errno::Eio)),
            Act::Site(SiteFault::CrashAfter(crash.clone())),
            Act::Delay { us: 7 },
            Act::Crash { node: 1, crash: crash.clone() },
        ];
        let faults = acts.into_iter().zip(0..);
        let plan = r#"{"version":1,"scenario":"store","seed":7,"schedule_seed":1,"key":2,"horizon_us":1000,
            "topology":{},"knobs":{},"ops":[],"faults":[]}"#;
        let mut plan = Plan::from_json(plan).unwrap();
        plan.faults = faults.map(|(act, id)| Fault { id, at: Anchor::Op { op: 0 }, act }).collect();
        let event = |kind: &str, detail: String| {
            let facts = [("crash", Fact::Text("power_fail".into())), ("down_us", Fact::Number(2_000))];
            let facts = facts.into_iter().filter(|_| kind == "crash").map(|(k, v)| (k.into(), v)).collect();
            Event { at_ns: 0, node: 1, kind: kind.into(), detail, facts }
        };
        let mut events = vec![
            event("fault.strike", format!("disk.write /a: {:?}", SiteFault::Fail(Errno::Eio))),
            event("fault.strike", format!("disk.sync /a: {:?}", SiteFault::CrashAfter(crash.clone()))),
            event("fault.strike", format!("a.point #2: {:?}", PointAction::Delay(7))),
            event("fault.strike", format!("a.point #3: {:?}", PointAction::Crash(crash.clone()))),
            event("crash", format!("{crash:?}")),
            event("crash", "Crash { kind: Unknown }".into()),
            event("fault.strike", "disk.read /b: Novel { by: 1 }".into()),
            event("point", format!("{crash:?}")),
        ];
        in_words(&mut events, &plan);
        let told: Vec<&str> = events.iter().map(|event| event.detail.as_str()).collect();
        let as_it_was = format!("{crash:?}");
        assert_eq!(
            told,
            [
                "disk.write /a: the call fails (EIO)",
                "disk.sync /a: after it the process is killed, down for 1.500 ms",
                "a.point #2: a task is held up for 0.007 ms",
                "a.point #3: the process is killed, down for 1.500 ms",
                "the process is killed, down for 1.500 ms",
                "power fails, down for 2.000 ms",
                "disk.read /b: Novel { by: 1 }",
                &as_it_was,
            ]
        );
    }
}
