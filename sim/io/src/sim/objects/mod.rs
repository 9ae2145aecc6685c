//! The simulated object store: buckets that outlive every node, behind requests that fail in the ways of the cloud.
//!
//! Modelled
//! - Each key is a linearizable register with versions: strong reads, conditional writes (create-if-absent, if-match),
//!   last writer wins, atomic per key and never across keys, as S3 documents since 2020. Deletes are idempotent.
//! - A listing is taken in pages; each page is a snapshot of its own, and time passes in between.
//! - Multipart uploads: parts are invisible, completion is atomic, a completion repeated after a lost answer finds no such
//!   upload, abandoned uploads cost space.
//! - A request travels, takes effect, and its answer travels back. A caller that dies or stops waiting in between leaves a
//!   request that may or may not land; a caller that is told of a timeout does not know either.
//! - Faults per request (see [`SiteFault`](super::SiteFault)): failure before and after it was applied, an answer lost,
//!   landing late (long after the caller was told that it failed, even after its node died), "slow down", hanging, delay,
//!   a body cut short or standing still; and as states: outage, throttling, a node cut off from the store, a node whose
//!   credentials have expired.
//! - A conditional write whose key was changed while it was under way may be turned away with a conflict (409) in place of an
//!   evaluated condition (412). The crate reports both as `AlreadyExists`, and so does this store: the object need not be there.
//! - Too many requests of one prefix are told to slow down (a token bucket per prefix, if configured).
//! - `Last-Modified` is in whole seconds, by a clock that is wrong by a draw.
//! - Listings that lag behind ([`Config::list_lag_us`]), as of stores that are not S3. Off unless configured.
//!
//! Not modelled: object versions and lifecycle rules, deletes of many keys in one request (each key is a request of its own,
//! and fails alone), an upload that is reported complete with an error in its body, the retries that a real client makes on
//! its own, damage to stored objects (a harness can flip bytes in what it reads).
//!
//! Draws are keyed by (node, operation, bucket and key, how many-th attempt), never sequential.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use madsim::time::TimeHandle;
use object_store::path::Path;

use super::{Env, Key, NodeId, Told};

mod bucket;
mod requests;
mod store;

use requests::{Effects, Requests};
pub(crate) use store::SimStore;

/// What `object_store` errors call this store.
const STORE: &str = "sim";

/// Latency, bandwidth and patience.
#[derive(Clone, Debug)]
pub struct Config {
    /// Median latency of a request and its answer together, in microseconds.
    pub latency_median_us: u32,
    /// Shape of the log-normal distribution of latencies.
    pub latency_sigma: f64,
    /// Bandwidth of one request, in bytes per second.
    pub bandwidth_bytes_per_s: u64,
    /// After so many microseconds without an answer a caller is told [`RequestError::Timeout`].
    pub timeout_us: u32,
    /// Keys in a page of a listing.
    pub page_keys: usize,
    /// Of a thousand conditional writes whose key was changed while they were under way, how many hear of a conflict.
    pub conflict_permille: u32,
    /// A prefix (all of a key before its last slash) may have one more request per so many microseconds; 0 for no limit.
    pub prefix_spacing_us: u32,
    /// So many requests of a prefix may come at once.
    pub prefix_burst: u32,
    /// Listings show a change up to so many microseconds late; 0 for a store that is strongly consistent.
    pub list_lag_us: u32,
    /// The clock of the store is wrong by up to so many seconds.
    pub clock_skew_s_max: u32,
}

impl Default for Config {
    /// S3 within its region: 20 ms, 80 MB/s a request, pages of 1,000 keys; the patience of an impatient client.
    fn default() -> Config {
        Config {
            latency_median_us: 20_000,
            latency_sigma: 0.5,
            bandwidth_bytes_per_s: 80_000_000,
            timeout_us: 5_000_000,
            page_keys: 1000,
            conflict_permille: 500,
            prefix_spacing_us: 0,
            prefix_burst: 50,
            list_lag_us: 0,
            clock_skew_s_max: 600,
        }
    }
}

/// What went wrong with a request; the source of an [`object_store::Error::Generic`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It was not applied.
    #[error("service unavailable")]
    Unavailable,
    /// Nobody knows whether it was, or will be, applied.
    #[error("no answer: the request may or may not take effect")]
    Timeout,
    /// It was not applied: there are too many requests.
    #[error("slow down")]
    SlowDown,
    /// It was not applied: its key was changed while it was under way. Whether there is an object now, nobody says.
    #[error("conflict with another conditional request; read again")]
    Conflict,
    /// It was not applied: the credentials have expired.
    #[error("access denied: the credentials have expired")]
    AccessDenied,
    /// The upload was never made, was aborted, or is complete already.
    #[error("{0}: no such upload")]
    NoSuchUpload(String),
}

/// A change of a bucket, told at the moment it takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// Where.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// What happened to it.
    pub change: ObjectChange,
    /// Who had asked; it may be dead by now.
    pub node: NodeId,
    /// Virtual time in microseconds.
    pub at_us: u64,
}

/// See [`ObjectEvent::change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectChange {
    /// It holds these bytes now.
    Put(Bytes),
    /// It is gone.
    Delete,
}

