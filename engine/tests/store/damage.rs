//! What the store answers to files that were damaged, cut or removed while it was closed, and to requests that cannot be met.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "what is on the disk is damaged behind the engine's back")]

use std::path::{Path, PathBuf};

use cutwater_engine::store::{Error, FamilyOptions, Options, Store, WalRecovery, WriteOptions};
use cutwater_io::fs::{self, OpenOptions};

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const SYNCED: WriteOptions = WriteOptions { sync: true, disable_wal: false };
const UNLOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: true };

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn options() -> Options {
    Options {
        family: FamilyOptions { block_bytes: 128, write_buffer_bytes: 64 << 10, ..FamilyOptions::default() },
        ..Options::default()
    }
}

async fn open(dir: &Path) -> Result<Store, Error> {
    loop {
        match Store::open(dir, options()).await {
            Err(Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => return other,
        }
    }
}

async fn put(store: &Store, from: u32, to: u32, how: WriteOptions) {
    for i in from..to {
        store.put(format!("key{i:04}").as_bytes(), format!("value{i}").as_bytes(), how).await.unwrap();
    }
}

async fn count(store: &Store) -> u32 {
    let mut iter = store.iter(.., None);
    let mut n = 0;
    while let Some((key, value)) = iter.next().await.unwrap() {
        assert_eq!((key, value), (format!("key{n:04}").into_bytes(), format!("value{n}").into_bytes()));
        n += 1;
    }
    n
}

async fn only(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> PathBuf {
    let names: Vec<String> = fs::read_dir(dir).await.unwrap().into_iter().map(|e| e.name).collect();
    let found: Vec<&String> = names.iter().filter(|name| is_wanted(name)).collect();
    assert_eq!(found.len(), 1, "{names:?}");
    dir.join(found[0])
}

async fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).await.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).await.unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).await.unwrap();
}

#[test]
fn a_log_that_was_cut_gives_a_prefix_and_the_same_one_again() {
    block_on(async {
        for cut in [1, 20, 39, 40, 400] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path()).await.unwrap();
            put(&store, 0, 50, LOGGED).await;
            drop(store);
            let log = only(dir.path(), |name| name.ends_with(".log")).await;
            let file = OpenOptions::new().write(true).open(&log).await.unwrap();
            file.set_len(file.len().await.unwrap() - cut).await.unwrap();
            let store = open(dir.path()).await.unwrap();
            let n = count(&store).await;
            assert!((50 - cut as u32 / 10 - 1..50).contains(&n), "{n} after a cut of {cut}");
            assert_eq!(store.last_sequence(), u64::from(n));
            drop(store);
            let store = open(dir.path()).await.unwrap();
            assert_eq!(count(&store).await, n);
            put(&store, n, 60, SYNCED).await;
            assert_eq!(count(&store).await, 60);
        }
    });
}

/// How many keys there are after a log of fifty unsynced writes was changed, in each mode of recovery.
async fn recovered(mode: WalRecovery, change: impl AsyncFn(&Path)) -> Result<usize, Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    put(&store, 0, 50, LOGGED).await;
    drop(store);
    change(&only(dir.path(), |name| name.ends_with(".log")).await).await;
    let store = loop {
        match Store::open(dir.path(), Options { wal_recovery: mode, ..options() }).await {
            Err(Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => break other?,
        }
    };
    let mut found = 0;
    for i in 0..50 {
        found += usize::from(store.get(format!("key{i:04}").as_bytes()).await.unwrap().is_some());
    }
    // What was recovered is there for good, whatever the mode then is.
    store.put(b"more", b"", SYNCED).await.unwrap();
    drop(store);
    let store = open(dir.path()).await.unwrap();
    let mut iter = store.iter(.., None);
    let mut again = 0;
    while iter.next().await.unwrap().is_some() {
        again += 1;
    }
    assert_eq!(again, found + 1);
    Ok(found)
}

