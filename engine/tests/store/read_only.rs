//! A store that is only looked at: it shows what opening it would recover, and leaves every byte as it was. In both builds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::block_on;
use cutwater_engine::store::{
    Error, FamilyOptions, Options, ReadOnlyOptions, ReadOnlyStore, Store, WriteBatch, WriteOptions,
};
use cutwater_io::fs;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

fn options() -> Options {
    let family =
        FamilyOptions { min_blob_bytes: Some(100), write_buffer_bytes: 4096, ..FamilyOptions::default() };
    Options { family, create_missing_families: true, ..Options::default() }
}

async fn open(dir: &Path) -> Result<Store, Error> {
    let families = [("index", options().family)];
    loop {
        match Store::open_families(dir, options(), &families).await {
            Err(Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => return other,
        }
    }
}

/// Tables, blob files, and a log with what neither has.
async fn fill(dir: &Path) {
    let store = open(dir).await.unwrap();
    let index = store.family("index").unwrap();
    for i in 0..200u32 {
        let key = format!("key{:03}", i % 150).into_bytes();
        let mut batch = WriteBatch::new();
        batch.put(&key, &vec![b'v'; (i % 7 * 40) as usize]);
        match i % 5 {
            0 => batch.delete_in(&index, &key),
            _ => batch.put_in(&index, &key, format!("{i}").as_bytes()),
        }
        store.write(batch, LOGGED).await.unwrap();
    }
}

/// Every file, with what is in it.
async fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).await.unwrap() {
        let content = fs::read(&dir.join(&entry.name)).await.unwrap();
        files.insert(entry.name, content);
    }
    files
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

async fn all(mut iter: cutwater_engine::store::Iter) -> Content {
    let mut content = Content::new();
    while let Some((key, value)) = iter.next().await.unwrap() {
        content.insert(key, value);
    }
    content
}

/// A directory of the test's own, which is not there: each simulation has an empty disk, the real one has room below `target`.
async fn place(name: &str) -> std::path::PathBuf {
    if cfg!(madsim) {
        return Path::new("/").join(name);
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // What an earlier run that failed has left.
    let _ = fs::remove_dir_all(&dir).await;
    dir
}

#[test]
fn what_recovery_would_find_is_read_and_nothing_is_written() {
    block_on(async {
        let dir = place("read_only").await;
        fill(&dir).await;
        // Its tasks end with it.
        cutwater_io::time::sleep(std::time::Duration::from_millis(50)).await;
        let before = files(&dir).await;
        let shown = ReadOnlyStore::open(&dir, ReadOnlyOptions::default()).await.unwrap();
        assert_eq!(shown.families(), ["default", "index"]);
        assert!(shown.unflushed_bytes() > 0, "the log has something that no table has");
        assert!(shown.levels("default").unwrap().iter().any(|(files, _)| *files > 0), "there are tables");
        shown.verify().await.unwrap();
        let (default, index) =
            (all(shown.iter("default", ..).unwrap()).await, all(shown.iter("index", ..).unwrap()).await);
        for (key, value) in &default {
            assert_eq!(shown.get("default", key).await.unwrap().as_ref(), Some(value));
        }
        assert_eq!(shown.get("index", b"nothing").await.unwrap(), None);
        assert_eq!(files(&dir).await, before, "no byte has changed");
        let store = open(&dir).await.unwrap();
        assert_eq!((store.identity(), store.last_sequence()), (shown.identity(), shown.last_sequence()));
        assert_eq!(all(store.iter(.., None)).await, default);
        assert_eq!(all(store.family("index").unwrap().iter(.., None)).await, index);
        store.close().await.unwrap();
        fs::remove_dir_all(&dir).await.unwrap();
    });
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    block_on(async {
        let dir = place("read_only_refused").await;
        let missing = ReadOnlyStore::open(&dir, ReadOnlyOptions::default()).await.unwrap_err();
        assert_eq!(missing.to_string(), format!("no store in {}", dir.display()));
        fill(&dir).await;
        let shown = ReadOnlyStore::open(&dir, ReadOnlyOptions::default()).await.unwrap();
        let error = shown.get("nobody", b"key").await.unwrap_err();
        assert_eq!(error.to_string(), format!("there is no family nobody in {}", dir.display()));
        fs::remove_dir_all(&dir).await.unwrap();
    });
}

/// Flushes and compactions take logs and tables away all the time; whoever looks sees a moment, not before it asked.
#[test]
fn a_store_that_is_written_meanwhile_shows_a_moment() {
    block_on(async {
        let dir = place("read_only_beside").await;
        let store = open(&dir).await.unwrap();
        let (written, mut opened) = (Arc::new(AtomicU32::new(0)), 0);
        let counter = written.clone();
        let writer = cutwater_io::task::spawn(async move {
            for i in 0..400u32 {
                store.put(format!("key{i:04}").as_bytes(), &[b'v'; 90], LOGGED).await.unwrap();
                counter.store(i + 1, Ordering::Relaxed);
                match i % 40 {
                    7 | 20 => store.flush().await.unwrap(),
                    33 => store.compact_all().await.unwrap(),
                    _ => cutwater_io::task::yield_now().await,
                }
            }
            store.close().await.unwrap();
        });
        while written.load(Ordering::Relaxed) < 400 {
            let before = written.load(Ordering::Relaxed);
            let shown = ReadOnlyStore::open(&dir, ReadOnlyOptions::default()).await.unwrap();
            let found = shown.last_sequence();
            assert!(found >= u64::from(before), "{found} of {before} that were written");
            opened += 1;
            assert!(opened < 100_000, "the writer has stopped");
            cutwater_io::task::yield_now().await;
        }
        writer.await.unwrap();
        assert!(opened > 5, "{opened}");
        fs::remove_dir_all(&dir).await.unwrap();
    });
}