/// What the store did so far: a fault that refused, orphaned or delayed nothing has not bitten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub requests: u64,
    /// Requests that reached their bucket, whatever it answered.
    pub applied: u64,
    /// Requests refused by a fault, an outage or throttling.
    pub refused: u64,
    /// Requests whose caller was dead or gone when they arrived.
    pub orphaned: u64,
    /// Requests applied after their caller was told of a failure.
    pub landed_late: u64,
    /// Requests of nodes whose credentials had expired.
    pub denied: u64,
    /// Requests that came too soon after others of their prefix.
    pub too_many: u64,
    /// Conditional writes that were turned away because their key was changed while they were under way.
    pub conflicts: u64,
    /// Requests and answers that an isolated node could not exchange.
    pub unreachable: u64,
}

type Observer = Box<dyn FnMut(&ObjectEvent) + Send>;

/// The object store of a run: controls and inspection for a harness.
///
/// Times are virtual, in microseconds since the start of the run.
#[derive(Default)]
pub struct Objects {
    requests: Mutex<Requests>,
    observers: Mutex<Vec<Observer>>,
}

impl Objects {
    pub(crate) fn configure(&self, key: Key, config: Config) {
        {
            let mut requests = self.requests();
            requests.key = Some(key);
            requests.config = config;
        }
        let env = std::sync::Arc::downgrade(&Env::current());
        let _detached = madsim::task::spawn(work_off(env));
    }

    /// Until `until_us` requests that arrive are answered [`RequestError::Unavailable`].
    pub fn outage(&self, until_us: u64) {
        self.requests().outage_until_ns = until_us.saturating_mul(1000);
    }

    /// Until `until_us` requests that arrive are answered [`RequestError::SlowDown`].
    pub fn throttle(&self, until_us: u64) {
        self.requests().throttle_until_ns = until_us.saturating_mul(1000);
    }

    /// Nothing gets from `node` to the store or back: its requests end in [`RequestError::Timeout`].
    pub fn isolate(&self, node: NodeId) {
        self.requests().isolated.insert(node);
    }

    /// Ends [`Objects::isolate`].
    pub fn rejoin(&self, node: NodeId) {
        self.requests().isolated.remove(&node);
    }

    /// The credentials of `node` expire: its requests are answered [`RequestError::AccessDenied`].
    pub fn deny(&self, node: NodeId) {
        self.requests().denied.insert(node);
    }

    /// Ends [`Objects::deny`].
    pub fn allow(&self, node: NodeId) {
        self.requests().denied.remove(&node);
    }

    /// Ends outage, throttling, every isolation and denial, and lifts the limits of prefixes.
    pub fn heal(&self) {
        let mut requests = self.requests();
        (requests.outage_until_ns, requests.throttle_until_ns) = (0, 0);
        requests.isolated.clear();
        requests.denied.clear();
        requests.unlimited = true;
    }

    /// Has `observer` told of every put and delete, at its linearization point and in their order. It may inspect the
    /// store; it must not register observers.
    pub fn observe(&self, observer: Box<dyn FnMut(&ObjectEvent) + Send>) {
        self.observers().push(observer);
    }

    /// The keys of `bucket` that begin with `prefix`, sorted.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        self.requests().buckets.get(bucket).map(|b| b.keys(prefix)).unwrap_or_default()
    }

    /// What `key` holds now.
    pub fn peek(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.requests().buckets.get(bucket)?.peek(&Path::from(key))
    }

    /// Bytes of all objects of `bucket`, without unfinished uploads.
    pub fn total_bytes(&self, bucket: &str) -> u64 {
        self.requests().buckets.get(bucket).map_or(0, |b| b.object_bytes())
    }

    /// Unfinished uploads of `bucket`, and the bytes they cost.
    pub fn unfinished_uploads(&self, bucket: &str) -> (usize, u64) {
        self.requests().buckets.get(bucket).map_or((0, 0), |b| b.uploads())
    }

    /// Requests under way that have not reached the store yet, those that will land late among them.
    pub fn in_flight(&self) -> usize {
        self.requests().in_flight()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.requests().counters
    }

    fn run<T>(&self, env: &Env, step: impl FnOnce(&mut Requests) -> T) -> T {
        let (result, effects) = {
            let mut requests = self.requests();
            let result = step(&mut requests);
            (result, std::mem::take(&mut requests.effects))
        };
        self.tell(env, effects);
        result
    }

    fn tell(&self, env: &Env, effects: Effects) {
        for done in effects.linearized {
            let mut payload = format!("{}/{}\0", done.bucket, done.target).into_bytes();
            payload.push(done.accepted.into());
            payload.extend_from_slice(&done.content.to_le_bytes());
            env.emit(done.node, done.name, &payload, || {
                let refused = if done.accepted { "" } else { " refused" };
                Told::from(format!("{}/{} {} bytes{refused}", done.bucket, done.target, done.len_bytes))
                    .with("key", done.target.as_str())
                    .with("bytes", done.len_bytes as u64)
                    .with("answer", if done.accepted { "done" } else { "refused" })
            });
        }
        for event in &effects.changes {
            self.observers().iter_mut().for_each(|observer| observer(event));
        }
        for waker in effects.wakers {
            waker.wake();
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observers(&self) -> MutexGuard<'_, Vec<Observer>> {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

async fn work_off(env: Weak<Env>) {
    super::net::alarm::work_off(|now_ns, waker| {
        let env = env.upgrade()?;
        let wall = TimeHandle::current().now_time();
        let incarnation = |node| env.incarnation(node);
        Some(env.objects.run(&env, |requests| requests.run_due(now_ns, wall, waker, incarnation)))
    })
    .await;
}
