//! Power failures while a sync is under way: what may be garbage, what lands late, and what never is either.
#![cfg(madsim)]

use std::path::Path;

use cutwater_io::sim::disk::{Config, Disk, Fd, OpenMode, Personality, enumerate_states};
use cutwater_io::sim::{Key, Survivors, SyncEnd};
use proptest::prelude::*;

fn disk_on(personality: Personality) -> Disk {
    let config = Config { personality, sector_bytes: 512, writeback_interval_us_max: 0, ..Config::default() };
    Disk::new(Key::root(0), config)
}

fn open(disk: &mut Disk, path: &str) -> Fd {
    let mode = OpenMode { read: true, write: true, create: true, ..OpenMode::default() };
    disk.open(Path::new(path), mode).unwrap()
}

fn sync(disk: &mut Disk, fd: Fd) {
    let sync = disk.begin_sync(fd, true).unwrap();
    disk.finish_sync(&sync).unwrap();
}

/// A durable log of `len` bytes `a`, open.
fn log_on(personality: Personality, len: usize) -> (Disk, Fd) {
    let mut disk = disk_on(personality);
    let fd = open(&mut disk, "/log");
    disk.write_at(fd, &vec![b'a'; len], 0).unwrap();
    sync(&mut disk, fd);
    let dir = disk.begin_sync_dir(Path::new("/")).unwrap();
    disk.finish_sync(&dir).unwrap();
    (disk, fd)
}

fn content(disk: &Disk) -> Vec<u8> {
    disk.listing()["/log"].bytes()
}

fn garbage(which: u16, rest: Survivors) -> Survivors {
    Survivors::MidSync { end: SyncEnd::Garbage(which), rest: Box::new(rest) }
}

/// Loses the sectors, keeps the length: the order in which they were written is sectors first.
fn without_sectors(count: u16) -> Survivors {
    Survivors::Losing((0..count).collect())
}

#[test]
fn garbage_is_where_a_sync_was_writing_and_nowhere_else() {
    for personality in [Personality::PosixMin, Personality::Xfs, Personality::Ext4Ordered] {
        let (mut disk, fd) = log_on(personality, 100);
        disk.write_at(fd, &[b'b'; 200], 100).unwrap();
        let _under_way = disk.begin_sync(fd, true).unwrap();
        let record = disk.power_fail(&garbage(0, without_sectors(1)), 0);
        let left = content(&disk);
        assert_eq!((left.len(), &left[..100]), (300, &[b'a'; 100][..]), "what was durable is as it was");
        assert!(left[100..].iter().any(|byte| *byte != 0 && *byte != b'b'), "{personality:?}");
        assert!(
            record.story().contains("lost write of /log sector 0, which left garbage"),
            "{}",
            record.story()
        );
        assert_eq!(disk.durable().hash(), disk.volatile().hash());
    }
}

#[test]
fn the_length_uncovers_garbage_where_the_file_system_has_no_order_against_it() {
    let crash = |personality, durable: usize| {
        let (mut disk, fd) = log_on(personality, durable);
        disk.write_at(fd, &[b'b'; 300], durable as u64).unwrap();
        let _under_way = disk.begin_sync(fd, true).unwrap();
        let record = disk.power_fail(&garbage(0, Survivors::None), 0);
        (record.garbage.is_some(), content(&disk).len())
    };
    assert_eq!(crash(Personality::PosixMin, 512), (true, 812), "a new sector");
    assert_eq!(crash(Personality::PosixMin, 100), (true, 400), "the rest of an old one");
    for ordered in [Personality::Xfs, Personality::Ext4Ordered, Personality::RocksdbFi] {
        assert_eq!(crash(ordered, 512), (false, 512), "new sectors come before the length");
    }
    assert_eq!(crash(Personality::Ext4Ordered, 100), (true, 400));
}

#[test]
fn which_sector_is_garbage_is_chosen_by_its_number() {
    let left = |which: u16| {
        let (mut disk, fd) = log_on(Personality::PosixMin, 512);
        disk.write_at(fd, &[b'b'; 4 * 512], 512).unwrap();
        let _under_way = disk.begin_sync(fd, true).unwrap();
        disk.power_fail(&garbage(which, without_sectors(4)), 0);
        let left = content(&disk);
        let spoilt: Vec<usize> =
            (0..5).filter(|i| !matches!(left[i * 512..][..512], [0 | b'a', ..])).collect();
        assert!(spoilt.len() <= 1 && left[..512] == [b'a'; 512]);
        (spoilt, left)
    };
    assert_eq!(left(7), left(7));
    let mut chosen: Vec<usize> = (0..40).flat_map(|which| left(which).0).collect();
    chosen.sort_unstable();
    chosen.dedup();
    assert_eq!(chosen, [1, 2, 3, 4]);
}

