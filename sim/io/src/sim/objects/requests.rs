//! Requests under way to the object store, as a state machine: calls, arrivals and faults in; answers and events out.
//!
//! A request travels, takes effect at one moment (its linearization point) or never, and its answer travels back. What
//! happens to the caller in between does not stop it: the two halves are kept apart, as a client and a service are.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use object_store::path::Path;
use object_store::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::bucket::{Answer, Bucket, Change, Operation};
use super::{Config, Counters, ObjectChange, ObjectEvent, RequestError};
use crate::sim::net::alarm::Alarm;
use crate::sim::{Draw, Key, NodeId};

pub(super) type RequestId = u64;

const NS_PER_US: u64 = 1000;
const NS_PER_S: u128 = 1_000_000_000;

/// What a fault makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing unusual, after so many microseconds.
    Normal { delay_us: u32 },
    /// It never gets there; the caller hears so.
    FailBefore,
    /// It is applied; the caller hears of a failure.
    FailAfter,
    /// The caller hears of a failure now; it is applied in so many microseconds.
    LateLand { after_us: u32 },
    /// The connection breaks: it may or may not be applied; the caller hears of a failure.
    Reset,
    /// It never gets there, and nothing comes back.
    Hang,
    /// The service answers "slow down".
    Throttle,
}

/// How far the clock of the store is from the true time, in seconds.
#[derive(Clone, Copy, Debug)]
struct Skew(i64);

/// Who asks, in which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
}

#[derive(Debug)]
struct Travelling {
    caller: Caller,
    bucket: String,
    operation: Operation,
    fate: Fate,
    sent_ns: u64,
    deadline_ns: u64,
    response_ns: u64,
    draw: Draw,
}

#[derive(Debug)]
struct Waiting {
    deadline_ns: u64,
    waker: Option<Waker>,
    answer: Option<Result<Answer>>,
}

#[derive(Debug)]
enum Due {
    Arrive(RequestId),
    /// `None` is the client's own timeout.
    Answer(RequestId, NodeId, Option<Result<Answer>>),
}

/// A request took effect, or was refused by the state of the bucket.
#[derive(Debug)]
pub(super) struct Linearized {
    pub(super) node: NodeId,
    pub(super) name: &'static str,
    pub(super) bucket: String,
    pub(super) target: String,
    pub(super) len_bytes: usize,
    pub(super) content: u64,
    pub(super) accepted: bool,
}

/// What to tell the outside.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) linearized: Vec<Linearized>,
    pub(super) changes: Vec<ObjectEvent>,
    pub(super) wakers: Vec<Waker>,
}

/// The object store and what is under way to and from it.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) key: Option<Key>,
    pub(super) config: Config,
    pub(super) alarm: Alarm,
    pub(super) counters: Counters,
    pub(super) effects: Effects,
    pub(super) buckets: BTreeMap<String, Bucket>,
    pub(super) outage_until_ns: u64,
    pub(super) throttle_until_ns: u64,
    pub(super) isolated: BTreeSet<NodeId>,
    /// Nodes whose credentials have expired.
    pub(super) denied: BTreeSet<NodeId>,
    /// No request is refused for coming too soon after others any more.
    pub(super) unlimited: bool,
    /// By bucket and prefix: how many requests may come at once, and since when that was known.
    allowances: BTreeMap<(String, String), (u64, u64)>,
    skew: Option<Skew>,
    made: u64,
    attempts: BTreeMap<(NodeId, &'static str, String), u64>,
    travelling: BTreeMap<RequestId, Travelling>,
    waiting: BTreeMap<RequestId, Waiting>,
    agenda: BTreeMap<(u64, u64), Due>,
    scheduled: u64,
}

