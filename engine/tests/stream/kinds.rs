//! Every kind of keyed state against a model, with snapshots and restores at other parallelisms in between, whatever the size
//! of the cache before the store.
#![cfg(not(madsim))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cutwater_engine::checkpoint::barrier::{SavepointFormat, Target};
use cutwater_engine::checkpoint::snapshot::{CheckpointId, KeyedSnapshot};
use cutwater_engine::state::blob::{Blobs, Retry};
use cutwater_engine::state::upload::{self, Names, UploadOptions, Uploaded};
use cutwater_engine::state::{
    Error, KeyedState, ListState, MapState, ReducingState, ValueState, key_groups, restore,
};
use cutwater_engine::store::{FamilyOptions, Options};
use object_store::memory::InMemory;
use proptest::prelude::*;

const MAX: u16 = 8;

const VALUE: ValueState<String> = ValueState::new("value");
const LIST: ListState<u32> = ListState::new("list");
const MAP: MapState<String, u32> = MapState::new("map");
const SUM: ReducingState<u64> = ReducingState::new("sum", |a, b| a + b);

#[derive(Clone, Debug)]
enum Op {
    PutValue(u8, String),
    ClearValue(u8),
    AddToList(u8, u32),
    ClearList(u8),
    PutInMap(u8, String, u32),
    RemoveFromMap(u8, String),
    ClearMap(u8),
    Add(u8, u64),
    ClearSum(u8),
    SetTimer(u8, i64, u8),
    DeleteTimer(u8, i64, u8),
    Advance(i64),
    Look(u8),
    /// A snapshot, and a restore of it at this parallelism.
    Redeploy(u16),
}

fn ops() -> impl Strategy<Value = Op> {
    let key = || 0u8..6;
    let name = || "[a-c]{0,2}";
    let time = || -20i64..20;
    prop_oneof![
        3 => (key(), "[a-z]{0,30}").prop_map(|(k, v)| Op::PutValue(k, v)),
        1 => key().prop_map(Op::ClearValue),
        4 => (key(), any::<u32>()).prop_map(|(k, v)| Op::AddToList(k, v)),
        1 => key().prop_map(Op::ClearList),
        4 => (key(), name(), any::<u32>()).prop_map(|(k, n, v)| Op::PutInMap(k, n, v)),
        2 => (key(), name()).prop_map(|(k, n)| Op::RemoveFromMap(k, n)),
        1 => key().prop_map(Op::ClearMap),
        2 => (key(), 0u64..100).prop_map(|(k, v)| Op::Add(k, v)),
        1 => key().prop_map(Op::ClearSum),
        4 => (key(), time(), 0u8..2).prop_map(|(k, t, n)| Op::SetTimer(k, t, n)),
        1 => (key(), time(), 0u8..2).prop_map(|(k, t, n)| Op::DeleteTimer(k, t, n)),
        1 => time().prop_map(Op::Advance),
        4 => key().prop_map(Op::Look),
        1 => (1u16..=4).prop_map(Op::Redeploy),
    ]
}

#[derive(Default)]
struct Model {
    values: BTreeMap<u8, String>,
    lists: BTreeMap<u8, Vec<u32>>,
    maps: BTreeMap<u8, BTreeMap<String, u32>>,
    sums: BTreeMap<u8, u64>,
    timers: BTreeSet<(i64, u8, u8)>,
}

#[derive(Default)]
struct Numbered(AtomicU64);

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

struct World {
    dir: tempfile::TempDir,
    blobs: Blobs,
    names: Numbered,
    cache_bytes: usize,
    deployments: u64,
    states: Vec<KeyedState>,
    model: Model,
}

impl World {
    async fn new(cache_bytes: usize) -> World {
        let blobs = Blobs::new(Arc::new(InMemory::new()), Retry::default());
        let mut world = World {
            dir: tempfile::tempdir().unwrap(),
            blobs,
            names: Numbered::default(),
            cache_bytes,
            deployments: 0,
            states: Vec::new(),
            model: Model::default(),
        };
        world.deploy(2, &[]).await;
        world
    }

    async fn deploy(&mut self, parallelism: u16, from: &[KeyedSnapshot]) {
        self.deployments += 1;
        for subtask in 0..parallelism {
            let range = key_groups::range(subtask, parallelism, MAX);
            let overlapping: Vec<_> =
                from.iter().filter(|s| key_groups::intersect(s.range, range).is_some()).cloned().collect();
            let dir = self.dir.path().join(format!("{}-{subtask}", self.deployments));
            let family = FamilyOptions { write_buffer_bytes: 1 << 10, ..FamilyOptions::default() };
            let options = Options { family, ..Options::default() };
            let mut state =
                restore::restore(&self.blobs, &dir, options, range, MAX, &overlapping).await.unwrap();
            state.configure("model", self.cache_bytes);
            self.states.push(state);
        }
    }

