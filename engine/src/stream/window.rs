//! Windows over event time: what came between two times, by key, when the time is over.
//!
//! A record belongs to one window (tumbling), to several (sliding), or to a session that ends when nothing came for a while;
//! two sessions that a record brings together become one. A window fires once, when the watermark reaches its last
//! millisecond, and is then forgotten. Lateness is not allowed: a record whose window has fired is dropped, and counted.
//!
//! An aggregate keeps one accumulator per key and window, whatever the number of records. Accumulators of windows that may
//! not merge are a map by window; the open sessions of a key, of which there are few, are one value.
//!
//! Leaves out: allowed lateness, early firing, windows over processing time.

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Error;
use super::functions::{Collector, decode};
use super::operator::{Context, KeyedOperator};
use super::record::{NO_TIME_MS, Record};
use crate::state::{Data, MapState, Timer, ValueState};

/// From `start_ms` on, up to `end_ms` and without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// First millisecond of event time.
    pub start_ms: i64,
    /// First millisecond after it.
    pub end_ms: i64,
}

impl Window {
    /// Its last millisecond: the time of what comes out of it.
    pub fn last_ms(self) -> i64 {
        self.end_ms - 1
    }

    fn is_over(self, watermark_ms: i64) -> bool {
        self.last_ms() <= watermark_ms
    }

    fn touches(self, other: Window) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }

    /// All windows have the same length as bytes.
    pub(crate) fn namespace(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.start_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&self.end_ms.to_be_bytes());
        bytes
    }

    pub(crate) fn of_namespace(bytes: &[u8]) -> Option<Window> {
        let (start, end) = bytes.split_first_chunk::<8>()?;
        let end_ms = i64::from_be_bytes(end.try_into().ok()?);
        Some(Window { start_ms: i64::from_be_bytes(*start), end_ms })
    }
}

/// Which windows a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Windows of one length, one after the other from time 0 on.
    Tumbling {
        /// Length of each, in milliseconds.
        size_ms: i64,
    },
    /// Windows of one length that overlap.
    Sliding {
        /// Length of each, in milliseconds.
        size_ms: i64,
        /// From the start of one to that of the next, in milliseconds.
        slide_ms: i64,
    },
    /// From the first record on until none comes for a while.
    Session {
        /// For how long, in milliseconds.
        gap_ms: i64,
    },
}

impl Windows {
    /// Windows of `size_ms`, one after the other.
    pub const fn tumbling(size_ms: i64) -> Windows {
        Windows::Tumbling { size_ms }
    }

    /// Windows of `size_ms`, one every `slide_ms`.
    pub const fn sliding(size_ms: i64, slide_ms: i64) -> Windows {
        Windows::Sliding { size_ms, slide_ms }
    }

    /// Sessions that end when nothing comes for `gap_ms`.
    pub const fn session(gap_ms: i64) -> Windows {
        Windows::Session { gap_ms }
    }

    /// # Panics
    /// If a length is not positive.
    pub(crate) fn check(self, uid: &str) {
        let (size_ms, slide_ms) = match self {
            Windows::Tumbling { size_ms } => (size_ms, size_ms),
            Windows::Sliding { size_ms, slide_ms } => (size_ms, slide_ms),
            Windows::Session { gap_ms } => (gap_ms, gap_ms),
        };
        assert!(size_ms > 0 && slide_ms > 0, "{uid}: windows of {self:?}");
    }

    /// The windows of a time; of a session, what it would be without any other record.
    pub fn assign(self, time_ms: i64) -> impl Iterator<Item = Window> {
        let (size_ms, slide_ms, last_start_ms) = match self {
            Windows::Tumbling { size_ms } => (size_ms, size_ms, floor(time_ms, size_ms)),
            Windows::Sliding { size_ms, slide_ms } => (size_ms, slide_ms, floor(time_ms, slide_ms)),
            Windows::Session { gap_ms } => (gap_ms, gap_ms, time_ms),
        };
        let starts = std::iter::successors(Some(last_start_ms), move |start| start.checked_sub(slide_ms));
        starts
            .map(move |start_ms| Window { start_ms, end_ms: start_ms.saturating_add(size_ms) })
            .take_while(move |window| window.end_ms > time_ms)
    }
}

