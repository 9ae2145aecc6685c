//! What to compact next if the tree is to be written seldom: size-tiered, as RocksDB's universal style. Pure.
//!
//! A table of level 0 is a sorted run, and so is all of a deeper level. The runs follow each other from the newest to the oldest,
//! and a compaction merges some that are next to each other into one, so newer data always lies above older. It is picked by the
//! rules of 7.8.3 `db/compaction/compaction_picker_universal.cc`, in their order, once there are as many runs as
//! `level0_compaction_trigger` says:
//!
//! 1. *Size amplification*: all runs but the oldest are together larger than a share of it. All are merged.
//! 2. *Size ratio*: runs from one on, each not larger than those before it together and a share on top.
//! 3. *Count*: there are more runs than the trigger; as many of the newest as are too many, and one more.
//!
//! The output goes right above the next older run, which may be level 0 still, or to the deepest level if there is none.
//!
//! *Not here*: incremental and periodic compactions, the other stop style, compression by position.

use std::sync::Arc;

use super::picked::{Compaction, Run};
use crate::store::options::{FamilyOptions, Universal};
use crate::store::version::{FileMeta, Version};

/// All runs, the newest first.
fn runs_of(version: &Version) -> Vec<Run> {
    let levels = version.levels.iter().enumerate();
    levels.flat_map(|(level, files)| Run::of(level, files.clone())).collect()
}

fn size_bytes(run: &Run) -> u128 {
    run.tables.iter().map(|table| u128::from(table.len_bytes)).sum()
}

/// The most urgent compaction, if any is due.
pub(crate) fn pick(version: &Version, options: &FamilyOptions, universal: &Universal) -> Option<Compaction> {
    let runs = runs_of(version);
    let trigger = options.level0_compaction_trigger;
    if runs.len() < trigger {
        return None;
    }
    let sizes: Vec<u128> = runs.iter().map(size_bytes).collect();
    let too_many = || (runs.len() > trigger).then(|| runs.len() - trigger + 1);
    let (from, to) = amplified(&sizes, universal.max_size_amplification_percent)
        .or_else(|| similar(&sizes, universal, Some(universal.size_ratio_percent), usize::MAX))
        .or_else(|| too_many().and_then(|count| similar(&sizes, universal, None, count)))?;
    Some(merged(version, &runs, from, to))
}

/// All runs into the deepest level, if there is more than that.
pub(crate) fn pick_all(version: &Version) -> Option<Compaction> {
    let runs = runs_of(version);
    let is_done = runs.iter().all(|run| run.level + 1 == version.levels.len());
    (!is_done).then(|| merged(version, &runs, 0, runs.len()))
}

/// All, if what is not in the oldest run is too large for it.
fn amplified(sizes: &[u128], max_percent: u32) -> Option<(usize, usize)> {
    let (oldest, newer) = sizes.split_last()?;
    let is_too_large = newer.iter().sum::<u128>() * 100 >= oldest * u128::from(max_percent);
    (!newer.is_empty() && is_too_large).then_some((0, sizes.len()))
}

/// The first runs that follow each other and are of a size; of any size without a ratio. At most `count` of them.
fn similar(
    sizes: &[u128],
    universal: &Universal,
    ratio_percent: Option<u32>,
    count: usize,
) -> Option<(usize, usize)> {
    let most = count.min(universal.max_merge_width);
    (0..sizes.len()).find_map(|from| {
        let (mut to, mut size) = (from + 1, sizes[from]);
        while to < sizes.len() && to - from < most {
            let is_much_larger = |ratio: u32| size * (100 + u128::from(ratio)) < sizes[to] * 100;
            if ratio_percent.is_some_and(is_much_larger) {
                break;
            }
            size += sizes[to];
            to += 1;
        }
        (to - from >= universal.min_merge_width.max(2)).then_some((from, to))
    })
}

