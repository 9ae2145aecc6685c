//! Tables that are written outside of a store, and ingested: what a store makes of them, what it refuses, and what RocksDB says. Its
//! parts are skipped, with a message, where its tools are not installed (Debian: `apt-get install rocksdb-tools librocksdb-dev g++`).
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "runs RocksDB, and damages what is on the disk")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cutwater_engine::store::{
    Append, CompactionStyle, Error, Family, FamilyOptions, IngestOptions, MergeWith, Options, Snapshot,
    Store, TableWriter, Universal, Verified, WriteOptions, repair,
};

mod refused;
#[path = "../common/rocksdb.rs"]
mod rocksdb;
mod rocksdb_judges;

type Content = BTreeMap<String, String>;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const COPIES: IngestOptions = IngestOptions { moves: false };

/// An entry of a table.
#[derive(Clone, Copy, Debug)]
enum Entry<'a> {
    Put(&'a str, &'a str),
    Delete(&'a str),
    Merge(&'a str, &'a str),
    Range(&'a str, &'a str),
}
use Entry::{Delete, Merge, Put, Range};

fn family_options() -> FamilyOptions {
    FamilyOptions {
        merge_operator: Some(MergeWith::new(Append::new(b","))),
        block_bytes: 256,
        ..FamilyOptions::default()
    }
}

