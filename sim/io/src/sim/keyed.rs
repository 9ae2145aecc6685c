//! Keyed draws: randomness as a function of what is decided, not of how many decisions came before.
//!
//! `key.draw("disk.latency", &[node, nth])` is the same whatever else happened in the run, so that taking one event out
//! of a plan leaves every other decision as it was. That is what lets a failing plan shrink.
//!
//! To ask when a failure was decided, a run can be repeated with everything from some moment on drawn anew: from then on the
//! draws of the devices ([`Key::of_devices`]) have another root. The draws of a scenario keep theirs, for what it once drew
//! (the content of a value) it may draw again to compare.

use std::cell::Cell;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_128_with_seed;

thread_local! {
    /// What the draws of the devices of this thread's run are mixed with; 0 for nothing.
    static VARIANT: Cell<u64> = const { Cell::new(0) };
}

/// From now on the devices of this thread's run draw as `variant` says; 0 is the plan's own way.
pub(super) fn redraw(variant: u64) {
    VARIANT.set(variant);
}

/// The root of a tree of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; 32],
    of_devices: bool,
}

/// A stream of random values that belongs to one decision.
#[derive(Clone, Debug)]
pub struct Draw(ChaCha8Rng);

impl Key {
    /// The root key of a plan.
    pub fn root(seed: u64) -> Key {
        Key { bytes: [0; 32], of_devices: false }.child("root", &[seed])
    }

    /// The same key, whose draws can be drawn anew from some moment on.
    pub fn of_devices(self) -> Key {
        Key { of_devices: true, ..self }
    }

    /// The key of everything about `purpose` and the entities `ids`.
    pub fn child(&self, purpose: &str, ids: &[u64]) -> Key {
        let variant = if self.of_devices { VARIANT.get() } else { 0 };
        let variant = (variant != 0).then_some(variant);
        let len = 40 + purpose.len() + (ids.len() + usize::from(variant.is_some())) * 8;
        let (mut short, mut long) = ([0; 128], Vec::new());
        let message = if len <= short.len() {
            &mut short[..len]
        } else {
            long.resize(len, 0);
            &mut long[..]
        };
        let mut rest = &mut *message;
        let mut add = |part: &[u8]| {
            let (place, after) = std::mem::take(&mut rest).split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        };
        add(&self.bytes);
        add(&(purpose.len() as u64).to_le_bytes());
        add(purpose.as_bytes());
        ids.iter().chain(&variant).for_each(|id| add(&id.to_le_bytes()));
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&xxh3_128_with_seed(message, 0).to_le_bytes());
        bytes[16..].copy_from_slice(&xxh3_128_with_seed(message, 1).to_le_bytes());
        Key { bytes, of_devices: self.of_devices }
    }

    /// A number for one decision, where a whole [`Draw`] would be too much: for choices about each of many things.
    pub fn hash(&self, purpose: &str, ids: &[u64]) -> u64 {
        let child = self.child(purpose, ids).bytes;
        u64::from_le_bytes(*child.first_chunk().expect("a key is longer"))
    }

    /// True in `permille` of 1,000 cases.
    pub fn chance(&self, purpose: &str, ids: &[u64], permille: u64) -> bool {
        self.hash(purpose, ids) % 1000 < permille
    }

    /// The draw for one decision.
    pub fn draw(&self, purpose: &str, ids: &[u64]) -> Draw {
        Draw(ChaCha8Rng::from_seed(self.child(purpose, ids).bytes))
    }
}

impl Draw {
    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A value in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no element");
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A value in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no element");
        low + self.below((high - low).saturating_add(1))
    }

    /// A value in `low..=high` whose logarithm is uniform. `low` must not be 0.
    pub fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let (a, b) = ((low as f64).ln(), (high as f64).ln());
        ((a + (b - a) * self.unit()).exp().round() as u64).clamp(low, high)
    }

    /// A value in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `permille` of 1,000 cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A log-normal value with this median (in whatever unit) and shape.
    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        median * (sigma * normal).exp()
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_draw_anew() {
        let (scenario, devices) = (Key::root(7), Key::root(7).of_devices());
        let first = |key: Key| key.child("disk", &[1]).draw("latency", &[2]).u64();
        let before = first(scenario);
        assert_eq!(first(devices), before, "the mark alone changes nothing");
        redraw(3);
        assert_eq!(first(scenario), before);
        let anew = first(devices);
        assert_ne!(anew, before);
        redraw(4);
        assert_ne!(first(devices), anew);
        redraw(0);
        assert_eq!(first(devices), before);
    }
}
