//! Stores that have lost their MANIFEST, or more.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "what is on the disk is damaged behind the engine's back")]

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::block_on;
use crate::rocksdb::{db_arg, tool};
use cutwater_engine::store::{
    Append, FamilyOptions, MergeWith, Options, ReadOnlyStore, Repaired, Store, WriteBatch, WriteOptions,
    repair,
};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn family() -> FamilyOptions {
    FamilyOptions {
        block_bytes: 256,
        write_buffer_bytes: 4 << 10,
        target_file_bytes: 4 << 10,
        max_bytes_for_level_base: 8 << 10,
        level0_compaction_trigger: 2,
        min_blob_bytes: Some(100),
        blob_file_bytes: 2 << 10,
        merge_operator: Some(MergeWith::new(Append::new(b","))),
        ..FamilyOptions::default()
    }
}

async fn open(dir: &Path) -> Store {
    let options = Options { family: family(), create_missing_families: true, ..Options::default() };
    Store::open_families(dir, options, &[("second", family())]).await.unwrap()
}

async fn content(store: &Store, name: &str) -> Content {
    let mut iter = store.family(name).unwrap().iter(.., None);
    let mut found = Content::new();
    while let Some((key, value)) = iter.next().await.unwrap() {
        found.insert(key, value);
    }
    found
}

/// A store with tables in several levels, blob files with garbage, operands, two families, and writes that only a log has.
async fn used(dir: &Path) -> [Content; 2] {
    let store = open(dir).await;
    let second = store.family("second").unwrap();
    for i in 0..600u32 {
        let key = format!("key{:03}", i * 37 % 200);
        let value = format!("value-{i}-{}", "x".repeat(if i % 3 == 0 { 150 } else { 10 }));
        let mut batch = WriteBatch::new();
        match i % 10 {
            7 => batch.delete(key.as_bytes()),
            8 => batch.merge(key.as_bytes(), value.as_bytes()),
            _ => batch.put(key.as_bytes(), value.as_bytes()),
        }
        batch.put_in(&second, key.as_bytes(), value.as_bytes());
        if i % 150 == 100 {
            batch.delete_range_in(&second, b"key050", b"key080");
        }
        store.write(batch, WriteOptions::default()).await.unwrap();
    }
    let expected = [content(&store, "default").await, content(&store, "second").await];
    store.sync_wal().await.unwrap();
    store.close().await.unwrap();
    expected
}

fn remove(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let wanted: Vec<_> = entries.filter(|entry| is_wanted(&entry.file_name().to_string_lossy())).collect();
    wanted.iter().for_each(|entry| std::fs::remove_file(entry.path()).unwrap());
    wanted.len()
}

#[test]
fn without_a_manifest_nothing_is_missing() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let expected = used(dir.path()).await;
        assert!(remove(dir.path(), |name| name == "CURRENT" || name.starts_with("MANIFEST-")) == 2);
        for round in 0..2 {
            let Repaired { families, tables, blob_files, logs, lost, .. } = repair(dir.path()).await.unwrap();
            assert_eq!(families, ["default", "second"]);
            assert!(
                logs > 0 && tables > 1 && blob_files > 0 && lost.is_empty(),
                "{tables} {blob_files} {lost:?}"
            );
            if let Some(said) = tool("ldb", &[&db_arg(dir.path()), "checkconsistency"]) {
                assert!(said.trim().ends_with("OK"), "{said}");
            }
            let checked = ReadOnlyStore::check(dir.path()).await.unwrap();
            assert!(checked.errors.is_empty(), "{:?}", checked.errors);
            assert_eq!(checked.verified.uncounted_garbage, 0);
            let store = open(dir.path()).await;
            assert_eq!(
                [content(&store, "default").await, content(&store, "second").await],
                expected,
                "{round}"
            );
            store.compact_all().await.unwrap();
            assert_eq!(
                [content(&store, "default").await, content(&store, "second").await],
                expected,
                "{round}"
            );
            store.close().await.unwrap();
        }
    });
}

