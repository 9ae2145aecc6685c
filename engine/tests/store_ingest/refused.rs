//! What is refused, by name, before anything is done: the store is as it was, and so is its directory.

use super::*;

/// The store and its directory are as before a call that was refused.
async fn refuses(store: &Store, dir: &Path, files: &[PathBuf]) -> Error {
    let before = (store.last_sequence(), names(dir).await);
    let error = store.ingest(files, COPIES).await.unwrap_err();
    assert_eq!((store.last_sequence(), names(dir).await), before, "{error}");
    error
}

#[test]
fn keys_that_do_not_ascend() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = TableWriter::create(dir.path().join("t"), &family_options()).await.unwrap();
        writer.put(b"k", b"v").await.unwrap();
        for key in [b"k", b"j"] {
            let error = writer.delete(key).await.unwrap_err().to_string();
            assert_eq!(error, format!("the key {} does not come after k", key.escape_ascii()));
        }
        writer.put(b"l", b"v").await.unwrap();
        assert_eq!(writer.finish().await.unwrap().entries, 2);
        let again = TableWriter::create(dir.path().join("t"), &family_options()).await.unwrap_err();
        assert!(matches!(again, Error::Io { op: "create", .. }), "{again}");
        let empty = TableWriter::create(dir.path().join("e"), &family_options()).await.unwrap();
        assert!(matches!(empty.finish().await, Err(Error::InvalidRequest(_))));
        let plain = FamilyOptions { merge_operator: None, ..family_options() };
        let mut writer = TableWriter::create(dir.path().join("m"), &plain).await.unwrap();
        assert!(matches!(writer.merge(b"k", b"v").await, Err(Error::InvalidRequest(_))));
    });
}

#[test]
fn tables_that_do_not_belong_here() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let family = FamilyOptions { merge_operator: None, ..family_options() };
        let store = Store::open(&path, Options { family, ..options() }).await.unwrap();
        store.put(b"k", b"v", LOGGED).await.unwrap();
        store.flush().await.unwrap();
        let own = store.live_files().into_iter().find(|name| name.ends_with(".sst")).unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::copy(path.join(&own), at("own")).unwrap();
        let tables = [
            (vec![], "no tables to ingest"),
            (vec![at("own")], "it was not made to be ingested"),
            (vec![path.join(&own)], "it lies in the directory of a store"),
            (vec![at("missing")], "stat"),
            (vec![write(&at("m"), &[Put("a", "v"), Merge("b", "v")]).await], "the key b has an operand"),
            (
                vec![
                    write(&at("1"), &[Put("a", "v"), Put("c", "v")]).await,
                    write(&at("2"), &[Put("c", "v")]).await,
                ],
                "it overlaps",
            ),
            (
                vec![write(&at("3"), &[Range("x", "z")]).await, write(&at("4"), &[Put("y", "v")]).await],
                "it overlaps",
            ),
            (vec![at("1"), at("own")], "it was not made to be ingested"),
        ];
        for (files, why) in tables {
            let error = refuses(&store, &path, &files).await.to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(content(&store.default_family()).await, pairs(&[("k", "v")]));
        store.ingest(&[at("1")], COPIES).await.unwrap();
        store.close().await.unwrap();
    });
}

#[test]
fn every_bit_that_counts() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let family = FamilyOptions {
            level0_compaction_trigger: 1000,
            level0_stop_writes_trigger: 1001,
            ..family_options()
        };
        let store = Store::open(&path, Options { family, ..options() }).await.unwrap();
        let entries = [Put("a", "1"), Put("b", "2"), Delete("c"), Range("e", "g"), Range("f", "h")];
        let table = write(&dir.path().join("t"), &entries).await;
        let whole = std::fs::read(&table).unwrap();
        let mut harmless = Vec::new();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            let file = dir.path().join("damaged");
            std::fs::write(&file, damaged).unwrap();
            let before = names(&path).await;
            match store.ingest(&[&file], COPIES).await {
                Err(error) => {
                    let is_named = error.is_corruption()
                        || matches!(error, Error::Unsupported { .. } | Error::NotIngestible { .. });
                    assert!(is_named, "{error}");
                    assert_eq!(names(&path).await, before);
                }
                Ok(_) => harmless.push(whole.len() - at),
            }
        }
        // The footer has room that is not used.
        assert!(harmless.iter().all(|from_end| *from_end <= 53), "{harmless:?}");
        assert_eq!(content(&store.default_family()).await.len(), if harmless.is_empty() { 0 } else { 2 });
        for cut in 0..whole.len() {
            let file = dir.path().join("damaged");
            std::fs::write(&file, &whole[..cut]).unwrap();
            store.ingest(&[&file], COPIES).await.unwrap_err();
        }
        store.verify().await.unwrap();
        store.close().await.unwrap();
    });
}