#[test]
fn there_is_none_without_a_sync_under_way_or_where_checksums_tell() {
    let (mut ended, fd) = log_on(Personality::PosixMin, 100);
    ended.write_at(fd, &[b'b'; 200], 100).unwrap();
    let mut never = ended.clone();
    let mut killed = ended.clone();
    let begun = ended.begin_sync(fd, true).unwrap();
    ended.abandon_sync(&begun);
    killed.begin_sync(fd, true).unwrap();
    killed.process_kill();
    let (mut checked, fd) = log_on(Personality::Btrfs, 100);
    checked.write_at(fd, &[b'b'; 200], 100).unwrap();
    checked.begin_sync(fd, true).unwrap();
    let (mut later, fd) = log_on(Personality::PosixMin, 100);
    later.begin_sync(fd, true).unwrap();
    later.write_at(fd, &[b'b'; 200], 100).unwrap();
    for disk in [&mut ended, &mut never, &mut killed, &mut checked, &mut later] {
        let record = disk.power_fail(&garbage(0, without_sectors(1)), 0);
        assert_eq!(record.garbage, None);
        assert!(content(disk)[100..].iter().all(|byte| *byte == 0), "{}", record.story());
    }
}

#[test]
fn a_census_sees_the_garbage_that_the_crash_then_leaves() {
    let (mut disk, fd) = log_on(Personality::PosixMin, 100);
    disk.write_at(fd, &[b'b'; 700], 100).unwrap();
    let before = disk.moment();
    let sets = disk.images(64, 64, &mut Key::root(0).draw("", &[])).images.len();
    let _under_way = disk.begin_sync(fd, true).unwrap();
    assert_ne!(disk.moment(), before);
    let images = disk.images(64, 64, &mut Key::root(0).draw("", &[])).images;
    assert!(images.len() > sets);
    for image in images {
        let mut disk = disk.clone();
        disk.power_fail(&image.survivors, 0);
        assert_eq!(disk.seen_hash(), image.hash, "{:?}", image.survivors);
    }
}

#[test]
fn what_lands_late_is_old_for_the_first_recovery_and_new_for_the_second() {
    let later = |rest| Survivors::MidSync { end: SyncEnd::LandsLater, rest: Box::new(rest) };
    let (mut disk, fd) = log_on(Personality::PosixMin, 100);
    disk.write_at(fd, &[b'b'; 600], 100).unwrap();
    let _under_way = disk.begin_sync(fd, true).unwrap();
    disk.power_fail(&later(Survivors::None), 0);
    disk.process_kill();
    assert_eq!(content(&disk), [b'a'; 100], "nobody has recovered from it");
    let mut written = disk.clone();
    let mut by_power = disk.clone();

    open(&mut disk, "/log");
    assert_eq!(content(&disk), [b'a'; 100]);
    disk.process_kill();
    let new = [&[b'a'; 100][..], &[b'b'; 600]].concat();
    assert_eq!(content(&disk), new);
    disk.power_fail(&Survivors::None, 0);
    assert_eq!(content(&disk), new, "it has landed for good");

    open(&mut by_power, "/log");
    by_power.power_fail(&Survivors::None, 0);
    assert_eq!(content(&by_power), new);

    let fd = open(&mut written, "/log");
    written.write_at(fd, &[b'c'; 900], 0).unwrap();
    sync(&mut written, fd);
    written.power_fail(&Survivors::None, 0);
    assert_eq!(content(&written), [b'c'; 900], "what was written since stays");
}

proptest! {
    /// What was synced stays to the byte, and where no sync was under way the crash leaves one of the ordinary states.
    #[test]
    fn only_what_a_sync_was_to_change_can_be_garbage(
        durable in 0usize..1500,
        appends in prop::collection::vec(1usize..900, 1..4),
        synced_from in 0usize..5,
        which: u16,
        permille in 0u16..=1000,
        key: u32,
        personality in prop::sample::select(Personality::ALL),
    ) {
        let (mut disk, fd) = log_on(personality, durable);
        let mut end = durable as u64;
        for (i, len) in appends.iter().enumerate() {
            if i == synced_from {
                disk.begin_sync(fd, true).unwrap();
            }
            disk.write_at(fd, &vec![b'b'; *len], end).unwrap();
            end += *len as u64;
        }
        let ordinary = enumerate_states(&disk).trees;
        let written_by_sync: usize = appends.iter().take(synced_from).sum();
        let is_under_way = synced_from < appends.len() && written_by_sync > 0;
        let record = disk.power_fail(&garbage(which, Survivors::Each { permille, key }), 0);
        let left = content(&disk);
        prop_assert!(left.len() >= durable && left[..durable].iter().all(|byte| *byte == b'a'));
        let beyond = left.get(durable + written_by_sync..).unwrap_or_default();
        prop_assert!(beyond.iter().all(|byte| matches!(*byte, 0 | b'b')), "that was not to be synced");
        prop_assert!(record.garbage.is_none() || is_under_way);
        if record.garbage.is_none() {
            prop_assert!(ordinary.contains(&disk.listing()));
        }
    }
}