#[test]
fn what_cannot_be_read_is_set_aside_and_named() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let expected = used(dir.path()).await;
        let store = open(dir.path()).await;
        store.compact_all().await.unwrap();
        store.close().await.unwrap();
        let mut tables: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        tables.retain(|path| path.extension().is_some_and(|extension| extension == "sst"));
        tables.sort();
        let mut bytes = std::fs::read(&tables[0]).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&tables[0], bytes).unwrap();
        std::fs::write(dir.path().join("CURRENT"), "rubbish").unwrap();
        std::fs::write(dir.path().join("IDENTITY"), "\u{1}").unwrap();
        let lost = repair(dir.path()).await.unwrap().lost;
        let name = tables[0].file_name().unwrap().to_str().unwrap();
        assert!(lost.iter().any(|lost| lost.name == name && lost.why.contains("corruption")), "{lost:?}");
        assert!(dir.path().join("lost").join(name).exists() && !tables[0].exists());
        let store = open(dir.path()).await;
        let found = [content(&store, "default").await, content(&store, "second").await];
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.iter().all(|(key, value)| expected.get(key) == Some(value)));
        }
        assert!(found != expected);
        store.close().await.unwrap();
    });
}

/// The names of the files with this extension, in order.
fn files(dir: &Path, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    names
}

/// One blob file is lost. Every key without a value in it reads as before, and none reads as it was before its value was lost.
#[test]
fn of_a_table_with_lost_values_the_rest_is_kept() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let family =
            FamilyOptions { level0_compaction_trigger: 100, level0_stop_writes_trigger: 200, ..family() };
        let options = Options { family, ..Options::default() };
        let store = Store::open(dir.path(), options.clone()).await.unwrap();
        let put = async |keys: std::ops::Range<u32>, mark: &str, len: usize| {
            for i in keys {
                let value = format!("{mark}-{}", "x".repeat(len));
                store
                    .put(format!("key{i:02}").as_bytes(), value.as_bytes(), WriteOptions::default())
                    .await
                    .unwrap();
            }
        };
        // Keys 10 to 14 are lost, over a value each that nobody may see again; 12 is written once more behind.
        put(0..20, "old", 10).await;
        store.flush().await.unwrap();
        put(10..15, "lost", 200).await;
        put(15..18, "new", 10).await;
        store.delete_range(b"key00", b"key03", WriteOptions::default()).await.unwrap();
        store.flush().await.unwrap();
        put(12..13, "newest", 10).await;
        let mut expected = content(&store, "default").await;
        store.close().await.unwrap();
        let (blobs, tables) = (files(dir.path(), ".blob"), files(dir.path(), ".sst"));
        assert_eq!(blobs.len(), 1);
        std::fs::remove_file(dir.path().join(&blobs[0])).unwrap();
        let lost = repair(dir.path()).await.unwrap().lost;
        let told = format!("5 values in {}, which cannot be read, of keys key10 to key14", blobs[0]);
        assert!(lost.len() == 1 && lost[0].why.starts_with(&told), "{lost:?}");
        assert!(
            tables.contains(&lost[0].name) && files(&dir.path().join("lost"), ".sst") == [&lost[0].name[..]]
        );
        for key in ["key10", "key11", "key13", "key14"] {
            expected.remove(key.as_bytes()).unwrap();
        }
        let checked = ReadOnlyStore::check(dir.path()).await.unwrap();
        assert!(checked.errors.is_empty(), "{:?}", checked.errors);
        if let Some(said) = tool("ldb", &[&db_arg(dir.path()), "checkconsistency"]) {
            assert!(said.trim().ends_with("OK"), "{said}");
        }
        let store = Store::open(dir.path(), options).await.unwrap();
        assert_eq!(content(&store, "default").await, expected);
        store.compact_all().await.unwrap();
        assert_eq!(content(&store, "default").await, expected);
        store.close().await.unwrap();
    });
}

/// What the first repair has set aside is all there is of it. A file of the same name that the second one sets aside gets another.
#[test]
fn a_second_repair_keeps_what_the_first_has_set_aside() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        used(dir.path()).await;
        let (lost, current) = (dir.path().join("lost"), dir.path().join("CURRENT"));
        let name = files(dir.path(), ".sst").remove(0);
        for content in ["first", "second", "third"] {
            std::fs::write(dir.path().join(&name), content).unwrap();
            std::fs::write(&current, "rubbish").unwrap();
            let before = if lost.exists() { files(&lost, "") } else { Vec::new() };
            let told = repair(dir.path()).await.unwrap().lost;
            assert!(told.iter().any(|lost| lost.name == name), "{told:?}");
            let after = files(&lost, "");
            assert!(before.iter().all(|name| after.contains(name)), "{before:?} {after:?}");
        }
        for (copy, content) in [("", "first"), (".1", "second"), (".2", "third")] {
            assert_eq!(std::fs::read(lost.join(format!("{name}{copy}"))).unwrap(), content.as_bytes());
        }
    });
}
