//! Opening a store: what CURRENT and its MANIFEST say, plus what the logs hold beyond that (`replay`).
//!
//! Nothing is changed in place. What the logs hold goes into new tables; then a new MANIFEST with the whole result, of all
//! families, is made durable, and CURRENT is switched, once. A crash before that leaves the former state, to be recovered again
//! to the same result; a crash after it leaves the new one. Only then are files removed, and only those that the durable
//! MANIFEST does not name.
//!
//! All families must be known to who writes: the logs and the MANIFEST are everybody's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cutwater_io::fs::{self, File};
use cutwater_io::{point, sometimes};
use tokio::sync::Notify;

use super::blob::format::file_bytes;
use super::creation::{create_store_dir, identity, take_lock};
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::families::{Families, FamilyKey, OpenFamily};
use super::filenames::FileKind;
use super::files::Files;
use super::manifest::{self, Manifest, Recovered};
use super::options::{FamilyOptions, MAX_LEVELS, Options, WalRecovery};
use super::points;
use super::replay::Replay;
use super::resume::Attempts;
use super::shared::{Shared, Site, State};
use super::snapshot::SnapshotList;
use super::version::{DEFAULT_FAMILY_NAME, FamilyVersion, VersionEdit, VersionSet};
use super::wal::Wals;

/// No store counts this far; a higher number is damage.
const MAX_FILE_NUMBER: u64 = 1 << 62;

/// Recovers the store in `dir`, or creates one. `others` are its families but for the default one.
#[tracing::instrument(name = "recovery", level = "debug", skip_all)]
pub(crate) async fn open(
    dir: &Path,
    options: Options,
    others: &[(&str, FamilyOptions)],
) -> Result<(Arc<Shared>, Wals), Error> {
    options.validate()?;
    let named = by_name(&options, others)?;
    let is_there = fs::try_exists(FileKind::Current.path(dir)).await.during("stat", dir)?;
    if !is_there && !options.create_if_missing {
        return Err(Error::NotFound { dir: dir.to_owned() });
    }
    let lock = if is_there { take_lock(dir).await? } else { create_store_dir(dir).await? };
    let names = fs::read_dir(dir).await.during("read", dir)?;
    let on_disk: Vec<FileKind> = names.iter().filter_map(|entry| FileKind::parse(&entry.name)).collect();
    let levels_of = |name: &str| named.get(name).map_or(MAX_LEVELS, |options| options.num_levels);
    let recovered = if on_disk.contains(&FileKind::Current) {
        manifest::recover(dir, levels_of).await?
    } else {
        refuse_remains(dir, &on_disk)?;
        let set = VersionSet::new(levels_of(DEFAULT_FAMILY_NAME));
        Recovered { set, next_file_number: 1, source: None }
    };
    let families = all_families(dir, &recovered.set, &named, options.create_missing_families)?;
    let identity = identity(dir, recovered.source.as_ref()).await?;
    let site = Site::new(Directory::new(dir), options, identity);
    let next_number = next_number(dir, &on_disk, &recovered)?;
    let files = Files::new(dir, site.options.block_cache_bytes);
    check_files(&site, &recovered, &files).await?;
    check_logs(&site, &recovered).await?;

    let mut replay = Replay::new(&site, &families, recovered.set, next_number);
    for number in logs_to_replay(&on_disk, &replay.set) {
        replay.log(number).await?;
    }
    replay.finish().await?;
    let switched = switch(&site, replay).await?;
    let wals = Wals::create(&site, switched.wal_number, switched.set.last_sequence() + 1).await?;
    let left = remove_orphans(&site, &on_disk, &switched).await;
    Ok((Arc::new(shared(site, switched, families, files, lock, left)), wals))
}

/// Names of the families of the store in `dir`.
pub(crate) async fn list_families(dir: &Path) -> Result<Vec<String>, Error> {
    if !fs::try_exists(FileKind::Current.path(dir)).await.during("stat", dir)? {
        return Err(Error::NotFound { dir: dir.to_owned() });
    }
    let recovered = manifest::recover(dir, |_| MAX_LEVELS).await?;
    Ok(recovered.set.families().map(|(_, family)| family.name.to_string()).collect())
}

