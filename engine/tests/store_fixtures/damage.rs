//! One directory of RocksDB's, damaged in eighteen ways, in each mode of recovery: what this store does, and what RocksDB 7.8.3 does.
//!
//! The directory has three families with a table and a blob file each, and two logs: two families need both, one the second alone.
//! RocksDB is told to verify its logs by its MANIFEST (`track_and_verify_wals_in_manifest`), and to be paranoid. All keys are read, in
//! both directions. Where `librocksdb-dev` is there, of that version, RocksDB's column is not taken on trust: each case is shown to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use cutwater_engine::store::{Error, ReadOnlyStore, Store, WalRecovery};

use crate::fixture::{Content, Fixture, Found, Journal, Rows, block_on, found, open};

/// What comes of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Everything is there.
    All,
    /// What there was after so many writes is there.
    After(usize),
    /// What there is was there at no moment. So many keys of those that everything has are there with its value.
    Gaps(usize),
    /// It is not opened.
    Shut,
    /// It is opened, and its keys cannot all be read.
    Unread,
}
use Answer::{After, All, Gaps, Shut, Unread};

const MODES: [WalRecovery; 4] =
    [WalRecovery::TornTail, WalRecovery::Absolute, WalRecovery::PointInTime, WalRecovery::SkipDamaged];

/// What is done to a directory.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// A bit in the middle of the file is wrong.
    Flip,
    /// A bit so many bytes before its end is wrong.
    FlipBeforeEnd(usize),
    /// A bit so many bytes behind its begin is wrong.
    FlipBehindBegin(usize),
    /// So many bytes at its end are missing.
    Cut(usize),
    /// A byte follows its end.
    Longer,
    /// It is not there.
    Missing,
}
use Damage::{Cut, Flip, FlipBeforeEnd, FlipBehindBegin, Longer, Missing};

/// The end of a file's name, which file of those it is, and what is done to it.
type Case = (&'static str, usize, Damage);

struct Row {
    case: Case,
    ours: [Answer; 4],
    rocksdbs: [Answer; 4],
    /// Why the two differ, where they do.
    why: &'static str,
}

const fn row(case: Case, ours: [Answer; 4], rocksdbs: [Answer; 4], why: &'static str) -> Row {
    Row { case, ours, rocksdbs, why }
}

const FIRST: usize = 0;
const SECOND: usize = 1;

const BLOBS_ARE_LOOKED_AT: &str = "RocksDB looks at a blob file when a value of it is read; here all are looked at when the store is opened";
const MORE_IS_SAVED: &str = "behind a record that is not whole RocksDB drops the rest of a block of 32 KiB, and a log \
     that is gone it refuses in this mode, too; here whatever is whole is saved";

/// Each row in the order of [`MODES`], which is that of RocksDB's numbers.
const MATRIX: [Row; 18] = [
    row((".sst", FIRST, Flip), [Unread; 4], [Unread; 4], ""),
    row((".sst", FIRST, Missing), [Shut; 4], [Shut; 4], ""),
    row((".sst", FIRST, Cut(1)), [Shut; 4], [Shut; 4], ""),
    row((".sst", FIRST, Longer), [Shut; 4], [Shut; 4], ""),
    row((".blob", FIRST, Flip), [Unread; 4], [Unread; 4], ""),
    row((".blob", FIRST, FlipBehindBegin(2)), [Shut; 4], [Unread; 4], BLOBS_ARE_LOOKED_AT),
    row((".blob", FIRST, FlipBeforeEnd(10)), [Shut; 4], [Unread; 4], BLOBS_ARE_LOOKED_AT),
    row((".blob", FIRST, Missing), [Shut; 4], [Unread; 4], BLOBS_ARE_LOOKED_AT),
    row((".log", FIRST, Flip), [Shut, Shut, Shut, Gaps(210)], [Shut, Shut, Shut, Gaps(190)], MORE_IS_SAVED),
    row(
        (".log", SECOND, Flip),
        [Shut, Shut, After(110), Gaps(208)],
        [Shut, Shut, After(110), After(110)],
        MORE_IS_SAVED,
    ),
    row(
        (".log", SECOND, Cut(5)),
        [After(129), Shut, After(129), After(129)],
        [After(129), Shut, After(129), After(129)],
        "",
    ),
    row((".log", FIRST, Missing), [Shut, Shut, Shut, Gaps(179)], [Shut; 4], MORE_IS_SAVED),
    row(("MANIFEST-", FIRST, Flip), [Shut; 4], [Shut; 4], ""),
    row(("MANIFEST-", FIRST, Cut(5)), [All; 4], [All; 4], ""),
    row(("MANIFEST-", FIRST, Missing), [Shut; 4], [Shut; 4], ""),
    row(("CURRENT", FIRST, Cut(1)), [Shut; 4], [Shut; 4], ""),
    row(("IDENTITY", FIRST, Missing), [All; 4], [All; 4], ""),
    row(("OPTIONS-", FIRST, Missing), [All; 4], [All; 4], ""),
];

/// A copy of the fixture, damaged.
fn damaged((name, which, damage): Case) -> Fixture {
    let fixture = Fixture::unpack("damage");
    let entries = std::fs::read_dir(fixture.dir()).unwrap().map(|entry| entry.unwrap().path());
    let is_meant = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains(name);
    let mut files: Vec<PathBuf> = entries.filter(is_meant).collect();
    files.sort_unstable();
    let file = files.swap_remove(which);
    let mut bytes = std::fs::read(&file).unwrap();
    let len = bytes.len();
    match damage {
        Flip => bytes[len / 2] ^= 1,
        FlipBeforeEnd(before) => bytes[len - before] ^= 1,
        FlipBehindBegin(behind) => bytes[behind] ^= 1,
        Cut(cut) => bytes.truncate(len - cut),
        Longer => bytes.push(0),
        Missing => std::fs::remove_file(&file).unwrap(),
    }
    if !matches!(damage, Missing) {
        std::fs::write(&file, bytes).unwrap();
    }
    fixture
}

/// Which moment of the journal it is.
fn moment(content: &Content, journal: &Journal) -> Answer {
    match (0..=journal.len()).rev().find(|n| journal.after(*n) == *content) {
        Some(n) if n == journal.len() => All,
        Some(n) => After(n),
        None => {
            let everything = journal.after(journal.len());
            let is_there = |(family, rows): (&String, &Rows)| {
                rows.iter().filter(|(key, value)| content[family].get(*key) == Some(value)).count()
            };
            Gaps(everything.iter().map(is_there).sum())
        }
    }
}

/// What this store answers. Errors are damage, and name a file.
fn ours(dir: &Path, journal: &Journal, mode: WalRecovery) -> Answer {
    let refused = |error: Error, answer| {
        assert!(error.is_corruption(), "{error}");
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
        println!("{mode:?}: {error}");
        answer
    };
    block_on(async {
        let store: Store = match open(dir, mode).await {
            Ok(store) => store,
            Err(error) => return refused(error, Shut),
        };
        match found(&store).await {
            Ok(Found { content, .. }) => moment(&content, journal),
            Err(error) => refused(error, Unread),
        }
    })
}

/// RocksDB 7.8.3, as a program that reads a directory; `read.cc` is built if that can be.
fn reader() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_fixtures/read.cc");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rocksdb-read");
    let built =
        Command::new("g++").args(["-std=c++17", "-o"]).arg(&program).arg(source).arg("-lrocksdb").output();
    let is_it = || Command::new(&program).arg("version").output().unwrap().stdout == b"7.8.3\n";
    let is_there = built.is_ok_and(|built| built.status.success()) && is_it();
    if !is_there {
        println!(
            "skipped: there is no g++, or no librocksdb-dev 7.8.3; RocksDB's column is as it was recorded"
        );
    }
    is_there.then_some(program)
}

