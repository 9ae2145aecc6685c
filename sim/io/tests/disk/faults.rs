//! Syncs that fail and disks that are full.
#![cfg(madsim)]

use std::path::Path;

use cutwater_io::sim::disk::{Config, Disk, Fd, OpenMode, Personality};
use cutwater_io::sim::{FsyncFail, FsyncReport, Key, Survivors};

const OLD: [u8; 512] = [b'o'; 512];
const NEW: [u8; 512] = [b'n'; 512];

fn disk(personality: Personality, seed: u64) -> Disk {
    let config = Config { personality, sector_bytes: 512, writeback_interval_us_max: 0, ..Config::default() };
    Disk::new(Key::root(seed), config)
}

fn open(disk: &mut Disk, create: bool) -> Fd {
    disk.open(Path::new("/f"), OpenMode { read: true, write: true, create, ..OpenMode::default() }).unwrap()
}

fn sync(disk: &mut Disk, fd: Fd) -> Result<(), i32> {
    let sync = code(disk.begin_sync(fd, true))?;
    code(disk.finish_sync(&sync))
}

fn sync_root(disk: &mut Disk) {
    let sync = disk.begin_sync_dir(Path::new("/")).unwrap();
    disk.finish_sync(&sync).unwrap();
}

fn fail(disk: &mut Disk, fd: Fd, failure: FsyncFail) {
    let sync = disk.begin_sync(fd, false).unwrap();
    assert_eq!(code(disk.fail_sync(&sync, failure)), Err(libc::EIO));
}

fn code<T>(result: std::io::Result<T>) -> Result<T, i32> {
    result.map_err(|e| e.raw_os_error().expect("an error of the operating system"))
}

fn content(disk: &Disk) -> Vec<u8> {
    disk.listing()["/f"].bytes()
}

/// A durable sector of old bytes, overwritten with new ones and followed by another new one, neither synced.
fn overwritten_and_grown(personality: Personality) -> (Disk, Fd) {
    overwritten_and_grown_on(personality, 0)
}

fn overwritten_and_grown_on(personality: Personality, seed: u64) -> (Disk, Fd) {
    let mut disk = disk(personality, seed);
    let fd = open(&mut disk, true);
    disk.write_at(fd, &OLD, 0).unwrap();
    sync(&mut disk, fd).unwrap();
    sync_root(&mut disk);
    disk.write_at(fd, &NEW, 0).unwrap();
    disk.write_at(fd, &NEW, 512).unwrap();
    (disk, fd)
}

/// Which of the two sectors are new.
fn is_new(content: &[u8]) -> Vec<bool> {
    content.chunks(512).map(|sector| sector == NEW).collect()
}

#[test]
fn a_later_sync_succeeds_and_writes_nothing_of_what_was_lost() {
    for personality in Personality::ALL.iter().copied() {
        for failure in [FsyncFail::EXT4, FsyncFail::XFS, FsyncFail::BTRFS] {
            let (mut disk, fd) = overwritten_and_grown(personality);
            fail(&mut disk, fd, failure);
            assert_eq!(sync(&mut disk, fd), Ok(()), "the pages are clean");
            disk.power_fail(&Survivors::All, 0);
            assert_ne!(is_new(&content(&disk)), [true, true], "{personality:?} {failure:?}");
        }
    }
}

#[test]
fn what_processes_read_after_the_failure_depends_on_the_file_system() {
    for (failure, whole) in [(FsyncFail::EXT4, true), (FsyncFail::XFS, true), (FsyncFail::BTRFS, false)] {
        let (mut disk, fd) = overwritten_and_grown(Personality::PosixMin);
        fail(&mut disk, fd, failure);
        assert_eq!(is_new(&content(&disk)) == [true, true], whole, "{failure:?}");
        let mut buf = [0; 1024];
        let n = disk.read_at(fd, &mut buf, 0).unwrap();
        assert_eq!(buf[..n], content(&disk), "{failure:?}");
    }
}

