//! What happened, as a digest and, on demand, as a story.
//!
//! The digest is a rolling 128-bit hash over (kind, node, virtual time, payload) of every event: two runs of one plan must
//! agree in it, in any process. Events are kept only when recording, for the story of a replay and for naming the first
//! event in which two runs differ.
//!
//! A kept event tells the same twice: in a line for people, and as facts by name for what draws it. Neither is part of the
//! digest, so that more can be told without changing what a plan's digest is.

use std::collections::BTreeMap;

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::NodeId;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Virtual time since the start of the run, in nanoseconds.
    pub at_ns: u64,
    /// Where; 0 is the harness itself.
    pub node: u64,
    /// What, dotted, from the general to the particular.
    pub kind: String,
    /// The rest, for people.
    pub detail: String,
    /// The rest, for tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Fact>,
}

impl Event {
    /// A fact that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.facts.get(name) {
            Some(Fact::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A fact that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.facts.get(name) {
            Some(Fact::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A fact that is a list; empty if there is none.
    pub fn list(&self, name: &str) -> &[String] {
        match self.facts.get(name) {
            Some(Fact::List(list)) => list,
            _ => &[],
        }
    }
}

/// Something about an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// A count, a size, a number of a node.
    Number(u64),
    /// A name, a path, an error.
    Text(String),
    /// Several of them.
    List(Vec<String>),
}

impl From<u64> for Fact {
    fn from(number: u64) -> Fact {
        Fact::Number(number)
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Fact {
        Fact::Text(text.into())
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Fact {
        Fact::Text(text)
    }
}

impl From<Vec<String>> for Fact {
    fn from(list: Vec<String>) -> Fact {
        Fact::List(list)
    }
}

/// What a recorded event tells: a line (or several), and facts.
#[derive(Clone, Debug, Default)]
pub struct Told {
    detail: String,
    facts: BTreeMap<String, Fact>,
}

impl From<String> for Told {
    fn from(detail: String) -> Told {
        Told { detail, facts: BTreeMap::new() }
    }
}

impl Told {
    /// Adds a fact.
    pub fn with(mut self, name: &str, fact: impl Into<Fact>) -> Told {
        self.facts.insert(name.into(), fact.into());
        self
    }

    /// Adds a fact if there is one.
    pub fn with_some(self, name: &str, fact: Option<impl Into<Fact>>) -> Told {
        match fact {
            Some(fact) => self.with(name, fact),
            None => self,
        }
    }
}

/// Hears of every recorded event of this process; see [`on_recorded`].
static LISTENER: OnceLock<fn(&Event)> = OnceLock::new();

/// From now on `listener` hears of every event of this process that is recorded, as it happens: of a run that never comes to
/// its end there is nothing else. The first one stays.
pub fn on_recorded(listener: fn(&Event)) {
    // Fails if there is one already.
    let _ = LISTENER.set(listener);
}

/// The digest of the events so far, and the events if they are recorded.
#[derive(Debug, Default)]
pub struct Trace {
    digest: u128,
    count: u64,
    recorded: Option<Vec<Event>>,
}

impl Trace {
    /// An empty trace.
    pub fn new(record: bool) -> Trace {
        Trace { digest: 0, count: 0, recorded: record.then(Vec::new) }
    }

    /// Adds an event. `tell` is only called when recording.
    pub fn add<T: Into<Told>>(
        &mut self,
        at_ns: u64,
        node: NodeId,
        kind: &str,
        payload: &[u8],
        tell: impl FnOnce() -> T,
    ) {
        let mut message = [0; 48];
        message[..16].copy_from_slice(&self.digest.to_le_bytes());
        message[16..24].copy_from_slice(&at_ns.to_le_bytes());
        message[24..32].copy_from_slice(&node.0.to_le_bytes());
        message[32..40].copy_from_slice(&xxh3_64(kind.as_bytes()).to_le_bytes());
        message[40..].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        self.digest = xxh3_128(&message);
        self.count += 1;
        if let Some(events) = &mut self.recorded {
            let Told { detail, facts } = tell().into();
            let event = Event { at_ns, node: node.0, kind: kind.into(), detail, facts };
            if let Some(listener) = LISTENER.get() {
                listener(&event);
            }
            events.push(event);
        }
    }

    /// The digest so far.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True if events are kept.
    pub fn is_recording(&self) -> bool {
        self.recorded.is_some()
    }

    /// The events so far, if they are recorded.
    pub fn recorded(&self) -> Option<&[Event]> {
        self.recorded.as_deref()
    }
}
