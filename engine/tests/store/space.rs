//! A disk that fills up at a drawn moment, at once or late, and has space again later. What was acknowledged is there when the
//! store has resumed, what was refused is not, and a copy of the disk that loses power on the way holds a prefix with all that was
//! synced.
#![cfg(madsim)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutwater_engine::store::{
    Error, Family, FamilyOptions, Options, Severity, Store, WriteBatch, WriteOptions,
};
use cutwater_io::sim::disk::Disk;
use cutwater_io::sim::{Draw, Key, NodeId, Survivors};
use cutwater_io::time;

use crate::simulated::simulate;

const DB: &str = "/db";
const NODE: NodeId = NodeId(1);
const BATCHES: usize = 150;
const SYNC: WriteOptions = WriteOptions { sync: true, disable_wal: false };
const LOGGED: WriteOptions = WriteOptions { sync: false, disable_wal: false };

/// What became of the batches.
#[derive(Clone, Debug, Default)]
struct Progress {
    acknowledged: BTreeSet<usize>,
    refused: BTreeSet<usize>,
    /// One without an answer.
    open: Option<usize>,
    /// All that were acknowledged up to this one are durable.
    durable: Option<usize>,
    resumed: usize,
}

async fn open() -> Result<Store, Error> {
    let family = FamilyOptions {
        write_buffer_bytes: 1500,
        block_bytes: 128,
        target_file_bytes: 1024,
        level0_compaction_trigger: 2,
        min_blob_bytes: Some(100),
        ..FamilyOptions::default()
    };
    let options = Options {
        family: family.clone(),
        create_missing_families: true,
        max_manifest_bytes: 3000,
        ..Options::default()
    };
    Store::open_families(DB, options, &[("other", family)]).await
}

fn key(batch: usize) -> Vec<u8> {
    format!("batch{batch:05}").into_bytes()
}

fn severity(error: &Error) -> Option<Severity> {
    let severity = error.severity();
    assert_ne!(severity, Some(Severity::Fatal), "{error}");
    severity
}

/// Waits until the store takes writes again, half the time by asking.
async fn wait_for_space(store: &Store, draw: &mut Draw) {
    let asks = draw.below(2) == 0;
    while store.background_error().is_some() {
        time::sleep(Duration::from_millis(20)).await;
        if asks {
            let _ = store.resume().await;
        }
    }
}

async fn write(mut draw: Draw, progress: Arc<Mutex<Progress>>) {
    let store = open().await.unwrap();
    let families = [store.default_family(), store.family("other").unwrap()];
    for i in 0..BATCHES {
        let mut batch = WriteBatch::new();
        let value = vec![b'v'; [20, 40, 150][draw.below(3) as usize]];
        families.iter().for_each(|family| batch.put_in(family, &key(i), &value));
        let options = if draw.below(6) == 0 { SYNC } else { LOGGED };
        progress.lock().unwrap().open = Some(i);
        let written = store.write(batch, options).await;
        match written {
            Ok(_) => {
                let mut progress = progress.lock().unwrap();
                progress.open = None;
                progress.acknowledged.insert(i);
                if options.sync {
                    progress.durable = Some(i);
                }
            }
            Err(error) => {
                assert!(severity(&error).is_some(), "{error}");
                wait_for_space(&store, &mut draw).await;
                let mut progress = progress.lock().unwrap();
                progress.open = None;
                progress.refused.insert(i);
                progress.durable = Some(i);
                progress.resumed += 1;
            }
        }
        let maintained = match draw.below(24) {
            0 => store.flush().await,
            1 => families[draw.below(2) as usize].flush().await,
            2 => store.compact_all().await,
            3 => store.sync_wal().await,
            _ => Ok(()),
        };
        if let Err(error) = maintained {
            // A compaction that finds no space stops nothing.
            assert!(severity(&error).is_some() || matches!(error, Error::Io { .. }), "{error}");
            wait_for_space(&store, &mut draw).await;
        }
        if i % 8 == 0 {
            let known = progress.lock().unwrap().clone();
            judge(&families, &known).await;
        }
    }
    store.verify().await.unwrap();
    while store.compact_all().await.is_err() {
        wait_for_space(&store, &mut draw).await;
        time::sleep(Duration::from_millis(100)).await;
    }
    let live = store.live_files();
    store.close().await.unwrap();
    // Whatever failed on the way left nothing behind.
    let entries = cutwater_io::fs::read_dir(DB).await.unwrap();
    let names: BTreeSet<String> = entries.into_iter().map(|entry| entry.name).collect();
    let expected: BTreeSet<String> = live.into_iter().collect();
    let differ: Vec<_> = names.symmetric_difference(&expected).collect();
    assert!(differ.is_empty(), "{differ:?}");
    let store = loop {
        match open().await {
            Err(Error::Io { .. }) => time::sleep(Duration::from_millis(100)).await,
            opened => break opened.unwrap(),
        }
    };
    let families = [store.default_family(), store.family("other").unwrap()];
    let known = progress.lock().unwrap().clone();
    judge(&families, &known).await;
}

