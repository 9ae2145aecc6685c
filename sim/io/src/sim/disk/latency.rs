//! How long things take, in virtual time.
//!
//! A buffered call is answered by the page cache: other tasks get a turn, and now and then the caller is throttled for a
//! millisecond or more. One draw serves a batch of calls on a file. A sync takes a log-normal time around the configured
//! median, and one in a thousand a very long one (Pareto, up to 30 s).
//!
//! In a slow phase everything takes a factor longer, buffered calls included: a device that fails slowly throttles writers
//! and answers reads that miss the cache. A call that is under way when the phase ends returns soon after it.
//!
//! Not modelled: queues between files, bandwidth. (The shortest sleep of the simulation is a millisecond.)

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sim::Key;

/// Buffered calls that share a draw.
const BATCH: u64 = 64;
/// In so many of a thousand batches one call is throttled.
const THROTTLED_PERMILLE: u64 = 250;
const THROTTLE_US_MEDIAN: f64 = 1_000.0;
const SYNC_SIGMA: f64 = 0.8;
const SYNC_TAIL_PERMILLE: u64 = 1;
const SYNC_TAIL_ALPHA: f64 = 1.3;
const SYNC_US_MAX: f64 = 30e6;

/// What a buffered call takes of a disk that is slow, times the factor; of one that is not, nothing.
const BUFFERED_US: u64 = 20;

/// `us` on a disk that is slower by `factor`.
pub(crate) fn slowed_us(us: u64, factor: u64) -> u64 {
    if factor == 1 { us } else { us.max(BUFFERED_US).saturating_mul(factor) }
}

/// The pace of the calls on one open file, or of those on the names of one node.
#[derive(Debug)]
pub struct Pace {
    key: Key,
    calls: AtomicU64,
    syncs: AtomicU64,
    /// Which call of this batch is throttled.
    throttled: AtomicU64,
}

impl Pace {
    /// A pace decided by `key`.
    pub fn new(key: Key) -> Pace {
        Pace { key, calls: 0.into(), syncs: 0.into(), throttled: u64::MAX.into() }
    }

    /// How long the next buffered call is held up, in microseconds; mostly not at all.
    pub fn next_call_us(&self) -> u64 {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        let batch = nth / BATCH;
        if nth.is_multiple_of(BATCH) {
            let mut draw = self.key.draw("disk.throttled", &[batch]);
            let which = if draw.chance(THROTTLED_PERMILLE) { draw.below(BATCH) } else { u64::MAX };
            self.throttled.store(which, Ordering::Relaxed);
        }
        if nth % BATCH != self.throttled.load(Ordering::Relaxed) {
            return 0;
        }
        self.key.draw("disk.throttle", &[batch]).lognormal(THROTTLE_US_MEDIAN, SYNC_SIGMA) as u64
    }

    /// How long the next sync takes, in microseconds.
    pub fn next_sync_us(&self, median_us: u64) -> u64 {
        let nth = self.syncs.fetch_add(1, Ordering::Relaxed);
        let mut draw = self.key.draw("disk.sync_latency", &[nth]);
        let scale = if draw.chance(SYNC_TAIL_PERMILLE) {
            (1.0 - draw.unit()).powf(-1.0 / SYNC_TAIL_ALPHA) * 10.0
        } else {
            1.0
        };
        (draw.lognormal(median_us as f64, SYNC_SIGMA) * scale).min(SYNC_US_MAX) as u64
    }
}
