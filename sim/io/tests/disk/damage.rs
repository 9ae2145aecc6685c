//! Damage to the medium: what readers are given, what lifts it, and what the ledger says.
#![cfg(madsim)]

use std::path::Path;

use cutwater_io::sim::disk::{Bite, Config, DamageKind, Damaged, Disk, Fd, OpId, OpenMode, Personality};
use cutwater_io::sim::{Damage, Key, Survivors};
use proptest::prelude::*;

const A: [u8; 512] = [b'a'; 512];
const B: [u8; 512] = [b'b'; 512];
const C: [u8; 512] = [b'c'; 512];
const ROT: Damage = Damage::BitRot { sectors: 1 };

fn disk_on(personality: Personality, seed: u64) -> Disk {
    let config = Config { personality, sector_bytes: 512, writeback_interval_us_max: 0, ..Config::default() };
    Disk::new(Key::root(seed), config)
}

fn class_of(path: &Path) -> &'static str {
    if path.extension().is_some_and(|extension| extension == "log") { "wal" } else { "other" }
}

fn open(disk: &mut Disk, path: &str) -> Fd {
    let mode = OpenMode { read: true, write: true, create: true, ..OpenMode::default() };
    disk.open(Path::new(path), mode).unwrap()
}

fn sync(disk: &mut Disk, fd: Fd) {
    let sync = disk.begin_sync(fd, false).unwrap();
    disk.finish_sync(&sync).unwrap();
}

fn sync_root(disk: &mut Disk) {
    let sync = disk.begin_sync_dir(Path::new("/")).unwrap();
    disk.finish_sync(&sync).unwrap();
}

/// A durable file with these contents, open.
fn durable(disk: &mut Disk, path: &str, contents: &[[u8; 512]]) -> Fd {
    let fd = open(disk, path);
    disk.write_at(fd, &contents.concat(), 0).unwrap();
    sync(disk, fd);
    sync_root(disk);
    fd
}

fn one_file(contents: &[[u8; 512]]) -> (Disk, Fd) {
    let mut disk = disk_on(Personality::PosixMin, 0);
    let fd = durable(&mut disk, "/f", contents);
    (disk, fd)
}

/// The whole file, up to an error.
fn read(disk: &mut Disk, fd: Fd) -> Result<Vec<u8>, i32> {
    let mut bytes = Vec::new();
    loop {
        let mut buf = [0; 300];
        match disk.read_at(fd, &mut buf, bytes.len() as u64) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&buf[..n]),
            Err(e) => return Err(e.raw_os_error().unwrap()),
        }
    }
}

fn bits_apart(one: &[u8], other: &[u8]) -> u32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum()
}

fn last(disk: &Disk) -> Damaged {
    disk.ledger().last().expect("there is damage").clone()
}

#[test]
fn a_file_is_damaged_if_everybody_reads_something_else_by_any_of_its_names() {
    let (mut disk, fd) = one_file(&[A, B]);
    let (name, other) = (Path::new("/f"), Path::new("/g"));
    disk.hard_link(name, other).unwrap();
    durable(&mut disk, "/copy", &[A, B]);
    assert_eq!(disk.ino(name), disk.ino(other));
    assert_ne!(disk.ino(name), disk.ino(Path::new("/copy")));
    assert_eq!(disk.ino(Path::new("/nothing")), None);
    assert!(disk.damage_read(fd, 0, 1024, Damage::BitFlipOnce, "other"));
    assert!(!disk.is_damaged(name), "one read only");
    assert!(disk.damage_read(fd, 0, 1024, ROT, "other"));
    assert!(disk.is_damaged(name) && disk.is_damaged(other) && !disk.is_damaged(Path::new("/copy")));
    disk.write_at(fd, &[A, B].concat(), 0).unwrap();
    assert!(!disk.is_damaged(name), "read from memory");
    disk.power_fail(&Survivors::None, 0);
    assert!(disk.is_damaged(name));
    assert_eq!(disk.ledger().map(|damaged| damaged.served).sum::<u64>(), 0, "nobody was served");
}