/// The options of the families that are to be opened.
fn by_name<'a>(
    options: &Options,
    others: &[(&'a str, FamilyOptions)],
) -> Result<BTreeMap<&'a str, FamilyOptions>, Error> {
    let mut named = BTreeMap::from([(DEFAULT_FAMILY_NAME, options.family.clone())]);
    for (name, options) in others {
        options.validate()?;
        if named.insert(*name, options.clone()).is_some() {
            return Err(Error::InvalidRequest("a family is to be opened twice, or is the default one"));
        }
    }
    Ok(named)
}

/// The options of all families of the set.
fn all_families(
    dir: &Path,
    set: &VersionSet,
    named: &BTreeMap<&str, FamilyOptions>,
    create_missing: bool,
) -> Result<BTreeMap<u32, FamilyOptions>, Error> {
    let options_of = |name: &str| named.get(name).cloned();
    let unknown = set.families().filter(|(_, family)| options_of(&family.name).is_none());
    let names: Vec<String> = unknown.map(|(_, family)| family.name.to_string()).collect();
    if !names.is_empty() {
        return Err(Error::FamiliesNotOpened { dir: dir.to_owned(), names });
    }
    match named.keys().find(|name| set.named(name).is_none()) {
        Some(name) if !create_missing => {
            Err(Error::NoSuchFamily { dir: dir.to_owned(), name: (*name).to_owned() })
        }
        _ => {
            let with_options =
                |(id, family): (u32, &FamilyVersion)| options_of(&family.name).map(|options| (id, options));
            Ok(set.families().filter_map(with_options).collect())
        }
    }
}

/// CURRENT is durable before the first log or table is made. If those are there without it, something removed it.
fn refuse_remains(dir: &Path, on_disk: &[FileKind]) -> Result<(), Error> {
    let is_data =
        |kind: &&FileKind| matches!(kind, FileKind::Wal(_) | FileKind::Table(_) | FileKind::Blob(_));
    match on_disk.iter().find(is_data) {
        Some(kind) => {
            let what = format!("it is missing, but there is {}", kind.name());
            Err(Error::corruption(&FileKind::Current.path(dir), 0, what))
        }
        None => Ok(()),
    }
}

/// The logs that hold what may not be in tables, oldest first.
pub(crate) fn logs_to_replay(on_disk: &[FileKind], set: &VersionSet) -> Vec<u64> {
    let number = |kind: &FileKind| if let FileKind::Wal(number) = kind { Some(*number) } else { None };
    let mut logs: Vec<u64> = on_disk.iter().filter_map(number).filter(|n| *n >= set.first_log()).collect();
    logs.sort_unstable();
    logs
}

/// A number above all that are or were in use, orphans included.
pub(crate) fn next_number(dir: &Path, on_disk: &[FileKind], recovered: &Recovered) -> Result<u64, Error> {
    let current = FileKind::Current.path(dir);
    let tables = recovered.set.files().map(|(_, f)| FileKind::Table(f.number));
    let blobs = recovered.set.blobs().map(|file| FileKind::Blob(file.added.number));
    let is_beyond = |kind: &FileKind| kind.number() >= Some(recovered.next_file_number);
    if let Some(kind) = tables.chain(blobs).find(is_beyond) {
        let next = recovered.next_file_number;
        let what = format!("its MANIFEST names {}, but numbers end at {next}", kind.name());
        return Err(Error::corruption(&current, 0, what));
    }
    let highest_log =
        recovered.set.families().map(|(_, family)| family.version.log_number).max().unwrap_or(0);
    let highest_log = highest_log.max(recovered.set.first_log());
    let on_disk = on_disk.iter().filter_map(|kind| kind.number()).map(|n| n.saturating_add(1));
    let next = on_disk.chain([recovered.next_file_number, highest_log]).max().unwrap_or(1);
    if next > MAX_FILE_NUMBER {
        return Err(Error::corruption(&current, 0, format!("file numbers have reached {next}")));
    }
    Ok(next)
}

