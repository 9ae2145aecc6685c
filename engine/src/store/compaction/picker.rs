//! What to compact next: leveled, as RocksDB's default without dynamic level sizes. Pure.
//!
//! The level that exceeds its target the most goes first. Level 0 goes as a whole (its tables overlap); from a deeper level
//! one table goes, the next after where the last compaction of that level stopped. Inputs are then widened to a clean cut:
//! no user key has entries both inside and outside of the inputs on the same level, or a newer entry could sink below an
//! older one.
//!
//! If no level is too full, tables whose values keep blob files that are mostly garbage are written anew where they are (7.8.3
//! `VersionStorageInfo::ComputeFilesMarkedForForcedBlobGC`).

use std::sync::Arc;

use crate::store::key::InternalKey;
use crate::store::options::FamilyOptions;
use crate::store::version::{BlobFile, FileMeta, Version};

/// A compaction that should be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// Where the upper inputs are.
    pub(crate) level: usize,
    /// Tables of that level.
    pub(crate) upper: Vec<Arc<FileMeta>>,
    /// Tables of the next level, where the outputs go, unless these stay on their level.
    pub(crate) lower: Vec<Arc<FileMeta>>,
    /// Where the outputs go.
    pub(crate) output_level: usize,
    /// Tables below the outputs.
    pub(crate) deeper: Vec<Arc<FileMeta>>,
}

impl Compaction {
    fn new(version: &Version, level: usize, mut upper: Vec<Arc<FileMeta>>) -> Compaction {
        let mut lower: Vec<Arc<FileMeta>> = Vec::new();
        loop {
            let (upper_count, lower_count) = (upper.len(), lower.len());
            if level > 0 {
                upper = touching(&version.levels[level], &upper);
            }
            let all: Vec<_> = upper.iter().chain(&lower).cloned().collect();
            lower = touching(&version.levels[level + 1], &all);
            if (upper.len(), lower.len()) == (upper_count, lower_count) {
                break;
            }
        }
        let deeper = version.levels[level + 2..].iter().flatten().cloned().collect();
        Compaction { level, upper, lower, output_level: level + 1, deeper }
    }

    /// One that leaves its tables on their level, which is not 0.
    fn in_place(version: &Version, level: usize, mut upper: Vec<Arc<FileMeta>>) -> Compaction {
        loop {
            let wider = touching(&version.levels[level], &upper);
            if wider.len() == upper.len() {
                break;
            }
            upper = wider;
        }
        let deeper = version.levels[level + 1..].iter().flatten().cloned().collect();
        Compaction { level, upper, lower: Vec::new(), output_level: level, deeper }
    }

    /// What the inputs take. Bytes.
    pub(crate) fn input_bytes(&self) -> u64 {
        self.upper.iter().chain(&self.lower).map(|file| file.len_bytes).sum()
    }

    /// True if the only input can go down as it is.
    pub(crate) fn is_trivial_move(&self) -> bool {
        self.upper.len() == 1 && self.lower.is_empty() && self.output_level != self.level
    }

    /// Where the next compaction of the level should go on.
    pub(crate) fn cursor(&self) -> Option<InternalKey> {
        self.upper.iter().map(|f| &f.largest).max().cloned()
    }
}

/// The tables of a level that share the range of user keys of `inputs`.
fn touching(level: &[Arc<FileMeta>], inputs: &[Arc<FileMeta>]) -> Vec<Arc<FileMeta>> {
    let smallest = inputs.iter().map(|f| &f.smallest.user_key).min();
    // Where a range tombstone ends at a key of another table, the two share no key: as an internal key it comes first.
    let last = inputs.iter().max_by_key(|f| &f.largest);
    let Some((smallest, last)) = smallest.zip(last) else { return Vec::new() };
    let touches = |f: &&Arc<FileMeta>| !last.ends_before(&f.smallest.user_key) && !f.ends_before(smallest);
    level.iter().filter(touches).cloned().collect()
}