fn options() -> Options {
    Options { family: family_options(), create_missing_families: true, ..Options::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn write_with(path: &Path, options: &FamilyOptions, entries: &[Entry<'_>]) -> PathBuf {
    let mut writer = TableWriter::create(path, options).await.unwrap();
    for entry in entries {
        match *entry {
            Put(key, value) => writer.put(key.as_bytes(), value.as_bytes()).await.unwrap(),
            Delete(key) => writer.delete(key.as_bytes()).await.unwrap(),
            Merge(key, operand) => writer.merge(key.as_bytes(), operand.as_bytes()).await.unwrap(),
            Range(begin, end) => writer.delete_range(begin.as_bytes(), end.as_bytes()).unwrap(),
        }
    }
    writer.finish().await.unwrap().path
}

async fn write(path: &Path, entries: &[Entry<'_>]) -> PathBuf {
    write_with(path, &family_options(), entries).await
}

async fn content(family: &Family) -> Content {
    let mut iter = family.iter(.., None);
    let mut found = Content::new();
    while let Some((k, v)) = iter.next().await.unwrap() {
        assert_eq!(family.get(&k).await.unwrap().as_ref(), Some(&v), "a get finds what a scan does");
        found.insert(String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap());
    }
    found
}

fn pairs(of: &[(&str, &str)]) -> Content {
    of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

async fn names(dir: &Path) -> Vec<String> {
    let entries = cutwater_io::fs::read_dir(dir).await.unwrap();
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn what_is_ingested_is_above_what_was_and_below_what_comes() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = Store::open(&path, options()).await.unwrap();
        let family = store.default_family();
        for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("m", "1"), ("x", "1")] {
            store.put(key.as_bytes(), value.as_bytes(), LOGGED).await.unwrap();
        }
        let before = store.snapshot();
        let then = pairs(&[("a", "1"), ("b", "1"), ("c", "1"), ("m", "1"), ("x", "1")]);
        let entries = [Put("a", "2"), Delete("b"), Put("bb", "2"), Merge("m", "2"), Range("bb", "d")];
        let table = write(&dir.path().join("t"), &entries).await;
        let sequence = store.ingest(&[&table], COPIES).await.unwrap();
        assert_eq!((sequence, store.last_sequence(), before.sequence()), (6, 6, 5));
        let now = pairs(&[("a", "2"), ("bb", "2"), ("m", "1,2"), ("x", "1")]);
        assert_eq!(content(&family).await, now);
        assert_eq!(snapshot_of(&family, &before).await, then);
        store.put(b"a", b"3", LOGGED).await.unwrap();
        store.put(b"c", b"3", LOGGED).await.unwrap();
        let later = pairs(&[("a", "3"), ("bb", "2"), ("c", "3"), ("m", "1,2"), ("x", "1")]);
        assert_eq!(content(&family).await, later);
        store.flush().await.unwrap();
        assert_eq!(content(&family).await, later);
        assert_eq!(snapshot_of(&family, &before).await, then);
        store.compact_all().await.unwrap();
        assert_eq!(snapshot_of(&family, &before).await, then);
        assert_eq!(store.verify().await.unwrap(), Verified::default());
        drop((before, family, store));
        let store = reopen(&path).await;
        assert_eq!(content(&store.default_family()).await, later);
        assert_eq!(store.last_sequence(), 8);
        store.close().await.unwrap();
    });
}

async fn snapshot_of(family: &Family, snapshot: &Snapshot) -> Content {
    let mut iter = family.iter(.., Some(snapshot));
    let mut found = Content::new();
    while let Some((k, v)) = iter.next().await.unwrap() {
        assert_eq!(family.get_at(snapshot, &k).await.unwrap().as_ref(), Some(&v));
        found.insert(String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap());
    }
    found
}

/// A store that was dropped gives its directory free once its tasks have noticed.
async fn reopen(path: &Path) -> Store {
    loop {
        match Store::open(path, options()).await {
            Err(Error::Locked { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn a_table_goes_as_deep_as_nothing_is_over_it() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), options()).await.unwrap();
        let at = |name: &str| dir.path().join(name);
        let tables = |levels: &[usize]| {
            let counts = store.levels().iter().map(|(tables, _)| *tables).collect::<Vec<_>>();
            assert_eq!(counts, levels);
        };
        store.ingest(&[write(&at("1"), &[Put("d", "1"), Put("f", "1")]).await], COPIES).await.unwrap();
        tables(&[0, 0, 0, 0, 0, 0, 1]);
        store.ingest(&[write(&at("2"), &[Put("e", "2")]).await], COPIES).await.unwrap();
        tables(&[0, 0, 0, 0, 0, 1, 1]);
        store.put(b"g", b"3", LOGGED).await.unwrap();
        // The memtable has nothing of these, and becomes a table all the same: nothing is older in one part, and newer in another.
        let two = [write(&at("3"), &[Put("h", "3")]).await, write(&at("4"), &[Put("a", "3")]).await];
        assert_eq!(store.ingest(&two, COPIES).await.unwrap(), 5);
        tables(&[1, 0, 0, 0, 0, 1, 3]);
        // The end of a range is not in it.
        store.ingest(&[write(&at("5"), &[Range("b", "d")]).await], COPIES).await.unwrap();
        tables(&[1, 0, 0, 0, 0, 1, 4]);
        store.ingest(&[write(&at("6"), &[Put("f", "6"), Put("gg", "6")]).await], COPIES).await.unwrap();
        // It overlaps what was in the memtable.
        tables(&[2, 0, 0, 0, 0, 1, 4]);
        store.ingest(&[write(&at("7"), &[Put("g", "7")]).await], COPIES).await.unwrap();
        tables(&[3, 0, 0, 0, 0, 1, 4]);
        let expected = [("a", "3"), ("d", "1"), ("e", "2"), ("f", "6"), ("g", "7"), ("gg", "6"), ("h", "3")];
        assert_eq!(content(&store.default_family()).await, pairs(&expected));
        store.close().await.unwrap();
    });
}

#[test]
fn level_0_keeps_its_order_when_what_was_ingested_is_merged() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let family = FamilyOptions {
            compaction_style: CompactionStyle::Universal(Universal::default()),
            level0_compaction_trigger: 4,
            ..family_options()
        };
        let store =
            Store::open(parent.path().join("db"), Options { family, ..Options::default() }).await.unwrap();
        // Three runs, each much larger than the newer ones.
        store.put(b"a", &[b'.'; 400_000], LOGGED).await.unwrap();
        store.compact_all().await.unwrap();
        store.put(b"b", &[b'.'; 40_000], LOGGED).await.unwrap();
        store.flush().await.unwrap();
        store.put(b"k", b"old", LOGGED).await.unwrap();
        store.put(b"zz", b"end", LOGGED).await.unwrap();
        store.flush().await.unwrap();
        // In memory only, and not in the range of the table, which goes on top and is merged with the run below.
        store.put(b"k", b"new", LOGGED).await.unwrap();
        let table = write(&parent.path().join("new.sst"), &[Put("z", &"i".repeat(2000))]).await;
        store.ingest(&[table], COPIES).await.unwrap();
        while store.levels()[0].0 > 2 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        store.flush().await.unwrap();
        store.verify().await.unwrap();
        assert_eq!(store.get(b"k").await.unwrap(), Some(b"new".to_vec()), "{:?}", store.levels());
        store.close().await.unwrap();
    });
}