/// Every table and every blob file is there, with its length.
pub(crate) async fn check_files(site: &Site, recovered: &Recovered, files: &Files) -> Result<(), Error> {
    for (_, file) in recovered.set.files() {
        check_file(site, recovered, FileKind::Table(file.number), file.len_bytes).await?;
        if site.options.paranoid_checks {
            files.tables.open(file).await?;
        }
    }
    for file in recovered.set.blobs() {
        check_file(site, recovered, FileKind::Blob(file.added.number), file_bytes(&file.added)).await?;
        if site.options.paranoid_checks {
            files.blobs.open(file).await?;
        }
    }
    Ok(())
}

async fn check_file(
    site: &Site,
    recovered: &Recovered,
    kind: FileKind,
    expected_bytes: u64,
) -> Result<(), Error> {
    let torn = recovered.source.as_ref().and_then(|m| Some((&m.path, m.torn_at?)));
    let path = kind.path(site.dir.path());
    let len_bytes = match fs::metadata(&path).await {
        Ok(m) => m.len_bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // A file is removed once the edit that lets go of it is durable.
            if let Some((manifest, at)) = torn {
                sometimes!(points::MANIFEST_REFUSED, true);
                let what = format!("what was there was durable, as {} is gone", kind.name());
                return Err(Error::corruption(manifest, at, what));
            }
            return Err(Error::corruption(&path, 0, "the MANIFEST names it, and it is missing"));
        }
        Err(e) => return Err(e).during("stat", &path),
    };
    if len_bytes == expected_bytes {
        return Ok(());
    }
    let what = format!("the file has {len_bytes} bytes, the MANIFEST says {expected_bytes}");
    Err(Error::corruption(&path, len_bytes.min(expected_bytes), what))
}

/// Every log that is needed is there, as far as the MANIFEST knows that it was durable.
pub(crate) async fn check_logs(site: &Site, recovered: &Recovered) -> Result<(), Error> {
    let first_log = recovered.set.first_log();
    for (number, durable_bytes) in recovered.set.tracked_logs().filter(|(number, _)| *number >= first_log) {
        let path = FileKind::Wal(number).path(site.dir.path());
        let len_bytes = match fs::metadata(&path).await {
            Ok(m) => Some(m.len_bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).during("stat", &path),
        };
        // Who saves what can be saved does without the rest.
        let is_short = len_bytes < Some(durable_bytes);
        if is_short && site.options.wal_recovery != WalRecovery::SkipDamaged {
            let found = len_bytes.map_or("it is missing".to_owned(), |len| format!("it has {len}"));
            let what = format!("the MANIFEST knows {durable_bytes} bytes of it to be durable, and {found}");
            return Err(Error::corruption(&path, len_bytes.unwrap_or(0), what));
        }
    }
    Ok(())
}

/// The recovered state, which is durable and counts.
struct Switched {
    set: VersionSet,
    manifest: Manifest,
    wal_number: u64,
    next_file_number: u64,
}

