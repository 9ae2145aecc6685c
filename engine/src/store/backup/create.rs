//! Making a backup: files first, with their names, and the meta file last.

use std::collections::BTreeSet;
use std::path::Path;

use cutwater_io::fs;
use cutwater_io::{point, sometimes, time};

use super::catalogue::{Catalogue, TEMPORARY};
use super::delete::withdrawn_path;
use super::meta::{Meta, MetaFile, PRIVATE_DIR, SHARED_DIR};
use super::restore::copy;
use super::{META_DIR, meta_path, name_meta};
use crate::store::checkpoint::{CheckpointFile, immutable_files, write_root};
use crate::store::error::{Error, IoContext};
use crate::store::points::of_backups;
use crate::store::shared::Shared;
use crate::store::verify::crc32c_of;
use crate::store::version::VersionSet;

/// Makes the backup `id` of `set`, which pins its files.
#[tracing::instrument(name = "store backup", level = "debug", skip_all)]
pub(super) async fn run(
    dir: &Path,
    id: u32,
    catalogue: &Catalogue,
    shared: &Shared,
    set: &VersionSet,
) -> Result<(), Error> {
    let time_s = time::unix_time().as_secs();
    let (known, mut files) = (catalogue.files(), Vec::new());
    for file in immutable_files(set) {
        files.push(copy_shared(dir, &known, shared.site.dir.path(), &file).await?);
    }
    sync_dir(&dir.join(SHARED_DIR)).await?;
    point!(of_backups::COPIED);
    let private = dir.join(PRIVATE_DIR).join(id.to_string());
    fs::create_dir(&private).await.during("create", &private)?;
    for file in write_root(shared, set, &private).await? {
        let crc32c = file.crc32c.expect("this store wrote it");
        files.push(MetaFile::private(id, &file.name, crc32c));
    }
    sync_dir(&dir.join(PRIVATE_DIR)).await?;
    let meta = Meta { time_s, sequence: set.last_sequence(), files };
    name_meta(dir, id, meta.encode(id).as_bytes()).await?;
    point!(of_backups::LISTED);
    let synced = sync_dir(&dir.join(META_DIR)).await;
    if synced.is_err() {
        // Not acknowledged, and never sure to be durable: it must not be listed.
        let _ = fs::rename(meta_path(dir, id), withdrawn_path(dir, id)).await;
    }
    synced
}

/// Copies a table or a blob file, unless a backup has it. Its content is durable, its name is not.
async fn copy_shared(
    dir: &Path,
    known: &BTreeSet<&MetaFile>,
    store_dir: &Path,
    file: &CheckpointFile,
) -> Result<MetaFile, Error> {
    let CheckpointFile { name, len_bytes, crc32c, .. } = file;
    let source = store_dir.join(name);
    let crc32c = match crc32c {
        Some(crc32c) => *crc32c,
        None => crc32c_of(&source, *len_bytes).await?,
    };
    let entry = MetaFile::shared(name, crc32c, *len_bytes);
    let target = dir.join(&entry.path);
    let is_there = known.contains(&entry) && has_len(&target, *len_bytes).await?;
    sometimes!(of_backups::SHARED, is_there);
    if !is_there {
        let temporary = dir.join(format!("{}{TEMPORARY}", entry.path));
        copy(&source, &temporary, *len_bytes, crc32c).await?;
        fs::rename(&temporary, &target).await.during("rename", &temporary)?;
    }
    Ok(entry)
}

async fn has_len(path: &Path, len_bytes: u64) -> Result<bool, Error> {
    match fs::try_exists(path).await.during("stat", path)? {
        true => Ok(fs::metadata(path).await.during("stat", path)?.len_bytes == len_bytes),
        false => Ok(false),
    }
}

async fn sync_dir(dir: &Path) -> Result<(), Error> {
    fs::sync_dir(dir).await.during("sync", dir)
}
