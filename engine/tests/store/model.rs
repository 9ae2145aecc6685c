//! The store against a `BTreeMap` for each family: random operations with flushes, compactions, snapshots, checkpoints, clean
//! and unclean reopening, on a real directory. Families come and go; batches go over several. Iterators stay open meanwhile and
//! are moved in both directions.
#![cfg(not(madsim))]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use cutwater_engine::store::{
    Append, CompactionStyle, Compression, Error, Family, FamilyOptions, IngestOptions, Iter, MergeWith,
    Options, Snapshot, Store, TableWriter, Universal, Verified, WriteBatch, WriteOptions,
};
use proptest::prelude::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };
const SYNCED: WriteOptions = WriteOptions { sync: true, disable_wal: false };

/// What the cases of the test differ in.
#[derive(Clone, Copy, Debug)]
struct Case {
    block_cache_bytes: u64,
    atomic_flush: bool,
    max_total_wal_bytes: u64,
    min_blob_bytes: Option<u64>,
    blob_compression: Compression,
    blob_gc_age_percent: u8,
    blob_gc_force_percent: u8,
    max_subcompactions: usize,
    rate_limit_bytes_per_s: Option<u64>,
    universal: Option<Universal>,
    /// Each time the store is opened, its style is another one.
    changes_style: bool,
}

impl Case {
    /// As the store is opened the next time.
    fn reopened(self, universal: Option<Universal>) -> Case {
        match self.changes_style {
            true => Case { universal: self.universal.map_or(universal, |_| None), ..self },
            false => self,
        }
    }
}

fn tiny(case: Case) -> Options {
    Options {
        family: tiny_family(case, 2048),
        block_cache_bytes: case.block_cache_bytes,
        atomic_flush: case.atomic_flush,
        max_total_wal_bytes: case.max_total_wal_bytes,
        max_manifest_bytes: 2000,
        max_subcompactions: case.max_subcompactions,
        rate_limit_bytes_per_s: case.rate_limit_bytes_per_s,
        ..Options::default()
    }
}

