//! What is read off a story, and the format that others read.

use std::collections::BTreeMap;

use cutwater_io::sim::{Event, Fact};

use super::model::Timeline;
use super::{perfetto, read};
use crate::plan::Plan;
use crate::scenario::Violation;
use crate::verdict::{Outcome, Report, Verdict};

fn event(at_us: u64, node: u64, kind: &str, detail: &str, facts: &[(&str, Fact)]) -> Event {
    let facts = facts.iter().map(|(name, fact)| ((*name).to_string(), fact.clone())).collect();
    Event { at_ns: at_us * 1000, node, kind: kind.into(), detail: detail.into(), facts }
}

fn text(text: &str) -> Fact {
    Fact::Text(text.into())
}

fn frame(at_us: u64, node: u64, kind: &str, peer: u64, end: &str, message: &str) -> Event {
    let facts = [
        ("connection", text("n1>n2#1")),
        ("peer", Fact::Number(peer)),
        ("bytes", Fact::Number(9)),
        ("end", text(end)),
        ("message", text(message)),
    ];
    event(at_us, node, kind, "", &facts)
}

/// Node 1 sends two frames to node 2, which answers; a flush on node 2 is cut short by a power failure at a point; a put is
/// answered, a get is not.
fn story() -> Vec<Event> {
    let list = |what: &str| Fact::List(vec![what.into()]);
    let partition = [
        ("fault", Fact::Number(3)),
        ("class", text("partition")),
        ("nodes", list("n1")),
        ("for_us", Fact::Number(5)),
    ];
    vec![
        event(0, 1, "node.create", "store-0", &[]),
        event(0, 2, "node.create", "store-1", &[]),
        event(0, 1, "node.start", "start 1", &[]),
        event(1, 2, "node.start", "start 1", &[]),
        event(2, 1, "op", "#4 client 0: put [1]", &[("op", Fact::Number(4)), ("actor", Fact::Number(0))]),
        frame(10, 1, "net.send", 2, "client", "first"),
        frame(11, 1, "net.send", 2, "client", "second"),
        frame(12, 2, "net.send", 1, "server", "back"),
        event(13, 2, "phase.begins", "flush", &[("begins", text("flush")), ("span", Fact::Number(1))]),
        frame(14, 2, "net.deliver", 1, "server", "first"),
        frame(15, 1, "net.deliver", 2, "client", "back"),
        event(16, 2, "disk.write", "/wal", &[("path", text("/wal")), ("at_risk", Fact::Number(2))]),
        event(17, 0, "fault.on", "Partition", &partition),
        event(18, 1, "op.answer", "#4", &[("op", Fact::Number(4)), ("answer", text("done"))]),
        event(19, 1, "op", "#5 client 0: get [1]", &[("op", Fact::Number(5)), ("actor", Fact::Number(0))]),
        event(
            20,
            2,
            "fault.strike",
            "store.flush.synced #1: Crash(..)",
            &[
                ("place", text("store.flush.synced")),
                ("fault", text("Crash(Crash { kind: PowerFail(None) })")),
            ],
        ),
        event(20, 2, "crash", "PowerFail", &[("crash", text("power_fail"))]),
        event(
            20,
            2,
            "disk.power_fail",
            "1 lost",
            &[("lost", list("write of /wal")), ("kept", list("name /wal"))],
        ),
        event(20, 2, "phase.ends", "flush", &[("ends", text("flush")), ("span", Fact::Number(1))]),
        event(22, 0, "fault.off", "Partition", &partition),
        event(23, 2, "node.start", "start 2", &[]),
        event(25, 1, "objects.put", "b/x", &[("key", text("x")), ("answer", text("done"))]),
        event(30, 0, "oracle", "durability", &[]),
        event(40, 0, "end", "", &[]),
    ]
}

fn timeline() -> Timeline {
    let plan = r#"{"version":1,"scenario":"store","seed":7,"schedule_seed":1,"key":2,"horizon_us":1000,
        "topology":{},"knobs":{},"ops":[],"faults":[]}"#;
    let verdict = Verdict::Violated(Violation::new("durability", "it is there"));
    let report = Report { virtual_us: 40, ..Report::bare("store", 7, verdict) };
    let labels = BTreeMap::from([(1, "store-0".to_string()), (2, "store-1".to_string())]);
    let outcome = Outcome { story: Some(story()), labels, ..Outcome::bare(report) };
    read::build(&Plan::from_json(plan).unwrap(), &outcome)
}

#[test]
fn frames_arrive_in_the_order_of_their_direction() {
    let found: Vec<_> = timeline()
        .messages
        .into_iter()
        .map(|m| (m.name, m.from, m.to, m.sent_ns / 1000, m.arrived_ns.map(|ns| ns / 1000)))
        .collect();
    let expected = [
        ("first".to_string(), 1, 2, 10, Some(14)),
        ("second".to_string(), 1, 2, 11, None),
        ("back".to_string(), 2, 1, 12, Some(15)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_crash_is_one_fault_that_says_where_it_struck_and_ends_what_was_under_way() {
    let timeline = timeline();
    let faults: Vec<_> =
        timeline.faults.iter().map(|f| (f.name.as_str(), f.from_ns / 1000, f.to_ns / 1000)).collect();
    assert_eq!(faults, [("partition", 17, 22), ("power_fail", 20, 20)]);
    assert!(timeline.faults[1].text.contains("store.flush.synced"), "{:?}", timeline.faults[1]);
    let phases: Vec<_> = timeline.phases.iter().map(|p| (p.name.as_str(), p.to_ns / 1000, p.end)).collect();
    assert_eq!(phases, [("flush", 20, "cut short")]);
    assert_eq!(timeline.losses[0].lost, ["write of /wal"]);
    let lives: Vec<_> = timeline
        .life
        .iter()
        .filter(|life| life.node == 2)
        .map(|life| (life.state, life.from_ns / 1000, life.to_ns / 1000))
        .collect();
    assert_eq!(lives, [("down", 0, 1), ("up", 1, 20), ("down", 20, 23), ("up", 23, 40)]);
    assert_eq!(timeline.disks[0].steps, [(16_000, 2), (20_000, 0)]);
    let violation = timeline.violation.unwrap();
    assert_eq!(timeline.events[violation.event.unwrap()].k, "oracle");
}

#[test]
fn an_operation_without_an_answer_has_none() {
    let ops: Vec<_> = timeline()
        .ops
        .into_iter()
        .map(|op| (op.lane, op.name, op.to_ns.map(|ns| ns / 1000), op.answer))
        .collect();
    let expected = [
        ("c0".to_string(), "put [1]".to_string(), Some(18), "done".to_string()),
        ("c0".to_string(), "get [1]".to_string(), None, String::new()),
    ];
    assert_eq!(ops, expected);
}

#[test]
fn the_format_of_the_trace() {
    let json = perfetto::json(&timeline());
    // One event in a line.
    insta::assert_snapshot!(json.replace("},{", "},\n{"));
}
