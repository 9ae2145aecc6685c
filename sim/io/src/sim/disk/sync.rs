//! Syncs: what they force, and how they fail.
//!
//! A sync is two moments. [`Disk::begin_sync`] says what was pending when it was called; only that, and only when the sync
//! returns success, is forced by [`Disk::finish_sync`]. A crash in between forces nothing.
//!
//! A failed sync loses data for good: the pages count as clean, a later sync succeeds without writing them. Each file that
//! is open at the failure is told once (`errseq_t`); a file that is opened later is not. This is what Linux does
//! (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
//!
//! Not modelled: errors that come one sync late or to the first caller only (a lie that no engine can survive), a file
//! system that shuts down or turns read-only.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::Disk;
use super::file::Fd;
use super::log::{MicroOp, Op, OpId, OpKey};
use super::path::os;
use super::personality::NamesForced;
use super::tree::{Ino, Tree};
use crate::sim::{FsyncFail, MetaAfterFailure, ViewAfterFailure};

/// A sync under way.
#[derive(Clone, Debug)]
pub struct Sync {
    target: Target,
    /// What was issued before this number is what the sync is about.
    until: OpId,
    names: NamesForced,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    File(Fd, Ino),
    Dir(Ino),
}

impl Sync {
    /// What is synced.
    pub(super) fn ino(&self) -> Ino {
        match self.target {
            Target::File(_, ino) | Target::Dir(ino) => ino,
        }
    }

    /// What was issued before this number is what the sync is about.
    pub(super) fn until(&self) -> OpId {
        self.until
    }
}

