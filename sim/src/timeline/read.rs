//! Reads a timeline off the events of a recorded run, by their kinds and facts. An event that is not understood stays an
//! event, and nothing else comes of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cutwater_io::sim::Event;

use super::model::{
    Disk, Fault, Head, Lane, LaneKind, Life, Loss, Message, Moment, Op, Phase, Request, Timeline,
};
use super::thin::{self, Thinned};
use crate::plan::Plan;
use crate::verdict::Outcome;

/// The most messages, and the most requests to the object store, that are drawn.
const DRAWN_MAX: usize = 8_000;

/// Reads a story.
pub(super) fn build(plan: &Plan, outcome: &Outcome) -> Timeline {
    let story = outcome.story.as_deref().unwrap_or_default();
    let violation = story
        .iter()
        .position(|event| event.kind == "oracle" || event.kind == "panic")
        .filter(|_| !outcome.report.verdict.held());
    let Thinned { events, kept, left_out } = thin::thin(story, violation);
    let violation = violation.map(|i| Moment { at_ns: story[i].at_ns, event: kept[i] });
    let end_ns = story.last().map_or(0, |event| event.at_ns).max(outcome.report.virtual_us * 1000);
    let mut reader = Reader::new(end_ns);
    for (event, position) in story.iter().zip(kept) {
        reader.read(event, position);
    }
    let mut timeline = reader.finish(&outcome.labels);
    timeline.head = head(plan, outcome);
    timeline.violation = violation;
    timeline.events = events;
    timeline.left_out.splice(0..0, left_out);
    timeline
}

fn head(plan: &Plan, outcome: &Outcome) -> Head {
    let report = &outcome.report;
    let [oracle, property, expected, found] = report.verdict.explain();
    Head {
        scenario: report.scenario.clone(),
        seed: report.seed,
        verdict: report.verdict.name().into(),
        signature: report.verdict.signature(),
        oracle,
        property,
        expected,
        found,
        ops: plan.ops.len(),
        faults: plan.faults.len(),
        plan: report.plan.clone(),
        digest: report.digest.clone(),
        again: String::new(),
    }
}

/// What is open while a story is read.
struct Reader {
    end_ns: u64,
    out: Timeline,
    /// The stretch that each node is in.
    life: BTreeMap<u64, Life>,
    starts: BTreeMap<u64, u64>,
    /// Open phases of each node, by name and number of their span.
    phases: BTreeMap<(u64, String, u64), Phase>,
    disks: BTreeMap<u64, Disk>,
    /// Messages under way on each end of a connection.
    under_way: BTreeMap<(String, bool), VecDeque<usize>>,
    /// States that are switched on, by the fault's number.
    states: BTreeMap<u64, Fault>,
    /// Operations without an answer, by their numbers; calls of a history are told apart by `true`.
    ops: BTreeMap<(bool, u64), usize>,
    /// The node that an operation was issued on.
    op_nodes: Vec<u64>,
    /// The last strike, which may explain the crash that follows it.
    strike: Option<(u64, u64, String)>,
    /// The node whose process has just ended by itself.
    exited: Option<(u64, u64)>,
}

impl Reader {
    fn new(end_ns: u64) -> Reader {
        Reader {
            end_ns,
            out: Timeline { end_ns, ..Timeline::default() },
            life: BTreeMap::new(),
            starts: BTreeMap::new(),
            phases: BTreeMap::new(),
            disks: BTreeMap::new(),
            under_way: BTreeMap::new(),
            states: BTreeMap::new(),
            ops: BTreeMap::new(),
            op_nodes: Vec::new(),
            strike: None,
            exited: None,
        }
    }

