//! One body, two stores: what holds in a local directory holds in the simulation. Run it with and without `RUSTFLAGS=""`.
//!
//! Where the stores of the crate `object_store` differ among themselves (the order of a listing, deleting what is not
//! there), the body accepts what any of them does, and so must a system.

use std::sync::Arc;

use bytes::Bytes;
use cutwater_io::objects::{Path, open};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

type Store = Arc<dyn ObjectStore>;

#[cfg(madsim)]
fn run_twins(body: fn(Store) -> BoxFuture<'static, ()>) {
    use crate::support::{Setup, run};
    run(Setup::default(), move |world| async move {
        world.on(1, async move { body(open("sim://bucket").expect("a bucket")).await }).await.expect("runs");
    });
}

#[cfg(not(madsim))]
fn run_twins(body: fn(Store) -> BoxFuture<'static, ()>) {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}", directory.path().join("bucket").display());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async { body(open(&url).expect("a store")).await });
}

async fn read(store: &Store, key: &str) -> Bytes {
    store.get(&Path::from(key)).await.expect("is there").bytes().await.expect("is read")
}

async fn keys(store: &Store, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    let listing = store.list(prefix.as_ref()).map_ok(|object| object.location.to_string());
    let mut keys: Vec<String> = listing.try_collect().await.expect("lists");
    keys.sort();
    keys
}

#[test]
fn puts_overwrite_and_creates_do_not() {
    run_twins(|store| {
        Box::pin(async move {
            let key = Path::from("a/b");
            store.put(&key, "1".into()).await.expect("puts");
            store.put(&key, "2".into()).await.expect("overwrites");
            let create = || PutOptions { mode: PutMode::Create, ..Default::default() };
            let e = store.put_opts(&key, "3".into(), create()).await.expect_err("is there");
            assert!(matches!(e, Error::AlreadyExists { .. }), "{e}");
            assert_eq!(read(&store, "a/b").await, "2");
            let other = Path::from("a/c");
            store.put_opts(&other, "4".into(), create()).await.expect("creates");
            assert_eq!(read(&store, "a/c").await, "4");
        })
    });
}

#[test]
fn reads_of_ranges_heads_and_missing_keys() {
    run_twins(|store| {
        Box::pin(async move {
            let key = Path::from("k");
            store.put(&key, "0123456789".into()).await.expect("puts");
            assert_eq!(store.get_range(&key, 2..5).await.expect("reads"), "234");
            assert_eq!(store.get_range(&key, 8..20).await.expect("reads to the end"), "89");
            let ranges = store.get_ranges(&key, &[0..1, 5..7]).await.expect("reads");
            assert_eq!(ranges, ["0", "56"]);
            let suffix = GetOptions { range: Some(GetRange::Suffix(3)), ..Default::default() };
            let suffix = store.get_opts(&key, suffix).await.expect("reads");
            assert_eq!(suffix.range, 7..10);
            assert_eq!(suffix.bytes().await.expect("reads"), "789");
            store.get_range(&key, 10..11).await.expect_err("begins after the end");
            let head = store.head(&key).await.expect("is there");
            assert_eq!((head.size, head.location), (10, key.clone()));
            let stale = GetOptions { if_match: Some("\"no such\"".into()), ..Default::default() };
            let e = store.get_opts(&key, stale).await.expect_err("no match");
            assert!(matches!(e, Error::Precondition { .. }), "{e}");
            for e in [
                store.get(&Path::from("none")).await.expect_err("missing"),
                store.head(&Path::from("none")).await.expect_err("missing"),
                store.get_range(&Path::from("none"), 0..1).await.expect_err("missing"),
            ] {
                assert!(matches!(e, Error::NotFound { .. }), "{e}");
            }
        })
    });
}

#[test]
fn listings_go_by_whole_segments() {
    run_twins(|store| {
        Box::pin(async move {
            for key in ["p/a", "p/b/1", "p/b/2", "pq", "q/x"] {
                store.put(&Path::from(key), "v".into()).await.expect("puts");
            }
            assert_eq!(keys(&store, None).await, ["p/a", "p/b/1", "p/b/2", "pq", "q/x"]);
            assert_eq!(keys(&store, Some("p")).await, ["p/a", "p/b/1", "p/b/2"]);
            assert!(keys(&store, Some("none")).await.is_empty());
            let level = store.list_with_delimiter(Some(&Path::from("p"))).await.expect("lists");
            assert_eq!(level.common_prefixes, [Path::from("p/b")]);
            let objects: Vec<Path> = level.objects.into_iter().map(|object| object.location).collect();
            assert_eq!(objects, [Path::from("p/a")]);
            let offset = Path::from("p/b/1");
            let listing = store.list_with_offset(Some(&Path::from("p")), &offset);
            let after: Vec<_> = listing.map_ok(|o| o.location).try_collect().await.expect("lists");
            assert_eq!(after, [Path::from("p/b/2")]);
        })
    });
}

#[test]
fn deletes_and_copies() {
    run_twins(|store| {
        Box::pin(async move {
            let (from, to) = (Path::from("from"), Path::from("d/to"));
            store.put(&from, "v".into()).await.expect("puts");
            store.copy(&from, &to).await.expect("copies");
            store.put(&from, "w".into()).await.expect("puts");
            let e = store.copy_if_not_exists(&from, &to).await.expect_err("is there");
            assert!(matches!(e, Error::AlreadyExists { .. }), "{e}");
            assert_eq!(read(&store, "d/to").await, "v");
            store.rename(&from, &to).await.expect("renames");
            assert_eq!(read(&store, "d/to").await, "w");
            assert_eq!(keys(&store, None).await, ["d/to"]);
            store.delete(&to).await.expect("deletes");
            assert!(keys(&store, None).await.is_empty());
            let again = store.delete(&to).await;
            assert!(matches!(again, Ok(()) | Err(Error::NotFound { .. })), "{again:?}");
            let e = store.copy(&from, &to).await.expect_err("missing");
            assert!(matches!(e, Error::NotFound { .. }), "{e}");
        })
    });
}

#[test]
fn uploads_in_parts_are_invisible_until_they_are_complete() {
    run_twins(|store| {
        Box::pin(async move {
            let key = Path::from("d/big");
            let mut upload = store.put_multipart(&key).await.expect("begins");
            for part in ["one", "two", "three"] {
                upload.put_part(part.into()).await.expect("uploads");
            }
            assert!(keys(&store, None).await.is_empty());
            upload.complete().await.expect("completes");
            assert_eq!(read(&store, "d/big").await, "onetwothree");
            let mut upload = store.put_multipart(&key).await.expect("begins");
            upload.put_part("x".into()).await.expect("uploads");
            upload.abort().await.expect("aborts");
            assert_eq!(read(&store, "d/big").await, "onetwothree");
            assert_eq!(keys(&store, None).await, ["d/big"]);
        })
    });
}
