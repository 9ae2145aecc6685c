//! The state of one disk, without any clock, task or lock.
//!
//! `vol` is what processes see now, `dur` is what is certainly on the medium, `log` is what lies between. Every change is
//! issued once: it is done to `vol` at once and added to the log with its edges.

use std::collections::BTreeMap;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::damage::Spared;
use super::defects::Defects;
use super::file::{Fd, OpenFile};
use super::log::{Before, Log, MicroOp, Op, OpId};
use super::mid_sync::{Late, UnderWay};
use super::personality::{Personality, Rules};
use super::sync::{Health, SyncErrors};
use super::tree::{Ino, Listing, ROOT, Tree};
use super::writeback::Writeback;
use crate::sim::Key;

/// What a disk is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What the file system promises.
    pub personality: Personality,
    /// The unit that is written atomically: 512 or 4096 bytes.
    pub sector_bytes: u32,
    /// Size in bytes; `None` for no limit.
    pub capacity_bytes: Option<u64>,
    /// Writeback comes at intervals of up to this many microseconds; 0 for never. Whatever is pending for longer than this
    /// is written at the next one.
    pub writeback_interval_us_max: u64,
    /// After a crash, sectors that a length uncovers and that were never written read as random bytes, not as zeros.
    pub stale_tail: bool,
    /// A rename of a file to another directory is a link and an unlink: a crash may leave both names.
    pub split_cross_dir_rename: bool,
    /// Median time of a sync in microseconds.
    pub sync_latency_us_median: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            personality: Personality::PosixMin,
            sector_bytes: 4096,
            capacity_bytes: None,
            writeback_interval_us_max: 30_000_000,
            stale_tail: false,
            split_cross_dir_rename: false,
            sync_latency_us_median: 1_200,
        }
    }
}

/// A disk with a file system on it. A clone shares everything that neither side changes.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(super) key: Key,
    pub(super) config: Config,
    pub(super) rules: Rules,
    pub(super) vol: Tree,
    pub(super) dur: Tree,
    pub(super) log: Log,
    pub(super) fds: OrdMap<Fd, OpenFile>,
    /// Names of inodes that do not depend on how many were made before, for keyed draws.
    pub(super) labels: OrdMap<Ino, u64>,
    pub(super) defects: Defects,
    pub(super) spared: Spared,
    pub(super) locks: OrdMap<Ino, Fd>,
    pub(super) sync_errors: OrdMap<Ino, SyncErrors>,
    /// What the next sync of an inode fails with, whoever calls it.
    pub(super) owed_errors: OrdMap<Ino, i32>,
    pub(super) under_way: UnderWay,
    pub(super) next_sync: u64,
    pub(super) late: Late,
    pub(super) health: Health,
    pub(super) capacity_bytes: Option<u64>,
    /// Space is missed only when a sync needs it.
    pub(super) late_enospc: bool,
    pub(super) writeback: Writeback,
    pub(super) now_us: u64,
    pub(super) next_ino: u64,
    pub(super) next_fd: u64,
    /// How often pending operations were lost: in power failures and in failed syncs.
    pub(super) losses: u64,
}

impl Disk {
    /// An empty disk; `key` decides whatever it leaves to chance.
    ///
    /// # Panics
    /// If the sectors have neither 512 nor 4096 bytes.
    pub fn new(key: Key, config: Config) -> Disk {
        assert!(matches!(config.sector_bytes, 512 | 4096), "sectors of {} bytes", config.sector_bytes);
        let empty = Tree::new(config.sector_bytes);
        Disk {
            key,
            rules: config.personality.rules(),
            capacity_bytes: config.capacity_bytes,
            writeback: Writeback::new(&key, &config),
            config,
            vol: empty.clone(),
            dur: empty,
            log: Log::default(),
            fds: OrdMap::new(),
            labels: OrdMap::new(),
            defects: Defects::default(),
            spared: Spared::default(),
            locks: OrdMap::new(),
            sync_errors: OrdMap::new(),
            owed_errors: OrdMap::new(),
            under_way: UnderWay::new(),
            next_sync: 0,
            late: Late::default(),
            health: Health::default(),
            late_enospc: false,
            now_us: 0,
            next_ino: ROOT.0,
            next_fd: 0,
            losses: 0,
        }
    }

    /// What the disk is like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Size of a sector in bytes.
    pub fn sector_bytes(&self) -> u32 {
        self.config.sector_bytes
    }

    /// What processes see now.
    pub fn volatile(&self) -> &Tree {
        &self.vol
    }

    /// What is certainly on the medium, as far as the pending log does not say more.
    pub fn durable(&self) -> &Tree {
        &self.dur
    }

    /// What is pending.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Every path that processes see, with what is there.
    pub fn listing(&self) -> Listing {
        self.vol.listing()
    }

    /// How many files are open.
    pub fn open_fd_count(&self) -> usize {
        self.fds.len()
    }

    /// The processes end: files are closed and locks released; what was written stays, synced or not.
    pub fn process_kill(&mut self) {
        let open: Vec<Fd> = self.fds.keys().copied().collect();
        open.into_iter().for_each(|fd| self.close(fd));
        assert!(self.fds.is_empty() && self.locks.is_empty());
        self.under_way.clear();
        self.land_what_is_late();
    }

    /// A new inode, to be called `name` in `dir`.
    pub(super) fn new_ino(&mut self, dir: Ino, name: &str) -> Ino {
        self.next_ino += 1;
        let ino = Ino(self.next_ino);
        self.labels.insert(ino, xxh3_64_with_seed(name.as_bytes(), self.label(dir)));
        ino
    }

    /// What keyed draws know an inode by: the path it was made at. Two that were made at one path one after the other
    /// share it.
    pub(super) fn label(&self, ino: Ino) -> u64 {
        self.labels.get(&ino).copied().unwrap_or(0)
    }

    /// What keyed draws know pending operations by, given in the order of issue: what each is about, and the how many-th
    /// about that it is. An operation that is not there moves no draw about another place.
    pub(super) fn idents(&self, ops: &[MicroOp]) -> Vec<[u64; 3]> {
        let mut counts: BTreeMap<[u64; 2], u64> = BTreeMap::new();
        let ident = |op: &MicroOp| match &op.op {
            Op::Data { ino, sector, .. } => [self.label(*ino), sector << 2],
            Op::Zero { ino, sector, .. } => [self.label(*ino), sector << 2 | 1],
            Op::Size { ino, .. } => [self.label(*ino), 2],
            Op::Link { dir, name, .. } | Op::Unlink { dir, name, .. } => {
                [xxh3_64_with_seed(name.as_bytes(), self.label(*dir)), 3]
            }
            Op::Rename { to_dir, to, .. } => [xxh3_64_with_seed(to.as_bytes(), self.label(*to_dir)), 7],
        };
        (ops.iter().map(ident))
            .map(|[place, what]| {
                let count = counts.entry([place, what]).or_default();
                *count += 1;
                [place, what, *count]
            })
            .collect()
    }

    /// Does `op` to what processes see, and adds it to what is pending.
    pub(super) fn issue(&mut self, op: Op, before: Vec<Before>) -> OpId {
        let displaced = op.apply(&mut self.vol);
        let id = self.log.issue(&self.rules, op, before, self.now_us);
        if let Some(ino) = displaced {
            self.free_if_unused(ino);
        }
        id
    }
}
