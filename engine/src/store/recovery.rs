//! Opening a store: what CURRENT and its MANIFEST say, plus what the logs hold beyond that.
//!
//! Logs are replayed to the first record that is not whole (RocksDB's point-in-time mode, its default): the result is a
//! prefix of what was written, and holds at least what was durable. Records that are missing although a link or a mark of a
//! log says that they were durable (see [`super::wal`]) are damage, and refused. An I/O error is never taken for the end of a
//! log.
//!
//! Nothing is changed in place. What the logs hold goes into new tables; then a new MANIFEST with the whole result is made
//! durable, and CURRENT is switched, once. A crash before that leaves the former state, to be recovered again to the same
//! result; a crash after it leaves the new one. Only then are files removed, and only those that the durable MANIFEST does
//! not name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cutwater_io::fs::{self, File, OpenOptions};
use cutwater_io::{entropy, point, sometimes};
use tokio::sync::Notify;

use super::batch::{DecodedBatch, Record};
use super::blob::BlobCache;
use super::blob::format::file_bytes;
use super::build::Build;
use super::build::Built;
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::key::{Tag, ValueKind};
use super::log::{Damage, LogEnd, LogReader};
use super::manifest::{self, Manifest, Recovered};
use super::memtable::Memtable;
use super::merge::{Merge, Source};
use super::options::Options;
use super::points;
use super::retention::Retention;
use super::shared::{Shared, Site, State};
use super::snapshot::SnapshotList;
use super::tables::TableCache;
use super::version::{Version, VersionEdit};
use super::wal::{Head, Link, LogId, Mark, Wals};

/// No store counts this far; a higher number is damage.
const MAX_FILE_NUMBER: u64 = 1 << 62;

/// Recovers the store in `dir`, or creates one.
#[tracing::instrument(name = "recovery", level = "debug", skip_all)]
pub(crate) async fn open(dir: &Path, options: Options) -> Result<(Arc<Shared>, Wals), Error> {
    options.validate()?;
    let is_there = fs::try_exists(FileKind::Current.path(dir)).await.during("stat", dir)?;
    if !is_there && !options.create_if_missing {
        return Err(Error::NotFound { dir: dir.to_owned() });
    }
    let lock = if is_there { take_lock(dir).await? } else { create_store_dir(dir).await? };
    let names = fs::read_dir(dir).await.during("read", dir)?;
    let on_disk: Vec<FileKind> = names.iter().filter_map(|entry| FileKind::parse(&entry.name)).collect();
    let recovered = if on_disk.contains(&FileKind::Current) {
        manifest::recover(dir, options.num_levels).await?
    } else {
        refuse_remains(dir, &on_disk)?;
        let version = Version::empty(options.num_levels);
        Recovered { version, next_file_number: 1, source: None }
    };
    let identity = identity(dir, recovered.source.as_ref()).await?;
    let site = Site { dir: Directory::new(dir), options, identity };
    let next_number = next_number(dir, &on_disk, &recovered)?;
    let tables = Arc::new(TableCache::new(dir, site.options.block_cache_bytes));
    let blobs = Arc::new(BlobCache::new(dir));
    check_files(&site, &recovered, &tables, &blobs).await?;

    let mut replay = Replay::new(&site, recovered.version, next_number);
    for number in on_disk.iter().filter_map(|kind| if let FileKind::Wal(n) = kind { Some(*n) } else { None })
    {
        if number >= replay.version.log_number {
            replay.log(number).await?;
        }
    }
    replay.flush().await?;
    let switched = switch(&site, replay).await?;
    let next_sequence = switched.version.flushed_sequence + 1;
    let wals = Wals::create(&site, switched.wal_number, next_sequence).await?;
    let left = remove_orphans(&site, &on_disk, &switched).await;
    Ok((Arc::new(shared(site, switched, (tables, blobs), lock, left)), wals))
}

/// Creates the directory and its missing ancestors, and returns what it created, the deepest first.
async fn create_dir(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut missing = Vec::new();
    for path in dir.ancestors().filter(|p| !p.as_os_str().is_empty()) {
        if fs::try_exists(path).await.during("stat", path)? {
            break;
        }
        missing.push(path.to_owned());
    }
    fs::create_dir_all(dir).await.during("create", dir)?;
    Ok(missing)
}

