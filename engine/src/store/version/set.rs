//! What the MANIFEST says of all families: a [`VersionSet`] is immutable, and each group of edits gives the next one, or
//! nothing at all. Pure.
//!
//! A family is added before an edit is about it, and none is after it was dropped. Its id is above that of every family
//! before it, so that what logs still hold of a dropped one is never taken for another's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::edit::{VersionEdit, WalAddition};
use super::{BlobFile, FileMeta, Version};

/// The id of the family that every store has, and its name.
pub const DEFAULT_FAMILY: u32 = 0;
/// See [`DEFAULT_FAMILY`].
pub const DEFAULT_FAMILY_NAME: &str = "default";

/// A family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyVersion {
    /// Its name.
    pub name: Arc<str>,
    /// Its tables.
    pub version: Arc<Version>,
}

/// All families at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSet {
    /// By id.
    families: BTreeMap<u32, FamilyVersion>,
    /// The highest id that a family was added with.
    last_added: u32,
    /// The highest id that is taken.
    max_family: u32,
    /// At least the highest sequence number in any table.
    last_sequence: u64,
    /// Logs with a lower number are not needed by anybody, as was written down.
    min_log_number: u64,
    /// How much of logs is known to be durable, in bytes.
    tracked_logs: BTreeMap<u64, u64>,
}

impl VersionSet {
    /// With the default family, without tables.
    pub fn new(num_levels: usize) -> VersionSet {
        let (name, version) = (DEFAULT_FAMILY_NAME.into(), Arc::new(Version::empty(num_levels)));
        VersionSet {
            families: BTreeMap::from([(DEFAULT_FAMILY, FamilyVersion { name, version })]),
            last_added: DEFAULT_FAMILY,
            max_family: DEFAULT_FAMILY,
            last_sequence: 0,
            min_log_number: 0,
            tracked_logs: BTreeMap::new(),
        }
    }

