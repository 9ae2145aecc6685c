//! RocksDB's own tools judge what the store leaves on disk. Skipped, with a message, where they are not installed (Debian:
//! `apt-get install rocksdb-tools`).
#![cfg(not(madsim))]

use std::collections::BTreeMap;
use std::path::Path;

use cutwater_engine::store::{Compression, Family, FamilyOptions, Options, Store, WriteBatch, WriteOptions};

use crate::rocksdb::{db_arg, families_by_rocksdb, judge, tool};

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

fn options() -> Options {
    Options {
        family: FamilyOptions {
            write_buffer_bytes: 4096,
            block_bytes: 256,
            target_file_bytes: 2048,
            max_bytes_for_level_base: 8192,
            level_multiplier: 4,
            level0_compaction_trigger: 2,
            level0_stop_writes_trigger: 6,
            ..FamilyOptions::default()
        },
        max_manifest_bytes: 4096,
        ..Options::default()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn content(store: &Store) -> BTreeMap<String, String> {
    content_of(&store.default_family()).await
}

async fn content_of(family: &Family) -> BTreeMap<String, String> {
    let mut iter = family.iter(.., None);
    let mut found = BTreeMap::new();
    while let Some((k, v)) = iter.next().await.unwrap() {
        found.insert(String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap());
    }
    found
}

async fn fill(store: &Store, model: &mut BTreeMap<String, String>, from: u32, to: u32) {
    for i in from..to {
        let k = format!("key{:04}", i * 37 % 400);
        if i % 7 == 3 {
            store.delete(k.as_bytes(), LOGGED).await.unwrap();
            model.remove(&k);
        } else {
            let v = format!("value-{i}-{}", "x".repeat((i % 50) as usize));
            store.put(k.as_bytes(), v.as_bytes(), LOGGED).await.unwrap();
            model.insert(k, v);
        }
    }
}

#[test]
fn rocksdb_accepts_what_we_write() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut model = BTreeMap::new();
        let store = Store::open(&path, options()).await.unwrap();
        fill(&store, &mut model, 0, 1500).await;
        let checkpoint = dir.path().join("checkpoint");
        store.checkpoint(&checkpoint).await.unwrap();
        judge(&checkpoint, &model);
        fill(&store, &mut model, 1500, 3000).await;
        assert!(store.levels()[1..].iter().any(|(tables, _)| *tables > 0), "{:?}", store.levels());
        store.close().await.unwrap();
        judge(&path, &model);
    });
}

#[test]
fn rocksdb_goes_on_where_we_stopped_and_we_where_it_did() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut model = BTreeMap::new();
        let store = Store::open(&path, options()).await.unwrap();
        fill(&store, &mut model, 0, 500).await;
        store.close().await.unwrap();
        let args = [
            &db_arg(&path)[..],
            "--compression_type=no",
            "batchput",
            "key9000",
            "from-rocksdb",
            "key9001",
            "too",
        ];
        let Some(output) = tool("ldb", &args) else { return };
        assert!(output.contains("OK"), "{output}");
        model.insert("key9000".to_owned(), "from-rocksdb".to_owned());
        model.insert("key9001".to_owned(), "too".to_owned());
        judge(&path, &model);
        let store = Store::open(&path, options()).await.unwrap();
        assert_eq!(store.get(b"key9000").await.unwrap().unwrap(), b"from-rocksdb");
        fill(&store, &mut model, 500, 700).await;
        store.close().await.unwrap();
        let compacted = tool("ldb", &[&db_arg(&path), "--compression_type=no", "compact"]).unwrap();
        assert!(!compacted.contains("Failed"), "{compacted}");
        let store = Store::open(&path, options()).await.unwrap();
        store.verify().await.unwrap();
        assert_eq!(content(&store).await, model);
        fill(&store, &mut model, 700, 900).await;
        store.compact_all().await.unwrap();
        store.close().await.unwrap();
        judge(&path, &model);
    });
}

