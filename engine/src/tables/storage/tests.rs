//! A copy on a simulated disk that loses power. At drawn moments the disk is copied and the copy loses power; what is opened of it must be
//! the fold of the log to some index, with every entry that was said to be durable.

#[path = "../../../tests/common/simulated.rs"]
mod simulated;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::sim::disk::Disk;
use cutwater_io::sim::{Draw, Key, NodeId, Survivors};
use cutwater_io::time;

use simulated::simulate;

use super::*;
use crate::store::{FamilyOptions, Options, WriteOptions};
use crate::tables::entry::Entry;
use crate::tables::partition::tests::{fold, random_log};
use crate::tables::partition::{Folded, Partition};
use crate::tables::replica::{LogShape, RowsChunk};
use crate::tables::rows::Row;

const NODE: NodeId = NodeId(1);
const HERE: PartitionId = PartitionId { table: 3, number: 1 };
const OTHER: PartitionId = PartitionId { table: 3, number: 2 };
const CRASHES_PER_RUN: u64 = 20;

/// Runs `future` on a node with this disk, or an empty one.
fn on_node<T: Send + 'static>(
    seed: u64,
    disk: Option<Disk>,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    simulate(seed, async move |env| {
        let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
        if let Some(disk) = disk {
            env.disks().replace(NODE, disk);
        }
        node.spawn(future).await.unwrap()
    })
}

async fn open_store() -> Store {
    let family = FamilyOptions {
        write_buffer_bytes: 3000,
        block_bytes: 256,
        target_file_bytes: 2000,
        ..FamilyOptions::default()
    };
    Store::open("/db", Options { family, max_manifest_bytes: 2000, ..Options::default() }).await.unwrap()
}

/// The state and the rows after so many entries.
fn folded(log: &[Entry], up_to: LogIndex) -> (Partition, BTreeMap<Bytes, Row>) {
    let (mut partition, mut rows) = (Partition::new(HERE, Folded::default()), BTreeMap::new());
    log.iter().take(up_to as usize).for_each(|entry| drop(fold(&mut partition, &mut rows, entry)));
    (partition, rows)
}

fn shape(log: &[Entry], before: LogIndex, last: LogIndex) -> LogShape {
    let mut shape = LogShape::default();
    log.iter().take(last as usize).for_each(|entry| shape.push(entry));
    shape.trim(before);
    shape
}

async fn all_rows(rows: &Rows) -> BTreeMap<Bytes, Row> {
    let held = rows.hold();
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let (some, is_all) = held.scan(after.as_ref(), 100).await.unwrap();
        after = some.last().map(|(key, _)| key.clone());
        all.extend(some);
        if is_all {
            return all;
        }
    }
}

/// What a writer knows to be so.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Entries up to here are durable, unless they are being truncated.
    durable: LogIndex,
    /// Nothing above was ever applied.
    applied_at_most: LogIndex,
    promised: View,
}

async fn write(log: Arc<Vec<Entry>>, mut draw: Draw, progress: Arc<Mutex<Progress>>) {
    let store = open_store().await;
    let copy = CopyStore::new(store.clone(), HERE);
    let neighbour = CopyStore::new(store.clone(), OTHER);
    let mut rows = copy.open().await.unwrap().rows;
    let (mut last, mut promised) = (0, 0);
    while rows.partition().applied() < log.len() as LogIndex {
        let applied = rows.partition().applied();
        match draw.below(12) {
            0..5 => {
                let count = (draw.below(6) as usize).min(log.len() - last as usize);
                let entries: Vec<_> = log[last as usize..][..count].iter().cloned().map(Arc::new).collect();
                let persist = LogStep::Persist { first: last + 1, entries };
                let beside = LogStep::Persist { first: 1, entries: vec![Arc::new(Entry::Open { view: 1 })] };
                let steps = [persist];
                let (written, _) = futures::join!(
                    copy.write_log(&steps),
                    neighbour.write_log(std::slice::from_ref(&beside))
                );
                written.unwrap();
                last += count as LogIndex;
                progress.lock().unwrap().durable = last;
            }
            5..9 => {
                let up_to = applied + draw.below(1 + last - applied);
                let before = progress.lock().unwrap().applied_at_most;
                progress.lock().unwrap().applied_at_most = before.max(up_to);
                for step in rows.apply(up_to).await.unwrap() {
                    assert_eq!(*step.entry, log[step.index as usize - 1]);
                }
            }
            9 if last > applied => {
                last = applied + draw.below(last - applied);
                progress.lock().unwrap().durable = last;
                promised += 1;
                let steps = [LogStep::Promise(promised), LogStep::Truncate(last)];
                copy.write_log(&steps).await.unwrap();
                progress.lock().unwrap().promised = promised;
            }
            10 => drop(rows.trim(1 + draw.below(1 + applied)).await.unwrap()),
            _ => {
                if draw.below(4) == 0 {
                    store.flush().await.unwrap();
                }
            }
        }
    }
    store.close().await.unwrap();
}

