//! What users ask of the coordinator, and in which order it is taken up.
//!
//! The order is that of Flink's `CheckpointRequestDecider`: savepoints before checkpoints, then as they came. (The periodic
//! checkpoint is no entry of the queue: it is due when its time has come and nobody else wants anything.) The queue is
//! bounded; beyond, the new request is refused. Every request that was taken has exactly one end: it becomes a checkpoint,
//! which has an end of its own, or it is given back with a reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::barrier::{SavepointFormat, Stop};

/// How many requests may wait.
pub const QUEUE_MAX: usize = 1000;

/// Something a user wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Unique: who asks again under the same id asks for nothing new.
    pub trigger_id: String,
    /// What.
    pub kind: RequestKind,
    /// For people.
    pub description: String,
}

/// See [`Request::kind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestKind {
    /// A checkpoint.
    Checkpoint {
        /// That references nothing of earlier ones.
        full: bool,
    },
    /// A savepoint.
    Savepoint {
        /// Directory under which it gets one of its own; `None` is the job's.
        target: Option<String>,
        /// What its files look like.
        format: SavepointFormat,
        /// The job ends with it.
        stop: Option<Stop>,
    },
}

/// Requests that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(u8, u64), Waiting>,
    next: u64,
}

/// A request that waits, and the directory that it would get.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub request: Request,
    pub directory: String,
}

impl Queue {
    /// Appends a request. False if the queue is full.
    pub fn push(&mut self, request: Request, directory: String) -> bool {
        if self.waiting.len() >= QUEUE_MAX {
            return false;
        }
        let class = u8::from(!request.is_savepoint());
        self.next += 1;
        self.waiting.insert((class, self.next), Waiting { request, directory });
        true
    }

    /// The next one.
    pub fn head(&self) -> Option<&Waiting> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting)
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_first().map(|(_, waiting)| waiting)
    }

    /// True if that request waits.
    pub fn contains(&self, trigger_id: &str) -> bool {
        self.waiting.values().any(|waiting| waiting.request.trigger_id == trigger_id)
    }

    /// Takes all of them.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }
}

impl Request {
    /// True if it asks for a savepoint.
    pub fn is_savepoint(&self) -> bool {
        matches!(self.kind, RequestKind::Savepoint { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: usize, kind: RequestKind) -> Request {
        Request { trigger_id: n.to_string(), kind, description: String::new() }
    }

    #[test]
    fn savepoints_come_first_and_the_queue_is_bounded() {
        let mut queue = Queue::default();
        let savepoint = RequestKind::Savepoint { target: None, format: SavepointFormat::Native, stop: None };
        for n in 0..QUEUE_MAX - 1 {
            assert!(queue.push(request(n, RequestKind::Checkpoint { full: false }), String::new()));
        }
        assert!(queue.push(request(5000, savepoint.clone()), String::new()));
        assert!(!queue.push(request(5001, savepoint), String::new()), "one too many");
        assert_eq!(queue.head().unwrap().request.trigger_id, "5000");
        assert_eq!(queue.pop().unwrap().request.trigger_id, "5000");
        assert_eq!(queue.pop().unwrap().request.trigger_id, "0");
        assert!(queue.contains("1") && !queue.contains("0"));
        assert_eq!(queue.drain().count(), QUEUE_MAX - 2);
    }
}
