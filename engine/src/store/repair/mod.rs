//! Repair: what can be read of a directory becomes a store again, when its MANIFEST or CURRENT is lost or damaged.
//!
//! Every table and blob file that is there is read to its end, and says itself of which family it is, which keys, sequence
//! numbers and values it has. Logs become tables. From that a new MANIFEST is made, with the links to blob files and their garbage
//! counted anew (RocksDB's repair knows of no blob files, and whoever opens its result loses all of them).
//!
//! Nothing is deleted. What cannot be read, and what is not needed any more, goes to the directory `lost` in the store, and
//! [`Repaired`] says what and why. The new MANIFEST comes last: a repair that was interrupted is simply run again.
//!
//! Which tables were part of the store only the MANIFEST knew. So what a compaction had replaced and was not yet removed comes back,
//! and with it keys that had been deleted for good; and families that were dropped, as long as they have files. Where
//! tables that share keys have sequence numbers in common, a level cannot tell which is newer, and the tables of the family
//! are merged. A table with values in a blob file that cannot be read is written anew without those.
//!
//! A family of which there is no table has lost its name if only logs have it; it gets one that says so.

pub(crate) mod inspect;
mod without;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cutwater_io::fs;

use super::build::{Build, Target};
use super::creation::{create_dir_durably, identity, take_lock};
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::files::Files;
use super::manifest::{self, Manifest, Source};
use super::merge;
use super::options::{FamilyOptions, MAX_LEVELS, Options};
use super::rate::Pace;
use super::retention::Retention;
use super::shared::Site;
use super::table::Caching;
use super::tombstones::Tombstones;
use super::version::{
    BlobAddition, BlobGarbage, DEFAULT_FAMILY, DEFAULT_FAMILY_NAME, FileMeta, VersionEdit, VersionSet,
};
use inspect::{FoundBlobs, FoundTable};
use without::Without;

/// Where goes what is no part of the repaired store.
const LOST_DIR: &str = "lost";
/// What comes after must fit as well.
const MAX_NUMBER: u64 = u64::MAX / 2;

/// What a repair has made of a directory.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Names of the families.
    pub families: Vec<String>,
    /// Tables of the repaired store.
    pub tables: usize,
    /// Its blob files.
    pub blob_files: usize,
    /// Logs that became tables.
    pub logs: usize,
    /// The last write that is in it.
    pub last_sequence: u64,
    /// What could not be read, and is not in it.
    pub lost: Vec<Lost>,
}

/// Something that is not in the repaired store.
#[derive(Debug)]
pub struct Lost {
    /// The file, in the store's directory. It is in `lost` now.
    pub name: String,
    /// What is missing of it, or all of it.
    pub why: String,
}

/// Makes a store again of what can be read in `dir`. See the module.
///
/// # Errors
/// [`Error::Locked`], [`Error::NotFound`] if nothing of a store is there, or I/O. Then `dir` may be repaired again.
pub async fn repair(dir: impl AsRef<Path>) -> Result<Repaired, Error> {
    let dir = dir.as_ref();
    if !fs::try_exists(dir).await.during("stat", dir)? {
        return Err(Error::NotFound { dir: dir.to_owned() });
    }
    let _lock = take_lock(dir).await?;
    let names = fs::read_dir(dir).await.during("read", dir)?;
    let on_disk: BTreeSet<FileKind> = names.iter().filter_map(|entry| FileKind::parse(&entry.name)).collect();
    let is_data = |kind: &FileKind| matches!(kind, FileKind::Table(_) | FileKind::Blob(_) | FileKind::Wal(_));
    if !on_disk.iter().any(is_data) {
        return Err(Error::NotFound { dir: dir.to_owned() });
    }
    if let Some(kind) = on_disk.iter().find(|kind| kind.number() > Some(MAX_NUMBER)) {
        return Err(Error::corruption(&kind.path(dir), 0, "no store gives a file such a number"));
    }
    let lost_dir = dir.join(LOST_DIR);
    create_dir_durably(&lost_dir).await?;
    let site = Site::new(Directory::new(dir), Options::default(), own(dir).await?);
    let next_number = on_disk.iter().filter_map(|kind| kind.number()).max().unwrap_or(0) + 1;
    let mut repair = Repair {
        files: Files::new(dir, 0),
        site,
        next_number,
        tables: BTreeMap::new(),
        blobs: BTreeMap::new(),
        replaced: BTreeSet::new(),
        repaired: Repaired::default(),
    };
    repair.read(&on_disk).await?;
    repair.convert_logs(&on_disk).await?;
    repair.do_without_the_lost().await?;
    repair.merge_where_levels_cannot_tell().await?;
    repair.finish(&on_disk).await
}