    fn read(&mut self, event: &Event, position: Option<usize>) {
        match event.kind.as_str() {
            "node.create" => self.lives(event, position, "down", "not started yet"),
            "node.start" => {
                *self.starts.entry(event.node).or_default() += 1;
                self.lives(event, position, "up", &event.detail);
            }
            "node.exit" => self.exited = Some((event.node, event.at_ns)),
            "crash" => self.crash(event, position),
            "disk.power_fail" => self.loss(event, position),
            "fault.strike" => self.strike(event, position),
            "fault.on" => self.switched_on(event, position),
            "fault.off" => self.switched_off(event),
            "heal" => self.heal(event),
            "op" | "client.call" => self.op(event, position),
            "op.answer" | "client.ok" | "client.fail" | "client.info" => self.answer(event),
            "net.send" => self.sent(event, position),
            "net.deliver" => self.arrived(event),
            kind if kind.starts_with("disk.") => self.disk(event, position),
            kind => {
                if let Some(verb) = kind.strip_prefix("objects.") {
                    self.request(event, position, verb);
                }
            }
        }
        if let Some(name) = event.text("begins") {
            self.begins(event, position, name);
        }
        if let Some(name) = event.text("ends") {
            self.ends(event, name);
        }
    }

    fn lives(&mut self, event: &Event, position: Option<usize>, state: &'static str, why: &str) {
        let life = Life {
            node: event.node,
            from_ns: event.at_ns,
            to_ns: self.end_ns,
            state,
            why: why.into(),
            event: position,
        };
        if let Some(mut before) = self.life.insert(event.node, life) {
            before.to_ns = event.at_ns;
            self.out.life.push(before);
        }
    }

    fn crash(&mut self, event: &Event, position: Option<usize>) {
        let here = |(node, at_ns): (u64, u64)| node == event.node && at_ns == event.at_ns;
        let name = event.text("crash").unwrap_or("crash").to_string();
        if self.exited.take().is_some_and(here) {
            self.lives(event, position, "down", "the process ended by itself");
        } else {
            let strike = self.strike.take().filter(|(node, at_ns, _)| here((*node, *at_ns)));
            let text = strike.map_or_else(|| event.detail.clone(), |(_, _, text)| text);
            self.lives(event, position, "down", &format!("{name}: {text}"));
            self.at_once(event, position, &name, &text);
        }
        let open: Vec<_> = self.phases.keys().filter(|(node, ..)| *node == event.node).cloned().collect();
        for key in open {
            self.close(&key, event.at_ns, "cut short");
        }
    }

    fn at_once(&mut self, event: &Event, position: Option<usize>, name: &str, text: &str) {
        self.out.faults.push(Fault {
            from_ns: event.at_ns,
            to_ns: event.at_ns,
            name: name.into(),
            text: text.into(),
            nodes: vec![event.node],
            event: position,
        });
    }

    fn loss(&mut self, event: &Event, position: Option<usize>) {
        self.out.losses.push(Loss {
            node: event.node,
            at_ns: event.at_ns,
            lost: event.list("lost").to_vec(),
            kept: event.list("kept").to_vec(),
            event: position,
        });
        self.disk_of(event.node).steps.push((event.at_ns, 0));
    }

    fn strike(&mut self, event: &Event, position: Option<usize>) {
        let fault = event.text("fault").unwrap_or_default();
        if fault.starts_with("Crash") {
            // The crash that follows is the mark; a crash after the call comes a little later.
            self.strike = Some((event.node, event.at_ns, event.detail.clone()));
            return;
        }
        let kind: String = fault.chars().take_while(|c| c.is_alphanumeric()).collect();
        let name = format!("{kind} {}", event.text("place").unwrap_or_default());
        self.at_once(event, position, name.trim(), &event.detail);
    }

    fn switched_on(&mut self, event: &Event, position: Option<usize>) {
        let nodes =
            event.list("nodes").iter().filter_map(|n| n.trim_start_matches('n').parse().ok()).collect();
        let fault = Fault {
            from_ns: event.at_ns,
            to_ns: self.end_ns,
            name: event.text("class").unwrap_or("fault").into(),
            text: event.detail.clone(),
            nodes,
            event: position,
        };
        match (event.number("for_us"), event.number("fault")) {
            (Some(1..), Some(number)) => drop(self.states.insert(number, fault)),
            _ => self.out.faults.push(Fault { to_ns: event.at_ns, ..fault }),
        }
    }

