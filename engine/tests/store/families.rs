//! Families across crashes: what one has in tables and another only in the log, what was dropped, edits that hold together.
//! Directories are copied, cut and damaged while no store has them open.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "what is on the disk is changed behind the engine's back")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cutwater_engine::store::{Error, Family, FamilyOptions, Options, Store, WriteBatch, WriteOptions};
use tempfile::TempDir;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const UNLOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: true };

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn options() -> Options {
    Options { create_missing_families: true, ..Options::default() }
}

async fn open_with(dir: &Path, options: Options, names: &[&str]) -> Result<Store, Error> {
    let families: Vec<_> = names.iter().map(|name| (*name, FamilyOptions::default())).collect();
    loop {
        match Store::open_families(dir, options.clone(), &families).await {
            Err(Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => return other,
        }
    }
}

async fn open(dir: &Path, names: &[&str]) -> Result<Store, Error> {
    open_with(dir, options(), names).await
}

/// A new store with two families.
struct Begun {
    parent: TempDir,
    dir: PathBuf,
    store: Store,
    a: Family,
    b: Family,
}

async fn begin(options: Options) -> Begun {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("db");
    let store = open_with(&dir, options, &["a", "b"]).await.unwrap();
    let (a, b) = (store.family("a").unwrap(), store.family("b").unwrap());
    Begun { parent, dir, store, a, b }
}

/// Puts the same keys into several families with one batch each.
async fn put(store: &Store, families: &[&Family], keys: std::ops::Range<u32>, how: WriteOptions) {
    for i in keys {
        let mut batch = WriteBatch::new();
        for family in families {
            batch.put_in(family, format!("key{i:03}").as_bytes(), family.name().as_bytes());
        }
        store.write(batch, how).await.unwrap();
    }
}

async fn count(family: &Family) -> u32 {
    let mut iter = family.iter(.., None);
    let mut n = 0;
    while let Some((key, value)) = iter.next().await.unwrap() {
        assert_eq!((key, &value[..]), (format!("key{n:03}").into_bytes(), family.name().as_bytes()));
        n += 1;
    }
    n
}

async fn counts(store: &Store) -> Vec<u32> {
    let mut found = Vec::new();
    for name in store.families() {
        found.push(count(&store.family(&name).unwrap()).await);
    }
    found
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn write_files(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    std::fs::create_dir_all(dir).unwrap();
    files.iter().for_each(|(name, content)| std::fs::write(dir.join(name), content).unwrap());
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_keys().filter(|name| name.ends_with(".log")).map(|name| dir.join(name)).collect()
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        assert!(matches!(Store::list_families(&dir).await, Err(Error::NotFound { .. })));
        let strict = Options { create_missing_families: false, ..options() };
        let error = open_with(&dir, strict.clone(), &["a"]).await.unwrap_err();
        assert_eq!(error.to_string(), format!("there is no family a in {}", dir.display()));
        let store = open(&dir, &["a", "b"]).await.unwrap();
        assert_eq!(store.families(), ["default", "a", "b"]);
        let (a, b) = (store.family("a").unwrap(), store.family("b").unwrap());
        assert_eq!((store.default_family().id(), a.id(), b.id()), (0, 1, 2));
        assert!(store.family("c").is_none());
        let error = store.create_family("a", FamilyOptions::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "there is a family a already");
        let bad = FamilyOptions { num_levels: 1, ..FamilyOptions::default() };
        assert!(matches!(store.create_family("c", bad).await, Err(Error::InvalidOption { .. })));
        let default = store.default_family();
        assert!(matches!(store.drop_family(&default).await, Err(Error::InvalidRequest(_))));
        put(&store, &[&a, &b], 0..3, LOGGED).await;
        let snapshot = store.snapshot();
        let mut both = WriteBatch::new();
        both.put(b"key000", b"default");
        both.put_in(&a, b"key003", b"a");
        store.drop_family(&a).await.unwrap();
        let error = store.write(both.clone(), LOGGED).await.unwrap_err();
        assert_eq!(error.to_string(), "the family a was dropped");
        assert_eq!(store.get(b"key000").await.unwrap(), None, "no part of it was written");
        for error in [a.flush().await, a.compact_all().await, store.drop_family(&a).await] {
            assert!(matches!(error, Err(Error::FamilyDropped { .. })), "{error:?}");
        }
        // Who has it open goes on reading, through flushes and compactions of the others.
        store.flush().await.unwrap();
        store.compact_all().await.unwrap();
        assert_eq!((count(&a).await, count(&b).await), (3, 3));
        assert_eq!(a.get_at(&snapshot, b"key001").await.unwrap().unwrap(), b"a");
        // Its name is free, its handle is not that of the new one.
        let again = store.create_family("a", FamilyOptions::default()).await.unwrap();
        assert_eq!((again.id(), count(&again).await, count(&a).await), (3, 0, 3));
        let elsewhere = open(&parent.path().join("other"), &["a"]).await.unwrap();
        let mut foreign = WriteBatch::new();
        foreign.put_in(&elsewhere.family("a").unwrap(), b"k", b"v");
        assert!(matches!(store.write(foreign, LOGGED).await, Err(Error::InvalidRequest(_))));
        store.close().await.unwrap();
        assert_eq!(Store::list_families(&dir).await.unwrap(), ["default", "b", "a"]);
        let error = Store::open(&dir, strict.clone()).await.unwrap_err();
        let expected = format!("{} has families that were not opened: b, a", dir.display());
        assert_eq!(error.to_string(), expected);
        let twice = open_with(&dir, strict, &["a", "a", "b"]).await;
        assert!(matches!(twice, Err(Error::InvalidRequest(_))));
    });
}

