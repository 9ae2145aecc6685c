//! The litmus table: small traces, and what a crash after them may and may not leave. Every permissible state is
//! enumerated; `states/sets` counts the distinct trees and the sets of operations that lead to them.
//!
//! One letter stands for one sector.
#![cfg(madsim)]

use std::collections::BTreeSet;
use std::path::Path;

use cutwater_io::sim::Key;
use cutwater_io::sim::disk::{Config, Disk, Fd, Listing, OpenMode, Personality, States, enumerate_states};

const SECTOR: usize = 512;

struct Trace(Disk);

impl Trace {
    fn new(personality: Personality) -> Trace {
        let config =
            Config { personality, sector_bytes: 512, writeback_interval_us_max: 0, ..Config::default() };
        Trace(Disk::new(Key::root(0), config))
    }

    /// A file that is durable with its name.
    fn durable(mut self, name: &str, letters: &str) -> Trace {
        let fd = self.create(name);
        self.append(fd, letters);
        self.fsync(fd);
        self.0.close(fd);
        self.sync_dir();
        assert!(self.0.log().is_empty());
        self
    }

    fn create(&mut self, name: &str) -> Fd {
        self.open(name, OpenMode { create_new: true, ..rw() })
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> Fd {
        self.0.open(Path::new(name), mode).unwrap()
    }

    fn append(&mut self, fd: Fd, letters: &str) {
        let end = self.0.len(fd).unwrap();
        self.write(fd, letters, end);
    }

    fn write(&mut self, fd: Fd, letters: &str, offset_bytes: u64) {
        let bytes: Vec<u8> = letters.bytes().flat_map(|letter| [letter; SECTOR]).collect();
        if !bytes.is_empty() {
            assert_eq!(self.0.write_at(fd, &bytes, offset_bytes).unwrap(), bytes.len());
        }
    }

    fn fsync(&mut self, fd: Fd) {
        let sync = self.0.begin_sync(fd, false).unwrap();
        self.0.finish_sync(&sync).unwrap();
    }

    fn sync_dir(&mut self) {
        let sync = self.0.begin_sync_dir(Path::new("/")).unwrap();
        self.0.finish_sync(&sync).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.0.rename(Path::new(from), Path::new(to)).unwrap();
    }

    fn unlink(&mut self, name: &str) {
        self.0.remove_file(Path::new(name)).unwrap();
    }
}

fn rw() -> OpenMode {
    OpenMode { read: true, write: true, ..OpenMode::default() }
}

/// The letters of a file (`.` for a sector of zeros), if it is there.
fn letters(tree: &Listing, name: &str) -> Option<String> {
    let bytes = tree.get(&format!("/{name}"))?.bytes();
    let letter = |sector: &[u8]| if sector[0] == 0 { '.' } else { sector[0] as char };
    Some(bytes.chunks(SECTOR).map(letter).collect())
}

/// What one file system allows: the bad end or not, and the counts of states and of sets if they are given.
type Expected = (bool, Option<(usize, u64)>);

/// Runs a trace on each file system (`posix_min`, `ext4_ordered`, `xfs`, `btrfs`) and says which can end badly, with the
/// counts.
fn check(run: impl Fn(Personality) -> Disk, is_bad: impl Fn(&Listing) -> bool, expected: [Expected; 4]) {
    let personalities =
        [Personality::PosixMin, Personality::Ext4Ordered, Personality::Xfs, Personality::Btrfs];
    for (personality, (allowed, counts)) in personalities.into_iter().zip(expected) {
        let States { trees, sets } = enumerate_states(&run(personality));
        assert_eq!(trees.iter().any(&is_bad), allowed, "{personality:?}: {trees:?}");
        if let Some(counts) = counts {
            assert_eq!((trees.len(), sets), counts, "{personality:?}");
        }
    }
}

/// A bad end that can be, with the counts.
fn yes(states: usize, sets: u64) -> Expected {
    (true, Some((states, sets)))
}

/// A bad end that cannot be, with the counts.
fn no(states: usize, sets: u64) -> Expected {
    (false, Some((states, sets)))
}

const ALLOWED: Expected = (true, None);
const NO: Expected = (false, None);

#[test]
fn l1_rename_of_an_unsynced_file_to_a_new_name() {
    let run = |p| {
        let mut t = Trace::new(p);
        let tmp = t.create("tmp");
        t.append(tmp, "AB");
        t.rename("tmp", "f");
        t.0
    };
    let bad = |tree: &Listing| letters(tree, "f").is_some_and(|f| f != "AB");
    check(run, bad, [yes(11, 24), yes(5, 14), yes(5, 14), yes(5, 15)]);
}

#[test]
fn l2_rename_of_an_unsynced_file_over_another() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "O");
        let tmp = t.create("tmp");
        t.append(tmp, "AB");
        t.rename("tmp", "f");
        t.0
    };
    let bad = |tree: &Listing| !matches!(letters(tree, "f").as_deref(), Some("O" | "AB"));
    check(run, bad, [yes(11, 24), no(4, 10), yes(5, 14), yes(5, 15)]);
}

