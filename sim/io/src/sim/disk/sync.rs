//! Syncs: what they force, and how they fail.
//!
//! A sync is two moments. [`Disk::begin_sync`] says what was pending when it was called; only that, and only when the sync
//! returns success, is forced by [`Disk::finish_sync`]. A crash in between forces nothing.
//!
//! A failed sync loses data for good: the pages count as clean, a later sync succeeds without writing them. Each file that
//! is open at the failure is told once (`errseq_t`); a file that is opened later is not. This is what Linux does
//! (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). A file system may also shut down or turn
//! read-only, until the machine has been started anew; and older ones lie: they report one sync late, or to one caller only
//! ([`FsyncReport`]).
//!
//! A sync can also find that there is no space for what was taken long ago (delayed allocation, thin provisioning): then
//! new sectors are lost and the error is `ENOSPC`.
//!
//! What is lost is drawn for each sector by itself, by the path its file was made at.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::Disk;
use super::file::Fd;
use super::log::{MicroOp, Op, OpId, OpKey};
use super::path::os;
use super::personality::NamesForced;
use super::tree::{Ino, Tree};
use crate::sim::{FsyncFail, FsyncReport, MetaAfterFailure, ViewAfterFailure};

/// Failed syncs of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SyncErrors {
    /// How many.
    pub(super) count: u64,
    /// What the last one failed with.
    errno: i32,
}

/// Whether the file system still works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Health {
    /// It does.
    #[default]
    Working,
    /// It takes no changes any more.
    Readonly,
    /// It answers nothing any more.
    Shutdown,
}

/// A sync under way.
#[derive(Clone, Debug)]
pub struct Sync {
    target: Target,
    /// What was issued before this number is what the sync is about.
    until: OpId,
    names: NamesForced,
    /// The how many-th sync of a file on this disk it is; 0 for a directory.
    nth: u64,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    File(Fd, Ino),
    Dir(Ino, OpenAs),
}

/// How a directory is open while it is synced.
#[derive(Clone, Copy, Debug)]
enum OpenAs {
    Fd(Fd),
    /// For this sync only, since so many had failed.
    Itself {
        errors_seen: u64,
    },
}

impl Sync {
    /// What is synced.
    pub(super) fn ino(&self) -> Ino {
        match self.target {
            Target::File(_, ino) | Target::Dir(ino, _) => ino,
        }
    }

    /// What was issued before this number is what the sync is about.
    pub(super) fn until(&self) -> OpId {
        self.until
    }

    pub(super) fn nth(&self) -> u64 {
        self.nth
    }
}

impl Disk {
    /// How often pending operations were lost so far: in power failures and in failed syncs.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// False after a failure that ends only when the machine is started anew.
    pub fn works(&self) -> bool {
        self.health == Health::Working
    }

    /// The error of each call on a file system that has given up.
    pub(super) fn check_health(&self, changes: bool) -> io::Result<()> {
        match self.health {
            Health::Shutdown => Err(os(libc::EIO)),
            Health::Readonly if changes => Err(os(libc::EROFS)),
            Health::Working | Health::Readonly => Ok(()),
        }
    }

    /// A sync of an open file begins: fdatasync(2) if `data_only`, else fsync(2).
    ///
    /// fdatasync writes the length that is needed to read the data; it commits the journal, with what the personality
    /// carries along, only if there was such a length to write.
    ///
    /// # Errors
    /// `EBADF`; `EIO` or `EROFS` if the file system has given up.
    pub fn begin_sync(&mut self, fd: Fd, data_only: bool) -> io::Result<Sync> {
        self.check_health(true)?;
        let ino = self.open_file(fd)?.ino;
        if self.is_dir(ino) {
            return Ok(self.sync_of_dir(ino, OpenAs::Fd(fd)));
        }
        let until = self.log.next_id();
        let commits_journal = !data_only
            || self.log.of_file(ino, until).any(|op| matches!(op.op, Op::Size { .. } | Op::Zero { .. }));
        let names = if commits_journal { self.rules.file_sync_names } else { NamesForced::None };
        self.next_sync += 1;
        self.under_way.insert(self.next_sync, (ino, until));
        Ok(Sync { target: Target::File(fd, ino), until, names, nth: self.next_sync })
    }

    /// A sync of a directory begins.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`; `EIO` or `EROFS` if the file system has given up.
    pub fn begin_sync_dir(&self, path: &Path) -> io::Result<Sync> {
        self.check_health(true)?;
        let dir = self.lookup(path)?;
        if !self.is_dir(dir) {
            return Err(os(libc::ENOTDIR));
        }
        let errors_seen = self.sync_errors_of(dir).count;
        Ok(self.sync_of_dir(dir, OpenAs::Itself { errors_seen }))
    }

    fn sync_of_dir(&self, dir: Ino, open_as: OpenAs) -> Sync {
        let (until, names) = (self.log.next_id(), self.rules.dir_sync_names);
        Sync { target: Target::Dir(dir, open_as), until, names, nth: 0 }
    }