#[test]
fn one_family_is_flushed_and_the_other_replayed() {
    block_on(async {
        let Begun { parent, dir, store, a, b } = begin(options()).await;
        put(&store, &[&a, &b], 0..20, LOGGED).await;
        a.flush().await.unwrap();
        put(&store, &[&b], 20..30, LOGGED).await;
        let sequence = store.last_sequence();
        assert_eq!(logs(&dir).len(), 2, "the first is what b needs");
        drop((a, b, store));
        let before = files(&dir);
        let store = open(&dir, &["a", "b"]).await.unwrap();
        assert_eq!((counts(&store).await, store.last_sequence()), (vec![0, 20, 30], sequence));
        // What is in a's table was not written again.
        assert_eq!(store.family("a").unwrap().levels()[0].0, 1);
        assert_eq!(store.family("b").unwrap().levels()[0].0, 1);
        assert_eq!(logs(&dir).len(), 1);
        store.verify().await.unwrap();
        drop(store);
        // The closed log was made durable before a's flush, so whatever is wrong with it is damage.
        let first = logs_of(&before)[0].clone();
        for name in ["flipped", "cut", "gone"] {
            let mut damaged = before.clone();
            let log = damaged.get_mut(&first).unwrap();
            match name {
                "flipped" => log[200] ^= 1,
                "cut" => log.truncate(200),
                _ => log.clear(),
            }
            let copy = parent.path().join(name);
            write_files(&copy, &damaged);
            let error = open(&copy, &["a", "b"]).await.unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains("were durable"), "{name}: {error}");
        }
    });
}

fn logs_of(files: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    files.keys().filter(|name| name.ends_with(".log")).cloned().collect()
}

#[test]
fn a_family_that_is_ahead_of_the_logs_is_refused_even_where_no_log_says_so() {
    block_on(async {
        let Begun { parent, dir, store, a, b } = begin(options()).await;
        put(&store, &[&a, &b], 0..20, LOGGED).await;
        a.flush().await.unwrap();
        drop((a, b, store));
        // Without the log that follows, nothing but the tables tells that the first one has lost its end.
        let mut damaged = files(&dir);
        let names = logs_of(&damaged);
        damaged.remove(&names[1]);
        damaged.get_mut(&names[0]).unwrap().truncate(200);
        let copy = parent.path().join("cut");
        write_files(&copy, &damaged);
        let error = open(&copy, &["a", "b"]).await.unwrap_err().to_string();
        assert!(error.contains(&names[0]) && error.contains("the family a has later writes"), "{error}");
        // As it is nowhere cut, the log needs no successor.
        let mut whole = files(&dir);
        whole.remove(&names[1]);
        let copy = parent.path().join("whole");
        write_files(&copy, &whole);
        assert_eq!(counts(&open(&copy, &["a", "b"]).await.unwrap()).await, [0, 20, 20]);
    });
}

