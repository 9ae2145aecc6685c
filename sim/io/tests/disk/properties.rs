//! Properties of the disk over random traces: what a sync promised is kept, whatever a crash chooses is permissible, and a
//! stricter file system leaves no state that a laxer one does not.
#![cfg(madsim)]

use std::path::Path;

use cutwater_io::sim::disk::{Config, Disk, Fd, OpenMode, Personality, Seen, States, enumerate_states};
use cutwater_io::sim::{FsyncFail, FsyncReport, Key, Survivors};
use proptest::prelude::*;

const DIRS: [&str; 3] = ["/", "/d", "/e"];
const PATHS: [&str; 8] = ["/a", "/b", "/d", "/d/a", "/d/b", "/e", "/e/c", "/a/x"];

#[derive(Clone, Debug)]
enum Do {
    Open { slot: usize, path: usize, create: bool, truncate: bool },
    Close { slot: usize },
    Write { slot: usize, offset_bytes: u64, len: usize, fill: u8 },
    SetLen { slot: usize, len_bytes: u64 },
    Sync { slot: usize, data_only: bool },
    SyncDir { dir: usize },
    Mkdir { path: usize },
    Remove { path: usize },
    RemoveDir { path: usize },
    Link { from: usize, to: usize },
    Rename { from: usize, to: usize },
}

fn step() -> impl Strategy<Value = Do> {
    let (slot, path) = (0..3usize, 0..PATHS.len());
    prop_oneof![
        4 => (slot.clone(), path.clone(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(slot, path, create, truncate)| Do::Open { slot, path, create, truncate }),
        1 => slot.clone().prop_map(|slot| Do::Close { slot }),
        6 => (slot.clone(), 0..1200u64, 1..900usize, 1..=255u8)
            .prop_map(|(slot, offset_bytes, len, fill)| Do::Write { slot, offset_bytes, len, fill }),
        2 => (slot.clone(), 0..1500u64).prop_map(|(slot, len_bytes)| Do::SetLen { slot, len_bytes }),
        2 => (slot, any::<bool>()).prop_map(|(slot, data_only)| Do::Sync { slot, data_only }),
        2 => (0..DIRS.len()).prop_map(|dir| Do::SyncDir { dir }),
        2 => path.clone().prop_map(|path| Do::Mkdir { path }),
        2 => path.clone().prop_map(|path| Do::Remove { path }),
        1 => path.clone().prop_map(|path| Do::RemoveDir { path }),
        1 => (path.clone(), path.clone()).prop_map(|(from, to)| Do::Link { from, to }),
        3 => (path.clone(), path).prop_map(|(from, to)| Do::Rename { from, to }),
    ]
}

fn failure() -> impl Strategy<Value = FsyncFail> {
    prop::sample::select(&[
        FsyncFail::EXT4,
        FsyncFail::EXT4_JOURNAL,
        FsyncFail::XFS,
        FsyncFail::XFS_SHUTDOWN,
        FsyncFail::BTRFS,
        FsyncFail::BTRFS_READONLY,
    ])
}

fn personality() -> impl Strategy<Value = Personality> {
    prop::sample::select(Personality::ALL)
}

fn disk(personality: Personality, writeback_interval_us_max: u64) -> Disk {
    let config = Config { personality, sector_bytes: 512, writeback_interval_us_max, ..Config::default() };
    Disk::new(Key::root(3), config)
}

fn path(index: usize) -> &'static Path {
    Path::new(PATHS[index])
}

/// Does a step; its errors are part of the trace.
fn apply(disk: &mut Disk, slots: &mut [Option<Fd>; 3], step: &Do) {
    match step {
        Do::Open { slot, path: p, create, truncate } => {
            let mode =
                OpenMode { read: true, write: true, create: *create, create_new: false, truncate: *truncate };
            if let Ok(fd) = disk.open(path(*p), mode)
                && let Some(old) = slots[*slot].replace(fd)
            {
                disk.close(old);
            }
        }
        Do::Close { slot } => {
            if let Some(fd) = slots[*slot].take() {
                disk.close(fd);
            }
        }
        Do::Write { slot, offset_bytes, len, fill } => {
            if let Some(fd) = slots[*slot] {
                let _ = disk.write_at(fd, &vec![*fill; *len], *offset_bytes);
            }
        }
        Do::SetLen { slot, len_bytes } => {
            if let Some(fd) = slots[*slot] {
                let _ = disk.set_len(fd, *len_bytes);
            }
        }
        Do::Sync { slot, data_only } => {
            if let Some(fd) = slots[*slot] {
                let sync = disk.begin_sync(fd, *data_only).unwrap();
                disk.finish_sync(&sync).unwrap();
            }
        }
        Do::SyncDir { dir } => {
            if let Ok(sync) = disk.begin_sync_dir(Path::new(DIRS[*dir])) {
                disk.finish_sync(&sync).unwrap();
            }
        }
        Do::Mkdir { path: p } => drop(disk.create_dir(path(*p))),
        Do::Remove { path: p } => drop(disk.remove_file(path(*p))),
        Do::RemoveDir { path: p } => drop(disk.remove_dir(path(*p))),
        Do::Link { from, to } => drop(disk.hard_link(path(*from), path(*to))),
        Do::Rename { from, to } => drop(disk.rename(path(*from), path(*to))),
    }
}

