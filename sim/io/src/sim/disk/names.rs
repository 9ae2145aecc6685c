//! Operations on names: directories, links, renames. Any of them fails with `EIO` or `EROFS` on a file system that has given
//! up after a failed sync.

use std::io;
use std::path::Path;

use super::Disk;
use super::log::{Before, MicroOp, Op};
use super::path::{Place, check_name, os};
use super::tree::{Ino, Name, Tree};
use crate::fs::{DirEntry, Metadata};

impl Disk {
    /// mkdir(2).
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`, `ENOSPC`, `ENAMETOOLONG`.
    pub fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        self.check_health(true)?;
        match self.resolve(path)? {
            Place::Entry { dir, name, ino: None, .. } => {
                self.check_space_for_name()?;
                let ino = self.new_ino(dir, &name);
                self.issue(Op::Link { dir, name, ino, is_dir: true }, vec![]);
                Ok(())
            }
            _ => Err(os(libc::EEXIST)),
        }
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, also for a path that ends in `..`, `EBUSY` for the root.
    pub fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        self.check_health(true)?;
        match self.resolve(path)? {
            Place::Dir(ino) => Err(os(if ino == super::tree::ROOT { libc::EBUSY } else { libc::ENOTEMPTY })),
            Place::Entry { ino: None, .. } => Err(os(libc::ENOENT)),
            Place::Entry { dir, name, ino: Some(ino), .. } => {
                let entries = self.vol.entries(ino).ok_or_else(|| os(libc::ENOTDIR))?;
                if !entries.is_empty() {
                    return Err(os(libc::ENOTEMPTY));
                }
                self.unlink(dir, name, ino);
                Ok(())
            }
        }
    }

    /// unlink(2). What is open stays readable, and takes space, until it is closed.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EISDIR`.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.check_health(true)?;
        match self.resolve(path)? {
            Place::Dir(_) => Err(os(libc::EISDIR)),
            Place::Entry { ino: None, .. } => Err(os(libc::ENOENT)),
            Place::Entry { ino: Some(ino), .. } if self.is_dir(ino) => Err(os(libc::EISDIR)),
            Place::Entry { dir, name, ino: Some(ino), .. } => {
                self.unlink(dir, name, ino);
                Ok(())
            }
        }
    }

    fn unlink(&mut self, dir: Ino, name: Name, ino: Ino) {
        let id = self.issue(Op::Unlink { dir, name, ino }, vec![]);
        if self.rules.unlink_is_durable {
            self.force(self.log.get_name(id).map(MicroOp::key));
        }
    }

    /// link(2).
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EEXIST`, `EPERM` for a directory, `ENOSPC`.
    pub fn hard_link(&mut self, original: &Path, link: &Path) -> io::Result<()> {
        self.check_health(true)?;
        let ino = self.lookup(original)?;
        let Place::Entry { dir, name, ino: None, .. } = self.resolve(link)? else {
            return Err(os(libc::EEXIST));
        };
        if self.is_dir(ino) {
            return Err(os(libc::EPERM));
        }
        self.check_space_for_name()?;
        self.issue(Op::Link { dir, name, ino, is_dir: false }, vec![]);
        Ok(())
    }

    /// rename(2).
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EISDIR`, `ENOTEMPTY`, `EINVAL` for a directory into itself, `EBUSY` for the root and for paths
    /// that end in `..`, `ENOSPC` for a new name in another directory.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_health(true)?;
        let (old, new) = (self.resolve_parent(from)?, self.resolve_parent(to)?);
        let (
            Place::Entry { dir: from_dir, name: from, ino, ancestors: above_old },
            Place::Entry { dir: to_dir, name: to, ino: victim, ancestors: above_new },
        ) = (old, new)
        else {
            return Err(os(libc::EBUSY));
        };
        check_name(&from)?;
        let ino = ino.ok_or_else(|| os(libc::ENOENT))?;
        check_name(&to)?;
        if above_new.contains(&ino) {
            return Err(os(libc::EINVAL));
        }
        if victim.is_some_and(|v| above_old.contains(&v)) {
            return Err(os(libc::ENOTEMPTY));
        }
        if victim == Some(ino) {
            return Ok(());
        }
        let is_dir = self.is_dir(ino);
        if let Some(victim) = victim {
            match (is_dir, self.vol.entries(victim)) {
                (true, None) => return Err(os(libc::ENOTDIR)),
                (false, Some(_)) => return Err(os(libc::EISDIR)),
                (true, Some(entries)) if !entries.is_empty() => return Err(os(libc::ENOTEMPTY)),
                _ => {}
            }
        }
        if victim.is_none() && from_dir != to_dir {
            self.check_space_for_name()?;
        }
        let mut before = Vec::new();
        if self.rules.contents_before_replace && victim.is_some() && !is_dir {
            before.push(Before::AllData(ino, self.log.next_id()));
        }
        if self.config.split_cross_dir_rename && from_dir != to_dir && !is_dir {
            let link = self.issue(Op::Link { dir: to_dir, name: to, ino, is_dir }, before);
            self.issue(Op::Unlink { dir: from_dir, name: from, ino }, vec![Before::Name(link)]);
        } else {
            self.issue(Op::Rename { from_dir, from, to_dir, to, ino, is_dir }, before);
        }
        Ok(())
    }

    /// The entries of a directory, in the order of their names.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.check_health(false)?;
        let ino = self.lookup(path)?;
        let entries = self.vol.entries(ino).ok_or_else(|| os(libc::ENOTDIR))?;
        let entry =
            |(name, ino): (&Name, &Ino)| DirEntry { name: name.to_string(), is_dir: self.is_dir(*ino) };
        Ok(entries.iter().map(entry).collect())
    }

    /// stat(2).
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.check_health(false)?;
        let ino = self.lookup(path)?;
        let len_bytes = self.vol.len_bytes(ino).expect("an entry leads to an inode");
        Ok(Metadata { len_bytes, is_dir: self.is_dir(ino) })
    }

    /// What a path leads to; names of one file share it.
    pub fn ino(&self, path: &Path) -> Option<Ino> {
        self.lookup(path).ok()
    }

    /// Frees an inode that has neither a name nor an open file.
    pub(super) fn free_if_unused(&mut self, ino: Ino) {
        let nameless = self.vol.inode(ino).is_some_and(|inode| inode.nlink == 0);
        if nameless && ino != super::tree::ROOT && !self.fds.values().any(|fd| fd.ino == ino) {
            self.vol.free(ino);
            self.sync_errors.remove(&ino);
            self.owed_errors.remove(&ino);
            self.free_on_medium(ino);
        }
    }

    /// Drops an inode from the medium once no process has it, no name on the medium leads to it and none is about to.
    pub(super) fn free_on_medium(&mut self, ino: Ino) {
        let nameless = |tree: &Tree| tree.inode(ino).is_none_or(|inode| inode.nlink == 0);
        if self.vol.inode(ino).is_none() && nameless(&self.dur) && !self.log.will_name(ino) {
            self.dur.free(ino);
            self.log.forget_file(ino);
            self.labels.remove(&ino);
            self.defects.forget(ino, self.now_us);
        }
    }
}
