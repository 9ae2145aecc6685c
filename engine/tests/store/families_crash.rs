//! Families on a simulated disk that loses power: batches over several of them, flushes of one and of all, a family that comes
//! and goes. At drawn moments the disk is copied, the copy loses power, and what a store finds on it must be one prefix of the
//! batches, the same in every family, with all that was synced.
#![cfg(madsim)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutwater_engine::store::{Error, Family, FamilyOptions, Options, Store, WriteBatch, WriteOptions};
use cutwater_io::sim::disk::Disk;
use cutwater_io::sim::{Draw, Key, NodeId, Survivors};
use cutwater_io::time;

use crate::simulated::simulate;

const DB: &str = "/db";
const NODE: NodeId = NodeId(1);
const BATCHES: u64 = 150;
const CRASHES_PER_RUN: u64 = 25;
/// Those that stay; the first is the default one.
const NAMES: [&str; 3] = ["default", "a", "b"];
/// The one that comes and goes.
const GUEST: &str = "guest";

/// What the writer has done so far.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Of each batch the families that it changes, as positions in [`NAMES`].
    touched: Vec<BTreeSet<usize>>,
    /// So many batches are durable.
    durable: usize,
    /// The batch before which the guest with an id was created.
    guests: BTreeMap<u32, usize>,
}

/// A disk after a crash, and what was known then.
struct Image {
    disk: Disk,
    before: Progress,
}

fn family_options(write_buffer_bytes: u64) -> FamilyOptions {
    FamilyOptions {
        write_buffer_bytes,
        block_bytes: 128,
        target_file_bytes: 1024,
        ..FamilyOptions::default()
    }
}

async fn open() -> Result<Store, Error> {
    let names = match Store::list_families(DB).await {
        Err(Error::NotFound { .. }) => NAMES.map(str::to_owned).to_vec(),
        listed => listed?,
    };
    let others: Vec<_> = names[1..].iter().map(|name| (&name[..], family_options(600))).collect();
    let options = Options {
        family: family_options(2000),
        create_missing_families: true,
        max_manifest_bytes: 2000,
        ..Options::default()
    };
    Store::open_families(DB, options, &others).await
}

fn key(batch: usize) -> Vec<u8> {
    format!("batch{batch:05}").into_bytes()
}

/// Writes batches, mostly without a sync, and flushes now one family, now another, now all.
async fn write(mut draw: Draw, progress: Arc<Mutex<Progress>>) {
    let store = open().await.unwrap();
    let families = NAMES.map(|name| store.family(name).unwrap());
    let mut guest: Option<Family> = None;
    for i in 0..BATCHES as usize {
        let mut touched: BTreeSet<usize> = (0..3).filter(|_| draw.below(3) == 0).collect();
        touched.insert(draw.below(3) as usize);
        let mut batch = WriteBatch::new();
        touched.iter().for_each(|f| batch.put_in(&families[*f], &key(i), &[b'v'; 40]));
        if let Some(guest) = &guest {
            batch.put_in(guest, &key(i), b"guest");
        }
        progress.lock().unwrap().touched.push(touched);
        let sync = draw.below(12) == 0;
        store.write(batch, WriteOptions { sync, disable_wal: false }).await.unwrap();
        if sync {
            progress.lock().unwrap().durable = i + 1;
        }
        match draw.below(30) {
            0..4 => families[draw.below(3) as usize].flush().await.unwrap(),
            4 => store.flush().await.unwrap(),
            5 => families[draw.below(3) as usize].compact_all().await.unwrap(),
            6..9 => match guest.take() {
                Some(guest) => store.drop_family(&guest).await.unwrap(),
                None => {
                    let created = store.create_family(GUEST, family_options(600)).await.unwrap();
                    progress.lock().unwrap().guests.insert(created.id(), i + 1);
                    guest = Some(created);
                }
            },
            _ => {}
        }
    }
    store.close().await.unwrap();
}

/// Copies of the disk of one run, crashed.
fn images(seed: u64) -> Vec<Image> {
    simulate(seed, async move |env| {
        let key = Key::root(seed);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
        let writer = node.spawn(write(key.draw("writes", &[]), progress.clone()));
        let mut draw = key.draw("crashes", &[]);
        let mut images = Vec::new();
        for _ in 0..CRASHES_PER_RUN {
            time::sleep(Duration::from_micros(draw.below(8000))).await;
            let before = progress.lock().unwrap().clone();
            let mut disk = env.disks().snapshot(NODE);
            let survivors = match draw.below(4) {
                0 => Survivors::None,
                1 => Survivors::Prefix(draw.below(1001) as u16),
                _ => Survivors::Each { permille: 500, key: draw.below(1 << 32) as u32 },
            };
            drop(disk.power_fail(&survivors, 0));
            images.push(Image { disk, before });
        }
        writer.await.unwrap();
        images
    })
}

async fn keys(family: &Family) -> BTreeSet<Vec<u8>> {
    let mut iter = family.iter(.., None);
    let mut keys = BTreeSet::new();
    while let Some((key, _)) = iter.next().await.unwrap() {
        keys.insert(key);
    }
    keys
}

/// How many batches a store finds on the disk, which must be all up to there.
async fn judge(before: Progress) -> usize {
    let store = open().await.unwrap_or_else(|error| panic!("{error}, with {before:?}"));
    store.verify().await.unwrap();
    let mut found = Vec::new();
    for name in NAMES {
        found.push(keys(&store.family(name).expect("it was there before the first batch")).await);
    }
    let last = (0..before.touched.len()).rev().find(|i| found.iter().any(|keys| keys.contains(&key(*i))));
    let count = last.map_or(0, |last| last + 1);
    for (f, keys) in found.iter().enumerate() {
        let expected: BTreeSet<Vec<u8>> =
            (0..count).filter(|i| before.touched[*i].contains(&f)).map(key).collect();
        assert_eq!(*keys, expected, "{} of {} batches in {}", count, before.touched.len(), NAMES[f]);
    }
    assert!(count >= before.durable, "{count} batches, {} were durable", before.durable);
    if let Some(guest) = store.family(GUEST) {
        // One whose creation was not answered has nothing in it.
        let first = before.guests.get(&guest.id()).copied().unwrap_or(usize::MAX);
        let is_its_own = |k: &Vec<u8>| first < count && (key(first)..key(count)).contains(k);
        assert!(keys(&guest).await.iter().all(is_its_own));
    }
    store.close().await.unwrap();
    count
}

#[test]
fn after_a_loss_of_power_all_families_are_at_one_moment() {
    let (mut images_seen, mut with_less) = (0, 0);
    for seed in 0..24 {
        for Image { disk, before } in images(seed) {
            let attempted = before.touched.len();
            // Before the first batch the families may not be there yet.
            if attempted == 0 {
                continue;
            }
            let count = simulate(seed, async move |env| {
                let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
                env.disks().replace(NODE, disk);
                node.spawn(judge(before)).await.unwrap()
            });
            images_seen += 1;
            with_less += usize::from(count < attempted);
        }
    }
    assert!(images_seen > 200 && with_less > 50, "{with_less} of {images_seen} crashes took anything");
}
