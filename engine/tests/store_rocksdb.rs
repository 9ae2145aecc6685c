//! RocksDB's own tools judge what the store leaves on disk. Skipped, with a message, where they are not installed (Debian:
//! `apt-get install rocksdb-tools`).
#![cfg(not(madsim))]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cutwater_engine::store::{Options, Store, WriteOptions};

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

fn options() -> Options {
    Options {
        write_buffer_bytes: 4096,
        block_bytes: 256,
        target_file_bytes: 2048,
        max_bytes_for_level_base: 8192,
        level_multiplier: 4,
        level0_compaction_trigger: 2,
        level0_stop_writes_trigger: 6,
        max_manifest_bytes: 4096,
        ..Options::default()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Output and errors of a tool, or nothing if it is not installed.
fn tool(name: &str, args: &[&str]) -> Option<String> {
    match Command::new(name).args(args).output() {
        Ok(output) => Some(
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {name} is not installed");
            None
        }
        Err(e) => panic!("{name}: {e}"),
    }
}

fn db_arg(dir: &Path) -> String {
    format!("--db={}", dir.display())
}

fn scan(dir: &Path) -> Option<BTreeMap<String, String>> {
    let output = tool("ldb", &[&db_arg(dir), "scan"])?;
    let rows = output.lines().filter_map(|line| line.split_once(" ==> ").or(line.split_once(" : ")));
    Some(rows.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect())
}

/// What RocksDB says to a directory that should hold `model`.
fn judge(dir: &Path, model: &BTreeMap<String, String>) {
    let Some(consistency) = tool("ldb", &[&db_arg(dir), "checkconsistency"]) else { return };
    assert!(consistency.trim().ends_with("OK"), "{consistency}");
    let manifest = tool("ldb", &[&db_arg(dir), "manifest_dump", "--verbose"]).unwrap();
    assert!(!manifest.contains("Error") && !manifest.contains("Corruption"), "{manifest}");
    let file = format!("--file={}", dir.display());
    let Some(tables) = tool("sst_dump", &[&file, "--command=verify", "--verify_checksum"]) else { return };
    let count = tables.matches("The file is ok").count();
    let expected = tables.lines().filter(|l| l.starts_with("Process ")).count();
    assert!(count > 0 && count == expected && !tables.to_lowercase().contains("corrupt"), "{tables}");
    assert_eq!(scan(dir).unwrap(), *model);
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
        let mut iter = store.iter(.., None);
        let mut found = BTreeMap::new();
        while let Some((k, v)) = iter.next().await.unwrap() {
            found.insert(String::from_utf8(k).unwrap(), String::from_utf8(v).unwrap());
        }
        assert_eq!(found, model);
        fill(&store, &mut model, 700, 900).await;
        store.compact_all().await.unwrap();
        store.close().await.unwrap();
        judge(&path, &model);
    });
}