impl Requests {
    /// Sends a request.
    pub(super) fn submit(
        &mut self,
        caller: Caller,
        bucket: &str,
        operation: Operation,
        fate: Fate,
        now_ns: u64,
    ) -> RequestId {
        self.made += 1;
        let id = self.made;
        self.counters.requests += 1;
        let mut draw = self.draw(caller.node, bucket, &operation);
        let median_us = f64::from(self.config.latency_median_us);
        let latency_us = draw.lognormal(median_us, self.config.latency_sigma).clamp(0.0, median_us * 100.0);
        let half_ns = (latency_us * NS_PER_US as f64 / 2.0) as u64;
        let deadline_ns = now_ns + u64::from(self.config.timeout_us) * NS_PER_US;
        let arrive_ns = match fate {
            Fate::LateLand { after_us } => now_ns + u64::from(after_us) * NS_PER_US,
            Fate::Normal { delay_us } => now_ns + half_ns + u64::from(delay_us) * NS_PER_US,
            _ => now_ns + half_ns,
        };
        let arrive_ns = arrive_ns + self.transfer_ns(operation.len_bytes());
        self.waiting.insert(id, Waiting { deadline_ns, waker: None, answer: None });
        if matches!(fate, Fate::LateLand { .. }) {
            self.schedule(now_ns, Due::Answer(id, caller.node, None));
        } else if arrive_ns > deadline_ns {
            self.schedule(deadline_ns, Due::Answer(id, caller.node, None));
        }
        let bucket = bucket.to_owned();
        let travelling = Travelling {
            caller,
            bucket,
            operation,
            fate,
            sent_ns: now_ns,
            deadline_ns,
            response_ns: half_ns,
            draw,
        };
        self.travelling.insert(id, travelling);
        self.schedule(arrive_ns, Due::Arrive(id));
        id
    }

    /// The answer, once it is there.
    pub(super) fn answer(&mut self, id: RequestId, waker: &Waker) -> Option<Result<Answer>> {
        let waiting = self.waiting.get_mut(&id).expect("an answer is taken once");
        if waiting.answer.is_none() {
            waiting.waker = Some(waker.clone());
            return None;
        }
        self.waiting.remove(&id).and_then(|w| w.answer)
    }

    /// The caller no longer waits. What is under way stays so.
    pub(super) fn abandon(&mut self, id: RequestId) {
        self.waiting.remove(&id);
    }

    /// Requests that have not reached the store yet.
    pub(super) fn in_flight(&self) -> usize {
        self.travelling.len()
    }

    /// Does what is due, and says when more is. `incarnation` tells how often a node has died.
    pub(super) fn run_due(
        &mut self,
        now_ns: u64,
        wall: SystemTime,
        waker: &Waker,
        incarnation: impl Fn(NodeId) -> u64,
    ) -> Option<u64> {
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= now_ns
        {
            match entry.remove() {
                Due::Arrive(id) => self.arrive(id, now_ns, wall, &incarnation),
                Due::Answer(id, node, answer) => self.answered(id, node, answer, now_ns),
            }
        }
        let next_ns = self.agenda.keys().next().map(|(at_ns, _)| *at_ns);
        self.alarm.set(next_ns, waker);
        next_ns
    }