struct Image {
    disk: Disk,
    before: Progress,
}

fn lose_power(disk: &mut Disk, draw: &mut Draw) {
    let survivors = match draw.below(4) {
        0 => Survivors::None,
        1 => Survivors::Prefix(draw.below(1001) as u16),
        _ => Survivors::Each { permille: 500, key: draw.below(1 << 32) as u32 },
    };
    drop(disk.power_fail(&survivors, 0));
}

fn images(seed: u64, log: Arc<Vec<Entry>>) -> Vec<Image> {
    simulate(seed, async move |env| {
        let key = Key::root(seed);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
        let writer = node.spawn(write(log, key.draw("writes", &[]), progress.clone()));
        let mut draw = key.draw("crashes", &[]);
        let mut images = Vec::new();
        for _ in 0..CRASHES_PER_RUN {
            time::sleep(Duration::from_micros(draw.below(4000))).await;
            let before = *progress.lock().unwrap();
            let mut disk = env.disks().snapshot(NODE);
            lose_power(&mut disk, &mut draw);
            images.push(Image { disk, before });
        }
        writer.await.unwrap();
        images
    })
}

/// Opens what is left, and goes on. Returns how much of the applied rows was lost.
async fn judge(log: Arc<Vec<Entry>>, before: Progress) -> LogIndex {
    let copy = CopyStore::new(open_store().await, HERE);
    let Opened { found, mut rows } = copy.open().await.unwrap();
    assert!(found.promised >= before.promised && found.promised <= before.promised + 1);
    assert!(found.log.last >= before.durable, "{:?} with {before:?}", found.log);
    assert!(found.applied <= before.applied_at_most && found.rows.is_none());
    assert_eq!(found.log, shape(&log, found.log.before, found.log.last));
    for up_to in [found.applied, found.log.last] {
        while rows.partition().applied() < up_to {
            rows.apply(up_to).await.unwrap();
        }
        let (partition, expected) = folded(&log, up_to);
        assert_eq!(*rows.partition(), partition, "the fold from scratch");
        assert_eq!(all_rows(&rows).await, expected);
    }
    before.applied_at_most - found.applied
}

#[test]
fn after_a_loss_of_power_a_copy_is_the_fold_of_its_log() {
    let (mut opened, mut with_less) = (0, 0);
    for seed in 0..16 {
        let mut draw = Key::root(seed).draw("log", &[]);
        let log = Arc::new(random_log(250, || {
            let mut byte = || draw.below(256) as u8;
            (byte(), byte(), byte(), byte())
        }));
        for Image { disk, before } in images(seed, log.clone()) {
            let lost = on_node(seed, Some(disk), judge(log.clone(), before));
            opened += 1;
            with_less += usize::from(lost > 0);
        }
    }
    assert!(opened == 320 && with_less > 40, "{with_less} of {opened} crashes took anything");
}

/// A copy with some rows, applied to its end.
async fn filled(store: &Store, partition: PartitionId, log: &[Entry]) -> Rows {
    let copy = CopyStore::new(store.clone(), partition);
    let entries = log.iter().cloned().map(Arc::new).collect();
    copy.write_log(&[LogStep::Persist { first: 1, entries }]).await.unwrap();
    let mut rows = copy.open().await.unwrap().rows;
    while rows.partition().applied() < log.len() as LogIndex {
        rows.apply(log.len() as LogIndex).await.unwrap();
    }
    rows
}