#[test]
fn a_sector_that_cannot_be_read_stays_so_until_it_is_written_anew() {
    let (mut disk, fd) = one_file(&[A, B]);
    assert!(disk.damage_at_rest("other", 1, Damage::Eio, class_of));
    let at = last(&disk).bytes.start;
    assert_eq!(read(&mut disk, fd), Err(libc::EIO));
    let mut whole = [0; 1024];
    if at == 512 {
        assert_eq!(disk.read_at(fd, &mut whole, 0).unwrap(), 512, "what comes before can be read");
    }
    disk.process_kill();
    disk.power_fail(&Survivors::None, 0);
    let fd = open(&mut disk, "/f");
    assert_eq!(read(&mut disk, fd), Err(libc::EIO), "it outlives processes and crashes");

    disk.write_at(fd, &C, at).unwrap();
    assert_eq!(read(&mut disk, fd).unwrap().len(), 1024, "what is pending is read from memory");
    disk.power_fail(&Survivors::None, 0);
    let fd = open(&mut disk, "/f");
    assert_eq!(read(&mut disk, fd), Err(libc::EIO), "the write did not get through");
    assert_eq!(last(&disk).lifted_us, None);
    disk.write_at(fd, &C, at).unwrap();
    disk.tick(77);
    sync(&mut disk, fd);
    assert_eq!(read(&mut disk, fd).unwrap().len(), 1024);
    assert_eq!(last(&disk).lifted_us, Some(77));
    assert!(last(&disk).served >= 3);
}

#[test]
fn rot_is_the_same_in_each_read_and_the_pristine_content_is_kept() {
    let (mut disk, fd) = one_file(&[A, B, C]);
    let pristine = read(&mut disk, fd).unwrap();
    assert!(disk.damage_at_rest("", 1, Damage::BitRot { sectors: 2 }, class_of));
    let damaged = last(&disk);
    let sectors = (damaged.bytes.end - damaged.bytes.start) / 512;
    let rotten = read(&mut disk, fd).unwrap();
    assert_eq!(u64::from(bits_apart(&pristine, &rotten)), sectors);
    assert_eq!(read(&mut disk, fd).unwrap(), rotten);
    assert_eq!(disk.volatile().hash(), one_file(&[A, B, C]).0.volatile().hash());
    assert_eq!((damaged.kind, damaged.class, damaged.path.as_str()), (DamageKind::BitRot, "other", "/f"));

    let dir = tempfile::tempdir().unwrap();
    disk.export("/", dir.path()).unwrap();
    let mut judge = disk_on(Personality::PosixMin, 0);
    judge.import(dir.path(), Path::new("/")).unwrap();
    assert_eq!(judge.listing()["/f"].bytes(), rotten, "a judge of the exported directory sees it too");

    disk.rename(Path::new("/f"), Path::new("/g")).unwrap();
    sync_root(&mut disk);
    let copy = disk.clone();
    disk.lift_damage();
    assert_eq!(read(&mut disk, fd).unwrap(), pristine);
    let mut copy = copy;
    assert_eq!(read(&mut copy, fd).unwrap(), rotten, "a clone has its own damage");
}

#[test]
fn the_bit_that_rots_depends_on_the_content_alone() {
    let of = |seed| {
        let mut disk = disk_on(Personality::PosixMin, seed);
        let fd = durable(&mut disk, "/f", &[A]);
        assert!(disk.damage_read(fd, 0, 512, ROT, "other"));
        read(&mut disk, fd).unwrap()
    };
    assert_eq!(of(1), of(2));
}

#[test]
fn a_flipped_bit_and_a_stale_read_are_over_after_one_read() {
    let (mut disk, fd) = one_file(&[A]);
    disk.write_at(fd, &B, 0).unwrap();
    sync(&mut disk, fd);
    let read = |disk: &mut Disk| {
        let mut buf = [0; 512];
        assert_eq!(disk.read_at(fd, &mut buf, 0).unwrap(), 512);
        buf
    };
    assert!(disk.damage_read(fd, 0, 512, Damage::BitFlipOnce, "other"));
    assert_eq!(bits_apart(&read(&mut disk), &B), 1);
    assert_eq!(read(&mut disk), B);
    assert!(disk.damage_read(fd, 0, 512, Damage::StaleRead, "other"));
    assert_eq!(read(&mut disk), A, "what was there before");
    assert_eq!(read(&mut disk), B);

    let since = disk.log().next_id();
    disk.write_at(fd, &C, 0).unwrap();
    assert!(disk.damage_write(fd, since, Damage::StaleRead, "other", class_of));
    assert_eq!(read(&mut disk), C, "the page is dirty");
    sync(&mut disk, fd);
    assert_eq!(read(&mut disk), B);
    assert_eq!(read(&mut disk), C);
    let served: Vec<u64> = disk.ledger().map(|damaged| damaged.served).collect();
    assert_eq!(served, [1, 1, 1]);
    assert!(disk.ledger().all(|damaged| damaged.lifted_us.is_some()));
}

