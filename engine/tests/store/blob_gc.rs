//! Blob files that are mostly garbage go without anybody asking for it, if that is wanted.
#![cfg(not(madsim))]

use crate::common::block_on;
use cutwater_engine::store::{FamilyOptions, Options, Store, Verified, WriteOptions};

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const KEYS: u32 = 400;
/// More than half of what a blob file has, with the rest of their table.
const OVERWRITTEN: u32 = 30;

fn options(blob_gc_force_percent: u8) -> Options {
    let family = FamilyOptions {
        min_blob_bytes: Some(50),
        blob_file_bytes: 8 << 10,
        blob_gc_age_percent: 100,
        blob_gc_force_percent,
        target_file_bytes: 1 << 10,
        block_bytes: 256,
        write_buffer_bytes: 1 << 20,
        ..FamilyOptions::default()
    };
    Options { family, ..Options::default() }
}

async fn put(store: &Store, keys: impl Iterator<Item = u32>, value: u8) {
    for key in keys {
        store.put(format!("key{key:04}").as_bytes(), &[value; 100], LOGGED).await.unwrap();
    }
    store.flush().await.unwrap();
}

fn blob_files(store: &Store) -> Vec<String> {
    store.live_files().into_iter().filter(|name| name.ends_with(".blob")).collect()
}

/// True if the oldest blob file is left, when more than half of what is in it was overwritten and compacted. The rest are the values of a table that
/// nothing else has compacted.
async fn is_left(blob_gc_force_percent: u8) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(blob_gc_force_percent)).await.unwrap();
    put(&store, (0..KEYS).step_by(2), 1).await;
    put(&store, (1..KEYS).step_by(2), 1).await;
    store.compact_all().await.unwrap();
    let first = blob_files(&store);
    assert!(store.levels()[1].0 > 3 && first.len() > 3, "{:?} {first:?}", store.levels());
    put(&store, 0..OVERWRITTEN, 2).await;
    store.compact_all().await.unwrap();
    for _ in 0..200 {
        if !blob_files(&store).contains(&first[0]) {
            break;
        }
        cutwater_io::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(store.verify().await.unwrap(), Verified::default());
    for key in 0..KEYS {
        let expected = if key < OVERWRITTEN { 2 } else { 1 };
        assert_eq!(store.get(format!("key{key:04}").as_bytes()).await.unwrap(), Some(vec![expected; 100]));
    }
    let now = blob_files(&store);
    store.close().await.unwrap();
    now.contains(&first[0])
}

#[test]
fn tables_that_keep_them_are_written_anew() {
    block_on(async {
        assert!(is_left(100).await, "without a threshold it goes, too: the test shows nothing");
        assert!(is_left(99).await, "less than that is garbage");
        assert!(!is_left(40).await);
    });
}