#[test]
fn the_mode_of_recovery_says_what_a_log_that_is_not_whole_means() {
    use WalRecovery::{Absolute, PointInTime, SkipDamaged, TornTail};
    block_on(async {
        let cut = async |log: &Path| {
            let file = OpenOptions::new().write(true).open(log).await.unwrap();
            file.set_len(file.len().await.unwrap() - 5).await.unwrap();
        };
        // In the tenth record or so.
        let flipped = async |log: &Path| flip(log, 400).await;
        for mode in [PointInTime, TornTail, SkipDamaged] {
            assert_eq!(recovered(mode, cut).await.unwrap(), 49, "{mode:?}");
        }
        let in_time = recovered(PointInTime, flipped).await.unwrap();
        assert!((5..15).contains(&in_time), "{in_time}");
        assert_eq!(recovered(SkipDamaged, flipped).await.unwrap(), 49);
        let error = recovered(TornTail, flipped).await.unwrap_err();
        assert!(error.is_corruption() && error.to_string().ends_with("and records follow"), "{error}");
        for change in [recovered(Absolute, cut).await, recovered(Absolute, flipped).await] {
            let error = change.unwrap_err();
            assert!(
                error.is_corruption() && error.to_string().ends_with("not end in a whole record"),
                "{error}"
            );
        }
        let as_it_is = async |_: &Path| {};
        for mode in [PointInTime, TornTail, Absolute, SkipDamaged] {
            assert_eq!(recovered(mode, as_it_is).await.unwrap(), 50, "{mode:?}");
        }
    });
}

#[test]
fn a_flipped_bit_in_a_table_is_an_error_that_names_it() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        put(&store, 0, 100, LOGGED).await;
        store.flush().await.unwrap();
        store.close().await.unwrap();
        let table = only(dir.path(), |name| name.ends_with(".sst")).await;
        flip(&table, 10).await;
        let store = open(dir.path()).await.unwrap();
        let error = store.get(b"key0000").await.unwrap_err();
        let expected =
            format!("corruption in {} at byte 0: a block's checksum does not match", table.display());
        assert_eq!(error.to_string(), expected);
        assert!(store.iter(.., None).next().await.unwrap_err().is_corruption());
        assert!(store.verify().await.unwrap_err().is_corruption());
        assert_eq!(store.get(b"key0099").await.unwrap().unwrap(), b"value99");
        // A compaction must not write on without what it cannot read.
        put(&store, 0, 1, LOGGED).await;
        assert!(store.compact_all().await.unwrap_err().is_corruption());
        assert!(matches!(store.put(b"k", b"v", LOGGED).await, Err(Error::Background { .. })));
        assert_eq!(store.get(b"key0099").await.unwrap().unwrap(), b"value99");
        drop(store);
        fs::remove_file(&table).await.unwrap();
        assert!(
            open(dir.path())
                .await
                .unwrap_err()
                .to_string()
                .ends_with("the MANIFEST names it, and it is missing")
        );
    });
}

#[test]
fn a_manifest_or_current_that_is_damaged_is_refused_and_nothing_is_removed() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        for i in 0..4 {
            put(&store, i * 10, i * 10 + 10, LOGGED).await;
            store.flush().await.unwrap();
        }
        store.close().await.unwrap();
        let before = fs::read_dir(dir.path()).await.unwrap();
        let manifest = only(dir.path(), |name| name.starts_with("MANIFEST")).await;
        flip(&manifest, 20).await;
        assert!(open(dir.path()).await.unwrap_err().is_corruption());
        flip(&manifest, 20).await;
        let current = dir.path().join("CURRENT");
        flip(&current, 0).await;
        assert!(open(dir.path()).await.unwrap_err().to_string().ends_with("it does not name a MANIFEST"));
        flip(&current, 0).await;
        assert_eq!(fs::read_dir(dir.path()).await.unwrap(), before);
        fs::rename(&current, dir.path().join("elsewhere")).await.unwrap();
        assert!(open(dir.path()).await.unwrap_err().is_corruption());
        fs::rename(dir.path().join("elsewhere"), &current).await.unwrap();
        assert_eq!(count(&open(dir.path()).await.unwrap()).await, 40);
    });
}