/// Runs a trace as far as its states can be enumerated.
fn run(disk: &mut Disk, steps: &[Do]) -> [Option<Fd>; 3] {
    let mut slots = [None; 3];
    for step in steps {
        if disk.log().len() >= 9 {
            break;
        }
        apply(disk, &mut slots, step);
    }
    slots
}

fn choices() -> Vec<Survivors> {
    let mut choices = vec![Survivors::None, Survivors::All];
    choices.extend([0, 300, 700, 1000].map(Survivors::Prefix));
    choices.extend((0..12).map(Survivors::AllBut));
    choices.extend((0..12).map(Survivors::Only));
    choices.extend((0..12).map(|key| Survivors::Each { permille: 100 + 80 * key as u16, key }));
    choices
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stricter_file_system_leaves_no_other_states(steps in prop::collection::vec(step(), 0..40)) {
        // From the laxest to the strictest; the laxest log bounds the trace for all.
        let chain =
            [Personality::PosixMin, Personality::Btrfs, Personality::Xfs, Personality::Ext4Ordered];
        let mut disks = chain.map(|personality| (disk(personality, 0), [None; 3]));
        for step in &steps {
            if disks[0].0.log().len() >= 9 {
                break;
            }
            for (disk, slots) in &mut disks {
                apply(disk, slots, step);
            }
            for (disk, _) in &disks[1..] {
                prop_assert_eq!(disk.listing(), disks[0].0.listing());
            }
        }
        let states: Vec<States> = disks.iter().map(|(disk, _)| enumerate_states(disk)).collect();
        for (i, pair) in states.windows(2).enumerate() {
            let outside = pair[1].trees.difference(&pair[0].trees).next();
            prop_assert!(outside.is_none(), "{:?} allows what {:?} does not", chain[i + 1], chain[i]);
        }
        for states in &states {
            prop_assert!(states.trees.contains(&disks[0].0.listing()), "what is seen may survive whole");
        }
    }

    #[test]
    fn every_file_system_leaves_only_states_of_the_least(steps in prop::collection::vec(step(), 0..40)) {
        let mut least = disk(Personality::PosixMin, 0);
        let mut other = disk(Personality::RocksdbFi, 0);
        let mut slots = [[None; 3]; 2];
        for step in &steps {
            if least.log().len() >= 9 {
                break;
            }
            apply(&mut least, &mut slots[0], step);
            apply(&mut other, &mut slots[1], step);
        }
        prop_assert!(enumerate_states(&other).trees.is_subset(&enumerate_states(&least).trees));
    }

    #[test]
    fn whatever_a_crash_chooses_is_permissible(steps in prop::collection::vec(step(), 0..40), personality in personality()) {
        let mut before = disk(personality, 0);
        run(&mut before, &steps);
        let states = enumerate_states(&before);
        for choice in choices() {
            let mut after = before.clone();
            let pending = before.log().len();
            let record = after.power_fail(&choice, 0);
            prop_assert!(states.trees.contains(&after.listing()), "{:?}\n{}", choice, record.story());
            prop_assert_eq!(record.kept.len() + record.lost.len(), pending);
            prop_assert_eq!(after.volatile(), after.durable());
            prop_assert!(after.log().is_empty() && after.open_fd_count() == 0);
            let sectors: usize = after.volatile().used_sectors() as usize;
            prop_assert!(sectors <= 3 * 3 * PATHS.len(), "sectors are counted: {}", sectors);
            if choice == Survivors::All {
                prop_assert_eq!(after.listing(), before.listing());
            }
        }
    }

    /// What a census goes through: all that may be left if it is little, else a part of it; and each choice leaves what it
    /// says.
    #[test]
    fn the_images_of_a_census_are_the_states_a_crash_may_leave(
        steps in prop::collection::vec(step(), 0..40), personality in personality(), all_up_to in 1..200usize, sample in 1..9usize,
    ) {
        let mut before = disk(personality, 0);
        run(&mut before, &steps);
        let states = enumerate_states(&before);
        let found = before.images(all_up_to, sample, &mut Key::root(5).draw("census", &[]));
        prop_assert_eq!(found.all, states.sets <= all_up_to as u64);
        if found.all {
            prop_assert_eq!((found.sets, found.images.len()), (states.sets, states.trees.len()));
        } else {
            prop_assert!(found.images.len() <= sample && found.sets <= states.sets);
        }
        for image in &found.images {
            let mut after = before.clone();
            after.power_fail(&image.survivors, 0);
            prop_assert_eq!(after.volatile().hash(), image.hash, "{:?}", image.survivors);
            prop_assert!(states.trees.contains(&after.listing()));
        }
    }

    /// Over all states of one trace: many listings, many inode numbers, and each way to have zeros.
    #[test]
    fn the_hash_of_a_tree_is_that_of_what_is_seen(steps in prop::collection::vec(step(), 0..40)) {
        let mut before = disk(Personality::PosixMin, 0);
        run(&mut before, &steps);
        let mut of_listing = std::collections::BTreeMap::new();
        let mut of_hash = std::collections::BTreeMap::new();
        for choice in choices() {
            let mut after = before.clone();
            after.power_fail(&choice, 0);
            let (hash, listing) = (after.volatile().hash(), after.listing());
            prop_assert_eq!(*of_listing.entry(listing.clone()).or_insert(hash), hash);
            prop_assert_eq!(of_hash.entry(hash).or_insert(listing.clone()), &listing);
            let mut copy = disk(Personality::PosixMin, 0);
            for (path, seen) in &listing {
                match seen {
                    Seen::Dir => copy.create_dir(Path::new(path)).unwrap(),
                    Seen::File { .. } => {
                        let mode = OpenMode { write: true, create: true, ..OpenMode::default() };
                        let fd = copy.open(Path::new(path), mode).unwrap();
                        copy.write_at(fd, &seen.bytes(), 0).unwrap();
                    }
                }
            }
            prop_assert_eq!(copy.volatile().hash(), hash, "a copy with other inodes and no holes");
        }
    }

    #[test]
    fn what_was_synced_survives(steps in prop::collection::vec(step(), 0..80), personality in personality(), interval in 0..40u64) {
        let mut disk = disk(personality, interval);
        let mut slots = [None; 3];
        for (now_us, step) in steps.iter().enumerate() {
            disk.tick(now_us as u64);
            apply(&mut disk, &mut slots, step);
        }
        let mode = OpenMode { read: true, ..OpenMode::default() };
        for path in disk.listing().into_keys().chain(["/".to_owned()]) {
            let fd = disk.open(Path::new(&path), mode).unwrap();
            let sync = disk.begin_sync(fd, true).unwrap();
            disk.finish_sync(&sync).unwrap();
        }
        let listing = disk.listing();
        disk.power_fail(&Survivors::None, 0);
        prop_assert_eq!(disk.listing(), listing);
    }

    #[test]
    fn writeback_takes_states_away_and_adds_none(steps in prop::collection::vec(step(), 0..40), personality in personality()) {
        let mut written = disk(personality, 10);
        let slots = run(&mut written, &steps);
        let before = enumerate_states(&written);
        for now_us in 1..200 {
            written.tick(now_us);
            let after = enumerate_states(&written);
            prop_assert!(after.trees.is_subset(&before.trees));
        }
        prop_assert!(written.log().is_empty(), "everything is written in the end");
        slots.into_iter().flatten().for_each(|fd| written.close(fd));
        prop_assert_eq!(written.durable().listing(), written.listing());
        prop_assert_eq!(written.durable().used_sectors(), written.volatile().used_sectors(), "nothing leaks");
    }

    #[test]
    fn a_failed_sync_and_a_crash_leave_a_disk_that_works(
        steps in prop::collection::vec(step(), 0..40),
        more in prop::collection::vec(step(), 0..20),
        failure in failure(),
        personality in personality(),
    ) {
        let mut disk = disk(personality, 0);
        let mut slots = run(&mut disk, &steps);
        for fd in slots.into_iter().flatten() {
            let Ok(sync) = disk.begin_sync(fd, false) else { continue };
            let told = disk.fail_sync(&sync, failure);
            prop_assert!(told.is_err() || failure.report == FsyncReport::NextSync);
        }
        for step in more.iter().filter(|step| !matches!(step, Do::Sync { .. })) {
            apply(&mut disk, &mut slots, step);
        }
        disk.power_fail(&Survivors::Each { permille: 500, key: 1 }, 0);
        slots = [None; 3];
        steps.iter().for_each(|step| apply(&mut disk, &mut slots, step));
    }
}