#[test]
fn a_length_can_become_durable_over_data_that_never_will() {
    // The choice of what is lost is drawn: go on until the second sector is.
    let seen = (0..50).any(|seed| {
        let (mut disk, fd) = overwritten_and_grown_on(Personality::Ext4Ordered, seed);
        fail(&mut disk, fd, FsyncFail::EXT4);
        sync(&mut disk, fd).unwrap();
        disk.power_fail(&Survivors::None, 0);
        let content = content(&disk);
        assert_eq!(content.len(), 1024, "the length was committed");
        content[512..] == [0; 512]
    });
    assert!(seen);
    let (mut disk, fd) = overwritten_and_grown(Personality::Ext4Ordered);
    fail(&mut disk, fd, FsyncFail::XFS);
    sync(&mut disk, fd).unwrap();
    disk.power_fail(&Survivors::All, 0);
    assert_eq!(content(&disk).len(), 512, "the length was lost with the data");
}

#[test]
fn each_file_open_at_the_failure_is_told_once_and_no_later_one() {
    let (mut disk, caller) = overwritten_and_grown(Personality::PosixMin);
    let bystander = open(&mut disk, false);
    fail(&mut disk, caller, FsyncFail::EXT4);
    let late = open(&mut disk, false);
    assert_eq!(sync(&mut disk, late), Ok(()));
    assert_eq!(sync(&mut disk, caller), Ok(()), "the caller was told by the failed call");
    assert_eq!(sync(&mut disk, bystander), Err(libc::EIO));
    assert_eq!(sync(&mut disk, bystander), Ok(()));
}

#[test]
fn a_failed_sync_of_a_directory_loses_its_names() {
    let mut disk = disk(Personality::PosixMin, 0);
    let fd = open(&mut disk, true);
    disk.write_at(fd, &NEW, 0).unwrap();
    sync(&mut disk, fd).unwrap();
    let names = disk.begin_sync_dir(Path::new("/")).unwrap();
    assert_eq!(code(disk.fail_sync(&names, FsyncFail::EXT4)), Err(libc::EIO));
    sync_root(&mut disk);
    assert!(disk.listing().contains_key("/f"));
    disk.power_fail(&Survivors::All, 0);
    assert!(disk.listing().is_empty());
}

#[test]
fn a_failed_sync_of_a_directory_is_told_to_those_who_have_it_open() {
    let mut disk = disk(Personality::PosixMin, 0);
    let dir = disk.open(Path::new("/"), OpenMode { read: true, ..OpenMode::default() }).unwrap();
    open(&mut disk, true);
    let names = disk.begin_sync_dir(Path::new("/")).unwrap();
    assert_eq!(code(disk.fail_sync(&names, FsyncFail::EXT4)), Err(libc::EIO));
    assert_eq!(sync(&mut disk, dir), Err(libc::EIO));
    assert_eq!(sync(&mut disk, dir), Ok(()));
}

#[test]
fn a_failed_sync_of_a_directory_is_told_to_one_under_way() {
    let mut disk = disk(Personality::PosixMin, 0);
    open(&mut disk, true);
    let [first, under_way] = [0, 1].map(|_| disk.begin_sync_dir(Path::new("/")).unwrap());
    assert_eq!(code(disk.fail_sync(&first, FsyncFail::EXT4)), Err(libc::EIO));
    let later = disk.begin_sync_dir(Path::new("/")).unwrap();
    assert_eq!(code(disk.finish_sync(&under_way)), Err(libc::EIO));
    assert_eq!(code(disk.finish_sync(&later)), Ok(()), "it opens the directory when all is over");
}

