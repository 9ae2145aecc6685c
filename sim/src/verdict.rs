//! What a run came to.

use std::collections::BTreeMap;

use cutwater_io::sim::Event;
use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;
use crate::faults::Receipts;
use crate::scenario::{Violation, signature};
use crate::search::coverage::{Coverage, Matrix};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything held.
    Held,
    /// An oracle objects.
    Violated(Violation),
    /// A panic, in the system or in the scenario.
    Panicked {
        /// What it said.
        message: String,
        /// File and line.
        location: String,
        /// The node, 0 for the harness.
        node: u64,
    },
    /// The process died of a signal.
    Aborted {
        /// Its number; 0 if the process exited without a report.
        signal: i32,
        /// The last of what it wrote to stderr.
        stderr: String,
    },
    /// The process gave no report within the real-time limit.
    Hung {
        /// The limit in seconds.
        limit_s: u64,
    },
    /// The plan is none.
    Invalid {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// True if everything held.
    pub fn held(&self) -> bool {
        *self == Verdict::Held
    }

    /// One word.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Held => "held",
            Verdict::Violated(_) => "violated",
            Verdict::Panicked { .. } => "panicked",
            Verdict::Aborted { .. } => "aborted",
            Verdict::Hung { .. } => "hung",
            Verdict::Invalid { .. } => "invalid",
        }
    }

    /// Names the failure; empty if everything held.
    pub fn signature(&self) -> String {
        match self {
            Verdict::Held => String::new(),
            Verdict::Violated(v) => v.signature(),
            Verdict::Panicked { location, .. } => signature(&["panic", location]),
            Verdict::Aborted { signal, .. } => signature(&["abort", &signal.to_string()]),
            Verdict::Hung { .. } => signature(&["hang"]),
            Verdict::Invalid { .. } => signature(&["invalid"]),
        }
    }

    /// Oracle, property, expected, found.
    pub fn explain(&self) -> [String; 4] {
        match self {
            Verdict::Held => ["-".into(), "everything".into(), "it to hold".into(), "it held".into()],
            Verdict::Violated(v) => {
                let entity =
                    if v.entity_class.is_empty() { String::new() } else { format!(" ({})", v.entity_class) };
                [v.oracle.clone(), format!("{}{entity}", v.property), v.expected.clone(), v.found.clone()]
            }
            Verdict::Panicked { message, location, node } => [
                "panic".into(),
                format!("no panic (n{node})"),
                "none".into(),
                format!("{location}: {message}"),
            ],
            Verdict::Aborted { signal, stderr } => {
                let said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
                ["process".into(), "no abort".into(), "a report".into(), format!("signal {signal}{said}")]
            }
            Verdict::Hung { limit_s } => [
                "process".into(),
                "no hang".into(),
                format!("a report within {limit_s} s"),
                "none; a task never yields, or virtual time does not end".into(),
            ],
            Verdict::Invalid { reason } => {
                ["plan".into(), "a valid plan".into(), "one".into(), reason.clone()]
            }
        }
    }
}

/// What a run came to, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed that the plan was drawn from.
    pub seed: u64,
    /// Names the plan's content.
    pub plan: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Digest of everything that happened, 128 bits in hexadecimal.
    pub digest: String,
    /// How many events that were.
    pub events: u64,
    /// Virtual length in microseconds.
    pub virtual_us: u64,
    /// CPU time of the process in microseconds.
    pub cpu_us: u64,
    /// How often each point was passed.
    pub points: BTreeMap<String, u64>,
    /// How often each `sometimes!` and each `never!` held, and each `buggify!` fired.
    pub sometimes: BTreeMap<String, u64>,
    /// Faults by class.
    pub receipts: Receipts,
    /// How often a fault of each class met each point.
    pub matrix: Matrix,
    /// True if the seed alone names the plan; otherwise only the plan itself does.
    pub named_by_seed: bool,
    /// What else was reached, if the job asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// Calls from processes that were dead, which had no effect.
    pub stale_calls: u64,
    /// What the devices had to do.
    #[serde(default)]
    pub work: Work,
}

/// What the devices of a run had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Calls to disks.
    pub disk_calls: u64,
    /// Frames sent over the network.
    pub frames: u64,
    /// Requests to the object store.
    pub object_requests: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, more: Work) {
        self.disk_calls += more.disk_calls;
        self.frames += more.frames;
        self.object_requests += more.object_requests;
    }
}

impl Report {
    /// A report of a run of which nothing but its end is known.
    pub fn bare(scenario: &str, seed: u64, verdict: Verdict) -> Report {
        Report {
            scenario: scenario.into(),
            seed,
            plan: String::new(),
            verdict,
            digest: String::new(),
            events: 0,
            virtual_us: 0,
            cpu_us: 0,
            points: BTreeMap::new(),
            sometimes: BTreeMap::new(),
            receipts: Receipts::new(),
            matrix: Matrix::new(),
            named_by_seed: true,
            coverage: None,
            stale_calls: 0,
            work: Work::default(),
        }
    }
}

/// A report, and the story if it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The numbers.
    pub report: Report,
    /// Every event, if the run was recorded.
    pub story: Option<Vec<Event>>,
    /// What the nodes are, for the story.
    pub labels: BTreeMap<u64, String>,
    /// What it leaves beside its story, if it was recorded.
    #[serde(default)]
    pub evidence: Option<Evidence>,
    /// The faults of the plan that never struck, by their ids; of a run that gave no report nothing is known.
    #[serde(default)]
    pub never_struck: Vec<u32>,
}

impl Outcome {
    /// Nothing but a report.
    pub fn bare(report: Report) -> Outcome {
        Outcome { report, story: None, labels: BTreeMap::new(), evidence: None, never_struck: Vec::new() }
    }
}
