//! Compaction filters: what is removed stays away, what is changed is changed once, and no snapshot sees any of it.
#![cfg(not(madsim))]

use std::sync::{Arc, Mutex};

use crate::common::block_on;
use cutwater_engine::store::{
    CompactionFilter, Decision, FamilyOptions, FilterWith, Options, Snapshot, Store, Ttl, Verified,
    WriteOptions,
};
use cutwater_io::time;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

/// Removes values that say so, and puts a mark behind those that ask for one. Knows of each value which key it belongs to.
#[derive(Debug, Default)]
struct ByValue {
    filters_flushes: bool,
    /// Takes a snapshot of it whenever it is asked.
    takes_snapshots: Mutex<Option<Store>>,
    taken: Mutex<Vec<Snapshot>>,
}

/// The same one, for the store and for the test.
#[derive(Clone, Debug)]
struct Shared(Arc<ByValue>);

impl Shared {
    fn new(filter: ByValue) -> Shared {
        Shared(Arc::new(filter))
    }
}

impl CompactionFilter for Shared {
    fn name(&self) -> &str {
        "by value"
    }

    fn decide(&self, _level: usize, key: &[u8], value: &[u8]) -> Decision {
        assert!(value.starts_with(key), "{key:?} has the value of another key");
        if let Some(store) = &*self.0.takes_snapshots.lock().unwrap() {
            self.0.taken.lock().unwrap().push(store.snapshot());
        }
        match value[key.len()] {
            b'-' => Decision::Remove,
            b'+' if !value.ends_with(b"!") => Decision::Change([value, b"!"].concat()),
            _ => Decision::Keep,
        }
    }

    fn decide_by_key(&self, _level: usize, key: &[u8]) -> Option<Decision> {
        (key == b"gone by key").then_some(Decision::Remove)
    }

    fn filters_flushes(&self) -> bool {
        self.0.filters_flushes
    }
}

fn options(filter: impl CompactionFilter + 'static) -> Options {
    let family = FamilyOptions {
        compaction_filter: Some(FilterWith::new(filter)),
        min_blob_bytes: Some(50),
        ..FamilyOptions::default()
    };
    Options { family, ..Options::default() }
}

/// The value of a key, with what the filter is to do; in a blob file if it is long.
fn value(key: &[u8], what: u8, len_bytes: usize) -> Vec<u8> {
    let mut value = [key, &[what]].concat();
    value.resize(value.len() + len_bytes, b'.');
    value
}

async fn put(store: &Store, key: &[u8], value: &[u8]) {
    store.put(key, value, LOGGED).await.unwrap();
}

#[test]
fn values_go_or_change_and_their_garbage_counts() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), options(Shared::new(ByValue::default()))).await.unwrap();
        let keys: Vec<(Vec<u8>, u8, usize)> = (0..90)
            .map(|i| (format!("key{i:02}").into_bytes(), b"-+="[i % 3], [0, 100][i / 3 % 2]))
            .collect();
        for (key, what, len_bytes) in &keys {
            put(&store, key, &value(key, *what, *len_bytes)).await;
        }
        put(&store, b"gone by key", &value(b"gone by key", b'=', 100)).await;
        store.flush().await.unwrap();
        for (key, what, len_bytes) in &keys {
            let found = store.get(key).await.unwrap();
            assert_eq!(found, Some(value(key, *what, *len_bytes)), "a flush asks nothing");
        }
        store.compact_all().await.unwrap();
        for (key, what, len_bytes) in &keys {
            let whole = value(key, *what, *len_bytes);
            let expected = match what {
                b'-' => None,
                b'+' => Some([&whole[..], b"!"].concat()),
                _ => Some(whole),
            };
            assert_eq!(store.get(key).await.unwrap(), expected);
        }
        assert_eq!(store.get(b"gone by key").await.unwrap(), None);
        assert_eq!(store.verify().await.unwrap(), Verified::default());
        store.close().await.unwrap();
    });
}

#[test]
fn an_older_value_does_not_come_back() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let filter = ByValue { filters_flushes: true, ..ByValue::default() };
        let store = Store::open(dir.path(), options(Shared::new(filter))).await.unwrap();
        for len_bytes in [0, 100] {
            put(&store, b"key", &value(b"key", b'=', len_bytes)).await;
            store.compact_all().await.unwrap();
            put(&store, b"key", &value(b"key", b'-', len_bytes)).await;
            store.flush().await.unwrap();
            assert_eq!(store.get(b"key").await.unwrap(), None, "the flush has removed it");
            store.compact_all().await.unwrap();
            assert_eq!(store.get(b"key").await.unwrap(), None);
            assert_eq!(store.live_files().iter().filter(|name| name.ends_with(".blob")).count(), 0);
        }
        store.close().await.unwrap();
    });
}

#[test]
fn no_snapshot_sees_what_a_filter_does() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let filter = Shared::new(ByValue::default());
        let store = Store::open(dir.path(), options(filter.clone())).await.unwrap();
        let whole = value(b"key", b'-', 100);
        put(&store, b"key", &whole).await;
        let before = store.snapshot();
        store.compact_all().await.unwrap();
        assert_eq!(store.get(b"key").await.unwrap(), Some(whole.clone()), "it is spared for the snapshot");
        drop(before);
        // These come when the compaction knows already which snapshots there are.
        *filter.0.takes_snapshots.lock().unwrap() = Some(store.clone());
        store.compact_all().await.unwrap();
        *filter.0.takes_snapshots.lock().unwrap() = None;
        let taken = std::mem::take(&mut *filter.0.taken.lock().unwrap());
        assert_eq!(store.get(b"key").await.unwrap(), None);
        assert!(!taken.is_empty(), "the filter was asked");
        store.compact_all().await.unwrap();
        for snapshot in &taken {
            assert_eq!(store.get_at(snapshot, b"key").await.unwrap(), Some(whole.clone()));
            assert_eq!(
                store.iter(.., Some(snapshot)).next().await.unwrap(),
                Some((b"key".to_vec(), whole.clone()))
            );
        }
        drop(taken);
        store.close().await.unwrap();
    });
}

#[test]
fn values_expire() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), options(Ttl::new(3600))).await.unwrap();
        let now = time::unix_time();
        let hours_ago = |hours: u64| now - std::time::Duration::from_secs(hours * 3600);
        put(&store, b"old", &Ttl::stamp_at(b"value", hours_ago(2))).await;
        put(&store, b"new", &Ttl::stamp(b"value")).await;
        put(&store, b"no", b"one").await;
        store.compact_all().await.unwrap();
        assert_eq!(store.get(b"old").await.unwrap(), None);
        let new = store.get(b"new").await.unwrap().unwrap();
        assert_eq!(Ttl::strip(&new).map(|(value, _)| value), Some(&b"value"[..]));
        assert_eq!(store.get(b"no").await.unwrap(), Some(b"one".to_vec()));
        store.close().await.unwrap();
    });
}