    /// The sync succeeds: what was pending at its beginning survives any crash from now on.
    ///
    /// # Errors
    /// That of another sync of the file that failed since this file was opened or last told; then nothing is forced.
    /// `ENOSPC` if there is no space for what was written; `EIO` or `EROFS` if the file system has given up meanwhile.
    pub fn finish_sync(&mut self, sync: &Sync) -> io::Result<()> {
        self.abandon_sync(sync);
        self.check_health(true)?;
        if let Some(errno) = self.owed_errors.remove(&sync.ino()) {
            return Err(os(errno));
        }
        self.tell_error(sync)?;
        if self.is_short_of_space(sync) {
            return self.fail_sync_for_space(sync);
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
            Target::Dir(dir, _) => op.op.touches_dir(dir),
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

    fn sync_errors_of(&self, ino: Ino) -> SyncErrors {
        self.sync_errors.get(&ino).copied().unwrap_or_default()
    }

    fn tell_error(&mut self, sync: &Sync) -> io::Result<()> {
        let errors = self.sync_errors_of(sync.ino());
        let fd = match sync.target {
            Target::File(fd, _) | Target::Dir(_, OpenAs::Fd(fd)) => fd,
            Target::Dir(_, OpenAs::Itself { errors_seen }) if errors_seen < errors.count => {
                return Err(os(errors.errno));
            }
            Target::Dir(_, OpenAs::Itself { .. }) => return Ok(()),
        };
        let file = self.fds.get_mut(&fd).ok_or_else(|| os(libc::EBADF))?;
        assert!(file.errors_seen <= errors.count, "an error was seen that did not happen");
        if file.errors_seen < errors.count {
            file.errors_seen = errors.count;
            return Err(os(errors.errno));
        }
        Ok(())
    }

    /// The sync fails the way `failure` says; a keyed draw decides what is lost.
    ///
    /// # Errors
    /// `EIO`, unless the failure is to be reported later.
    pub fn fail_sync(&mut self, sync: &Sync, failure: FsyncFail) -> io::Result<()> {
        self.abandon_sync(sync);
        match sync.target {
            Target::File(_, ino) => {
                let sizes = failure.meta != MetaAfterFailure::CommitSize;
                self.lose_sectors(ino, sync.until, sizes, |_| true);
                if failure.view == ViewAfterFailure::RevertOld {
                    self.reread(ino);
                }
            }
            Target::Dir(dir, _) => {
                let names = self.log.names(sync.until);
                let lost: Vec<MicroOp> =
                    names.filter(|op| op.op.touches_dir(dir) && !op.forced).cloned().collect();
                self.losses += 1;
                self.log.lose(&lost);
            }
        }
        match failure.meta {
            MetaAfterFailure::Shutdown => self.health = Health::Shutdown,
            MetaAfterFailure::Readonly => self.health = Health::Readonly,
            MetaAfterFailure::CommitSize | MetaAfterFailure::NoSize => {}
        }
        match failure.report {
            FsyncReport::NextSync => {
                let finished = self.finish_sync(sync);
                self.owed_errors.insert(sync.ino(), libc::EIO);
                finished
            }
            FsyncReport::FirstCallerOnly => Err(os(libc::EIO)),
            FsyncReport::EachOpenFd => self.report_error(sync, libc::EIO),
        }
    }

    /// The sync finds no space for sectors that were written without having any.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn fail_sync_for_space(&mut self, sync: &Sync) -> io::Result<()> {
        self.abandon_sync(sync);
        if let Target::File(_, ino) = sync.target {
            let there = self.dur.clone();
            self.lose_sectors(ino, sync.until, true, |sector| there.sector(ino, sector).is_none());
        }
        self.report_error(sync, libc::ENOSPC)
    }

    /// Everybody who has it open now is to be told once; the caller is told here.
    fn report_error(&mut self, sync: &Sync, errno: i32) -> io::Result<()> {
        let errors = self.sync_errors.entry(sync.ino()).or_default();
        *errors = SyncErrors { count: errors.count + 1, errno };
        self.tell_error(sync)
    }

    /// True if what a file has pending needs more sectors than a thinly provisioned disk has.
    fn is_short_of_space(&self, sync: &Sync) -> bool {
        let (Some(free), Target::File(_, ino)) = (self.free_on_medium_sectors(), sync.target) else {
            return false;
        };
        let pending = self.log.of_file(ino, sync.until).filter_map(sector_of);
        let new: BTreeSet<u64> = pending.filter(|sector| self.dur.sector(ino, *sector).is_none()).collect();
        new.len() as u64 > free
    }

    /// Loses the pending content of some of the sectors that `may_lose` names (of any, if it names none), at least one if
    /// there is any, and if asked the pending lengths.
    fn lose_sectors(&mut self, ino: Ino, until: OpId, sizes: bool, may_lose: impl Fn(u64) -> bool) {
        let pending: Vec<MicroOp> = self.log.of_file(ino, until).filter(|op| !op.forced).cloned().collect();
        let mut sectors: BTreeSet<u64> = pending.iter().filter_map(sector_of).collect();
        if sectors.iter().any(|sector| may_lose(*sector)) {
            sectors.retain(|sector| may_lose(*sector));
        }
        let nth = self.sync_errors.get(&ino).map_or(0, |errors| errors.count);
        let key = self.key.child("disk.fsync_failure", &[self.label(ino), nth]);
        let all = key.chance("all", &[], 500);
        let first = sectors.iter().copied().min_by_key(|sector| key.hash("first", &[*sector]));
        let is_lost = |sector: u64| {
            sectors.contains(&sector)
                && (all || Some(sector) == first || key.chance("sector", &[sector], 500))
        };
        let lost: Vec<MicroOp> =
            pending.into_iter().filter(|op| sector_of(op).map_or(sizes, is_lost)).collect();
        self.log.lose(&lost);
        self.losses += 1;
        self.defects.lost(&lost, self.now_us);
    }

    /// Processes see again what the medium and the log have of a file. Nothing beyond its end, no stale rest of its last
    /// sector: that is what a file system shows.
    pub(super) fn reread(&mut self, ino: Ino) {
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
