//! Timers of event time: when a key wants to be called.
//!
//! A timer is (time, key, namespace) and exists once, however often it is set. It lies in the store by key group, so that it
//! is part of every snapshot and moves with its key when the job is rescaled:
//! `key group (u16) ‖ 0xFFFF ‖ time (i64, order-preserving, big endian) ‖ length of the key (u32) ‖ key ‖ namespace`.
//! All of them are in memory as well, in the order in which they are due (Flink's heap timers over its RocksDB state), which
//! is what bounds their number.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::StateId;

/// Under which timers lie; no name has this id.
pub const TIMERS: StateId = StateId(u16::MAX);

/// See the module. Ordered by time; timers of the same time by key and namespace, so that their order is always the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// When, in milliseconds of event time: it fires when the watermark reaches it.
    pub time_ms: i64,
    /// Whose it is.
    pub key: Bytes,
    /// What it is for, if its key has several purposes: a window, for instance.
    pub namespace: Bytes,
}

/// The timers of a subtask, in the order in which they are due. Pure.
#[derive(Debug, Default)]
pub(super) struct TimerQueue(BTreeSet<Timer>);

impl TimerQueue {
    /// True if it is new.
    pub(super) fn insert(&mut self, timer: Timer) -> bool {
        self.0.insert(timer)
    }

    /// True if there was one.
    pub(super) fn remove(&mut self, timer: &Timer) -> bool {
        self.0.remove(timer)
    }

    /// Takes out the first timer that is due at `watermark_ms`.
    pub(super) fn pop_due(&mut self, watermark_ms: i64) -> Option<Timer> {
        self.0.first().is_some_and(|timer| timer.time_ms <= watermark_ms).then(|| self.0.pop_first())?
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What follows key group and state id in the store's key of a timer.
pub(super) fn encode(timer: &Timer, out: &mut Vec<u8>) {
    // The sign flipped, negative times sort before positive ones.
    out.extend_from_slice(&(timer.time_ms as u64 ^ (1 << 63)).to_be_bytes());
    let len = u32::try_from(timer.key.len()).expect("keys are far shorter");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&timer.key);
    out.extend_from_slice(&timer.namespace);
}

/// The timer of a store's key behind its key group and state id; `None` if it is none.
pub(super) fn decode(bytes: &[u8]) -> Option<Timer> {
    let (time, rest) = bytes.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (key, namespace) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    Some(Timer {
        time_ms: (u64::from_be_bytes(*time) ^ (1 << 63)) as i64,
        key: Bytes::copy_from_slice(key),
        namespace: Bytes::copy_from_slice(namespace),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timers() -> impl Strategy<Value = Timer> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..5).prop_map(Bytes::from);
        let time = prop_oneof![any::<i64>(), -3..3i64, Just(i64::MIN), Just(i64::MAX)];
        (time, bytes(), bytes()).prop_map(|(time_ms, key, namespace)| Timer { time_ms, key, namespace })
    }

    proptest! {
        #[test]
        fn a_timer_is_read_back_and_times_sort_in_the_store(a in timers(), b in timers()) {
            let encoded = |timer: &Timer| { let mut out = Vec::new(); encode(timer, &mut out); out };
            prop_assert_eq!(decode(&encoded(&a)), Some(a.clone()));
            if a.time_ms != b.time_ms {
                prop_assert_eq!(encoded(&a) < encoded(&b), a.time_ms < b.time_ms);
            }
        }

        #[test]
        fn timers_fire_once_in_order_and_not_early(all in proptest::collection::vec(timers(), 0..40), at: i64) {
            let mut queue = TimerQueue::default();
            for timer in &all {
                queue.insert(timer.clone());
            }
            let fired: Vec<Timer> = std::iter::from_fn(|| queue.pop_due(at)).collect();
            let mut expected: Vec<Timer> = all.iter().filter(|timer| timer.time_ms <= at).cloned().collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(fired, expected);
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }
}