    fn arrive(&mut self, id: RequestId, now_ns: u64, wall: SystemTime, incarnation: &impl Fn(NodeId) -> u64) {
        let mut request = self.travelling.remove(&id).expect("a request arrives once");
        let caller = request.caller;
        let late = matches!(request.fate, Fate::LateLand { .. });
        let orphan = incarnation(caller.node) != caller.incarnation || !self.waiting.contains_key(&id);
        if late {
            self.counters.landed_late += 1;
        } else if orphan {
            // The caller died or stopped waiting while its request was under way: it got out, or it did not.
            self.counters.orphaned += 1;
            if request.draw.chance(500) {
                return;
            }
        } else if self.isolated.contains(&caller.node) {
            self.counters.unreachable += 1;
            return self.schedule(request.deadline_ns.max(now_ns), Due::Answer(id, caller.node, None));
        }
        let fate = request.fate;
        let refusal = match fate {
            _ if late => None,
            Fate::Hang => {
                return self.schedule(request.deadline_ns.max(now_ns), Due::Answer(id, caller.node, None));
            }
            Fate::FailBefore => Some(RequestError::Unavailable),
            Fate::Throttle => Some(RequestError::SlowDown),
            Fate::Reset if request.draw.chance(500) => Some(RequestError::Timeout),
            _ if now_ns < self.outage_until_ns => Some(RequestError::Unavailable),
            _ if now_ns < self.throttle_until_ns => Some(RequestError::SlowDown),
            _ if self.denied.contains(&caller.node) => {
                self.counters.denied += 1;
                Some(RequestError::AccessDenied)
            }
            _ if !self.is_allowed(&request.bucket, &request.operation, now_ns) => {
                self.counters.too_many += 1;
                Some(RequestError::SlowDown)
            }
            _ if !late && self.conflicts(&mut request) => {
                self.counters.conflicts += 1;
                Some(RequestError::Conflict)
            }
            _ => None,
        };
        let answer = match refusal {
            Some(error) => {
                self.counters.refused += 1;
                Err(error.about(request.operation.target()))
            }
            None => self.apply(&mut request, now_ns, wall),
        };
        let len_bytes = answer.as_ref().map_or(0, Answer::len_bytes);
        let at_ns = now_ns + request.response_ns + self.transfer_ns(len_bytes);
        if at_ns > request.deadline_ns {
            self.schedule(request.deadline_ns.max(now_ns), Due::Answer(id, caller.node, None));
        } else if matches!(request.fate, Fate::FailAfter | Fate::Reset) {
            self.schedule(at_ns, Due::Answer(id, caller.node, Some(Err(RequestError::Timeout.into()))));
        } else {
            self.schedule(at_ns, Due::Answer(id, caller.node, Some(answer)));
        }
    }

    /// True if a request of this prefix may come now: each prefix earns one allowance per so many microseconds.
    fn is_allowed(&mut self, bucket: &str, operation: &Operation, now_ns: u64) -> bool {
        let earn_ns = u64::from(self.config.prefix_spacing_us) * NS_PER_US;
        if earn_ns == 0 || self.unlimited {
            return true;
        }
        let burst = u64::from(self.config.prefix_burst.max(1));
        let target = operation.target().as_ref();
        let prefix = target.rsplit_once('/').map_or("", |(prefix, _)| prefix);
        let (left, since_ns) =
            self.allowances.entry((bucket.to_owned(), prefix.to_owned())).or_insert((burst, now_ns));
        let earned = (now_ns - *since_ns) / earn_ns;
        *left = left.saturating_add(earned).min(burst);
        *since_ns += earned * earn_ns;
        let allowed = *left > 0;
        *left -= u64::from(allowed);
        allowed
    }

    /// True if a conditional write is turned away because its key was changed while it was under way: S3 may answer so
    /// in place of evaluating the condition.
    fn conflicts(&self, request: &mut Travelling) -> bool {
        let raced = request.operation.is_conditional()
            && self
                .buckets
                .get(&request.bucket)
                .is_some_and(|bucket| bucket.changed_since(request.operation.target(), request.sent_ns));
        raced && request.draw.chance(self.config.conflict_permille.into())
    }

    /// What the clock of the store says.
    fn own_clock(&mut self, wall: SystemTime) -> SystemTime {
        let (key, most) = (self.key, u64::from(self.config.clock_skew_s_max));
        let Skew(skew_s) = *self.skew.get_or_insert_with(|| {
            let key = key.expect("the object store is configured before it is used");
            Skew(key.draw("objects.skew", &[]).between(0, 2 * most) as i64 - most as i64)
        });
        let skew = Duration::from_secs(skew_s.unsigned_abs());
        if skew_s < 0 { wall.checked_sub(skew).unwrap_or(wall) } else { wall + skew }
    }