#[test]
fn a_lost_write_was_acknowledged_and_synced_and_is_not_there() {
    for at_sync in [false, true] {
        let (mut disk, fd) = one_file(&[A]);
        let since = disk.log().next_id();
        disk.write_at(fd, &B, 0).unwrap();
        if !at_sync {
            assert!(disk.damage_write(fd, since, Damage::LostWrite, "other", class_of));
        }
        assert_eq!(read(&mut disk, fd).unwrap(), B, "the page is dirty");
        let begun = disk.begin_sync(fd, true).unwrap();
        if at_sync {
            assert!(disk.damage_sync(&begun, Damage::LostWrite, "other", class_of));
        }
        disk.finish_sync(&begun).unwrap();
        assert_eq!(read(&mut disk, fd).unwrap(), A);
        disk.power_fail(&Survivors::All, 0);
        let fd = open(&mut disk, "/f");
        assert_eq!(read(&mut disk, fd).unwrap(), A);
        assert_eq!((last(&disk).kind, last(&disk).lifted_us), (DamageKind::LostWrite, None));
        disk.write_at(fd, &C, 0).unwrap();
        sync(&mut disk, fd);
        assert_eq!(read(&mut disk, fd).unwrap(), C, "the next write gets there");
    }
}

#[test]
fn a_write_that_a_crash_takes_was_not_lost_by_the_medium() {
    let (mut disk, fd) = one_file(&[A]);
    let since = disk.log().next_id();
    disk.write_at(fd, &B, 0).unwrap();
    assert!(disk.damage_write(fd, since, Damage::LostWrite, "other", class_of));
    disk.power_fail(&Survivors::None, 5);
    assert_eq!((last(&disk).lifted_us, last(&disk).served), (Some(5), 0));
}

#[test]
fn a_misdirected_write_damages_two_places_of_one_class() {
    let mut disk = disk_on(Personality::PosixMin, 0);
    let victim = durable(&mut disk, "/1.log", &[A]);
    durable(&mut disk, "/f", &[A]);
    let fd = durable(&mut disk, "/2.log", &[B]);
    let since = disk.log().next_id();
    disk.write_at(fd, &C, 0).unwrap();
    assert!(disk.damage_write(fd, since, Damage::Misdirect, "wal", class_of));
    sync(&mut disk, fd);
    assert_eq!(read(&mut disk, fd).unwrap(), B, "not here");
    assert_eq!(read(&mut disk, victim).unwrap(), C, "but there");
    let kinds: Vec<(DamageKind, String)> = disk.ledger().map(|d| (d.kind, d.path.clone())).collect();
    let (from, to) = (DamageKind::MisdirectedFrom, DamageKind::MisdirectedTo);
    assert_eq!(kinds, [(from, "/2.log".into()), (to, "/1.log".into())]);
}

#[test]
fn what_is_removed_or_cut_off_is_not_damaged_any_more() {
    let (mut disk, fd) = one_file(&[A, B]);
    assert!(disk.damage_read(fd, 512, 512, Damage::Eio, "other"));
    disk.set_len(fd, 512).unwrap();
    assert_eq!(last(&disk).lifted_us, None, "a crash can bring it back");
    disk.tick(8);
    sync(&mut disk, fd);
    assert_eq!(last(&disk).lifted_us, Some(8));

    assert!(disk.damage_read(fd, 0, 512, Damage::Eio, "other"));
    disk.remove_file(Path::new("/f")).unwrap();
    sync_root(&mut disk);
    assert_eq!(read(&mut disk, fd), Err(libc::EIO), "it is still open");
    disk.tick(9);
    disk.close(fd);
    assert_eq!(last(&disk).lifted_us, Some(9));
    assert!(!disk.damage_at_rest("", 1, Damage::Eio, class_of), "nothing is there to be damaged");
}