/// Makes the names of the directory and of its ancestors durable. One that exists may be the remains of an attempt that died
/// before it had synced, so all are synced.
async fn sync_ancestors(dir: &Path) -> Result<(), Error> {
    let parents = dir.ancestors().skip(1).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    for parent in parents {
        match fs::sync_dir(parent).await {
            // What we may not even open, we have not created anything in.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.during("sync", parent)?,
        }
    }
    Ok(())
}

/// Creates a directory that is durable on return. A name whose sync failed may never become durable, however often it is
/// synced again, so it is taken back: the next attempt makes a new one.
pub(crate) async fn create_dir_durably(dir: &Path) -> Result<(), Error> {
    let created = create_dir(dir).await?;
    let synced = sync_ancestors(dir).await;
    if synced.is_err() {
        remove_dirs(created).await;
    }
    synced
}

async fn remove_dirs(created: Vec<PathBuf>) {
    for path in created {
        if fs::remove_dir(&path).await.is_err() {
            break;
        }
    }
}

/// Creates the directory of a new store; see [`create_dir_durably`]. It may hold what an earlier attempt left.
async fn create_store_dir(dir: &Path) -> Result<File, Error> {
    let created = create_dir(dir).await?;
    let lock = take_lock(dir).await?;
    let synced = sync_ancestors(dir).await;
    if synced.is_err() && clear_remains(dir).await.is_ok() {
        remove_dirs(if created.is_empty() { vec![dir.to_owned()] } else { created }).await;
    }
    synced.map(|()| lock)
}

