//! What a directory of backups consists of: which backups there are, what a new one shares with them, and what none of them
//! needs. Pure.
//!
//! A backup is listed once its meta file has its name. What a file is for that no meta file names, only whoever was interrupted
//! could tell; it is never taken for part of a new backup, and goes. A meta file that cannot be read may name any of the
//! shared files, so as long as there is one all of these stay.

use std::collections::{BTreeMap, BTreeSet};

use super::meta::{Meta, MetaFile, SharedName};
use crate::store::error::Error;

/// The ending of a file that is not complete.
pub(super) const TEMPORARY: &str = ".tmp";
/// The ending of the meta file of a backup that is to be deleted. Its files may be there or not.
pub(super) const WITHDRAWN: &str = ".deleted";

/// A meta file that was read.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) meta: Meta,
    /// As it is on the disk.
    pub(super) bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) listed: BTreeMap<u32, Listed>,
    /// Those whose meta files are damaged, or cannot be read.
    pub(super) unreadable: BTreeMap<u32, Error>,
    /// Those that are to be deleted.
    pub(super) withdrawn: BTreeSet<u32>,
    /// Meta files under a temporary name.
    pub(super) unfinished: BTreeSet<u32>,
    /// Those that have a directory of their own.
    pub(super) private: BTreeSet<u32>,
    /// Names of shared files.
    pub(super) shared: BTreeSet<String>,
}

/// What nothing needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Garbage {
    /// Meta files: withdrawn, and unfinished ones.
    pub(super) withdrawn: BTreeSet<u32>,
    pub(super) unfinished: BTreeSet<u32>,
    pub(super) private: BTreeSet<u32>,
    pub(super) shared: BTreeSet<String>,
}

/// What a name in the directory of meta files is.
pub(super) enum MetaName {
    Listed(u32),
    Withdrawn(u32),
    Unfinished(u32),
}

impl MetaName {
    pub(super) fn parse(name: &str) -> Option<MetaName> {
        if let Some(name) = name.strip_suffix(TEMPORARY) {
            return id(name).map(MetaName::Unfinished);
        }
        if let Some(name) = name.strip_suffix(WITHDRAWN) {
            return id(name).map(MetaName::Withdrawn);
        }
        id(name).map(MetaName::Listed)
    }
}

/// The number that a name is, if it is that of a backup.
pub(super) fn id(name: &str) -> Option<u32> {
    let id: u32 = name.parse().ok()?;
    (id > 0 && id.to_string() == name).then_some(id)
}

impl Catalogue {
    /// A number that no backup has or had of which anything is left; nothing if there is none left.
    pub(super) fn next_id(&self) -> Option<u32> {
        let seen = self.listed.keys().chain(self.unreadable.keys());
        let remains = self.withdrawn.iter().chain(&self.unfinished).chain(&self.private);
        seen.chain(remains).max().map_or(Some(1), |last| last.checked_add(1))
    }

    /// True if there is a meta file of this number.
    pub(super) fn is_there(&self, id: u32) -> bool {
        self.listed.contains_key(&id) || self.unreadable.contains_key(&id)
    }

    /// The files of all listed backups. One that is in it needs not be copied again.
    pub(super) fn files(&self) -> BTreeSet<&MetaFile> {
        self.listed.values().flat_map(|listed| &listed.meta.files).collect()
    }

    /// What no backup needs.
    pub(super) fn garbage(&self) -> Garbage {
        let files = self.listed.values().flat_map(|listed| &listed.meta.files);
        let needed: BTreeSet<&str> = files.filter_map(|file| file.path.rsplit('/').next()).collect();
        let is_garbage = |name: &&String| {
            let is_unneeded = SharedName::parse(name).is_some() && !needed.contains(name.as_str());
            name.ends_with(TEMPORARY) || is_unneeded && self.unreadable.is_empty()
        };
        Garbage {
            withdrawn: self.withdrawn.clone(),
            unfinished: self.unfinished.clone(),
            private: self.private.iter().copied().filter(|id| !self.is_there(*id)).collect(),
            shared: self.shared.iter().filter(is_garbage).cloned().collect(),
        }
    }