#[test]
fn a_file_system_with_checksums_gives_errors_rather_than_wrong_bytes() {
    for damage in [ROT, Damage::BitFlipOnce] {
        let mut disk = disk_on(Personality::Btrfs, 0);
        let fd = durable(&mut disk, "/f", &[A]);
        assert!(disk.damage_read(fd, 0, 512, damage, "other"));
        assert_eq!(read(&mut disk, fd), Err(libc::EIO), "{damage:?}");
        assert_eq!(read(&mut disk, fd).is_ok(), damage == Damage::BitFlipOnce, "{damage:?}");
    }
}

/// Which sector is struck does not depend on what else there is, unless that is struck itself.
#[test]
fn another_file_does_not_move_the_choice() {
    let struck = |more: bool, nth: u32| {
        let mut disk = disk_on(Personality::PosixMin, 0);
        if more {
            durable(&mut disk, "/0.log", &[C]);
        }
        durable(&mut disk, "/1.log", &[A, B, C]);
        durable(&mut disk, "/2.log", &[A, B]);
        assert!(disk.damage_at_rest("wal", nth, Damage::Eio, class_of));
        (last(&disk).path, last(&disk).bytes)
    };
    let with_more: Vec<_> = (0..60).map(|nth| struck(true, nth)).collect();
    for (nth, choice) in (0..).zip(&with_more) {
        assert!(choice.0 == "/0.log" || *choice == struck(false, nth));
    }
    for path in ["/0.log", "/1.log", "/2.log"] {
        let share = with_more.iter().filter(|choice| choice.0 == path).count();
        assert!((8..=34).contains(&share), "{share} of 60 strike {path}");
    }
}

fn first_sector(disk: &mut Disk, fd: Fd) -> Result<[u8; 512], i32> {
    let mut buf = [0; 512];
    disk.read_at(fd, &mut buf, 0).map(|_| buf).map_err(|e| e.raw_os_error().unwrap())
}

/// What the ledger says of each damage: whether it was laid, whether it lies there, how often it was served.
fn told(disk: &Disk) -> Vec<(bool, bool, u64)> {
    disk.ledger().map(|d| (d.laid, d.lifted_us.is_none(), d.served)).collect()
}

#[test]
fn what_shows_once_lies_over_what_lasts_and_uncovers_it() {
    for lasting in [Damage::Eio, ROT] {
        for once in [Damage::StaleRead, Damage::BitFlipOnce] {
            let (mut disk, fd) = one_file(&[A]);
            disk.write_at(fd, &B, 0).unwrap();
            sync(&mut disk, fd);
            assert!(disk.damage_read(fd, 0, 512, lasting, "other"));
            let lasts = first_sector(&mut disk, fd);
            assert!(disk.damage_read(fd, 0, 512, once, "other"));
            let over = first_sector(&mut disk, fd);
            match (lasting, once) {
                (_, Damage::StaleRead) => assert_eq!(over, Ok(A)),
                (Damage::Eio, _) => assert_eq!(over, Err(libc::EIO), "there is nothing to flip a bit of"),
                _ => assert_eq!(bits_apart(&over.unwrap(), &lasts.unwrap()), 1),
            }
            assert_eq!(first_sector(&mut disk, fd), lasts, "{lasting:?} under {once:?}");
            let seen = over != lasts;
            let below = if once == Damage::StaleRead { 2 } else { 3 };
            assert_eq!(told(&disk), [(true, true, below), (seen, false, u64::from(seen))]);
        }
    }
}

