//! Clocks: what each node takes for the time, and how fast it runs.
//!
//! Modelled
//! - A **monotonic clock** per node. It may run fast or slow (a drift in parts per million) and never goes back: a change of
//!   its rate bends it, from that moment on. Timers are set by it: a node whose clock runs slow by a tenth waits a ninth longer.
//! - A **wall clock** per node, driven by the same oscillator, with an offset of its own from the start (nobody's clock is exact)
//!   and another that may jump forward and back.
//! - A **slow node** (a neighbour that takes the processor, a failing fan): timers fire late and calls into devices take
//!   longer, both by a factor. Its clocks are right.
//! - Healing undoes what was done to the clocks: rates are exact again, and where the wall clock has jumped to is left in one more
//!   jump. The offset that a node has of its own stays: it is no fault.
//!
//! The devices and the harness itself live by true time, which is madsim's.
//!
//! Not modelled: slewing, leap seconds, a monotonic clock that starts anew with its machine (an [`Instant`] never outlives
//! a process), rates that wander by themselves. A timer that was set before its clock began to run faster keeps its moment
//! of true time, and is late by its own clock; none is ever early.
//!
//! [`Instant`]: crate::time::Instant

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Env, NodeId};

/// The most that a clock may drift, in parts per million: half of its rate.
pub const DRIFT_PPM_MAX: i32 = 500_000;

const MILLION: i128 = 1_000_000;
/// A call into a device that takes no time counts for so much where a node is slow, in microseconds.
const SHORTEST_CALL_US: u64 = 20;
/// The shortest sleep of the simulation, in microseconds: smaller delays of a slow node are saved up to it.
const SHORTEST_SLEEP_US: u64 = 1000;
/// How often a late timer looks whether its node is still slow.
const LATE_SLICE: Duration = Duration::from_millis(20);

/// The clocks of all nodes: controls for a harness.
#[derive(Debug, Default)]
pub struct Clocks {
    nodes: Mutex<BTreeMap<NodeId, Clock>>,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    /// When the rate changed last, in true time.
    bent_at_ns: u64,
    /// What the monotonic clock said then.
    read_ns: u64,
    drift_ppm: i32,
    /// Of the wall clock, from the start.
    own_offset_us: i64,
    /// How far it has jumped.
    wall_offset_us: i64,
    slow_factor: u32,
    /// Delays of a slow node that were too short to be slept.
    saved_up_us: u64,
    /// Calls and timers that took longer.
    slowed: u64,
    /// Timers that were set while the clock drifted.
    drifted: u64,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock {
            bent_at_ns: 0,
            read_ns: 0,
            drift_ppm: 0,
            own_offset_us: 0,
            wall_offset_us: 0,
            slow_factor: 1,
            saved_up_us: 0,
            slowed: 0,
            drifted: 0,
        }
    }
}

impl Clock {
    fn rate(&self) -> i128 {
        MILLION + i128::from(self.drift_ppm)
    }

    fn monotonic_ns(&self, now_ns: u64) -> u64 {
        let passed_ns = i128::from(now_ns.saturating_sub(self.bent_at_ns));
        self.read_ns + u64::try_from(passed_ns * self.rate() / MILLION).unwrap_or(u64::MAX / 2)
    }

    /// True time that passes until the clock has gone on by `own_ns`.
    fn true_ns(&self, own_ns: u64) -> u64 {
        if self.drift_ppm == 0 {
            return own_ns;
        }
        // One more than the quotient: rounding never makes a timer early.
        u64::try_from(i128::from(own_ns) * MILLION / self.rate() + 1).unwrap_or(u64::MAX)
    }

    fn bend(&mut self, drift_ppm: i32, now_ns: u64) {
        self.read_ns = self.monotonic_ns(now_ns);
        (self.bent_at_ns, self.drift_ppm) = (now_ns, drift_ppm);
    }
}

impl Clocks {
    /// From now on the clocks of `node` run fast (above zero) or slow by so many parts per million.
    ///
    /// # Panics
    /// If that is more than [`DRIFT_PPM_MAX`].
    pub fn drift(&self, node: NodeId, ppm: i32) {
        assert!(ppm.abs() <= DRIFT_PPM_MAX, "a drift of {ppm} ppm is no clock's");
        let now_ns = Env::current().now_ns();
        self.nodes().entry(node).or_default().bend(ppm, now_ns);
    }

    /// The wall clock of `node` is off by so many microseconds, and stays so.
    pub fn set_off(&self, node: NodeId, us: i64) {
        self.nodes().entry(node).or_default().own_offset_us = us;
    }

    /// The wall clock of `node` jumps by so many microseconds.
    pub fn jump(&self, node: NodeId, us: i64) {
        let mut nodes = self.nodes();
        let offset_us = &mut nodes.entry(node).or_default().wall_offset_us;
        *offset_us = offset_us.saturating_add(us);
    }

    /// Timers and calls of `node` take `factor` times as long; 1 is the usual pace.
    pub fn slow_down(&self, node: NodeId, factor: u32) {
        self.nodes().entry(node).or_default().slow_factor = factor.max(1);
    }

    /// Undoes what was done to clocks since they were set, and sets every node to its usual pace.
    pub fn heal(&self) {
        let now_ns = Env::current().now_ns();
        for clock in self.nodes().values_mut() {
            clock.bend(0, now_ns);
            (clock.wall_offset_us, clock.slow_factor, clock.saved_up_us) = (0, 1, 0);
        }
    }

    /// What the monotonic clock of `node` says when `now_ns` have passed in truth.
    pub fn monotonic_ns(&self, node: NodeId, now_ns: u64) -> u64 {
        self.clock(node).monotonic_ns(now_ns)
    }

