//! Windows and joins: what fires, when, once; what merges; what comes too late.

use std::path::PathBuf;

use crate::common::block_on;
use cutwater_engine::stream::graph::JobGraph;
use cutwater_engine::stream::harness::Harness;
use cutwater_engine::stream::job::Job;
use cutwater_engine::stream::record::Record;
use cutwater_engine::stream::source::Generated;
use cutwater_engine::stream::watermark::END_OF_TIME_MS;
use cutwater_engine::stream::window::{AggregateFunction, Count, Window, Windowed, Windows};
use futures::FutureExt;
use futures::future::BoxFuture;

type Item = (String, u64);

fn source() -> Generated<impl Fn(u32, u64) -> (Item, i64) + Clone + Send + Sync + 'static> {
    let item = |_, offset| ((String::new(), offset), 0);
    Generated { partitions: 1, per_partition: 0, per_second: 0, out_of_orderness_ms: 0, item }
}

/// Keeps everything, in order.
struct All;

impl AggregateFunction<Item> for All {
    type Accumulator = Vec<u64>;
    type Out = Vec<u64>;

    fn create(&self) -> Vec<u64> {
        Vec::new()
    }
    fn add(&self, all: &mut Vec<u64>, item: Item) {
        all.push(item.1);
    }
    fn merge(&self, a: Vec<u64>, b: Vec<u64>) -> Vec<u64> {
        [a, b].concat()
    }
    fn result(&self, mut all: Vec<u64>) -> Vec<u64> {
        all.sort_unstable();
        all
    }
}

fn aggregated(windows: Windows) -> JobGraph {
    let job = Job::new("test");
    job.source("source", source())
        .key_by(|(key, _): &Item| key.clone())
        .window(windows)
        .aggregate("windows", All)
        .sink("sink", |_| Record::new(Vec::new(), Vec::new()));
    job.build()
}

/// Runs `test` on the operator `windows` of a job.
fn with(graph: JobGraph, test: impl for<'a> FnOnce(&'a mut Harness) -> BoxFuture<'a, ()> + Send + 'static) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let held = tempfile::tempdir().unwrap();
    let dir: PathBuf = if cfg!(madsim) { format!("/windows-{n}").into() } else { held.path().join("state") };
    block_on(async move {
        let mut harness = Harness::open(&graph, "windows", &dir).await.unwrap();
        test(&mut harness).await;
        harness.close().await;
    });
}

async fn put(harness: &mut Harness, key: &str, n: u64, time_ms: i64) {
    harness.process(0, &key.to_string(), &(key.to_string(), n), time_ms).await.unwrap();
}

type Fired = (String, i64, i64, Vec<u64>);

async fn advance(harness: &mut Harness, watermark_ms: i64) -> Vec<Fired> {
    harness.watermark(watermark_ms).await.unwrap();
    let mut fired = Vec::new();
    for (out, time_ms) in harness.take::<Windowed<String, Vec<u64>>>().unwrap() {
        assert_eq!(time_ms, out.window.last_ms());
        fired.push((out.key, out.window.start_ms, out.window.end_ms, out.value));
    }
    fired
}

fn fired(key: &str, start_ms: i64, end_ms: i64, values: &[u64]) -> Fired {
    (key.into(), start_ms, end_ms, values.to_vec())
}

#[test]
fn a_tumbling_window_fires_once_at_its_last_millisecond() {
    with(aggregated(Windows::tumbling(10)), |h| {
        async move {
            put(h, "a", 1, 0).await;
            put(h, "a", 2, 9).await;
            put(h, "b", 3, 5).await;
            put(h, "a", 4, 10).await;
            put(h, "a", 5, -1).await;
            assert_eq!(advance(h, 8).await, [fired("a", -10, 0, &[5])]);
            assert_eq!(advance(h, 9).await, [fired("a", 0, 10, &[1, 2]), fired("b", 0, 10, &[3])]);
            assert_eq!(advance(h, 9).await, []);
            put(h, "a", 6, 9).await;
            assert_eq!((h.late(), h.timers()), (1, 1), "too late, and dropped");
            put(h, "a", 7, 11).await;
            assert_eq!(advance(h, END_OF_TIME_MS).await, [fired("a", 10, 20, &[4, 7])]);
            assert_eq!(h.timers(), 0);
        }
        .boxed()
    });
}

