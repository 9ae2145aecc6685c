//! A clockwork for devices: runs a step whenever the device has something due.
//!
//! A device keeps an agenda of what happens when; one task of the harness' own node works it off, so that things happen at
//! their time whatever becomes of the nodes they concern. Timers are exact: the millisecond floor of madsim's sleeps does
//! not apply, so that latencies of microseconds keep their order.

use std::future::Future;
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use madsim::time::{Sleep, TimeHandle};

/// How a device gets its task to look at the agenda again.
#[derive(Debug, Default)]
pub(in crate::sim) struct Alarm {
    set_for_ns: Option<u64>,
    waker: Option<Waker>,
}

impl Alarm {
    /// The step ran under `waker`; it is called again at `next_ns` unless something earlier is [announced](Self::announce).
    pub(in crate::sim) fn set(&mut self, next_ns: Option<u64>, waker: &Waker) {
        self.set_for_ns = next_ns;
        self.waker = Some(waker.clone());
    }

    /// Something is due at `due_ns`.
    pub(in crate::sim) fn announce(&mut self, due_ns: u64) {
        if self.set_for_ns.is_none_or(|set| due_ns < set)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

/// Calls `step(now_ns, waker)` at once, whenever the waker is woken, and at the time it returned last, if any. Ends when
/// `step` returns `None`: the device is gone.
pub(in crate::sim) async fn work_off(mut step: impl FnMut(u64, &Waker) -> Option<Option<u64>>) {
    let mut timer: Option<(u64, Pin<Box<Sleep>>)> = None;
    std::future::poll_fn(move |cx| {
        loop {
            let clock = TimeHandle::current();
            let now_ns = u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let next_ns = match step(now_ns, cx.waker()) {
                Some(Some(next_ns)) => next_ns,
                Some(None) => return Poll::Pending,
                None => return Poll::Ready(()),
            };
            if next_ns <= now_ns {
                continue;
            }
            // A timer that was polled stays with madsim until its time: one that already stands for this time is enough.
            if timer.as_ref().is_some_and(|(at_ns, _)| *at_ns == next_ns) {
                return Poll::Pending;
            }
            let mut sleep = Box::pin(clock.sleep(Duration::ZERO));
            sleep.as_mut().reset(clock.now_instant() + Duration::from_nanos(next_ns - now_ns));
            let polled = sleep.as_mut().poll(cx);
            timer = Some((next_ns, sleep));
            if polled.is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}