/// The greatest multiple of `step` that is not above `time_ms`.
fn floor(time_ms: i64, step: i64) -> i64 {
    time_ms.saturating_sub(time_ms.rem_euclid(step))
}

/// What comes out of a window of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windowed<K, V> {
    /// Whose it is.
    pub key: K,
    /// When.
    pub window: Window,
    /// What it comes to.
    pub value: V,
}

/// What is made of the records of a window, one after the other.
pub trait AggregateFunction<T>: Send + Sync + 'static {
    /// What is remembered in between.
    type Accumulator: Data;
    /// What comes out.
    type Out: Data;

    /// Of no record.
    fn create(&self) -> Self::Accumulator;
    /// Takes a record in.
    fn add(&self, accumulator: &mut Self::Accumulator, item: T);
    /// Of two sessions that have become one.
    fn merge(&self, a: Self::Accumulator, b: Self::Accumulator) -> Self::Accumulator;
    /// What comes out when the window is over.
    fn result(&self, accumulator: Self::Accumulator) -> Self::Out;
}

/// How many records there are.
#[derive(Clone, Copy, Debug)]
pub struct Count;

impl<T> AggregateFunction<T> for Count {
    type Accumulator = u64;
    type Out = u64;

    fn create(&self) -> u64 {
        0
    }
    fn add(&self, count: &mut u64, _: T) {
        *count += 1;
    }
    fn merge(&self, a: u64, b: u64) -> u64 {
        a + b
    }
    fn result(&self, count: u64) -> u64 {
        count
    }
}

/// The operator of aggregates over windows.
pub(crate) struct Aggregate<A: AggregateFunction<T>, K, T> {
    pub(crate) uid: String,
    pub(crate) windows: Windows,
    pub(crate) aggregate: Arc<A>,
    pub(crate) of: PhantomData<fn(K, T)>,
}

type Sessions<Acc> = Vec<(Window, Acc)>;

impl<A: AggregateFunction<T>, K: Data, T: Data> Aggregate<A, K, T> {
    const OPEN: MapState<Window, A::Accumulator> = MapState::new("windows");
    const SESSIONS: ValueState<Sessions<A::Accumulator>> = ValueState::new("sessions");

    /// The sessions of the current key, this one among them: those that it touches have become one with it.
    async fn add_to_session(&self, item: T, window: Window, context: &mut Context<'_>) -> Result<(), Error> {
        let mut open = Self::SESSIONS.get(context).await?.unwrap_or_default();
        let (mut whole, mut accumulator) = (window, self.aggregate.create());
        self.aggregate.add(&mut accumulator, item);
        // Open sessions do not touch each other: those that the new one touches are all that the whole does.
        let (touched, others): (Sessions<_>, Sessions<_>) =
            open.drain(..).partition(|(other, _)| window.touches(*other));
        for (other, _) in &touched {
            whole.start_ms = whole.start_ms.min(other.start_ms);
            whole.end_ms = whole.end_ms.max(other.end_ms);
        }
        if whole.is_over(context.watermark_ms()) {
            context.drop_late();
            return Ok(());
        }
        for (other, of_other) in touched {
            context.delete_timer(other.last_ms(), &other.namespace()).await?;
            accumulator = self.aggregate.merge(of_other, accumulator);
        }
        let mut open = others;
        open.push((whole, accumulator));
        context.set_timer(whole.last_ms(), &whole.namespace()).await?;
        Ok(Self::SESSIONS.put(context, &open).await?)
    }

