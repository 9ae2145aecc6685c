//! The vocabulary of faults, and the interface by which a harness decides where they strike.
//!
//! A device asks the [`Injector`] at each of its sites (`disk.write`, `net.connect`, `objects.put`, ...), a system under
//! test at each of its points. The answer says exactly what happens there. Faults that are states rather than events (a
//! partition, a full disk, a stalled device) are switched on and off through the devices' own controls.

use arbitrary::Arbitrary;
use serde::{Deserialize, Serialize};

use super::NodeId;
use super::disk::Bite;

/// A call into a device.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Which call: `disk.open`, `disk.read`, `disk.write`, `disk.set_len`, `disk.sync`, `disk.sync_dir`, `disk.rename`,
    /// `disk.link`, `disk.unlink`, `disk.mkdir`, `net.connect`, `net.send`, `objects.put`, `objects.get`,
    /// `objects.delete`, `objects.list`.
    pub name: &'static str,
    /// The node that calls.
    pub node: NodeId,
    /// What the target is to the system under test (`wal`, `table`, ...), as its classifier says.
    pub class: &'static str,
    /// The path, key or address.
    pub target: &'a str,
    /// The how many-th call of this (node, name, class) it is, from 1.
    pub nth: u64,
    /// Virtual time in microseconds.
    pub at_us: u64,
}

/// A passing of a point.
#[derive(Clone, Copy, Debug)]
pub struct Passing {
    /// The point's name.
    pub point: &'static str,
    /// The node that passes.
    pub node: NodeId,
    /// The how many-th passing of this (node, point) it is, from 1.
    pub nth: u64,
    /// Virtual time in microseconds.
    pub at_us: u64,
}

/// What a fault does to the call it strikes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub enum SiteFault {
    /// The call fails with this error and does nothing; but a sync of a file that fails with `ENOSPC` has found no space
    /// for what was written, and loses some of it.
    Fail(Errno),
    /// A read or write transfers only part; a write that then fails with `ENOSPC` is [`SiteFault::Fail`]. The body of an
    /// answer of the object store breaks off half way.
    Short,
    /// The sync fails the way [`FsyncFail`] says.
    Fsync(FsyncFail),
    /// The call takes this much longer, in microseconds.
    Delay(u32),
    /// The node crashes before the call takes effect.
    CrashBefore(Crash),
    /// The node crashes after the call took effect, before it returns.
    CrashAfter(Crash),
    /// The connection breaks (a send) or is refused (a connect).
    Reset,
    /// The connect never returns.
    Hang,
    /// The request fails before it reaches the object store.
    FailBefore,
    /// The request is applied, its answer is lost.
    FailAfter,
    /// The caller is told of a failure at once; the request is applied this many microseconds later, whatever happened
    /// in between.
    LateLand(u32),
    /// The body of an answer of the object store stands still half way, until the client's patience is over.
    StallBody,
    /// The object store answers "slow down".
    Throttle,
    /// One of the sectors that are read or written is damaged; which one is drawn.
    Damage(Damage),
}

/// Damage to sectors of a disk. It lasts, over crashes and restarts, until the sector is overwritten or its file is gone,
/// unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub enum Damage {
    /// Reads of the sector fail. At `disk.read`, or at rest.
    Eio,
    /// A bit of the sector is wrong, and one in each following one: always the same. At `disk.read`, or at rest.
    BitRot {
        /// How many sectors; 0 counts as 1.
        sectors: u16,
    },
    /// A bit is wrong, in this read only. At `disk.read`.
    BitFlipOnce,
    /// The write is acknowledged and never gets to the medium. At `disk.write` or `disk.sync`.
    LostWrite,
    /// The write gets to another sector of a file of the same class instead. At `disk.write` or `disk.sync`.
    Misdirect,
    /// One read gives what was there before: this one (at `disk.read`), or the first after the sector was written (at
    /// `disk.write` or `disk.sync`).
    StaleRead,
}

/// Errors of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
pub enum Errno {
    /// Input/output error.
    Eio,
    /// No space left.
    Enospc,
    /// Interrupted; the caller should retry.
    Eintr,
}

impl Errno {
    /// The code of the operating system.
    pub fn raw(self) -> i32 {
        match self {
            Errno::Eio => libc::EIO,
            Errno::Enospc => libc::ENOSPC,
            Errno::Eintr => libc::EINTR,
        }
    }
}

/// How a sync fails. Afterwards the pages are clean: a later sync succeeds without writing what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub struct FsyncFail {
    /// What processes read afterwards.
    pub view: ViewAfterFailure,
    /// What becomes of pending length changes, and of the file system.
    pub meta: MetaAfterFailure,
    /// Who is told.
    #[serde(default)]
    pub report: FsyncReport,
}

