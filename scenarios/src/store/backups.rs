//! Backups of the store, in a directory of their own.
//!
//! A backup that was reported done is listed from then on, and restores the content it was taken of, after every later crash too,
//! until it is purged. One that is listed without having been reported done, as the process died just then, restores to a store
//! all the same. The newest few are kept, so that backups which share files come and go.

use std::path::Path;

use cutwater_engine::store::{Backups, BackupsFound};
use cutwater_io::fs;
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::Violation;

use super::content::same;
use super::families::Db;
use super::process::{Exit, Shared};
use crate::oracle::batches::Content;

const DIR: &str = "/backups";
const RESTORED: &str = "/restored";

/// Each is restored after each crash; more than a few would only cost time.
const KEPT: usize = 2;

/// A backup that was reported done.
#[derive(Clone)]
pub(super) struct BackedUp {
    pub(super) id: u32,
    pub(super) content: Content,
    /// When, in microseconds of virtual time.
    pub(super) taken_us: u64,
}

impl Shared {
    /// Makes a backup, restores it, and lets go of all but the newest.
    pub(super) async fn back_up(&self, db: &Db, _: &Op) -> Result<(), Exit> {
        // The directory is one writer's at a time.
        let _turn = self.backing_up.lock().await;
        let backups = Backups::at(DIR);
        let before = self.state().batches.acknowledged();
        let made = self.tolerate("back up", backups.create(&db.store).await)?;
        let taken_us = self.world.now_us();
        if made.sequence < before {
            return Err(Violation::new("backup", "a backup holds what was acknowledged before it")
                .of("backup")
                .expected(format!("sequence {before} or more"))
                .found(made.sequence)
                .into());
        }
        let content = self.restored(made.id).await?;
        {
            let mut state = self.state();
            state.batches.judge_cut("backup", &content, made.sequence)?;
            state.backups.push(BackedUp { id: made.id, content, taken_us });
        }
        self.owe();
        self.purge(&backups).await
    }

    async fn purge(&self, backups: &Backups) -> Result<(), Exit> {
        let BackupsFound { backups: listed, damaged } =
            self.tolerate("list backups", backups.list().await)?;
        let surplus = listed.len().saturating_sub(KEPT);
        let going =
            listed[..surplus].iter().map(|backup| backup.id).chain(damaged.iter().map(|lost| lost.id));
        let going: Vec<u32> = going.collect();
        // From here on each may be there or not.
        self.forget(&going);
        let mut lost_ids = Vec::new();
        for lost in damaged {
            match self.tolerate::<()>("list backups", Err(lost.error)) {
                Err(Exit::Damaged) => lost_ids.push(lost.id),
                other => other?,
            }
        }
        // Only now: a deletion writes the meta files that it can read anew, and what was damaged in them is known by inode.
        for id in lost_ids {
            self.tolerate("delete backup", backups.delete(id).await)?;
        }
        self.tolerate("purge backups", backups.purge(KEPT).await)?;
        Ok(())
    }

    /// Every backup that was reported done is listed, and every one that is listed can be restored.
    pub(super) async fn judge_backups(&self) -> Result<(), Exit> {
        let BackupsFound { backups: listed, damaged } =
            self.tolerate("list backups", Backups::at(DIR).list().await)?;
        for lost in damaged {
            match self.tolerate::<()>("list backups", Err(lost.error)) {
                Err(Exit::Damaged) => self.forget(&[lost.id]),
                other => other?,
            }
        }
        let kept = self.state().backups.clone();
        if let Some(missing) = kept.iter().find(|kept| listed.iter().all(|backup| backup.id != kept.id)) {
            return Err(Violation::new("backup", "a finished backup is durable")
                .of("backup")
                .expected(format!("backup {}", missing.id))
                .found(format!("{:?}", listed.iter().map(|backup| backup.id).collect::<Vec<_>>()))
                .into());
        }
        for backup in listed {
            let restored = match kept.iter().find(|kept| kept.id == backup.id) {
                Some(kept) => self.restored_as(kept).await,
                None => self.restored(backup.id).await,
            };
            match restored {
                Err(Exit::Damaged) => self.forget(&[backup.id]),
                other => drop(other?),
            }
        }
        Ok(())
    }

    pub(super) fn forget(&self, ids: &[u32]) {
        self.state().backups.retain(|backup| !ids.contains(&backup.id));
        self.owe();
    }

    /// What is read of a backup: what it was taken of.
    pub(super) async fn restored_as(&self, backup: &BackedUp) -> Result<Content, Exit> {
        let content = self.restored(backup.id).await?;
        same("backup", "a listed backup restores what it was taken of", &backup.content, &content)?;
        Ok(content)
    }

    /// Has every byte of a backup checked, and restores it. What is wrong with it, the check has found.
    async fn restored(&self, id: u32) -> Result<Content, Exit> {
        let backups = Backups::at(DIR);
        let wrong = self.tolerate("verify backup", backups.verify(id).await)?;
        if let Some(error) = wrong.into_iter().next() {
            self.tolerate::<()>("verify backup", Err(error))?;
        }
        let target = Path::new(RESTORED);
        // A process may have died before it had removed it.
        match fs::remove_dir_all(target).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Exit::Failed),
            _ => {}
        }
        self.tolerate("restore backup", backups.restore(id, target).await)?;
        let restored = self.tolerate("open backup", self.open(target, self.options_of_a_copy()).await)?;
        let content = self.tolerate("scan backup", restored.scan(.., None).await)?;
        self.tolerate("close backup", restored.close().await)?;
        // What cannot be removed stays; it is not looked at again.
        let _ = fs::remove_dir_all(target).await;
        Ok(content)
    }
}
