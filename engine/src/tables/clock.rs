//! The hybrid logical clock of a node. (Kulkarni et al., "Logical Physical Clocks", 2014, with the two parts in one number.)
//!
//! It shows the wall clock, but is above every time it has shown and every time it has heard of. Every message carries the sender's time, so an
//! effect is later than its cause, however wrong the clocks of machines are. Nothing but a restore to a point in time goes by it.
//!
//! A clock that hears of a time is as far ahead as that from then on, and so is everybody it talks to. So a time that is further ahead than
//! clocks can be wrong is refused: one broken message must not carry the cluster into another century.

use super::ids::HybridTime;

/// How far ahead of the own wall clock a time may be that is heard of: a day.
pub const MAX_AHEAD_US: u64 = 86_400_000_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct HybridClock {
    last: HybridTime,
}

/// Somebody's clock is too far ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time of {heard_us} us, and the wall clock shows {wall_us} us: more than a day ahead")]
pub struct TooFarAhead {
    /// The time heard of.
    pub heard_us: u64,
    /// The own wall clock.
    pub wall_us: u64,
}

impl HybridClock {
    /// The time now: above all times before. `wall_us` is what the wall clock shows, in microseconds since 1970.
    pub fn now(&mut self, wall_us: u64) -> HybridTime {
        self.last = HybridTime(wall_us.max(self.last.0 + 1));
        self.last
    }

    /// The last time that it showed or heard of.
    pub fn last(&self) -> HybridTime {
        self.last
    }

    /// Takes in a time that somebody told.
    ///
    /// # Errors
    /// If it is too far ahead: the clock stays as it is, and what came with the time is not to be believed.
    pub fn heard(&mut self, time: HybridTime, wall_us: u64) -> Result<(), TooFarAhead> {
        if time.0 > wall_us.max(self.last.0).saturating_add(MAX_AHEAD_US) {
            return Err(TooFarAhead { heard_us: time.0, wall_us });
        }
        self.last = self.last.max(time);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_broken_time_is_refused() {
        let mut clock = HybridClock::default();
        let shown = clock.now(1_000);
        assert!(clock.heard(HybridTime(u64::MAX), 1_000).is_err());
        assert_eq!(clock.last(), shown);
        assert_eq!(clock.heard(HybridTime(shown.0 + MAX_AHEAD_US), 0), Ok(()));
    }

    proptest! {
        /// Three nodes with any wall clocks send each other messages in any order.
        #[test]
        fn an_effect_is_later_than_its_cause(
            steps in proptest::collection::vec((0usize..3, 0usize..3, 0u64..2_000_000), 1..100),
        ) {
            let mut clocks = [HybridClock::default(); 3];
            let mut last_of = [HybridTime(0); 3];
            for (from, to, wall_us) in steps {
                let sent = clocks[from].now(wall_us);
                prop_assert!(sent > last_of[from]);
                last_of[from] = sent;
                clocks[to].heard(sent, wall_us / 2).unwrap();
                let then = clocks[to].now(wall_us / 3);
                prop_assert!(then > sent && then > last_of[to]);
                last_of[to] = then;
            }
        }
    }
}