#[test]
fn rocksdb_reads_what_we_compress() {
    let (none, snappy, lz4) = (Compression::None, Compression::Snappy, Compression::Lz4);
    for (per_level, name) in [(vec![snappy], "Snappy"), (vec![lz4], "LZ4"), (vec![none, snappy, lz4], "LZ4")]
    {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let mut model = BTreeMap::new();
            let options = Options {
                family: FamilyOptions { compression_per_level: per_level, ..options().family },
                ..options()
            };
            let store = Store::open(&path, options.clone()).await.unwrap();
            fill(&store, &mut model, 0, 2000).await;
            store.close().await.unwrap();
            judge(&path, &model);
            let store = Store::open(&path, options).await.unwrap();
            store.compact_all().await.unwrap();
            store.verify().await.unwrap();
            assert_eq!(content(&store).await, model);
            store.close().await.unwrap();
            judge(&path, &model);
            let file = format!("--file={}", path.display());
            let Some(tables) = tool("sst_dump", &[&file, "--show_properties"]) else { return };
            assert!(tables.contains(&format!("SST file compression algo: {name}")), "{tables}");
        });
    }
}

/// A directory that `ldb` made with a compression, and what is in it. Nothing if there is no `ldb`.
fn made_by_rocksdb(dir: &Path, compression: &str) -> Option<BTreeMap<String, String>> {
    let pair = |i: u32| (format!("key{i:05}"), format!("value-{i}-{}", "abcdefgh".repeat((i % 30) as usize)));
    let model: BTreeMap<String, String> = (0..1200).map(pair).collect();
    let (db, compression) = (db_arg(dir), format!("--compression_type={compression}"));
    let mut args = vec![&db[..], "--create_if_missing", &compression, "batchput"];
    args.extend(model.iter().flat_map(|(k, v)| [&k[..], &v[..]]));
    let written = tool("ldb", &args)?;
    assert!(written.contains("OK"), "{written}");
    let compacted = tool("ldb", &[&db, &compression, "compact"])?;
    assert!(!compacted.contains("Failed"), "{compacted}");
    Some(model)
}

#[test]
fn we_read_what_rocksdb_compresses() {
    for compression in ["snappy", "lz4", "lz4hc", "zstd"] {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let Some(mut model) = made_by_rocksdb(&path, compression) else { return };
            let store = Store::open(&path, options()).await.unwrap();
            store.verify().await.unwrap();
            let plain_bytes: usize = model.iter().map(|(k, v)| k.len() + v.len()).sum();
            let (tables, table_bytes) =
                store.levels().into_iter().fold((0, 0), |a, l| (a.0 + l.0, a.1 + l.1));
            assert!(tables > 0 && table_bytes < plain_bytes as u64 / 2, "{compression}: {table_bytes} bytes");
            assert_eq!(content(&store).await, model);
            assert_eq!(store.get(b"key01199").await.unwrap().unwrap(), model["key01199"].as_bytes());
            fill(&store, &mut model, 0, 300).await;
            store.compact_all().await.unwrap();
            store.close().await.unwrap();
            judge(&path, &model);
        });
    }
}

/// What this store compresses values in blob files with, and what `ldb` calls it.
const BLOB_COMPRESSIONS: [(Compression, &str); 3] =
    [(Compression::None, "no"), (Compression::Snappy, "snappy"), (Compression::Lz4, "lz4")];

fn with_blobs(blob_compression: Compression) -> Options {
    let family = FamilyOptions {
        min_blob_bytes: Some(24),
        blob_compression,
        blob_file_bytes: 4096,
        blob_gc_age_percent: 50,
        ..options().family
    };
    Options { family, ..options() }
}

/// How many blob files RocksDB finds in a directory; nothing if it is not there.
fn blob_files(dir: &Path) -> Option<usize> {
    let answer = tool("ldb", &[&db_arg(dir), "get_property", "rocksdb.num-blob-files"])?;
    let number = answer.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{answer}")))
}