/// The most urgent compaction, if any is due.
pub(crate) fn pick(
    version: &Version,
    options: &FamilyOptions,
    cursors: &[Option<InternalKey>],
) -> Option<Compaction> {
    let fullness_permille = |level: usize| match level {
        0 => version.levels[0].len() as u64 * 1000 / options.level0_compaction_trigger as u64,
        _ => {
            let bytes = u128::from(version.level_bytes(level)) * 1000;
            u64::try_from(bytes / u128::from(options.level_target_bytes(level))).unwrap_or(u64::MAX)
        }
    };
    // Of equal ones the upper: max_by_key takes the last.
    let levels = (0..version.levels.len() - 1).rev().map(|level| (fullness_permille(level), level));
    let (fullness, level) = levels.max_by_key(|(fullness, _)| *fullness)?;
    let is_due = if level == 0 { fullness >= 1000 } else { fullness > 1000 };
    if !is_due {
        return pick_for_blobs(version, options);
    }
    if level == 0 {
        return whole_level(version, 0);
    }
    let files = &version.levels[level];
    let after = |cursor: &InternalKey| files.iter().find(|f| f.largest > *cursor);
    let file = cursors[level].as_ref().and_then(after).or(files.first())?;
    Some(Compaction::new(version, level, vec![file.clone()]))
}

/// What empties the oldest blob files, if enough of them is garbage: those that are kept by the tables which keep the oldest one.
fn pick_for_blobs(version: &Version, options: &FamilyOptions) -> Option<Compaction> {
    let (age_percent, force_percent) = (options.blob_gc_age_percent, options.blob_gc_force_percent);
    let oldest: Vec<&Arc<BlobFile>> = version.blobs.iter().collect();
    // Only values of these are written anew.
    let count = oldest.len() * usize::from(age_percent) / 100;
    if force_percent == 100 || count == 0 {
        return None;
    }
    let links_to = |blob: u64| version.files().filter(move |(_, file)| file.oldest_blob_file_number == blob);
    let is_linked = |file: &Arc<BlobFile>| links_to(file.added.number).next().is_some();
    let end = oldest.iter().skip(1).position(|file| is_linked(file)).map_or(oldest.len(), |next| next + 1);
    if end > count {
        return None;
    }
    let sum =
        |bytes: fn(&BlobFile) -> u64| oldest[..end].iter().map(|file| u128::from(bytes(file))).sum::<u128>();
    let (total_bytes, garbage_bytes) = (sum(|file| file.added.total_bytes), sum(|file| file.garbage_bytes));
    if garbage_bytes * 100 < total_bytes * u128::from(force_percent) {
        return None;
    }
    let (level, table) = links_to(oldest[0].added.number).next()?;
    match level {
        0 => whole_level(version, 0),
        _ => Some(Compaction::in_place(version, level, vec![table.clone()])),
    }
}