#[test]
fn a_file_system_that_gave_up_waits_for_the_machine() {
    for (failure, read, write) in [
        (FsyncFail::XFS_SHUTDOWN, Err(libc::EIO), libc::EIO),
        (FsyncFail::BTRFS_READONLY, Ok(512), libc::EROFS),
    ] {
        let (mut disk, fd) = overwritten_and_grown(Personality::PosixMin);
        fail(&mut disk, fd, failure);
        assert!(!disk.works());
        for after_restart in [false, true] {
            let mode = OpenMode { read: true, ..OpenMode::default() };
            let reader = if after_restart {
                disk.process_kill();
                code(disk.open(Path::new("/f"), mode))
            } else {
                Ok(fd)
            };
            let bytes = reader.and_then(|fd| code(disk.read_at(fd, &mut [0; 512], 0)));
            assert_eq!(bytes, read, "{failure:?}");
            assert_eq!(code(disk.open(Path::new("/f"), OpenMode { write: true, ..mode })), Err(write));
            assert_eq!(code(disk.create_dir(Path::new("/d"))), Err(write));
            assert_eq!(code(disk.rename(Path::new("/f"), Path::new("/g"))), Err(write));
            assert_eq!(code(disk.remove_file(Path::new("/f"))), Err(write));
            assert_eq!(code(disk.begin_sync_dir(Path::new("/")).map(drop)), Err(write));
        }
        let pending = disk.log().len();
        disk.tick(1_000_000_000);
        assert_eq!(disk.log().len(), pending, "nothing is written back");
        disk.power_fail(&Survivors::None, 0);
        assert!(disk.works());
        assert_eq!(content(&disk), OLD);
    }
}

#[test]
fn a_lie_says_that_all_is_well_once_and_is_over_after_the_next_sync() {
    let (mut disk, caller) = overwritten_and_grown(Personality::PosixMin);
    let bystander = open(&mut disk, false);
    let begun = disk.begin_sync(caller, true).unwrap();
    assert!(disk.fail_sync(&begun, FsyncFail::EXT4_JOURNAL).is_ok());
    let mut copy = disk.clone();
    copy.power_fail(&Survivors::All, 0);
    assert_ne!(is_new(&content(&copy)), [true, true], "it was acknowledged and is not there");
    assert_eq!(sync(&mut disk, bystander), Err(libc::EIO), "whoever comes next");
    assert_eq!((sync(&mut disk, bystander), sync(&mut disk, caller)), (Ok(()), Ok(())));

    let (mut disk, caller) = overwritten_and_grown(Personality::PosixMin);
    let bystander = open(&mut disk, false);
    fail(&mut disk, caller, FsyncFail { report: FsyncReport::FirstCallerOnly, ..FsyncFail::EXT4 });
    assert_eq!((sync(&mut disk, bystander), sync(&mut disk, caller)), (Ok(()), Ok(())));
}

#[test]
fn a_thinly_provisioned_disk_misses_space_when_it_syncs() {
    let mut disk = disk(Personality::PosixMin, 0);
    let fd = open(&mut disk, true);
    disk.write_at(fd, &OLD, 0).unwrap();
    sync(&mut disk, fd).unwrap();
    sync_root(&mut disk);
    disk.set_capacity(Some(disk.used_on_medium_bytes()));
    disk.set_late_enospc(true);
    disk.write_at(fd, &NEW, 0).unwrap();
    assert_eq!(sync(&mut disk, fd), Ok(()), "what is allocated can be overwritten");
    assert_eq!(disk.write_at(fd, &NEW, 512).unwrap(), 512, "it is taken");
    disk.tick(1_000_000_000);
    let bystander = open(&mut disk, false);
    assert_eq!(sync(&mut disk, fd), Err(libc::ENOSPC));
    assert_eq!(sync(&mut disk, bystander), Err(libc::ENOSPC));
    assert_eq!(sync(&mut disk, fd), Ok(()), "the pages are clean");
    disk.power_fail(&Survivors::All, 0);
    assert_eq!(content(&disk), NEW, "one sector was overwritten, the other never written");
}