fn some_log(seed: u64) -> Vec<Entry> {
    let mut draw = Key::root(seed).draw("log", &[]);
    random_log(120, || {
        let mut byte = || draw.below(256) as u8;
        (byte(), byte(), byte(), byte())
    })
}

async fn chunks(rows: &Rows) -> Vec<RowsChunk> {
    let held = rows.hold_copy();
    let (mut chunks, mut taken) = (Vec::new(), None);
    loop {
        let chunk = held.chunk(taken.as_ref(), 1).await.unwrap();
        let after = chunk.rows.last().map(|(key, _)| key.clone());
        taken = Some(RowsTaken { index: chunk.index, after });
        let is_last = chunk.end.is_some();
        chunks.push(chunk);
        if is_last {
            return chunks;
        }
    }
}

#[test]
fn a_learner_goes_on_with_its_rows_after_any_loss_of_power() {
    let log = some_log(1);
    let mut partly = 0;
    for stop in 0.. {
        let written = log.clone();
        let (mut disk, count) = simulate(stop, async move |env| {
            let node = madsim::runtime::Handle::current().create_node().name(NODE.to_string()).build();
            let count = node.spawn(async move {
                let store = open_store().await;
                let chunks = chunks(&filled(&store, OTHER, &written).await).await;
                let copy = CopyStore::new(store, HERE);
                copy.write_log(&[LogStep::Promise(7)]).await.unwrap();
                for chunk in chunks.iter().take(stop as usize) {
                    copy.install(chunk).await.unwrap();
                }
                chunks.len()
            });
            let count = count.await.unwrap();
            (env.disks().snapshot(NODE), count)
        });
        drop(disk.power_fail(&Survivors::None, 0));
        let expected = log.clone();
        partly += on_node(stop, Some(disk), async move {
            let store = open_store().await;
            let chunks = chunks(&CopyStore::new(store.clone(), OTHER).open().await.unwrap().rows).await;
            let copy = CopyStore::new(store, HERE);
            let found = copy.open().await.unwrap().found;
            assert_eq!(found.promised, 7);
            let goes_on = |chunk: &&RowsChunk| match &found.rows {
                Some(taken) => chunk.after >= taken.after,
                None => stop == 0,
            };
            let rest: Vec<&RowsChunk> = chunks.iter().filter(goes_on).collect();
            let is_partly = usize::from(found.rows.is_some());
            for chunk in rest {
                copy.install(chunk).await.unwrap();
            }
            let Opened { found, rows } = copy.open().await.unwrap();
            let (partition, model) = folded(&expected, expected.len() as LogIndex);
            assert_eq!(rows.partition().folded(), partition.folded());
            assert_eq!(all_rows(&rows).await, model);
            let last = expected.len() as LogIndex;
            assert_eq!(found.log, shape(&expected, last, last));
            is_partly
        });
        if stop as usize == count {
            break;
        }
    }
    assert!(partly > 1, "it never went on in the middle");
}