/// Removes what an unfinished creation left, if nothing else is there.
async fn clear_remains(dir: &Path) -> io::Result<()> {
    let entries = fs::read_dir(dir).await?;
    let is_remains = |name: &str| {
        let kind = FileKind::parse(name);
        matches!(
            kind,
            Some(FileKind::Lock | FileKind::Identity | FileKind::Manifest(_) | FileKind::Temporary(_))
        )
    };
    if !entries.iter().all(|entry| is_remains(&entry.name)) {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    for entry in entries {
        fs::remove_file(dir.join(entry.name)).await?;
    }
    Ok(())
}

async fn take_lock(dir: &Path) -> Result<File, Error> {
    let path = FileKind::Lock.path(dir);
    let file =
        OpenOptions::new().read(true).write(true).create(true).open(&path).await.during("open", &path)?;
    match file.try_lock().await.during("lock", &path)? {
        true => Ok(file),
        false => Err(Error::Locked { dir: dir.to_owned() }),
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

/// The store's uuid. If IDENTITY is not there, as in a directory that was a checkpoint, it is made: with what the MANIFEST
/// says, as RocksDB does it, or a new one. One without a MANIFEST is the remains of an attempt: nothing has its uuid yet, and
/// nothing would tell if a bit of it were wrong, so it is made anew.
async fn identity(dir: &Path, manifest: Option<&manifest::Source>) -> Result<String, Error> {
    let path = FileKind::Identity.path(dir);
    let Some(manifest) = manifest else {
        let uuid = entropy::uuid("store.identity");
        return set_identity(dir, &uuid).await.map(|()| uuid);
    };
    match fs::read(&path).await {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).unwrap_or_default().trim_end().to_owned();
            if !is_plain(&text) {
                return Err(Error::corruption(&path, 0, "it does not hold a uuid"));
            }
            if manifest.is_bound && manifest.identity.as_ref() != Some(&text) {
                let uuid = manifest.identity.as_deref().unwrap_or("none");
                let what = format!("it is of the store {uuid}, and IDENTITY says {text}");
                return Err(Error::corruption(&manifest.path, 0, what));
            }
            Ok(text)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let recorded = manifest.identity.clone().filter(|uuid| is_plain(uuid));
            let uuid = recorded.unwrap_or_else(|| entropy::uuid("store.identity"));
            set_identity(dir, &uuid).await.map(|()| uuid)
        }
        Err(e) => Err(e).during("read", &path),
    }
}

/// Makes IDENTITY say `uuid`, durably.
async fn set_identity(dir: &Path, uuid: &str) -> Result<(), Error> {
    let path = FileKind::Identity.path(dir);
    let temporary = FileKind::Temporary(0).path(dir);
    manifest::write_durably(&temporary, uuid.as_bytes()).await?;
    fs::rename(&temporary, &path).await.during("rename", &temporary)?;
    let synced = fs::sync_dir(dir).await;
    if synced.is_err() {
        // As with a directory: this name is not to be trusted any more.
        let _ = fs::remove_file(&path).await;
    }
    synced.during("sync", dir)
}

/// A uuid, or what another engine takes for one.
fn is_plain(identity: &str) -> bool {
    (1..=64).contains(&identity.len()) && identity.bytes().all(|b| b.is_ascii_graphic())
}

/// A number above all that are or were in use, orphans included.
fn next_number(dir: &Path, on_disk: &[FileKind], recovered: &Recovered) -> Result<u64, Error> {
    let current = FileKind::Current.path(dir);
    let tables = recovered.version.files().map(|(_, f)| FileKind::Table(f.number));
    let blobs = recovered.version.blobs.iter().map(|f| FileKind::Blob(f.added.number));
    let is_beyond = |kind: &FileKind| kind.number() >= Some(recovered.next_file_number);
    if let Some(kind) = tables.chain(blobs).find(is_beyond) {
        let next = recovered.next_file_number;
        let what = format!("its MANIFEST names {}, but numbers end at {next}", kind.name());
        return Err(Error::corruption(&current, 0, what));
    }
    let on_disk = on_disk.iter().filter_map(|kind| kind.number()).map(|n| n.saturating_add(1));
    let next = on_disk.chain([recovered.next_file_number, recovered.version.log_number]).max().unwrap_or(1);
    if next > MAX_FILE_NUMBER {
        return Err(Error::corruption(&current, 0, format!("file numbers have reached {next}")));
    }
    Ok(next)
}

/// Every table and every blob file is there, with its length.
async fn check_files(
    site: &Site,
    recovered: &Recovered,
    tables: &TableCache,
    blobs: &BlobCache,
) -> Result<(), Error> {
    for (_, file) in recovered.version.files() {
        check_file(site, recovered, FileKind::Table(file.number), file.len_bytes).await?;
        if site.options.paranoid_checks {
            tables.open(file).await?;
        }
    }
    for file in recovered.version.blobs.iter() {
        check_file(site, recovered, FileKind::Blob(file.added.number), file_bytes(&file.added)).await?;
        if site.options.paranoid_checks {
            blobs.open(&file.added).await?;
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

/// What the logs add.
struct Replay<'a> {
    site: &'a Site,
    version: Version,
    next_number: u64,
    mem: Arc<Memtable>,
    built: Built,
    /// How much of each log was replayed, in bytes.
    replayed_bytes: BTreeMap<u64, u64>,
    /// The last sequence number replayed.
    last_sequence: Option<u64>,
    /// The log before this one is damaged.
    is_damaged: bool,
    /// Where records are missing; what follows is not applied.
    hole: Option<(PathBuf, u64)>,
}

impl<'a> Replay<'a> {
    fn new(site: &'a Site, version: Version, next_number: u64) -> Self {
        Replay {
            site,
            version,
            next_number,
            mem: Arc::new(Memtable::new(1)),
            built: Built::default(),
            replayed_bytes: BTreeMap::new(),
            last_sequence: None,
            is_damaged: false,
            hole: None,
        }
    }

    async fn log(&mut self, number: u64) -> Result<(), Error> {
        let path = FileKind::Wal(number).path(self.site.dir.path());
        let data = Bytes::from(fs::read(&path).await.during("read", &path)?);
        let log = LogId { identity: &self.site.identity, number };
        if let Some((before, at)) = &self.hole {
            return refuse_if_durable(before, *at, &path, Mark::highest_in(&data, log));
        }
        let mut reader = LogReader::new(&data, number);
        let mut is_first = true;
        let replayed_bytes = loop {
            let at = reader.offset();
            let record = match reader.next_record() {
                Ok(record) => Bytes::from(record.into_owned()),
                Err(LogEnd::Clean { valid_bytes }) => {
                    sometimes!(points::WAL_TORN, valid_bytes < data.len() as u64);
                    break valid_bytes;
                }
                Err(LogEnd::Damaged(Damage { record_offset_bytes, offset_bytes, what })) => {
                    sometimes!(points::WAL_TORN, true);
                    tracing::info!(log = number, offset_bytes, what, "a record of a log is not whole");
                    self.is_damaged = true;
                    break record_offset_bytes;
                }
            };
            let batch = DecodedBatch::decode(&record).map_err(|m| Error::malformed(&path, at, m))?;
            if std::mem::take(&mut is_first) {
                let head = Link::of(&batch, log);
                if head == Head::Foreign {
                    tracing::info!(log = number, "a log begins as another one does");
                    self.is_damaged = true;
                    break at;
                }
                if let Some(hole) = self.hole_before(&path, &batch, head)? {
                    sometimes!(points::WAL_HOLE, true);
                    tracing::warn!(log = number, "a log is ignored, as the one before it lost its end");
                    refuse_if_durable(&hole.0, hole.1, &path, Mark::highest_in(&data, log))?;
                    self.hole = Some(hole);
                    return Ok(());
                }
            }
            self.apply(&path, at, batch).await?;
        };
        if replayed_bytes < data.len() as u64 {
            let mark = Mark::highest_in(&data, log).filter(|mark| mark.synced_bytes > replayed_bytes);
            refuse_if_durable(&path, replayed_bytes, &path, mark)?;
        }
        self.replayed_bytes.insert(number, replayed_bytes);
        Ok(())
    }

    /// What is missing between what was replayed and a log that begins with this batch: the log before, and from where on.
    fn hole_before(
        &self,
        path: &Path,
        first: &DecodedBatch,
        head: Head,
    ) -> Result<Option<(PathBuf, u64)>, Error> {
        let Head::Link(link) = head else {
            // RocksDB's logs have no links: after damage only the very next write may follow.
            let expected = self.last_sequence.map(|s| s + 1);
            let follows = !self.is_damaged || Some(first.first_sequence) == expected;
            let last = self.replayed_bytes.last_key_value().filter(|_| !follows);
            return Ok(last.map(|(number, at)| (FileKind::Wal(*number).path(self.site.dir.path()), *at)));
        };
        if link.number < self.version.log_number {
            return Ok(None);
        }
        let replayed_bytes = self.replayed_bytes.get(&link.number).copied().unwrap_or(0);
        let before = FileKind::Wal(link.number).path(self.site.dir.path());
        if replayed_bytes < link.synced_bytes {
            let what = format!("{} bytes of it were durable, as {} says", link.synced_bytes, path.display());
            return Err(Error::corruption(&before, replayed_bytes, what));
        }
        // Behind its last write the log may hold marks.
        Ok((replayed_bytes < link.len_bytes).then_some((before, replayed_bytes)))
    }

    async fn apply(&mut self, path: &Path, at: u64, batch: DecodedBatch) -> Result<(), Error> {
        if batch.count > 0 {
            if self.last_sequence.is_some_and(|last| batch.first_sequence <= last) {
                return Err(Error::corruption(path, at, "sequence numbers go back"));
            }
            self.last_sequence = Some(batch.first_sequence + u64::from(batch.count) - 1);
        }
        let mut sequence = batch.first_sequence;
        for record in batch.records {
            match record {
                Record::LogData(_) | Record::Noop => {}
                Record::TwoPhase(_) => return Err(Error::unsupported(path, "two-phase commit")),
                Record::Entry { kind, column_family: 0, key, value } => {
                    if !matches!(kind, ValueKind::Value | ValueKind::Deletion | ValueKind::SingleDeletion) {
                        return Err(Error::unsupported(path, format!("a write of type {kind:?}")));
                    }
                    self.mem.insert(key, Tag::new(sequence, kind), value);
                    sequence += 1;
                }
                Record::Entry { .. } => return Err(Error::unsupported(path, "column families")),
            }
        }
        sometimes!(points::WAL_REPLAYED, batch.count > 0);
        if self.mem.size_bytes() >= self.site.options.write_buffer_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.mem.is_empty() {
            return Ok(());
        }
        let next_number = &mut self.next_number;
        let allocate = || {
            *next_number += 1;
            *next_number - 1
        };
        let mem = std::mem::replace(&mut self.mem, Arc::new(Memtable::new(1)));
        let merge = Merge::new(vec![Source::memtable(mem)], None).await?;
        let mut build = Build::new(self.site, allocate, u64::MAX);
        self.built.extend(build.run(merge, &mut Retention::new(Vec::new(), None)).await?);
        point!(points::RECOVERY_TABLE_WRITTEN);
        Ok(())
    }
}

/// A crash takes only what was not durable: records that are missing although a later mark says that they were are damage.
fn refuse_if_durable(missing: &Path, at: u64, witness: &Path, mark: Option<Mark>) -> Result<(), Error> {
    match mark {
        None => Ok(()),
        Some(_) => {
            sometimes!(points::WAL_REFUSED, true);
            let what = format!("what was there was durable, as {} says", witness.display());
            Err(Error::corruption(missing, at, what))
        }
    }
}

/// The recovered state, which is durable and counts.
struct Switched {
    version: Version,
    manifest: Manifest,
    wal_number: u64,
    next_file_number: u64,
}

/// Makes the recovered state durable, and the one that counts.
async fn switch(site: &Site, replay: Replay<'_>) -> Result<Switched, Error> {
    let dir = &site.dir;
    let (manifest_number, wal_number) = (replay.next_number, replay.next_number + 1);
    let next_file_number = replay.next_number + 2;
    let edit = VersionEdit {
        log_number: Some(wal_number),
        last_sequence: Some(replay.last_sequence.unwrap_or(0).max(replay.version.flushed_sequence)),
        ..replay.built.into_edit(0)
    };
    let version = replay.version.apply(&edit).and_then(|version| version.check().map(|()| version));
    let version = version.map_err(|what| Error::corruption(dir.path(), 0, what))?;
    // The names of the new tables, before an edit names them.
    dir.sync().await?;
    let snapshot = VersionEdit { next_file_number: Some(next_file_number), ..version.snapshot() };
    let manifest = Manifest::create(dir, manifest_number, &site.identity, snapshot).await?;
    point!(points::RECOVERY_BEFORE_CURRENT);
    manifest::set_current(dir, manifest_number).await?;
    point!(points::RECOVERY_AFTER_CURRENT);
    Ok(Switched { version, manifest, wal_number, next_file_number })
}

/// Removes what was there before and is not part of the state that is now durable, and returns what could not be removed.
async fn remove_orphans(site: &Site, on_disk: &[FileKind], switched: &Switched) -> Vec<FileKind> {
    let Switched { version, manifest, .. } = switched;
    let mut left = Vec::new();
    for kind in on_disk {
        let is_orphan = match kind {
            FileKind::Table(number) => !version.contains(*number),
            FileKind::Blob(number) => version.blobs.get(*number).is_none(),
            FileKind::Wal(number) => *number < version.log_number,
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
    (tables, blobs): (Arc<TableCache>, Arc<BlobCache>),
    lock: File,
    orphans_left: Vec<FileKind>,
) -> Shared {
    let Switched { version, manifest, wal_number, next_file_number } = switched;
    let mut state = State {
        last_sequence: version.flushed_sequence,
        mem: Arc::new(Memtable::new(1)),
        immutable: VecDeque::new(),
        cursors: vec![None; version.levels.len()],
        version: Arc::new(version),
        old_versions: Vec::new(),
        next_file_number,
        flushed_memtable: 0,
        obsolete_tables: BTreeSet::new(),
        obsolete_blobs: BTreeSet::new(),
        obsolete_manifests: BTreeSet::new(),
        manifest_number: manifest.number(),
        wals: BTreeSet::from([wal_number]),
        manual_compactions: Vec::new(),
        background: None,
        is_closing: false,
    };
    orphans_left.into_iter().for_each(|file| state.remember_obsolete(file));
    Shared {
        site,
        state: Mutex::new(state),
        tables,
        blobs,
        snapshots: Arc::new(SnapshotList::default()),
        manifest: tokio::sync::Mutex::new(manifest),
        durable_parents: tokio::sync::Mutex::default(),
        purging: tokio::sync::Mutex::default(),
        progress: Notify::new(),
        flush_wake: Notify::new(),
        compact_wake: Arc::new(Notify::new()),
        lock: Mutex::new(Some(lock)),
    }
}
