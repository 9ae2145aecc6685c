//! Scenario `store`: one machine, one store, up to three writers.
//!
//! The machine `n1` opens a store in `/db` and runs the plan's operations on it: writes (some of them synced), deletes,
//! batches, reads, scans, snapshots held for a while, flushes, compactions, checkpoints, clean reopens. It is killed, loses
//! power, meets disk errors, failed syncs, full and slow disks, at points inside flush, compaction, recovery and
//! checkpoint. Each time it comes up again it first judges what it finds.
//!
//! What must hold:
//! - **durability**: what was acknowledged as synced is there; what is there was written; what is there of each writer is a
//!   prefix of its writes, and over all writers a prefix of the order of sequence numbers. After a mere kill nothing
//!   acknowledged is missing, synced or not.
//! - **model**: reads, scans and snapshots of the running store equal a map.
//! - **checkpoint**: a checkpoint that was reported done opens, now and after every later crash, with the content it was
//!   taken of.
//! - **structure**: levels are disjoint, every table exists with its length and checksums, and a quiet store has no file
//!   that its version does not name.
//! - **honesty**: nothing injected here damages what a sync made durable, so the store never reports corruption.
//! - **liveness**: once nothing breaks any more, the store opens, compacts and closes within a minute of virtual time.
//!
//! A writer that meets an error does what an application would: it takes the store down and opens it again. Sizes are tiny
//! (memtables of some KiB, tables of a few blocks), so that a run of a few hundred operations flushes, compacts and rolls
//! its MANIFEST over many times.
//!
//! *Not in it*: damage of durable data, column families, blobs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutwater_engine::store::{Error, Options, Store, WriteBatch, WriteOptions};
use cutwater_io::{fs, time};
use cutwater_sim::faults::{Devices, FaultClass};
use cutwater_sim::plan::{Op, Plan};
use cutwater_sim::scenario::{Demands, OracleInfo, Scenario, Violation};
use cutwater_sim::shrink::Personalities;
use cutwater_sim::vocabulary::{Knob, Role, Verb, Vocabulary};
use cutwater_sim::world::{Ops, Start, World};
use futures::future::LocalBoxFuture;

use crate::oracle::batches::{Batch, Batches, Content};

/// See the module.
pub struct StoreScenario;

const DB: &str = "/db";
/// A checkpoint is looked at again after each crash; more than a few would only cost time.
const CHECKPOINTS_KEPT: usize = 2;
const LIVENESS_LIMIT: Duration = Duration::from_secs(60);

