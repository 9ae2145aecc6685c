//! What the system owes: a digest of everything that clients were promised.
//!
//! A crash image is worth checking again when more is owed than at the last time it was seen: a write that was lost before
//! it was acknowledged is no loss, the same image a moment later is one. So a census tells moments apart by this digest.
//! Whoever knows of promises says so: a history of each answer, an oracle whenever what it would demand changes.
//!
//! It is kept only in a run that asks for it ([`Owed::keep`]); a change of it is no event, and costs nothing elsewhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What is owed in a run.
#[derive(Debug, Default)]
pub struct Owed {
    digests: Mutex<Option<BTreeMap<&'static str, u64>>>,
}

impl Owed {
    /// From now on it is kept.
    pub fn keep(&self) {
        self.digests().get_or_insert_default();
    }

    /// All that `who` knows to be owed now has this digest.
    pub fn is(&self, who: &'static str, digest: impl FnOnce() -> u64) {
        // The digest may take long: it is not asked for under the lock.
        if self.digests().is_some() {
            let digest = digest();
            self.digests().as_mut().and_then(|digests| digests.insert(who, digest));
        }
    }

    /// `what` is owed beside all that `who` said before.
    pub fn more(&self, who: &'static str, what: &[u8]) {
        if let Some(digests) = &mut *self.digests() {
            let digest = digests.entry(who).or_default();
            *digest = xxh3_64_with_seed(what, *digest);
        }
    }

    /// A digest of all that is owed.
    pub fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        for (who, digest) in self.digests().iter().flatten() {
            bytes.extend_from_slice(&xxh3_64(who.as_bytes()).to_le_bytes());
            bytes.extend_from_slice(&digest.to_le_bytes());
        }
        xxh3_64(&bytes)
    }

    fn digests(&self) -> MutexGuard<'_, Option<BTreeMap<&'static str, u64>>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