#[test]
fn rocksdb_reads_our_blob_files_and_collects_their_garbage() {
    for (compression, name) in BLOB_COMPRESSIONS {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let options = with_blobs(compression);
            let mut model = BTreeMap::new();
            let store = Store::open(&path, options.clone()).await.unwrap();
            fill(&store, &mut model, 0, 2500).await;
            let checkpoint = dir.path().join("checkpoint");
            store.checkpoint(&checkpoint).await.unwrap();
            judge(&checkpoint, &model);
            fill(&store, &mut model, 2500, 4000).await;
            store.compact_all().await.unwrap();
            store.verify().await.unwrap();
            let blobs = store.live_files().iter().filter(|name| name.ends_with(".blob")).count();
            assert!(blobs > 1, "{:?}", store.live_files());
            store.close().await.unwrap();
            judge(&path, &model);
            let Some(found) = blob_files(&path) else { return };
            assert_eq!(found, blobs);
            let garbage = ["--enable_blob_garbage_collection", "--blob_garbage_collection_age_cutoff=1.0"];
            compact_by_rocksdb(&path, 24, name, &garbage);
            let store = Store::open(&path, options.clone()).await.unwrap();
            store.verify().await.unwrap();
            assert_eq!(content(&store).await, model);
            fill(&store, &mut model, 0, 400).await;
            store.compact_all().await.unwrap();
            store.verify().await.unwrap();
            store.close().await.unwrap();
            judge(&path, &model);
        });
    }
}

/// What `ldb` is told of blob files that it is to write.
fn blob_args(min_bytes: usize, compression: &str) -> [String; 4] {
    [
        "--compression_type=no".to_owned(),
        "--enable_blob_files".to_owned(),
        format!("--min_blob_size={min_bytes}"),
        format!("--blob_compression_type={compression}"),
    ]
}

fn compact_by_rocksdb(dir: &Path, min_bytes: usize, compression: &str, more: &[&str]) {
    let (db, blob_args) = (db_arg(dir), blob_args(min_bytes, compression));
    let mut args = vec![&db[..]];
    args.extend(blob_args.iter().map(String::as_str));
    args.extend(more);
    args.push("compact");
    let compacted = tool("ldb", &args).unwrap();
    assert!(!compacted.contains("Failed"), "{compacted}");
}

/// Values in blob files that RocksDB compressed are read; those that this store moves to others of the same compression are
/// moved as they are, and those of another, ZSTD among them, compressed anew.
#[test]
fn we_read_the_blob_files_of_rocksdb() {
    let lz4 = Compression::Lz4;
    for (theirs, ours) in
        [("no", Compression::None), ("snappy", lz4), ("lz4", lz4), ("lz4hc", lz4), ("zstd", lz4)]
    {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let pair = |i: u32| {
                (format!("key{i:04}"), format!("value-{i}-{}", "abcdefgh".repeat((i % 30) as usize)))
            };
            let mut model: BTreeMap<String, String> = (0..400).map(pair).collect();
            let (db, blob_args) = (db_arg(&path), blob_args(32, theirs));
            let mut args = vec![&db[..], "--create_if_missing"];
            args.extend(blob_args.iter().map(String::as_str));
            args.push("batchput");
            args.extend(model.iter().flat_map(|(k, v)| [&k[..], &v[..]]));
            let Some(written) = tool("ldb", &args) else { return };
            assert!(written.contains("OK"), "{written}");
            compact_by_rocksdb(&path, 32, theirs, &[]);
            let family = FamilyOptions { blob_gc_age_percent: 100, ..with_blobs(ours).family };
            let store = Store::open(&path, Options { family, ..options() }).await.unwrap();
            let blobs = |store: &Store| -> Vec<String> {
                store.live_files().into_iter().filter(|name| name.ends_with(".blob")).collect()
            };
            let of_rocksdb = blobs(&store);
            assert!(!of_rocksdb.is_empty(), "{:?}", store.live_files());
            store.verify().await.unwrap();
            assert_eq!(content(&store).await, model);
            fill(&store, &mut model, 0, 900).await;
            store.compact_all().await.unwrap();
            store.verify().await.unwrap();
            assert!(blobs(&store).iter().all(|name| !of_rocksdb.contains(name)), "all values have moved");
            assert_eq!(content(&store).await, model);
            store.close().await.unwrap();
            judge(&path, &model);
        });
    }
}