    /// The logs of which something is known to be durable, by number, and how much, in bytes. (RocksDB's `WalSet`.)
    pub fn tracked_logs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.tracked_logs.iter().map(|(number, synced_bytes)| (*number, *synced_bytes))
    }

    /// Nothing is known of any log, as of a copy that has none.
    pub(crate) fn without_logs(self) -> VersionSet {
        VersionSet { tracked_logs: BTreeMap::new(), ..self }
    }

    /// Nothing is known any more of logs that nobody needs.
    pub(crate) fn without_old_logs(self) -> VersionSet {
        let mut tracked_logs = self.tracked_logs.clone();
        let tracked_logs = tracked_logs.split_off(&self.first_log());
        VersionSet { tracked_logs, ..self }
    }

    /// All families, by id.
    pub fn families(&self) -> impl Iterator<Item = (u32, &FamilyVersion)> {
        self.families.iter().map(|(id, family)| (*id, family))
    }

    /// The family with this id.
    pub fn family(&self, id: u32) -> Option<&FamilyVersion> {
        self.families.get(&id)
    }

    /// The id of the family with this name.
    pub fn named(&self, name: &str) -> Option<u32> {
        self.families().find(|(_, family)| *family.name == *name).map(|(id, _)| id)
    }

    /// At least the highest sequence number in any table.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The id that the next family gets, if there is one left.
    pub fn next_family(&self) -> Option<u32> {
        self.max_family.checked_add(1)
    }

    /// The first log that a family may need.
    pub fn first_log(&self) -> u64 {
        let lowest = self.families.values().map(|family| family.version.log_number).min();
        self.min_log_number.max(lowest.unwrap_or(0))
    }

    /// All tables of all families, with their levels.
    pub fn files(&self) -> impl Iterator<Item = (usize, &Arc<FileMeta>)> {
        self.families.values().flat_map(|family| family.version.files())
    }

    /// All blob files of all families.
    pub fn blobs(&self) -> impl Iterator<Item = &Arc<BlobFile>> {
        self.families.values().flat_map(|family| family.version.blobs.iter())
    }

    /// The set after the edits, all of them. A family that is added gets as many levels as `levels_of` says for its name.
    ///
    /// # Errors
    /// What rule which edit breaks.
    pub fn apply(
        &self,
        edits: &[VersionEdit],
        levels_of: impl Fn(&str) -> usize,
    ) -> Result<VersionSet, String> {
        let mut next = self.clone();
        for edit in edits {
            next.apply_one(edit, &levels_of)?;
        }
        Ok(next)
    }

    fn apply_one(&mut self, edit: &VersionEdit, levels_of: impl Fn(&str) -> usize) -> Result<(), String> {
        self.track(edit)?;
        let id = edit.column_family;
        if let Some(name) = &edit.column_family_add {
            self.add(id, name, levels_of(name))?;
        }
        let family = self
            .families
            .get_mut(&id)
            .ok_or_else(|| format!("an edit of the family {id}, which is not there"))?;
        if edit.changes_tables() {
            family.version = Arc::new(family.version.apply(edit)?);
        }
        if edit.column_family_drop {
            if id == DEFAULT_FAMILY {
                return Err("the default family is dropped".to_owned());
            }
            self.families.remove(&id);
        }
        if let Some(sequence) = edit.last_sequence {
            if sequence < self.last_sequence {
                return Err(format!("last_sequence goes back from {} to {sequence}", self.last_sequence));
            }
            self.last_sequence = sequence;
        }
        self.max_family = self.max_family.max(edit.max_column_family.unwrap_or(0)).max(id);
        // The logs of before are gone: a lower number cannot bring them back.
        self.min_log_number = self.min_log_number.max(edit.min_log_number_to_keep.unwrap_or(0));
        Ok(())
    }

    fn track(&mut self, edit: &VersionEdit) -> Result<(), String> {
        for log in &edit.wal_additions {
            let Some(synced_bytes) = log.synced_bytes else { continue };
            let before = self.tracked_logs.insert(log.number, synced_bytes);
            if let Some(before) = before.filter(|before| *before > synced_bytes) {
                let number = log.number;
                return Err(format!(
                    "{before} bytes of the log {number} were durable, and now {synced_bytes} are"
                ));
            }
        }
        if let Some(first_kept) = edit.wal_deletion {
            self.tracked_logs = self.tracked_logs.split_off(&first_kept);
        }
        Ok(())
    }

    fn add(&mut self, id: u32, name: &str, num_levels: usize) -> Result<(), String> {
        if id <= self.last_added {
            return Err(format!(
                "the family {name} gets the id {id}, and one before it had {}",
                self.last_added
            ));
        }
        if self.named(name).is_some() {
            return Err(format!("the family {name} is added twice"));
        }
        let version = Arc::new(Version::empty(num_levels));
        self.families.insert(id, FamilyVersion { name: name.into(), version });
        self.last_added = id;
        Ok(())
    }

    /// Checks the rules of all trees.
    ///
    /// # Errors
    /// What rule is broken, and by which tables.
    pub fn check(&self) -> Result<(), String> {
        let mut numbers = std::collections::BTreeSet::new();
        for family in self.families.values() {
            family.version.check().map_err(|what| format!("{what}, in the family {}", family.name))?;
            for file in family.version.blobs.iter() {
                if !numbers.insert(file.added.number) {
                    return Err(format!("blob file {} is there twice", file.added.number));
                }
            }
            for (_, file) in family.version.files() {
                if !numbers.insert(file.number) {
                    return Err(format!("table {} is there twice", file.number));
                }
                if file.largest_sequence > self.last_sequence {
                    let (number, sequence) = (file.number, file.largest_sequence);
                    return Err(format!(
                        "table {number} has sequence {sequence}, beyond {}",
                        self.last_sequence
                    ));
                }
            }
        }
        Ok(())
    }

    /// The edits that make this set from a new one, as RocksDB orders them: the default family, then for each other one that
    /// it is there, and what it holds. The first also says what is true of the whole store.
    pub fn snapshot(&self, next_file_number: u64) -> Vec<VersionEdit> {
        let mut edits = Vec::new();
        for (id, family) in self.families() {
            let last_sequence = Some(self.last_sequence);
            let content = VersionEdit { column_family: id, last_sequence, ..family.version.snapshot() };
            if id == DEFAULT_FAMILY {
                edits.push(VersionEdit {
                    next_file_number: Some(next_file_number),
                    max_column_family: Some(self.max_family).filter(|max| *max > 0),
                    min_log_number_to_keep: Some(self.min_log_number).filter(|number| *number > 0),
                    ..content
                });
                edits.extend(self.tracking());
            } else {
                let column_family_add = Some(family.name.to_string());
                edits.push(VersionEdit { column_family: id, column_family_add, ..VersionEdit::default() });
                edits.push(content);
            }
        }
        edits
    }

    /// The edit that says what is known of logs, if anything is.
    fn tracking(&self) -> Option<VersionEdit> {
        let logs = self.tracked_logs();
        let wal_additions: Vec<WalAddition> =
            logs.map(|(number, bytes)| WalAddition { number, synced_bytes: Some(bytes) }).collect();
        (!wal_additions.is_empty()).then(|| VersionEdit { wal_additions, ..VersionEdit::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{InternalKey, Tag, ValueKind};
    use proptest::prelude::*;

    fn add(id: u32, name: &str) -> VersionEdit {
        let column_family_add = Some(name.to_owned());
        let max_column_family = Some(id);
        VersionEdit { column_family: id, column_family_add, max_column_family, ..VersionEdit::default() }
    }

    fn drop_family(id: u32) -> VersionEdit {
        VersionEdit { column_family: id, column_family_drop: true, ..VersionEdit::default() }
    }

    fn flush(id: u32, number: u64, sequence: u64, log_number: u64) -> VersionEdit {
        let key =
            |k: &'static str| InternalKey { user_key: k.into(), tag: Tag::new(sequence, ValueKind::Value) };
        let file = FileMeta {
            number,
            len_bytes: 10,
            smallest: key("a"),
            largest: key("b"),
            smallest_sequence: sequence,
            largest_sequence: sequence,
            ..FileMeta::default()
        };
        VersionEdit {
            column_family: id,
            log_number: Some(log_number),
            last_sequence: Some(sequence),
            new_files: vec![(0, file)],
            ..VersionEdit::default()
        }
    }

    fn apply(set: &VersionSet, edits: &[VersionEdit]) -> Result<VersionSet, String> {
        set.apply(edits, |_| 3)
    }

    #[test]
    fn an_id_is_never_used_again_and_nothing_is_said_of_a_family_that_is_not_there() {
        let set = apply(&VersionSet::new(3), &[add(1, "a"), add(2, "b"), drop_family(2)]).unwrap();
        assert_eq!((set.named("a"), set.named("b"), set.next_family()), (Some(1), None, Some(3)));
        assert!(apply(&set, &[add(2, "b")]).unwrap_err().contains("gets the id 2"));
        assert!(apply(&set, &[add(1, "c")]).unwrap_err().contains("gets the id 1"));
        assert!(apply(&set, &[add(3, "a")]).unwrap_err().contains("added twice"));
        assert!(apply(&set, &[add(3, "default")]).unwrap_err().contains("added twice"));
        assert!(apply(&set, &[flush(2, 9, 1, 5)]).unwrap_err().contains("which is not there"));
        assert!(apply(&set, &[drop_family(0)]).unwrap_err().contains("default"));
        assert_eq!(apply(&set, &[add(3, "b")]).unwrap().named("b"), Some(3));
        assert_eq!(apply(&VersionSet::new(3), &[add(u32::MAX, "z")]).unwrap().next_family(), None);
    }

    #[test]
    fn edits_hold_together_or_not_at_all() {
        let set = apply(&VersionSet::new(3), &[add(1, "a")]).unwrap();
        let next = apply(&set, &[flush(0, 7, 4, 6), flush(1, 8, 5, 6)]).unwrap();
        assert_eq!((next.files().count(), next.last_sequence()), (2, 5));
        assert!(apply(&set, &[flush(0, 7, 4, 6), flush(2, 8, 5, 6)]).is_err());
        // A number names one file, whoever has it.
        assert!(apply(&set, &[flush(0, 7, 4, 6), flush(1, 7, 5, 6)]).unwrap().check().is_err());
        assert!(apply(&next, &[flush(0, 9, 4, 7)]).unwrap_err().contains("goes back"));
    }

    #[test]
    fn a_log_is_needed_as_long_as_any_family_needs_it() {
        let set = apply(&VersionSet::new(3), &[add(1, "a"), flush(0, 7, 4, 6)]).unwrap();
        assert_eq!(set.first_log(), 0);
        let set = apply(&set, &[flush(1, 8, 5, 9)]).unwrap();
        assert_eq!(set.first_log(), 6);
        let kept = VersionEdit { min_log_number_to_keep: Some(8), ..VersionEdit::default() };
        assert_eq!(apply(&set, &[kept]).unwrap().first_log(), 8);
        assert_eq!(apply(&apply(&set, &[drop_family(1)]).unwrap(), &[]).unwrap().first_log(), 6);
    }

    fn synced(number: u64, synced_bytes: u64) -> VersionEdit {
        let log = WalAddition { number, synced_bytes: Some(synced_bytes) };
        VersionEdit { wal_additions: vec![log], ..VersionEdit::default() }
    }

    #[test]
    fn what_was_durable_of_a_log_stays_so_until_nobody_needs_it() {
        let set = apply(&VersionSet::new(3), &[synced(5, 100), synced(6, 10), synced(5, 120)]).unwrap();
        assert!(set.tracked_logs().eq([(5, 120), (6, 10)]));
        assert!(apply(&set, &[synced(5, 119)]).unwrap_err().contains("log 5"));
        let set = apply(&set, &[flush(0, 7, 4, 6)]).unwrap();
        assert_eq!(set.tracked_logs().count(), 2, "it takes an edit");
        assert!(set.clone().without_old_logs().tracked_logs().eq([(6, 10)]));
        let forget = VersionEdit { wal_deletion: Some(6), ..VersionEdit::default() };
        assert!(apply(&set, &[forget]).unwrap().tracked_logs().eq([(6, 10)]));
    }

    #[test]
    fn a_snapshot_gives_the_set_back() {
        let edits = [
            add(1, "a"),
            add(2, "b"),
            add(4, "c"),
            drop_family(2),
            flush(4, 8, 5, 9),
            flush(0, 9, 6, 9),
            synced(9, 70),
        ];
        let set = apply(&VersionSet::new(3), &edits).unwrap();
        assert_eq!(apply(&VersionSet::new(3), &set.snapshot(10)).unwrap(), set);
    }

    prop_compose! {
        /// An edit that may well be wrong.
        fn any_edit()(
            id in 0u32..4,
            name in prop::option::weighted(0.3, "[a-c]"),
            column_family_drop in prop::bool::weighted(0.1),
            file in prop::option::of((0u64..20, 0u64..20)),
            log_number in prop::option::of(0u64..9),
            max_column_family in prop::option::weighted(0.2, any::<u32>()),
        ) -> VersionEdit {
            let (number, sequence) = file.unwrap_or_default();
            let with_file = flush(id, number, sequence, log_number.unwrap_or(0));
            let edit = VersionEdit { column_family_add: name, column_family_drop, max_column_family, ..with_file };
            if file.is_some() { edit } else { VersionEdit { new_files: Vec::new(), last_sequence: None, ..edit } }
        }
    }

    proptest! {
        #[test]
        fn whatever_the_edits_say_ids_only_grow_and_a_snapshot_says_the_same(
            groups in prop::collection::vec(prop::collection::vec(any_edit(), 1..4), 0..20),
        ) {
            let mut set = VersionSet::new(3);
            for group in groups {
                let Ok(next) = apply(&set, &group) else { continue };
                let is_new = |id: &u32| set.family(*id).is_none();
                let added: Vec<u32> = next.families().map(|(id, _)| id).filter(is_new).collect();
                prop_assert!(added.iter().all(|id| *id > set.last_added), "{added:?} after {}", set.last_added);
                prop_assert!(next.family(DEFAULT_FAMILY).is_some() && next.first_log() >= set.min_log_number);
                set = next;
            }
            let again = apply(&VersionSet::new(3), &set.snapshot(100)).unwrap();
            prop_assert!(again.families().eq(set.families()));
            prop_assert_eq!(again.next_family(), set.next_family());
            prop_assert_eq!((again.first_log(), again.last_sequence()), (set.first_log(), set.last_sequence()));
        }
    }
}