#[test]
fn a_log_is_not_cut_where_it_was_durable() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        put(&store, 0, 20, LOGGED).await;
        put(&store, 20, 21, SYNCED).await;
        let log = only(dir.path(), |name| name.ends_with(".log")).await;
        put(&store, 21, 30, LOGGED).await;
        drop(store);
        let content = fs::read(&log).await.unwrap();
        let place = |key: &[u8]| content.windows(key.len()).position(|window| window == key).unwrap() as u64;
        // In the last record that the sync forced, behind which stands the mark, and in an earlier one.
        for at in [place(b"key0020"), place(b"key0003")] {
            flip(&log, at).await;
            let error = open(dir.path()).await.unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains("was durable"), "{at}: {error}");
            flip(&log, at).await;
        }
        // What no sync had forced may be torn.
        flip(&log, fs::metadata(&log).await.unwrap().len_bytes - 1).await;
        assert_eq!(count(&open(dir.path()).await.unwrap()).await, 29);
    });
}

#[test]
fn a_later_log_tells_that_an_earlier_one_was_durable() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        // Closed memtables wait for a flush that never gets to run, so that both logs are needed.
        let store = open(dir.path()).await.unwrap();
        put(&store, 0, 20, LOGGED).await;
        let first = only(dir.path(), |name| name.ends_with(".log")).await;
        let content = fs::read(&first).await.unwrap();
        let manifest = only(dir.path(), |name| name.starts_with("MANIFEST")).await;
        let before = fs::read(&manifest).await.unwrap();
        store.flush().await.unwrap();
        put(&store, 20, 21, SYNCED).await;
        drop(store);
        // As if the flush had not happened: the log is back, damaged, and the MANIFEST does not know of the table.
        let mut damaged = content.clone();
        damaged[100] ^= 1;
        std::fs::write(&first, damaged).unwrap();
        std::fs::write(&manifest, &before).unwrap();
        assert!(open(dir.path()).await.unwrap_err().is_corruption());
        std::fs::write(&first, content).unwrap();
        assert_eq!(count(&open(dir.path()).await.unwrap()).await, 21);
    });
}

/// A user keeps copies of logs as values. What they say of themselves says nothing of the log that holds them, not even where
/// uuid and number are the same, as in two copies of one directory.
#[test]
fn a_log_that_was_stored_as_a_value_is_no_witness() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let dirs = ["one", "other"].map(|name| parent.path().join(name));
        open(&dirs[0]).await.unwrap().close().await.unwrap();
        std::fs::create_dir(&dirs[1]).unwrap();
        for entry in fs::read_dir(&dirs[0]).await.unwrap() {
            std::fs::copy(dirs[0].join(&entry.name), dirs[1].join(&entry.name)).unwrap();
        }
        let other = open(&dirs[1]).await.unwrap();
        for i in 0..30 {
            put(&other, i, i + 1, SYNCED).await;
        }
        let store = open(&dirs[0]).await.unwrap();
        assert_eq!(store.identity(), other.identity());
        drop(other);
        let logs = [
            only(&dirs[0], |name| name.ends_with(".log")).await,
            only(&dirs[1], |name| name.ends_with(".log")).await,
        ];
        assert_eq!(logs[0].file_name(), logs[1].file_name());
        let copied = fs::read(&logs[1]).await.unwrap();
        put(&store, 0, 10, LOGGED).await;
        store.put(b"copied", &copied, LOGGED).await.unwrap();
        drop(store);
        let content = fs::read(&logs[0]).await.unwrap();
        assert!(content.windows(copied.len()).any(|window| window == copied), "it is there as it was");
        // Nothing was synced here, so this may be the torn tail of a crash.
        flip(&logs[0], 150).await;
        let store = open(&dirs[0]).await.unwrap();
        assert!((1..10).contains(&count(&store).await));
    });
}

#[test]
fn the_newest_edit_of_a_manifest_is_not_cut_off() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        put(&store, 0, 10, LOGGED).await;
        store.flush().await.unwrap();
        drop(store);
        let manifest = only(dir.path(), |name| name.starts_with("MANIFEST")).await;
        let len_bytes = fs::metadata(&manifest).await.unwrap().len_bytes;
        // The seal has at most 15 bytes: a header, and a checksum of what is before it.
        flip(&manifest, len_bytes - 20).await;
        assert!(open(dir.path()).await.unwrap_err().to_string().ends_with("and records follow"));
        flip(&manifest, len_bytes - 20).await;
        flip(&manifest, len_bytes - 1).await;
        assert_eq!(count(&open(dir.path()).await.unwrap()).await, 10);
    });
}

