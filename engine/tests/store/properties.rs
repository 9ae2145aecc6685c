//! What a store tells of itself: counters, properties by RocksDB's names, its tables. RocksDB is asked for the same, where its tools are
//! installed.
#![cfg(not(madsim))]

use crate::rocksdb;
use cutwater_engine::store::{
    FamilyOptions, IngestOptions, Options, PROPERTIES, Statistics, Store, TableInfo, TableWriter,
    WriteOptions,
};

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const SYNCED: WriteOptions = WriteOptions { sync: true, disable_wal: false };

fn options() -> Options {
    let family = FamilyOptions { min_blob_bytes: Some(500), ..FamilyOptions::default() };
    Options { family, ..Options::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn what_a_store_does_is_counted() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), options()).await.unwrap();
        assert_eq!(store.statistics(), Statistics { block_cache_used_bytes: 0, ..Statistics::default() });
        for i in 0..100u32 {
            store.put(format!("key{i:03}").as_bytes(), &[b'v'; 100], LOGGED).await.unwrap();
        }
        store.put(b"large", &[b'v'; 1000], SYNCED).await.unwrap();
        let written = store.statistics();
        assert_eq!((written.writes, written.wal_syncs, written.flushes), (101, 1, 0));
        let payload_bytes = 100 * 106 + 1005;
        assert!(
            written.written_bytes > payload_bytes && written.wal_bytes > written.written_bytes,
            "{written:?}"
        );
        store.flush().await.unwrap();
        for i in 0..20u32 {
            assert!(store.get(format!("key{i:03}").as_bytes()).await.unwrap().is_some());
            assert!(store.get(format!("key{i:03}!").as_bytes()).await.unwrap().is_none());
        }
        store.iter(.., None).next().await.unwrap();
        store.compact_all().await.unwrap();
        let mut writer = TableWriter::create(dir.path().join("t"), &options().family).await.unwrap();
        writer.put(b"key000", b"new").await.unwrap();
        let table = writer.finish().await.unwrap();
        store.ingest(&[&table.path], IngestOptions { moves: true }).await.unwrap();
        store.compact_all().await.unwrap();
        let all = store.statistics();
        assert_eq!((all.gets, all.seeks, all.flushes, all.ingested_tables), (40, 1, 1, 1));
        assert_eq!((all.ingested_bytes, all.compactions, all.stalls), (table.len_bytes, 1, 0), "{all:?}");
        assert!(all.filter_useful > 10 && all.block_cache_hits > 10 && all.block_cache_misses > 0, "{all:?}");
        assert!(all.flushed_bytes > payload_bytes && all.removed_files >= 3, "{all:?}");
        assert!(all.compaction_read_bytes > all.compaction_written_bytes, "{all:?}");
        store.close().await.unwrap();
    });
}

#[test]
fn properties_have_rocksdbs_names_and_values() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = Store::open(&path, options()).await.unwrap();
        for i in 0..50u32 {
            store.put(format!("key{i:03}").as_bytes(), &[b'v'; 1000], LOGGED).await.unwrap();
        }
        store.compact_all().await.unwrap();
        store.delete(b"key003", LOGGED).await.unwrap();
        store.put(b"key004", b"small", LOGGED).await.unwrap();
        store.flush().await.unwrap();
        store.put(b"other", b"in memory", LOGGED).await.unwrap();
        let snapshot = store.snapshot();
        let expected = [
            ("background-errors", "0"),
            ("estimate-num-keys", "51"),
            ("is-write-stopped", "0"),
            ("num-files-at-level0", "1"),
            ("num-files-at-level1", "1"),
            ("num-immutable-mem-table", "0"),
            ("num-entries-active-mem-table", "1"),
            ("num-snapshots", "1"),
            ("oldest-snapshot-sequence", "53"),
            ("live-blob-file-garbage-size", "0"),
            ("block-cache-capacity", "33554432"),
        ];
        for (name, value) in expected {
            let found = store.property(&format!("rocksdb.{name}")).await.unwrap();
            assert_eq!(found.as_deref(), Some(value), "{name}");
        }
        for name in PROPERTIES {
            assert!(store.property(name).await.unwrap().is_some(), "{name}");
        }
        for name in
            ["rocksdb.nothing", "nothing", "rocksdb.num-files-at-level7", "rocksdb.num-files-at-level"]
        {
            assert_eq!(store.property(name).await.unwrap(), None);
        }
        let tables = store.tables().await.unwrap();
        let shown: Vec<_> = tables
            .iter()
            .map(
                |TableInfo {
                     level,
                     smallest,
                     largest,
                     smallest_sequence,
                     largest_sequence,
                     entries,
                     deletions,
                     ..
                 }| {
                    (
                        (*level, *smallest_sequence, *largest_sequence, *entries, *deletions),
                        (&smallest[..], &largest[..]),
                    )
                },
            )
            .collect();
        let newer = ((0, 51, 52, Some(2), Some(1)), (&b"key003"[..], &b"key004"[..]));
        let older = ((1, 1, 50, Some(50), Some(0)), (&b"key000"[..], &b"key049"[..]));
        assert_eq!(shown, [newer, older]);
        drop(snapshot);
        let names = [
            "levelstats",
            "live-sst-files-size",
            "num-blob-files",
            "live-blob-file-size",
            "total-blob-file-size",
        ];
        store.flush().await.unwrap();
        let mut ours = Vec::new();
        for name in names {
            ours.push(store.property(&format!("rocksdb.{name}")).await.unwrap().unwrap());
        }
        store.close().await.unwrap();
        for (name, ours) in names.into_iter().zip(ours) {
            let name = format!("rocksdb.{name}");
            let Some(answer) = rocksdb::tool("ldb", &[&rocksdb::db_arg(&path), "get_property", &name]) else {
                return;
            };
            let value = answer.trim_end().strip_prefix(&format!("{name}: ")).unwrap_or(&answer).trim_end();
            assert_eq!(ours.trim_end(), value, "{name}");
        }
    });
}