#[test]
fn l3_rename_of_a_synced_file_over_another() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "O");
        let tmp = t.create("tmp");
        t.append(tmp, "AB");
        t.fsync(tmp);
        t.rename("tmp", "f");
        t.0
    };
    let bad = |tree: &Listing| !matches!(letters(tree, "f").as_deref(), Some("O" | "AB"));
    check(run, bad, [no(3, 3), no(2, 2), no(2, 2), no(2, 2)]);
}

#[test]
fn l4_a_synced_file_without_its_name() {
    let run = |p| {
        let mut t = Trace::new(p);
        let f = t.create("f");
        t.append(f, "A");
        t.fsync(f);
        t.0
    };
    check(run, |tree| letters(tree, "f").is_none(), [ALLOWED, NO, NO, NO]);
}

#[test]
fn l5_a_manifest_that_names_a_missing_table() {
    let run = |p| {
        let mut t = Trace::new(p).durable("MANIFEST", "M");
        let sst = t.create("sst");
        t.append(sst, "S");
        t.fsync(sst);
        let manifest = t.open("MANIFEST", rw());
        t.append(manifest, "N");
        t.fsync(manifest);
        t.0
    };
    let bad = |tree: &Listing| {
        letters(tree, "MANIFEST").as_deref() == Some("MN") && letters(tree, "sst").as_deref() != Some("S")
    };
    check(run, bad, [ALLOWED, NO, NO, NO]);
}

#[test]
fn l6_current_is_old_and_its_manifest_gone() {
    let run = |p| {
        let mut t = Trace::new(p).durable("CURRENT", "O").durable("MANIFEST-1", "M");
        let tmp = t.create("tmp");
        t.append(tmp, "N");
        t.fsync(tmp);
        t.rename("tmp", "CURRENT");
        t.unlink("MANIFEST-1");
        t.0
    };
    let bad = |tree: &Listing| {
        letters(tree, "CURRENT").as_deref() == Some("O") && letters(tree, "MANIFEST-1").is_none()
    };
    check(run, bad, [yes(6, 6), no(3, 3), no(3, 3), yes(4, 4)]);
}

#[test]
fn l7_a_hole_in_the_tail_of_a_log() {
    let run = |p| {
        let mut t = Trace::new(p).durable("wal", "");
        let wal = t.open("wal", rw());
        t.append(wal, "A");
        t.fsync(wal);
        t.append(wal, "BC");
        t.0
    };
    let bad = |tree: &Listing| !matches!(letters(tree, "wal").as_deref(), Some("A" | "ABC"));
    check(run, bad, [yes(5, 8), no(2, 5), no(2, 5), no(2, 5)]);
}

#[test]
fn l8_a_torn_overwrite() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "AB");
        let f = t.open("f", rw());
        t.write(f, "XY", 0);
        t.0
    };
    let torn = |tree: &Listing| matches!(letters(tree, "f").as_deref(), Some("AY" | "XB"));
    check(run, torn, [yes(4, 4); 4]);
}

#[test]
fn l9_an_index_that_overtakes_its_log() {
    let run = |p| {
        let mut t = Trace::new(p).durable("wal", "").durable("idx", "");
        let wal = t.open("wal", rw());
        let idx = t.open("idx", rw());
        t.append(wal, "A");
        t.append(idx, "I");
        t.0
    };
    let bad = |tree: &Listing| {
        letters(tree, "idx").as_deref() == Some("I") && letters(tree, "wal").as_deref() != Some("A")
    };
    check(run, bad, [yes(9, 16), yes(4, 9), yes(4, 9), yes(4, 9)]);
}