#[test]
fn a_manifest_of_another_store_or_of_another_number_is_refused() {
    block_on(async {
        let parent = tempfile::tempdir().unwrap();
        let dirs = ["a", "b"].map(|name| parent.path().join(name));
        let mut manifests = Vec::new();
        for dir in &dirs {
            let store = open(dir).await.unwrap();
            put(&store, 0, 10, LOGGED).await;
            store.flush().await.unwrap();
            store.checkpoint(dir.with_extension("checkpoint")).await.unwrap();
            store.close().await.unwrap();
            manifests.push(only(dir, |name| name.starts_with("MANIFEST")).await);
        }
        assert_eq!(manifests[0].file_name(), manifests[1].file_name());
        let own = fs::read(&manifests[0]).await.unwrap();
        std::fs::copy(&manifests[1], &manifests[0]).unwrap();
        let error = open(&dirs[0]).await.unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("it is of the store"), "{error}");
        let checkpoint = dirs[0].with_extension("checkpoint");
        let of_checkpoint = only(&checkpoint, |name| name.starts_with("MANIFEST")).await;
        std::fs::copy(of_checkpoint, &manifests[0]).unwrap();
        let error = open(&dirs[0]).await.unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("it is MANIFEST-"), "{error}");
        std::fs::write(&manifests[0], own).unwrap();
        // A digit of IDENTITY that became another one.
        let identity = dirs[0].join("IDENTITY");
        flip(&identity, 0).await;
        assert!(open(&dirs[0]).await.unwrap_err().to_string().contains("it is of the store"));
        flip(&identity, 0).await;
        assert_eq!(count(&open(&dirs[0]).await.unwrap()).await, 10);
        // A checkpoint has no IDENTITY until it is opened; the one that is made then is the one that its MANIFEST has.
        let uuid = open(&checkpoint).await.unwrap().identity().to_owned();
        assert_eq!(open(&checkpoint).await.unwrap().identity(), uuid);
        assert_ne!(open(&dirs[0]).await.unwrap().identity(), uuid);
    });
}

#[test]
fn a_table_that_is_gone_tells_that_the_end_of_the_manifest_was_durable() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        for _ in 0..2 {
            put(&store, 0, 10, LOGGED).await;
            store.flush().await.unwrap();
        }
        let manifest = only(dir.path(), |name| name.starts_with("MANIFEST")).await;
        let before = fs::metadata(&manifest).await.unwrap().len_bytes as usize;
        store.compact_all().await.unwrap();
        store.close().await.unwrap();
        // The edit of the compaction is lost, with its seal.
        let mut content = fs::read(&manifest).await.unwrap();
        content[before..].fill(0);
        std::fs::write(&manifest, content).unwrap();
        let error = open(dir.path()).await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_corruption() && text.contains("MANIFEST") && text.contains("was durable"), "{text}");
    });
}

#[test]
fn a_whole_block_in_the_wrong_place_is_noticed() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        for value in ["1", "2"] {
            for i in 0..100 {
                store.put(format!("key{i:04}").as_bytes(), value.as_bytes(), LOGGED).await.unwrap();
            }
            store.flush().await.unwrap();
        }
        store.close().await.unwrap();
        let mut tables: Vec<PathBuf> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "sst"))
            .collect();
        tables.sort();
        let [older, newer] = &tables[..] else { panic!("{tables:?}") };
        // Their blocks have the same places; each is whole, and the keys are those that are looked for.
        let old = std::fs::read(older).unwrap();
        let mut new = std::fs::read(newer).unwrap();
        new[..512].copy_from_slice(&old[..512]);
        std::fs::write(newer, new).unwrap();
        let store = open(dir.path()).await.unwrap();
        let error = store.get(b"key0000").await.unwrap_err();
        assert!(error.to_string().ends_with("a whole block that belongs elsewhere"), "{error}");
        assert_eq!(store.get(b"key0099").await.unwrap().unwrap(), b"2");
    });
}