    /// The linearization point.
    fn apply(&mut self, request: &mut Travelling, now_ns: u64, wall: SystemTime) -> Result<Answer> {
        let mut seen = Vec::new();
        let wall = self.own_clock(wall);
        let lag_us = u64::from(self.config.list_lag_us);
        let bucket = self.buckets.entry(request.bucket.clone()).or_default();
        let answer = match &request.operation {
            Operation::ListPage { prefix, after, keys, is_level } if lag_us > 0 => {
                Ok(bucket.lagging_page(prefix, after.as_ref(), *keys, *is_level, now_ns))
            }
            operation => bucket.apply(operation, wall, &mut seen),
        };
        for Change::Put(key, _) | Change::Delete(key) in &seen {
            let lag_ns = (lag_us > 0).then(|| request.draw.between(0, lag_us) * NS_PER_US);
            bucket.changed(key, now_ns, lag_ns);
        }
        let node = request.caller.node;
        let content = match &request.operation {
            Operation::Put { bytes, .. } | Operation::PutPart { bytes, .. } => xxh3_64(bytes),
            _ => answer.as_ref().map_or(0, Answer::content),
        };
        let len_bytes = request.operation.len_bytes().max(answer.as_ref().map_or(0, Answer::len_bytes));
        self.counters.applied += 1;
        self.effects.linearized.push(Linearized {
            node,
            name: request.operation.name(),
            bucket: request.bucket.clone(),
            target: request.operation.target().to_string(),
            len_bytes,
            content,
            accepted: answer.is_ok(),
        });
        for change in seen {
            let (key, change) = match change {
                Change::Put(key, bytes) => (key, ObjectChange::Put(bytes)),
                Change::Delete(key) => (key, ObjectChange::Delete),
            };
            let (bucket, key) = (request.bucket.clone(), key.to_string());
            self.effects.changes.push(ObjectEvent { bucket, key, change, node, at_us: now_ns / NS_PER_US });
        }
        answer
    }

    /// An answer reaches its caller, if the caller still waits and can be reached.
    fn answered(&mut self, id: RequestId, node: NodeId, answer: Option<Result<Answer>>, now_ns: u64) {
        let Some(waiting) = self.waiting.get_mut(&id).filter(|w| w.answer.is_none()) else { return };
        if answer.is_some() && self.isolated.contains(&node) {
            self.counters.unreachable += 1;
            let deadline_ns = waiting.deadline_ns.max(now_ns);
            return self.schedule(deadline_ns, Due::Answer(id, node, None));
        }
        waiting.answer = Some(answer.unwrap_or_else(|| Err(RequestError::Timeout.into())));
        let waker = waiting.waker.take();
        self.effects.wakers.extend(waker);
    }

    fn schedule(&mut self, at_ns: u64, due: Due) {
        self.scheduled += 1;
        self.agenda.insert((at_ns, self.scheduled), due);
        self.alarm.announce(at_ns);
    }

    /// All decisions about this attempt of a request.
    fn draw(&mut self, node: NodeId, bucket: &str, operation: &Operation) -> Draw {
        let target = format!("{bucket}/{}", operation.target());
        let hash = xxh3_64(target.as_bytes());
        let attempt = self.attempts.entry((node, operation.name(), target)).or_default();
        *attempt += 1;
        let key = self.key.expect("the object store is configured before it is used");
        key.draw(operation.name(), &[node.0, hash, *attempt])
    }

    fn transfer_ns(&self, len_bytes: usize) -> u64 {
        let ns = len_bytes as u128 * NS_PER_S / u128::from(self.config.bandwidth_bytes_per_s.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

impl RequestError {
    /// As the crate's clients report it: by the status of the answer. They make no difference between a conflict and an
    /// object that exists.
    fn about(self, target: &Path) -> Error {
        let path = target.to_string();
        match self {
            RequestError::Conflict => Error::AlreadyExists { path, source: Box::new(self) },
            RequestError::AccessDenied => Error::PermissionDenied { path, source: Box::new(self) },
            other => other.into(),
        }
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Error {
        Error::Generic { store: super::STORE, source: Box::new(error) }
    }
}
