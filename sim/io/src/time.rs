//! Clocks and timers of the node that asks.
//!
//! [`Instant`] is monotonic and has no meaning outside its process; it may run fast or slow. [`unix_time`] is the wall clock,
//! which may be wrong and may jump. Timers keep to the monotonic clock, and may fire late. Neither clock may decide anything
//! that safety depends on.

use std::future::Future;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the node's monotonic clock, in microseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    us: u64,
}

impl Instant {
    /// How long ago it was; zero if it lies in the future.
    pub fn elapsed(self) -> Duration {
        now() - self
    }

    /// Microseconds since the clock's start.
    pub fn as_micros(self) -> u64 {
        self.us
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant { us: self.us.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)) }
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// The distance; zero if `earlier` is later.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.us.saturating_sub(earlier.us))
    }
}

/// The time given to [`timeout`] ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// The monotonic clock.
pub fn now() -> Instant {
    Instant { us: imp::monotonic_us() }
}

/// The wall clock, as the time since 1970-01-01 UTC.
pub fn unix_time() -> Duration {
    imp::unix_time()
}

/// Sleeps for `duration`, at least a millisecond unless it is zero.
pub async fn sleep(duration: Duration) {
    if duration.is_zero() {
        crate::task::yield_now().await;
    } else {
        imp::sleep(duration).await;
    }
}

/// Sleeps until `deadline`.
pub async fn sleep_until(deadline: Instant) {
    let left = deadline - now();
    if !left.is_zero() {
        sleep(left).await;
    }
}

/// Runs `future` for at most `limit`; it is dropped when the time runs out.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    imp::timeout(limit, future).await
}

/// A duration in whole microseconds: at most a quarter of what the type holds, so that it can be added to a moment.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

/// Models CPU work that the simulation would otherwise take for free: that long passes on this node. Nothing in a real
/// build, where the work itself takes the time.
pub async fn charge(cpu: Duration) {
    if cfg!(madsim) && !cpu.is_zero() {
        sleep(cpu).await;
    }
}

#[cfg(not(madsim))]
mod imp {
    #![expect(clippy::disallowed_methods, reason = "this is the real side of the seam")]
    use super::*;
    use std::sync::OnceLock;

    static START: OnceLock<std::time::Instant> = OnceLock::new();

    pub(super) fn monotonic_us() -> u64 {
        let start = START.get_or_init(std::time::Instant::now);
        u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn unix_time() -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    pub(super) async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    pub(super) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(limit, future).await.map_err(|_| Elapsed)
    }
}

#[cfg(madsim)]
mod imp {
    use super::*;
    use crate::sim::clock;
    use futures::future::{Either, select};
    use std::pin::pin;

    pub(super) use clock::{monotonic_us, sleep, unix_time};

    pub(super) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        // Whoever is ready at the moment of the timeout is in time.
        match select(pin!(future), pin!(clock::sleep(limit))).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(Elapsed),
        }
    }
}
