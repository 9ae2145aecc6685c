//! The simulated object store where it refuses, breaks off and lags: conflicts, bodies, credentials, limits, listings, clocks.
#![cfg(madsim)]

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use cutwater_io::objects::{Path, open};
use cutwater_io::sim::objects::{Config, RequestError};
use cutwater_io::sim::{NodeId, SiteFault};
use futures::TryStreamExt;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

fn store() -> Arc<dyn ObjectStore> {
    open("sim://b").expect("a bucket")
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..Default::default() }
}

fn why(e: &Error) -> Option<RequestError> {
    let (Error::Generic { source, .. }
    | Error::AlreadyExists { source, .. }
    | Error::PermissionDenied { source, .. }) = e
    else {
        return None;
    };
    source.downcast_ref::<RequestError>().cloned()
}

fn with(objects: Config) -> Setup {
    Setup { objects, ..Default::default() }
}

#[test]
fn of_two_conditional_writes_under_way_the_loser_may_hear_of_a_conflict() {
    let race = |conflict_permille| {
        run(with(Config { conflict_permille, ..Config::default() }), |world| async move {
            let mut heard = Vec::new();
            for i in 0..20 {
                let put = |n| {
                    world.on(n, async move {
                        store().put_opts(&Path::from(format!("k{i}")), "v".into(), create()).await.err()
                    })
                };
                let (a, b) = (put(1), put(2));
                let errors = [a.await.expect("runs"), b.await.expect("runs")];
                assert_eq!(errors.iter().flatten().count(), 1, "one wins");
                let lost = errors.into_iter().flatten().next().expect("one loses");
                assert!(matches!(lost, Error::AlreadyExists { .. }), "{lost}");
                heard.push(why(&lost) == Some(RequestError::Conflict));
            }
            assert_eq!(
                world.env.objects().counters().conflicts,
                heard.iter().filter(|conflict| **conflict).count() as u64
            );
            heard
        })
        .0
    };
    assert_eq!(race(0), [false; 20]);
    assert_eq!(race(1000), [true; 20]);
    let some = race(500);
    assert!(some.contains(&true) && some.contains(&false), "{some:?}");
}

#[test]
fn a_conflict_does_not_say_that_the_object_is_there() {
    let config = Config { conflict_permille: 1000, latency_sigma: 0.0, ..Config::default() };
    run(with(config), |world| async move {
        let key = Path::from("k");
        store().put(&key, "old".into()).await.expect("puts");
        let deleting = world.on(1, async { store().delete(&Path::from("k")).await });
        sleep_ms(2).await;
        let e = store().put_opts(&key, "new".into(), create()).await.expect_err("raced with the delete");
        assert_eq!(why(&e), Some(RequestError::Conflict));
        deleting.await.expect("runs").expect("deletes");
        assert!(matches!(store().head(&key).await, Err(Error::NotFound { .. })));
        store().put_opts(&key, "new".into(), create()).await.expect("nobody else now");
    });
}

#[test]
fn a_body_breaks_off_or_stands_still() {
    let faults = vec![("objects.get", 1, SiteFault::Short), ("objects.get", 2, SiteFault::StallBody)];
    run(Setup { faults, ..Default::default() }, |world| async move {
        let key = Path::from("k");
        store().put(&key, vec![7; 1000].into()).await.expect("puts");
        for least_ms in [0, 5_000] {
            let before = world.now_ms();
            let answer = store().get(&key).await.expect("begins well");
            assert_eq!(answer.meta.size, 1000);
            let mut body = answer.into_stream();
            assert_eq!(body.try_next().await.expect("half of it").expect("bytes").len(), 500);
            let e = body.try_next().await.expect_err("breaks off");
            assert_eq!(why(&e), Some(RequestError::Timeout));
            assert!((least_ms..least_ms + 200).contains(&(world.now_ms() - before)));
        }
        assert_eq!(store().get(&key).await.expect("gets").bytes().await.expect("whole").len(), 1000);
    });
}

#[test]
fn expired_credentials_are_one_nodes_trouble() {
    run(Setup::default(), |world| async move {
        let objects = world.env.objects();
        let put = |n| {
            let put = world.on(n, async { store().put(&Path::from("k"), "v".into()).await.map(drop) });
            async move { put.await.expect("runs") }
        };
        objects.deny(NodeId(1));
        let e = put(1).await.expect_err("denied");
        assert!(matches!(e, Error::PermissionDenied { .. }), "{e}");
        assert_eq!(why(&e), Some(RequestError::AccessDenied));
        assert!(objects.keys("b", "").is_empty(), "it was not applied");
        put(2).await.expect("the other has its own");
        objects.allow(NodeId(1));
        put(1).await.expect("renewed");
        objects.deny(NodeId(1));
        objects.heal();
        put(1).await.expect("healed");
        assert_eq!(objects.counters().denied, 1);
    });
}

