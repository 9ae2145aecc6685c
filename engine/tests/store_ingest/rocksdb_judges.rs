//! RocksDB ingests what we write, we ingest what it writes, and it reads what comes of both.

use std::io::Write;
use std::process::{Command, Stdio};

use super::rocksdb::{db_arg, judge, scan, tool};
use super::*;

#[test]
fn rocksdb_ingests_what_we_write() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let rows: Vec<(String, String)> =
            (0..500).map(|i| (format!("key{i:04}"), format!("value{i}"))).collect();
        let entries: Vec<Entry<'_>> = rows
            .iter()
            .enumerate()
            .map(|(i, (k, v))| if i % 7 == 3 { Delete(k) } else { Put(k, v) })
            .chain([Range("key9", "keyz")])
            .collect();
        let table = write(&dir.path().join("table.sst"), &entries).await;
        let (db, file) = (dir.path().join("db"), format!("--file={}", table.display()));
        let before = ["key0003", "old", "key0004", "old", "key9000", "old", "z", "old"];
        let written =
            tool("ldb", &[&[&db_arg(&db)[..], "--create_if_missing", "batchput"], &before[..]].concat());
        let Some(written) = written else { return };
        assert!(written.contains("OK"), "{written}");
        let checked = tool("sst_dump", &[&file, "--command=verify", "--verify_checksum"]).unwrap();
        assert!(checked.contains("The file is ok"), "{checked}");
        let shown = tool("sst_dump", &[&file, "--show_properties", "--command=none"]).unwrap();
        assert!(shown.contains("external_sst_file.version: 0x02000000"), "{shown}");
        assert!(shown.contains("external_sst_file.global_seqno: 0x0000000000000000"), "{shown}");
        let ingested = tool("ldb", &[&db_arg(&db), "ingest_extern_sst", table.to_str().unwrap()]).unwrap();
        assert!(!ingested.to_lowercase().contains("fail"), "{ingested}");
        let mut expected: Content =
            rows.into_iter().enumerate().filter(|(i, _)| i % 7 != 3).map(|(_, row)| row).collect();
        expected.insert("z".to_owned(), "old".to_owned());
        assert_eq!(scan(&db, "default").unwrap(), expected);
        // And we what it made of it, where it is a table with a number that only the MANIFEST has.
        let store = Store::open(&db, options()).await.unwrap();
        assert_eq!(content(&store.default_family()).await, expected);
        store.verify().await.unwrap();
        store.close().await.unwrap();
    });
}

#[test]
fn rocksdb_reads_a_store_that_has_ingested() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let family = FamilyOptions { level0_compaction_trigger: 20, ..family_options() };
        let store = Store::open(&path, Options { family, ..options() }).await.unwrap();
        let at = |name: &str| dir.path().join(name);
        for key in ["a", "c", "e"] {
            store.put(key.as_bytes(), b"1", LOGGED).await.unwrap();
        }
        store.ingest(&[write(&at("1"), &[Put("c", "2"), Range("d", "f")]).await], COPIES).await.unwrap();
        let two =
            [write(&at("2"), &[Put("a", "3"), Put("b", "3")]).await, write(&at("3"), &[Put("c", "3")]).await];
        store.ingest(&two, COPIES).await.unwrap();
        store.put(b"b", b"4", LOGGED).await.unwrap();
        store.put(b"e", b"4", LOGGED).await.unwrap();
        store.flush().await.unwrap();
        store.ingest(&[write(&at("4"), &[Put("x", "5")]).await], COPIES).await.unwrap();
        assert!(store.levels()[0].0 >= 4 && store.levels()[6].0 == 1, "{:?}", store.levels());
        store.put(b"y", b"6", LOGGED).await.unwrap();
        let expected = pairs(&[("a", "3"), ("b", "4"), ("c", "3"), ("e", "4"), ("x", "5"), ("y", "6")]);
        assert_eq!(content(&store.default_family()).await, expected);
        store.close().await.unwrap();
        judge(&path, &expected);
        let Some(compacted) = tool("ldb", &[&db_arg(&path), "--compression_type=no", "compact"]) else {
            return;
        };
        assert!(!compacted.contains("Failed"), "{compacted}");
        judge(&path, &expected);
        let store = Store::open(&path, options()).await.unwrap();
        assert_eq!(content(&store.default_family()).await, expected);
        store.close().await.unwrap();
    });
}

/// RocksDB's writer of tables, as a program; built if that can be.
fn writer() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_ingest/write.cc");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rocksdb-write-table");
    let built =
        Command::new("g++").args(["-std=c++17", "-o"]).arg(&program).arg(source).arg("-lrocksdb").output();
    let is_there = built.is_ok_and(|built| built.status.success());
    if !is_there {
        println!("skipped: there is no g++, or no librocksdb-dev");
    }
    is_there.then_some(program)
}

fn write_by_rocksdb(program: &Path, file: &Path, compression: &str, entries: &[Entry<'_>]) {
    let line = |entry: &Entry<'_>| match entry {
        Put(key, value) => format!("put {key} {value}\n"),
        Delete(key) => format!("delete {key}\n"),
        Merge(key, operand) => format!("merge {key} {operand}\n"),
        Range(begin, end) => format!("range {begin} {end}\n"),
    };
    let input: String = entries.iter().map(line).collect();
    let mut child = Command::new(program).arg(file).arg(compression).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn we_ingest_what_rocksdb_writes() {
    let Some(program) = writer() else { return };
    for compression in ["none", "snappy"] {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let table = dir.path().join("table.sst");
            let keys: Vec<String> = (0..300).map(|i| format!("key{i:04}")).collect();
            let mut entries: Vec<Entry<'_>> = keys.iter().map(|key| Put(key, "rocksdb")).collect();
            entries
                .splice(100..103, [Delete(&keys[100]), Merge(&keys[101], "more"), Put(&keys[102], "last")]);
            // Over each other, in no order, and over keys of the table.
            entries.extend([Range("kez", "kfz"), Range("key0200", "key0250"), Range("kf", "kg")]);
            write_by_rocksdb(&program, &table, compression, &entries);
            let store = Store::open(&path, options()).await.unwrap();
            for key in ["key0100", "key0101", "key0200", "kf", "kg"] {
                store.put(key.as_bytes(), b"ours", LOGGED).await.unwrap();
            }
            store.ingest(&[&table], COPIES).await.unwrap();
            let mut expected: Content = keys.iter().map(|k| (k.clone(), "rocksdb".to_owned())).collect();
            expected.remove("key0100");
            expected.extend(pairs(&[("key0101", "ours,more"), ("key0102", "last"), ("kg", "ours")]));
            assert_eq!(content(&store.default_family()).await, expected);
            store.verify().await.unwrap();
            store.put(b"key0000", b"ours", LOGGED).await.unwrap();
            expected.insert("key0000".to_owned(), "ours".to_owned());
            store.close().await.unwrap();
            let store = Store::open(&path, options()).await.unwrap();
            assert_eq!(content(&store.default_family()).await, expected);
            store.compact_all().await.unwrap();
            assert_eq!(content(&store.default_family()).await, expected);
            store.close().await.unwrap();
            judge(&path, &expected);
        });
    }
}