impl FsyncFail {
    /// ext4 with `data=ordered`.
    pub const EXT4: FsyncFail = FsyncFail {
        view: ViewAfterFailure::KeepNew,
        meta: MetaAfterFailure::CommitSize,
        report: FsyncReport::EachOpenFd,
    };
    /// ext4 with `data=journal`: a lie.
    pub const EXT4_JOURNAL: FsyncFail = FsyncFail { report: FsyncReport::NextSync, ..FsyncFail::EXT4 };
    /// xfs that could not write data.
    pub const XFS: FsyncFail = FsyncFail { meta: MetaAfterFailure::NoSize, ..FsyncFail::EXT4 };
    /// xfs that could not write its log.
    pub const XFS_SHUTDOWN: FsyncFail = FsyncFail { meta: MetaAfterFailure::Shutdown, ..FsyncFail::EXT4 };
    /// btrfs that could not write data.
    pub const BTRFS: FsyncFail = FsyncFail {
        view: ViewAfterFailure::RevertOld,
        meta: MetaAfterFailure::NoSize,
        report: FsyncReport::EachOpenFd,
    };
    /// btrfs that could not write its trees.
    pub const BTRFS_READONLY: FsyncFail = FsyncFail { meta: MetaAfterFailure::Readonly, ..FsyncFail::BTRFS };

    /// True if somebody who syncs is told that all is well when it is not: no engine can survive that.
    pub fn lies(&self) -> bool {
        self.report != FsyncReport::EachOpenFd
    }
}

/// See [`FsyncFail::report`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
pub enum FsyncReport {
    /// The caller at once, and each file that is open at the failure at its next sync (Linux since 4.13, `errseq_t`).
    #[default]
    EachOpenFd,
    /// This sync succeeds; the next one on the inode fails, whoever calls it (ext4 with `data=journal`).
    NextSync,
    /// The caller, and nobody else who has the file open (Linux before 4.13).
    FirstCallerOnly,
}

/// See [`FsyncFail::view`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
pub enum ViewAfterFailure {
    /// The new content stays readable until the cache is dropped (ext4, xfs).
    KeepNew,
    /// The old content comes back at once (btrfs).
    RevertOld,
}

/// See [`FsyncFail::meta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
pub enum MetaAfterFailure {
    /// The new length can still become durable, over data that never will (ext4).
    CommitSize,
    /// The length is lost with the data (xfs, btrfs).
    NoSize,
    /// The same, and the file system answers nothing but `EIO` until the machine is started anew (xfs).
    Shutdown,
    /// The same, and the file system takes no changes (`EROFS`) until the machine is started anew (btrfs).
    Readonly,
}

/// How a node dies, and when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// What dies.
    pub kind: CrashKind,
    /// Microseconds until the node starts again.
    pub down_us: u32,
}

/// What dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub enum CrashKind {
    /// The process: files keep what was written, synced or not.
    ProcessKill,
    /// The machine: of what was not synced, [`Survivors`] decides.
    PowerFail(Survivors),
}

/// Which of the operations that were not forced to the medium survive a power failure. Whatever it chooses is closed under
/// the file system's ordering rules and contains everything that a completed sync forced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub enum Survivors {
    /// Nothing beyond what was forced.
    None,
    /// Everything.
    All,
    /// The first so many per mille, in issue order.
    Prefix(u16),
    /// All but one (this number chooses it, whatever others there are) and what depends on it.
    AllBut(u16),
    /// Only one (chosen in the same way) and what it depends on.
    Only(u16),
    /// Each with so many per mille, by the given key.
    Each {
        /// Chance of survival per mille.
        permille: u16,
        /// Key of the draws.
        key: u32,
    },
    /// All but these (positions among what was not forced, in issue order; those beyond the last name nothing) and what
    /// depends on them.
    Losing(Vec<u16>),
    /// As `rest` says; but what a sync was writing at that moment comes to an odd end. If none was under way there is nothing
    /// odd.
    MidSync {
        /// Which.
        end: SyncEnd,
        /// What survives; not another choice of this kind.
        rest: Box<Survivors>,
    },
}

/// What becomes of what a sync was writing when the power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Arbitrary)]
#[serde(deny_unknown_fields)]
pub enum SyncEnd {
    /// One sector (this number chooses it) is lost, whatever `rest` says, and the bytes that were to change are random; the
    /// length that uncovers them survives if the order of the file system lets it.
    Garbage(u16),
    /// What `rest` loses of it gets to the medium when the node dies the next time: who recovers first reads the old state, who recovers
    /// after that the new one. No engine can survive that.
    LandsLater,
}

/// The injector's answer at a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteAction {
    /// Nothing unusual.
    Proceed,
    /// This fault strikes.
    Strike(SiteFault),
}

/// The injector's answer at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PointAction {
    /// Nothing unusual.
    Proceed,
    /// The task is held up for so many microseconds.
    Delay(u32),
    /// The node dies here.
    Crash(Crash),
}

/// Decides where faults strike, and hears what becomes of some. Called with no lock of a device held; must not call into a device.
pub trait Injector: Send {
    /// Asked before each call into a device.
    fn at_site(&mut self, site: &Site<'_>) -> SiteAction;
    /// Asked at each passing of a point.
    fn at_point(&mut self, passing: &Passing) -> PointAction;
    /// Told of the faults that damage a disk: not when they strike, but when they have an effect.
    fn bites(&mut self, _node: NodeId, _bite: Bite) {}
}

/// Injects nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Injector for Quiet {
    fn at_site(&mut self, _: &Site<'_>) -> SiteAction {
        SiteAction::Proceed
    }
    fn at_point(&mut self, _: &Passing) -> PointAction {
        PointAction::Proceed
    }
}