    fn at(&mut self, key: u8) -> &mut KeyedState {
        let parallelism = u16::try_from(self.states.len()).unwrap();
        let owner = key_groups::owner(key_groups::key_group(&[key], MAX), parallelism, MAX);
        self.states[usize::from(owner)].set_key(Bytes::copy_from_slice(&[key])).unwrap()
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::PutValue(key, value) => {
                VALUE.put(self.at(key), &value).await.unwrap();
                self.model.values.insert(key, value);
            }
            Op::ClearValue(key) => {
                VALUE.clear(self.at(key)).await.unwrap();
                self.model.values.remove(&key);
            }
            Op::AddToList(key, element) => {
                LIST.add(self.at(key), &element).await.unwrap();
                self.model.lists.entry(key).or_default().push(element);
            }
            Op::ClearList(key) => {
                LIST.clear(self.at(key)).await.unwrap();
                self.model.lists.remove(&key);
            }
            Op::PutInMap(key, name, value) => {
                MAP.put(self.at(key), &name, &value).await.unwrap();
                self.model.maps.entry(key).or_default().insert(name, value);
            }
            Op::RemoveFromMap(key, name) => {
                MAP.remove(self.at(key), &name).await.unwrap();
                self.model.maps.entry(key).or_default().remove(&name);
            }
            Op::ClearMap(key) => {
                MAP.clear(self.at(key)).await.unwrap();
                self.model.maps.remove(&key);
            }
            Op::Add(key, n) => {
                SUM.add(self.at(key), n).await.unwrap();
                *self.model.sums.entry(key).or_default() += n;
            }
            Op::ClearSum(key) => {
                SUM.clear(self.at(key)).await.unwrap();
                self.model.sums.remove(&key);
            }
            Op::SetTimer(key, time_ms, namespace) => {
                self.at(key).set_timer(time_ms, &[namespace]).await.unwrap();
                self.model.timers.insert((time_ms, key, namespace));
            }
            Op::DeleteTimer(key, time_ms, namespace) => {
                self.at(key).delete_timer(time_ms, &[namespace]).await.unwrap();
                self.model.timers.remove(&(time_ms, key, namespace));
            }
            Op::Advance(watermark_ms) => self.advance(watermark_ms).await,
            Op::Look(key) => self.look(key).await,
            Op::Redeploy(parallelism) => self.redeploy(parallelism).await,
        }
    }

    async fn advance(&mut self, watermark_ms: i64) {
        let mut fired = BTreeSet::new();
        for state in &mut self.states {
            let mut last = i64::MIN;
            while let Some(timer) = state.pop_timer(watermark_ms).await.unwrap() {
                assert!(timer.time_ms >= last && timer.time_ms <= watermark_ms);
                assert_eq!(state.key(), &timer.key);
                last = timer.time_ms;
                assert!(fired.insert((timer.time_ms, timer.key[0], timer.namespace[0])), "once");
            }
        }
        let later = self.model.timers.split_off(&(watermark_ms + 1, 0, 0));
        assert_eq!(fired, std::mem::replace(&mut self.model.timers, later));
    }

    async fn look(&mut self, key: u8) {
        assert_eq!(VALUE.get(self.at(key)).await.unwrap().as_ref(), self.model.values.get(&key));
        let list = LIST.get(self.at(key)).await.unwrap();
        assert_eq!(LIST.len(self.at(key)).await.unwrap(), list.len() as u64);
        assert_eq!(list, self.model.lists.get(&key).cloned().unwrap_or_default());
        let map: BTreeMap<String, u32> = MAP.entries(self.at(key)).await.unwrap().into_iter().collect();
        assert_eq!(map, self.model.maps.get(&key).cloned().unwrap_or_default());
        for name in ["", "a", "bc"] {
            let found = MAP.get(self.at(key), &name.to_string()).await.unwrap();
            assert_eq!(found.as_ref(), map.get(name));
        }
        assert_eq!(SUM.get(self.at(key)).await.unwrap().as_ref(), self.model.sums.get(&key));
    }

    /// Checkpoints, and savepoints of either format.
    fn target(&self, parallelism: u16) -> Target {
        let directory = format!("saved-{}", self.deployments);
        match parallelism {
            1 => Target::Savepoint { directory, format: SavepointFormat::Canonical },
            2 => Target::Savepoint { directory, format: SavepointFormat::Native },
            _ => Target::Increment,
        }
    }

    async fn redeploy(&mut self, parallelism: u16) {
        let checkpoint = CheckpointId(self.deployments);
        let mut snapshots = Vec::new();
        for mut state in std::mem::take(&mut self.states) {
            let linked = state.link(checkpoint, &self.target(parallelism)).await.unwrap();
            let uploaded = Uploaded::default();
            snapshots.push(
                upload::upload(&self.blobs, &self.names, &linked, UploadOptions::default(), &uploaded)
                    .await
                    .unwrap(),
            );
            state.close().await;
        }
        self.deploy(parallelism, &snapshots).await;
        let timers: usize = self.states.iter().map(KeyedState::timers).sum();
        assert_eq!(timers, self.model.timers.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn state_is_what_was_put_into_it(
        cache_bytes in prop_oneof![Just(0usize), 300..2000usize, Just(1 << 20)],
        ops in proptest::collection::vec(ops(), 0..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut world = World::new(cache_bytes).await;
            for op in ops {
                world.apply(op).await;
            }
            for key in 0..6 {
                world.look(key).await;
            }
            world.redeploy(3).await;
            for key in 0..6 {
                world.look(key).await;
            }
            world.advance(100).await;
        });
    }
}

#[tokio::test]
async fn a_name_stands_for_one_kind_of_state_over_restores() {
    let mut world = World::new(1 << 20).await;
    VALUE.put(world.at(1), &"x".into()).await.unwrap();
    world.redeploy(1).await;
    let other: ListState<String> = ListState::new("value");
    let error = other.add(world.at(1), &"y".into()).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert!(error.to_string().starts_with("operator model: state \"value\" (List, "), "{error}");
}

#[tokio::test]
async fn bytes_of_another_type_are_an_error_that_names_the_state() {
    let mut world = World::new(1 << 20).await;
    VALUE.put(world.at(1), &"text".into()).await.unwrap();
    world.redeploy(2).await;
    let other: ValueState<u64> = ValueState::new("value");
    let error = other.get(world.at(1)).await.unwrap_err().to_string();
    assert!(error.starts_with("operator model, state value: "), "{error}");
}