#[test]
fn l10_a_later_file_without_an_earlier_one() {
    let run = |p| {
        let mut t = Trace::new(p);
        t.create("a");
        let b = t.create("b");
        t.append(b, "B");
        t.fsync(b);
        t.0
    };
    check(run, |tree| letters(tree, "a").is_none(), [ALLOWED, NO, NO, ALLOWED]);
}

#[test]
fn l11_a_synced_file_under_its_old_name() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "A");
        t.rename("f", "g");
        let g = t.open("g", rw());
        t.write(g, "B", 0);
        t.fsync(g);
        t.0
    };
    check(run, |tree| letters(tree, "f").is_some(), [ALLOWED, NO, NO, NO]);
}

#[test]
fn l12_a_removed_file_stays_removed_after_a_sync() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "A");
        t.unlink("f");
        t.sync_dir();
        t.0
    };
    check(run, |tree| letters(tree, "f").is_some(), [no(1, 1); 4]);
}

#[test]
fn l13_a_removed_file_comes_back_without_a_sync() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "A");
        t.unlink("f");
        t.0
    };
    check(run, |tree| letters(tree, "f").is_some(), [yes(2, 2); 4]);
}

#[test]
fn twelve_unsynced_appends() {
    let run = |p| {
        let mut t = Trace::new(p).durable("wal", "");
        let wal = t.open("wal", rw());
        "ABCDEFGHIJKL".chars().for_each(|letter| t.append(wal, &letter.to_string()));
        t.0
    };
    let hole = |tree: &Listing| letters(tree, "wal").is_some_and(|wal| wal.contains('.'));
    check(run, hole, [yes(8191, 53_248), no(13, 8191), no(13, 8191), no(13, 8191)]);
}

#[test]
fn two_writes_of_one_sector_keep_their_order() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "O");
        let f = t.open("f", rw());
        t.write(f, "A", 0);
        t.write(f, "B", 0);
        t.0
    };
    let bad = |tree: &Listing| letters(tree, "f").is_none();
    check(run, bad, [no(3, 3); 4]);
}

#[test]
fn a_file_without_names_keeps_its_content_while_a_pending_name_may_bring_it_back() {
    let run = |p| {
        let mut t = Trace::new(p).durable("f", "A");
        t.0.create_dir(Path::new("/d")).unwrap();
        t.sync_dir();
        t.0.hard_link(Path::new("/f"), Path::new("/d/g")).unwrap();
        t.unlink("f");
        t.unlink("d/g");
        t.sync_dir();
        t.0
    };
    let came_back = |tree: &Listing| letters(tree, "d/g").is_some_and(|g| g == "A");
    let empty = |tree: &Listing| letters(tree, "d/g").is_some_and(|g| g != "A");
    check(run, came_back, [yes(2, 3), no(1, 1), yes(2, 2), yes(2, 3)]);
    check(run, empty, [NO; 4]);
}

/// As RocksDB's `FaultInjectionTestFS` leaves things: appended bytes are cut at the end only, a name that was made since
/// the last sync of its directory is undone, a removal is durable at once.
#[test]
fn rocksdb_fi_undoes_names_and_cuts_tails() {
    let mut t =
        Trace::new(Personality::RocksdbFi).durable("wal", "").durable("old", "O").durable("CURRENT", "1");
    let wal = t.open("wal", rw());
    "ABC".chars().for_each(|letter| t.append(wal, &letter.to_string()));
    t.unlink("old");
    let tmp = t.create("tmp");
    t.append(tmp, "2");
    t.fsync(tmp);
    t.rename("tmp", "CURRENT");
    let States { trees, .. } = enumerate_states(&t.0);
    let all = |name: &str| trees.iter().map(|tree| letters(tree, name)).collect::<BTreeSet<_>>();
    let some = |words: &[&str]| words.iter().map(|word| Some((*word).to_owned())).collect::<BTreeSet<_>>();
    assert_eq!(all("wal"), some(&["", "A", "AB", "ABC"]));
    assert_eq!(all("old"), [None].into());
    assert_eq!(all("CURRENT"), some(&["1", "2"]));
}
