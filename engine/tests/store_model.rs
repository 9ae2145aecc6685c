//! The store against a `BTreeMap`: random operations with flushes, compactions, snapshots, checkpoints, clean and unclean
//! reopening, on a real directory.
#![cfg(not(madsim))]

use std::collections::BTreeMap;
use std::path::Path;

use cutwater_engine::store::{Iter, Options, Snapshot, Store, WriteBatch, WriteOptions};
use proptest::prelude::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const SYNCED: WriteOptions = WriteOptions { sync: true, disable_wal: false };

fn tiny() -> Options {
    Options {
        write_buffer_bytes: 2048,
        block_bytes: 128,
        target_file_bytes: 1024,
        max_bytes_for_level_base: 3000,
        level_multiplier: 3,
        level0_compaction_trigger: 2,
        level0_stop_writes_trigger: 5,
        max_manifest_bytes: 2000,
        num_levels: 4,
        ..Options::default()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A store that was dropped and not closed gives the directory free once its tasks have noticed.
async fn open(dir: &Path) -> Store {
    for _ in 0..1000 {
        match Store::open(dir, tiny()).await {
            Err(cutwater_engine::store::Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
    panic!("the directory stays locked");
}

async fn collect(mut iter: Iter) -> Model {
    let mut found = Vec::new();
    while let Some(entry) = iter.next().await.unwrap() {
        found.push(entry);
    }
    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "an iterator ascends");
    found.into_iter().collect()
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(u8, Option<u8>)>, bool),
    Flush,
    CompactAll,
    Snapshot,
    ReleaseSnapshot,
    Scan(u8, u8),
    Checkpoint,
    Reopen { clean: bool },
    Sync,
}

fn op() -> impl Strategy<Value = Op> {
    let change = (any::<u8>(), prop::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        40 => (prop::collection::vec(change, 1..12), any::<bool>()).prop_map(|(c, s)| Op::Write(c, s)),
        4 => Just(Op::Flush),
        2 => Just(Op::CompactAll),
        3 => Just(Op::Snapshot),
        2 => Just(Op::ReleaseSnapshot),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Scan(a, b)),
        1 => Just(Op::Checkpoint),
        3 => any::<bool>().prop_map(|clean| Op::Reopen { clean }),
        2 => Just(Op::Sync),
    ]
}

fn key(k: u8) -> Vec<u8> {
    format!("key{:03}", k % 100).into_bytes()
}

fn value(v: u8) -> Vec<u8> {
    vec![v; 20 + usize::from(v)]
}

async fn run(ops: Vec<Op>) {
    // In memory where there is such a directory: thousands of syncs.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("db");
    let mut store = open(&path).await;
    let mut model = Model::new();
    let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
    for (i, op) in ops.into_iter().enumerate() {
        match op {
            Op::Write(changes, is_synced) => {
                let mut batch = WriteBatch::new();
                for (k, v) in changes {
                    match v {
                        Some(v) => {
                            batch.put(&key(k), &value(v));
                            model.insert(key(k), value(v));
                        }
                        None => {
                            batch.delete(&key(k));
                            model.remove(&key(k));
                        }
                    }
                }
                let expected = store.last_sequence() + u64::from(batch.count());
                let sequence = store.write(batch, if is_synced { SYNCED } else { LOGGED }).await.unwrap();
                assert_eq!((sequence, store.last_sequence()), (expected, expected));
            }
            Op::Flush => store.flush().await.unwrap(),
            Op::CompactAll => store.compact_all().await.unwrap(),
            Op::Snapshot => snapshots.push((store.snapshot(), model.clone())),
            Op::ReleaseSnapshot => drop(snapshots.pop()),
            Op::Scan(a, b) => {
                let (from, to) = (key(a).min(key(b)), key(a).max(key(b)));
                let expected: Model =
                    model.range(from.clone()..to.clone()).map(|(k, v)| (k.clone(), v.clone())).collect();
                assert_eq!(collect(store.iter(from..to, None)).await, expected);
                assert_eq!(store.get(&key(a)).await.unwrap(), model.get(&key(a)).cloned());
                for (snapshot, then) in &snapshots {
                    assert_eq!(collect(store.iter(.., Some(snapshot))).await, *then);
                    assert_eq!(store.get_at(snapshot, &key(b)).await.unwrap(), then.get(&key(b)).cloned());
                }
            }
            Op::Checkpoint => {
                let target = dir.path().join(format!("checkpoint-{i}"));
                let files = store.checkpoint(&target).await.unwrap();
                for file in &files.files {
                    let len = cutwater_io::fs::metadata(target.join(&file.name)).await.unwrap().len_bytes;
                    assert_eq!(len, file.len_bytes, "{}", file.name);
                }
                let copy = open(&target).await;
                assert_eq!(copy.last_sequence(), files.sequence);
                assert_ne!(copy.identity(), store.identity());
                assert_eq!(collect(copy.iter(.., None)).await, model);
                copy.close().await.unwrap();
            }
            Op::Reopen { clean } => {
                let (sequence, identity) = (store.last_sequence(), store.identity().to_owned());
                snapshots.clear();
                if clean {
                    store.close().await.unwrap();
                } else {
                    drop(store);
                }
                store = open(&path).await;
                assert_eq!((store.last_sequence(), store.identity()), (sequence, &identity[..]));
                assert_eq!(collect(store.iter(.., None)).await, model);
            }
            Op::Sync => store.sync_wal().await.unwrap(),
        }
    }
    store.verify().await.unwrap();
    assert_eq!(collect(store.iter(.., None)).await, model);
    drop(snapshots);
    store.compact_all().await.unwrap();
    store.verify().await.unwrap();
    assert_eq!(collect(store.iter(.., None)).await, model);
    store.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map(ops in prop::collection::vec(op(), 1..150)) {
        block_on(run(ops));
    }
}