/// What RocksDB answers, in the mode of this number.
fn rocksdbs(reader: &Path, dir: &Path, journal: &Journal, mode: usize) -> Answer {
    let output = Command::new(reader).arg(dir).arg(mode.to_string()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    println!("RocksDB {mode}: {error}");
    match error.split(':').next().unwrap() {
        "" => moment(&Found::parse(&String::from_utf8(output.stdout).unwrap()).content, journal),
        "open" => Shut,
        "read" => Unread,
        _ => panic!("{error}"),
    }
}

#[test]
fn damage_is_answered_as_the_table_says() {
    let journal = Fixture::unpack("damage").journal();
    assert_eq!(journal.acknowledged, journal.len());
    let reader = reader();
    let mut found = Vec::new();
    for Row { case, ours: ours_expected, rocksdbs: rocksdbs_expected, why } in MATRIX {
        println!("{case:?}");
        let ours: Vec<Answer> = MODES.map(|mode| ours(&damaged(case).dir(), &journal, mode)).into();
        let rocksdbs: Vec<Answer> = match &reader {
            Some(reader) => {
                (0..MODES.len()).map(|n| rocksdbs(reader, &damaged(case).dir(), &journal, n)).collect()
            }
            None => rocksdbs_expected.to_vec(),
        };
        if ours != ours_expected || rocksdbs != rocksdbs_expected {
            found.push(format!("{case:?}, {ours:?}, {rocksdbs:?}"));
        }
        assert_eq!(ours_expected == rocksdbs_expected, why.is_empty(), "{case:?}: a difference has a reason");
    }
    assert!(found.is_empty(), "found:\n{}", found.join("\n"));
}

#[test]
fn a_check_finds_what_a_store_refuses() {
    let refused = MATRIX.iter().filter(|row| matches!(row.ours[2], Shut | Unread));
    for Row { case, .. } in refused {
        let fixture = damaged(*case);
        let checked = block_on(ReadOnlyStore::check(fixture.dir()));
        assert!(!checked.is_ok_and(|checked| checked.errors.is_empty()), "{case:?}");
    }
}
