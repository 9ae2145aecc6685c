//! The trace event format, as ui.perfetto.dev and chrome://tracing read it (JSON; times in virtual microseconds).
//!
//! A process is a machine, a client or the harness; its threads are what happens there: its life, its phases (one thread per
//! row of phases that overlap), its disk, its network, its requests to the object store. Operations are asynchronous slices,
//! messages flows, faults instants and slices of the harness, what a disk could lose a counter.

use serde_json::{Value, json};

use super::model::{LaneKind, Timeline};

/// Threads of a process.
const LIFE: u64 = 1;
const DISK: u64 = 2;
const NETWORK: u64 = 3;
const OBJECTS: u64 = 4;
const OPS: u64 = 5;
const FAULTS: u64 = 6;
const PHASES: u64 = 10;
/// The harness is no node.
const HARNESS: u64 = 0;
/// Clients that have no machine come after all machines.
const CLIENTS: u64 = 1_000;

/// The trace.
pub(super) fn json(timeline: &Timeline) -> String {
    let mut writer = Writer::default();
    writer.names(timeline);
    writer.lives(timeline);
    writer.disks(timeline);
    writer.messages(timeline);
    writer.faults(timeline);
    writer.ops(timeline);
    let trace = json!({
        "displayTimeUnit": "ms",
        "otherData": {
            "scenario": timeline.head.scenario,
            "seed": timeline.head.seed,
            "verdict": timeline.head.verdict,
            "plan": timeline.head.plan,
            "digest": timeline.head.digest,
            "left_out": timeline.left_out,
        },
        "traceEvents": writer.events,
    });
    serde_json::to_string(&trace).expect("a trace is plain data")
}

fn us(ns: u64) -> Value {
    json!(ns as f64 / 1000.0)
}

/// The process of a lane.
fn pid(lane: &str) -> u64 {
    let number = lane[1..].parse().unwrap_or(HARNESS);
    if lane.starts_with('c') { CLIENTS + number } else { number }
}

#[derive(Default)]
struct Writer {
    events: Vec<Value>,
}

impl Writer {
    fn push(&mut self, phase: &str, name: &str, at: (u64, u64, u64), more: Value) {
        let (pid, tid, ns) = at;
        let mut event = json!({"ph": phase, "name": name, "pid": pid, "tid": tid, "ts": us(ns)});
        let event_fields = event.as_object_mut().expect("an object was made");
        if let Value::Object(more) = more {
            event_fields.extend(more);
        }
        self.events.push(event);
    }

    /// A slice with a beginning and an end.
    fn slice(&mut self, name: &str, at: (u64, u64, u64), to_ns: u64, args: Value) {
        self.push("X", name, at, json!({"dur": us(to_ns.saturating_sub(at.2)), "args": args}));
    }

    fn names(&mut self, timeline: &Timeline) {
        self.push("M", "process_name", (HARNESS, 0, 0), json!({"args": {"name": "harness"}}));
        for lane in &timeline.lanes {
            let pid = pid(&lane.id);
            let name = format!("{} {}", lane.id, lane.label);
            self.push("M", "process_name", (pid, 0, 0), json!({"args": {"name": name}}));
            if lane.kind == LaneKind::Node {
                self.thread(pid, LIFE, "life");
            }
            for (tid, name) in
                [(DISK, "disk"), (NETWORK, "network"), (OBJECTS, "object store"), (OPS, "operations")]
            {
                self.thread(pid, tid, name);
            }
        }
    }

    fn thread(&mut self, pid: u64, tid: u64, name: &str) {
        self.push("M", "thread_name", (pid, tid, 0), json!({"args": {"name": name}}));
    }

    fn lives(&mut self, timeline: &Timeline) {
        for life in &timeline.life {
            self.slice(life.state, (life.node, LIFE, life.from_ns), life.to_ns, json!({"why": life.why}));
        }
        for phase in &timeline.phases {
            let tid = PHASES + phase.row as u64;
            self.slice(&phase.name, (phase.node, tid, phase.from_ns), phase.to_ns, json!({"end": phase.end}));
        }
    }

    fn disks(&mut self, timeline: &Timeline) {
        for disk in &timeline.disks {
            for (at_ns, at_risk) in &disk.steps {
                let counter = json!({"args": {"operations": at_risk}});
                self.push("C", "could be lost", (disk.node, DISK, *at_ns), counter);
            }
        }
        for loss in &timeline.losses {
            let args = json!({"s": "p", "args": {"lost": loss.lost, "kept": loss.kept}});
            self.push("i", "power failure", (loss.node, DISK, loss.at_ns), args);
        }
        for request in &timeline.requests {
            let name = if request.refused { "refused" } else { &request.verb };
            let args = json!({"s": "t", "args": {"key": request.key, "verb": request.verb}});
            self.push("i", name, (request.node, OBJECTS, request.at_ns), args);
        }
    }

    fn messages(&mut self, timeline: &Timeline) {
        for (id, message) in timeline.messages.iter().enumerate() {
            let name = if message.name.is_empty() { "frame" } else { &message.name };
            let sent = (message.from, NETWORK, message.sent_ns);
            // A flow binds to the slices around its ends.
            self.slice(name, sent, message.sent_ns + 1000, json!({"bytes": message.bytes}));
            let Some(arrived_ns) = message.arrived_ns else { continue };
            let arrived = (message.to, NETWORK, arrived_ns);
            self.slice(name, arrived, arrived_ns + 1000, json!({"bytes": message.bytes}));
            self.push("s", "message", sent, json!({"cat": "message", "id": id}));
            self.push("f", "message", arrived, json!({"cat": "message", "id": id, "bp": "e"}));
        }
    }

    fn faults(&mut self, timeline: &Timeline) {
        self.thread(HARNESS, FAULTS, "faults");
        for (id, fault) in timeline.faults.iter().enumerate() {
            let args = json!({"what": fault.text, "nodes": fault.nodes});
            let at = (HARNESS, FAULTS, fault.from_ns);
            if fault.to_ns > fault.from_ns {
                self.push("b", &fault.name, at, json!({"cat": "fault", "id": id, "args": args}));
                let end = (HARNESS, FAULTS, fault.to_ns);
                self.push("e", &fault.name, end, json!({"cat": "fault", "id": id}));
            } else {
                self.push("i", &fault.name, at, json!({"s": "g", "args": args}));
            }
        }
        if let Some(violation) = timeline.violation {
            let name = format!("{}: {}", timeline.head.oracle, timeline.head.property);
            let args = json!({"expected": timeline.head.expected, "found": timeline.head.found});
            self.push("i", &name, (HARNESS, FAULTS, violation.at_ns), json!({"s": "g", "args": args}));
        }
    }

    fn ops(&mut self, timeline: &Timeline) {
        for (id, op) in timeline.ops.iter().enumerate() {
            let pid = pid(&op.lane);
            self.push("b", &op.name, (pid, OPS, op.from_ns), json!({"cat": "op", "id": id}));
            let to_ns = op.to_ns.unwrap_or(timeline.end_ns);
            let answer = if op.to_ns.is_some() { op.answer.as_str() } else { "none" };
            let args = json!({"cat": "op", "id": id, "args": {"answer": answer}});
            self.push("e", &op.name, (pid, OPS, to_ns), args);
        }
    }
}
