//! Small tables share an object: which go together, and when that has become wasteful.
//!
//! With a small memtable a checkpoint makes many small tables, and an object store is paid, and waited for, by the request. The
//! new tables of one snapshot of one task that are small are therefore written one after the other into one object, and each is a
//! [`Segment`](crate::checkpoint::snapshot::Segment) of it (Flink's FLIP-306, within one checkpoint).
//!
//! Nothing else has to know. To the registry, the sweeper and whoever counts bytes there are only objects: each lives as long as a
//! checkpoint that is retained or under way uses any segment of it. The price is that the dead segments of an object stay as
//! long as a live one does. It is bounded: a snapshot that would reference less than half of an object's bytes references
//! nothing of it, but uploads the live segments again, and the old object dies with the checkpoints before. So the objects of a
//! checkpoint are never more than twice as long as its state.
//!
//! Left out: objects that several snapshots or several tasks write to (FLIP-306 has both). An object here is written once, by
//! one put, like every other.

use std::collections::BTreeMap;

use cutwater_io::sometimes;

use super::increment::Files;
use super::points;

/// An object takes no more files when it would get longer than so many times what makes a file small. That bounds how much is in
/// memory at once, and how much waits for one live segment.
const OBJECT_FACTOR: u64 = 16;

/// Of an object that is referenced, at least one byte in so many is live.
pub const LIVE_ONE_IN: u64 = 2;

/// Which files share an object, in order: those below `below_bytes`, as many as the bound on an object allows.
pub fn pack<T>(
    files: impl IntoIterator<Item = T>,
    len_bytes: impl Fn(&T) -> u64,
    below_bytes: u64,
) -> Vec<Vec<T>> {
    let max_bytes = below_bytes.saturating_mul(OBJECT_FACTOR);
    let (mut groups, mut sum_bytes): (Vec<Vec<T>>, u64) = (Vec::new(), 0);
    for file in files {
        let len = len_bytes(&file);
        sum_bytes = sum_bytes.saturating_add(len);
        match groups.last_mut() {
            Some(group) if sum_bytes <= max_bytes => group.push(file),
            _ => {
                groups.push(vec![file]);
                sum_bytes = len;
            }
        }
    }
    groups
}

/// Takes out of a base what lies in objects of which the base uses too little.
pub fn give_up_wasteful(base: &mut Files) {
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for file in base.values() {
        let used = used.entry(&file.handle.path).or_default();
        *used = used.saturating_add(file.used_bytes());
    }
    let wasteful: Vec<String> = base
        .iter()
        .filter(|(_, file)| is_wasteful(used[file.handle.path.as_str()], file.handle.len_bytes))
        .map(|(name, _)| name.clone())
        .collect();
    sometimes!(points::WASTEFUL, !wasteful.is_empty());
    for name in wasteful {
        base.remove(&name);
    }
}

