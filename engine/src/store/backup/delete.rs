//! Deleting backups, and removing what none of them needs.
//!
//! A backup is withdrawn by giving its meta file another name, which takes no space and can be undone. Its files go once that is
//! durable: should the name come back after a crash, they are there.
//!
//! Before that, the backups that stay are made durable, whoever made them. Who deletes the others relies on them (`purge` keeps the newest,
//! people keep what is listed), and not all that is listed is durable: the machine may lose power, the name of the one that was
//! to stay is gone, the deletion is not, and no backup is left. Listed and perhaps not durable is the backup of
//! - a process that died between the rename of the meta file and the sync of its directory. A sync now would do.
//! - one whose sync failed, and then the rename that takes the backup back as well. The kernel reports a failed sync once, and takes
//!   what it could not write for written: a later sync succeeds and writes nothing. Only a name that is made anew is written by it.
//!
//! Nothing on the disk tells such a backup from the others, so each that stays gets its meta file anew, with the same content: a
//! small file written and synced for each, and two syncs of the directory, however many are deleted.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use cutwater_io::fs;
use cutwater_io::{point, sometimes};

use super::catalogue::{Catalogue, Garbage, TEMPORARY, WITHDRAWN};
use super::meta::{PRIVATE_DIR, SHARED_DIR};
use super::{META_DIR, meta_path, name_meta};
use crate::store::error::{Error, IoContext};
use crate::store::points::of_backups;

/// The meta file of a backup that is to be deleted.
pub(super) fn withdrawn_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(META_DIR).join(format!("{id}{WITHDRAWN}"))
}

/// Has these backups not listed any more, durably. After an error they are listed as before.
pub(super) async fn withdraw(dir: &Path, catalogue: &Catalogue, ids: &BTreeSet<u32>) -> Result<(), Error> {
    // See the module.
    for (id, listed) in catalogue.listed.iter().filter(|(id, _)| !ids.contains(id)) {
        name_meta(dir, *id, &listed.bytes).await?;
    }
    sync_meta(dir).await?;
    let mut withdrawn = Vec::new();
    let mut result = Ok(());
    for id in ids {
        let (listed, gone) = (meta_path(dir, *id), withdrawn_path(dir, *id));
        result = fs::rename(&listed, &gone).await.during("rename", &listed);
        if result.is_err() {
            break;
        }
        withdrawn.push((listed, gone));
    }
    point!(of_backups::WITHDRAWN);
    if result.is_ok() {
        result = sync_meta(dir).await;
    }
    if result.is_err() {
        for (listed, gone) in withdrawn {
            let _ = fs::rename(&gone, &listed).await;
        }
    }
    result
}

/// Removes what no backup needs. What cannot be removed is tried again next time.
pub(super) async fn collect(dir: &Path, catalogue: &Catalogue) -> Result<(), Error> {
    let Garbage { withdrawn, unfinished, private, shared } = catalogue.garbage();
    // Of whom these are the remains is not known: the sync may have failed, and would seem to succeed now. So the names are
    // made anew.
    for id in withdrawn.iter().filter(|id| !catalogue.is_there(**id)) {
        let (listed, gone) = (meta_path(dir, *id), withdrawn_path(dir, *id));
        fs::rename(&gone, &listed).await.during("rename", &gone)?;
        fs::rename(&listed, &gone).await.during("rename", &listed)?;
    }
    if !withdrawn.is_empty() {
        sync_meta(dir).await?;
    }
    let is_remains = private.iter().any(|id| !withdrawn.contains(id));
    sometimes!(of_backups::REMAINS, is_remains);
    if !private.is_empty() || !shared.is_empty() {
        point!(of_backups::BEFORE_COLLECT);
    }
    for id in private {
        let path = dir.join(PRIVATE_DIR).join(id.to_string());
        stays_for_now(&path, fs::remove_dir_all(&path).await);
    }
    for name in shared {
        remove(&dir.join(SHARED_DIR).join(name)).await;
    }
    for id in unfinished {
        remove(&dir.join(META_DIR).join(format!("{id}{TEMPORARY}"))).await;
    }
    // Last, as they say what the rest is.
    for id in withdrawn {
        remove(&withdrawn_path(dir, id)).await;
    }
    Ok(())
}

async fn remove(path: &Path) {
    stays_for_now(path, fs::remove_file(path).await);
}

fn stays_for_now(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "what no backup needs stays for now");
    }
}

async fn sync_meta(dir: &Path) -> Result<(), Error> {
    let meta = dir.join(META_DIR);
    fs::sync_dir(&meta).await.during("sync", &meta)
}