/// All of a level, if there is anything in it.
pub(crate) fn whole_level(version: &Version, level: usize) -> Option<Compaction> {
    let files = &version.levels[level];
    (!files.is_empty()).then(|| Compaction::new(version, level, files.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::Tag;
    use crate::store::version::{BlobAddition, BlobGarbage, VersionEdit};

    fn file(number: u64, from: &str, to: &str, tags: (u64, u64)) -> Arc<FileMeta> {
        let key = |k: &str, tag| InternalKey { user_key: k.as_bytes().to_vec().into(), tag: Tag(tag) };
        let (smallest, largest) = (key(from, tags.0), key(to, tags.1));
        Arc::new(FileMeta { number, len_bytes: 1000, smallest, largest, ..FileMeta::default() })
    }

    fn version(levels: [&[Arc<FileMeta>]; 4]) -> Version {
        Version { levels: levels.map(|files| files.to_vec()).to_vec(), ..Version::empty(4) }
    }

    fn numbers(files: &[Arc<FileMeta>]) -> Vec<u64> {
        files.iter().map(|f| f.number).collect()
    }

    fn options() -> FamilyOptions {
        FamilyOptions {
            max_bytes_for_level_base: 2000,
            level0_compaction_trigger: 2,
            num_levels: 4,
            ..FamilyOptions::default()
        }
    }

    #[test]
    fn level_0_goes_as_a_whole_with_what_it_overlaps() {
        let tags = (9, 9);
        let level0 = [file(5, "c", "d", tags), file(6, "f", "g", tags)];
        let level1 = [file(1, "a", "b", tags), file(2, "d", "e", tags), file(3, "x", "z", tags)];
        assert_eq!(pick(&version([&level0[..1], &level1[..2], &[], &[]]), &options(), &vec![None; 4]), None);
        let picked =
            pick(&version([&level0, &level1[..2], &level1[2..], &[]]), &options(), &vec![None; 4]).unwrap();
        assert_eq!((picked.level, numbers(&picked.upper), numbers(&picked.lower)), (0, vec![5, 6], vec![2]));
        assert_eq!(numbers(&picked.deeper), [3]);
    }

    #[test]
    fn a_straddling_key_widens_the_inputs() {
        // "m" has newer entries at the end of table 2 and older ones at the beginning of 3; 7 below touches both.
        let level1 = [file(1, "a", "b", (9, 9)), file(2, "k", "m", (9, 8)), file(3, "m", "n", (7, 6))];
        let level2 = [file(6, "a", "c", (1, 1)), file(7, "n", "p", (1, 1)), file(8, "p", "q", (0, 0))];
        let cursors = vec![None, Some(level1[0].largest.clone()), None, None];
        let picked = pick(&version([&[], &level1, &level2, &[]]), &options(), &cursors).unwrap();
        assert_eq!((numbers(&picked.upper), numbers(&picked.lower)), (vec![2, 3], vec![7, 8]));
    }

    #[test]
    fn tables_that_a_range_tombstone_was_cut_between_go_apart() {
        let behind = Tag::behind_range().0;
        let level1 = [file(1, "a", "k", (9, behind)), file(2, "k", "m", (8, 8))];
        let cursors = vec![None, Some(level1[1].largest.clone()), None, None];
        let picked = pick(
            &version([&[], &level1, &[], &[]]),
            &FamilyOptions { max_bytes_for_level_base: 1000, ..options() },
            &cursors,
        )
        .unwrap();
        assert_eq!(numbers(&picked.upper), [1]);
        let level2 = [file(6, "a", "a", (1, 1)), file(7, "k", "k", (1, 1))];
        assert_eq!(numbers(&touching(&level2, &level1[..1])), [6]);
        assert_eq!(numbers(&touching(&level1, &level2[1..])), [2]);
    }

    #[test]
    fn blob_files_that_are_mostly_garbage_are_emptied() {
        let table = |number, from, to, oldest_blob_file_number| {
            let file = FileMeta::clone(&file(number, from, to, (9, 9)));
            (1, FileMeta { oldest_blob_file_number, ..file })
        };
        let blob =
            |number| BlobAddition { number, total_count: 10, total_bytes: 1000, ..BlobAddition::default() };
        let with_garbage = |bytes: [u64; 2]| {
            let garbage = |(number, bytes)| BlobGarbage { number, count: 5, bytes };
            let edit = VersionEdit {
                new_files: vec![table(1, "a", "b", 13), table(2, "c", "d", 11), table(3, "e", "f", 13)],
                blob_additions: vec![blob(11), blob(12), blob(13), blob(14)],
                blob_garbage: [11, 12].into_iter().zip(bytes).map(garbage).collect(),
                ..VersionEdit::default()
            };
            Version::empty(4).apply(&edit).unwrap()
        };
        let pick = |bytes, age_percent, force_percent| {
            let blobs = FamilyOptions {
                blob_gc_age_percent: age_percent,
                blob_gc_force_percent: force_percent,
                ..options()
            };
            pick(
                &with_garbage(bytes),
                &FamilyOptions { max_bytes_for_level_base: 1 << 20, ..blobs },
                &vec![None; 4],
            )
        };
        // 11 and 12 are kept by the same table: two of four.
        let picked = pick([700, 500], 50, 60).unwrap();
        assert_eq!((picked.level, picked.output_level, numbers(&picked.upper)), (1, 1, vec![2]));
        assert!(!picked.is_trivial_move());
        assert_eq!(pick([700, 499], 50, 60), None, "too little of the two is garbage");
        assert_eq!(pick([700, 500], 25, 60), None, "12 would not be emptied");
        assert_eq!(pick([700, 500], 50, 100), None, "it is not wanted");
    }

    #[test]
    fn the_cursor_wraps_around() {
        let level1 = [file(1, "a", "b", (9, 9)), file(2, "k", "l", (9, 8)), file(3, "m", "n", (7, 6))];
        let cursors = vec![None, Some(level1[2].largest.clone()), None, None];
        let picked = pick(&version([&[], &level1, &[], &[]]), &options(), &cursors).unwrap();
        assert_eq!(numbers(&picked.upper), [1]);
        assert!(picked.is_trivial_move());
    }
}