#[test]
fn the_bytes_outside_of_blocks_are_checked_by_a_scrub_and_a_table_without_checksums_is_refused() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        put(&store, 0, 10, LOGGED).await;
        store.flush().await.unwrap();
        store.close().await.unwrap();
        let table = only(dir.path(), |name| name.ends_with(".sst")).await;
        let footer_at = fs::metadata(&table).await.unwrap().len_bytes - 53;
        // Padding behind the handles of the footer.
        flip(&table, footer_at + 38).await;
        let store = open(dir.path()).await.unwrap();
        assert_eq!(count(&store).await, 10);
        assert!(store.verify().await.unwrap_err().to_string().contains("its crc32c is"));
        store.close().await.unwrap();
        // The type of checksum: 1 becomes 0, which is none.
        flip(&table, footer_at).await;
        assert!(
            open(dir.path()).await.unwrap_err().to_string().contains("an unknown checksum type, or none")
        );
    });
}

#[test]
fn writes_outside_the_log_are_kept_by_flush_close_and_checkpoint_only() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = open(&path).await.unwrap();
        put(&store, 0, 10, UNLOGGED).await;
        store.checkpoint(dir.path().join("checkpoint")).await.unwrap();
        put(&store, 10, 20, UNLOGGED).await;
        drop(store);
        let store = open(&path).await.unwrap();
        assert_eq!(count(&store).await, 10);
        put(&store, 10, 30, UNLOGGED).await;
        store.close().await.unwrap();
        assert_eq!(count(&open(&path).await.unwrap()).await, 30);
        assert_eq!(count(&open(&dir.path().join("checkpoint")).await.unwrap()).await, 10);
    });
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let missing = Options { create_if_missing: false, ..options() };
        let nothing = dir.path().join("nothing");
        assert!(matches!(Store::open(&nothing, missing).await, Err(Error::NotFound { .. })));
        assert!(!fs::try_exists(&nothing).await.unwrap());
        let bad = Options { family: FamilyOptions { num_levels: 1, ..options().family }, ..options() };
        assert_eq!(
            Store::open(dir.path(), bad).await.unwrap_err().to_string(),
            "option num_levels: must be 2 to 64"
        );
        let store = open(dir.path()).await.unwrap();
        assert!(matches!(Store::open(dir.path(), options()).await, Err(Error::Locked { .. })));
        let contradiction = WriteOptions { sync: true, disable_wal: true };
        assert!(matches!(store.put(b"k", b"v", contradiction).await, Err(Error::InvalidRequest(_))));
        assert!(matches!(store.checkpoint(dir.path()).await, Err(Error::AlreadyExists { .. })));
        let clone = store.clone();
        store.close().await.unwrap();
        assert!(matches!(clone.put(b"k", b"v", LOGGED).await, Err(Error::Closed)));
        assert!(open(dir.path()).await.is_ok());
    });
}

/// The filter of the other table says that the key is not there, so no block of it is ever read.
#[test]
fn a_table_over_which_another_was_written_is_refused() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await.unwrap();
        for key in ["here", "lost"] {
            store.put(key.as_bytes(), b"value", LOGGED).await.unwrap();
            store.flush().await.unwrap();
        }
        store.close().await.unwrap();
        let names = fs::read_dir(dir.path()).await.unwrap().into_iter().map(|entry| entry.name);
        let tables: Vec<PathBuf> =
            names.filter(|name| name.ends_with(".sst")).map(|name| dir.path().join(name)).collect();
        assert_eq!(tables.len(), 2, "{tables:?}");
        let [first, second] = [&tables[0], &tables[1]];
        let (bytes, others) = (fs::read(first).await.unwrap(), fs::read(second).await.unwrap());
        assert_eq!(bytes.len(), others.len());
        std::fs::write(first, &others).unwrap();
        let refused = open(dir.path()).await.unwrap_err();
        assert!(refused.is_corruption() && refused.to_string().contains("its crc32c is"), "{refused}");
        let careless = Options { paranoid_checks: false, ..options() };
        let store = Store::open(dir.path(), careless).await.unwrap();
        for key in ["here", "lost"] {
            match store.get(key.as_bytes()).await {
                Ok(value) => assert_eq!(value.as_deref(), Some(&b"value"[..]), "{key}"),
                Err(error) => assert!(error.is_corruption(), "{error}"),
            }
        }
    });
}
