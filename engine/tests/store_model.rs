//! The store against a `BTreeMap`: random operations with flushes, compactions, snapshots, checkpoints, clean and unclean
//! reopening, on a real directory. Iterators stay open meanwhile and are moved in both directions.
#![cfg(not(madsim))]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use cutwater_engine::store::{
    Compression, Iter, Options, Snapshot, Store, Verified, WriteBatch, WriteOptions,
};
use proptest::prelude::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const SYNCED: WriteOptions = WriteOptions { sync: true, disable_wal: false };

fn tiny() -> impl Strategy<Value = Options> {
    let cache_bytes = prop::sample::select(vec![0, 3000, 1 << 20]);
    let min_blob_bytes = prop::sample::select(vec![None, Some(0), Some(60), Some(200)]);
    let gc_percent = prop::sample::select(vec![0, 25, 100]);
    (cache_bytes, min_blob_bytes, gc_percent).prop_map(
        |(block_cache_bytes, min_blob_bytes, blob_gc_age_percent)| Options {
            block_cache_bytes,
            min_blob_bytes,
            blob_gc_age_percent,
            ..smallest()
        },
    )
}

fn smallest() -> Options {
    Options {
        blob_file_bytes: 700,
        compression_per_level: vec![Compression::None, Compression::Lz4, Compression::Snappy],
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
async fn open(dir: &Path, options: &Options) -> Store {
    for _ in 0..1000 {
        match Store::open(dir, options.clone()).await {
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

/// A move of an iterator.
#[derive(Clone, Copy, Debug)]
enum Move {
    Next,
    Prev,
    First,
    Last,
    Seek(u8),
    SeekForPrev(u8),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => Just(Move::Next),
        8 => Just(Move::Prev),
        1 => Just(Move::First),
        1 => Just(Move::Last),
        2 => any::<u8>().prop_map(Move::Seek),
        2 => any::<u8>().prop_map(Move::SeekForPrev),
    ];
    prop::collection::vec(one, 1..12)
}

/// Where an iterator should be.
#[derive(Clone, Debug, PartialEq)]
enum Position {
    Start,
    Key(Vec<u8>),
    End,
}

/// An open iterator, what its range holds, and where it should be.
struct Walk {
    iter: Iter,
    content: Model,
    at: Position,
}

impl Walk {
    fn new(
        store: &Store,
        snapshot: Option<&Snapshot>,
        model: &Model,
        (from, to): (Bound<u8>, Bound<u8>),
    ) -> Walk {
        let range = (from.map(key), to.map(key));
        let is_inside = |k: &Vec<u8>| {
            let is_behind_start = match &range.0 {
                Bound::Included(start) => k >= start,
                Bound::Excluded(start) => k > start,
                Bound::Unbounded => true,
            };
            is_behind_start
                && match &range.1 {
                    Bound::Included(end) => k <= end,
                    Bound::Excluded(end) => k < end,
                    Bound::Unbounded => true,
                }
        };
        let content =
            model.iter().filter(|(k, _)| is_inside(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
        Walk { iter: store.iter(range, snapshot), content, at: Position::Start }
    }

    async fn go(&mut self, step: Move) {
        let content = &self.content;
        let (expected, beyond) = match (step, &self.at) {
            (Move::Next, Position::End) => (None, Position::End),
            (Move::Next, Position::Key(k)) => {
                (content.range::<Vec<u8>, _>((Bound::Excluded(k), Bound::Unbounded)).next(), Position::End)
            }
            (Move::Next, Position::Start) | (Move::First, _) => (content.iter().next(), Position::End),
            (Move::Prev, Position::Start) => (None, Position::Start),
            (Move::Prev, Position::Key(k)) => (content.range(..k.clone()).next_back(), Position::Start),
            (Move::Prev, Position::End) | (Move::Last, _) => (content.iter().next_back(), Position::Start),
            (Move::Seek(k), _) => (content.range(key(k)..).next(), Position::End),
            (Move::SeekForPrev(k), _) => (content.range(..=key(k)).next_back(), Position::Start),
        };
        let iter = &mut self.iter;
        let found = match step {
            Move::Next => iter.next().await,
            Move::Prev => iter.prev().await,
            Move::First => iter.seek_to_first().await,
            Move::Last => iter.seek_to_last().await,
            Move::Seek(k) => iter.seek(&key(k)).await,
            Move::SeekForPrev(k) => iter.seek_for_prev(&key(k)).await,
        };
        let found = found.unwrap();
        assert_eq!(found.as_ref().map(|(k, v)| (k, v)), expected, "{step:?} from {:?}", self.at);
        self.at = found.map_or(beyond, |(k, _)| Position::Key(k));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(u8, Option<u8>)>, bool),
    Flush,
    CompactAll,
    Snapshot,
    ReleaseSnapshot,
    Scan(u8, u8),
    OpenIter(Bound<u8>, Bound<u8>),
    CloseIter,
    Walk(u8, Vec<Move>),
    Checkpoint,
    Reopen { clean: bool },
    Sync,
}

fn op() -> impl Strategy<Value = Op> {
    let bound = || {
        prop_oneof![
            Just(Bound::Unbounded),
            any::<u8>().prop_map(Bound::Included),
            any::<u8>().prop_map(Bound::Excluded),
        ]
    };
    let change = (any::<u8>(), prop::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        40 => (prop::collection::vec(change, 1..12), any::<bool>()).prop_map(|(c, s)| Op::Write(c, s)),
        4 => Just(Op::Flush),
        2 => Just(Op::CompactAll),
        3 => Just(Op::Snapshot),
        2 => Just(Op::ReleaseSnapshot),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Scan(a, b)),
        4 => (bound(), bound()).prop_map(|(a, b)| Op::OpenIter(a, b)),
        1 => Just(Op::CloseIter),
        12 => (any::<u8>(), moves()).prop_map(|(i, moves)| Op::Walk(i, moves)),
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

async fn run(ops: Vec<Op>, options: &Options) {
    let block_cache_bytes = options.block_cache_bytes;
    // In memory where there is such a directory: thousands of syncs.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("db");
    let mut store = open(&path, options).await;
    let mut model = Model::new();
    let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
    let mut walks: Vec<Walk> = Vec::new();
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
            // At the oldest snapshot, or now: its entries lie deeper than those of the present.
            Op::OpenIter(from, to) => {
                let at = snapshots.first().filter(|_| i % 2 == 0);
                let (snapshot, content) = (at.map(|(s, _)| s), at.map_or(&model, |(_, then)| then));
                walks.push(Walk::new(&store, snapshot, content, (from, to)));
            }
            Op::CloseIter => drop(walks.pop()),
            Op::Walk(i, moves) => {
                let count = walks.len();
                if let Some(walk) = walks.get_mut(usize::from(i) % count.max(1)) {
                    for step in moves {
                        walk.go(step).await;
                    }
                }
            }
            Op::Checkpoint => {
                let target = dir.path().join(format!("checkpoint-{i}"));
                let files = store.checkpoint(&target).await.unwrap();
                for file in &files.files {
                    let len = cutwater_io::fs::metadata(target.join(&file.name)).await.unwrap().len_bytes;
                    assert_eq!(len, file.len_bytes, "{}", file.name);
                }
                let copy = open(&target, options).await;
                assert_eq!(copy.last_sequence(), files.sequence);
                assert_ne!(copy.identity(), store.identity());
                assert_eq!(collect(copy.iter(.., None)).await, model);
                copy.close().await.unwrap();
            }
            Op::Reopen { clean } => {
                let (sequence, identity) = (store.last_sequence(), store.identity().to_owned());
                snapshots.clear();
                walks.clear();
                if clean {
                    store.close().await.unwrap();
                } else {
                    drop(store);
                }
                store = open(&path, options).await;
                assert_eq!((store.last_sequence(), store.identity()), (sequence, &identity[..]));
                assert_eq!(collect(store.iter(.., None)).await, model);
            }
            Op::Sync => store.sync_wal().await.unwrap(),
        }
    }
    assert_eq!(store.verify().await.unwrap(), Verified::default());
    assert_eq!(collect(store.iter(.., None)).await, model);
    for walk in &mut walks {
        walk.go(Move::Last).await;
        while walk.at != Position::Start {
            walk.go(Move::Prev).await;
        }
    }
    let cache = store.block_cache();
    assert!(cache.used_bytes <= block_cache_bytes && cache.budget_bytes == block_cache_bytes, "{cache:?}");
    assert!(block_cache_bytes > 0 || cache.hits == 0);
    drop((snapshots, walks));
    store.compact_all().await.unwrap();
    assert_eq!(store.verify().await.unwrap(), Verified::default());
    assert_eq!(collect(store.iter(.., None)).await, model);
    store.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map(
        ops in prop::collection::vec(op(), 1..150),
        options in tiny(),
    ) {
        block_on(run(ops, &options));
    }
}
