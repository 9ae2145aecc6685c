//! Logs that the MANIFEST tracks: one that is lost as a whole is missed, as long as it is needed. RocksDB reads what is written
//! down of them.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "files are taken away by hand")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cutwater_engine::store::{Error, Options, Store, WriteOptions};

use crate::rocksdb::{db_arg, judge, tool};

const SYNC: WriteOptions = WriteOptions { sync: true, disable_wal: false };
const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Opens the store once whoever had it open is gone: that takes a moment.
async fn open(dir: &Path, track_wals: bool) -> Result<Store, Error> {
    loop {
        match Store::open(dir, Options { track_wals, ..Options::default() }).await {
            Err(Error::Locked { .. }) => tokio::task::yield_now().await,
            opened => return opened,
        }
    }
}

/// The logs that are there, oldest first.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    logs
}

/// A store that died with three synced writes in its log, or in the second one of two.
async fn left(dir: &Path, track_wals: bool, flushed: bool) {
    let store = open(dir, track_wals).await.unwrap();
    store.put(b"first", b"1", SYNC).await.unwrap();
    if flushed {
        store.flush().await.unwrap();
    }
    store.put(b"second", b"2", SYNC).await.unwrap();
    store.put(b"third", b"3", SYNC).await.unwrap();
    drop(store);
}

#[test]
fn a_log_that_is_lost_is_missed_if_it_was_tracked() {
    block_on(async {
        for (track_wals, flushed) in [(true, false), (true, true), (false, false)] {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("db");
            left(&dir, track_wals, flushed).await;
            let lost = logs(&dir).pop().unwrap();
            fs::remove_file(&lost).unwrap();
            match open(&dir, track_wals).await {
                Ok(store) => {
                    assert!(!track_wals);
                    assert_eq!(store.get(b"first").await.unwrap(), None, "nobody could know");
                }
                Err(error) => {
                    let what = error.to_string();
                    assert!(track_wals && error.is_corruption(), "{what}");
                    assert!(
                        what.contains(lost.to_str().unwrap()) && what.ends_with("it is missing"),
                        "{what}"
                    );
                    // Whoever opens it is told, whatever they want of their own logs.
                    assert!(open(&dir, false).await.unwrap_err().is_corruption());
                }
            }
        }
    });
}

#[test]
fn a_log_that_is_too_short_is_refused_and_one_that_is_longer_is_not() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        left(&dir, true, false).await;
        let store = open(&dir, true).await.unwrap();
        store.put(b"fourth", b"4", SYNC).await.unwrap();
        store.put(b"fifth", &[b'5'; 100], LOGGED).await.unwrap();
        drop(store);
        let log = logs(&dir).pop().unwrap();
        let content = fs::read(&log).unwrap();
        // Only its first sync was written down; nobody knows from the MANIFEST that more is missing.
        fs::write(&log, &content[..content.len() - 50]).unwrap();
        let store = open(&dir, true).await.unwrap();
        assert_eq!(store.get(b"fourth").await.unwrap(), Some(b"4".to_vec()));
        store.put(b"sixth", b"6", SYNC).await.unwrap();
        drop(store);
        let log = logs(&dir).pop().unwrap();
        let content = fs::read(&log).unwrap();
        fs::write(&log, &content[..3]).unwrap();
        let error = open(&dir, true).await.unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("and it has 3"), "{error}");
    });
}

#[test]
fn rocksdb_reads_what_is_known_of_logs() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        let mut model = BTreeMap::new();
        let store = open(&dir, true).await.unwrap();
        for i in 0..6 {
            let (key, value) = (format!("key{i}"), format!("value{i}"));
            store.put(key.as_bytes(), value.as_bytes(), SYNC).await.unwrap();
            model.insert(key, value);
            if i % 2 == 1 {
                store.flush().await.unwrap();
            }
        }
        store.put(b"last", b"one", SYNC).await.unwrap();
        model.insert("last".to_owned(), "one".to_owned());
        drop(store);
        let Some(dump) = tool("ldb", &[&db_arg(&dir), "manifest_dump", "--verbose"]) else { return };
        assert!(dump.contains("WalAddition") && dump.contains("WalDeletion"), "{dump}");
        // Who writes lets go of what is tracked. Who only reads, and does not track, dies in RocksDB 7.8.3 (an assertion, or a null
        // pointer, in `DBImpl::Recover`).
        assert!(tool("ldb", &[&db_arg(&dir), "put", "another", "key"]).unwrap().contains("OK"));
        model.insert("another".to_owned(), "key".to_owned());
        judge(&dir, &model);
        let store = open(&dir, true).await.unwrap();
        for (key, value) in &model {
            assert_eq!(store.get(key.as_bytes()).await.unwrap().as_deref(), Some(value.as_bytes()), "{key}");
        }
    });
}