#[test]
fn a_write_that_is_lost_heals_nothing() {
    let (mut disk, fd) = one_file(&[A]);
    assert!(disk.damage_read(fd, 0, 512, ROT, "other"));
    let rotten = first_sector(&mut disk, fd);
    for (n, content) in [B, C].into_iter().enumerate() {
        let since = disk.log().next_id();
        disk.write_at(fd, &content, 0).unwrap();
        assert!(disk.damage_write(fd, since, Damage::LostWrite, "other", class_of));
        assert!(!disk.damage_write(fd, since, Damage::LostWrite, "other", class_of), "it is lost already");
        sync(&mut disk, fd);
        assert_eq!(first_sector(&mut disk, fd), rotten);
        assert_eq!(disk.ledger().filter(|d| d.served > 0).count(), n + 2, "all of them are to blame");
    }
    disk.write_at(fd, &C, 0).unwrap();
    sync(&mut disk, fd);
    assert_eq!(first_sector(&mut disk, fd), Ok(C));
    assert!(disk.ledger().all(|d| d.lifted_us.is_some()));
}

#[test]
fn what_changes_nothing_is_no_damage() {
    let (mut disk, fd) = one_file(&[A]);
    // Nothing is read, or nothing that lies on the medium.
    let empty = open(&mut disk, "/empty");
    let hole = open(&mut disk, "/hole");
    disk.set_len(hole, 512).unwrap();
    sync(&mut disk, hole);
    for damage in [Damage::Eio, ROT, Damage::BitFlipOnce, Damage::StaleRead] {
        assert!(!disk.damage_read(empty, 0, 512, damage, "other"));
        assert!(!disk.damage_read(hole, 0, 512, damage, "other"));
    }
    assert_eq!(told(&disk), []);
    // What was there before is there now.
    disk.write_at(fd, &A, 0).unwrap();
    sync(&mut disk, fd);
    assert!(!disk.damage_read(fd, 0, 512, Damage::StaleRead, "other"));
    for damage in [Damage::LostWrite, Damage::StaleRead] {
        let since = disk.log().next_id();
        disk.write_at(fd, &A, 0).unwrap();
        assert!(disk.damage_write(fd, since, damage, "other", class_of));
        sync(&mut disk, fd);
        assert_eq!(first_sector(&mut disk, fd), Ok(A));
        assert_eq!(told(&disk).pop(), Some((false, false, 0)));
    }
    // A crash takes the write.
    let since = disk.log().next_id();
    disk.write_at(fd, &B, 0).unwrap();
    assert!(disk.damage_write(fd, since, Damage::LostWrite, "other", class_of));
    disk.power_fail(&Survivors::None, 5);
    assert_eq!(told(&disk).pop(), Some((false, false, 0)));
    assert_eq!(disk.take_bites(), []);
}

#[test]
fn a_fault_is_told_once_when_it_bites_and_once_when_it_is_served() {
    let mut disk = disk_on(Personality::PosixMin, 0);
    let victim = durable(&mut disk, "/1.log", &[A]);
    let fd = durable(&mut disk, "/2.log", &[B]);
    let since = disk.log().next_id();
    disk.write_at(fd, &C, 0).unwrap();
    assert!(disk.damage_write(fd, since, Damage::Misdirect, "wal", class_of));
    assert_eq!(disk.take_bites(), [], "it is pending");
    sync(&mut disk, fd);
    assert_eq!(disk.take_bites(), [Bite::Laid(DamageKind::MisdirectedFrom)]);
    for fd in [victim, fd, victim] {
        first_sector(&mut disk, fd).unwrap();
    }
    assert_eq!(disk.take_bites(), [Bite::Served(DamageKind::MisdirectedTo)]);
    assert!(disk.damage_read(fd, 0, 512, Damage::BitFlipOnce, "wal"));
    assert_eq!(disk.take_bites(), [], "nobody has read it");
    first_sector(&mut disk, fd).unwrap();
    let flip = DamageKind::BitFlip;
    assert_eq!(disk.take_bites(), [Bite::Laid(flip), Bite::Served(flip)]);
}

