//! Reading a backup back: to check it, and to make a store of it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use cutwater_io::fs::{self, File};
use cutwater_io::point;

use super::meta::{Meta, MetaFile};
use crate::store::directory::Directory;
use crate::store::error::{Error, IoContext};
use crate::store::points::of_backups;
use crate::store::staging::Staging;
use crate::store::verify::{READ_BYTES, crc32c_of};

/// What is wrong with each file that is not what was written, or cannot be read.
pub(super) async fn verify(dir: &Path, meta: &Meta) -> Vec<Error> {
    let mut wrong = Vec::new();
    for file in &meta.files {
        wrong.extend(verify_file(dir, file).await.err());
    }
    wrong
}

async fn verify_file(dir: &Path, file: &MetaFile) -> Result<(), Error> {
    let path = dir.join(&file.path);
    let len_bytes = len_bytes(dir, file).await?;
    check(&path, crc32c_of(&path, len_bytes).await?, file.crc32c)
}

/// Makes a store of the backup at `target`, durable on return.
#[tracing::instrument(name = "store restore", level = "debug", skip_all)]
pub(super) async fn run(dir: &Path, meta: &Meta, target: &Path) -> Result<(), Error> {
    let staging = Staging::begin(target, &mut BTreeSet::new()).await?;
    let result = match fill(dir, meta, staging.path()).await {
        Ok(()) => publish(&staging).await,
        Err(e) => Err(e),
    };
    if result.is_err() {
        staging.abandon().await;
    }
    result
}

async fn fill(dir: &Path, meta: &Meta, target: &Path) -> Result<(), Error> {
    fs::create_dir(target).await.during("create", target)?;
    for file in &meta.files {
        let len_bytes = len_bytes(dir, file).await?;
        let kind = file.restored().expect("it was checked when the meta file was read");
        copy(&dir.join(&file.path), &kind.path(target), len_bytes, file.crc32c).await?;
    }
    Directory::new(target).sync().await?;
    point!(of_backups::BEFORE_RESTORED);
    Ok(())
}

async fn publish(staging: &Staging<'_>) -> Result<(), Error> {
    staging.rename().await?;
    point!(of_backups::RESTORED);
    staging.sync_name().await
}

/// The length of a file of a backup, in bytes.
///
/// # Errors
/// If it is missing or has another length than its name says, or I/O.
pub(super) async fn len_bytes(dir: &Path, file: &MetaFile) -> Result<u64, Error> {
    let path = dir.join(&file.path);
    let found = match fs::metadata(&path).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::corruption(&path, 0, "a backup names it, and it is missing"));
        }
        other => other.during("stat", &path)?.len_bytes,
    };
    match file.len_bytes() {
        Some(said) if said != found => {
            let what = format!("the file has {found} bytes, its name says {said}");
            Err(Error::corruption(&path, found.min(said), what))
        }
        _ => Ok(found),
    }
}

/// Copies a file of this length and checksum. The content is durable, the name is not.
///
/// # Errors
/// If it has another checksum, or I/O.
pub(super) async fn copy(from: &Path, to: &Path, len_bytes: u64, expected_crc32c: u32) -> Result<(), Error> {
    let source = File::open(from).await.during("open", from)?;
    let target = File::create(to).await.during("create", to)?;
    let (mut crc32c, mut at) = (0, 0);
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(len_bytes).unwrap_or(usize::MAX))];
    while at < len_bytes {
        let left = usize::try_from(len_bytes - at).unwrap_or(usize::MAX).min(READ_BYTES);
        source.read_exact_at(&mut buffer[..left], at).await.during("read", from)?;
        target.write_all_at(&buffer[..left], at).await.during("write", to)?;
        crc32c = crc32c::crc32c_append(crc32c, &buffer[..left]);
        at += left as u64;
    }
    check(from, crc32c, expected_crc32c)?;
    target.sync_data().await.during("sync", to)
}

fn check(path: &Path, found: u32, expected: u32) -> Result<(), Error> {
    match found == expected {
        true => Ok(()),
        false => {
            let what = format!("its crc32c is {found:08x}, and {expected:08x} was written");
            Err(Error::corruption(path, 0, what))
        }
    }
}