async fn keys(family: &Family) -> BTreeSet<Vec<u8>> {
    let mut iter = family.iter(.., None);
    let mut keys = BTreeSet::new();
    while let Some((key, _)) = iter.next().await.unwrap() {
        keys.insert(key);
    }
    keys
}

/// Exactly what was acknowledged is there.
async fn judge(families: &[Family], progress: &Progress) {
    for family in families {
        let expected: BTreeSet<Vec<u8>> = progress.acknowledged.iter().map(|i| key(*i)).collect();
        assert_eq!(keys(family).await, expected, "in {}", family.name());
    }
}

/// A prefix of what was acknowledged, the one without an answer perhaps, and all that was durable.
async fn judge_copy(before: Progress) {
    let store = open().await.unwrap_or_else(|error| panic!("{error}, with {before:?}"));
    store.verify().await.unwrap();
    let found = keys(&store.default_family()).await;
    assert_eq!(found, keys(&store.family("other").unwrap()).await);
    let attempted: BTreeMap<Vec<u8>, usize> =
        before.acknowledged.iter().copied().chain(before.open).map(|i| (key(i), i)).collect();
    let found: Vec<usize> = found.iter().map(|key| attempted[key]).collect();
    let expected: Vec<usize> = attempted.values().copied().take(found.len()).collect();
    assert_eq!(found, expected, "a prefix");
    let durable = before.durable.map_or(0, |last| before.acknowledged.range(..=last).count());
    assert!(found.len() >= durable, "{} batches, {durable} were durable", found.len());
    store.close().await.unwrap();
}

/// Runs the writer while the disk fills up and is emptied again; returns what it did, and crashed copies of the disk.
fn run(seed: u64) -> (Progress, Vec<(Disk, Progress)>) {
    simulate(seed, async move |env| {
        let root = Key::root(seed);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
        let writer = node.spawn(write(root.draw("writes", &[]), progress.clone()));
        let mut draw = root.draw("space", &[]);
        let mut copies = Vec::new();
        let is_late = draw.below(3) == 0;
        env.disks().with_mut(NODE, |disk| disk.set_late_enospc(is_late));
        while progress.lock().unwrap().acknowledged.is_empty() {
            time::sleep(Duration::from_millis(1)).await;
        }
        while !writer.is_finished() {
            time::sleep(Duration::from_micros(2000 + draw.below(60_000))).await;
            let spare = draw.below(6) * 4096;
            let used = match is_late {
                true => env.disks().with(NODE, Disk::used_on_medium_bytes),
                false => env.disks().used_bytes(NODE),
            };
            env.disks().set_capacity(NODE, Some(used + spare));
            for _ in 0..3 {
                time::sleep(Duration::from_micros(draw.below(300_000))).await;
                let before = progress.lock().unwrap().clone();
                let mut disk = env.disks().snapshot(NODE);
                let survivors = match draw.below(3) {
                    0 => Survivors::None,
                    1 => Survivors::Prefix(draw.below(1001) as u16),
                    _ => Survivors::Each { permille: 500, key: draw.below(1 << 32) as u32 },
                };
                drop(disk.power_fail(&survivors, 0));
                disk.set_capacity(None);
                copies.push((disk, before));
            }
            env.disks().set_capacity(NODE, None);
        }
        writer.await.unwrap();
        let progress = progress.lock().unwrap().clone();
        (progress, copies)
    })
}

#[test]
fn a_full_disk_stops_writes_and_loses_nothing() {
    let (mut resumed, mut refused, mut copies_seen) = (0, 0, 0);
    for seed in 0..5 {
        let (progress, copies) = run(seed);
        (resumed, refused) = (resumed + progress.resumed, refused + progress.refused.len());
        for (disk, before) in copies.into_iter().filter(|(_, before)| !before.acknowledged.is_empty()) {
            copies_seen += 1;
            simulate(seed, async move |env| {
                let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
                env.disks().replace(NODE, disk);
                node.spawn(judge_copy(before)).await.unwrap();
            });
        }
    }
    assert!(resumed > 3 && copies_seen > 20, "{resumed} times, {refused} refused, {copies_seen} copies");
}
