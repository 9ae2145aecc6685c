//! The classes of faults, by which a swarm switches them on and off and a campaign counts what was delivered.

use cutwater_io::sim::disk::DamageKind;
use cutwater_io::sim::{CrashKind, Damage, Errno, SiteFault, Survivors, SyncEnd};
use serde::{Deserialize, Serialize};

use crate::plan::Act;

macro_rules! classes {
    ($($id:ident = $name:literal : $about:literal;)*) => {
        /// A class of faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum FaultClass {
            $(#[doc = $about] $id,)*
        }
        impl FaultClass {
            /// All of them, in order.
            pub const ALL: &[FaultClass] = &[$(FaultClass::$id),*];
            /// Its name in plans, tables and files.
            pub fn name(self) -> &'static str {
                match self { $(FaultClass::$id => $name,)* }
            }
            /// One line of explanation.
            pub fn about(self) -> &'static str {
                match self { $(FaultClass::$id => $about,)* }
            }
        }
    };
}

classes! {
    ProcessKill = "process_kill": "a process dies; its files keep what was written, synced or not";
    PowerFail = "power_fail": "a machine dies; of what was not synced, any legal part is lost";
    DiskError = "disk_error": "a call to the disk fails, is interrupted, or transfers only part";
    DiskFull = "disk_full": "the disk has no space left, for one call or for a while";
    FsyncFailure = "fsync_failure": "a sync fails, and the pages it should have written are clean afterwards";
    DiskSlow = "disk_slow": "a call to the disk takes long, or the disk is slow or answers nothing for a while";
    ReadError = "read_error": "a sector of a file cannot be read until it is written anew";
    BitRot = "bit_rot": "bits of a file are wrong in every read until they are written anew";
    LostWrite = "lost_write": "a write that was acknowledged never gets to the medium, or gets to another place";
    StaleRead = "stale_read": "one read gives a wrong bit, or what was there before";
    Partition = "partition": "two groups of nodes do not reach each other";
    PartitionOneWay = "partition_one_way": "one group of nodes does not reach another, which still reaches it";
    NetStall = "net_stall": "connections between two nodes stand still for a while";
    NetReset = "net_reset": "a connection breaks";
    SlowLink = "slow_link": "everything between two nodes takes many times as long for a while";
    Swizzle = "swizzle": "nodes are cut off one after the other, and come back in another order";
    HalfOpen = "half_open": "one end forgets its connections, the other believes in them";
    ConnectHang = "connect_hang": "a connect never returns";
    Pause = "pause": "a node, or one task at a point, does not run for a while";
    SlowNode = "slow_node": "calls and timers of a node take many times as long for a while";
    ClockDrift = "clock_drift": "the clocks of a node run fast or slow for a while";
    ClockJump = "clock_jump": "the wall clock of a node jumps forward or back";
    StoreFailBefore = "store_fail_before": "a request to the object store fails and has no effect";
    StoreFailAfter = "store_fail_after": "a request to the object store is applied, and its answer is lost";
    StoreLateLanding = "store_late_landing": "a request to the object store that failed is applied later";
    StoreThrottle = "store_throttle": "the object store says slow down, or is slow";
    StoreBody = "store_body": "the body of an answer of the object store breaks off or stands still";
    StoreOutage = "store_outage": "the object store answers nobody for a while";
    StoreIsolation = "store_isolation": "one node does not reach the object store for a while";
    StoreAuth = "store_auth": "the object store refuses one node, whose credentials have expired";
    BeyondBudget = "beyond_budget": "a lie of the disk that no engine can survive; only in plans made by hand";
}

impl FaultClass {
    /// Those that damage what is on the medium of a disk: a scenario has to say which copies may be damaged together.
    pub const DAMAGE: &[FaultClass] =
        &[FaultClass::ReadError, FaultClass::BitRot, FaultClass::LostWrite, FaultClass::StaleRead];

    /// Those of a network.
    pub const OF_NETWORK: &[FaultClass] = &[
        FaultClass::Partition,
        FaultClass::PartitionOneWay,
        FaultClass::NetStall,
        FaultClass::NetReset,
        FaultClass::SlowLink,
        FaultClass::Swizzle,
        FaultClass::HalfOpen,
        FaultClass::ConnectHang,
    ];

    /// Those of an object store.
    pub const OF_STORE: &[FaultClass] = &[
        FaultClass::StoreFailBefore,
        FaultClass::StoreFailAfter,
        FaultClass::StoreLateLanding,
        FaultClass::StoreThrottle,
        FaultClass::StoreBody,
        FaultClass::StoreOutage,
        FaultClass::StoreIsolation,
        FaultClass::StoreAuth,
    ];

