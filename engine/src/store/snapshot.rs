//! Snapshots: moments that reads can ask for, and that compactions must not forget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::shared::lock;

/// The sequence numbers that somebody may still read at, with how many hold each.
#[derive(Debug, Default)]
pub(crate) struct SnapshotList(Mutex<BTreeMap<u64, usize>>);

impl SnapshotList {
    /// Must be called under the lock of the store's state, so that no compaction looks in between.
    pub(crate) fn take(self: &Arc<Self>, sequence: u64) -> Snapshot {
        *lock(&self.0).entry(sequence).or_default() += 1;
        Snapshot { sequence, list: self.clone() }
    }

    /// All, ascending.
    pub(crate) fn sequences(&self) -> Vec<u64> {
        lock(&self.0).keys().copied().collect()
    }
}

/// The store as it was at one moment. Dropping it lets compactions forget.
#[derive(Debug)]
pub struct Snapshot {
    sequence: u64,
    list: Arc<SnapshotList>,
}

impl Snapshot {
    /// The last write it sees.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut list = lock(&self.list.0);
        let count = list.get_mut(&self.sequence).expect("a snapshot is in the list until it is dropped");
        *count -= 1;
        if *count == 0 {
            list.remove(&self.sequence);
        }
    }
}
