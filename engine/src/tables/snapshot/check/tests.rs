//! A small snapshot of two partitions with two increments, damaged in every way.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::state::blob::Retry;
use crate::tables::entry::Entry;
use crate::tables::ids::{HybridTime, LogIndex, TxId};
use crate::tables::rows::{Change, Row};
use crate::tables::snapshot::document::{Copy, FileRef, Kind, Node, Parent, Table, TimeRange};
use crate::tables::snapshot::files::PartWriter;
use crate::tables::snapshot::layout::Layout;
use crate::tables::snapshot::objects::Put;

/// Runs `future` in the world of its build.
pub(in crate::tables::snapshot) fn block_on<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    #[cfg(not(madsim))]
    return tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    #[cfg(madsim)]
    {
        let runtime = madsim::runtime::Runtime::new();
        runtime.add_simulator::<cutwater_io::sim::Env>();
        runtime.block_on(future)
    }
}

pub(in crate::tables::snapshot) const PARTITIONS: [PartitionId; 2] =
    [PartitionId { table: 4, number: 0 }, PartitionId { table: 4, number: 1 }];

pub(in crate::tables::snapshot) struct World {
    store: Arc<InMemory>,
    objects: Objects,
    pub blobs: Blobs,
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key {n}"))
}

fn change(n: u64) -> Change {
    Change { key: key(n), value: Some(Bytes::from(format!("value {n}"))) }
}

/// The log of a partition: a mark of cut 1 at 3, of cut 2 at 6, of cut 3 at 8; a transaction across cut 2.
fn log() -> Vec<Entry> {
    let partition = PARTITIONS[0];
    let write = |n: u64| Entry::Write { tx: TxId(n.into()), time: HybridTime(n), changes: vec![change(n)] };
    let (participants, reads) = (PARTITIONS.to_vec(), vec![]);
    let prepare =
        Entry::Prepare { tx: TxId(5), decider: partition, participants, reads, changes: vec![change(5)] };
    vec![
        Entry::Open { view: 1 },
        write(2),
        Entry::Mark { cut: 1, since: 3 },
        write(4),
        prepare,
        Entry::Mark { cut: 2, since: 5 },
        Entry::Finish { tx: TxId(5), commit: true, generation: 1, time: HybridTime(5) },
        Entry::Mark { cut: 3, since: 8 },
    ]
}

/// Of each cut: its mark, from where its log is needed, where it is settled, the versions of its rows.
const CUTS: [(LogIndex, LogIndex, LogIndex, &[u64]); 3] =
    [(3, 3, 3, &[2]), (6, 5, 7, &[2, 4, 5]), (8, 8, 8, &[2, 4, 5])];

impl World {
    fn new() -> World {
        let store = Arc::new(InMemory::new());
        let objects = Objects::new(store.clone(), Layout::new("snapshots", "nightly").unwrap());
        let blobs = Blobs::new(store.clone(), Retry::default());
        World { store, objects, blobs }
    }

    async fn part(&self, partition: PartitionId, number: usize) -> Part {
        let cut = number as u64 + 1;
        let (mark, since, settled, rows) = CUTS[number];
        let index_of = |n: u64| if n == 5 { 7 } else { n };
        let rows = rows.iter().map(|n| (change(*n), index_of(*n)));
        let mut content = Content::default();
        rows.clone().for_each(|(change, _)| content.add(&change.key, change.value.as_ref().unwrap()));
        let layout = self.objects.layout();
        let (stored, files) = if number == 0 {
            let mut writer = PartWriter::<KeyedRow>::new(&self.blobs, layout, cut, partition);
            for (Change { key, value }, version) in rows {
                writer.push(&KeyedRow { key, row: Row { version, value: value.unwrap() } }).await.unwrap();
            }
            (Stored::Rows, writer.finish().await.unwrap())
        } else {
            let first = CUTS[number - 1].1;
            let mut writer = PartWriter::<Indexed>::new(&self.blobs, layout, cut, partition);
            for (index, entry) in (1..).zip(log()).filter(|(index, _)| (first..=settled).contains(index)) {
                writer.push(&Indexed { index, entry }).await.unwrap();
            }
            (Stored::Log { first, last: settled }, writer.finish().await.unwrap())
        };
        let copies = vec![Copy { node: 1, content }];
        let (latest, closed) = (HybridTime(cut * 2), HybridTime(cut * 2));
        Part { partition, view: 1, mark, since, settled, latest, closed, content, copies, stored, files }
    }