#[test]
fn a_prefix_has_so_many_requests_and_no_more() {
    let config = Config { prefix_spacing_us: 100_000, prefix_burst: 5, ..Config::default() };
    run(with(config), |world| async move {
        let burst = |prefix: &'static str| async move {
            let puts = (0..20)
                .map(|i| async move { store().put(&Path::from(format!("{prefix}/{i}")), "v".into()).await });
            let answers = futures::future::join_all(puts).await;
            let refusals: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
            assert!(refusals.iter().all(|e| why(e) == Some(RequestError::SlowDown)), "{refusals:?}");
            answers.len() - refusals.len()
        };
        assert_eq!(burst("a").await, 5);
        assert_eq!(burst("b").await, 5, "another prefix");
        assert_eq!(world.env.objects().counters().too_many, 30);
        sleep_ms(300).await;
        let allowed = burst("a").await;
        assert!((3..=5).contains(&allowed), "{allowed} after 300 ms");
        sleep_ms(5_000).await;
        assert_eq!(burst("a").await, 5, "it earns no more than a burst");
        world.env.objects().heal();
        assert_eq!(burst("a").await, 20);
    });
}

#[test]
fn listings_lag_behind_only_if_configured_and_catch_up_in_order() {
    for list_lag_us in [0, 2_000_000] {
        run(with(Config { list_lag_us, ..Config::default() }), move |_| async move {
            let list = || async {
                let found: Vec<_> = store().list(None).try_collect().await.expect("lists");
                found.into_iter().map(|meta| meta.location.to_string()).collect::<Vec<_>>()
            };
            let mut stale = 0;
            for i in 0..20 {
                let key = Path::from(format!("k{i:02}"));
                store().put(&key, "v".into()).await.expect("puts");
                store().head(&key).await.expect("reads are not stale");
                stale += usize::from(!list().await.contains(&key.to_string()));
            }
            assert_eq!(stale > 0, list_lag_us > 0, "{stale} stale listings");
            sleep_ms(2_000).await;
            assert_eq!(list().await.len(), 20);
            // Written and deleted at once: in the end it is gone, whatever was drawn for either.
            for i in 20..40 {
                let key = Path::from(format!("k{i}"));
                store().put(&key, "v".into()).await.expect("puts");
                store().delete(&key).await.expect("deletes");
            }
            sleep_ms(2_100).await;
            assert_eq!(list().await.len(), 20);
        });
    }
}

#[test]
fn the_clock_of_the_store_is_its_own_and_tells_seconds() {
    let skews: std::collections::BTreeSet<i64> = (0..8)
        .map(|seed| {
            let setup = Setup { seed, ..Default::default() };
            let skew = |_: World| async move {
                store().put(&Path::from("k"), "v".into()).await.expect("puts");
                let meta = store().head(&Path::from("k")).await.expect("is there");
                let modified = std::time::SystemTime::from(meta.last_modified);
                let since = modified.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
                assert_eq!(since.subsec_nanos(), 0);
                since.as_secs() as i64 - cutwater_io::time::unix_time().as_secs() as i64
            };
            run(setup, skew).0
        })
        .collect();
    assert!(skews.iter().all(|skew_s| skew_s.abs() <= 601), "{skews:?}");
    assert!(skews.len() > 4, "{skews:?}");
}

#[test]
fn a_late_landing_is_not_turned_away_by_a_conflict() {
    let config = Config { conflict_permille: 1000, ..Config::default() };
    let faults = vec![("objects.put", 1, SiteFault::LateLand(3_000_000))];
    run(Setup { objects: config, faults, ..Default::default() }, |world| async move {
        let key = Path::from("k");
        let zombie = world.on(1, async { store().put_opts(&Path::from("k"), "z".into(), create()).await });
        assert!(zombie.await.expect("runs").is_err());
        let other = world.on(1, async { store().put(&Path::from("k"), "v".into()).await });
        other.await.expect("runs").expect("puts");
        store().delete(&key).await.expect("deletes");
        cutwater_io::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(world.env.objects().peek("b", "k").as_deref(), Some(&b"z"[..]));
    });
}