/// True if so little of an object is used that its live segments are better uploaded again.
pub fn is_wasteful(used_bytes: u64, object_len_bytes: u64) -> bool {
    used_bytes < object_len_bytes.div_ceil(LIVE_ONE_IN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::snapshot::{CheckpointId, FileHandle, Segment, StoreFile};
    use crate::state::increment::Increments;
    use proptest::prelude::*;

    /// Files by number and length, as an upload makes objects of them.
    fn upload(files: &[(u64, u64)], below_bytes: u64, object: &mut u64) -> Vec<StoreFile> {
        let mut made = Vec::new();
        for group in pack(files.iter().copied(), |(_, len)| *len, below_bytes) {
            *object += 1;
            let sum = group.iter().map(|(_, len)| len).sum();
            let handle = FileHandle { path: format!("o{object}"), len_bytes: sum, crc32c: 0 };
            let mut offset_bytes = 0;
            for (number, len_bytes) in group {
                let segment = Some(Segment { offset_bytes, len_bytes, crc32c: 0 });
                made.push(StoreFile { name: format!("{number}"), handle: handle.clone(), segment });
                offset_bytes += len_bytes;
            }
        }
        made
    }

    #[test]
    fn an_object_is_given_up_when_less_than_half_of_it_is_live() {
        let files = upload(&[(1, 4), (2, 3), (3, 3)], 5, &mut 0);
        let base = |names: &[&str]| {
            let mut base: Files = files
                .iter()
                .filter(|file| names.contains(&file.name.as_str()))
                .map(|file| (file.name.clone(), file.clone()))
                .collect();
            give_up_wasteful(&mut base);
            base.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(base(&["1", "2", "3"]), ["1", "2", "3"]);
        assert_eq!(base(&["2", "3"]), ["2", "3"]);
        assert_eq!(base(&["1"]), [""; 0], "4 of 10");
        assert!(!is_wasteful(5, 10) && is_wasteful(5, 11) && !is_wasteful(0, 0));
        assert!(!is_wasteful(u64::MAX, u64::MAX));
    }

    #[test]
    fn a_file_that_has_its_object_to_itself_is_never_given_up() {
        let file = StoreFile::whole("1", FileHandle { path: "o".into(), len_bytes: 10, crc32c: 0 });
        let mut base = Files::from([("1".into(), file)]);
        give_up_wasteful(&mut base);
        assert_eq!(base.len(), 1);
    }

    proptest! {
        #[test]
        fn packing_keeps_order_and_the_bound(lens in proptest::collection::vec(1u64..100, 0..60), below in 100u64..200) {
            let groups = pack(lens.clone(), |len| *len, below);
            prop_assert_eq!(groups.concat(), lens);
            for group in &groups {
                prop_assert!(group.iter().sum::<u64>() <= below * OBJECT_FACTOR);
            }
            // None could have been shorter by one group at its place.
            for two in groups.windows(2) {
                prop_assert!(two[0].iter().sum::<u64>() + two[1][0] > below * OBJECT_FACTOR);
            }
        }

        /// Files come and go; each checkpoint is confirmed, or aborted, or confirmed after the next has begun.
        #[test]
        fn a_checkpoint_is_never_more_than_twice_its_state(
            rounds in proptest::collection::vec((proptest::collection::vec(1u64..50, 0..8), any::<u64>(), 0u8..3), 1..25),
        ) {
            let (below_bytes, mut object, mut number) = (50, 0, 0);
            let mut live: BTreeMap<u64, u64> = BTreeMap::new();
            let mut increments = Increments::new(&[]);
            let mut late = None;
            for (id, (new, dies, fate)) in (1u64..).zip(rounds) {
                live.retain(|number, _| (dies >> (number % 64)) & 1 == 0);
                for len in new {
                    number += 1;
                    live.insert(number, len);
                }
                let base = increments.begin(CheckpointId(id), live.keys().map(u64::to_string));
                if let Some(late) = late.take() {
                    increments.complete(late);
                }
                let missing = live.iter().filter(|(number, _)| !base.contains_key(&number.to_string()));
                let missing: Vec<(u64, u64)> = missing.map(|(number, len)| (*number, *len)).collect();
                let shared: Vec<StoreFile> =
                    base.into_values().chain(upload(&missing, below_bytes, &mut object)).collect();
                increments.uploaded(CheckpointId(id), &shared);
                let objects: BTreeMap<&str, u64> =
                    shared.iter().map(|file| (file.handle.path.as_str(), file.handle.len_bytes)).collect();
                let state: u64 = live.values().sum();
                prop_assert_eq!(shared.len(), live.len());
                prop_assert!(objects.values().sum::<u64>() <= LIVE_ONE_IN * state);
                match fate {
                    0 => drop(increments.complete(CheckpointId(id))),
                    1 => increments.abort(CheckpointId(id)),
                    _ => late = Some(CheckpointId(id)),
                }
            }
        }
    }
}