    async fn document(&self, number: u64, parent: Option<&Link>) -> Document {
        let mut parts = Vec::new();
        for partition in PARTITIONS {
            parts.push(self.part(partition, usize::try_from(number).unwrap()).await);
        }
        let kind = parent.map_or(Kind::Full, |link| {
            let parent = Parent { number: link.document.number(), cut: link.document.cut, xxh3: link.xxh3 };
            Kind::Increment { number, parent }
        });
        let time = TimeRange { latest: parts[0].latest, closed: parts[0].closed };
        Document {
            root: "snapshots".into(),
            name: "nightly".into(),
            kind,
            cut: number + 1,
            operation: 1,
            time,
            tables: vec![Table { id: 4, name: "t".into(), is_atomic: false, partitions: 2, backups: 0 }],
            parts,
            topology: vec![Node { id: 1, name: "n1".into() }],
            warnings: vec![],
        }
    }

    async fn link(&self, number: u64) -> Link {
        match self.objects.document(number).await.unwrap() {
            Found::Document(link) => *link,
            other => panic!("{other:?}"),
        }
    }

    pub async fn links(&self) -> BTreeMap<u64, Link> {
        let mut links = BTreeMap::new();
        for number in 0..3 {
            links.insert(number, self.link(number).await);
        }
        links
    }

    /// A full snapshot and two increments.
    pub async fn make() -> World {
        let world = World::new();
        let mut parent = None;
        for number in 0..3 {
            let document = world.document(number, parent.as_ref()).await;
            let draft = world.objects.put_draft(&document).await.unwrap();
            assert_eq!(world.objects.publish(&draft, number).await.unwrap(), Put::Created);
            assert_eq!(world.objects.publish(&draft, number).await.unwrap(), Put::Exists);
            assert_eq!(world.objects.sweep(document.cut).await.unwrap(), 1, "the draft");
            assert_eq!(world.objects.publish(&draft, number).await.unwrap(), Put::Exists);
            parent = Some(world.link(number).await);
        }
        world
    }

    async fn check(&self, number: u64) -> Report {
        check(&self.objects, &self.blobs, number).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Bytes {
        self.store.get(&Path::from(path)).await.unwrap().bytes().await.unwrap()
    }

    pub async fn overwrite(&self, path: &str, bytes: impl Into<Bytes>) {
        self.store.put(&Path::from(path), bytes.into().into()).await.unwrap();
    }
}

#[test]
fn a_whole_snapshot_is_proved() {
    block_on(async {
        let world = World::make().await;
        for number in 0..3 {
            let report = world.check(number).await;
            assert_eq!(report.defects, []);
            assert_eq!((report.files, report.proved), (2 + 2 * number, 2 + 2 * number));
            assert_eq!((report.orphans.len(), report.foreign.len()), (0, 0), "{report:?}");
        }
        assert_eq!(world.objects.numbers().await.unwrap(), [0, 1, 2]);
        let missing = world.check(3).await;
        assert_eq!(missing.defects[0].what, "there is no such document");
        assert_eq!(
            world.check(u64::MAX).await.defects.len(),
            2,
            "the one after the last, and the last that is wanted"
        );
    });
}

#[test]
fn every_flipped_byte_is_found_where_it_is() {
    block_on(async {
        let world = World::make().await;
        let listed = world.objects.list().await.unwrap();
        assert_eq!(listed.len(), 9);
        for path in &listed {
            let bytes = world.get(path).await;
            for at in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << (at % 8);
                world.overwrite(path, damaged).await;
                let report = world.check(2).await;
                assert!(
                    report.defects.iter().any(|defect| defect.object == *path),
                    "{path} byte {at}: {report:?}"
                );
                let near = report.defects.iter().find_map(|defect| defect.offset_bytes);
                assert!(near.is_none_or(|found| found <= at as u64), "{path} byte {at}: {report:?}");
            }
            world.overwrite(path, bytes).await;
        }
        assert!(world.check(2).await.is_whole());
    });
}

