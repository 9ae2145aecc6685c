//! What is run and what must hold: the scenarios, and the oracles that know the engine.
//!
//! The crate exists only in the simulated build.
#![cfg(madsim)]

use std::path::Path;

use cutwater_engine::store::Compression;
use cutwater_io::sim::disk::Personality;
use cutwater_sim::faults::Devices;
use cutwater_sim::plan::Plan;
use cutwater_sim::scenario::Scenario;
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::Knob;

mod changelog;
pub mod checkpoint;
mod cluster;
pub mod damage;
mod frames;
mod manage;
pub mod oracle;
pub mod restore;
pub mod savepoint;
pub mod store;
pub mod targets;

/// Every scenario, in the order in which they are listed.
pub const ALL: &[&dyn Scenario] = &[
    &store::StoreScenario,
    &damage::DamageScenario,
    &checkpoint::CheckpointScenario,
    &restore::RestoreScenario,
    &savepoint::SavepointScenario,
];

/// How many times slower the slowest link between two machines is than the usual one, as long as nothing is broken.
pub(crate) const SLOW_LINK_FACTOR_MAX: u32 = 10;

/// How far the wall clock of a machine is off at most, whatever happens: an hour, as with a wrong time zone.
const CLOCK_OFFSET_US_MAX: u64 = 3_600_000_000;

/// What a path is to the engine: the classes that faults can be anchored to.
pub(crate) fn classify(path: &Path) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once('.') {
        Some((_, "log")) => "wal",
        Some((_, "sst")) => "table",
        Some((_, "blob")) => "blob",
        _ if name.starts_with("MANIFEST-") => "manifest",
        _ if name == "CURRENT" || name.ends_with(".dbtmp") => "current",
        _ => class_of_object(path),
    }
}

/// Objects are told apart by the directory below the job.
fn class_of_object(path: &Path) -> &'static str {
    let mut parts = path.iter().filter_map(|part| part.to_str()).skip(1);
    match parts.next() {
        Some("log") => "register",
        Some("shared") => "shared",
        Some("sink" | "out") => "sink",
        Some(part) if part.starts_with("chk-") || part == "savepoints" => "checkpoint",
        _ => "other",
    }
}

/// The file system of the disks: from the one that leaves most states after a crash to the one that leaves fewest, so that a bug
/// of crash consistency which shows on one shows on those before it. (Not so for damage: btrfs has checksums.) Only the last
/// stands outside of that order.
pub(crate) fn personality_knob() -> Knob {
    Knob::new(
        "personality",
        "the file system: 0 posix_min, 1 btrfs, 2 xfs, 3 ext4_ordered, 4 rocksdb_fi",
        0,
        0..=Personality::ALL.len() as u64 - 1,
    )
}

/// The knob that says which file system the disks have, the strictest first: every scenario has it, or its default.
pub(crate) const PERSONALITIES: Personalities =
    ("personality", &[(3, "ext4_ordered"), (2, "xfs"), (1, "btrfs"), (0, "posix_min")]);

/// How tables are compressed.
pub(crate) fn compression_knob() -> Knob {
    Knob::new("compression", "blocks of tables: 0 as they are, 1 Snappy, 2 LZ4", 0, 0..=2)
}

/// What a value of that knob stands for.
pub(crate) fn compression(knob: u64) -> Compression {
    match knob {
        0 => Compression::None,
        1 => Compression::Snappy,
        _ => Compression::Lz4,
    }
}

/// How the disks of a plan behave; every scenario has these knobs or their defaults.
pub(crate) fn devices(plan: &Plan) -> Devices {
    let knob = |name: &str, default| plan.knobs.get(name).copied().unwrap_or(default);
    let mut devices = Devices::default();
    let personality = usize::try_from(knob("personality", 0)).unwrap_or(0);
    devices.disk.personality = Personality::ALL.get(personality).copied().unwrap_or_default();
    devices.disk.sector_bytes = if knob("small_sectors", 0) == 1 { 512 } else { 4096 };
    devices.disk.sync_latency_us_median = knob("sync_us", devices.disk.sync_latency_us_median);
    devices.disk.stale_tail = knob("stale_tail", 0) == 1;
    let small = |name, default: u32| u32::try_from(knob(name, default.into())).unwrap_or(u32::MAX);
    devices.net.latency_median_us = small("net_us", devices.net.latency_median_us);
    devices.net.slow_link_factor_max = SLOW_LINK_FACTOR_MAX;
    devices.net.window_bytes =
        usize::try_from(knob("window_bytes", devices.net.window_bytes as u64)).unwrap_or(usize::MAX);
    devices.clock_offset_us_max = CLOCK_OFFSET_US_MAX;
    devices.objects.prefix_spacing_us = small("store_spacing_us", devices.objects.prefix_spacing_us);
    devices.objects.page_keys =
        usize::try_from(knob("page_keys", devices.objects.page_keys as u64)).unwrap_or(usize::MAX);
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_one_name_everywhere() {
        let about = personality_knob().about;
        for (number, personality) in Personality::ALL.iter().enumerate() {
            assert!(about.contains(&format!("{number} {}", personality.name())), "{about}");
        }
        for (number, name) in PERSONALITIES.1 {
            assert_eq!(Personality::ALL[usize::try_from(*number).unwrap()].name(), *name);
        }
    }
}