    fn switched_off(&mut self, event: &Event) {
        let number = event.number("fault").unwrap_or(u64::MAX);
        if let Some(fault) = self.states.remove(&number) {
            self.ended(Fault { to_ns: event.at_ns, ..fault });
        }
    }

    fn ended(&mut self, fault: Fault) {
        if fault.name == "pause" {
            self.out.life.extend(fault.nodes.iter().map(|node| Life {
                node: *node,
                from_ns: fault.from_ns,
                to_ns: fault.to_ns,
                state: "paused",
                why: fault.text.clone(),
                event: fault.event,
            }));
        }
        self.out.faults.push(fault);
    }

    fn heal(&mut self, event: &Event) {
        for fault in std::mem::take(&mut self.states).into_values() {
            self.ended(Fault { to_ns: event.at_ns, ..fault });
        }
    }

    fn op(&mut self, event: &Event, position: Option<usize>) {
        let is_call = event.kind == "client.call";
        let Some(number) = event.number(if is_call { "call" } else { "op" }) else { return };
        let actor = event.number("actor").unwrap_or(0);
        let name = event.detail.split_once(": ").map_or(event.detail.as_str(), |(_, what)| what);
        self.ops.insert((is_call, number), self.out.ops.len());
        self.op_nodes.push(event.node);
        self.out.ops.push(Op {
            lane: format!("c{actor}"),
            from_ns: event.at_ns,
            to_ns: None,
            name: name.into(),
            answer: String::new(),
            event: position,
        });
    }

    fn answer(&mut self, event: &Event) {
        let is_call = event.kind != "op.answer";
        let number = event.number(if is_call { "call" } else { "op" }).unwrap_or(u64::MAX);
        if let Some(i) = self.ops.remove(&(is_call, number)) {
            self.out.ops[i].to_ns = Some(event.at_ns);
            self.out.ops[i].answer = event.text("answer").unwrap_or_default().into();
        }
    }

    fn sent(&mut self, event: &Event, position: Option<usize>) {
        let (Some(connection), Some(to)) = (event.text("connection"), event.number("peer")) else { return };
        let by_client = event.text("end") == Some("client");
        let message = Message {
            from: event.node,
            to,
            sent_ns: event.at_ns,
            arrived_ns: None,
            name: event.text("message").unwrap_or_default().into(),
            bytes: event.number("bytes").unwrap_or(0),
            event: position,
        };
        let queue = self.under_way.entry((connection.into(), by_client)).or_default();
        queue.push_back(self.out.messages.len());
        self.out.messages.push(message);
    }

    /// Frames of one direction of a connection arrive in the order in which they were sent, or not at all.
    fn arrived(&mut self, event: &Event) {
        let Some(connection) = event.text("connection") else { return };
        let by_client = event.text("end") != Some("client");
        let queue = self.under_way.get_mut(&(connection.into(), by_client));
        if let Some(i) = queue.and_then(VecDeque::pop_front) {
            self.out.messages[i].arrived_ns = Some(event.at_ns);
        }
    }

    fn request(&mut self, event: &Event, position: Option<usize>, verb: &str) {
        self.out.requests.push(Request {
            node: event.node,
            at_ns: event.at_ns,
            verb: verb.into(),
            key: event.text("key").unwrap_or_default().into(),
            refused: event.text("answer") == Some("refused"),
            event: position,
        });
    }

    fn disk_of(&mut self, node: u64) -> &mut Disk {
        self.disks.entry(node).or_insert_with(|| Disk {
            node,
            steps: Vec::new(),
            syncs: Vec::new(),
            errors: Vec::new(),
        })
    }

    fn disk(&mut self, event: &Event, position: Option<usize>) {
        let moment = Moment { at_ns: event.at_ns, event: position };
        let disk = self.disk_of(event.node);
        if let Some(at_risk) = event.number("at_risk")
            && disk.steps.last().is_none_or(|(_, before)| *before != at_risk)
        {
            disk.steps.push((event.at_ns, at_risk));
        }
        // A file that is not there is an answer, not an error of the disk.
        let is_error = event.text("error").is_some_and(|error| !error.contains("os error 2)"));
        if is_error {
            disk.errors.push(moment);
        } else if event.kind.starts_with("disk.sync") {
            disk.syncs.push(moment);
        }
    }

