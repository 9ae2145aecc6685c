//! A store that is looked at and left as it is: no byte of its directory is written, and its lock is not taken.
//!
//! It is recovered as [`Store::open`](super::Store::open) does it, but what the logs hold stays in memory. All families are
//! open. Of a store that somebody else has open it shows a moment not before it was asked for: what is written later is not seen,
//! and a read fails if a file has been removed meanwhile. Files that go while it is being opened are no damage: the directory
//! is listed before the MANIFEST is read, so what the MANIFEST then needs was there or came later, and if something is missing and
//! the directory has changed, it is looked at anew.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use cutwater_io::fs;
use tokio::sync::Notify;

use super::creation::recorded_identity;
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::files::Files;
use super::iter::Iter;
use super::manifest::{self, Recovered};
use super::memtable::Memtable;
use super::operands::MergeWith;
use super::options::{FamilyOptions, MAX_LEVELS, Options};
use super::property::{Facts, TableInfo, tables_of};
use super::read::View;
use super::recovery::{check_files, check_logs, logs_to_replay, next_number};
use super::replay::{CutLog, Replay};
use super::shared::{Site, WakeOnDrop};
use super::verify::{self, Verified};
use super::version::VersionSet;

/// See the module.
#[derive(Debug)]
pub struct ReadOnlyStore {
    site: Site,
    files: Files,
    set: VersionSet,
    /// What only logs hold, by family.
    memtables: BTreeMap<u32, Arc<Memtable>>,
    merge_operators: BTreeMap<String, MergeWith>,
    last_sequence: u64,
}

/// How often a directory is looked at that changes meanwhile.
const ATTEMPTS: u32 = 5;

impl ReadOnlyStore {
    /// Opens the store in `dir`. What the logs hold may take any space in memory.
    ///
    /// # Errors
    /// [`Error::NotFound`], I/O, damage, or a feature of RocksDB that is not supported; or, if somebody else writes to the store so
    /// quickly that it was never twice the same, whatever was missing in the last of several attempts.
    pub async fn open(dir: impl AsRef<Path>, options: ReadOnlyOptions) -> Result<ReadOnlyStore, Error> {
        let dir = dir.as_ref();
        for _ in 1..ATTEMPTS {
            let before = Seen::of(dir).await?;
            match ReadOnlyStore::open_as_seen(dir, &before, options.clone()).await {
                Err(_) if Seen::of(dir).await? != before => {}
                result => return result,
            }
        }
        ReadOnlyStore::open_as_seen(dir, &Seen::of(dir).await?, options).await
    }

    async fn open_as_seen(dir: &Path, seen: &Seen, options: ReadOnlyOptions) -> Result<ReadOnlyStore, Error> {
        let ReadOnlyOptions { block_cache_bytes, merge_operators } = options;
        let (site, recovered) = recover(dir).await?;
        let files = Files::new(dir, block_cache_bytes);
        check_files(&site, &recovered, &files).await?;
        check_logs(&site, &recovered).await?;
        let next_number = next_number(dir, &seen.files, &recovered)?;
        let Replayed { last_sequence, set, memtables, .. } =
            replay(&site, &seen.files, recovered.set, next_number).await?;
        Ok(ReadOnlyStore { site, files, set, memtables, merge_operators, last_sequence })
    }

