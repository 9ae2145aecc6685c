//! Backups in a world in which nothing fails, and RocksDB as the judge of their directory (skipped where `ldb` is not installed; Debian
//! has it in `rocksdb-tools`).
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "files are damaged, and listed, behind the engine's back")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::common::block_on;
use cutwater_engine::store::{Backup, Backups, Error, FamilyOptions, Options, Store, WriteOptions};

fn options() -> Options {
    let family = FamilyOptions { block_bytes: 256, min_blob_bytes: Some(100), ..FamilyOptions::default() };
    Options { family, ..Options::default() }
}

/// Writes keys, each value once small and once large enough for a blob file.
async fn fill(store: &Store, keys: std::ops::Range<u32>, mark: &str) {
    for i in keys {
        let padding = "x".repeat(if i % 2 == 0 { 10 } else { 200 });
        let value = format!("{mark}-{i}-{padding}");
        store.put(format!("key{i:03}").as_bytes(), value.as_bytes(), WriteOptions::default()).await.unwrap();
    }
}

async fn content(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut iter, mut found) = (store.iter(.., None), Vec::new());
    while let Some(entry) = iter.next().await.unwrap() {
        found.push(entry);
    }
    found
}

async fn content_of(dir: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let store = Store::open(dir, Options { create_if_missing: false, ..options() }).await.unwrap();
    let found = content(&store).await;
    store.close().await.unwrap();
    found
}

async fn ids(backups: &Backups) -> Vec<u32> {
    backups.list().await.unwrap().backups.iter().map(|backup| backup.id).collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What a tool says; nothing if it is not installed.
fn ldb(args: &[&str]) -> Option<String> {
    match Command::new("ldb").args(args).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
            Some(text)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: ldb is not installed");
            None
        }
        Err(e) => panic!("ldb: {e}"),
    }
}

#[test]
fn backups_share_what_is_the_same_and_each_restores_what_it_was_taken_of() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store = Store::open(at("db"), options()).await.unwrap();
        let backups = Backups::at(at("backups"));
        assert_eq!(ids(&backups).await, [0; 0]);
        fill(&store, 0..100, "first").await;
        let first = (backups.create(&store).await.unwrap(), content(&store).await);
        let shared = names(&at("backups/shared_checksum"));
        fill(&store, 50..150, "second").await;
        let second = (backups.create(&store).await.unwrap(), content(&store).await);
        assert!(names(&at("backups/shared_checksum")).is_superset(&shared) && second.0.id == 2);
        let listed = backups.list().await.unwrap();
        assert_eq!(listed.backups, [first.0.clone(), second.0.clone()]);
        let Backup { sequence, files, len_bytes, .. } = second.0;
        assert_eq!((sequence, files), (200, 2 + names(&at("backups/shared_checksum")).len()));
        assert!(len_bytes > first.0.len_bytes);
        // The store may go on, and go.
        store.compact_all().await.unwrap();
        store.close().await.unwrap();
        for (id, expected) in [(1, &first.1), (2, &second.1)] {
            assert!(backups.verify(id).await.unwrap().is_empty());
            let target = at(&format!("restored{id}"));
            backups.restore(id, &target).await.unwrap();
            assert_eq!(content_of(&target).await, *expected);
            assert!(matches!(backups.restore(id, &target).await, Err(Error::AlreadyExists { .. })));
        }
        backups.delete(1).await.unwrap();
        assert!(matches!(backups.delete(1).await, Err(Error::NoSuchBackup { id: 1, .. })));
        backups.restore(2, at("again")).await.unwrap();
        assert_eq!(content_of(&at("again")).await, second.1);
        assert_eq!(backups.purge(0).await.unwrap(), [2]);
        for part in ["meta", "private", "shared_checksum"] {
            assert_eq!(names(&at("backups").join(part)), BTreeSet::new(), "{part}");
        }
    });
}

#[test]
fn what_is_damaged_is_named_and_not_restored_and_takes_nothing_else_away() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store = Store::open(at("db"), options()).await.unwrap();
        let backups = Backups::at(at("backups"));
        for round in ["one", "two", "three"] {
            fill(&store, 0..10, round).await;
            backups.create(&store).await.unwrap();
        }
        let expected = content(&store).await;
        store.close().await.unwrap();
        let blob = names(&at("backups/shared_checksum")).into_iter().find(|name| name.ends_with(".blob"));
        let blob = at("backups/shared_checksum").join(blob.unwrap());
        let whole = std::fs::read(&blob).unwrap();
        let mut bytes = whole.clone();
        bytes[50] ^= 1;
        std::fs::write(&blob, &bytes).unwrap();
        let wrong = backups.verify(1).await.unwrap();
        let said = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(
            wrong.len() == 1 && said.contains(blob.to_str().unwrap()) && said.contains("crc32c"),
            "{said}"
        );
        assert!(backups.restore(1, at("restored")).await.unwrap_err().is_corruption());
        assert!(!at("restored").exists() && !at("restored.tmp").exists());
        std::fs::write(&blob, &whole[1..]).unwrap();
        let listed = backups.list().await.unwrap();
        assert!(listed.damaged.iter().any(|lost| lost.error.to_string().contains("its name says")));
        std::fs::write(&blob, &whole).unwrap();
        // With a meta file that cannot be read nothing is known of the shared files that it names.
        let meta = std::fs::read_to_string(at("backups/meta/1")).unwrap();
        std::fs::write(at("backups/meta/1"), meta.replace("CURRENT", "../../x")).unwrap();
        let listed = backups.list().await.unwrap();
        assert_eq!((listed.backups.len(), listed.damaged[0].id), (2, 1));
        backups.delete(2).await.unwrap();
        assert!(blob.exists());
        backups.delete(1).await.unwrap();
        assert_eq!(ids(&backups).await, [3]);
        backups.restore(3, at("restored")).await.unwrap();
        assert_eq!(content_of(&at("restored")).await, expected);
    });
}