/// The compaction of the runs `from..to`.
fn merged(version: &Version, runs: &[Run], from: usize, to: usize) -> Compaction {
    let older = &runs[to..];
    let output_level = match older.first() {
        None => version.levels.len() - 1,
        Some(next) => next.level.saturating_sub(1),
    };
    let deeper: Vec<Arc<FileMeta>> = older.iter().flat_map(|run| run.tables.iter().cloned()).collect();
    Compaction { inputs: runs[from..to].to_vec(), output_level, deeper }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::key::{InternalKey, Tag, ValueKind};
    use crate::store::options::CompactionStyle;
    use crate::store::version::VersionEdit;

    const LEVELS: usize = 5;

    /// A table of this size with the writes of `sequences`, both included.
    fn table(number: u64, len_bytes: u64, sequences: (u64, u64)) -> FileMeta {
        let key =
            |k: &'static [u8], s| InternalKey { user_key: k.into(), tag: Tag::new(s, ValueKind::Value) };
        let (smallest, largest) = (key(b"a", sequences.1), key(b"z", sequences.0));
        let (smallest_sequence, largest_sequence) = sequences;
        FileMeta {
            number,
            len_bytes,
            smallest,
            largest,
            smallest_sequence,
            largest_sequence,
            ..FileMeta::default()
        }
    }

    /// Runs by their level and size, the newest first.
    fn version(runs: &[(usize, u64)]) -> Version {
        let oldest_first = runs.iter().rev().zip(1..);
        let new_files = oldest_first
            .map(|((level, size), i)| (*level as u32, table(i, *size, (i * 10, i * 10 + 9))))
            .collect();
        Version::empty(LEVELS).apply(&VersionEdit { new_files, ..VersionEdit::default() }).unwrap()
    }

    fn options() -> (FamilyOptions, Universal) {
        let universal = Universal { size_ratio_percent: 10, ..Universal::default() };
        let compaction_style = CompactionStyle::Universal(universal);
        let family = FamilyOptions {
            level0_compaction_trigger: 3,
            num_levels: LEVELS,
            compaction_style,
            ..FamilyOptions::default()
        };
        (family, universal)
    }

    /// Which runs are merged, and where they go.
    fn picked(runs: &[(usize, u64)], change: fn(&mut Universal)) -> Option<(Vec<u64>, usize)> {
        let (family, mut universal) = options();
        change(&mut universal);
        let compaction = pick(&version(runs), &family, &universal)?;
        let ages = compaction.files().map(|(_, file)| runs.len() as u64 - file.number).collect();
        Some((ages, compaction.output_level))
    }

    #[test]
    fn nothing_is_due_below_the_trigger() {
        assert_eq!(picked(&[(0, 10), (0, 10)], |_| {}), None);
        assert_eq!(picked(&[(0, 1), (0, 100), (4, 10_000)], |_| {}), None, "nor with runs of many sizes");
    }

    #[test]
    fn what_is_too_large_for_the_oldest_run_is_merged_with_it() {
        let runs = [(0, 150), (0, 50), (4, 100)];
        assert_eq!(picked(&runs, |_| {}), Some((vec![0, 1, 2], 4)));
        let tolerant = |universal: &mut Universal| universal.max_size_amplification_percent = 201;
        assert_eq!(picked(&runs, tolerant), Some((vec![0, 1, 2], 4)), "by the ratio");
        assert_eq!(picked(&[(0, 1), (0, 50), (4, 100)], |_| {}), None);
    }

    #[test]
    fn runs_of_a_size_are_merged_right_above_the_next() {
        assert_eq!(picked(&[(0, 10), (0, 11), (4, 1000)], |_| {}), Some((vec![0, 1], 3)));
        assert_eq!(picked(&[(0, 10), (0, 11), (0, 1000), (4, 10_000)], |_| {}), Some((vec![0, 1], 0)));
        assert_eq!(picked(&[(0, 10), (0, 10), (1, 1000)], |_| {}), Some((vec![0, 1], 0)), "that is level 0");
        assert_eq!(picked(&[(0, 1), (0, 100), (2, 100), (4, 9000)], |_| {}), Some((vec![1, 2], 3)));
        let narrow = |universal: &mut Universal| universal.max_merge_width = 2;
        assert_eq!(picked(&[(0, 10), (0, 10), (0, 10), (4, 9000)], narrow), Some((vec![0, 1], 0)));
    }

    #[test]
    fn too_many_runs_are_merged_whatever_their_size() {
        let steep = [(0, 1), (0, 100), (0, 10_000), (0, 1_000_000), (4, 100_000_000)];
        assert_eq!(picked(&steep, |_| {}), Some((vec![0, 1, 2], 0)), "five are two more than three");
        assert_eq!(picked(&steep[1..], |_| {}), Some((vec![0, 1], 0)));
        assert_eq!(picked(&steep[2..], |_| {}), None);
    }

    #[test]
    fn all_go_to_the_deepest_level() {
        let all = pick_all(&version(&[(0, 1), (0, 1), (2, 5)])).unwrap();
        assert_eq!((all.files().count(), all.output_level, all.deeper.len()), (3, LEVELS - 1, 0));
        assert_eq!(pick_all(&version(&[(LEVELS - 1, 5)])), None);
        assert_eq!(pick_all(&Version::empty(LEVELS)), None);
    }

    /// The version after the compaction, whose output is as large as its inputs.
    fn run(version: &Version, compaction: &Compaction, number: u64) -> Version {
        let files: Vec<(usize, &Arc<FileMeta>)> = compaction.files().collect();
        let size = files.iter().map(|(_, file)| file.len_bytes).sum();
        let first = files.iter().map(|(_, file)| file.smallest_sequence).min().unwrap();
        let last = files.iter().map(|(_, file)| file.largest_sequence).max().unwrap();
        let edit = VersionEdit {
            deleted_files: files.iter().map(|(level, file)| (*level as u32, file.number)).collect(),
            new_files: vec![(compaction.output_level as u32, table(number, size, (first, last)))],
            ..VersionEdit::default()
        };
        version.apply(&edit).unwrap()
    }

    proptest! {
        #[test]
        fn newer_data_stays_above_older_and_there_is_an_end(
            flushed in prop::collection::vec(1u64..5000, 1..60),
            trigger in 1usize..6,
            size_ratio_percent in 0u32..200,
            min_merge_width in 2usize..5,
            wider in 0usize..5,
            max_size_amplification_percent in 1u32..400,
        ) {
            let max_merge_width = min_merge_width + wider;
            let universal =
                Universal { size_ratio_percent, min_merge_width, max_merge_width, max_size_amplification_percent };
            let (family, _) = options();
            let stop = trigger + min_merge_width - 1;
            let family = FamilyOptions {
                level0_compaction_trigger: trigger,
                level0_stop_writes_trigger: stop.max(trigger + 1),
                compaction_style: CompactionStyle::Universal(universal),
                ..family
            };
            prop_assert!(family.validate().is_ok());
            let mut version = Version::empty(LEVELS);
            let mut number = 1;
            for (i, size) in (1u64..).zip(&flushed) {
                let new_files = vec![(0, table(number, *size, (i * 10, i * 10 + 9)))];
                version = version.apply(&VersionEdit { new_files, ..VersionEdit::default() }).unwrap();
                number += 1;
                let mut left = runs_of(&version).len();
                while let Some(compaction) = pick(&version, &family, &universal) {
                    version = run(&version, &compaction, number);
                    number += 1;
                    version.check().unwrap();
                    let runs = runs_of(&version);
                    prop_assert!(runs.len() < left, "each leaves fewer runs");
                    left = runs.len();
                    let first = |run: &Run| run.tables[0].smallest_sequence;
                    let last = |run: &Run| run.tables[0].largest_sequence;
                    prop_assert!(runs.windows(2).all(|pair| first(&pair[0]) > last(&pair[1])));
                }
                prop_assert!(version.levels[0].len() < family.level0_stop_writes_trigger, "writes go on");
            }
        }
    }
}
