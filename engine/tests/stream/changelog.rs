//! Keyed state whose changes are logged: base and log come back at any parallelism, with a log or without one, and nothing
//! damaged is replayed.
#![cfg(not(madsim))]

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cutwater_engine::checkpoint::barrier::{SavepointFormat, Target};
use cutwater_engine::checkpoint::changelog::LogSegment;
use cutwater_engine::checkpoint::metadata;
use cutwater_engine::checkpoint::snapshot::{
    CheckpointId, CheckpointMetadata, KeyedSnapshot, SubtaskState, VertexState,
};
use cutwater_engine::state::changelog::upload as log_upload;
use cutwater_engine::state::upload::{self, Names, Uploaded};
use cutwater_engine::state::{Error, KeyedState, blob, key_groups};
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;

use super::state::{MAX, Model, World, assert_equal, change, restore_into};

impl World {
    async fn upload_log(&self, state: &mut KeyedState) {
        state.seal_log(1);
        while let Some(pieces) = state.take_log_upload(1 << 20) {
            let id = pieces.id;
            let path = self.names.shared();
            let segments = log_upload::upload(&self.blobs, path, pieces, &Uploaded::default()).await.unwrap();
            state.log_uploaded(id, segments);
        }
    }

    async fn materialise(&self, state: &mut KeyedState) {
        let (id, linked) = state.materialise(false).await.unwrap();
        let uploaded = Uploaded::default();
        let snapshot =
            upload::upload(&self.blobs, &self.names, &linked, self.options(2), &uploaded).await.unwrap();
        state.materialised(id, snapshot, uploaded.paths());
    }

    /// A checkpoint by log, acknowledged and confirmed.
    async fn logged(&self, state: &mut KeyedState, id: u64) -> KeyedSnapshot {
        let id = CheckpointId(id);
        if state.basis().is_none() {
            self.materialise(state).await;
        }
        let base = state.basis().unwrap();
        state.begin_logged(id, base);
        self.upload_log(state).await;
        let (of, snapshot) = state.take_parts().remove(0);
        assert_eq!(of, id);
        state.uploaded(id, &snapshot);
        state.complete(id);
        snapshot
    }
}

fn log(snapshot: &KeyedSnapshot) -> &[LogSegment] {
    &snapshot.changelog.as_ref().unwrap().segments
}

#[tokio::test]
async fn logged_state_survives_any_change_of_parallelism_and_of_the_option() {
    let world = World::new();
    let mut model = Model::new();
    let mut snapshots: Vec<KeyedSnapshot> = Vec::new();
    // With a log, without, and with one again, at the same parallelism and at another.
    let rounds =
        [(2, true), (2, true), (3, true), (3, false), (3, true), (1, false), (4, true), (4, true), (2, true)];
    for (round, (parallelism, is_logged)) in (0u64..).zip(rounds) {
        let mut states = world.deploy(&format!("round-{round}"), parallelism, &snapshots).await;
        assert_equal(&mut states, &model).await;
        if is_logged {
            states.iter_mut().for_each(KeyedState::start_changelog);
        }
        let base = round * 1000;
        change(&mut states, &mut model, base, base + 300).await;
        for state in states.iter_mut().filter(|_| is_logged && round % 3 == 0) {
            world.materialise(state).await;
        }
        change(&mut states, &mut model, base + 300, base + 600).await;
        snapshots.clear();
        for state in &mut states {
            let snapshot = match is_logged {
                true => world.logged(state, round + 1).await,
                false => world.snapshot_to(state, round + 1, &Target::Increment).await,
            };
            assert_eq!(snapshot.changelog.is_some(), is_logged);
            assert_eq!(snapshot.check_segments(), Ok(()));
            snapshots.push(snapshot);
        }
        change(&mut states, &mut model.clone(), base + 600, base + 700).await;
        for state in states {
            state.close().await;
        }
    }
}

#[tokio::test]
async fn a_checkpoint_by_log_uploads_its_changes_and_no_more() {
    let world = World::new();
    let mut model = Model::new();
    let mut states = world.deploy("a", 1, &[]).await;
    states[0].start_changelog();
    change(&mut states, &mut model, 0, 500).await;
    let first = world.logged(&mut states[0], 1).await;
    assert!(first.shared.is_empty() && first.private.is_empty(), "there is no base yet");
    world.materialise(&mut states[0]).await;
    change(&mut states, &mut model, 500, 510).await;
    let second = world.logged(&mut states[0], 2).await;
    let log_bytes = second.changelog.as_ref().unwrap().len_bytes();
    assert!(log_bytes < 600, "{log_bytes} bytes of ten changes");
    let objects = world.count(None).await;
    change(&mut states, &mut model, 510, 520).await;
    let third = world.logged(&mut states[0], 3).await;
    assert_eq!(world.count(None).await, objects + 1, "one segment");
    assert_eq!(third.shared, second.shared, "the base is the same");
    assert_eq!(log(&third)[..log(&second).len()], *log(&second));
    world.materialise(&mut states[0]).await;
    let fourth = world.logged(&mut states[0], 4).await;
    assert_eq!(log(&fourth), [], "nothing was changed since");
    assert_eq!(states[0].log_garbage(), [""; 0], "all of it was named");
}