/// Makes the recovered state durable, and the one that counts.
async fn switch(site: &Site, mut replay: Replay<'_>) -> Result<Switched, Error> {
    let dir = &site.dir;
    let (manifest_number, wal_number) = (replay.next_number, replay.next_number + 1);
    let next_file_number = replay.next_number + 2;
    let last_sequence = Some(replay.last_sequence.unwrap_or(0).max(replay.set.last_sequence()));
    let mut edits = Vec::new();
    for (id, _) in replay.set.families() {
        let built = replay.built.remove(&id).unwrap_or_default().into_iter().map(|built| built.into_edit(0));
        let whole = VersionEdit { log_number: Some(wal_number), last_sequence, ..VersionEdit::default() };
        edits.extend([whole].into_iter().chain(built).map(|edit| VersionEdit { column_family: id, ..edit }));
    }
    let set = replay.set.apply(&edits, |_| MAX_LEVELS).and_then(|set| set.check().map(|()| set));
    let set = set.map_err(|what| Error::corruption(dir.path(), 0, what))?.without_old_logs();
    // The names of the new tables, before an edit names them.
    dir.sync().await?;
    let snapshot = set.snapshot(next_file_number);
    let manifest = Manifest::create(dir, manifest_number, &site.identity, snapshot).await?;
    point!(points::RECOVERY_BEFORE_CURRENT);
    manifest::set_current(dir, manifest_number).await?;
    point!(points::RECOVERY_AFTER_CURRENT);
    Ok(Switched { set, manifest, wal_number, next_file_number })
}

/// Removes what was there before and is not part of the state that is now durable, and returns what could not be removed.
async fn remove_orphans(site: &Site, on_disk: &[FileKind], switched: &Switched) -> Vec<FileKind> {
    let Switched { set, manifest, .. } = switched;
    let tables: BTreeSet<u64> = set.files().map(|(_, f)| f.number).collect();
    let blobs: BTreeSet<u64> = set.blobs().map(|file| file.added.number).collect();
    let mut left = Vec::new();
    for kind in on_disk {
        let is_orphan = match kind {
            FileKind::Table(number) => !tables.contains(number),
            FileKind::Blob(number) => !blobs.contains(number),
            FileKind::Wal(number) => *number < set.first_log(),
            FileKind::Manifest(number) => *number != manifest.number(),
            FileKind::Temporary(_) => true,
            FileKind::Current | FileKind::Lock | FileKind::Identity | FileKind::Options(_) => false,
        };
        if is_orphan {
            sometimes!(points::ORPHAN_REMOVED, true);
            let path = kind.path(site.dir.path());
            if let Err(error) = fs::remove_file(&path).await {
                tracing::warn!(path = %path.display(), %error, "an orphan stays for now");
                left.push(*kind);
            }
        }
    }
    left
}

fn shared(
    site: Site,
    switched: Switched,
    options: BTreeMap<u32, FamilyOptions>,
    files: Files,
    lock: File,
    orphans_left: Vec<FileKind>,
) -> Shared {
    let Switched { set, manifest, wal_number, next_file_number } = switched;
    let mut state = State {
        last_sequence: set.last_sequence(),
        families: Families::default(),
        set: Arc::new(set),
        old_versions: Vec::new(),
        next_file_number,
        obsolete_tables: BTreeSet::new(),
        obsolete_blobs: BTreeSet::new(),
        obsolete_manifests: BTreeSet::new(),
        manifest_number: manifest.number(),
        wals: BTreeMap::from([(wal_number, 0)]),
        manual_compactions: Vec::new(),
        background: None,
        attempts: Attempts::default(),
        filtering: Vec::new(),
        is_closing: false,
    };
    orphans_left.into_iter().for_each(|file| state.remember_obsolete(file));
    let shared = Shared {
        site,
        state: Mutex::new(state),
        files,
        snapshots: Arc::new(SnapshotList::default()),
        manifest: tokio::sync::Mutex::new(manifest),
        changes: Mutex::default(),
        durable_parents: tokio::sync::Mutex::default(),
        families_change: tokio::sync::Mutex::default(),
        purging: tokio::sync::Mutex::default(),
        ingesting: tokio::sync::Mutex::default(),
        placing: tokio::sync::RwLock::default(),
        progress: Notify::new(),
        flush_wake: Notify::new(),
        compact_wake: Arc::new(Notify::new()),
        lock: Mutex::new(Some(lock)),
    };
    let set = shared.state().set.clone();
    for (id, options) in options {
        let name = &set.family(id).expect("each is of the set").name;
        let key = FamilyKey::new(id, name, shared.compact_wake.clone());
        shared.state().families.add(OpenFamily::new(key, options));
    }
    shared
}