    /// Takes out what a window that is over comes to.
    async fn take(&self, window: Window, context: &mut Context<'_>) -> Result<Option<A::Accumulator>, Error> {
        let Windows::Session { .. } = self.windows else {
            let accumulator = Self::OPEN.get(context, &window).await?;
            Self::OPEN.remove(context, &window).await?;
            return Ok(accumulator);
        };
        let mut open = Self::SESSIONS.get(context).await?.unwrap_or_default();
        let at = open.iter().position(|(other, _)| *other == window);
        let accumulator = at.map(|at| open.remove(at).1);
        if open.is_empty() {
            Self::SESSIONS.clear(context).await?;
        } else {
            Self::SESSIONS.put(context, &open).await?;
        }
        Ok(accumulator)
    }
}

#[async_trait]
impl<A: AggregateFunction<T>, K: Data, T: Data + Clone> KeyedOperator for Aggregate<A, K, T> {
    async fn process(
        &mut self,
        record: Record,
        context: &mut Context<'_>,
        _: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let item: T = decode(&self.uid, &record.value)?;
        timed(&self.uid, &record)?;
        if let Windows::Session { .. } = self.windows {
            let alone = self.windows.assign(record.time_ms).next().expect("a session of its own");
            return self.add_to_session(item, alone, context).await;
        }
        let mut is_late = true;
        for window in self.windows.assign(record.time_ms) {
            if window.is_over(context.watermark_ms()) {
                continue;
            }
            is_late = false;
            let known = Self::OPEN.get(context, &window).await?;
            if known.is_none() {
                context.set_timer(window.last_ms(), &window.namespace()).await?;
            }
            let mut accumulator = known.unwrap_or_else(|| self.aggregate.create());
            self.aggregate.add(&mut accumulator, item.clone());
            Self::OPEN.put(context, &window, &accumulator).await?;
        }
        if is_late {
            context.drop_late();
        }
        Ok(())
    }

    async fn on_timer(
        &mut self,
        timer: Timer,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let window = window_of(&self.uid, &timer)?;
        let Some(accumulator) = self.take(window, context).await? else { return Ok(()) };
        let value = self.aggregate.result(accumulator);
        let mut out = Collector::new(out, window.last_ms());
        let key: K = decode(&self.uid, &timer.key)?;
        out.collect(Windowed { key, window, value });
        out.finish(&self.uid)
    }
}

/// # Errors
/// If the record has no time.
pub(crate) fn timed(uid: &str, record: &Record) -> Result<(), Error> {
    if record.time_ms == NO_TIME_MS {
        return Err(Error::Record { operator: uid.into(), what: "without a time, for a window".into() });
    }
    Ok(())
}

/// The window that a timer is of.
pub(crate) fn window_of(uid: &str, timer: &Timer) -> Result<Window, Error> {
    Window::of_namespace(&timer.namespace)
        .ok_or_else(|| Error::Record { operator: uid.into(), what: "of a timer that is no window's".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_in_all_windows_of_its_own(time_ms in -10_000i64..10_000, size_ms in 1i64..50, slide_ms in 1i64..50) {
            let tumbling: Vec<Window> = Windows::tumbling(size_ms).assign(time_ms).collect();
            prop_assert_eq!(tumbling.len(), 1);
            for windows in [Windows::tumbling(size_ms), Windows::sliding(size_ms, slide_ms)] {
                let found: Vec<Window> = windows.assign(time_ms).collect();
                let slide_ms = if let Windows::Sliding { slide_ms, .. } = windows { slide_ms } else { size_ms };
                let expected: Vec<Window> = (-20_000..=20_000).rev()
                    .filter(|start: &i64| start.rem_euclid(slide_ms) == 0)
                    .map(|start_ms| Window { start_ms, end_ms: start_ms + size_ms })
                    .filter(|w| (w.start_ms..w.end_ms).contains(&time_ms)).collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn a_window_is_read_back(start_ms: i64, end_ms: i64) {
            let window = Window { start_ms, end_ms };
            prop_assert_eq!(Window::of_namespace(&window.namespace()), Some(window));
        }
    }

    #[test]
    fn the_ends_of_time_have_windows() {
        for windows in [Windows::tumbling(10), Windows::sliding(10, 3), Windows::session(10)] {
            for time_ms in [i64::MIN + 1, i64::MAX - 1] {
                assert!(windows.assign(time_ms).count() <= 4);
            }
        }
    }
}
