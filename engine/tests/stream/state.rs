//! Keyed state: what a snapshot holds comes back, whole and in the right place, at any parallelism; nothing damaged is
//! taken for state.
#![cfg(not(madsim))]
#![expect(clippy::disallowed_methods, reason = "what is on the disk is damaged behind the engine's back")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cutwater_engine::checkpoint::barrier::{SavepointFormat, Target};
use cutwater_engine::checkpoint::snapshot::{
    CheckpointId, KeyGroupRange, KeyedSnapshot, Segment, StateFormat,
};
use cutwater_engine::state::blob::{self, Blobs, Retry};
use cutwater_engine::state::upload::{self, Names, UploadOptions, Uploaded};
use cutwater_engine::state::{Error, KeyedState, ValueState, key_groups, restore};
use cutwater_engine::store::{FamilyOptions, Options};
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

pub(crate) const MAX: u16 = 16;
const STATE: ValueState<u64> = ValueState::new("state");

pub(crate) type Model = BTreeMap<Vec<u8>, u64>;

#[derive(Default)]
pub(crate) struct Numbered(pub(crate) AtomicU64);

impl Names for Numbered {
    fn shared(&self) -> String {
        format!("shared/{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn private(&self, checkpoint: CheckpointId) -> String {
        format!("chk-{checkpoint}/{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn savepoint(&self, directory: &str) -> String {
        format!("{directory}/{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) objects: Arc<InMemory>,
    pub(crate) blobs: Blobs,
    pub(crate) names: Numbered,
    merge_files_below_bytes: u64,
}

impl World {
    pub(crate) fn new() -> World {
        let objects = Arc::new(InMemory::new());
        let blobs = Blobs::new(objects.clone(), Retry::default());
        World {
            dir: tempfile::tempdir().unwrap(),
            objects,
            blobs,
            names: Numbered::default(),
            merge_files_below_bytes: 0,
        }
    }

    /// The subtasks of a deployment, restored from the snapshots of the previous one.
    pub(crate) async fn deploy(
        &self,
        label: &str,
        parallelism: u16,
        from: &[KeyedSnapshot],
    ) -> Vec<KeyedState> {
        let mut states = Vec::new();
        for subtask in 0..parallelism {
            let range = key_groups::range(subtask, parallelism, MAX);
            let overlapping: Vec<_> =
                from.iter().filter(|s| key_groups::intersect(s.range, range).is_some()).cloned().collect();
            let dir = self.dir.path().join(format!("{label}-{subtask}"));
            states.push(restore_into(&self.blobs, &dir, range, &overlapping).await.unwrap());
        }
        states
    }

    async fn snapshot(&self, state: &mut KeyedState, id: u64) -> KeyedSnapshot {
        self.snapshot_to(state, id, &Target::Increment).await
    }

    pub(crate) async fn snapshot_to(
        &self,
        state: &mut KeyedState,
        id: u64,
        target: &Target,
    ) -> KeyedSnapshot {
        let id = CheckpointId(id);
        let linked = state.link(id, target).await.unwrap();
        let snapshot =
            upload::upload(&self.blobs, &self.names, &linked, self.options(2), &Uploaded::default())
                .await
                .unwrap();
        state.uploaded(id, &snapshot);
        snapshot
    }

    pub(crate) fn options(&self, parallel: usize) -> UploadOptions {
        UploadOptions { parallel, merge_files_below_bytes: self.merge_files_below_bytes }
    }

    pub(crate) async fn count(&self, prefix: Option<&str>) -> usize {
        self.objects.list(prefix.map(ObjectPath::from).as_ref()).count().await
    }
}

pub(crate) async fn restore_into(
    blobs: &Blobs,
    dir: &Path,
    range: KeyGroupRange,
    snapshots: &[KeyedSnapshot],
) -> Result<KeyedState, Error> {
    let options = Options {
        family: FamilyOptions {
            write_buffer_bytes: 4096,
            target_file_bytes: 4096,
            ..FamilyOptions::default()
        },
        ..Options::default()
    };
    restore::restore(blobs, dir, options, range, MAX, snapshots).await
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n}").into_bytes()
}

fn owner(states: &[KeyedState], key: &[u8]) -> usize {
    let parallelism = u16::try_from(states.len()).unwrap();
    usize::from(key_groups::owner(key_groups::key_group(key, MAX), parallelism, MAX))
}

pub(crate) async fn change(states: &mut [KeyedState], model: &mut Model, from: u64, to: u64) {
    for n in from..to {
        let key = key(n % 400);
        let i = owner(states, &key);
        if n % 7 == 3 {
            STATE.clear(at(&mut states[i], &key)).await.unwrap();
            model.remove(&key);
        } else {
            STATE.put(at(&mut states[i], &key), &n).await.unwrap();
            model.insert(key, n);
        }
    }
}

fn at<'a>(state: &'a mut KeyedState, key: &[u8]) -> &'a mut KeyedState {
    state.set_key(Bytes::copy_from_slice(key)).unwrap()
}

/// The states hold exactly the model, and each key is in its owner alone. They have just been restored.
pub(crate) async fn assert_equal(states: &mut [KeyedState], model: &Model) {
    let mut found = Model::new();
    for state in states.iter() {
        let mut entries = state.store().iter(.., None);
        while let Some((key, value)) = entries.next().await.unwrap() {
            let group = key_groups::group_of_store_key(&key).unwrap();
            assert!(
                (state.range().first..=state.range().last).contains(&group),
                "{group} in {:?}",
                state.range()
            );
            assert!(
                found
                    .insert(key[key_groups::PREFIX_BYTES..].to_vec(), postcard::from_bytes(&value).unwrap())
                    .is_none(),
                "in two subtasks"
            );
        }
    }
    assert_eq!(&found, model);
    for key in (0..400).map(key) {
        let i = owner(states, &key);
        assert_eq!(STATE.get(at(&mut states[i], &key)).await.unwrap().as_ref(), model.get(&key));
    }
}

#[tokio::test]
async fn state_survives_any_change_of_parallelism() {
    let world = World::new();
    let mut model = Model::new();
    let mut snapshots: Vec<KeyedSnapshot> = Vec::new();
    for (round, parallelism) in (0u64..).zip([1u16, 3, 3, 2, 16, 5, 1]) {
        let mut states = world.deploy(&format!("round-{round}"), parallelism, &snapshots).await;
        assert_equal(&mut states, &model).await;
        let base = round * 1000;
        change(&mut states, &mut model, base, base + 700).await;
        snapshots.clear();
        for state in &mut states {
            snapshots.push(world.snapshot(state, round + 1).await);
        }
        // What comes after the barrier is not in the snapshot.
        change(&mut states, &mut model.clone(), base + 700, base + 900).await;
        for state in states {
            state.close().await;
        }
    }
}

#[tokio::test]
async fn a_confirmed_file_is_uploaded_once() {
    let world = World::new();
    let mut model = Model::new();
    let mut states = world.deploy("a", 1, &[]).await;
    change(&mut states, &mut model, 0, 300).await;
    let first = world.snapshot(&mut states[0], 1).await;
    change(&mut states, &mut model, 300, 310).await;
    let second = world.snapshot(&mut states[0], 2).await;
    let handles = |s: &KeyedSnapshot| s.shared.iter().map(|f| f.handle.path.clone()).collect::<Vec<_>>();
    assert!(handles(&second).iter().all(|path| !handles(&first).contains(path)), "1 is not confirmed");
    states[0].complete(CheckpointId(2));
    let third = world.snapshot(&mut states[0], 3).await;
    assert!(handles(&third).iter().any(|path| handles(&second).contains(path)), "2 is confirmed");
    // Restored as it is: what the checkpoint holds is known to be there.
    let mut states = world.deploy("b", 1, std::slice::from_ref(&third)).await;
    let before = world.count(Some("shared")).await;
    let fourth = world.snapshot(&mut states[0], 4).await;
    assert_eq!(handles(&fourth), handles(&third));
    assert_eq!(world.count(Some("shared")).await, before);
    let mut states = world.deploy("c", 1, &[fourth]).await;
    assert_equal(&mut states, &model).await;
}

#[tokio::test]
async fn small_tables_share_an_object_and_are_read_out_of_it() {
    let world = World { merge_files_below_bytes: 1 << 20, ..World::new() };
    let mut model = Model::new();
    let mut states = world.deploy("a", 1, &[]).await;
    change(&mut states, &mut model, 0, 300).await;
    // Each snapshot makes a table; that of 1 is uploaded again with 2, as 1 is not confirmed.
    world.snapshot(&mut states[0], 1).await;
    change(&mut states, &mut model, 300, 310).await;
    let first = world.snapshot(&mut states[0], 2).await;
    states[0].complete(CheckpointId(2));
    change(&mut states, &mut model, 310, 320).await;
    let mut last = world.snapshot(&mut states[0], 3).await;
    let objects = |s: &KeyedSnapshot| s.shared.iter().map(|f| f.handle.path.clone()).collect::<BTreeSet<_>>();
    assert!(first.shared.len() > 1 && objects(&first).len() == 1, "{first:?}");
    assert_eq!(
        last.shared.iter().filter(|file| objects(&first).contains(&file.handle.path)).count(),
        first.shared.len()
    );
    // A native savepoint holds each file as it is.
    let target = Target::Savepoint { directory: "savepoint".into(), format: SavepointFormat::Native };
    let savepoint = world.snapshot_to(&mut states[0], 4, &target).await;
    assert!(savepoint.private.iter().all(|file| file.segment.is_none()));
    // As it is, and from there the segments are known; then copied into two.
    let mut states = world.deploy("b", 1, std::slice::from_ref(&last)).await;
    assert_equal(&mut states, &model).await;
    let mut again = world.snapshot(&mut states[0], 5).await.shared;
    again.sort_by(|a, b| a.name.cmp(&b.name));
    last.shared.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(again, last.shared);
    let mut states = world.deploy("c", 2, std::slice::from_ref(&last)).await;
    assert_equal(&mut states, &model).await;

    let range = last.range;
    let right = last.shared[0].segment.unwrap();
    last.shared[0].segment = Some(Segment { crc32c: !right.crc32c, ..right });
    let error =
        restore_into(&world.blobs, &world.dir.path().join("d"), range, &[last.clone()]).await.err().unwrap();
    assert!(matches!(error, Error::Blob(blob::Error::ForeignSegment { .. })), "{error}");
    last.shared[0].segment = Some(Segment { offset_bytes: u64::MAX, ..right });
    let error = restore_into(&world.blobs, &world.dir.path().join("d"), range, &[last]).await.err().unwrap();
    assert!(matches!(error, Error::Format { .. }), "{error}");
}

#[tokio::test]
async fn a_savepoint_stands_alone_and_restores_at_any_parallelism() {
    for format in [SavepointFormat::Canonical, SavepointFormat::Native] {
        let world = World::new();
        let mut model = Model::new();
        let mut states = world.deploy("a", 3, &[]).await;
        change(&mut states, &mut model, 0, 700).await;
        // A checkpoint that it must not lean on.
        for state in &mut states {
            world.snapshot(state, 1).await;
            state.complete(CheckpointId(1));
        }
        let target = Target::Savepoint { directory: "saved".into(), format };
        let mut snapshots = Vec::new();
        for state in &mut states {
            snapshots.push(world.snapshot_to(state, 2, &target).await);
        }
        assert!(snapshots.iter().all(|s| s.shared.is_empty() && !s.private.is_empty()));
        assert!(snapshots.iter().flat_map(|s| &s.private).all(|file| target.holds(&file.handle.path)));
        // What comes after the barrier is not in it, and it is there when everything else is gone.
        change(&mut states, &mut model.clone(), 700, 900).await;
        for state in states {
            state.close().await;
        }
        for prefix in ["shared", "chk-1"] {
            let objects = world.objects.list(Some(&ObjectPath::from(prefix))).collect::<Vec<_>>().await;
            for object in objects {
                world.objects.delete(&object.unwrap().location).await.unwrap();
            }
        }
        for parallelism in 1..=4 {
            let mut states = world.deploy(&format!("b-{parallelism}"), parallelism, &snapshots).await;
            assert_equal(&mut states, &model).await;
        }
    }
}

#[tokio::test]
async fn a_savepoint_changes_nothing_for_increments_and_a_full_checkpoint_is_a_base() {
    let world = World::new();
    let mut model = Model::new();
    let mut states = world.deploy("a", 1, &[]).await;
    let handles = |s: &KeyedSnapshot| s.shared.iter().map(|f| f.handle.path.clone()).collect::<Vec<_>>();
    change(&mut states, &mut model, 0, 300).await;
    let first = world.snapshot(&mut states[0], 1).await;
    states[0].complete(CheckpointId(1));
    let target = Target::Savepoint { directory: "saved".into(), format: SavepointFormat::Native };
    world.snapshot_to(&mut states[0], 2, &target).await;
    states[0].complete(CheckpointId(2));
    let third = world.snapshot(&mut states[0], 3).await;
    assert_eq!(handles(&third), handles(&first), "FLINK-23949: the confirmed base is still 1");
    states[0].complete(CheckpointId(3));
    let full = world.snapshot_to(&mut states[0], 4, &Target::Full).await;
    assert!(handles(&full).iter().all(|path| !handles(&third).contains(path)), "it references nothing");
    states[0].complete(CheckpointId(4));
    let fifth = world.snapshot(&mut states[0], 5).await;
    assert_eq!(handles(&fifth), handles(&full), "it is a base");
}

#[tokio::test]
async fn a_canonical_file_is_checked_and_a_foreign_format_is_named() {
    let world = World::new();
    let mut states = world.deploy("a", 1, &[]).await;
    change(&mut states, &mut Model::new(), 0, 50).await;
    let target = Target::Savepoint { directory: "saved".into(), format: SavepointFormat::Canonical };
    let snapshot = world.snapshot_to(&mut states[0], 1, &target).await;
    let (range, dir) = (snapshot.range, world.dir.path().join("b"));
    let path = ObjectPath::from(snapshot.private[0].handle.path.as_str());
    let whole = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
    // The magic at the front is not read by who knows from the snapshot what the file is.
    for at in [6, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1;
        world.objects.put(&path, flipped.into()).await.unwrap();
        let refused = restore_into(&world.blobs, &dir, range, std::slice::from_ref(&snapshot)).await;
        assert!(matches!(refused, Err(Error::Canonical { .. })), "byte {at}");
    }
    world.objects.put(&path, whole.slice(..whole.len() - 1).into()).await.unwrap();
    let refused = restore_into(&world.blobs, &dir, range, std::slice::from_ref(&snapshot)).await;
    assert!(matches!(refused, Err(Error::Blob(_))));

    let foreign = KeyedSnapshot { format: StateFormat("heap/3".into()), ..snapshot };
    let refused = restore_into(&world.blobs, &dir, range, &[foreign]).await.err().unwrap();
    assert!(refused.to_string().contains("\"heap/3\", this backend reads store/1"), "{refused}");
}

#[tokio::test]
async fn damage_is_refused() {
    let world = World::new();
    let mut states = world.deploy("a", 1, &[]).await;
    change(&mut states, &mut Model::new(), 0, 50).await;
    let snapshot = world.snapshot(&mut states[0], 1).await;
    let range = snapshot.range;
    let dir = world.dir.path().join("b");
    let refusal = |snapshot: KeyedSnapshot| {
        let (blobs, dir) = (world.blobs.clone(), dir.clone());
        async move { restore_into(&blobs, &dir, range, &[snapshot]).await.err().expect("a refusal") }
    };

    let path = ObjectPath::from(snapshot.shared[0].handle.path.as_str());
    let whole = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
    let mut flipped = whole.to_vec();
    flipped[10] ^= 1;
    for damaged in [Bytes::from(flipped), whole.slice(..whole.len() - 1)] {
        world.objects.put(&path, damaged.into()).await.unwrap();
        assert!(matches!(refusal(snapshot.clone()).await, Error::Blob(blob::Error::Foreign { .. })));
    }
    world.objects.delete(&path).await.unwrap();
    assert!(matches!(refusal(snapshot.clone()).await, Error::Blob(blob::Error::Missing { .. })));
    world.objects.put(&path, whole.into()).await.unwrap();

    let mut escaping = snapshot.clone();
    escaping.private[0].name = "../escaped".into();
    assert!(matches!(refusal(escaping).await, Error::FileName { .. }));
    assert!(!world.dir.path().join("escaped").exists());

    let mut short = snapshot.clone();
    short.range.last -= 1;
    assert!(matches!(refusal(short).await, Error::Uncovered { key_group: 15, .. }));
    // An attempt that failed leaves nothing that disturbs the next.
    restore_into(&world.blobs, &dir, range, &[snapshot]).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_not_uploaded() {
    let world = World::new();
    let mut states = world.deploy("a", 1, &[]).await;
    change(&mut states, &mut Model::new(), 0, 50).await;
    let linked = states[0].link(CheckpointId(1), &Target::Increment).await.unwrap();
    for file in &linked.files.files {
        let path = linked.dir.join(&file.name);
        let whole = std::fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            let uploaded =
                upload::upload(&world.blobs, &world.names, &linked, world.options(4), &Uploaded::default())
                    .await;
            assert!(matches!(uploaded, Err(Error::Damaged { .. })), "byte {at} of {}", file.name);
        }
        std::fs::write(&path, whole).unwrap();
    }
    upload::upload(&world.blobs, &world.names, &linked, world.options(4), &Uploaded::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_key_of_another_subtask_is_refused() {
    let world = World::new();
    let mut states = world.deploy("a", 2, &[]).await;
    let foreign = (0..).map(key).find(|key| owner(&states, key) == 1).unwrap();
    assert!(matches!(states[0].set_key(foreign.into()), Err(Error::ForeignKey { .. })));
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    for merge_files_below_bytes in [0, 1 << 20] {
        aborted_upload(World { merge_files_below_bytes, ..World::new() }).await;
    }
}

async fn aborted_upload(world: World) {
    let mut states = world.deploy("a", 1, &[]).await;
    change(&mut states, &mut Model::new(), 0, 300).await;
    states[0].link(CheckpointId(1), &Target::Increment).await.unwrap();
    change(&mut states, &mut Model::new(), 300, 310).await;
    let linked = states[0].link(CheckpointId(2), &Target::Increment).await.unwrap();
    let uploaded = Uploaded::default();
    upload::upload(&world.blobs, &world.names, &linked, world.options(2), &uploaded).await.unwrap();
    assert!(world.count(None).await > 0);
    uploaded.discard(&world.blobs).await;
    assert_eq!(world.count(None).await, 0);
}