fn tiny_family(case: Case, write_buffer_bytes: u64) -> FamilyOptions {
    FamilyOptions {
        merge_operator: Some(MergeWith::new(Append::new(b"|"))),
        min_blob_bytes: case.min_blob_bytes,
        blob_compression: case.blob_compression,
        blob_gc_age_percent: case.blob_gc_age_percent,
        blob_gc_force_percent: case.blob_gc_force_percent,
        blob_file_bytes: 700,
        compaction_style: case.universal.map_or(CompactionStyle::Leveled, CompactionStyle::Universal),
        compression_per_level: vec![Compression::None, Compression::Lz4, Compression::Snappy],
        write_buffer_bytes,
        block_bytes: 128,
        target_file_bytes: 1024,
        max_bytes_for_level_base: 3000,
        level_multiplier: 3,
        level0_compaction_trigger: 2,
        level0_stop_writes_trigger: 5,
        num_levels: 4,
        ..FamilyOptions::default()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// With all families that the directory says it has. A store that was dropped and not closed gives the directory free once its
/// tasks have noticed.
async fn open(dir: &Path, case: Case) -> Store {
    for _ in 0..1000 {
        let names = match Store::list_families(dir).await {
            Err(Error::NotFound { .. }) => vec!["default".to_owned()],
            listed => listed.unwrap(),
        };
        let others: Vec<(&str, FamilyOptions)> =
            names[1..].iter().map(|name| (&name[..], tiny_family(case, 1500))).collect();
        match Store::open_families(dir, tiny(case), &others).await {
            Err(Error::Locked { .. }) => cutwater_io::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
    panic!("the directory stays locked");
}

/// A family, and what it should hold.
struct Tree {
    family: Family,
    content: Model,
    /// Keys that were put once, and not changed otherwise, since they were last removed.
    put_once: BTreeSet<Vec<u8>>,
}

impl Tree {
    fn new(family: Family, content: Model) -> Tree {
        Tree { family, content, put_once: BTreeSet::new() }
    }

    /// Adds the change to the batch, and makes it.
    fn change(&mut self, batch: &mut WriteBatch, k: u8, change: Change) {
        let is_once = self.put_once.remove(&key(k));
        let Tree { family, content, put_once } = &mut *self;
        match change {
            Change::Put(v) => {
                batch.put_in(family, &key(k), &value(v));
                if content.insert(key(k), value(v)).is_none() {
                    put_once.insert(key(k));
                }
            }
            Change::Merge(v) => {
                batch.merge_in(family, &key(k), &[v; 5]);
                self.merge(key(k), v);
            }
            Change::SingleDelete if is_once && deletes_singly(k) => {
                batch.single_delete_in(family, &key(k));
                content.remove(&key(k));
            }
            // Who deletes a key by itself once may not delete it otherwise.
            Change::Delete | Change::SingleDelete if deletes_singly(k) => {
                batch.delete_range_in(family, &key(k), &[&key(k)[..], b"!"].concat());
                content.remove(&key(k));
            }
            Change::Delete | Change::SingleDelete => {
                batch.delete_in(family, &key(k));
                content.remove(&key(k));
            }
            Change::DeleteRange(count) => {
                let (begin, end) = (key(k), key((k % 100).saturating_add(count).min(99)));
                batch.delete_range_in(family, &begin, &end);
                content.retain(|key, _| *key < begin || end <= *key);
                put_once.retain(|key| content.contains_key(key));
                // What lies outside of the range is as it was.
                if is_once && content.contains_key(&key(k)) {
                    put_once.insert(key(k));
                }
            }
        }
    }

    /// Writes a table of keys from one on, so many and so far from each other, and a range tombstone before them; and makes of the content
    /// what ingesting it will. Nothing if it would be empty.
    async fn write_table(&mut self, path: &Path, options: &FamilyOptions, of: &Table) -> Option<PathBuf> {
        let keys = of.keys();
        let (first, last) = keys.first().zip(keys.last())?;
        let mut writer = TableWriter::create(path, options).await.unwrap();
        if of.has_range {
            let end = [&key(*last)[..], b"!"].concat();
            self.content.retain(|k, _| *k < key(*first) || end <= *k);
            writer.delete_range(&key(*first), &end).unwrap();
        }
        for k in &keys {
            let key = key(*k);
            self.put_once.remove(&key);
            match k % 5 {
                0 if !deletes_singly(*k) => {
                    writer.delete(&key).await.unwrap();
                    self.content.remove(&key);
                }
                1 => {
                    writer.merge(&key, &[of.value; 5]).await.unwrap();
                    self.merge(key, of.value);
                }
                _ => {
                    writer.put(&key, &value(of.value)).await.unwrap();
                    if self.content.insert(key.clone(), value(of.value)).is_none() {
                        self.put_once.insert(key);
                    }
                }
            }
        }
        self.put_once.retain(|key| self.content.contains_key(key));
        Some(writer.finish().await.unwrap().path)
    }

    fn merge(&mut self, key: Vec<u8>, operand: u8) {
        let merged = match self.content.get(&key) {
            Some(before) => [before, &b"|"[..], &[operand; 5]].concat(),
            None => vec![operand; 5],
        };
        self.content.insert(key, merged);
    }

    /// What of it the snapshot should show.
    fn at<'a>(&self, then: &'a Moment) -> &'a Model {
        static EMPTY: Model = Model::new();
        then.get(&self.family.id()).unwrap_or(&EMPTY)
    }

    async fn check(&self) {
        assert_eq!(collect(self.family.iter(.., None)).await, self.content, "{}", self.family.name());
    }
}

/// The content of all families, by their ids.
type Moment = BTreeMap<u32, Model>;

/// The families of the store, each with what the one of its name should hold.
fn trees(store: &Store, mut contents: BTreeMap<String, Model>) -> Vec<Tree> {
    let tree =
        |name: &String| Tree::new(store.family(name).unwrap(), contents.remove(name).unwrap_or_default());
    let trees = store.families().iter().map(tree).collect();
    assert!(contents.is_empty(), "{:?} are not there", contents.keys());
    trees
}

fn by_name(trees: Vec<Tree>) -> BTreeMap<String, Model> {
    trees.into_iter().map(|tree| (tree.family.name().to_owned(), tree.content)).collect()
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
        family: &Family,
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
        Walk { iter: family.iter(range, snapshot), content, at: Position::Start }
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

#[derive(Clone, Copy, Debug)]
enum Change {
    Put(u8),
    Merge(u8),
    Delete,
    /// A single delete if it is allowed.
    SingleDelete,
    /// From the key on, so many.
    DeleteRange(u8),
}

/// A table to be ingested.
#[derive(Clone, Copy, Debug)]
struct Table {
    family: u8,
    from: u8,
    count: u8,
    step: u8,
    value: u8,
    has_range: bool,
}

impl Table {
    /// Ascending.
    fn keys(&self) -> Vec<u8> {
        let keys = (self.from % 100..100).step_by(usize::from(self.step));
        keys.take(usize::from(self.count)).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Family, key, and what becomes of it.
    Write(Vec<(u8, u8, Change)>, bool),
    Flush,
    FlushFamily(u8),
    CompactAll,
    CompactFamily(u8),
    CreateFamily,
    DropFamily(u8),
    Snapshot,
    ReleaseSnapshot,
    Scan(u8, u8),
    OpenIter(u8, Bound<u8>, Bound<u8>),
    CloseIter,
    Walk(u8, Vec<Move>),
    Checkpoint,
    /// Those that overlap one before them are left out.
    Ingest(Vec<Table>, bool),
    Reopen {
        clean: bool,
    },
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
    let kind = prop_oneof![
        4 => any::<u8>().prop_map(Change::Put),
        4 => any::<u8>().prop_map(Change::Merge),
        3 => Just(Change::Delete),
        3 => Just(Change::SingleDelete),
        1 => (0u8..40).prop_map(Change::DeleteRange),
    ];
    let change = (any::<u8>(), any::<u8>(), kind);
    let table = (any::<u8>(), any::<u8>(), 1u8..8, 1u8..4, any::<u8>(), any::<bool>()).prop_map(
        |(family, from, count, step, value, has_range)| Table { family, from, count, step, value, has_range },
    );
    prop_oneof![
        40 => (prop::collection::vec(change, 1..12), any::<bool>()).prop_map(|(c, s)| Op::Write(c, s)),
        4 => Just(Op::Flush),
        4 => any::<u8>().prop_map(Op::FlushFamily),
        1 => Just(Op::CompactAll),
        1 => any::<u8>().prop_map(Op::CompactFamily),
        3 => Just(Op::CreateFamily),
        2 => any::<u8>().prop_map(Op::DropFamily),
        3 => Just(Op::Snapshot),
        2 => Just(Op::ReleaseSnapshot),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Op::Scan(a, b)),
        4 => (any::<u8>(), bound(), bound()).prop_map(|(f, a, b)| Op::OpenIter(f, a, b)),
        1 => Just(Op::CloseIter),
        12 => (any::<u8>(), moves()).prop_map(|(i, moves)| Op::Walk(i, moves)),
        1 => Just(Op::Checkpoint),
        6 => (prop::collection::vec(table, 1..4), any::<bool>()).prop_map(|(t, moves)| Op::Ingest(t, moves)),
        3 => any::<bool>().prop_map(|clean| Op::Reopen { clean }),
        2 => Just(Op::Sync),
    ]
}

fn universal() -> impl Strategy<Value = Universal> {
    (0u32..100, 2usize..4, 0usize..4, 1u32..300).prop_map(|(ratio, min_merge_width, wider, amplification)| {
        Universal {
            size_ratio_percent: ratio,
            min_merge_width,
            max_merge_width: min_merge_width + wider,
            max_size_amplification_percent: amplification,
        }
    })
}

fn deletes_singly(k: u8) -> bool {
    (k % 100).is_multiple_of(2)
}

fn key(k: u8) -> Vec<u8> {
    format!("key{:03}", k % 100).into_bytes()
}

fn value(v: u8) -> Vec<u8> {
    vec![v; 20 + usize::from(v)]
}

/// As many families as there are at most.
const MAX_FAMILIES: usize = 4;

async fn run(ops: Vec<Op>, case: Case) {
    let (mut case, universal) = (case, case.universal.or(Some(Universal::default())));
    // In memory where there is such a directory: thousands of syncs.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("db");
    let mut store = open(&path, case).await;
    // The first is the default family.
    let mut open_trees = trees(&store, BTreeMap::new());
    // Those that were dropped and are still read.
    let mut dropped: Vec<Tree> = Vec::new();
    let mut highest_id = 0;
    let mut snapshots: Vec<(Snapshot, Moment)> = Vec::new();
    let mut walks: Vec<Walk> = Vec::new();
    for (i, op) in ops.into_iter().enumerate() {
        let count = open_trees.len();
        let nth = |f: u8| usize::from(f) % count;
        match op {
            Op::Write(changes, is_synced) => {
                let mut batch = WriteBatch::new();
                for (f, k, change) in changes {
                    open_trees[nth(f)].change(&mut batch, k, change);
                }
                let expected = store.last_sequence() + u64::from(batch.count());
                let sequence = store.write(batch, if is_synced { SYNCED } else { LOGGED }).await.unwrap();
                assert_eq!((sequence, store.last_sequence()), (expected, expected));
            }
            Op::Flush => store.flush().await.unwrap(),
            Op::FlushFamily(f) => open_trees[nth(f)].family.flush().await.unwrap(),
            Op::CompactAll => store.compact_all().await.unwrap(),
            Op::CompactFamily(f) => open_trees[nth(f)].family.compact_all().await.unwrap(),
            Op::CreateFamily if count < MAX_FAMILIES => {
                let family = store.create_family(&format!("family{}", i % 7), tiny_family(case, 1500)).await;
                match family {
                    Err(Error::FamilyExists { name }) => assert!(store.families().contains(&name)),
                    family => {
                        let family = family.unwrap();
                        assert!(family.id() > highest_id, "ids are never used again");
                        highest_id = family.id();
                        open_trees.push(Tree::new(family, Model::new()));
                    }
                }
            }
            Op::CreateFamily => {}
            Op::DropFamily(f) if nth(f) > 0 => {
                let tree = open_trees.remove(nth(f));
                store.drop_family(&tree.family).await.unwrap();
                let refused = tree.family.put(b"k", b"v", LOGGED).await.unwrap_err();
                assert!(matches!(refused, Error::FamilyDropped { name } if name == tree.family.name()));
                dropped.push(tree);
            }
            Op::DropFamily(_) => drop(dropped.pop()),
            Op::Snapshot => {
                let trees = || open_trees.iter().chain(&dropped);
                let then = trees().map(|tree| (tree.family.id(), tree.content.clone())).collect();
                snapshots.push((store.snapshot(), then));
            }
            Op::ReleaseSnapshot => drop(snapshots.pop()),
            Op::Scan(a, b) => {
                let (from, to) = (key(a).min(key(b)), key(a).max(key(b)));
                for tree in open_trees.iter().chain(&dropped) {
                    let Tree { family, content, .. } = tree;
                    let expected: Model = content
                        .range(from.clone()..to.clone())
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect();
                    assert_eq!(collect(family.iter(from.clone()..to.clone(), None)).await, expected);
                    assert_eq!(family.get(&key(a)).await.unwrap(), content.get(&key(a)).cloned());
                    for (snapshot, then) in &snapshots {
                        assert_eq!(collect(family.iter(.., Some(snapshot))).await, *tree.at(then));
                        let found = family.get_at(snapshot, &key(b)).await.unwrap();
                        assert_eq!(found, tree.at(then).get(&key(b)).cloned());
                    }
                }
            }
            // At the oldest snapshot, or now: its entries lie deeper than those of the present.
            Op::OpenIter(f, from, to) => {
                let at = snapshots.first().filter(|_| i % 2 == 0);
                let tree = &open_trees[nth(f)];
                let content = at.map_or(&tree.content, |(_, then)| tree.at(then));
                walks.push(Walk::new(&tree.family, at.map(|(s, _)| s), content, (from, to)));
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
                let copy = open(&target, case).await;
                assert_eq!(copy.last_sequence(), files.sequence);
                assert_ne!(copy.identity(), store.identity());
                assert_eq!(copy.families(), store.families());
                for tree in &open_trees {
                    let family = copy.family(tree.family.name()).unwrap();
                    assert_eq!(collect(family.iter(.., None)).await, tree.content);
                }
                copy.close().await.unwrap();
            }
            Op::Ingest(tables, moves) => {
                let mut taken: BTreeSet<(usize, u8)> = BTreeSet::new();
                let mut files: Vec<(Family, Vec<PathBuf>)> = Vec::new();
                for (j, table) in tables.iter().enumerate() {
                    let (family, keys) = (nth(table.family), table.keys());
                    let span = keys[0]..=*keys.last().expect("there is the first");
                    if taken.range((family, *span.start())..=(family, *span.end())).next().is_some() {
                        continue;
                    }
                    taken.extend(span.map(|k| (family, k)));
                    let (path, options) =
                        (dir.path().join(format!("table-{i}-{j}")), tiny_family(case, 1500));
                    let written = open_trees[family].write_table(&path, &options, table).await;
                    files.push((open_trees[family].family.clone(), written.into_iter().collect()));
                }
                let expected = store.last_sequence() + files.len() as u64;
                let sequence = store.ingest_families(&files, IngestOptions { moves }).await.unwrap();
                assert_eq!((sequence, store.last_sequence()), (expected, expected));
            }
            Op::Reopen { clean } => {
                let (sequence, identity) = (store.last_sequence(), store.identity().to_owned());
                snapshots.clear();
                walks.clear();
                dropped.clear();
                let contents = by_name(open_trees);
                if clean {
                    store.close().await.unwrap();
                } else {
                    drop(store);
                }
                case = case.reopened(universal);
                store = open(&path, case).await;
                assert_eq!((store.last_sequence(), store.identity()), (sequence, &identity[..]));
                open_trees = trees(&store, contents);
                for tree in &open_trees {
                    tree.check().await;
                }
            }
            Op::Sync => store.sync_wal().await.unwrap(),
        }
    }
    assert_eq!(store.verify().await.unwrap(), Verified::default());
    for tree in open_trees.iter().chain(&dropped) {
        tree.check().await;
    }
    for walk in &mut walks {
        walk.go(Move::Last).await;
        while walk.at != Position::Start {
            walk.go(Move::Prev).await;
        }
    }
    let cache = store.block_cache();
    let budget_bytes = case.block_cache_bytes;
    assert!(cache.used_bytes <= budget_bytes && cache.budget_bytes == budget_bytes, "{cache:?}");
    assert!(budget_bytes > 0 || cache.hits == 0);
    drop((snapshots, walks, dropped));
    store.compact_all().await.unwrap();
    assert_eq!(store.verify().await.unwrap(), Verified::default());
    for tree in &open_trees {
        tree.check().await;
    }
    store.close().await.unwrap();
    assert_eq!(tables_on_disk(&path).await, live_tables(&open_trees), "what was dropped is gone");
}

fn live_tables(trees: &[Tree]) -> usize {
    trees.iter().flat_map(|tree| tree.family.levels()).map(|(tables, _)| tables).sum()
}

async fn tables_on_disk(dir: &Path) -> usize {
    let entries = cutwater_io::fs::read_dir(dir).await.unwrap();
    entries.iter().filter(|entry| entry.name.ends_with(".sst")).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map(
        ops in prop::collection::vec(op(), 1..150),
        block_cache_bytes in prop::sample::select(vec![0u64, 3000, 1 << 20]),
        atomic_flush: bool,
        max_total_wal_bytes in prop::sample::select(vec![0u64, 6000]),
        min_blob_bytes in prop::sample::select(vec![None, Some(0), Some(60), Some(200)]),
        blob_compression in prop::sample::select(vec![Compression::None, Compression::Lz4]),
        blob_gc_age_percent in prop::sample::select(vec![0u8, 25, 100]),
        blob_gc_force_percent in prop::sample::select(vec![1u8, 40, 100]),
        max_subcompactions in 1usize..5,
        rate_limit_bytes_per_s in prop::sample::select(vec![None, Some(20u64 << 20)]),
        universal in prop::option::of(universal()),
        changes_style: bool,
    ) {
        let case = Case {
            block_cache_bytes,
            atomic_flush,
            max_total_wal_bytes,
            min_blob_bytes,
            blob_compression,
            blob_gc_age_percent,
            blob_gc_force_percent,
            max_subcompactions,
            rate_limit_bytes_per_s,
            universal,
            changes_style,
        };
        block_on(run(ops, case));
    }
}