#[test]
fn a_dropped_family_never_comes_back() {
    block_on(async {
        let Begun { parent: _parent, dir, store, a, b } = begin(options()).await;
        put(&store, &[&a, &b], 0..20, LOGGED).await;
        store.flush().await.unwrap();
        put(&store, &[&a, &b], 20..30, LOGGED).await;
        store.drop_family(&a).await.unwrap();
        let again = store.create_family("a", FamilyOptions::default()).await.unwrap();
        put(&store, &[&again], 0..2, LOGGED).await;
        drop((a, b, again, store));
        let store = open(&dir, &["a", "b"]).await.unwrap();
        assert_eq!(store.families(), ["default", "b", "a"]);
        assert_eq!(counts(&store).await, [0, 30, 2]);
        let a = store.family("a").unwrap();
        store.drop_family(&a).await.unwrap();
        drop((a, store));
        let store = open(&dir, &["b"]).await.unwrap();
        assert_eq!(counts(&store).await, [0, 30]);
        // Not even its number does, in a MANIFEST that never knew the family.
        assert_eq!(store.create_family("c", FamilyOptions::default()).await.unwrap().id(), 4);
    });
}

#[test]
fn a_flush_of_several_families_is_there_as_a_whole_or_not_at_all() {
    block_on(async {
        let Begun { parent, dir, store, a, b } = begin(options()).await;
        put(&store, &[&store.default_family(), &a, &b], 0..20, LOGGED).await;
        let before = files(&dir);
        store.flush().await.unwrap();
        drop((a, b, store));
        let after = files(&dir);
        let manifest = after.keys().find(|name| name.starts_with("MANIFEST")).unwrap();
        let (from, to) = (before[manifest].len(), after[manifest].len());
        let flushed: Vec<&String> = after.keys().filter(|name| name.ends_with(".sst")).collect();
        // A crash before the logs are removed: the MANIFEST ends anywhere, or is not all there.
        let mut outcomes = BTreeSet::new();
        for cut in (from..=to).step_by(7).chain([to]) {
            let mut torn: BTreeMap<_, _> = before.clone().into_iter().chain(after.clone()).collect();
            torn.get_mut(manifest).unwrap().truncate(cut);
            let copy = parent.path().join(format!("cut-{cut}"));
            write_files(&copy, &torn);
            let store = open(&copy, &["a", "b"]).await.unwrap();
            assert_eq!(counts(&store).await, [20, 20, 20]);
            store.verify().await.unwrap();
            let live = store.live_files();
            outcomes.insert(flushed.iter().filter(|table| live.contains(table)).count());
            store.close().await.unwrap();
        }
        assert_eq!(outcomes, BTreeSet::from([0, 3]), "of three tables");
        // A part of it that is gone with the rest still there is damage.
        let mut damaged = after.clone();
        damaged.get_mut(manifest).unwrap()[from + 20] ^= 1;
        let copy = parent.path().join("damaged");
        write_files(&copy, &damaged);
        assert!(open(&copy, &["a", "b"]).await.unwrap_err().to_string().ends_with("and records follow"));
    });
}

#[test]
fn an_atomic_flush_keeps_batches_whole_that_were_not_logged() {
    block_on(async {
        for atomic_flush in [false, true] {
            let options = Options { atomic_flush, ..options() };
            let Begun { parent: _parent, dir, store, a, b } = begin(options.clone()).await;
            put(&store, &[&a, &b], 0..20, UNLOGGED).await;
            a.flush().await.unwrap();
            drop((a, b, store));
            let store = open_with(&dir, options, &["a", "b"]).await.unwrap();
            assert_eq!(counts(&store).await, [0, 20, if atomic_flush { 20 } else { 0 }]);
        }
    });
}

#[test]
fn a_family_that_is_seldom_written_does_not_keep_all_logs() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        let small = FamilyOptions { write_buffer_bytes: 4096, ..FamilyOptions::default() };
        let options = Options { max_total_wal_bytes: 20_000, family: small, ..options() };
        let store = open_with(&dir, options, &["seldom"]).await.unwrap();
        let seldom = store.family("seldom").unwrap();
        put(&store, &[&seldom], 0..1, LOGGED).await;
        for i in 0..3000 {
            store.put(format!("key{:03}", i % 500).as_bytes(), b"default", LOGGED).await.unwrap();
        }
        store.default_family().flush().await.unwrap();
        let kept: usize = logs(&dir).iter().map(|log| std::fs::metadata(log).unwrap().len() as usize).sum();
        assert!(kept < 40_000, "{kept} bytes of logs");
        assert_eq!((count(&seldom).await, seldom.levels()[0].0), (1, 1));
    });
}