#[test]
fn blobs_that_rocksdb_compresses_otherwise_are_refused_by_name() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let (db, blob_args) = (db_arg(&path), blob_args(8, "zlib"));
        let mut args = vec![&db[..], "--create_if_missing"];
        args.extend(blob_args.iter().map(String::as_str));
        args.extend(["batchput", "key", "a value of some bytes"]);
        if tool("ldb", &args).is_none() {
            return;
        }
        compact_by_rocksdb(&path, 8, "zlib", &[]);
        let refused = Store::open(&path, options()).await.unwrap_err().to_string();
        assert!(
            refused.ends_with(".blob uses an unsupported feature: blobs compressed with zlib"),
            "{refused}"
        );
    });
}

#[test]
fn rocksdb_sees_what_we_delete_by_range_and_we_what_it_does() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let (mut model, db) = (BTreeMap::new(), db_arg(&path));
        let store = Store::open(&path, options()).await.unwrap();
        fill(&store, &mut model, 0, 1000).await;
        let snapshot = store.snapshot();
        store.delete_range(b"key0100", b"key0200", LOGGED).await.unwrap();
        model.retain(|key, _| !("key0100".."key0200").contains(&&key[..]));
        let once: String = model.keys().next_back().unwrap().clone() + "-once";
        store.put(once.as_bytes(), b"v", LOGGED).await.unwrap();
        store.single_delete(once.as_bytes(), LOGGED).await.unwrap();
        // The snapshot keeps the tombstone, and what lies under it, through the compaction.
        store.compact_all().await.unwrap();
        let checkpoint = dir.path().join("checkpoint");
        store.checkpoint(&checkpoint).await.unwrap();
        judge(&checkpoint, &model);
        let Some(listed) = tool("ldb", &[&db_arg(&checkpoint), "list_file_range_deletes"]) else { return };
        // The key in hexadecimal digits.
        assert!(listed.contains("start: 6B657930313030"), "{listed}");
        drop(snapshot);
        store.verify().await.unwrap();
        fill(&store, &mut model, 1000, 1200).await;
        store.close().await.unwrap();
        judge(&path, &model);
        let deleted =
            tool("ldb", &[&db, "--compression_type=no", "deleterange", "key0300", "key0333"]).unwrap();
        assert!(deleted.contains("OK"), "{deleted}");
        model.retain(|key, _| !("key0300".."key0333").contains(&&key[..]));
        let store = Store::open(&path, options()).await.unwrap();
        assert_eq!(content(&store).await, model);
        assert_eq!(store.get(b"key0310").await.unwrap(), None);
        store.close().await.unwrap();
        // RocksDB's own tables, cut where it cuts them.
        let args =
            [&db[..], "--compression_type=no", "--write_buffer_size=100000", "--file_size=2000", "compact"];
        let compacted = tool("ldb", &args).unwrap();
        assert!(!compacted.contains("Failed"), "{compacted}");
        let store = Store::open(&path, options()).await.unwrap();
        store.verify().await.unwrap();
        assert_eq!(content(&store).await, model);
        store.compact_all().await.unwrap();
        assert_eq!(content(&store).await, model);
        store.close().await.unwrap();
        judge(&path, &model);
    });
}

#[test]
fn what_rocksdb_compresses_otherwise_is_refused_by_name() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        if made_by_rocksdb(&path, "zlib").is_none() {
            return;
        }
        let refused = Store::open(&path, options()).await.unwrap_err().to_string();
        assert!(
            refused.ends_with(".sst uses an unsupported feature: a block compressed with zlib"),
            "{refused}"
        );
    });
}

