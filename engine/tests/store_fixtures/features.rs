//! One feature of RocksDB each: read as RocksDB reads it, or refused by name. A directory that is read is then opened, compacted
//! and closed, and RocksDB goes on with what we leave of it.

use std::collections::BTreeMap;
use std::path::Path;

use cutwater_engine::store::{Error, WalRecovery};

use crate::fixture::{Fixture, block_on, found, found_read_only, names, open};
use crate::rocksdb::{families_by_rocksdb, judge};

enum Expected {
    /// As RocksDB reads it.
    Read,
    /// In these words, which follow the number of the file.
    Refused(&'static str),
}
use Expected::{Read, Refused};

/// What becomes of each feature; here is where one is moved from one to the other.
const FEATURES: &[(&str, Expected)] = &[
    ("atomic", Read),
    ("bloblz4", Read),
    ("blobs", Read),
    ("blobzlib", Refused(".blob uses an unsupported feature: blobs compressed with zlib")),
    ("blobzstd", Read),
    ("bloom", Read),
    ("checkpoint", Read),
    ("dbid", Read),
    ("defaults", Read),
    ("dropped", Read),
    ("families", Read),
    ("filesum", Read),
    ("fv2", Read),
    ("hash", Read),
    ("ingest", Read),
    ("lz4", Read),
    ("merge", Read),
    ("multiwal", Read),
    ("nowal", Read),
    ("partitioned", Refused(".sst uses an unsupported feature: an index other than binary search")),
    ("plain", Read),
    ("rangedelete", Read),
    ("recycle", Read),
    ("rollover", Read),
    ("singledelete", Read),
    ("stats", Read),
    ("sync", Read),
    ("twophase", Refused(".log uses an unsupported feature: two-phase commit")),
    ("universal", Read),
    ("waltrack", Read),
    ("walzstd", Refused(".log uses an unsupported feature: a compressed log")),
    ("zlib", Refused(".sst uses an unsupported feature: a block compressed with zlib")),
    ("zstd", Read),
];

#[test]
fn every_fixture_has_its_place() {
    let of_features = FEATURES.iter().map(|(name, _)| *name).chain(["damage"]);
    let mut expected: Vec<&str> = of_features.collect();
    expected.sort_unstable();
    let names = names();
    let found: Vec<&String> = names.iter().filter(|name| !name.starts_with("killed-")).collect();
    assert_eq!(found, expected);
}

#[test]
fn we_read_what_rocksdb_reads_and_it_accepts_what_we_leave() {
    for (name, _) in FEATURES.iter().filter(|(_, expected)| matches!(expected, Read)) {
        println!("{name}");
        let fixture = Fixture::unpack(name);
        let (dir, dump) = (fixture.dir(), fixture.dump());
        assert!(dump.content.values().map(BTreeMap::len).sum::<usize>() > 100, "{name} holds too little");
        block_on(async {
            assert_eq!(found_read_only(&dir).await.unwrap(), dump, "{name}, only looked at");
            let store = open(&dir, WalRecovery::default()).await.unwrap();
            assert_eq!(found(&store).await.unwrap(), dump, "{name}, opened");
            store.verify().await.unwrap();
            store.compact_all().await.unwrap();
            assert_eq!(found(&store).await.unwrap(), dump, "{name}, compacted");
            store.verify().await.unwrap();
            store.close().await.unwrap();
        });
        let mut others = dump.content;
        judge(&dir, &others.remove("default").expect("it is always there"));
        if let Some(found) = families_by_rocksdb(&dir) {
            assert_eq!(found, others, "{name}, by RocksDB");
        }
    }
}

#[test]
fn what_we_do_not_read_is_refused_by_name_and_left_as_it_is() {
    for (name, expected) in FEATURES {
        let Refused(words) = expected else { continue };
        let fixture = Fixture::unpack(name);
        let dir = fixture.dir();
        let before = files(&dir);
        block_on(async {
            let read_only = found_read_only(&dir).await.map(drop);
            let opened = open(&dir, WalRecovery::default()).await.map(drop);
            for refused in [read_only, opened] {
                let refused = refused.expect_err(name);
                assert!(matches!(refused, Error::Unsupported { .. }), "{name}: {refused}");
                let refused = refused.to_string();
                let place = refused.strip_prefix(&format!("{}/", dir.display())).expect(&refused);
                assert_eq!(place.trim_start_matches(|c: char| c.is_ascii_digit()), *words, "{name}");
            }
        });
        assert!(files(&dir) == before, "{name}: a file has changed");
    }
}

/// Every file but the lock, with what is in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name != "LOCK")
        .map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap()))
        .collect()
}