/// A census looks at an image once: those that differ in what is damaged are two.
#[test]
fn images_are_told_apart_by_their_damage() {
    let with = |damage: Option<Damage>| {
        let (mut disk, fd) = one_file(&[A]);
        disk.write_at(fd, &B, 0).unwrap();
        let before = disk.moment();
        if let Some(damage) = damage {
            assert!(disk.damage_write(fd, OpId(0), damage, "other", class_of));
            assert_ne!(disk.moment(), before);
        }
        let images = disk.images(64, 64, &mut Key::root(0).draw("", &[])).images;
        (images.iter().map(|image| (image.survivors.clone(), image.hash)).collect::<Vec<_>>(), disk)
    };
    let (plain, _) = with(None);
    let (doomed, mut disk) = with(Some(Damage::LostWrite));
    assert_eq!(plain.len(), 2);
    for ((survivors, plain), (_, doomed)) in plain.iter().zip(&doomed) {
        assert_eq!(plain == doomed, *survivors == Survivors::None, "a write that is lost is not damaged");
    }
    assert_eq!(disk.images(64, 64, &mut Key::root(0).draw("", &[])).images[0].hash, doomed[0].1);
    let hash = disk.seen_hash();
    disk.power_fail(&Survivors::All, 0);
    assert_eq!(disk.seen_hash(), doomed[0].1, "the image says what the crash then leaves");
    assert_ne!(disk.seen_hash(), hash);
    disk.lift_damage();
    assert_eq!(disk.seen_hash(), disk.volatile().hash());
}

proptest! {
    /// Whoever gets something wrong was served damage, whoever gets what is right was not; and a fault that did not bite is
    /// not told.
    #[test]
    fn the_ledger_says_who_was_served(
        seed: u64,
        personality in prop::sample::select(Personality::ALL),
        steps in prop::collection::vec((0u8..12, 0u64..4, any::<u8>()), 1..60),
    ) {
        let mut disk = disk_on(personality, seed);
        let (one, other) = (durable(&mut disk, "/1.log", &[A, B]), durable(&mut disk, "/2.log", &[C, A]));
        let (mut fds, mut bites) = ([one, other], Vec::new());
        for (step, sector, byte) in steps {
            let (file, at) = ((sector % 2) as usize, sector / 2 * 512);
            let fd = fds[file];
            let at_read = [Damage::Eio, ROT, Damage::BitFlipOnce, Damage::StaleRead];
            let at_write = [Damage::LostWrite, Damage::Misdirect, Damage::StaleRead];
            match step {
                0 | 1 => drop(disk.write_at(fd, &[byte; 512], at).unwrap()),
                2 | 3 => sync(&mut disk, fd),
                4 => drop(disk.damage_at_rest("wal", byte.into(), at_read[file], class_of)),
                5 => {
                    disk.power_fail(&Survivors::Each { permille: 500, key: byte.into() }, 0);
                    fds = ["/1.log", "/2.log"].map(|path| open(&mut disk, path));
                }
                6 | 7 => {
                    let since = disk.log().next_id();
                    disk.write_at(fd, &[byte; 512], at).unwrap();
                    disk.damage_write(fd, since, at_write[usize::from(byte) % 3], "wal", class_of);
                }
                8 | 9 => drop(disk.damage_read(fd, at, 512, at_read[usize::from(byte) % 4], "wal")),
                _ => {}
            }
            let right = disk.listing()[["/1.log", "/2.log"][file]].bytes();
            let served = |disk: &Disk| disk.ledger().map(|damaged| damaged.served).sum::<u64>();
            let before = (served(&disk), disk.damage_served());
            let mut buf = [0; 512];
            let read = disk.read_at(fds[file], &mut buf, at);
            let is_right = read.is_ok_and(|n| buf[..n] == right[at as usize..][..n]);
            prop_assert_eq!(served(&disk) > before.0, !is_right);
            prop_assert_eq!(disk.damage_served() > before.1, !is_right);
            bites.extend(disk.take_bites());
        }
        let told = |is: fn(&Bite) -> bool| bites.iter().filter(|bite| is(bite)).count();
        let faults = |is: fn(&Damaged) -> bool| {
            let second = |d: &Damaged| d.kind == DamageKind::MisdirectedTo;
            let pairs = disk.ledger().collect::<Vec<_>>();
            let of_both = pairs.windows(2).filter(|pair| second(pair[1]) && is(pair[0]) && is(pair[1])).count();
            pairs.iter().filter(|damaged| is(damaged)).count() - of_both
        };
        prop_assert_eq!(told(|bite| matches!(bite, Bite::Laid(_))), faults(|damaged| damaged.laid));
        prop_assert_eq!(told(|bite| matches!(bite, Bite::Served(_))), faults(|damaged| damaged.served > 0));
    }
}
