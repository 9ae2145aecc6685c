//! The calls into devices at which faults strike, and what can happen at each.

use cutwater_io::sim::{Damage, Errno, SiteFault};

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