#[tokio::test]
async fn savepoints_need_no_log() {
    let world = World::new();
    let mut model = Model::new();
    let mut states = world.deploy("a", 1, &[]).await;
    states[0].start_changelog();
    change(&mut states, &mut model, 0, 500).await;
    world.logged(&mut states[0], 1).await;
    change(&mut states, &mut model, 500, 700).await;
    for (id, format) in [(2, SavepointFormat::Canonical), (3, SavepointFormat::Native)] {
        let target = Target::Savepoint { directory: format!("savepoints/s{id}"), format };
        let savepoint = world.snapshot_to(&mut states[0], id, &target).await;
        assert!(savepoint.changelog.is_none() && savepoint.shared.is_empty());
        for (label, parallelism) in [("same", 1), ("scaled", 3)] {
            let mut restored =
                world.deploy(&format!("{label}-{id}"), parallelism, std::slice::from_ref(&savepoint)).await;
            assert_equal(&mut restored, &model).await;
        }
    }
}

#[tokio::test]
async fn damage_is_named_by_object_and_place_and_never_replayed() {
    let world = World::new();
    let mut states = world.deploy("a", 1, &[]).await;
    states[0].start_changelog();
    let mut model = Model::new();
    change(&mut states, &mut model, 0, 50).await;
    world.upload_log(&mut states[0]).await;
    change(&mut states, &mut model, 50, 90).await;
    let snapshot = world.logged(&mut states[0], 1).await;
    let range = key_groups::range(0, 1, MAX);
    let restore = async |snapshot: &KeyedSnapshot| {
        let dir = world.dir.path().join(format!("damaged-{}", world.names.0.fetch_add(1, Ordering::Relaxed)));
        restore_into(&world.blobs, &dir, range, std::slice::from_ref(snapshot)).await.err().unwrap()
    };
    // A gap: the first segment is not named.
    let mut gap = snapshot.clone();
    gap.changelog.as_mut().unwrap().segments.remove(0);
    assert!(matches!(restore(&gap).await, Error::Format { .. }));
    // The wrong changes under the right checksum.
    let mut shifted = snapshot.clone();
    let changelog = shifted.changelog.as_mut().unwrap();
    changelog.base_seq += 1;
    changelog.segments[0].from += 1;
    let error = restore(&shifted).await;
    assert!(
        matches!(&error, Error::LogSegment { path, .. } if *path == log(&snapshot)[0].handle.path),
        "{error}"
    );
    // A flipped bit.
    let second = &log(&snapshot)[1];
    let path = ObjectPath::from(second.handle.path.as_str());
    let content = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
    let mut damaged = content.to_vec();
    damaged[30] ^= 4;
    world.objects.put(&path, Bytes::from(damaged).into()).await.unwrap();
    let error = restore(&snapshot).await;
    let named = matches!(&error, Error::Blob(blob::Error::ForeignSegment { path, .. }) if *path == second.handle.path);
    assert!(named, "{error}");
    // Cut short, and gone.
    world.objects.put(&path, content.slice(..content.len() - 1).into()).await.unwrap();
    let error = restore(&snapshot).await;
    assert!(matches!(error, Error::Blob(blob::Error::Foreign { .. })), "{error}");
    world.objects.delete(&path).await.unwrap();
    let error = restore(&snapshot).await;
    assert!(matches!(error, Error::Blob(blob::Error::Missing { .. })), "{error}");
}

fn metadata_of(snapshot: KeyedSnapshot) -> CheckpointMetadata {
    CheckpointMetadata {
        job: "job".into(),
        id: CheckpointId(1),
        description: String::new(),
        savepoint: None,
        max_parallelism: MAX,
        triggered_unix_ms: 1,
        completed_unix_ms: 2,
        vertices: vec![VertexState { uid: "count".into(), subtasks: vec![SubtaskState::Keyed(snapshot)] }],
    }
}

/// An older build reads what needs no log, and refuses the rest by its version.
#[tokio::test]
async fn metadata_says_by_its_version_whether_there_is_a_log() {
    let world = World::new();
    let mut states = world.deploy("a", 1, &[]).await;
    let plain = metadata_of(world.snapshot_to(&mut states[0], 1, &Target::Full).await);
    states[0].start_changelog();
    change(&mut states, &mut Model::new(), 0, 10).await;
    let logged = metadata_of(world.logged(&mut states[0], 2).await);
    for (metadata, version) in [(plain, 1), (logged, 2)] {
        let bytes = metadata::encode(&metadata);
        assert_eq!(bytes[4..6], [version, 0]);
        assert_eq!(metadata::decode(&bytes, "p").unwrap(), metadata);
    }
}
