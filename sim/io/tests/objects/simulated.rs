//! The simulated object store: what a request does, what its caller learns, and when the two differ.
#![cfg(madsim)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use cutwater_io::objects::{Path, open};
use cutwater_io::sim::objects::{Config, ObjectChange, ObjectEvent, RequestError};
use cutwater_io::sim::{NodeId, SiteFault};
use cutwater_io::time::timeout;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};

const BUCKET: &str = "b";

fn store() -> Arc<dyn ObjectStore> {
    open("sim://b").expect("a bucket")
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..Default::default() }
}

/// The store's own error, or a panic if it is another.
fn request_error(e: Error) -> RequestError {
    let Error::Generic { source, .. } = &e else { panic!("{e}") };
    source.downcast_ref::<RequestError>().unwrap_or_else(|| panic!("{e}")).clone()
}

fn with_faults(faults: Vec<(&'static str, u64, SiteFault)>) -> Setup {
    Setup { faults, ..Default::default() }
}

#[test]
fn requests_take_time_and_are_observed_in_their_order() {
    run(Setup::default(), |world| async move {
        let seen: Arc<Mutex<Vec<ObjectEvent>>> = Arc::default();
        let (log, env) = (seen.clone(), world.env.clone());
        world.env.objects().observe(Box::new(move |event| {
            // An oracle may look at the store while it is told.
            let now = env.objects().peek(&event.bucket, &event.key);
            match &event.change {
                ObjectChange::Put(bytes) => assert_eq!(now.as_ref(), Some(bytes)),
                ObjectChange::Delete => assert_eq!(now, None),
            }
            log.lock().expect("no panic").push(event.clone());
        }));
        let key = Path::from("a/k");
        world
            .on(1, async move {
                store().put(&key, "v1".into()).await.expect("puts");
                store().put(&key, "v2".into()).await.expect("puts");
                store().delete(&key).await.expect("deletes");
                store().delete(&key).await.expect("deletes again");
            })
            .await
            .expect("runs");
        assert!(world.now_ms() >= 20, "four requests took {} ms", world.now_ms());
        let seen = seen.lock().expect("no panic");
        let changes: Vec<_> = seen.iter().map(|e| (e.node, e.change.clone())).collect();
        let put = |v: &'static str| (NodeId(1), ObjectChange::Put(Bytes::from(v)));
        assert_eq!(changes, [put("v1"), put("v2"), (NodeId(1), ObjectChange::Delete)]);
    });
}

#[test]
fn conditional_writes() {
    run(Setup::default(), |_| async move {
        let (store, key) = (store(), Path::from("k"));
        let first = store.put_opts(&key, "1".into(), create()).await.expect("creates");
        let again = store.put_opts(&key, "2".into(), create()).await.expect_err("is there");
        assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
        let update = |v| PutOptions { mode: PutMode::Update(v), ..Default::default() };
        let second = store.put_opts(&key, "2".into(), update(first.clone().into())).await.expect("matches");
        let stale = store.put_opts(&key, "3".into(), update(first.clone().into())).await.expect_err("stale");
        assert!(matches!(stale, Error::Precondition { .. }), "{stale}");
        let if_match = |etag: Option<String>| GetOptions { if_match: etag, ..Default::default() };
        store.get_opts(&key, if_match(second.e_tag)).await.expect("matches");
        let stale = store.get_opts(&key, if_match(first.e_tag)).await.expect_err("stale");
        assert!(matches!(stale, Error::Precondition { .. }), "{stale}");
        store.delete(&key).await.expect("deletes");
        let missing = store.get(&key).await.expect_err("deleted");
        assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
        let missing = store.copy(&key, &Path::from("to")).await.expect_err("deleted");
        assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    });
}

#[test]
fn a_race_to_create_has_exactly_one_winner() {
    for seed in 0..20 {
        run(Setup { seed, ..Default::default() }, |world| async move {
            let racers: Vec<_> = (1..=3)
                .map(|n| {
                    world.on(n, async move {
                        let payload = PutPayload::from(n.to_string());
                        store().put_opts(&Path::from("leader"), payload, create()).await
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for (n, racer) in (1..=3).zip(racers) {
                match racer.await.expect("runs") {
                    Ok(_) => winners.push(n),
                    Err(e) => assert!(matches!(e, Error::AlreadyExists { .. }), "{e}"),
                }
            }
            assert_eq!(winners.len(), 1);
            let holds = world.env.objects().peek(BUCKET, "leader").expect("is there");
            assert_eq!(holds, Bytes::from(winners[0].to_string()));
        });
    }
}

#[test]
fn failures_before_and_after_a_put_was_applied() {
    let faults = vec![
        ("objects.put", 1, SiteFault::FailBefore),
        ("objects.put", 2, SiteFault::FailAfter),
        ("objects.put", 3, SiteFault::Throttle),
    ];
    run(with_faults(faults), |world| async move {
        let errors = world.on(1, async {
            let mut errors = Vec::new();
            for key in ["a", "b", "c"] {
                let put = store().put_opts(&Path::from(key), "v".into(), create()).await;
                errors.push(request_error(put.expect_err("struck")));
            }
            let again = store().put_opts(&Path::from("b"), "v".into(), create()).await.expect_err("is there");
            assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
            errors
        });
        let expected = [RequestError::Unavailable, RequestError::Timeout, RequestError::SlowDown];
        assert_eq!(errors.await.expect("runs"), expected);
        assert_eq!(world.env.objects().keys(BUCKET, ""), ["b"]);
    });
}

#[test]
fn a_put_lands_late_even_after_its_node_died() {
    run(with_faults(vec![("objects.put", 1, SiteFault::LateLand(10_000_000))]), |world| async move {
        let key = Path::from("k");
        let zombie = world.on(1, async move { store().put(&key, "old".into()).await.expect_err("struck") });
        assert_eq!(request_error(zombie.await.expect("runs")), RequestError::Timeout);
        assert!(world.now_ms() < 10, "the failure was not told at once");
        world.crash(1, POWER_FAIL);
        world.restart(1);
        let key = Path::from("k");
        let newer = world.on(1, async move { store().put(&key, "new".into()).await.map(drop) });
        newer.await.expect("runs").expect("puts");
        assert_eq!(world.env.objects().peek(BUCKET, "k").expect("is there"), "new");
        assert_eq!(world.env.objects().in_flight(), 1);
        sleep_ms(10_000).await;
        assert_eq!(world.env.objects().peek(BUCKET, "k").expect("is there"), "old");
        assert_eq!(world.env.objects().counters().landed_late, 1);
    });
}

#[test]
fn a_late_create_loses_against_who_was_there_first() {
    run(with_faults(vec![("objects.put", 1, SiteFault::LateLand(1_000_000))]), |world| async move {
        let (store, key) = (store(), Path::from("k"));
        store.put_opts(&key, "late".into(), create()).await.expect_err("struck");
        store.put_opts(&key, "first".into(), create()).await.expect("creates");
        sleep_ms(2000).await;
        assert_eq!(world.env.objects().peek(BUCKET, "k").expect("is there"), "first");
    });
}

#[test]
fn what_a_dead_node_had_in_flight_lands_or_does_not_by_its_draw() {
    let landed = |seed| {
        let ((first, landed), _) = run(Setup { seed, ..Default::default() }, |world| async move {
            world.on(1, async { store().put(&Path::from("k"), "v".into()).await.map(drop) });
            cutwater_io::time::sleep(Duration::from_millis(1)).await;
            let first = world.env.objects().keys(BUCKET, "").len();
            world.crash(1, KILL);
            sleep_ms(5000).await;
            assert_eq!(world.env.objects().counters().orphaned, 1);
            (first, world.env.objects().keys(BUCKET, "").len())
        });
        assert_eq!(first, 0);
        landed
    };
    let count: usize = (0..20).map(landed).sum();
    assert!((1..20).contains(&count), "{count} of 20 landed");
}

#[test]
fn crashes_before_and_after_a_put() {
    for (fault, applied) in [(SiteFault::CrashBefore(KILL), 0), (SiteFault::CrashAfter(KILL), 1)] {
        run(with_faults(vec![("objects.put", 1, fault)]), move |world| async move {
            world.on(1, async { store().put(&Path::from("k"), "v".into()).await.map(drop) });
            assert_eq!(world.env.next_crash().await.0, NodeId(1));
            sleep_ms(5000).await;
            assert_eq!(world.env.objects().keys(BUCKET, "").len(), applied);
        });
    }
}

#[test]
fn outage_throttling_and_isolation_refuse_until_they_end() {
    run(Setup::default(), |world| async move {
        let key = Path::from("k");
        world.env.objects().outage(500_000);
        let e = store().put(&key, "v".into()).await.expect_err("outage");
        assert_eq!(request_error(e), RequestError::Unavailable);
        sleep_ms(500).await;
        let until_us = world.env.now_ns() / 1000 + 500_000;
        world.env.objects().throttle(until_us);
        let e = store().put(&key, "v".into()).await.expect_err("throttled");
        assert_eq!(request_error(e), RequestError::SlowDown);
        sleep_ms(500).await;
        world.env.objects().isolate(NodeId(1));
        store().put(&key, "v".into()).await.expect("another node is not cut off");
        let before = world.now_ms();
        let cut_off = world.on(1, async { store().get(&Path::from("k")).await.map(drop) });
        let e = cut_off.await.expect("runs").expect_err("isolated");
        assert_eq!(request_error(e), RequestError::Timeout);
        assert!(world.now_ms() - before >= 5000, "a lost request was answered");
        world.env.objects().rejoin(NodeId(1));
        let joined = world.on(1, async { store().get(&Path::from("k")).await.map(drop) });
        joined.await.expect("runs").expect("gets");
    });
}

#[test]
fn an_answer_that_meets_an_isolation_is_lost_and_the_put_is_not() {
    let config = Config { latency_median_us: 1_000_000, latency_sigma: 0.0, ..Default::default() };
    run(Setup { objects: config, ..Default::default() }, |world| async move {
        let put = world.on(1, async { store().put(&Path::from("k"), "v".into()).await.map(drop) });
        sleep_ms(700).await;
        assert_eq!(world.env.objects().keys(BUCKET, ""), ["k"]);
        world.env.objects().isolate(NodeId(1));
        assert_eq!(request_error(put.await.expect("runs").expect_err("lost")), RequestError::Timeout);
        assert_eq!(world.now_ms() / 100, 50);
    });
}

#[test]
fn hanging_delayed_and_short_reads() {
    let faults = vec![
        ("objects.get", 1, SiteFault::Hang),
        ("objects.get", 2, SiteFault::Delay(1_000_000)),
        ("objects.get", 3, SiteFault::Short),
        ("objects.put", 2, SiteFault::Delay(20_000_000)),
    ];
    run(with_faults(faults), |world| async move {
        let (store, key) = (store(), Path::from("k"));
        store.put(&key, "0123456789".into()).await.expect("puts");
        let e = store.get(&key).await.expect_err("hangs until the client gives up");
        assert_eq!(request_error(e), RequestError::Timeout);
        assert!(world.now_ms() >= 5000);
        store.get(&key).await.expect("late").bytes().await.expect("whole");
        assert!(world.now_ms() >= 6000);
        let mut body = store.get(&key).await.expect("begins").into_stream();
        assert_eq!(body.next().await.expect("a part").expect("is read"), "01234");
        body.next().await.expect("more").expect_err("it breaks off");
        // Delayed beyond the client's patience: the put lands, or does not, after the client gave up.
        let e = store.put(&key, "x".into()).await.expect_err("too late");
        assert_eq!(request_error(e), RequestError::Timeout);
        assert_eq!(world.env.objects().in_flight(), 1);
        sleep_ms(20_000).await;
        assert_eq!(world.env.objects().in_flight(), 0);
    });
}

#[test]
fn a_caller_that_stops_waiting_leaves_its_request_under_way() {
    run(Setup::default(), |world| async move {
        for n in 0..20 {
            let key = Path::from(format!("k{n}"));
            timeout(Duration::from_millis(1), store().put(&key, "v".into())).await.expect_err("too quick");
        }
        sleep_ms(5000).await;
        let landed = world.env.objects().keys(BUCKET, "").len();
        assert!((1..20).contains(&landed), "{landed} of 20 landed");
    });
}

#[test]
fn pages_of_a_listing_are_snapshots_of_their_own() {
    let config = Config { page_keys: 2, ..Default::default() };
    run(Setup { objects: config, ..Default::default() }, |world| async move {
        let store = store();
        for key in ["p/a", "p/b", "p/c", "p/e", "p2/x", "p-q", "p/d/1", "p/d/2"] {
            store.put(&Path::from(key), "v".into()).await.expect("puts");
        }
        let prefix = Path::from("p");
        let mut listing = store.list(Some(&prefix)).map_ok(|o| o.location.to_string());
        assert_eq!(listing.next().await.expect("more").expect("lists"), "p/a");
        // Behind the cursor, and in a page that is not taken yet.
        store.put(&Path::from("p/0"), "v".into()).await.expect("puts");
        store.delete(&Path::from("p/c")).await.expect("deletes");
        store.put(&Path::from("p/f"), "v".into()).await.expect("puts");
        let rest: Vec<String> = listing.try_collect().await.expect("lists");
        assert_eq!(rest, ["p/b", "p/d/1", "p/d/2", "p/e", "p/f"]);
        let offset = Path::from("p/d/1");
        let after = store.list_with_offset(Some(&prefix), &offset).map_ok(|o| o.location.to_string());
        assert_eq!(after.try_collect::<Vec<_>>().await.expect("lists"), ["p/d/2", "p/e", "p/f"]);
        let level = store.list_with_delimiter(Some(&prefix)).await.expect("lists");
        assert_eq!(level.common_prefixes, [Path::from("p/d")]);
        let objects: Vec<_> = level.objects.iter().map(|o| o.location.to_string()).collect();
        assert_eq!(objects, ["p/0", "p/a", "p/b", "p/e", "p/f"]);
        assert_eq!(world.env.objects().keys(BUCKET, "p/d").len(), 2);
    });
}

#[test]
fn what_a_common_prefix_hides_takes_no_pages() {
    let config = Config { page_keys: 1, ..Default::default() };
    run(Setup { objects: config, ..Default::default() }, |world| async move {
        let store = store();
        for n in 0..50 {
            store.put(&Path::from(format!("p/d/{n}")), "v".into()).await.expect("puts");
        }
        for key in ["p/d0", "p/e", "p/f/1"] {
            store.put(&Path::from(key), "v".into()).await.expect("puts");
        }
        let before = world.env.objects().counters().applied;
        let level = store.list_with_delimiter(Some(&Path::from("p"))).await.expect("lists");
        assert_eq!(level.common_prefixes, [Path::from("p/d"), Path::from("p/f")]);
        let objects: Vec<_> = level.objects.iter().map(|o| o.location.to_string()).collect();
        assert_eq!(objects, ["p/d0", "p/e"]);
        let pages = world.env.objects().counters().applied - before;
        assert!(pages <= 5, "{pages} pages for four entries");
    });
}

#[test]
fn an_error_in_the_middle_of_a_listing_ends_it() {
    let objects = Config { page_keys: 2, ..Default::default() };
    let faults = vec![("objects.list", 2, SiteFault::FailBefore)];
    run(Setup { objects, faults, ..Default::default() }, |_| async move {
        let store = store();
        for key in ["a", "b", "c"] {
            store.put(&Path::from(key), "v".into()).await.expect("puts");
        }
        let mut listing = store.list(None);
        listing.next().await.expect("a").expect("lists");
        listing.next().await.expect("b").expect("lists");
        assert_eq!(
            request_error(listing.next().await.expect("c").expect_err("struck")),
            RequestError::Unavailable
        );
        assert!(listing.next().await.is_none());
    });
}

#[test]
fn an_upload_is_invisible_until_it_completes_and_completes_once() {
    let faults = vec![("objects.put", 5, SiteFault::FailAfter)];
    run(with_faults(faults), |world| async move {
        let (store, key) = (store(), Path::from("big"));
        let objects = world.env.objects();
        let options = PutMultipartOptions::default();
        let mut upload = store.put_multipart_opts(&key, options.clone()).await.expect("begins");
        let (one, two, three) =
            (upload.put_part("one".into()), upload.put_part("two".into()), upload.put_part("three".into()));
        // Parts may arrive in any order.
        three.await.expect("uploads");
        one.await.expect("uploads");
        two.await.expect("uploads");
        assert!(objects.keys(BUCKET, "").is_empty());
        assert_eq!(objects.unfinished_uploads(BUCKET), (1, 11));
        assert_eq!(request_error(upload.complete().await.expect_err("struck")), RequestError::Timeout);
        assert_eq!(objects.peek(BUCKET, "big").expect("complete"), "onetwothree");
        let again = request_error(upload.complete().await.expect_err("it is complete"));
        assert_eq!(again, RequestError::NoSuchUpload("big".into()));
        let mut upload = store.put_multipart_opts(&key, options.clone()).await.expect("begins");
        upload.put_part("x".into()).await.expect("uploads");
        upload.abort().await.expect("aborts");
        assert_eq!(objects.unfinished_uploads(BUCKET), (0, 0));
        upload.complete().await.expect_err("it was aborted");
        // A part that never arrived.
        let mut upload = store.put_multipart_opts(&key, options).await.expect("begins");
        drop(upload.put_part("never sent".into()));
        upload.complete().await.expect_err("a part is missing");
        assert_eq!(objects.peek(BUCKET, "big").expect("as before"), "onetwothree");
        assert_eq!(objects.total_bytes(BUCKET), 11);
    });
}

#[test]
fn buckets_and_prefixes_are_apart() {
    run(Setup::default(), |world| async move {
        let nested = open("sim://b/inner/deep").expect("a store");
        nested.put(&Path::from("k"), "v".into()).await.expect("puts");
        open("sim://c").expect("a bucket").put(&Path::from("k"), "w".into()).await.expect("puts");
        assert_eq!(world.env.objects().keys(BUCKET, ""), ["inner/deep/k"]);
        assert_eq!(world.env.objects().peek("c", "k").expect("is there"), "w");
        open("file:///tmp").expect_err("not in a simulation");
        open("sim://").expect_err("no bucket");
    });
}

/// Three nodes that write, read, list and die.
async fn storm(world: World) -> Vec<String> {
    for n in 1..=3 {
        world.on(n, async move {
            for round in 0.. {
                let key = Path::from(format!("k{}", (n + round) % 5));
                let _ = store().put(&key, format!("{n}.{round}").into()).await;
                let _ = store().get(&key).await;
                let _ = store().list(None).try_collect::<Vec<_>>().await;
                let _ = store().delete(&key).await;
            }
        });
    }
    sleep_ms(700).await;
    world.crash(1, KILL);
    world.env.objects().throttle(1_000_000);
    sleep_ms(1000).await;
    world.crash(2, POWER_FAIL);
    sleep_ms(500).await;
    world.env.objects().keys(BUCKET, "")
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let setup = |seed| {
        let faults =
            vec![("objects.put", 3, SiteFault::LateLand(900_000)), ("objects.get", 4, SiteFault::Reset)];
        Setup { seed, faults, ..Default::default() }
    };
    let first = run(setup(5), storm);
    assert!(first.1.1 > 100, "only {} events", first.1.1);
    assert_eq!(first, run(setup(5), storm));
    assert_ne!(first.1, run(setup(6), storm).1);
}
