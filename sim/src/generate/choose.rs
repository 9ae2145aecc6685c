//! Where the choices of a plan come from: a key, with a draw of its own for each decision, or one run of bytes for all.

use std::ops::RangeInclusive;

use arbitrary::Unstructured;
use cutwater_io::sim::{Draw, Key};

/// A source of choices. The lower end is the simplest choice.
pub(crate) trait Choose {
    /// A value in `low..=high`, each as likely.
    fn between(&mut self, low: u64, high: u64) -> u64;
    /// A value in `low..=high`, its logarithm uniform.
    fn log_between(&mut self, low: u64, high: u64) -> u64;
}

impl dyn Choose + '_ {
    /// True in `permille` of 1,000 cases; false is the simplest.
    pub(super) fn chance(&mut self, permille: u64) -> bool {
        self.between(0, 999) >= 1000 - permille
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "nothing to choose from");
        &items[self.between(0, items.len() as u64 - 1) as usize]
    }

    pub(super) fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.between(*range.start(), *range.end())
    }

    pub(super) fn log_within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        self.log_between(*range.start(), *range.end())
    }
}

impl Choose for Draw {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        Draw::between(self, low, high)
    }
    fn log_between(&mut self, low: u64, high: u64) -> u64 {
        // Shifted by one, so that 0 has a logarithm.
        (self.log_uniform(low.saturating_add(1), high.saturating_add(1)) - 1).clamp(low, high)
    }
}

impl Choose for Unstructured<'_> {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        // It fails for want of bytes only; then the simplest choice stands.
        self.int_in_range(low..=high).unwrap_or(low)
    }
    fn log_between(&mut self, low: u64, high: u64) -> u64 {
        let bits = u64::from(64 - (high - low).leading_zeros());
        let bits = self.between(0, bits) as u32;
        let reach = 1u64.checked_shl(bits).map_or(u64::MAX, |power| power - 1);
        self.between(low, low.saturating_add(reach).min(high))
    }
}

/// Where choices come from: a key, with a draw of its own for each decision, or one run of bytes for all.
pub(super) enum Source<'a, 'b> {
    Keyed(Key),
    Bytes(&'a mut Unstructured<'b>),
}

impl Source<'_, '_> {
    pub(super) fn choose<T>(
        &mut self,
        purpose: &str,
        ids: &[u64],
        decide: impl FnOnce(&mut dyn Choose) -> T,
    ) -> T {
        match self {
            Source::Keyed(key) => decide(&mut key.draw(purpose, ids)),
            Source::Bytes(bytes) => decide(*bytes),
        }
    }
}