/// The uuid of the store; one that cannot be read is made anew.
async fn own(dir: &Path) -> Result<String, Error> {
    let source = Source { path: dir.to_owned(), identity: None, is_bound: false, torn_at: None };
    match identity(dir, Some(&source)).await {
        Err(Error::Corruption { .. }) => {
            set_aside(dir, FileKind::Identity).await?;
            identity(dir, Some(&source)).await
        }
        other => other,
    }
}

/// Moves a file to `lost`, under a name that is not taken.
async fn set_aside(dir: &Path, kind: FileKind) -> Result<(), Error> {
    let (path, lost) = (kind.path(dir), dir.join(LOST_DIR));
    let mut target: PathBuf = lost.join(kind.name());
    let mut copy = 0u32;
    while fs::try_exists(&target).await.during("stat", &target)? {
        copy += 1;
        target = lost.join(format!("{}.{copy}", kind.name()));
    }
    fs::rename(&path, &target).await.during("rename", &path)
}

struct Repair {
    site: Site,
    files: Files,
    next_number: u64,
    /// By number.
    tables: BTreeMap<u64, FoundTable>,
    blobs: BTreeMap<u64, FoundBlobs>,
    /// What goes to `lost`.
    replaced: BTreeSet<FileKind>,
    repaired: Repaired,
}

impl Repair {
    fn dir(&self) -> &Path {
        self.site.dir.path()
    }

    fn lose(&mut self, kind: FileKind, why: String) {
        self.replaced.insert(kind);
        self.repaired.lost.push(Lost { name: kind.name(), why });
    }

    /// Reads tables and blob files.
    async fn read(&mut self, on_disk: &BTreeSet<FileKind>) -> Result<(), Error> {
        for kind in on_disk {
            let wrong = match *kind {
                FileKind::Table(number) => match inspect::table(self.dir(), number).await {
                    Ok(found) => {
                        self.tables.insert(number, found);
                        continue;
                    }
                    Err(error) => error,
                },
                FileKind::Blob(number) => match inspect::blobs(self.dir(), number).await {
                    Ok(found) => {
                        self.blobs.insert(number, found);
                        continue;
                    }
                    Err(error) => error,
                },
                _ => continue,
            };
            self.lose(*kind, wrong.to_string());
        }
        Ok(())
    }

    /// What logs hold becomes tables, durably but for their names.
    async fn convert_logs(&mut self, on_disk: &BTreeSet<FileKind>) -> Result<(), Error> {
        for kind in on_disk {
            let FileKind::Wal(number) = *kind else { continue };
            let found = match inspect::log(self.dir(), number).await {
                Ok(found) => found,
                Err(error) => {
                    self.lose(*kind, error.to_string());
                    continue;
                }
            };
            self.replaced.insert(*kind);
            self.repaired.logs += 1;
            for (at, what) in found.skipped {
                let why = format!("from byte {at} on, to the next whole record: {what}");
                self.repaired.lost.push(Lost { name: kind.name(), why });
            }
            for (family, memtable) in found.memtables {
                let mut retention = Retention::of_memtable(&memtable, Vec::new()).keeping_single_deletions();
                let source = merge::Source::memtable(memtable);
                self.write(family, vec![source], &mut retention, u64::MAX).await?;
            }
        }
        Ok(())
    }

