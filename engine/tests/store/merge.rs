//! Merge operands where the model test does not reach: families without an operator, entries of a kind that is not read, an
//! operator that refuses, a store that is only looked at.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "a table and a MANIFEST are made by hand")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cutwater_engine::store::key::{Tag, ValueKind};
use cutwater_engine::store::log::LogWriter;
use cutwater_engine::store::table::TableBuilder;
use cutwater_engine::store::version::{self, FileMeta, VersionEdit};
use cutwater_engine::store::{
    Append, Error, FamilyOptions, MergeOperator, MergeWith, Options, ReadOnlyOptions, ReadOnlyStore, Store,
    WriteBatch, WriteOptions,
};

const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn with(operator: impl MergeOperator + 'static) -> Options {
    let family = FamilyOptions { merge_operator: Some(MergeWith::new(operator)), ..FamilyOptions::default() };
    Options { family, ..Options::default() }
}

async fn merge(store: &Store, key: &[u8], operand: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.merge(key, operand);
    store.write(batch, LOGGED).await.unwrap();
}

#[test]
fn without_an_operator_operands_are_refused_and_those_that_are_there_stay() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), with(Append::new(b"+"))).await.unwrap();
        store.put(b"k", b"1", LOGGED).await.unwrap();
        merge(&store, b"k", b"2").await;
        store.close().await.unwrap();

        let store = Store::open(dir.path(), Options::default()).await.unwrap();
        let mut batch = WriteBatch::new();
        batch.merge(b"k", b"3");
        let error = store.write(batch, LOGGED).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid request: a merge into a family that has no merge operator");
        let error = store.get(b"k").await.unwrap_err();
        assert!(matches!(&error, Error::Unmergeable { key, .. } if key == b"k"), "{error}");
        store.compact_all().await.unwrap();
        store.verify().await.unwrap();
        store.close().await.unwrap();

        let merge_operators = BTreeMap::from([("default".to_owned(), MergeWith::new(Append::new(b"+")))]);
        let options = ReadOnlyOptions { merge_operators, ..ReadOnlyOptions::default() };
        let shown = ReadOnlyStore::open(dir.path(), options).await.unwrap();
        assert_eq!(shown.get("default", b"k").await.unwrap().unwrap(), b"1+2");
    });
}

/// Refuses every value, and takes everything where there is none, which it counts.
#[derive(Clone, Debug, Default)]
struct Picky {
    over_nothing: Arc<AtomicU64>,
}

impl MergeOperator for Picky {
    fn name(&self) -> &str {
        "picky"
    }

    fn merge(&self, _key: &[u8], base: Option<&[u8]>, operands: &[&[u8]]) -> Option<Vec<u8>> {
        base.is_none().then(|| {
            self.over_nothing.fetch_add(1, Ordering::Relaxed);
            operands.concat()
        })
    }
}

#[test]
fn a_compaction_asks_for_nothing_that_is_not_so_and_leaves_what_is_refused() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let picky = Picky::default();
        let store = Store::open(dir.path(), with(picky.clone())).await.unwrap();
        store.put(b"k", b"1", LOGGED).await.unwrap();
        store.compact_all().await.unwrap();
        // A flush does not know what lies below.
        merge(&store, b"k", b"2").await;
        store.flush().await.unwrap();
        let error = store.get(b"k").await.unwrap_err();
        assert_eq!(error.to_string(), "the value of key k cannot be merged: picky refuses it");
        store.compact_all().await.unwrap();
        assert!(store.get(b"k").await.is_err(), "it is as it was");
        assert_eq!(picky.over_nothing.load(Ordering::Relaxed), 0, "there was a value all the time");
        store.delete(b"k", LOGGED).await.unwrap();
        merge(&store, b"k", b"3").await;
        store.compact_all().await.unwrap();
        assert_eq!(store.get(b"k").await.unwrap().unwrap(), b"3");
    });
}

/// A store of one table, as another engine may leave it: an operand over an entry of a kind that is not read here.
async fn by_hand(dir: &Path) {
    let mut builder = TableBuilder::new(&FamilyOptions::default(), 0, 4, "by hand");
    builder.add(b"k", Tag::new(2, ValueKind::Merge), b"2");
    builder.add(b"k", Tag::new(1, ValueKind::WideColumnEntity), b"columns");
    let (stats, bytes) = builder.finish();
    std::fs::write(dir.join("000004.sst"), bytes).unwrap();
    let meta = FileMeta {
        number: 4,
        len_bytes: stats.file_bytes,
        smallest: stats.smallest,
        largest: stats.largest,
        smallest_sequence: 1,
        largest_sequence: 2,
        ..FileMeta::default()
    };
    let edit = VersionEdit {
        comparator: Some("leveldb.BytewiseComparator".to_owned()),
        log_number: Some(0),
        next_file_number: Some(5),
        last_sequence: Some(2),
        new_files: vec![(0, meta)],
        ..VersionEdit::default()
    };
    let (mut framing, mut manifest) = (LogWriter::new(), Vec::new());
    framing.add_record(&version::encode(&edit), &mut manifest);
    std::fs::write(dir.join("MANIFEST-000003"), manifest).unwrap();
    std::fs::write(dir.join("CURRENT"), "MANIFEST-000003\n").unwrap();
}

#[test]
fn what_is_not_read_is_not_taken_for_nothing() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        by_hand(dir.path()).await;
        let store = Store::open(dir.path(), with(Append::new(b"+"))).await.unwrap();
        let before = store.get(b"k").await.unwrap_err().to_string();
        assert!(before.contains("WideColumnEntity"), "{before}");
        // Another key, so that there is something to merge.
        store.put(&Bytes::from_static(b"j"), b"", LOGGED).await.unwrap();
        store.compact_all().await.unwrap();
        assert_eq!(store.get(b"k").await.unwrap_err().to_string(), before, "a compaction keeps it");
        let error = store.verify().await.unwrap_err();
        assert!(error.to_string().ends_with("an entry of type 22"), "{error}");
    });
}