#[test]
fn a_record_is_in_all_sliding_windows_that_are_open() {
    with(aggregated(Windows::sliding(10, 5)), |h| {
        async move {
            put(h, "a", 1, 7).await;
            assert_eq!(advance(h, 9).await, [fired("a", 0, 10, &[1])]);
            put(h, "a", 2, 8).await;
            assert_eq!(h.late(), 0, "late for one of its two windows alone");
            assert_eq!(advance(h, 100).await, [fired("a", 5, 15, &[1, 2])]);
            put(h, "a", 3, 50).await;
            assert_eq!(h.late(), 1);
        }
        .boxed()
    });
}

#[test]
fn sessions_grow_merge_and_end() {
    with(aggregated(Windows::session(10)), |h| {
        async move {
            put(h, "a", 1, 0).await;
            put(h, "a", 2, 30).await;
            put(h, "b", 3, 3).await;
            assert_eq!(h.timers(), 3);
            // It touches neither, then both.
            put(h, "a", 4, 15).await;
            put(h, "a", 5, 8).await;
            put(h, "a", 6, 25).await;
            assert_eq!(h.timers(), 2, "one session of a, one of b");
            assert_eq!(advance(h, 38).await, [fired("b", 3, 13, &[3])]);
            // A record that is too late by itself belongs to a session that is not.
            put(h, "a", 7, 20).await;
            assert_eq!(h.late(), 0);
            assert_eq!(advance(h, 39).await, [fired("a", 0, 40, &[1, 2, 4, 5, 6, 7])]);
            put(h, "a", 8, 20).await;
            assert_eq!((h.late(), h.timers()), (1, 0));
            put(h, "a", 9, 35).await;
            assert_eq!(advance(h, END_OF_TIME_MS).await, [fired("a", 35, 45, &[9])]);
        }
        .boxed()
    });
}

#[test]
fn a_count_needs_no_function_of_its_own() {
    let job = Job::new("test");
    job.source("source", source())
        .key_by(|(key, _): &Item| key.clone())
        .window(Windows::tumbling(10))
        .aggregate("windows", Count)
        .sink("sink", |_| Record::new(Vec::new(), Vec::new()));
    with(job.build(), |h| {
        async move {
            for n in 0..5 {
                put(h, "a", n, 1).await;
            }
            h.watermark(9).await.unwrap();
            let window = Window { start_ms: 0, end_ms: 10 };
            assert_eq!(h.take().unwrap(), [(Windowed { key: "a".to_string(), window, value: 5u64 }, 9)]);
        }
        .boxed()
    });
}

#[test]
fn a_window_joins_what_is_in_it() {
    let job = Job::new("test");
    let left = job.source("left", source()).key_by(|(key, _): &Item| key.clone());
    let right = job.source("right", source()).key_by(|(key, _): &Item| key.clone());
    left.join(right)
        .window(Windows::tumbling(10))
        .apply("windows", |_, window, left: Vec<Item>, right: Vec<Item>| {
            let number = |side: Vec<Item>| side.into_iter().map(|item| item.1).collect::<Vec<_>>();
            vec![(window.start_ms, number(left), number(right))]
        })
        .sink("sink", |_| Record::new(Vec::new(), Vec::new()));
    with(job.build(), |h| {
        async move {
            for (input, n, time_ms) in [(0, 1u64, 0), (1, 2, 9), (0, 3, 5), (1, 4, 10), (0, 5, 25)] {
                h.process(input, &"a".to_string(), &("a".to_string(), n), time_ms).await.unwrap();
            }
            h.watermark(END_OF_TIME_MS).await.unwrap();
            type Out = (i64, Vec<u64>, Vec<u64>);
            let expected: Vec<(Out, i64)> =
                vec![((0, vec![1, 3], vec![2]), 9), ((10, vec![], vec![4]), 19), ((20, vec![5], vec![]), 29)];
            assert_eq!(h.take::<Out>().unwrap(), expected);
            h.process(1, &"a".to_string(), &("a".to_string(), 6u64), 26).await.unwrap();
            assert_eq!((h.late(), h.timers()), (1, 0));
        }
        .boxed()
    });
}