    /// The class of `act`, which is anchored at `site` (empty if at none).
    pub fn of(site: &str, act: &Act) -> FaultClass {
        match act {
            Act::Site(fault) => FaultClass::of_site(site, fault),
            Act::Crash { crash, .. } => FaultClass::of_crash(&crash.kind),
            Act::Delay { .. } | Act::Pause { .. } => FaultClass::Pause,
            Act::Partition { both: true, .. } => FaultClass::Partition,
            Act::Partition { both: false, .. } => FaultClass::PartitionOneWay,
            Act::Stall { .. } => FaultClass::NetStall,
            Act::Reset { .. } => FaultClass::NetReset,
            Act::SlowLink { .. } => FaultClass::SlowLink,
            Act::Swizzle { .. } => FaultClass::Swizzle,
            Act::HalfOpen { .. } => FaultClass::HalfOpen,
            Act::SlowNode { .. } => FaultClass::SlowNode,
            Act::ClockDrift { .. } => FaultClass::ClockDrift,
            Act::ClockJump { .. } => FaultClass::ClockJump,
            Act::DiskFull { .. } => FaultClass::DiskFull,
            Act::DiskStall { .. } | Act::DiskSlow { .. } => FaultClass::DiskSlow,
            Act::Rot { damage, .. } => FaultClass::of_damage(*damage),
            Act::Outage { .. } => FaultClass::StoreOutage,
            Act::ThrottleStore { .. } => FaultClass::StoreThrottle,
            Act::IsolateFromStore { .. } => FaultClass::StoreIsolation,
            Act::ExpireCredentials { .. } => FaultClass::StoreAuth,
        }
    }

    fn of_site(site: &str, fault: &SiteFault) -> FaultClass {
        match fault {
            SiteFault::Fail(Errno::Enospc) => FaultClass::DiskFull,
            SiteFault::Short if site.starts_with("objects.") => FaultClass::StoreBody,
            SiteFault::StallBody => FaultClass::StoreBody,
            SiteFault::Fail(Errno::Eio | Errno::Eintr) | SiteFault::Short => FaultClass::DiskError,
            SiteFault::Fsync(failure) if failure.lies() => FaultClass::BeyondBudget,
            SiteFault::Fsync(_) => FaultClass::FsyncFailure,
            SiteFault::Delay(_) if site.starts_with("net.") => FaultClass::NetStall,
            SiteFault::Delay(_) if site.starts_with("objects.") => FaultClass::StoreThrottle,
            SiteFault::Delay(_) => FaultClass::DiskSlow,
            SiteFault::CrashBefore(crash) | SiteFault::CrashAfter(crash) => FaultClass::of_crash(&crash.kind),
            SiteFault::Reset => FaultClass::NetReset,
            SiteFault::Hang => FaultClass::ConnectHang,
            SiteFault::FailBefore => FaultClass::StoreFailBefore,
            SiteFault::FailAfter => FaultClass::StoreFailAfter,
            SiteFault::LateLand(_) => FaultClass::StoreLateLanding,
            SiteFault::Throttle => FaultClass::StoreThrottle,
            SiteFault::Damage(damage) => FaultClass::of_damage(*damage),
        }
    }

    fn of_damage(damage: Damage) -> FaultClass {
        match damage {
            Damage::Eio => FaultClass::ReadError,
            Damage::BitRot { .. } => FaultClass::BitRot,
            Damage::LostWrite | Damage::Misdirect => FaultClass::LostWrite,
            Damage::StaleRead | Damage::BitFlipOnce => FaultClass::StaleRead,
        }
    }

    /// The class of the fault that did that to a disk.
    pub(crate) fn of_damage_kind(kind: DamageKind) -> FaultClass {
        match kind {
            DamageKind::Eio => FaultClass::ReadError,
            DamageKind::BitRot => FaultClass::BitRot,
            DamageKind::LostWrite | DamageKind::MisdirectedFrom | DamageKind::MisdirectedTo => {
                FaultClass::LostWrite
            }
            DamageKind::StaleRead | DamageKind::BitFlip => FaultClass::StaleRead,
        }
    }

    fn of_crash(kind: &CrashKind) -> FaultClass {
        match kind {
            CrashKind::ProcessKill => FaultClass::ProcessKill,
            CrashKind::PowerFail(Survivors::MidSync { end: SyncEnd::LandsLater, .. }) => {
                FaultClass::BeyondBudget
            }
            CrashKind::PowerFail(_) => FaultClass::PowerFail,
        }
    }
}
