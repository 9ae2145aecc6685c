//! Snapshots: moments that reads can ask for, and that compactions must not forget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::read::View;
use super::shared::{WakeOnDrop, lock};

/// The sequence numbers that somebody may still read at, with how many hold each.
#[derive(Debug, Default)]
pub(crate) struct SnapshotList(Mutex<BTreeMap<u64, usize>>);

impl SnapshotList {
    /// Must be called under the lock of the store's state, so that no compaction looks in between.
    pub(crate) fn take(self: &Arc<Self>, sequence: u64) -> Snapshot {
        *lock(&self.0).entry(sequence).or_default() += 1;
        Snapshot { sequence, list: self.clone(), kept: None }
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
    kept: Option<Kept>,
}

/// What some families had when a snapshot was taken: those whose filters were at work then.
#[derive(Debug)]
struct Kept {
    views: BTreeMap<u32, View>,
    /// Behind the views: their files may go then.
    _wake: WakeOnDrop,
}

impl Snapshot {
    /// One that reads these families as they are now.
    pub(crate) fn keeping(mut self, views: BTreeMap<u32, View>, wake: WakeOnDrop) -> Snapshot {
        self.kept = Some(Kept { views, _wake: wake });
        self
    }

    /// What it reads of the family, if that is not what there is now.
    pub(crate) fn view(&self, family: u32) -> Option<&View> {
        self.kept.as_ref()?.views.get(&family)
    }

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
