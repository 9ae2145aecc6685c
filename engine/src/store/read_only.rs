//! A store that is looked at and left as it is: no byte of its directory is written, and its lock is not taken.
//!
//! It is recovered as [`Store::open`](super::Store::open) does it, but what the logs hold stays in memory. All families are
//! open. Of a store that somebody else has open it shows a moment between now and then: what is written later is not seen, and a
//! read fails if a file has been removed meanwhile.

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
use super::options::{FamilyOptions, MAX_LEVELS, Options};
use super::read::View;
use super::recovery::{check_files, logs_to_replay, next_number};
use super::replay::Replay;
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
    last_sequence: u64,
}

impl ReadOnlyStore {
    /// Opens the store in `dir`. Blocks of tables may take `block_cache_bytes` in memory, and what the logs hold whatever it takes.
    ///
    /// # Errors
    /// [`Error::NotFound`], I/O, damage, or a feature of RocksDB that is not supported.
    pub async fn open(dir: impl AsRef<Path>, block_cache_bytes: u64) -> Result<ReadOnlyStore, Error> {
        let Found { site, on_disk, recovered } = Found::read(dir.as_ref(), block_cache_bytes).await?;
        let files = Files::new(site.dir.path(), block_cache_bytes);
        check_files(&site, &recovered, &files).await?;
        let next_number = next_number(site.dir.path(), &on_disk, &recovered)?;
        let Replayed { last_sequence, set, memtables } =
            replay(&site, &on_disk, recovered.set, next_number, &mut 0).await?;
        Ok(ReadOnlyStore { site, files, set, memtables, last_sequence })
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

    /// Reads every byte that the store in `dir` answers for, and says everything that is wrong, not only what comes first.
    ///
    /// # Errors
    /// What leaves nothing to check: no store, or a MANIFEST that cannot be read.
    pub async fn check(dir: impl AsRef<Path>) -> Result<Checked, Error> {
        let Found { site, on_disk, recovered } = Found::read(dir.as_ref(), 0).await?;
        let files = Files::new(site.dir.path(), 0);
        let mut checked = Checked {
            families: recovered.set.families().count(),
            tables: recovered.set.files().count(),
            blob_files: recovered.set.blobs().count(),
            ..Checked::default()
        };
        let mut errors = Vec::new();
        let verified = verify::verify_each(&files, &recovered.set, |error| {
            errors.push(error);
            Ok(())
        });
        checked.verified = verified.await?;
        let replayed = match next_number(site.dir.path(), &on_disk, &recovered) {
            Ok(next_number) => {
                replay(&site, &on_disk, recovered.set, next_number, &mut checked.logs).await.map(drop)
            }
            Err(error) => Err(error),
        };
        errors.extend(replayed.err());
        checked.errors = errors;
        Ok(checked)
    }

    fn view(&self, family: &str) -> Result<View, Error> {
        let id = self.set.named(family);
        let open = id.and_then(|id| Some((id, self.set.family(id)?)));
        let (id, family) = open.ok_or_else(|| Error::NoSuchFamily { name: family.to_owned() })?;
        let memtables = self.memtables.get(&id).cloned().into_iter().collect();
        let version = family.version.clone();
        Ok(View { sequence: self.last_sequence, memtables, version, merge_operator: None })
    }
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
    /// Logs that were read.
    pub logs: usize,
    /// What is no damage; of a damaged store it may say too much.
    pub verified: Verified,
    /// Everything that is wrong, tables first, then blob files, then the first that is wrong with the logs.
    pub errors: Vec<Error>,
}

/// What a directory says of itself, before any table or log is read.
struct Found {
    site: Site,
    on_disk: Vec<FileKind>,
    recovered: Recovered,
}

impl Found {
    async fn read(dir: &Path, block_cache_bytes: u64) -> Result<Found, Error> {
        if !fs::try_exists(FileKind::Current.path(dir)).await.during("stat", dir)? {
            return Err(Error::NotFound { dir: dir.to_owned() });
        }
        let recovered = manifest::recover(dir, |_| MAX_LEVELS).await?;
        let names = fs::read_dir(dir).await.during("read", dir)?;
        let on_disk = names.iter().filter_map(|entry| FileKind::parse(&entry.name)).collect();
        let source = recovered.source.as_ref().expect("there is a CURRENT");
        let identity = recorded_identity(dir, source).await?.unwrap_or_default();
        let options = Options { block_cache_bytes, ..Options::default() };
        let site = Site { dir: Directory::new(dir), options, identity };
        Ok(Found { site, on_disk, recovered })
    }
}

struct Replayed {
    last_sequence: u64,
    set: VersionSet,
    memtables: BTreeMap<u32, Arc<Memtable>>,
}

/// Reads the logs, and counts them.
async fn replay(
    site: &Site,
    on_disk: &[FileKind],
    set: VersionSet,
    next_number: u64,
    logs: &mut usize,
) -> Result<Replayed, Error> {
    let families = set.families().map(|(id, _)| (id, FamilyOptions::default())).collect();
    let mut replay = Replay::new(site, &families, set, next_number).in_memory();
    for number in logs_to_replay(on_disk, &replay.set) {
        *logs += 1;
        replay.log(number).await?;
    }
    let last_sequence = replay.last_sequence.unwrap_or(0).max(replay.set.last_sequence());
    let (set, memtables) = replay.into_memory()?;
    Ok(Replayed { last_sequence, set, memtables })
}