#[test]
fn tables_of_several_families_come_at_once() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_families(dir.path().join("db"), options(), &[("other", family_options())])
            .await
            .unwrap();
        let (default, other) = (store.default_family(), store.family("other").unwrap());
        other.put(b"k", b"0", LOGGED).await.unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let files = [
            (default.clone(), vec![write(&a, &[Put("k", "1")]).await]),
            (other.clone(), vec![write(&b, &[Put("k", "2")]).await]),
        ];
        assert_eq!(store.ingest_families(&files, IngestOptions { moves: true }).await.unwrap(), 3);
        assert_eq!(content(&default).await, pairs(&[("k", "1")]));
        assert_eq!(content(&other).await, pairs(&[("k", "2")]));
        assert_eq!(names(dir.path()).await, ["db"], "what was moved has lost its own name");
        store.verify().await.unwrap();
        store.drop_family(&other).await.unwrap();
        let files = [write(&b, &[Put("k", "3")]).await];
        let refused = other.ingest(&files, COPIES).await.unwrap_err();
        assert!(matches!(refused, Error::FamilyDropped { .. }), "{refused}");
        store.close().await.unwrap();
    });
}

#[test]
fn what_was_copied_stays_as_it_is_and_is_shared_by_nobody() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let table = write(&dir.path().join("t"), &[Put("k", "v"), Put("l", "v")]).await;
        let before = std::fs::read(&table).unwrap();
        let mut stores = Vec::new();
        for name in ["one", "two"] {
            let store = Store::open(dir.path().join(name), options()).await.unwrap();
            store.put(b"k", name.as_bytes(), LOGGED).await.unwrap();
            store.ingest(&[&table], COPIES).await.unwrap();
            stores.push(store);
        }
        assert_eq!(std::fs::read(&table).unwrap(), before);
        std::fs::write(&table, "something else").unwrap();
        for store in stores {
            store.verify().await.unwrap();
            assert_eq!(content(&store.default_family()).await, pairs(&[("k", "v"), ("l", "v")]));
            store.close().await.unwrap();
        }
    });
}

#[test]
fn a_checkpoint_and_a_backup_have_what_was_ingested() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), options()).await.unwrap();
        store.put(b"k", b"1", LOGGED).await.unwrap();
        store
            .ingest(&[write(&dir.path().join("t"), &[Put("k", "2"), Put("l", "2")]).await], COPIES)
            .await
            .unwrap();
        store.put(b"l", b"3", LOGGED).await.unwrap();
        let expected = pairs(&[("k", "2"), ("l", "3")]);
        store.checkpoint(dir.path().join("checkpoint")).await.unwrap();
        let backups = cutwater_engine::store::Backups::at(dir.path().join("backups"));
        let made = backups.create(&store).await.unwrap();
        backups.restore(made.id, dir.path().join("restored")).await.unwrap();
        store.close().await.unwrap();
        for copy in ["checkpoint", "restored", "db"] {
            let copy = Store::open(dir.path().join(copy), options()).await.unwrap();
            assert_eq!(content(&copy.default_family()).await, expected);
            copy.verify().await.unwrap();
            copy.compact_all().await.unwrap();
            assert_eq!(content(&copy.default_family()).await, expected);
            copy.close().await.unwrap();
        }
    });
}

#[test]
fn a_repair_keeps_what_was_ingested_and_not_when() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = Store::open(&path, options()).await.unwrap();
        store.put(b"k", b"1", LOGGED).await.unwrap();
        let table = [write(&dir.path().join("t"), &[Put("k", "2"), Put("l", "2"), Range("m", "n")]).await];
        store.ingest(&table, COPIES).await.unwrap();
        store.put(b"m", b"3", LOGGED).await.unwrap();
        store.close().await.unwrap();
        std::fs::remove_file(path.join("CURRENT")).unwrap();
        let repaired = repair(&path).await.unwrap();
        assert!(repaired.lost.is_empty(), "{repaired:?}");
        let store = Store::open(&path, options()).await.unwrap();
        assert_eq!(content(&store.default_family()).await, pairs(&[("k", "1"), ("l", "2"), ("m", "3")]));
        assert_eq!(store.families(), ["default"]);
        store.verify().await.unwrap();
        store.close().await.unwrap();
    });
}
