//! Checkpoints: a directory with hard links to the tables and a MANIFEST of its own, which opens as a store with exactly the
//! writes up to one sequence number.
//!
//! The memtables of all families are flushed first, as one group, so there is no log to copy, and what was never logged is
//! in. Tables never change, so the
//! two stores share no byte that either writes; they do share what the medium does to those bytes, so a checkpoint is no
//! second copy until it was copied elsewhere. On return all of it is durable, the name of the directory included (RocksDB
//! leaves the parent directory unsynced).

use std::path::Path;
use std::time::Duration;

use cutwater_io::fs;
use cutwater_io::{buggify, entropy, point, time};

use super::blob::format::file_bytes;
use super::directory::Directory;
use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::manifest::{Manifest, write_durably};
use super::points;
use super::shared::Shared;
use super::staging::Staging;
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
    let staging = Staging::begin(dir, &mut durable_parents).await?;
    let result = match fill(shared, set, staging.path()).await {
        Ok(files) => publish(&staging).await.map(|()| files),
        Err(e) => Err(e),
    };
    if result.is_err() {
        staging.abandon().await;
    }
    let files = result?;
    Ok(CheckpointFiles { sequence: set.last_sequence(), files })
}

async fn fill(shared: &Shared, set: &VersionSet, target: &Path) -> Result<Vec<CheckpointFile>, Error> {
    fs::create_dir(target).await.during("create", target)?;
    let mut files = Vec::new();
    point!(points::CHECKPOINT_BEFORE_LINKS);
    // Long enough for a compaction to replace what is about to be linked.
    if buggify!(points::LINK_LATER) {
        time::sleep(LATER).await;
    }
    for file in immutable_files(set) {
        let original = shared.site.dir.path().join(&file.name);
        fs::hard_link(&original, target.join(&file.name)).await.during("link", &original)?;
        files.push(file);
    }
    point!(points::CHECKPOINT_LINKED);
    files.extend(write_root(shared, set, target).await?);
    point!(points::CHECKPOINT_BEFORE_RENAME);
    Ok(files)
}

/// The tables and blob files of `set`: what a copy of the store takes as it is.
pub(super) fn immutable_files(set: &VersionSet) -> impl Iterator<Item = CheckpointFile> {
    let tables = set.files().map(|(_, f)| (FileKind::Table(f.number), f.len_bytes, f.crc32c()));
    let blobs = set.blobs().map(|file| &file.added);
    let blobs = blobs.map(|f| (FileKind::Blob(f.number), file_bytes(f), f.crc32c()));
    tables.chain(blobs).map(|(kind, len_bytes, crc32c)| CheckpointFile {
        name: kind.name(),
        len_bytes,
        crc32c,
        immutable: true,
    })
}

/// Writes the MANIFEST and the CURRENT of a copy of the store that consists of `set`. They are durable with their names, as is
/// all else that has a name in `target`.
pub(super) async fn write_root(
    shared: &Shared,
    set: &VersionSet,
    target: &Path,
) -> Result<[CheckpointFile; 2], Error> {
    let directory = Directory::new(target);
    // Taken for good, although in another directory: no other MANIFEST of this store has the number.
    let number = shared.allocate_number();
    // All of it is in tables; the logs stay where they are.
    let edits = set.clone().without_logs().snapshot(number + 1);
    // It will be a store of its own; who opens it first gives it an IDENTITY that says so.
    let identity = entropy::uuid("store.checkpoint.identity");
    let manifest = Manifest::create(&directory, number, &identity, edits).await?;
    let name = FileKind::Manifest(number).name();
    let content = format!("{name}\n");
    write_durably(&FileKind::Current.path(target), content.as_bytes()).await?;
    directory.sync().await?;
    let root =
        |name, len_bytes, crc32c| CheckpointFile { name, len_bytes, crc32c: Some(crc32c), immutable: false };
    let current_crc32c = crc32c::crc32c(content.as_bytes());
    Ok([
        root(name, manifest.len_bytes(), manifest.crc32c()),
        root(FileKind::Current.name(), content.len() as u64, current_crc32c),
    ])
}

async fn publish(staging: &Staging<'_>) -> Result<(), Error> {
    staging.rename().await?;
    point!(points::CHECKPOINT_AFTER_RENAME);
    staging.sync_name().await
}
