//! What makes a directory a store: its name and those of its ancestors, its lock, its uuid.

use std::io;
use std::path::{Path, PathBuf};

use cutwater_io::entropy;
use cutwater_io::fs::{self, File, OpenOptions};

use super::error::{Error, IoContext};
use super::filenames::FileKind;
use super::manifest;

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
pub(crate) async fn create_store_dir(dir: &Path) -> Result<File, Error> {
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

pub(crate) async fn take_lock(dir: &Path) -> Result<File, Error> {
    let path = FileKind::Lock.path(dir);
    let file =
        OpenOptions::new().read(true).write(true).create(true).open(&path).await.during("open", &path)?;
    match file.try_lock().await.during("lock", &path)? {
        true => Ok(file),
        false => Err(Error::Locked { dir: dir.to_owned() }),
    }
}

/// The store's uuid. If IDENTITY is not there, as in a directory that was a checkpoint, it is made: with what the MANIFEST
/// says, as RocksDB does it, or a new one. One without a MANIFEST is the remains of an attempt: nothing has its uuid yet, and
/// nothing would tell if a bit of it were wrong, so it is made anew.
pub(crate) async fn identity(dir: &Path, manifest: Option<&manifest::Source>) -> Result<String, Error> {
    let recorded = match manifest {
        Some(manifest) => match read_identity(dir, manifest).await? {
            Some(uuid) => return Ok(uuid),
            None => in_manifest(manifest),
        },
        None => None,
    };
    let uuid = recorded.unwrap_or_else(|| entropy::uuid("store.identity"));
    set_identity(dir, &uuid).await.map(|()| uuid)
}

/// The store's uuid as far as it was written down; nothing is made.
pub(crate) async fn recorded_identity(
    dir: &Path,
    manifest: &manifest::Source,
) -> Result<Option<String>, Error> {
    Ok(read_identity(dir, manifest).await?.or_else(|| in_manifest(manifest)))
}

fn in_manifest(manifest: &manifest::Source) -> Option<String> {
    manifest.identity.clone().filter(|uuid| is_plain(uuid))
}

/// What IDENTITY says, if it is there.
async fn read_identity(dir: &Path, manifest: &manifest::Source) -> Result<Option<String>, Error> {
    let path = FileKind::Identity.path(dir);
    let bytes = match fs::read(&path).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.during("read", &path)?,
    };
    let text = String::from_utf8(bytes).unwrap_or_default().trim_end().to_owned();
    if !is_plain(&text) {
        return Err(Error::corruption(&path, 0, "it does not hold a uuid"));
    }
    if manifest.is_bound && manifest.identity.as_ref() != Some(&text) {
        let uuid = manifest.identity.as_deref().unwrap_or("none");
        let what = format!("it is of the store {uuid}, and IDENTITY says {text}");
        return Err(Error::corruption(&manifest.path, 0, what));
    }
    Ok(Some(text))
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