impl Scenario for StoreScenario {
    fn name(&self) -> &'static str {
        "store"
    }

    fn about(&self) -> &'static str {
        "one store: writes, flush, compaction, checkpoint, reopen, under crashes and disk faults"
    }

    fn vocabulary(&self) -> Vocabulary {
        use FaultClass as F;
        Vocabulary {
            roles: vec![Role::new("store", "holds the store", 1..=1)],
            actors: 1..=3,
            ops: 20..=400,
            verbs: vec![
                Verb::new("put", "write one key")
                    .arg("key", 0..=23)
                    .log_arg("len", 0..=3000)
                    .arg("sync_if_3", 0..=3)
                    .always(),
                Verb::new("delete", "delete one key").arg("key", 0..=23).arg("sync_if_3", 0..=3),
                Verb::new("batch", "write and delete several keys atomically")
                    .arg("key", 0..=23)
                    .arg("count", 1..=8)
                    .log_arg("len", 0..=800)
                    .arg("sync_if_3", 0..=3),
                Verb::new("get", "read one key").arg("key", 0..=23),
                Verb::new("scan", "read a range").arg("key", 0..=23).arg("count", 1..=24),
                Verb::new("snapshot", "hold a snapshot for a while, then scan it")
                    .arg("hold_us", 0..=400_000),
                Verb::new("flush", "flush the memtable"),
                Verb::new("compact", "compact everything"),
                Verb::new("sync_wal", "make all writes so far durable"),
                Verb::new("checkpoint", "take a checkpoint, and open it"),
                Verb::new("reopen", "close the store and open it again"),
            ],
            knobs: vec![
                crate::personality_knob(),
                Knob::new("small_sectors", "1: the disk writes 512 bytes atomically, 0: 4096", 0, 0..=1),
                Knob::new(
                    "sync_us",
                    "median time of a sync, in microseconds; flushes lag behind writes if it is long",
                    1200,
                    100..=60_000,
                ),
                Knob::new("stale_tail", "1: unwritten sectors of a tail read as garbage", 0, 0..=1),
                Knob::new("write_buffer_bytes", "size of a memtable, in bytes", 8 << 10, 512..=256 << 10),
                Knob::new("max_immutable_memtables", "closed memtables before writes stall", 2, 1..=4),
                Knob::new("block_bytes", "size of a data block, in bytes", 512, 64..=8192),
                Knob::new(
                    "target_file_bytes",
                    "size of a compacted table, in bytes",
                    8 << 10,
                    1024..=256 << 10,
                ),
                Knob::new("level_base_bytes", "size of level 1, in bytes", 16 << 10, 2048..=1 << 20),
                Knob::new("level_multiplier", "growth per level", 4, 2..=10),
                Knob::new("level0_trigger", "tables in level 0 that start a compaction", 3, 1..=8),
                Knob::new(
                    "max_manifest_bytes",
                    "size at which the MANIFEST rolls over, in bytes",
                    4096,
                    256..=1 << 20,
                ),
                Knob::new("bloom_bits", "bits of the filter per key", 10, 0..=20),
            ],
            points: cutwater_engine::store::points::ALL.to_vec(),
            classes: vec!["wal", "table", "manifest", "current", "other"],
            faults: vec![
                F::ProcessKill,
                F::PowerFail,
                F::DiskError,
                F::DiskFull,
                F::FsyncFailure,
                F::DiskSlow,
                F::Pause,
            ],
            horizon_us: 500_000..=8_000_000,
        }
    }

    fn oracles(&self) -> &'static [OracleInfo] {
        &[
            OracleInfo {
                name: "durability",
                about: "what was synced is recovered; what is recovered is a prefix of what was written",
            },
            OracleInfo { name: "model", about: "reads, scans and snapshots equal a map" },
            OracleInfo {
                name: "checkpoint",
                about: "a finished checkpoint opens with its content, after every later crash too",
            },
            OracleInfo {
                name: "structure",
                about: "levels disjoint, tables whole, no file that nothing names",
            },
            OracleInfo {
                name: "honesty",
                about: "no corruption is reported where no durable byte was damaged",
            },
            OracleInfo {
                name: "liveness",
                about: "once nothing breaks, the store opens, compacts and closes within 60 s",
            },
        ]
    }

    fn demands(&self) -> Demands {
        let points = cutwater_engine::store::points::ALL;
        use cutwater_io::points::Kind;
        Demands {
            after_plans: 1000,
            delivered: self.vocabulary().faults,
            points: points.iter().filter(|p| p.kind == Kind::Point).map(|p| p.name).collect(),
            // Two plans in a thousand see a hole between logs: a campaign of a thousand cannot be asked for one.
            sometimes: points
                .iter()
                .filter(|p| p.kind == Kind::Sometimes && p.name != "store.recovery.wal_hole")
                .map(|p| p.name)
                .collect(),
            ..Demands::default()
        }
    }

    fn personalities(&self) -> Option<Personalities> {
        Some(crate::PERSONALITIES)
    }

    fn classify(&self) -> fn(&Path) -> &'static str {
        crate::classify
    }

    fn devices(&self, plan: &Plan) -> Devices {
        crate::devices(plan)
    }

    fn run<'a>(&'a self, world: &'a World) -> LocalBoxFuture<'a, Result<(), Violation>> {
        Box::pin(run(world))
    }
}

async fn run(world: &World) -> Result<(), Violation> {
    let shared = Arc::new(Shared::new(world));
    let on_start = shared.clone();
    world.node("store", 0, move |start| {
        let shared = on_start.clone();
        async move { shared.process(start).await }
    });
    world.until_horizon().await;
    world.heal().await;
    shared.set_stage(Stage::Last);
    world.within(LIVENESS_LIMIT, "a healed store finishes its work", shared.wait_for(Stage::Done)).await
}

