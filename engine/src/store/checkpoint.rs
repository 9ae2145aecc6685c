//! Checkpoints: a directory with hard links to the tables and a MANIFEST of its own, which opens as a store with exactly the
//! writes up to one sequence number.
//!
//! The memtables of all families are flushed first, as one group, so there is no log to copy, and what was never logged is
//! in. Tables never change, so the
//! two stores share no byte that either writes; they do share what the medium does to those bytes, so a checkpoint is no
//! second copy until it was copied elsewhere. On return all of it is durable, the name of the directory included (RocksDB
//! leaves the parent directory unsynced).

use std::path::{Path, PathBuf};
use std::time::Duration;

use cutwater_io::fs;
use cutwater_io::{buggify, entropy, point, time};

use super::blob::format::file_bytes;
use super::creation::create_dir_durably;
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::manifest::{Manifest, write_durably};
use super::points;
use super::shared::Shared;
use super::version::VersionSet;

/// How long a checkpoint that dawdles does.
const LATER: Duration = Duration::from_millis(100);

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// The last write that is in it.
    pub sequence: u64,
    /// Its files.
    pub files: Vec<CheckpointFile>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFile {
    /// The name in the checkpoint's directory.
    pub name: String,
    /// Its length. Bytes.
    pub len_bytes: u64,
    /// CRC-32C of what was written, which need not be what is read; `None` for a file that another engine made and that
    /// has no such checksum in the MANIFEST.
    pub crc32c: Option<u32>,
    /// A table or a blob file: under this name, this store will never have other content.
    pub immutable: bool,
}

/// Makes a checkpoint of `set`, which pins its tables.
#[tracing::instrument(name = "store checkpoint", level = "debug", skip_all)]
pub(crate) async fn create(shared: &Shared, set: &VersionSet, dir: &Path) -> Result<CheckpointFiles, Error> {
    let mut durable_parents = shared.durable_parents.lock().await;
    if fs::try_exists(dir).await.during("stat", dir)? {
        return Err(Error::AlreadyExists { path: dir.to_owned() });
    }
    let name = dir.file_name().ok_or(Error::InvalidRequest("a checkpoint's directory has no name"))?;
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // One that exists may have been made by a process that died before it had synced the name.
    if !durable_parents.contains(parent) {
        create_dir_durably(parent).await?;
        durable_parents.insert(parent.to_owned());
    }
    let mut temporary_name = name.to_owned();
    temporary_name.push(".tmp");
    let temporary = parent.join(temporary_name);
    if fs::try_exists(&temporary).await.during("stat", &temporary)? {
        fs::remove_dir_all(&temporary).await.during("remove", &temporary)?;
    }
    // Taken for good, although in another directory: no other MANIFEST of this store has the number.
    let number = shared.allocate_number();
    let result = fill(shared, set, number, &temporary).await;
    let result = match result {
        Ok(files) => publish(&temporary, dir, parent).await.map(|()| files),
        Err(e) => Err(e),
    };
    if result.is_err() {
        let remains: [PathBuf; 2] = [temporary, dir.to_owned()];
        for path in remains {
            // Not acknowledged, so it must not look like a checkpoint; what cannot be removed is the caller's to clean.
            let _ = fs::remove_dir_all(&path).await;
        }
    }
    let files = result?;
    Ok(CheckpointFiles { sequence: set.last_sequence(), files })
}

async fn fill(
    shared: &Shared,
    set: &VersionSet,
    number: u64,
    target: &Path,
) -> Result<Vec<CheckpointFile>, Error> {
    fs::create_dir(target).await.during("create", target)?;
    let directory = Directory::new(target);
    let mut files = Vec::new();
    point!(points::CHECKPOINT_BEFORE_LINKS);
    // Long enough for a compaction to replace what is about to be linked.
    if buggify!(points::LINK_LATER) {
        time::sleep(LATER).await;
    }
    let tables = set.files().map(|(_, f)| (FileKind::Table(f.number), f.len_bytes, f.crc32c()));
    let blobs = set.blobs().map(|file| &file.added);
    let blobs = blobs.map(|f| (FileKind::Blob(f.number), file_bytes(f), f.crc32c()));
    for (kind, len_bytes, crc32c) in tables.chain(blobs) {
        let original = kind.path(shared.site.dir.path());
        fs::hard_link(&original, kind.path(target)).await.during("link", &original)?;
        files.push(CheckpointFile { name: kind.name(), len_bytes, crc32c, immutable: true });
    }
    point!(points::CHECKPOINT_LINKED);
    let edits = set.snapshot(number + 1);
    // It will be a store of its own; who opens it first gives it an IDENTITY that says so.
    let identity = entropy::uuid("store.checkpoint.identity");
    let manifest = Manifest::create(&directory, number, &identity, edits).await?;
    let kind = FileKind::Manifest(number);
    let (len_bytes, crc32c) = (manifest.len_bytes(), Some(manifest.crc32c()));
    files.push(CheckpointFile { name: kind.name(), len_bytes, crc32c, immutable: false });
    let content = format!("{}\n", kind.name());
    write_durably(&FileKind::Current.path(target), content.as_bytes()).await?;
    let name = FileKind::Current.name();
    let (len_bytes, crc32c) = (content.len() as u64, Some(crc32c::crc32c(content.as_bytes())));
    files.push(CheckpointFile { name, len_bytes, crc32c, immutable: false });
    directory.sync().await?;
    point!(points::CHECKPOINT_BEFORE_RENAME);
    Ok(files)
}

async fn publish(temporary: &Path, dir: &Path, parent: &Path) -> Result<(), Error> {
    fs::rename(temporary, dir).await.during("rename", temporary)?;
    point!(points::CHECKPOINT_AFTER_RENAME);
    fs::sync_dir(parent).await.during("sync", parent)
}
