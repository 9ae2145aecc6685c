//! A limit on what flushes and compactions write together, so that they leave the disk to others: a token bucket.
//!
//! The bucket fills with so many bytes in a second, up to what a tenth of a second brings. Who writes takes the bytes out, and
//! waits as long as there are none. A write may be larger than what is there, and those behind it wait the longer, so that none
//! waits for ever. A compaction waits as long as a flush does: as writers stall behind flushes, and then there is nothing more to
//! flush, the compaction's turn comes. Of one kind they come in turn.
//!
//! Not counted: the log, the MANIFEST, checkpoints and backups, what recovery and repair write, and what is read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutwater_io::{sometimes, time};

use super::points;
use super::shared::lock;

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Flush,
    Compaction,
}

/// The bucket. Pure: it is told the time.
#[derive(Debug)]
struct Bucket {
    bytes_per_s: u64,
    /// Millionths of a byte; less than nothing if more was taken than was there.
    level: i128,
    filled_us: u64,
    flushes_waiting: usize,
}

const SECOND_US: i128 = 1_000_000;
/// A compaction looks again after this time, at least, if a flush waits.
const BEHIND_A_FLUSH: Duration = Duration::from_millis(1);

impl Bucket {
    /// A full one.
    fn new(bytes_per_s: u64, now_us: u64) -> Bucket {
        Bucket { bytes_per_s, level: Bucket::most(bytes_per_s), filled_us: now_us, flushes_waiting: 0 }
    }

    /// What fits in.
    fn most(bytes_per_s: u64) -> i128 {
        i128::from(bytes_per_s) * SECOND_US / 10
    }

    /// Takes the bytes out, or says after which time to ask again.
    fn take(&mut self, priority: Priority, len_bytes: u64, now_us: u64) -> Result<(), Duration> {
        let since_us = now_us.saturating_sub(self.filled_us);
        self.filled_us = self.filled_us.max(now_us);
        let filled = self.level + i128::from(since_us) * i128::from(self.bytes_per_s);
        self.level = filled.min(Bucket::most(self.bytes_per_s));
        let is_behind = priority == Priority::Compaction && self.flushes_waiting > 0;
        if self.level > 0 && !is_behind {
            self.level -= i128::from(len_bytes) * SECOND_US;
            return Ok(());
        }
        let wait_us = (-self.level).max(0) / i128::from(self.bytes_per_s) + 1;
        let wait = Duration::from_micros(u64::try_from(wait_us).unwrap_or(u64::MAX));
        Err(if is_behind { wait.max(BEHIND_A_FLUSH) } else { wait })
    }
}

/// The limit of a store.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    bucket: Mutex<Bucket>,
    /// Held by who is next: of the flushes, and of the compactions.
    turns: [tokio::sync::Mutex<()>; 2],
}

impl RateLimiter {
    pub(crate) fn new(bytes_per_s: u64) -> RateLimiter {
        let bucket = Mutex::new(Bucket::new(bytes_per_s, time::now().as_micros()));
        RateLimiter { bucket, turns: Default::default() }
    }

    async fn take(&self, priority: Priority, len_bytes: u64) {
        let _waits = (priority == Priority::Flush).then(|| WaitingFlush::new(self));
        let _turn = self.turns[priority as usize].lock().await;
        loop {
            let taken = lock(&self.bucket).take(priority, len_bytes, time::now().as_micros());
            sometimes!(points::RATE_LIMITED, taken.is_err());
            let Err(wait) = taken else { return };
            time::sleep(wait).await;
        }
    }
}

/// A flush that waits, or was dropped while it did.
struct WaitingFlush<'a>(&'a RateLimiter);

impl WaitingFlush<'_> {
    fn new(limiter: &RateLimiter) -> WaitingFlush<'_> {
        lock(&limiter.bucket).flushes_waiting += 1;
        WaitingFlush(limiter)
    }
}

impl Drop for WaitingFlush<'_> {
    fn drop(&mut self) {
        lock(&self.0.bucket).flushes_waiting -= 1;
    }
}

/// What somebody keeps to who writes. The default keeps to nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Option<(Arc<RateLimiter>, Priority)>);

impl Pace {
    pub(crate) fn new(limiter: Option<&Arc<RateLimiter>>, priority: Priority) -> Pace {
        Pace(limiter.map(|limiter| (limiter.clone(), priority)))
    }

    /// Waits until so many bytes may be written.
    pub(crate) async fn write(&self, len_bytes: usize) {
        if let Pace(Some((limiter, priority))) = self {
            limiter.take(*priority, len_bytes as u64).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Priority::{Compaction, Flush};
    use super::*;

    /// When writes of these lengths are through, one after the other.
    fn times_us(bucket: &mut Bucket, priority: Priority, lens_bytes: &[u64], from_us: u64) -> Vec<u64> {
        let mut now_us = from_us;
        let mut time_of = |len_bytes: &u64| {
            while let Err(wait) = bucket.take(priority, *len_bytes, now_us) {
                now_us += wait.as_micros() as u64;
            }
            now_us
        };
        lens_bytes.iter().map(&mut time_of).collect()
    }

    #[test]
    fn writes_wait_for_what_those_before_them_took() {
        let mut bucket = Bucket::new(1000, 0);
        // 100 are there at first: the second write takes the last of them, and 49 more.
        assert_eq!(times_us(&mut bucket, Flush, &[99, 50, 10, 1], 0), [0, 0, 49_001, 59_001]);
        assert_eq!(
            times_us(&mut bucket, Flush, &[100, 100], 10_000_000),
            [10_000_000, 10_000_001],
            "it was full"
        );
    }

    #[test]
    fn in_the_long_run_the_rate_holds_whatever_the_writes() {
        for len_bytes in [1, 7, 1000, 64 << 10] {
            let mut bucket = Bucket::new(100_000, 0);
            let count = 2_000_000 / len_bytes;
            let lens = vec![len_bytes; count as usize];
            let last_us = *times_us(&mut bucket, Compaction, &lens, 0).last().unwrap();
            assert!((18_500_000..=20_000_000).contains(&last_us), "{len_bytes}: {last_us}");
        }
    }

    #[test]
    fn a_compaction_waits_while_a_flush_does() {
        let mut bucket = Bucket::new(1000, 0);
        bucket.flushes_waiting = 1;
        assert_eq!(bucket.take(Compaction, 10, 0), Err(BEHIND_A_FLUSH), "although there is enough");
        assert_eq!(bucket.take(Flush, 150, 0), Ok(()));
        assert_eq!(bucket.take(Flush, 10, 0), Err(Duration::from_micros(50_001)));
        bucket.flushes_waiting = 0;
        assert_eq!(bucket.take(Compaction, 10, 50_001), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_fills_nothing() {
        let mut bucket = Bucket::new(1000, 5_000_000);
        assert_eq!(bucket.take(Flush, 101, 5_000_000), Ok(()));
        assert_eq!(bucket.take(Flush, 1, 1_000_000), Err(Duration::from_micros(1001)));
    }
}