    fn begins(&mut self, event: &Event, position: Option<usize>, name: &str) {
        let key = (event.node, name.to_string(), event.number("span").unwrap_or(0));
        let phase = Phase {
            node: event.node,
            row: 0,
            from_ns: event.at_ns,
            to_ns: self.end_ns,
            name: name.into(),
            end: "open",
            event: position,
        };
        self.phases.insert(key, phase);
    }

    fn ends(&mut self, event: &Event, name: &str) {
        let key = (event.node, name.to_string(), event.number("span").unwrap_or(0));
        self.close(&key, event.at_ns, "ended");
    }

    fn close(&mut self, key: &(u64, String, u64), at_ns: u64, end: &'static str) {
        if let Some(mut phase) = self.phases.remove(key) {
            (phase.to_ns, phase.end) = (at_ns, end);
            self.out.phases.push(phase);
        }
    }

    fn finish(mut self, labels: &BTreeMap<u64, String>) -> Timeline {
        self.out.life.extend(std::mem::take(&mut self.life).into_values());
        self.out.phases.extend(std::mem::take(&mut self.phases).into_values());
        for fault in std::mem::take(&mut self.states).into_values() {
            self.ended(fault);
        }
        let mut out = self.out;
        out.disks = self.disks.into_values().collect();
        // A process that outlives no run is down when it ends; clients were never started.
        out.life.retain(|life| self.starts.contains_key(&life.node));
        out.phases.sort_by_key(|phase| (phase.node, phase.from_ns, u64::MAX - phase.to_ns));
        stack(&mut out.phases);
        out.faults.sort_by_key(|fault| fault.from_ns);
        lanes(&mut out, labels, &self.starts, &self.op_nodes);
        latest(&mut out.messages, "messages", &mut out.left_out);
        latest(&mut out.requests, "requests to the object store", &mut out.left_out);
        out
    }
}

/// Gives phases of a node that overlap different rows. They are sorted by node and beginning.
fn stack(phases: &mut [Phase]) {
    let mut ends: Vec<u64> = Vec::new();
    let mut node = 0;
    for phase in phases {
        if phase.node != node {
            node = phase.node;
            ends.clear();
        }
        let free = ends.iter().position(|end| *end <= phase.from_ns);
        phase.row = free.unwrap_or(ends.len());
        match free {
            Some(row) => ends[row] = phase.to_ns,
            None => ends.push(phase.to_ns),
        }
    }
}

/// A lane for each machine, one for each client. A client that has a machine of its own needs no second one.
fn lanes(out: &mut Timeline, labels: &BTreeMap<u64, String>, starts: &BTreeMap<u64, u64>, op_nodes: &[u64]) {
    for (node, label) in labels {
        let kind = if starts.contains_key(node) { LaneKind::Node } else { LaneKind::Client };
        out.lanes.push(Lane { id: format!("n{node}"), label: label.clone(), kind });
    }
    for (op, node) in out.ops.iter_mut().zip(op_nodes) {
        if labels.contains_key(node) && !starts.contains_key(node) {
            op.lane = format!("n{node}");
        }
    }
    let actors: BTreeSet<&str> =
        out.ops.iter().map(|op| op.lane.as_str()).filter(|lane| lane.starts_with('c')).collect();
    for lane in actors {
        out.lanes.push(Lane {
            id: lane.into(),
            label: format!("client {}", &lane[1..]),
            kind: LaneKind::Client,
        });
    }
}

/// Keeps as many as can be drawn, the latest.
fn latest<T>(items: &mut Vec<T>, what: &str, left_out: &mut Vec<String>) {
    let surplus = items.len().saturating_sub(DRAWN_MAX);
    if surplus > 0 {
        items.drain(..surplus);
        left_out.push(format!("the first {surplus} {what} are not drawn"));
    }
}
