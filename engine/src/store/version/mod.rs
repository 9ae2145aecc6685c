//! Which tables make up a family: a [`Version`] is immutable, and each [`VersionEdit`] applied to it gives the next one. The
//! versions of all families are a [`VersionSet`].
//!
//! All of this is pure. A version that breaks the rules of the tree is never made: levels from 1 on are disjoint and
//! ordered (by internal key: one user key may straddle two neighbours, as RocksDB allows), a file that is removed was
//! there, one that is added was not, and no sequence number goes backwards.

mod blobs;
mod codec;
mod edit;
mod set;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

pub use blobs::{BlobFile, BlobFiles};
pub use codec::{decode, encode};
pub use edit::{BlobAddition, BlobGarbage, FileMeta, VersionEdit, WalAddition};
pub use set::{DEFAULT_FAMILY, DEFAULT_FAMILY_NAME, FamilyVersion, VersionSet};

/// The tables of a family at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Level 0 newest first; the others in order of their keys.
    pub levels: Vec<Vec<Arc<FileMeta>>>,
    /// Where values lie that are not in the tables.
    pub blobs: BlobFiles,
    /// Logs with a lower number hold nothing of the family that is not in its tables.
    pub log_number: u64,
}

/// True if sequence numbers tell that a table of level 0 is newer than one of those behind it. (RocksDB's rule,
/// `VersionBuilder::CheckConsistency`: one that was ingested may lie within the writes of a memtable.)
fn is_newer(newer: &FileMeta, older: &FileMeta) -> bool {
    match older.smallest_sequence == older.largest_sequence {
        true => older.smallest_sequence == 0 || older.smallest_sequence < newer.largest_sequence,
        false => newer.smallest_sequence > older.smallest_sequence,
    }
}

impl Version {
    /// Without tables.
    pub fn empty(num_levels: usize) -> Version {
        Version { levels: vec![Vec::new(); num_levels], blobs: BlobFiles::default(), log_number: 0 }
    }

    /// The version after the edit.
    ///
    /// # Errors
    /// What rule the edit breaks.
    pub fn apply(&self, edit: &VersionEdit) -> Result<Version, String> {
        let mut next = Version { blobs: self.blobs.apply(edit)?, ..self.clone() };
        for (level, number) in &edit.deleted_files {
            let files = next.level_mut(*level)?;
            let at = files.iter().position(|f| f.number == *number);
            let at =
                at.ok_or_else(|| format!("table {number} is removed from level {level}, where it is not"))?;
            files.remove(at);
        }
        for (level, file) in &edit.new_files {
            if next.files().any(|(_, f)| f.number == file.number) {
                return Err(format!("table {} is added twice", file.number));
            }
            next.level_mut(*level)?.push(Arc::new(file.clone()));
        }
        // What is in the tables stays there: a lower number must not replay it.
        next.log_number = next.log_number.max(edit.log_number.unwrap_or(0));
        next.sort();
        next.blobs.keep_needed(next.levels.iter().flatten().map(|file| &**file));
        Ok(next)
    }

    fn level_mut(&mut self, level: u32) -> Result<&mut Vec<Arc<FileMeta>>, String> {
        let count = self.levels.len();
        self.levels
            .get_mut(level as usize)
            .ok_or_else(|| format!("level {level}, but the family has {count} levels"))
    }

    fn sort(&mut self) {
        let (level0, deeper) = self.levels.split_first_mut().expect("there is a level 0");
        level0.sort_by_key(|f| Reverse((f.largest_sequence, f.smallest_sequence, f.number)));
        for level in deeper {
            level.sort_by(|a, b| a.smallest.cmp(&b.smallest));
        }
    }