    /// A table with values in blob files that are not there, or are another family's, is replaced by one without them.
    async fn do_without_the_lost(&mut self) -> Result<(), Error> {
        let missing = |found: &FoundTable| -> BTreeSet<u64> {
            let needed = found.values.keys().copied();
            needed.filter(|blob| self.blobs.get(blob).is_none_or(|of| of.family != found.family)).collect()
        };
        let concerned: Vec<(FoundTable, BTreeSet<u64>)> = self
            .tables
            .values()
            .map(|found| (found.clone(), missing(found)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        for (found, missing) in concerned {
            let number = found.meta.number;
            let Without { memtable, lost } = without::read(self.dir(), &found.meta, &missing).await?;
            let mut retention = Retention::of_memtable(&memtable, Vec::new()).keeping_single_deletions();
            let source = merge::Source::memtable(memtable);
            // While the old one can still tell the name of the family.
            self.write(found.family, vec![source], &mut retention, u64::MAX).await?;
            self.tables.remove(&number);
            for (blob, values) in lost {
                self.lose(FileKind::Table(number), values.why(blob));
            }
        }
        Ok(())
    }

    async fn merge_where_levels_cannot_tell(&mut self) -> Result<(), Error> {
        let families: BTreeSet<u32> = self.tables.values().map(|found| found.family).collect();
        for family in families {
            let of_family = self.tables.values().filter(|found| found.family == family);
            let metas: Vec<Arc<FileMeta>> = of_family.map(|found| found.meta.clone()).collect();
            if levels_can_tell(&metas) {
                continue;
            }
            let source = |meta: &Arc<FileMeta>| {
                merge::Source::chain(&self.files.tables, vec![meta.clone()], Caching::Pass)
            };
            let sources = metas.iter().map(source).collect();
            let mut tombstones = Tombstones::default();
            for meta in &metas {
                tombstones.extend(self.files.tables.open(meta).await?.tombstones());
            }
            let mut retention = Retention::new(Vec::new(), None).under(tombstones).keeping_single_deletions();
            self.write(family, sources, &mut retention, FamilyOptions::default().target_file_bytes).await?;
            for meta in metas {
                self.tables.remove(&meta.number);
                self.replaced.insert(FileKind::Table(meta.number));
            }
        }
        Ok(())
    }

    /// Writes tables, and takes them up.
    async fn write(
        &mut self,
        family: u32,
        sources: Vec<merge::Source>,
        retention: &mut Retention,
        split_bytes: u64,
    ) -> Result<(), Error> {
        let name = self.name_of(family);
        let next_number = &mut self.next_number;
        let allocate = || {
            *next_number += 1;
            *next_number - 1
        };
        let options = FamilyOptions::default();
        let blobs = super::blob::Sources {
            cache: self.files.blobs.clone(),
            files: Default::default(),
            relocate_below: 0,
        };
        let target = Target {
            family,
            family_name: &name,
            options: &options,
            level: 0,
            split_bytes,
            sources: Some(blobs),
            filter: None,
            pace: Pace::default(),
            part: None,
        };
        let merge = merge::Merge::new(sources, None).await?;
        let mut build = Build::new(&self.site, allocate);
        let built = build.run(&target, merge, retention).await?;
        for meta in built.tables {
            let number = meta.number;
            let found = inspect::table(self.site.dir.path(), number).await?;
            self.tables.insert(number, found);
        }
        Ok(())
    }

    fn name_of(&self, family: u32) -> String {
        if family == DEFAULT_FAMILY {
            return DEFAULT_FAMILY_NAME.to_owned();
        }
        let of_family = self.tables.values().filter(|found| found.family == family);
        let name = of_family.filter_map(|found| found.family_name.clone()).next();
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("lost-family-{family}"))
    }

    /// Makes it a store.
    async fn finish(mut self, on_disk: &BTreeSet<FileKind>) -> Result<Repaired, Error> {
        let edits = self.edits();
        let manifest_number = self.next_number;
        let set = VersionSet::new(MAX_LEVELS).apply(&edits, |_| MAX_LEVELS);
        let set = set.and_then(|set| set.check().map(|()| set));
        let set = set.map_err(|what| Error::corruption(self.dir(), 0, what))?;
        let needed: BTreeSet<u64> = set.blobs().map(|file| file.added.number).collect();
        // No table has a value in the others: no loss.
        let unneeded = self.blobs.keys().filter(|number| !needed.contains(number));
        self.replaced.extend(unneeded.map(|number| FileKind::Blob(*number)));
        let old = on_disk.iter().filter(|kind| matches!(kind, FileKind::Manifest(_)));
        self.replaced.extend(old);
        // The new tables, before the old ones go.
        self.site.dir.sync().await?;
        for kind in &self.replaced {
            set_aside(self.dir(), *kind).await?;
        }
        let lost = self.dir().join(LOST_DIR);
        fs::sync_dir(&lost).await.during("sync", &lost)?;
        self.site.dir.sync().await?;
        let snapshot = set.snapshot(manifest_number + 1);
        Manifest::create(&self.site.dir, manifest_number, &self.site.identity, snapshot).await?;
        manifest::set_current(&self.site.dir, manifest_number).await?;
        let families = set.families().map(|(_, family)| family.name.to_string()).collect();
        let (tables, blob_files) = (set.files().count(), set.blobs().count());
        let last_sequence = set.last_sequence();
        Ok(Repaired { families, tables, blob_files, last_sequence, ..self.repaired })
    }

    /// What makes the store from an empty one.
    fn edits(&self) -> Vec<VersionEdit> {
        let last_sequence = self.tables.values().map(|found| found.meta.largest_sequence).max();
        let mut families: BTreeSet<u32> = self.tables.values().map(|found| found.family).collect();
        families.insert(DEFAULT_FAMILY);
        let mut names = BTreeSet::new();
        let mut edits = Vec::new();
        for family in families {
            let mut name = self.name_of(family);
            if !names.insert(name.clone()) {
                name = format!("{name}-{family}");
            }
            if family != DEFAULT_FAMILY {
                let column_family_add = Some(name);
                edits.push(VersionEdit {
                    column_family: family,
                    column_family_add,
                    ..VersionEdit::default()
                });
            }
            let tables: Vec<&FoundTable> =
                self.tables.values().filter(|found| found.family == family).collect();
            let metas: Vec<Arc<FileMeta>> = tables.iter().map(|found| found.meta.clone()).collect();
            // What was merged is, and needs not be looked at table by table.
            let level = u32::from(all_pairs(&metas, |one, other| !share_keys(one, other)));
            let (blob_additions, blob_garbage) = self.blobs_of(family, &tables);
            edits.push(VersionEdit {
                column_family: family,
                log_number: Some(self.next_number),
                last_sequence: Some(last_sequence.unwrap_or(0)),
                new_files: metas.iter().map(|meta| (level, FileMeta::clone(meta))).collect(),
                blob_additions,
                blob_garbage,
                ..VersionEdit::default()
            });
        }
        edits
    }

    /// The blob files of a family, and what its tables do not have of them.
    fn blobs_of(&self, family: u32, tables: &[&FoundTable]) -> (Vec<BlobAddition>, Vec<BlobGarbage>) {
        let (mut additions, mut garbage) = (Vec::new(), Vec::new());
        for (number, found) in self.blobs.iter().filter(|(_, found)| found.family == family) {
            let added = &found.added;
            let needed = tables.iter().filter_map(|table| table.values.get(number));
            let (count, bytes) =
                needed.fold((0u64, 0u64), |sum, of| (sum.0 + of.0, sum.1.saturating_add(of.1)));
            let count = added.total_count.saturating_sub(count);
            let bytes = added.total_bytes.saturating_sub(bytes);
            if count > 0 {
                garbage.push(BlobGarbage { number: *number, count, bytes });
            }
            additions.push(added.clone());
        }
        (additions, garbage)
    }
}

/// True if no two of these tables share keys, so that they can lie on one level; or if of any two one is newer than the other as a
/// whole, whatever keys they have, as RocksDB demands it of level 0.
fn levels_can_tell(tables: &[Arc<FileMeta>]) -> bool {
    let is_older = |one: &FileMeta, other: &FileMeta| one.largest_sequence < other.smallest_sequence;
    all_pairs(tables, |one, other| !share_keys(one, other))
        || all_pairs(tables, |one, other| is_older(one, other) || is_older(other, one))
}

fn share_keys(one: &FileMeta, other: &FileMeta) -> bool {
    !one.ends_before(&other.smallest.user_key) && !other.ends_before(&one.smallest.user_key)
}

fn all_pairs(tables: &[Arc<FileMeta>], holds: impl Fn(&FileMeta, &FileMeta) -> bool) -> bool {
    tables.iter().enumerate().all(|(i, one)| tables[..i].iter().all(|other| holds(one, other)))
}
