//! Where an ingested table goes, and as what. Pure.

use std::sync::Arc;

use crate::store::key::{InternalKey, Tag};
use crate::store::version::{FileMeta, Version};

/// The deepest level on which neither a table of its own nor one of those above has a key that the table may have. Whatever lies over it
/// would count as newer there, and all that is there is older. Level 0 is free to all.
pub(crate) fn level_for(version: &Version, file: &FileMeta) -> usize {
    let is_free = |level: &Vec<Arc<FileMeta>>| !level.iter().any(|other| overlap(file, other));
    let free = version.levels.iter().take_while(|level| is_free(level)).count();
    free.saturating_sub(1)
}

fn overlap(a: &FileMeta, b: &FileMeta) -> bool {
    !a.ends_before(&b.smallest.user_key) && !b.ends_before(&a.smallest.user_key)
}

/// The table with all its entries as of one sequence number. Where it ends at a range tombstone it does so as before.
pub(crate) fn as_of(file: FileMeta, sequence: u64) -> FileMeta {
    let with_sequence = |key: InternalKey| match key.tag == Tag::behind_range() {
        true => key,
        false => InternalKey { tag: Tag(sequence << 8 | u64::from(key.tag.kind_byte())), ..key },
    };
    FileMeta {
        smallest: with_sequence(file.smallest),
        largest: with_sequence(file.largest),
        smallest_sequence: sequence,
        largest_sequence: sequence,
        ..file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::ValueKind;
    use crate::store::version::VersionEdit;

    fn file(number: u64, from: &str, to: &str) -> FileMeta {
        let key = |k: &str| InternalKey { user_key: k.as_bytes().to_vec().into(), tag: Tag(9) };
        FileMeta { number, len_bytes: 10, smallest: key(from), largest: key(to), ..FileMeta::default() }
    }

    fn version(files: &[(u32, FileMeta)]) -> Version {
        let edit = VersionEdit { new_files: files.to_vec(), ..VersionEdit::default() };
        Version::empty(4).apply(&edit).unwrap()
    }

    #[test]
    fn it_lies_under_nothing_that_it_overlaps_and_on_nothing() {
        let version = version(&[(0, file(1, "x", "z")), (1, file(2, "g", "k")), (2, file(3, "a", "c"))]);
        let level = |from, to| level_for(&version, &file(9, from, to));
        assert_eq!(level("d", "f"), 3, "the deepest of all is free");
        assert_eq!(level("c", "f"), 1, "not on the level of a table with a key of its own");
        assert_eq!(level("k", "l"), 0, "nor under one");
        assert_eq!((level("l", "x"), level("y", "y")), (0, 0));
        assert_eq!((level("d", "g"), level("l", "w")), (0, 3));
    }

    #[test]
    fn the_end_of_a_range_is_not_in_it() {
        let key = |tag| InternalKey { user_key: "g".into(), tag };
        let until = FileMeta { largest: key(Tag::behind_range()), ..file(9, "d", "") };
        let version = version(&[(1, file(2, "g", "k"))]);
        assert_eq!(level_for(&version, &until), 3);
        assert_eq!(as_of(until, 7).largest, key(Tag::behind_range()));
    }

    #[test]
    fn all_of_it_is_of_one_write() {
        let kind = |kind| InternalKey { user_key: "k".into(), tag: Tag::new(0, kind) };
        let (smallest, largest) = (kind(ValueKind::RangeDeletion), kind(ValueKind::Value));
        let placed = as_of(FileMeta { smallest, largest, ..FileMeta::default() }, 7);
        assert_eq!((placed.smallest_sequence, placed.largest_sequence), (7, 7));
        assert_eq!(placed.smallest.tag, Tag::new(7, ValueKind::RangeDeletion));
        assert_eq!(placed.largest.tag, Tag::new(7, ValueKind::Value));
    }
}