#[test]
fn what_is_missing_short_or_swapped_is_found() {
    block_on(async {
        let world = World::make().await;
        let listed = world.objects.list().await.unwrap();
        for path in &listed {
            let bytes = world.get(path).await;
            world.overwrite(path, bytes.slice(..bytes.len() - 1)).await;
            assert!(!world.check(2).await.is_whole(), "{path} is shorter");
            world.store.delete(&Path::from(path.as_str())).await.unwrap();
            let report = world.check(2).await;
            assert!(
                report.defects.iter().any(|defect| defect.object == *path),
                "{path} is missing: {report:?}"
            );
            for other in listed.iter().filter(|other| *other != path) {
                world.overwrite(path, world.get(other).await).await;
                let report = world.check(2).await;
                // Both partitions of this snapshot hold the same, and so may stand for each other.
                let is_same = world.get(other).await == bytes;
                assert!(is_same || !report.is_whole(), "{other} in the place of {path}");
            }
            world.overwrite(path, bytes).await;
        }
    });
}

#[test]
fn orphans_and_foreign_objects_are_told_apart() {
    block_on(async {
        let world = World::make().await;
        let orphan = world.objects.layout().file(9, PARTITIONS[0], super::super::layout::Content::Rows, "ab");
        world.overwrite(&orphan, "dead").await;
        world.overwrite("snapshots/nightly/notes.txt", "mine").await;
        let report = world.check(1).await;
        assert!(report.is_whole());
        assert_eq!(
            (report.orphans, report.foreign),
            (vec![orphan], vec!["snapshots/nightly/notes.txt".into()])
        );
        assert_eq!(world.objects.sweep(8).await.unwrap(), 0, "it is of a later cut");
        world.overwrite(&world.objects.layout().document(2), "no document").await;
        let report = world.check(1).await;
        assert!(report.is_whole(), "a later increment is not asked for");
        assert_eq!(report.unreadable_later.len(), 1);
        assert_eq!(world.objects.sweep(10).await.unwrap(), 0, "it may be what the unreadable document names");
        assert_eq!(world.objects.sweep(9).await.unwrap(), 1);
        assert_eq!(world.check(1).await.orphans.len(), 2, "what the unreadable document names");
    });
}

#[test]
fn what_its_writer_did_wrong_is_found_by_the_sum() {
    block_on(async {
        let world = World::make().await;
        let Link { document, .. } = world.link(0).await;
        let part = &document.parts[0];
        // Another row, and a document that names it with the right checksums.
        let mut writer = PartWriter::<KeyedRow>::new(&world.blobs, world.objects.layout(), 1, part.partition);
        let row = Row { version: 1, value: Bytes::from_static(b"wrong") };
        writer.push(&KeyedRow { key: key(2), row }).await.unwrap();
        let files: Vec<FileRef> = writer.finish().await.unwrap();
        let mut forged = document.clone();
        forged.parts[0].files = files;
        world.overwrite(&world.objects.layout().document(0), forged.encode()).await;
        let report = world.check(0).await;
        assert_eq!(report.defects.len(), 1);
        assert!(report.defects[0].what.contains("partition 4-0 at cut 1: it comes to"), "{report:?}");
        // And the increments no longer go on from it.
        let report = world.check(2).await;
        assert!(report.defects[0].what.contains("goes on from cut 1"), "{report:?}");
    });
}