    /// How far the wall clock of `node` is from the true one when `now_ns` have passed in truth, in microseconds.
    pub fn wall_error_us(&self, node: NodeId, now_ns: u64) -> i64 {
        let clock = self.clock(node);
        let drifted_ns = i128::from(clock.monotonic_ns(now_ns)) - i128::from(now_ns);
        let drifted_us = i64::try_from(drifted_ns / 1000).unwrap_or(0);
        clock.own_offset_us.saturating_add(clock.wall_offset_us).saturating_add(drifted_us)
    }

    /// How much longer than `us` a call of `node` takes, in microseconds.
    pub(crate) fn drag_us(&self, node: NodeId, us: u64) -> u64 {
        let mut nodes = self.nodes();
        let Some(clock) = nodes.get_mut(&node).filter(|clock| clock.slow_factor > 1) else { return 0 };
        clock.slowed += 1;
        clock.saved_up_us += us.max(SHORTEST_CALL_US) * u64::from(clock.slow_factor - 1);
        if clock.saved_up_us < SHORTEST_SLEEP_US { 0 } else { std::mem::take(&mut clock.saved_up_us) }
    }

    /// How many calls and timers of `node` took longer so far.
    pub fn slowed(&self, node: NodeId) -> u64 {
        self.clock(node).slowed
    }

    /// How many timers of `node` were set while its clock drifted, so far.
    pub fn drifted(&self, node: NodeId) -> u64 {
        self.clock(node).drifted
    }

    /// The clock of `node`, by which a task of it goes now.
    fn used(&self, node: NodeId) -> Clock {
        let mut nodes = self.nodes();
        let Some(clock) = nodes.get_mut(&node) else { return Clock::default() };
        clock.drifted += u64::from(clock.drift_ppm != 0);
        clock.slowed += u64::from(clock.slow_factor > 1);
        *clock
    }

    /// True if calls of `node` take longer than usual.
    pub(crate) fn is_slow(&self, node: NodeId) -> bool {
        self.clock(node).slow_factor > 1
    }

    fn clock(&self, node: NodeId) -> Clock {
        self.nodes().get(&node).copied().unwrap_or_default()
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Clock>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The monotonic clock of this task's node.
pub(crate) fn monotonic_us() -> u64 {
    let env = Env::current();
    env.clocks.monotonic_ns(Env::node(), env.now_ns()) / 1000
}

/// The wall clock of this task's node, since 1970. A clock that would stand before that stands at it.
pub(crate) fn unix_time() -> Duration {
    let env = Env::current();
    let wall = madsim::time::TimeHandle::current().now_time();
    let truth = wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let error_us = env.clocks.wall_error_us(Env::node(), env.now_ns());
    let error = Duration::from_micros(error_us.unsigned_abs());
    if error_us < 0 { truth.saturating_sub(error) } else { truth + error }
}

/// Sleeps for `duration` by the clock of this task's node.
pub(crate) async fn sleep(duration: Duration) {
    let (env, node) = (Env::current(), Env::node());
    let own_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
    let clock = env.clocks.used(node);
    let due_ns = clock.monotonic_ns(env.now_ns()).saturating_add(own_ns);
    let mut wait_ns = clock.true_ns(own_ns);
    loop {
        madsim::time::sleep(Duration::from_nanos(wait_ns)).await;
        // The clock may have begun to run slower meanwhile.
        let clock = env.clocks.clock(node);
        let left_ns = due_ns.saturating_sub(clock.monotonic_ns(env.now_ns()));
        if left_ns == 0 {
            break;
        }
        wait_ns = clock.true_ns(left_ns);
    }
    be_late(&env, node, duration).await;
}

/// The timer of a slow node fires late, but not after the node has its usual pace again.
async fn be_late(env: &Env, node: NodeId, duration: Duration) {
    let mut late = duration * (env.clocks.clock(node).slow_factor - 1).min(1000);
    while !late.is_zero() && env.clocks.is_slow(node) {
        let slice = late.min(LATE_SLICE);
        madsim::time::sleep(slice).await;
        late -= slice;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_bends_and_never_goes_back() {
        let mut clock = Clock::default();
        let mut last = 0;
        for (i, ppm) in [0, 100_000, -500_000, 500_000, -1, 0].into_iter().enumerate() {
            let now_ns = (i as u64 + 1) * 1_000_000_007;
            clock.bend(ppm, now_ns);
            for step_ns in [0, 1, 3, 999, 1_000_000_006] {
                let read_ns = clock.monotonic_ns(now_ns + step_ns);
                assert!(read_ns >= last, "{ppm} ppm: {read_ns} after {last}");
                last = read_ns;
            }
        }
    }

    #[test]
    fn a_timer_is_never_early_by_its_own_clock() {
        for ppm in [-500_000, -99_999, -1, 0, 1, 7, 333_333, 500_000] {
            let clock = Clock { drift_ppm: ppm, bent_at_ns: 13, read_ns: 29, ..Clock::default() };
            for own_ns in [1, 999, 1_000_000, 123_456_789_012] {
                for now_ns in [13, 14, 1_000_003] {
                    let due_ns = clock.monotonic_ns(now_ns) + own_ns;
                    let fires_ns = now_ns + clock.true_ns(own_ns);
                    assert!(clock.monotonic_ns(fires_ns) >= due_ns, "{ppm} ppm, {own_ns} ns");
                    assert!(clock.monotonic_ns(fires_ns) <= due_ns + 3, "{ppm} ppm, {own_ns} ns");
                }
            }
        }
    }
}