impl Disk {
    /// A sync of an open file begins: fdatasync(2) if `data_only`, else fsync(2).
    ///
    /// fdatasync writes the length that is needed to read the data; it commits the journal, with what the personality
    /// carries along, only if there was such a length to write.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn begin_sync(&self, fd: Fd, data_only: bool) -> io::Result<Sync> {
        let ino = self.open_file(fd)?.ino;
        if self.is_dir(ino) {
            return Ok(self.sync_of_dir(ino));
        }
        let until = self.log.next_id();
        let commits_journal = !data_only
            || self.log.of_file(ino, until).any(|op| matches!(op.op, Op::Size { .. } | Op::Zero { .. }));
        let names = if commits_journal { self.rules.file_sync_names } else { NamesForced::None };
        Ok(Sync { target: Target::File(fd, ino), until, names })
    }

    /// A sync of a directory begins.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn begin_sync_dir(&self, path: &Path) -> io::Result<Sync> {
        let dir = self.lookup(path)?;
        if self.is_dir(dir) { Ok(self.sync_of_dir(dir)) } else { Err(os(libc::ENOTDIR)) }
    }

    fn sync_of_dir(&self, dir: Ino) -> Sync {
        Sync { target: Target::Dir(dir), until: self.log.next_id(), names: self.rules.dir_sync_names }
    }

    /// The sync succeeds: what was pending at its beginning survives any crash from now on.
    ///
    /// # Errors
    /// `EIO` if another sync of the file failed since this file was opened or last told; then nothing is forced.
    pub fn finish_sync(&mut self, sync: &Sync) -> io::Result<()> {
        if let Target::File(fd, ino) = sync.target {
            self.tell_error(fd, ino)?;
        }
        let mut keys: Vec<OpKey> = self.names_of(sync).map(MicroOp::key).collect();
        if let Target::File(_, ino) = sync.target {
            keys.extend(self.log.of_file(ino, sync.until).map(MicroOp::key));
        }
        self.force(keys);
        Ok(())
    }

    fn names_of(&self, sync: &Sync) -> impl Iterator<Item = &MicroOp> {
        let target = sync.target;
        let is_own = move |op: &&MicroOp| match target {
            Target::File(_, ino) => op.op.target() == Some(ino),
            Target::Dir(dir) => op.op.touches_dir(dir),
        };
        let concerns = move |op: &&MicroOp| {
            is_own(op)
                || matches!((&op.op, target), (Op::Unlink { ino, .. }, Target::File(_, own)) if *ino == own)
        };
        let end = match sync.names {
            NamesForced::None => OpId(0),
            NamesForced::Own | NamesForced::All => sync.until,
            NamesForced::UpToOwn => {
                self.log.names(sync.until).filter(concerns).last().map_or(OpId(0), |op| OpId(op.id.0 + 1))
            }
        };
        let all = sync.names != NamesForced::Own;
        self.log.names(end).filter(move |op| all || is_own(op))
    }

    /// Forces pending operations with all that must be there before them.
    pub(super) fn force(&mut self, ops: impl IntoIterator<Item = OpKey>) {
        let (defects, now_us) = (&mut self.defects, self.now_us);
        let landing = |op: &MicroOp, medium: &Tree| defects.landing(op, medium, now_us);
        for ino in self.log.force(ops, &mut self.dur, landing) {
            self.free_on_medium(ino);
        }
    }

    fn tell_error(&mut self, fd: Fd, ino: Ino) -> io::Result<()> {
        let errors = self.sync_errors.get(&ino).copied().unwrap_or(0);
        let file = self.fds.get_mut(&fd).ok_or_else(|| os(libc::EBADF))?;
        assert!(file.errors_seen <= errors, "an error was seen that did not happen");
        if file.errors_seen < errors {
            file.errors_seen = errors;
            return Err(os(libc::EIO));
        }
        Ok(())
    }

    /// The sync fails the way `failure` says; a keyed draw decides what is lost. Returns the error to report.
    pub fn fail_sync(&mut self, sync: &Sync, failure: FsyncFail) -> io::Error {
        self.failed_syncs += 1;
        match sync.target {
            Target::File(fd, ino) => {
                self.lose_file(ino, sync.until, failure);
                *self.sync_errors.entry(ino).or_insert(0) += 1;
                self.tell_error(fd, ino).expect_err("the error is new")
            }
            Target::Dir(dir) => {
                let lost: Vec<MicroOp> = self
                    .log
                    .names(sync.until)
                    .filter(|op| op.op.touches_dir(dir) && !op.forced)
                    .cloned()
                    .collect();
                self.log.lose(&lost);
                os(libc::EIO)
            }
        }
    }

    /// Loses the pending content of some sectors, at least one if there is any, and with
    /// [`MetaAfterFailure::NoSize`] the pending lengths.
    fn lose_file(&mut self, ino: Ino, until: OpId, failure: FsyncFail) {
        let pending: Vec<MicroOp> = self.log.of_file(ino, until).filter(|op| !op.forced).cloned().collect();
        let sectors: BTreeSet<u64> = pending.iter().filter_map(sector_of).collect();
        let mut draw = self.key.draw("disk.fsync_failure", &[ino.0, self.failed_syncs]);
        let all = draw.chance(500);
        let mut lost_sectors: BTreeSet<u64> =
            sectors.iter().copied().filter(|_| all || draw.chance(500)).collect();
        if lost_sectors.is_empty() && !sectors.is_empty() {
            let candidates: Vec<u64> = sectors.into_iter().collect();
            lost_sectors.insert(*draw.pick(&candidates));
        }
        let lost: Vec<MicroOp> = (pending.into_iter())
            .filter(|op| match sector_of(op) {
                Some(sector) => lost_sectors.contains(&sector),
                None => failure.meta == MetaAfterFailure::NoSize,
            })
            .collect();
        self.log.lose(&lost);
        self.defects.lost(&lost, self.now_us);
        if failure.view == ViewAfterFailure::RevertOld {
            self.reread(ino);
        }
    }

    /// Processes see again what the medium and the log have of a file. Nothing beyond its end, no stale rest of its last
    /// sector: that is what a file system shows.
    fn reread(&mut self, ino: Ino) {
        let mut tree = self.dur.clone();
        for op in self.log.of_file(ino, OpId(u64::MAX)) {
            op.op.apply(&mut tree);
        }
        self.vol.take_file(&tree, ino);
    }
}

fn sector_of(op: &MicroOp) -> Option<u64> {
    match op.op {
        Op::Data { sector, .. } | Op::Zero { sector, .. } => Some(sector),
        _ => None,
    }
}