    /// Names of the families, the default one first, then in the order in which they were created.
    pub fn families(&self) -> Vec<String> {
        self.set.families().map(|(_, family)| family.name.to_string()).collect()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::NoSuchFamily`], I/O or damage.
    pub async fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.view(family)?.get(&self.files, None, key).await
    }

    /// Goes through a range in either direction.
    ///
    /// # Errors
    /// [`Error::NoSuchFamily`].
    pub fn iter(&self, family: &str, range: impl RangeBounds<Vec<u8>>) -> Result<Iter, Error> {
        // There is no compaction to wake.
        let wake = WakeOnDrop(Arc::new(Notify::new()));
        Ok(self.view(family)?.iter(&self.files, wake, range, None))
    }

    /// How many tables each level of a family has, and their length in bytes.
    ///
    /// # Errors
    /// [`Error::NoSuchFamily`].
    pub fn levels(&self, family: &str) -> Result<Vec<(usize, u64)>, Error> {
        Ok(self.view(family)?.version.level_sizes())
    }

    /// A property of a family by RocksDB's name; see [`Family::property`](super::Family::property).
    ///
    /// # Errors
    /// [`Error::NoSuchFamily`], I/O or damage.
    pub async fn property(&self, family: &str, name: &str) -> Result<Option<String>, Error> {
        let View { memtables, version, .. } = self.view(family)?;
        let facts = Facts {
            memtables,
            version,
            family: self.set.named(family).unwrap_or_default(),
            old_versions: Vec::new(),
            snapshots: Vec::new(),
            background_errors: 0,
            writes_are_stopped: false,
        };
        facts.property(&self.files, name).await
    }

    /// What is known of the tables of a family, by level.
    ///
    /// # Errors
    /// [`Error::NoSuchFamily`], I/O or damage.
    pub async fn tables(&self, family: &str) -> Result<Vec<TableInfo>, Error> {
        tables_of(&self.files, family, &self.view(family)?.version).await
    }

    /// What only logs hold, of all families, as it is in memory. Bytes.
    pub fn unflushed_bytes(&self) -> u64 {
        self.memtables.values().map(|mem| mem.size_bytes()).sum()
    }

    /// The sequence number of the last write.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The uuid of the store; empty if neither IDENTITY nor the MANIFEST have one.
    pub fn identity(&self) -> &str {
        &self.site.identity
    }

    /// As [`Store::verify`](super::Store::verify).
    ///
    /// # Errors
    /// What does not hold, or I/O.
    pub async fn verify(&self) -> Result<Verified, Error> {
        verify::verify(&self.files, &self.set).await
    }

    /// Reads every table and blob file that the store in `dir` answers for to its last byte, and its logs to where they can be
    /// read, and says everything that is wrong, not only what comes first. Somebody else may have the store open; see the module.
    ///
    /// # Errors
    /// What leaves nothing to check: no store, or a MANIFEST that cannot be read.
    pub async fn check(dir: impl AsRef<Path>) -> Result<Checked, Error> {
        let dir = dir.as_ref();
        for _ in 1..ATTEMPTS {
            let before = Seen::of(dir).await?;
            let checked = ReadOnlyStore::check_as_seen(dir, &before).await;
            let is_sound = checked.as_ref().is_ok_and(|checked| checked.errors.is_empty());
            if is_sound || Seen::of(dir).await? == before {
                return checked;
            }
        }
        ReadOnlyStore::check_as_seen(dir, &Seen::of(dir).await?).await
    }

    async fn check_as_seen(dir: &Path, seen: &Seen) -> Result<Checked, Error> {
        let (site, recovered) = recover(dir).await?;
        let files = Files::new(dir, 0);
        let mut checked = Checked {
            families: recovered.set.families().count(),
            tables: recovered.set.files().count(),
            blob_files: recovered.set.blobs().count(),
            logs: logs_to_replay(&seen.files, &recovered.set).len(),
            ..Checked::default()
        };
        let mut errors = Vec::new();
        let verified = verify::verify_each(&files, &recovered.set, |error| {
            errors.push(error);
            Ok(())
        });
        checked.verified = verified.await?;
        errors.extend(check_logs(&site, &recovered).await.err());
        let replayed = match next_number(dir, &seen.files, &recovered) {
            Ok(next_number) => replay(&site, &seen.files, recovered.set, next_number).await,
            Err(error) => Err(error),
        };
        match replayed {
            Ok(replayed) => checked.cut_logs = replayed.cut_logs,
            Err(error) => errors.push(error),
        }
        checked.errors = errors;
        Ok(checked)
    }

    fn view(&self, family: &str) -> Result<View, Error> {
        let id = self.set.named(family);
        let open = id.and_then(|id| Some((id, self.set.family(id)?)));
        let missing = || Error::NoSuchFamily { dir: self.files.dir.clone(), name: family.to_owned() };
        let (id, family) = open.ok_or_else(missing)?;
        let memtables = self.memtables.get(&id).cloned().into_iter().collect();
        let version = family.version.clone();
        let merge_operator = self.merge_operators.get(&*family.name).cloned();
        Ok(View { sequence: self.last_sequence, memtables, version, merge_operator })
    }
}

/// How a store is looked at.
#[derive(Clone, Debug, Default)]
pub struct ReadOnlyOptions {
    /// What blocks of tables may take in memory; 0 for none. Bytes.
    pub block_cache_bytes: u64,
    /// What merge operands mean, by the name of the family. Without it keys with operands cannot be read.
    pub merge_operators: BTreeMap<String, MergeWith>,
}

/// What a check of a directory has found.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many families there are.
    pub families: usize,
    /// Tables that the MANIFEST names.
    pub tables: usize,
    /// Blob files that the MANIFEST names.
    pub blob_files: usize,
    /// Logs that hold what may not be in tables.
    pub logs: usize,
    /// Logs that could not be read to their end, although nothing says that more of them was durable: a crash leaves such logs.
    pub cut_logs: Vec<CutLog>,
    /// What is no damage; of a damaged store it may say too much.
    pub verified: Verified,
    /// What is wrong: all of tables, then of blob files, then the first thing that is wrong with the logs.
    pub errors: Vec<Error>,
}

/// What is in a directory, and which MANIFEST counts.
#[derive(PartialEq, Eq)]
struct Seen {
    current: Vec<u8>,
    files: Vec<FileKind>,
}

impl Seen {
    async fn of(dir: &Path) -> Result<Seen, Error> {
        let current = FileKind::Current.path(dir);
        if !fs::try_exists(&current).await.during("stat", dir)? {
            return Err(Error::NotFound { dir: dir.to_owned() });
        }
        let current = fs::read(&current).await.during("read", &current)?;
        let names = fs::read_dir(dir).await.during("read", dir)?;
        let files = names.iter().filter_map(|entry| FileKind::parse(&entry.name)).collect();
        Ok(Seen { current, files })
    }
}

/// What the MANIFEST says.
async fn recover(dir: &Path) -> Result<(Site, Recovered), Error> {
    let recovered = manifest::recover(dir, |_| MAX_LEVELS).await?;
    let source = recovered.source.as_ref().expect("there is a CURRENT");
    let identity = recorded_identity(dir, source).await?.unwrap_or_default();
    let site = Site::new(Directory::new(dir), Options::default(), identity);
    Ok((site, recovered))
}

struct Replayed {
    last_sequence: u64,
    set: VersionSet,
    memtables: BTreeMap<u32, Arc<Memtable>>,
    cut_logs: Vec<CutLog>,
}

/// Reads the logs.
async fn replay(
    site: &Site,
    on_disk: &[FileKind],
    set: VersionSet,
    next_number: u64,
) -> Result<Replayed, Error> {
    let families = set.families().map(|(id, _)| (id, FamilyOptions::default())).collect();
    let mut replay = Replay::new(site, &families, set, next_number).in_memory();
    for number in logs_to_replay(on_disk, &replay.set) {
        replay.log(number).await?;
    }
    let last_sequence = replay.last_sequence.unwrap_or(0).max(replay.set.last_sequence());
    let cut_logs = std::mem::take(&mut replay.cut);
    let (set, memtables) = replay.into_memory()?;
    Ok(Replayed { last_sequence, set, memtables, cut_logs })
}