/// What the run is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Operations run.
    Work,
    /// Nothing breaks any more: the next process to come up makes the last checks.
    Last,
    /// They are made.
    Done,
}

/// What outlives the process: the operations to come, and what the oracles know.
struct Shared {
    world: World,
    stage: tokio::sync::watch::Sender<Stage>,
    actors: Vec<tokio::sync::Mutex<Ops>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    batches: Batches,
    checkpoints: Vec<Taken>,
    /// When recovery was judged the last time, in microseconds of virtual time.
    judged_us: u64,
    /// How many lossy faults had struck then.
    lossy_faults: u64,
}

/// A checkpoint that was reported done.
#[derive(Clone)]
struct Taken {
    dir: PathBuf,
    content: Content,
}

/// Why a process ends.
enum Exit {
    /// The store failed: come again.
    Failed,
    /// Something did not hold.
    Violated(Violation),
}

impl From<Violation> for Exit {
    fn from(violation: Violation) -> Exit {
        Exit::Violated(violation)
    }
}

impl Shared {
    fn new(world: &World) -> Shared {
        let actors = world.actors();
        Shared {
            world: world.clone(),
            stage: tokio::sync::watch::Sender::new(Stage::Work),
            actors: actors.iter().map(|&actor| tokio::sync::Mutex::new(world.ops(actor))).collect(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_stage(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    async fn wait_for(&self, stage: Stage) {
        // The sender lives in `self`.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// One life of the process.
    async fn process(&self, start: Start) {
        if *self.stage.borrow() == Stage::Done {
            return std::future::pending().await;
        }
        match self.live(start).await {
            Ok(()) | Err(Exit::Failed) => {}
            Err(Exit::Violated(violation)) => {
                self.world.object(violation);
                self.set_stage(Stage::Done);
            }
        }
    }

    async fn live(&self, start: Start) -> Result<(), Exit> {
        let store = self.tolerate("open", Store::open(DB, self.options()).await)?;
        self.judge_recovery(&store, start).await?;
        self.judge_checkpoints().await?;
        let last = *self.stage.borrow() == Stage::Last;
        if last {
            return self.last_checks(store).await;
        }
        let writers = self.actors.iter().enumerate().map(|(actor, _)| Box::pin(self.work(&store, actor)));
        let outcome = {
            let work = futures::future::try_join_all(writers);
            let stop = self.wait_for(Stage::Last);
            futures::pin_mut!(stop);
            // Whichever comes first; a writer that fails ends them all.
            match futures::future::select(work, stop).await {
                futures::future::Either::Left((done, _)) => done.map(drop),
                futures::future::Either::Right(_) => Ok(()),
            }
        };
        outcome?;
        self.tolerate("close", store.close().await)?;
        if *self.stage.borrow() == Stage::Work {
            self.wait_for(Stage::Last).await;
        }
        Ok(())
    }

    /// An error of the store ends the process, unless it may not occur at all.
    fn tolerate<T>(&self, during: &str, result: Result<T, Error>) -> Result<T, Exit> {
        result.map_err(|error| {
            self.world.note("store.error", &format!("{during}: {error}"));
            match honest(during, &error) {
                Some(violation) => Exit::Violated(violation),
                None => Exit::Failed,
            }
        })
    }

    fn options(&self) -> Options {
        let knob = |name| self.world.knob(name);
        Options {
            write_buffer_bytes: knob("write_buffer_bytes"),
            max_immutable_memtables: knob("max_immutable_memtables") as usize,
            block_bytes: knob("block_bytes") as usize,
            target_file_bytes: knob("target_file_bytes"),
            max_bytes_for_level_base: knob("level_base_bytes"),
            level_multiplier: knob("level_multiplier"),
            level0_compaction_trigger: knob("level0_trigger") as usize,
            level0_stop_writes_trigger: knob("level0_trigger") as usize + 8,
            max_manifest_bytes: knob("max_manifest_bytes"),
            bloom_bits_per_key: knob("bloom_bits") as u32,
            ..Options::default()
        }
    }

    /// Compares what recovery found with what was written, and goes on from there.
    async fn judge_recovery(&self, store: &Store, start: Start) -> Result<(), Exit> {
        let content = self.tolerate("scan after open", scan(store, .., None).await)?;
        let power_failed = self
            .world
            .env()
            .disks()
            .last_crash(start.node)
            .is_some_and(|crash| crash.at_us >= self.state().judged_us);
        let lossy = self.lossy_faults();
        let keeps_all = !power_failed && lossy == self.state().lossy_faults;
        let mut state = self.state();
        state.lossy_faults = lossy;
        state.judged_us = self.world.now_us();
        let summary = state.batches.recover(&content, keeps_all).map_err(Exit::Violated)?;
        drop(state);
        self.world.note("recovered", &summary);
        Ok(())
    }

    /// How many faults have struck so far that lose what was written and not synced, without a power failure.
    fn lossy_faults(&self) -> u64 {
        let lossy = [FaultClass::FsyncFailure, FaultClass::DiskError, FaultClass::DiskFull];
        lossy.into_iter().map(|class| self.world.delivered(class)).sum()
    }

    /// Every checkpoint that was reported done still opens, with the content it was taken of.
    async fn judge_checkpoints(&self) -> Result<(), Exit> {
        let taken = self.state().checkpoints.clone();
        for checkpoint in taken {
            self.open_checkpoint(&checkpoint).await?;
        }
        Ok(())
    }

    async fn open_checkpoint(&self, taken: &Taken) -> Result<(), Exit> {
        let options = Options { create_if_missing: false, ..self.options() };
        let dir = &taken.dir;
        let store = match Store::open(dir, options).await {
            Err(Error::NotFound { .. }) => {
                let violation = Violation::new("checkpoint", "a finished checkpoint is durable");
                return Err(violation
                    .of("checkpoint")
                    .expected(format!("a store in {}", dir.display()))
                    .found("none")
                    .into());
            }
            other => self.tolerate("open checkpoint", other)?,
        };
        let content = self.tolerate("scan checkpoint", scan(&store, .., None).await)?;
        self.tolerate("close checkpoint", store.close().await)?;
        same("checkpoint", "a checkpoint holds the content it was taken of", &taken.content, &content)?;
        Ok(())
    }

    /// What must hold of a store that nothing disturbs.
    async fn last_checks(&self, store: Store) -> Result<(), Exit> {
        let before = self.tolerate("last scan", scan(&store, .., None).await)?;
        self.tolerate("last compaction", store.compact_all().await)?;
        let compacted = self.tolerate("scan after compaction", scan(&store, .., None).await)?;
        same("model", "compaction leaves the content as it was", &before, &compacted)?;
        self.close_and_count(store).await?;
        let store = self.tolerate("last open", Store::open(DB, self.options()).await)?;
        let reopened = self.tolerate("last scan", scan(&store, .., None).await)?;
        same("durability", "a clean close and open loses nothing", &before, &reopened)?;
        self.close_and_count(store).await?;
        self.set_stage(Stage::Done);
        std::future::pending().await
    }

    /// Checks the tables, closes the store, and counts what it left.
    async fn close_and_count(&self, store: Store) -> Result<(), Exit> {
        store.verify().await.map_err(|error| {
            Violation::new("structure", "levels are disjoint and tables whole")
                .of("version")
                .expected("no error")
                .found(error)
        })?;
        let tables = store.levels().iter().map(|(files, _)| files).sum::<usize>();
        self.tolerate("close", store.close().await)?;
        let names = self.tolerate("list", list(Path::new(DB)).await)?;
        for (class, expected) in [("table", tables), ("wal", 1), ("manifest", 1)] {
            let found: Vec<&String> =
                names.iter().filter(|name| crate::classify(Path::new(name)) == class).collect();
            if found.len() != expected {
                return Err(Violation::new("structure", "a closed store has no file that nothing names")
                    .of(class)
                    .expected(format!("{expected} files"))
                    .found(format!("{found:?}"))
                    .into());
            }
        }
        Ok(())
    }

    /// One writer: the operations of its part of the plan, on its own keys.
    async fn work(&self, store: &Store, actor: usize) -> Result<(), Exit> {
        let mut ops = self.actors[actor].lock().await;
        while let Some(op) = ops.next().await {
            let result = self.apply(store, actor, &op).await;
            self.world.answered(
                &op,
                match result {
                    Ok(()) => "done",
                    Err(Exit::Failed) => "the process ends",
                    Err(Exit::Violated(_)) => "wrong",
                },
            );
            result?;
        }
        Ok(())
    }

    async fn apply(&self, store: &Store, actor: usize, op: &Op) -> Result<(), Exit> {
        let args = &op.args;
        match op.verb.as_str() {
            "put" => {
                self.write(
                    store,
                    actor,
                    vec![(key(actor, args[0]), Some(value(op, 0, args[1])))],
                    args[2] == 3,
                )
                .await
            }
            "delete" => self.write(store, actor, vec![(key(actor, args[0]), None)], args[1] == 3).await,
            "batch" => {
                let changes = (0..args[1]).map(|i| {
                    let key = key(actor, (args[0] + i * 5) % 24);
                    (key, (i % 3 != 2).then(|| value(op, i, args[2])))
                });
                self.write(store, actor, changes.collect(), args[3] == 3).await
            }
            "get" => {
                let key = key(actor, args[0]);
                let expected = self.state().batches.content_of(actor).get(&key).cloned();
                let found = self.tolerate("get", store.get(&key).await)?;
                same_value("a read returns the last write", &key, &expected, &found)
            }
            "scan" => {
                let (from, to) = (key(actor, args[0]), key(actor, args[0] + args[1]));
                let expected: Content =
                    self.state().batches.content_of(actor).range(from.clone()..to.clone()).map(own).collect();
                let found = self.tolerate("scan", scan(store, from..to, None).await)?;
                same("model", "a scan returns what was written", &expected, &found).map_err(Exit::from)
            }
            "snapshot" => self.hold_snapshot(store, args[0]).await,
            "flush" => {
                let acknowledged = self.state().batches.acknowledged();
                self.tolerate("flush", store.flush().await)?;
                self.state().batches.durable(acknowledged);
                Ok(())
            }
            "compact" => self.tolerate("compact", store.compact_all().await),
            "sync_wal" => {
                let acknowledged = self.state().batches.acknowledged();
                self.tolerate("sync", store.sync_wal().await)?;
                self.state().batches.durable(acknowledged);
                Ok(())
            }
            "checkpoint" => self.take_checkpoint(store, op).await,
            "reopen" => {
                self.tolerate("close", store.clone().close().await)?;
                Err(Exit::Failed)
            }
            other => unreachable!("{other} is not in the vocabulary"),
        }
    }

    async fn write(
        &self,
        store: &Store,
        actor: usize,
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        sync: bool,
    ) -> Result<(), Exit> {
        let mut batch = WriteBatch::new();
        for (key, value) in &changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let id = self.state().batches.attempt(Batch::new(actor, changes));
        let sequence =
            self.tolerate("write", store.write(batch, WriteOptions { sync, disable_wal: false }).await)?;
        let mut state = self.state();
        state.batches.acknowledge(id, sequence)?;
        if sync {
            state.batches.durable(sequence);
        }
        Ok(())
    }

    /// Holds a snapshot while other writers go on, flush and compact: it stays the state at its sequence number, of all.
    async fn hold_snapshot(&self, store: &Store, hold_us: u64) -> Result<(), Exit> {
        let snapshot = store.snapshot();
        time::sleep(Duration::from_micros(hold_us)).await;
        let found = self.tolerate("scan of a snapshot", scan(store, .., Some(&snapshot)).await)?;
        self.state().batches.judge_cut("model", &found, snapshot.sequence()).map_err(Exit::Violated)
    }

    /// Takes a checkpoint, and opens it at once. Other writers go on meanwhile: what it holds of theirs is judged as after a
    /// crash.
    async fn take_checkpoint(&self, store: &Store, op: &Op) -> Result<(), Exit> {
        let dir = PathBuf::from(format!("/checkpoint-{}", op.id));
        let before = self.state().batches.acknowledged();
        let files = self.tolerate("checkpoint", store.checkpoint(&dir).await)?;
        if files.sequence < before {
            return Err(Violation::new("checkpoint", "a checkpoint holds what was acknowledged before it")
                .of("checkpoint")
                .expected(format!("sequence {before} or more"))
                .found(files.sequence)
                .into());
        }
        let options = Options { create_if_missing: false, ..self.options() };
        let copy = self.tolerate("open checkpoint", Store::open(&dir, options).await)?;
        let content = self.tolerate("scan checkpoint", scan(&copy, .., None).await)?;
        self.tolerate("close checkpoint", copy.close().await)?;
        let old: Vec<Taken> = {
            let mut state = self.state();
            state.batches.judge_cut("checkpoint", &content, files.sequence).map_err(Exit::Violated)?;
            state.checkpoints.push(Taken { dir, content });
            let surplus = state.checkpoints.len().saturating_sub(CHECKPOINTS_KEPT);
            state.checkpoints.drain(..surplus).collect()
        };
        for taken in old {
            // What cannot be removed stays; it is not looked at again.
            let _ = fs::remove_dir_all(&taken.dir).await;
        }
        Ok(())
    }
}

/// A violation if `error` may not occur in this scenario.
fn honest(during: &str, error: &Error) -> Option<Violation> {
    let property = match error {
        error if error.is_corruption() => "no corruption is reported where no durable byte was damaged",
        Error::Unsupported { .. } | Error::InvalidOption { .. } | Error::InvalidRequest(_) => {
            "the store does not refuse what it wrote itself"
        }
        Error::Locked { .. } => "the lock of a process ends with it",
        _ => return None,
    };
    Some(
        Violation::new("honesty", property)
            .of("store")
            .expected("no such error")
            .found(format!("{during}: {error}")),
    )
}

fn key(actor: usize, number: u64) -> Vec<u8> {
    format!("writer{actor}/key{number:04}").into_bytes()
}

/// Unique to the operation and to its place in it.
fn value(op: &Op, index: u64, len_bytes: u64) -> Vec<u8> {
    let mut value = format!("op{}.{index}:", op.id).into_bytes();
    value.resize(value.len() + len_bytes as usize, b'.');
    value
}

fn own((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

async fn scan(
    store: &Store,
    range: impl std::ops::RangeBounds<Vec<u8>>,
    snapshot: Option<&cutwater_engine::store::Snapshot>,
) -> Result<Content, Error> {
    let mut iter = store.iter(range, snapshot);
    let mut content = BTreeMap::new();
    while let Some((key, value)) = iter.next().await? {
        content.insert(key, value);
    }
    Ok(content)
}

async fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).await.map_err(|source| Error::Io {
        op: "list",
        path: dir.into(),
        source: Arc::new(source),
    })?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

fn same(oracle: &str, property: &str, expected: &Content, found: &Content) -> Result<(), Violation> {
    let key = expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key));
    match key {
        None => Ok(()),
        Some(key) => Err(Violation::new(oracle, property)
            .of("key")
            .expected(format!("{} = {}", show(Some(key)), show(expected.get(key))))
            .found(show(found.get(key)))),
    }
}

fn same_value(
    property: &str,
    key: &[u8],
    expected: &Option<Vec<u8>>,
    found: &Option<Vec<u8>>,
) -> Result<(), Exit> {
    if expected == found {
        return Ok(());
    }
    let expected = format!("{} = {}", show(Some(key)), show(expected.as_ref()));
    Err(Violation::new("model", property).of("key").expected(expected).found(show(found.as_ref())).into())
}

/// Bytes for people: the part before the padding.
fn show(bytes: Option<impl AsRef<[u8]>>) -> String {
    crate::oracle::batches::show(bytes)
}