/// What a crash, a failed sync and writeback choose about one file does not depend on whether there is another.
#[test]
fn another_file_moves_no_choice() {
    let config = Config { sector_bytes: 512, writeback_interval_us_max: 1_000_000, ..Config::default() };
    let left = |more: bool, choice: &Survivors, seed: u64, failing: bool| {
        let mut disk = Disk::new(Key::root(seed), config.clone());
        if more {
            let other = disk
                .open(Path::new("/0"), OpenMode { write: true, create: true, ..OpenMode::default() })
                .unwrap();
            disk.write_at(other, &[7; 2048], 0).unwrap();
        }
        let fd = open(&mut disk, true);
        sync_root(&mut disk);
        for sector in 0..6 {
            disk.write_at(fd, &NEW, sector * 512).unwrap();
        }
        if failing {
            fail(&mut disk, fd, FsyncFail::EXT4);
        } else {
            disk.tick(600_000);
        }
        disk.power_fail(choice, 0);
        content(&disk)
    };
    let mut different = std::collections::BTreeSet::new();
    for seed in 0..20 {
        for (choice, failing) in [
            (Survivors::None, false),
            (Survivors::All, true),
            (Survivors::Each { permille: 500, key: 7 }, false),
        ] {
            let alone = left(false, &choice, seed, failing);
            assert_eq!(alone, left(true, &choice, seed, failing), "{choice:?} {failing}");
            different.insert(alone);
        }
    }
    assert!(different.len() > 10, "choices differ");
}

#[test]
fn a_full_disk_takes_what_fits_and_frees_only_what_is_closed() {
    let mut disk = disk(Personality::PosixMin, 0);
    disk.set_capacity(Some(3 * 512));
    let fd = open(&mut disk, true);
    assert_eq!(disk.write_at(fd, &[1; 4 * 512], 0).unwrap(), 3 * 512);
    assert_eq!(disk.used_bytes(), 3 * 512);
    let full = |result: std::io::Result<usize>| result.unwrap_err().raw_os_error() == Some(libc::ENOSPC);
    assert!(full(disk.write_at(fd, &[1], 3 * 512)));
    assert_eq!(disk.write_at(fd, &[2; 512], 512).unwrap(), 512, "what is allocated can be overwritten");
    let mkdir = disk.create_dir(Path::new("/d")).unwrap_err();
    assert_eq!(mkdir.kind(), std::io::ErrorKind::StorageFull);

    disk.remove_file(Path::new("/f")).unwrap();
    assert_eq!(disk.used_bytes(), 3 * 512, "it is still open");
    disk.close(fd);
    assert_eq!(disk.used_bytes(), 0);
    let fd = open(&mut disk, true);
    disk.write_at(fd, &[3; 512], 4096).unwrap();
    assert_eq!(disk.used_bytes(), 512, "a hole takes no space");
    disk.set_len(fd, 0).unwrap();
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn an_uncovered_sector_reads_as_zeros_or_as_what_was_there_before() {
    for stale_tail in [false, true] {
        let config =
            Config { sector_bytes: 512, writeback_interval_us_max: 0, stale_tail, ..Config::default() };
        let mut disk = Disk::new(Key::root(5), config);
        let fd = open(&mut disk, true);
        sync_root(&mut disk);
        disk.write_at(fd, &NEW, 0).unwrap();
        // The sector is gone, the length is not.
        disk.power_fail(&Survivors::Losing(vec![0]), 0);
        let content = content(&disk);
        assert_eq!(content.len(), 512);
        assert_eq!(content.iter().all(|byte| *byte == 0), !stale_tail);
        assert_ne!(content, NEW);
    }
}

#[test]
fn a_split_rename_may_leave_both_names_and_never_none() {
    let config = Config { split_cross_dir_rename: true, writeback_interval_us_max: 0, ..Config::default() };
    let mut disk = Disk::new(Key::root(5), config);
    disk.create_dir(Path::new("/d")).unwrap();
    open(&mut disk, true);
    sync_root(&mut disk);
    disk.rename(Path::new("/f"), Path::new("/d/f")).unwrap();
    let names: Vec<Vec<String>> = cutwater_io::sim::disk::enumerate_states(&disk)
        .trees
        .into_iter()
        .map(|tree| tree.into_keys().filter(|path| path != "/d").collect())
        .collect();
    assert_eq!(names.len(), 3);
    for expected in [&["/f"][..], &["/d/f", "/f"], &["/d/f"]] {
        assert!(names.iter().any(|n| n == expected), "{expected:?} in {names:?}");
    }
}