#[test]
fn rocksdb_reads_our_families_and_finds_no_dropped_one() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut model = BTreeMap::new();
        let mut others: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let store = Store::open(&path, options()).await.unwrap();
        for name in ["one", "gone", "two"] {
            store.create_family(name, options().family).await.unwrap();
        }
        let [one, gone, two] = ["one", "gone", "two"].map(|name| store.family(name).unwrap());
        for i in 0..600 {
            let (k, v) = (format!("key{:04}", i * 37 % 400), format!("value-{i}"));
            let mut batch = WriteBatch::new();
            batch.put(k.as_bytes(), v.as_bytes());
            model.insert(k.clone(), v.clone());
            for family in
                [Some(&one), (i < 300).then_some(&gone), (i % 50 == 0).then_some(&two)].into_iter().flatten()
            {
                batch.put_in(family, k.as_bytes(), v.as_bytes());
                others.entry(family.name().to_owned()).or_default().insert(k.clone(), v.clone());
            }
            store.write(batch, LOGGED).await.unwrap();
            if i == 300 {
                store.drop_family(&gone).await.unwrap();
                others.remove("gone");
            }
        }
        drop(gone);
        // What is in the logs of the one that is seldom written is replayed for that one alone.
        let checkpoint = dir.path().join("checkpoint");
        store.checkpoint(&checkpoint).await.unwrap();
        one.put(b"key9999", b"later", LOGGED).await.unwrap();
        let of_one = others.clone();
        others.get_mut("one").unwrap().insert("key9999".to_owned(), "later".to_owned());
        drop((one, two));
        store.close().await.unwrap();
        for (dir, others) in [(&checkpoint, of_one), (&path, others.clone())] {
            judge(dir, &model);
            let Some(found) = families_by_rocksdb(dir) else { return };
            assert_eq!(found, others);
        }
        // RocksDB goes on, with a MANIFEST and tables of its own, and we after it.
        let compacted =
            tool("ldb", &[&db_arg(&path), "--column_family=one", "--compression_type=no", "compact"])
                .unwrap();
        assert!(!compacted.contains("Failed"), "{compacted}");
        let families = [("one", options().family), ("two", options().family)];
        let store = Store::open_families(&path, options(), &families).await.unwrap();
        store.verify().await.unwrap();
        assert_eq!(content(&store).await, model);
        for (name, expected) in &others {
            assert_eq!(content_of(&store.family(name).unwrap()).await, *expected, "{name}");
        }
        store.close().await.unwrap();
        judge(&path, &model);
    });
}

#[test]
fn we_open_the_families_that_rocksdb_made() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = db_arg(&path);
        let no = "--compression_type=no";
        let Some(made) = tool("ldb", &[&db, "--create_if_missing", no, "batchput", "k", "default"]) else {
            return;
        };
        assert!(made.contains("OK"), "{made}");
        let mut others: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for name in ["one", "gone", "two"] {
            let made = tool("ldb", &[&db, "create_column_family", name]).unwrap();
            assert!(made.contains("OK"), "{made}");
            let family = format!("--column_family={name}");
            for i in 0..3 {
                let (k, v) = (format!("key{i}"), format!("{name}-{i}"));
                let written = tool("ldb", &[&db, no, &family, "put", &k, &v]).unwrap();
                assert!(written.contains("OK"), "{written}");
                others.entry(name.to_owned()).or_default().insert(k, v);
                // One has tables, the others have logs only.
                if name == "one" {
                    tool("ldb", &[&db, no, &family, "compact"]).unwrap();
                }
            }
        }
        let dropped = tool("ldb", &[&db, "drop_column_family", "gone"]).unwrap();
        assert!(dropped.contains("OK"), "{dropped}");
        others.remove("gone");
        assert_eq!(Store::list_families(&path).await.unwrap(), ["default", "one", "two"]);
        let refused = Store::open(&path, options()).await.unwrap_err().to_string();
        assert!(refused.ends_with("has families that were not opened: one, two"), "{refused}");
        let families = [("one", options().family), ("two", options().family)];
        let store = Store::open_families(&path, options(), &families).await.unwrap();
        store.verify().await.unwrap();
        for (name, expected) in &others {
            assert_eq!(content_of(&store.family(name).unwrap()).await, *expected, "{name}");
        }
        let three = store.create_family("three", options().family).await.unwrap();
        assert!(three.id() > 3, "RocksDB had given 3 families a number");
        three.put(b"key", b"three", LOGGED).await.unwrap();
        others.insert("three".to_owned(), BTreeMap::from([("key".to_owned(), "three".to_owned())]));
        three.flush().await.unwrap();
        drop(three);
        store.close().await.unwrap();
        judge(&path, &BTreeMap::from([("k".to_owned(), "default".to_owned())]));
        assert_eq!(families_by_rocksdb(&path).unwrap(), others);
    });
}