    /// The listed backups that go if only the newest `keep` stay.
    pub(super) fn surplus(&self, keep: usize) -> BTreeSet<u32> {
        let surplus = self.listed.len().saturating_sub(keep);
        self.listed.keys().copied().take(surplus).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(backups: &[(u32, &[&str])]) -> Catalogue {
        let listed = |(id, files): &(u32, &[&str])| {
            let shared = files.iter().map(|name| MetaFile::shared(name, 5, 9));
            let files = shared.chain([MetaFile::private(*id, "CURRENT", 7)]).collect();
            (*id, Listed { meta: Meta { time_s: 1, sequence: 1, files }, bytes: Vec::new() })
        };
        let listed: BTreeMap<u32, Listed> = backups.iter().map(listed).collect();
        Catalogue { private: listed.keys().copied().collect(), listed, ..Catalogue::default() }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_no_backup_names_is_garbage() {
        let mut catalogue = catalogue(&[(1, &["000001.sst", "000002.sst"]), (2, &["000002.sst"])]);
        catalogue.shared = names(&[
            "000001_5_9.sst",
            "000002_5_9.sst",
            "000002_6_9.sst",
            "000003_5_9.blob",
            "000003_5_9.blob.tmp",
            "README",
        ]);
        catalogue.private.insert(3);
        let unneeded = names(&["000002_6_9.sst", "000003_5_9.blob", "000003_5_9.blob.tmp"]);
        let garbage = Garbage { shared: unneeded, private: [3].into(), ..Garbage::default() };
        assert_eq!(catalogue.garbage(), garbage);
        catalogue.listed.remove(&1);
        assert!(catalogue.garbage().shared.contains("000001_5_9.sst"));
        assert!(!catalogue.garbage().shared.contains("000002_5_9.sst"), "the other one names it");
        catalogue.unreadable.insert(1, Error::Closed);
        let garbage =
            Garbage { shared: names(&["000003_5_9.blob.tmp"]), private: [3].into(), ..Garbage::default() };
        assert_eq!(catalogue.garbage(), garbage, "it may name any");
    }

    #[test]
    fn a_file_is_shared_only_if_it_is_the_same_and_a_number_is_never_used_again() {
        let mut catalogue = catalogue(&[(1, &["000001.sst"]), (2, &[])]);
        assert!(catalogue.files().contains(&MetaFile::shared("000001.sst", 5, 9)));
        for other in [("000001.sst", 6, 9), ("000001.sst", 5, 8), ("000001.blob", 5, 9), ("000002.sst", 5, 9)]
        {
            let other = MetaFile::shared(other.0, other.1, other.2);
            assert!(!catalogue.files().contains(&other), "{other:?}");
        }
        assert_eq!((catalogue.next_id(), Catalogue::default().next_id()), (Some(3), Some(1)));
        catalogue.unfinished.insert(7);
        assert_eq!(catalogue.next_id(), Some(8));
        catalogue.private.insert(u32::MAX);
        assert_eq!(catalogue.next_id(), None);
        assert_eq!((catalogue.surplus(1), catalogue.surplus(5)), ([1].into(), [].into()));
    }

    #[test]
    fn only_plain_numbers_are_backups() {
        assert!(matches!(MetaName::parse("12"), Some(MetaName::Listed(12))));
        assert!(matches!(MetaName::parse("12.tmp"), Some(MetaName::Unfinished(12))));
        assert!(matches!(MetaName::parse("12.deleted"), Some(MetaName::Withdrawn(12))));
        for name in ["", "0", "012", "+1", "1.bak", "x", "99999999999999999999"] {
            assert!(MetaName::parse(name).is_none(), "{name}");
        }
    }
}
