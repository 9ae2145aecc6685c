//! Keyed draws: randomness as a function of what is decided, not of how many decisions came before.
//!
//! `key.draw("disk.latency", &[node, nth])` is the same whatever else happened in the run, so that taking one event out
//! of a plan leaves every other decision as it was. That is what lets a failing plan shrink.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The root of a tree of draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// A stream of random values that belongs to one decision.
#[derive(Clone, Debug)]
pub struct Draw(ChaCha8Rng);

impl Key {
    /// The root key of a plan.
    pub fn root(seed: u64) -> Key {
        Key([0; 32]).child("root", &[seed])
    }

    /// The key of everything about `purpose` and the entities `ids`.
    pub fn child(&self, purpose: &str, ids: &[u64]) -> Key {
        let mut message = Vec::with_capacity(40 + purpose.len() + ids.len() * 8);
        message.extend_from_slice(&self.0);
        message.extend_from_slice(&(purpose.len() as u64).to_le_bytes());
        message.extend_from_slice(purpose.as_bytes());
        for id in ids {
            message.extend_from_slice(&id.to_le_bytes());
        }
        let mut key = [0; 32];
        key[..16].copy_from_slice(&xxh3_128_with_seed(&message, 0).to_le_bytes());
        key[16..].copy_from_slice(&xxh3_128_with_seed(&message, 1).to_le_bytes());
        Key(key)
    }

    /// A number for one decision, where a whole [`Draw`] would be too much: for choices about each of many things.
    pub fn hash(&self, purpose: &str, ids: &[u64]) -> u64 {
        let child = self.child(purpose, ids).0;
        u64::from_le_bytes(*child.first_chunk().expect("a key is longer"))
    }

    /// True in `permille` of 1,000 cases.
    pub fn chance(&self, purpose: &str, ids: &[u64], permille: u64) -> bool {
        self.hash(purpose, ids) % 1000 < permille
    }

    /// The draw for one decision.
    pub fn draw(&self, purpose: &str, ids: &[u64]) -> Draw {
        Draw(ChaCha8Rng::from_seed(self.child(purpose, ids).0))
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