    /// Checks the rules of the tree.
    ///
    /// # Errors
    /// What rule is broken, and by which tables.
    pub fn check(&self) -> Result<(), String> {
        self.blobs.check(self.files().map(|(_, file)| &**file))?;
        let mut seen = BTreeSet::new();
        for (level, file) in self.files() {
            if !seen.insert(file.number) {
                return Err(format!("table {} is there twice", file.number));
            }
            if file.smallest > file.largest || file.smallest_sequence > file.largest_sequence {
                return Err(format!("table {} at level {level} ends before it begins", file.number));
            }
        }
        let newest_first = self.levels.first().map_or(&[][..], |level0| level0);
        if let Some([newer, older]) = newest_first.array_windows().find(|[a, b]| !is_newer(a, b)) {
            return Err(format!(
                "table {} of level 0 is neither newer nor older than table {}",
                newer.number, older.number
            ));
        }
        for (level, files) in self.levels.iter().enumerate().skip(1) {
            if let Some(pair) = files.windows(2).find(|pair| pair[0].largest >= pair[1].smallest) {
                return Err(format!(
                    "tables {} and {} of level {level} overlap",
                    pair[0].number, pair[1].number
                ));
            }
        }
        Ok(())
    }

    /// All tables with their levels.
    pub fn files(&self) -> impl Iterator<Item = (usize, &Arc<FileMeta>)> {
        self.levels.iter().enumerate().flat_map(|(level, files)| files.iter().map(move |f| (level, f)))
    }

    /// True if the table is part of it.
    pub fn contains(&self, number: u64) -> bool {
        self.files().any(|(_, f)| f.number == number)
    }

    /// Length of the tables of a level. Bytes.
    pub fn level_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|f| f.len_bytes).sum()
    }

    /// How many tables each level has, and their length in bytes.
    pub fn level_sizes(&self) -> Vec<(usize, u64)> {
        self.levels.iter().enumerate().map(|(level, files)| (files.len(), self.level_bytes(level))).collect()
    }

    /// The edit that makes this version from an empty one.
    pub fn snapshot(&self) -> VersionEdit {
        let mut edit = VersionEdit {
            log_number: Some(self.log_number),
            prev_log_number: Some(0),
            new_files: self.files().map(|(level, f)| (level as u32, FileMeta::clone(f))).collect(),
            ..VersionEdit::default()
        };
        self.blobs.snapshot(&mut edit);
        edit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{InternalKey, Tag, ValueKind};

    fn file(number: u64, from: &str, to: &str, sequence: u64) -> FileMeta {
        let key = |k: &str, s| InternalKey {
            user_key: k.as_bytes().to_vec().into(),
            tag: Tag::new(s, ValueKind::Value),
        };
        FileMeta {
            number,
            len_bytes: 10,
            smallest: key(from, sequence),
            largest: key(to, sequence),
            smallest_sequence: sequence,
            largest_sequence: sequence,
            ..FileMeta::default()
        }
    }

    fn add(level: u32, files: &[FileMeta]) -> VersionEdit {
        let new_files = files.iter().map(|f| (level, f.clone())).collect();
        VersionEdit { new_files, ..VersionEdit::default() }
    }

    #[test]
    fn overlap_below_level_0_is_refused() {
        let version = Version::empty(7);
        let overlapping = [file(1, "a", "m", 1), file(2, "l", "z", 2)];
        assert!(version.apply(&add(0, &overlapping)).unwrap().check().is_ok());
        let broken = version.apply(&add(1, &overlapping)).unwrap().check().unwrap_err();
        assert_eq!(broken, "tables 1 and 2 of level 1 overlap");
        // One user key may straddle two tables, the newer entries in the first.
        let straddling = [file(1, "a", "m", 9), file(2, "m", "z", 2)];
        assert!(version.apply(&add(1, &straddling)).unwrap().check().is_ok());
    }

    #[test]
    fn edits_that_contradict_the_version_are_refused() {
        let version = Version::empty(3).apply(&add(0, &[file(1, "a", "b", 1)])).unwrap();
        assert!(version.apply(&add(1, &[file(1, "a", "b", 1)])).unwrap_err().contains("added twice"));
        let gone = VersionEdit { deleted_files: vec![(1, 1)], ..VersionEdit::default() };
        assert!(version.apply(&gone).unwrap_err().contains("where it is not"));
        assert!(version.apply(&add(3, &[file(2, "a", "b", 1)])).unwrap_err().contains("level 3"));
    }

    #[test]
    fn level_0_is_newest_first_and_a_snapshot_gives_the_version_back() {
        let version =
            Version::empty(3).apply(&add(0, &[file(1, "a", "b", 1), file(2, "a", "b", 5)])).unwrap();
        assert_eq!(version.levels[0].iter().map(|f| f.number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(Version::empty(3).apply(&version.snapshot()).unwrap(), version);
    }
}