/// A directory that somebody else has under the name of the store, before or since a while, or under the name that it has until it is
/// whole, is left alone, and so is what is in it.
#[test]
fn a_restore_that_fails_leaves_what_is_not_its_own() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let theirs = |name: &str| {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("notes"), "theirs").unwrap();
        };
        let is_untouched = |name: &str| {
            names(&at(name)) == BTreeSet::from(["notes".to_owned()])
                && std::fs::read(at(name).join("notes")).unwrap() == b"theirs"
        };
        let store = Store::open(at("db"), options()).await.unwrap();
        fill(&store, 0..10, "one").await;
        let backups = Backups::at(at("backups"));
        backups.create(&store).await.unwrap();
        store.close().await.unwrap();
        for (taken, target) in [("before", "before"), ("beside.tmp", "beside")] {
            theirs(taken);
            let refused = backups.restore(1, at(target)).await.unwrap_err();
            assert!(
                matches!(&refused, Error::AlreadyExists { path } if *path == at(taken)),
                "{taken}: {refused}"
            );
            assert!(is_untouched(taken), "{taken}");
        }
        assert!(!at("beside").exists());
        // While it is restored, somebody takes the name.
        let (restored, ()) = futures::join!(backups.restore(1, at("since")), async {
            while !at("since.tmp").exists() {
                cutwater_io::task::yield_now().await;
            }
            theirs("since");
        });
        assert!(matches!(restored, Err(Error::Io { .. })), "{restored:?}");
        assert!(is_untouched("since") && !at("since.tmp").exists());
    });
}

#[test]
fn what_an_interrupted_backup_left_is_neither_listed_nor_used_and_goes() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let store = Store::open(at("db"), options()).await.unwrap();
        let backups = Backups::at(at("backups"));
        fill(&store, 0..10, "one").await;
        let first = backups.create(&store).await.unwrap();
        // As if it had died before it was listed, and what it wrote had not been durable.
        std::fs::rename(at("backups/meta/1"), at("backups/meta/1.tmp")).unwrap();
        for name in names(&at("backups/shared_checksum")) {
            let path = at("backups/shared_checksum").join(name);
            let len_bytes = std::fs::metadata(&path).unwrap().len();
            std::fs::write(&path, vec![0; len_bytes as usize]).unwrap();
        }
        assert_eq!(ids(&backups).await, [0; 0]);
        let second = backups.create(&store).await.unwrap();
        assert_eq!((first.id, second.id, ids(&backups).await), (1, 2, vec![2]));
        assert_eq!(names(&at("backups/private")), BTreeSet::from(["2".to_owned()]));
        assert!(backups.verify(2).await.unwrap().is_empty());
        store.close().await.unwrap();
    });
}

#[test]
fn rocksdb_restores_our_backups_adds_its_own_and_we_restore_those() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let store = Store::open(at("db"), options()).await.unwrap();
        fill(&store, 0..100, "ours").await;
        let backups = Backups::at(at("backups"));
        backups.create(&store).await.unwrap();
        let expected = content(&store).await;
        store.close().await.unwrap();
        let (db, backup_dir) = (format!("--db={}", at("theirs")), format!("--backup_dir={}", at("backups")));
        if ldb(&[&db, &backup_dir, "restore"]).is_none() {
            return;
        }
        let scanned = ldb(&[&db, "scan"]).unwrap();
        assert_eq!(scanned.lines().count(), expected.len());
        for (line, (key, value)) in scanned.lines().zip(&expected) {
            let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
            assert!(line.starts_with(&*key) && line.ends_with(&*value), "{line}");
        }
        ldb(&[&db, "put", "theirs", "new"]).unwrap();
        ldb(&[&db, &backup_dir, "backup"]).unwrap();
        assert_eq!(ids(&backups).await, [1, 2]);
        assert!(backups.verify(2).await.unwrap().is_empty() && backups.verify(1).await.unwrap().is_empty());
        backups.restore(2, at("restored")).await.unwrap();
        let mut more = expected.clone();
        more.push((b"theirs".to_vec(), b"new".to_vec()));
        more.sort();
        assert_eq!(content_of(Path::new(&at("restored"))).await, more);
        backups.delete(2).await.unwrap();
        ldb(&[&format!("--db={}", at("again")), &backup_dir, "restore"]).unwrap();
        assert_eq!(content_of(Path::new(&at("again"))).await, expected);
    });
}
