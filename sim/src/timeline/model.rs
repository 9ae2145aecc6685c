//! The story of a run as things that can be drawn: lives, phases, disks, messages, faults, operations.
//!
//! Times are virtual nanoseconds. An item refers to the event that began it by its position in [`Timeline::events`], where a
//! click leads; it has none if that event was left out.

use serde::Serialize;

/// A run, ready to be drawn.
#[derive(Debug, Default, Serialize)]
pub(super) struct Timeline {
    pub(super) head: Head,
    pub(super) end_ns: u64,
    /// The event at which an oracle objected, or the process panicked.
    pub(super) violation: Option<Moment>,
    pub(super) lanes: Vec<Lane>,
    pub(super) events: Vec<Told>,
    pub(super) life: Vec<Life>,
    pub(super) phases: Vec<Phase>,
    pub(super) disks: Vec<Disk>,
    pub(super) losses: Vec<Loss>,
    pub(super) messages: Vec<Message>,
    pub(super) requests: Vec<Request>,
    pub(super) faults: Vec<Fault>,
    pub(super) ops: Vec<Op>,
    /// What is not shown, and why.
    pub(super) left_out: Vec<String>,
}

/// What the run came to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Head {
    pub(super) scenario: String,
    pub(super) seed: u64,
    pub(super) verdict: String,
    pub(super) signature: String,
    pub(super) oracle: String,
    pub(super) property: String,
    pub(super) expected: String,
    pub(super) found: String,
    pub(super) ops: usize,
    pub(super) faults: usize,
    pub(super) plan: String,
    pub(super) digest: String,
    /// What to type to see it again; empty where nobody can type.
    pub(super) again: String,
}

/// A moment, and its event.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Moment {
    pub(super) at_ns: u64,
    pub(super) event: Option<usize>,
}

/// A row of the drawing.
#[derive(Debug, Serialize)]
pub(super) struct Lane {
    /// `n3` for node 3, `c0` for client 0.
    pub(super) id: String,
    pub(super) label: String,
    pub(super) kind: LaneKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LaneKind {
    /// A machine of the system.
    Node,
    /// Somebody outside of it.
    Client,
}

/// An event, in few letters: there are many.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    /// When, in nanoseconds.
    pub(super) t: u64,
    /// Where.
    pub(super) n: u64,
    /// Kind.
    pub(super) k: String,
    /// Detail.
    pub(super) d: String,
}

/// A stretch in the life of a node.
#[derive(Debug, Serialize)]
pub(super) struct Life {
    pub(super) node: u64,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// `up`, `down`, `paused`.
    pub(super) state: &'static str,
    pub(super) why: String,
    pub(super) event: Option<usize>,
}

/// Something that a node was busy with.
#[derive(Debug, Serialize)]
pub(super) struct Phase {
    pub(super) node: u64,
    /// Phases that overlap lie in different rows.
    pub(super) row: usize,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    pub(super) name: String,
    /// `ended`, `cut short` by a crash, or `open` at the end of the run.
    pub(super) end: &'static str,
    pub(super) event: Option<usize>,
}

/// How much the disk of a node could lose, over time.
#[derive(Debug, Serialize)]
pub(super) struct Disk {
    pub(super) node: u64,
    /// When, and how many operations from then on.
    pub(super) steps: Vec<(u64, u64)>,
    pub(super) syncs: Vec<Moment>,
    /// Calls that failed.
    pub(super) errors: Vec<Moment>,
}

/// What a power failure took.
#[derive(Debug, Serialize)]
pub(super) struct Loss {
    pub(super) node: u64,
    pub(super) at_ns: u64,
    pub(super) lost: Vec<String>,
    pub(super) kept: Vec<String>,
    pub(super) event: Option<usize>,
}

/// A frame from a node to another.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) sent_ns: u64,
    /// Not at all, if it was lost or under way at the end.
    pub(super) arrived_ns: Option<u64>,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) event: Option<usize>,
}

/// A request to the object store, at the moment it took effect.
#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub(super) node: u64,
    pub(super) at_ns: u64,
    pub(super) verb: String,
    pub(super) key: String,
    pub(super) refused: bool,
    pub(super) event: Option<usize>,
}

/// A fault that was delivered.
#[derive(Debug, Serialize)]
pub(super) struct Fault {
    pub(super) from_ns: u64,
    /// The same as `from_ns` for what happens at once.
    pub(super) to_ns: u64,
    pub(super) name: String,
    pub(super) text: String,
    /// Whom it struck; nobody in particular if empty.
    pub(super) nodes: Vec<u64>,
    pub(super) event: Option<usize>,
}

/// What a client asked for.
#[derive(Debug, Serialize)]
pub(super) struct Op {
    pub(super) lane: String,
    pub(super) from_ns: u64,
    /// When it was answered.
    pub(super) to_ns: Option<u64>,
    pub(super) name: String,
    pub(super) answer: String,
    pub(super) event: Option<usize>,
}
