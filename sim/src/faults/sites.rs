//! The calls into devices at which faults strike, and what can happen at each.

use cutwater_io::sim::{Damage, Errno, FsyncFail, SiteFault};

/// Every site, as in `cutwater_io::sim::Site::name`.
pub const ALL: &[&str] = &[
    "disk.open",
    "disk.read",
    "disk.write",
    "disk.set_len",
    "disk.sync",
    "disk.sync_dir",
    "disk.rename",
    "disk.link",
    "disk.unlink",
    "disk.mkdir",
    "net.connect",
    "net.send",
    "objects.put",
    "objects.get",
    "objects.delete",
    "objects.list",
];

/// Calls that change what is on the disk: where a crash can tell a sloppy order from a right one.
pub const DISK_CHANGES: &[&str] = &[
    "disk.open",
    "disk.write",
    "disk.set_len",
    "disk.sync",
    "disk.sync_dir",
    "disk.rename",
    "disk.link",
    "disk.unlink",
];

/// Calls that change what is in the object store.
pub const STORE_CHANGES: &[&str] = &["objects.put", "objects.delete"];

/// How long after its failure a request lands that an error-return sweep holds back, in microseconds.
const LATE_US: u32 = 500_000;

/// Every way in which a call at `site` can fail, as opposed to crash or be slow.
pub fn errors_at(site: &str) -> Vec<SiteFault> {
    let errors = [
        SiteFault::Fail(Errno::Eio),
        SiteFault::Fail(Errno::Enospc),
        SiteFault::Fail(Errno::Eintr),
        SiteFault::Short,
        SiteFault::Fsync(FsyncFail::EXT4),
        SiteFault::Fsync(FsyncFail::XFS),
        SiteFault::Fsync(FsyncFail::XFS_SHUTDOWN),
        SiteFault::Fsync(FsyncFail::BTRFS),
        SiteFault::Fsync(FsyncFail::BTRFS_READONLY),
        SiteFault::Reset,
        SiteFault::Hang,
        SiteFault::FailBefore,
        SiteFault::FailAfter,
        SiteFault::LateLand(LATE_US),
        SiteFault::Throttle,
        SiteFault::StallBody,
    ];
    errors.into_iter().filter(|error| allows(site, error)).collect()
}

/// True if `fault` can happen at `site`.
pub fn allows(site: &str, fault: &SiteFault) -> bool {
    let disk = site.starts_with("disk.");
    let objects = site.starts_with("objects.");
    match fault {
        SiteFault::Fail(Errno::Eio) => disk,
        SiteFault::Fail(Errno::Enospc) => disk && !matches!(site, "disk.read" | "disk.unlink"),
        SiteFault::Fail(Errno::Eintr) => matches!(site, "disk.read" | "disk.write"),
        SiteFault::Short => matches!(site, "disk.read" | "disk.write" | "objects.get"),
        SiteFault::StallBody => site == "objects.get",
        SiteFault::Fsync(_) => matches!(site, "disk.sync" | "disk.sync_dir"),
        SiteFault::Delay(_) | SiteFault::CrashBefore(_) | SiteFault::CrashAfter(_) => ALL.contains(&site),
        SiteFault::Reset => matches!(site, "net.connect" | "net.send"),
        SiteFault::Hang => site == "net.connect",
        SiteFault::FailBefore | SiteFault::FailAfter | SiteFault::Throttle => objects,
        SiteFault::Damage(Damage::Eio | Damage::BitRot { .. } | Damage::BitFlipOnce) => site == "disk.read",
        SiteFault::Damage(Damage::LostWrite | Damage::Misdirect) => {
            matches!(site, "disk.write" | "disk.sync")
        }
        SiteFault::Damage(Damage::StaleRead) => matches!(site, "disk.read" | "disk.write" | "disk.sync"),
        SiteFault::LateLand(_) => matches!(site, "objects.put" | "objects.delete"),
    }
}