#[test]
fn what_cannot_have_been_written_is_an_error_that_names_the_partition_and_the_place() {
    let log = some_log(2);
    on_node(0, None, async move {
        let store = open_store().await;
        let last = log.len() as LogIndex;
        let rows = filled(&store, HERE, &log).await;
        let copy = CopyStore::new(store.clone(), HERE);
        let says = |error: Error, text: &str| {
            let error = error.to_string();
            assert!(error.starts_with("partition 3-1: ") && error.contains(text), "{error}");
        };
        let put = async |at: Vec<u8>, value: &[u8]| {
            let before = store.get(&at).await.unwrap();
            store.put(&at, value, WriteOptions::default()).await.unwrap();
            (at, before)
        };
        let back = async |(at, before): (Vec<u8>, Option<Vec<u8>>)| match before {
            Some(value) => store.put(&at, &value, WriteOptions::default()).await.map(drop).unwrap(),
            None => store.delete(&at, WriteOptions::default()).await.map(drop).unwrap(),
        };
        // Entries that are not applied: the copy must not be opened as if it had them.
        let load = |next| Arc::new(Entry::Load { operation: 1, next, changes: vec![] });
        let entries = vec![load(1), load(2), load(3)];
        copy.write_log(&[LogStep::Persist { first: last + 1, entries }]).await.unwrap();
        let entry = put(key::at(HERE, key::Kind::Entry, last + 2), &[0xff; 3]).await;
        says(copy.read_log(last, 1 << 20).await.unwrap_err(), &format!("entry {}", last + 2));
        says(copy.open().await.unwrap_err(), &format!("entry {}", last + 2));
        back(entry).await;
        let entry = key::at(HERE, key::Kind::Entry, last + 1);
        let stored = store.get(&entry).await.unwrap().unwrap();
        store.delete(&entry, WriteOptions::default()).await.unwrap();
        says(copy.open().await.unwrap_err(), &format!("entry {} is missing", last + 1));
        store.put(&entry, &stored, WriteOptions::default()).await.unwrap();
        let row = put(key::of(HERE, key::Kind::Row, b"q"), &[1, 2]).await;
        says(rows.hold().get(b"q").await.unwrap_err(), "row q: it has 2 bytes");
        says(rows.hold().scan(None, 1 << 20).await.unwrap_err(), "row q");
        back(row).await;
        let ahead = AppliedState { index: last + 9, ..AppliedState::default() };
        let state = put(key::of(HERE, key::Kind::Applied, &[]), &encode(&ahead)).await;
        says(copy.open().await.unwrap_err(), "ledger");
        back(state).await;
        for kind in
            [key::Kind::Promise, key::Kind::Begin, key::Kind::Applied, key::Kind::Ledger, key::Kind::Taken]
        {
            let spoilt = put(key::of(HERE, kind, &[]), &[0xff; 40]).await;
            says(copy.open().await.unwrap_err(), kind.name());
            back(spoilt).await;
        }
        assert_eq!(*copy.open().await.unwrap().rows.partition(), *rows.partition());
    });
}

#[test]
fn rows_that_are_not_the_primarys_make_no_copy() {
    let log = some_log(3);
    on_node(0, None, async move {
        let store = open_store().await;
        let mut chunks = chunks(&filled(&store, OTHER, &log).await).await;
        let copy = CopyStore::new(store, HERE);
        assert!(chunks.len() > 2);
        copy.install(&chunks[0]).await.unwrap();
        assert!(matches!(copy.install(&chunks[2]).await, Err(Error::Damaged { .. })), "one is left out");
        let last = chunks.len() - 1;
        chunks[last].rows[0].1.value = Bytes::from_static(b"another");
        for chunk in &chunks[1..last] {
            copy.install(chunk).await.unwrap();
        }
        assert!(matches!(copy.install(&chunks[last]).await, Err(Error::Content { .. })));
        assert!(copy.open().await.unwrap().found.rows.is_some(), "it is still a learner's");
    });
}

#[test]
fn copies_are_found_held_and_cleared_without_their_neighbours() {
    let log = some_log(4);
    on_node(0, None, async move {
        let store = open_store().await;
        store.put(b"A node's own", b"x", WriteOptions::default()).await.unwrap();
        store.put(b"P", b"nobody's", WriteOptions::default()).await.unwrap();
        let mut rows = filled(&store, HERE, &log).await;
        let other = filled(&store, OTHER, &log).await;
        assert_eq!(partitions(&store).await.unwrap(), [HERE, OTHER]);
        let last = log.len() as LogIndex;
        let (held, before) = (rows.hold(), all_rows(&rows).await);
        let copy = CopyStore::new(store.clone(), HERE);
        let entry = Entry::Load { operation: 1, next: 1, changes: vec![] };
        copy.write_log(&[LogStep::Persist { first: last + 1, entries: vec![Arc::new(entry)] }])
            .await
            .unwrap();
        rows.apply(last + 1).await.unwrap();
        assert_eq!(rows.trim(last + 9).await.unwrap(), last + 1, "only what is applied goes");
        assert_eq!(copy.read_log(3, 100).await.unwrap(), [], "it is gone");
        assert_eq!(copy.open().await.unwrap().found.log.before, last + 1);
        copy.clear().await.unwrap();
        assert_eq!(partitions(&store).await.unwrap(), [OTHER]);
        assert_eq!(copy.open().await.unwrap().found, Default::default());
        assert_eq!(all_rows(&other).await, before);
        let (still, _) = held.scan(None, 1 << 20).await.unwrap();
        assert_eq!(still.into_iter().collect::<BTreeMap<_, _>>(), before, "what is held stays");
        assert_eq!(held.index(), last);
    });
}
