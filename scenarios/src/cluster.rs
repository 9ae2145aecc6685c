//! What the scenarios of a cluster share: processes, a job with a known answer, and how it is judged.
//!
//! Nodes are coordinator candidates and workers; all of them see one bucket. The job is a Nexmark query whose committed
//! output does not depend on the interleaving of its input, so that it can be computed beforehand.
//!
//! Judged at every object written or deleted: [`Oracles`]. Judged on demand and at the end: [`cold`], which opens a
//! checkpoint from its objects alone, at another parallelism, and compares what it holds with what its own source positions
//! say.
//! Judged at the end: the output, leaks, and that the end came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutwater_engine::checkpoint::barrier::Alignment;
use cutwater_engine::checkpoint::coordinator::CheckpointConfig;
use cutwater_engine::checkpoint::job_state::Retention;
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::log::KEEP_VERSIONS;
use cutwater_engine::checkpoint::snapshot::CheckpointId;
use cutwater_engine::cluster::client::Client;
use cutwater_engine::cluster::coordinator::{self, CoordinatorConfig};
use cutwater_engine::cluster::rpc::JobSpec;
use cutwater_engine::cluster::worker::{self, WorkerConfig};
use cutwater_engine::store::{FamilyOptions, Options};
use cutwater_engine::stream::channel::Limits;
use cutwater_engine::stream::queries::{self, Rows};
use cutwater_engine::stream::record::Record;
use cutwater_engine::stream::sink::decode_output;
use cutwater_io::points::{Kind, Point};
use cutwater_io::sim::disk::Spared;
use cutwater_io::sim::{Crash, CrashKind, NodeId, Survivors};
use cutwater_io::time;
use cutwater_sim::faults::FaultClass;
use cutwater_sim::faults::atlas::{Atlas, Chunk};
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::{OracleInfo, Violation};
use cutwater_sim::vocabulary::{Knob, Role};
use cutwater_sim::world::World;

use crate::oracle::attempts::{self, Passed};
use crate::oracle::cold;
use crate::oracle::watch::Oracles;

const BUCKET: &str = "cluster";
const URL: &str = "sim://cluster";
const JOB: &str = "job";
pub(crate) const RPC_PORT: u16 = 6123;
pub(crate) const DATA_PORT: u16 = 6124;
/// Virtual time in which a healed cluster must have read, checkpointed and committed everything.
const FINISH_LIMIT: Duration = Duration::from_secs(180);
/// Virtual time in which a finished cluster must have removed what nothing needs.
const SWEEP_LIMIT: Duration = Duration::from_secs(60);

/// The oracles of a cluster.
pub(crate) const ORACLES: &[OracleInfo] = &[
    OracleInfo {
        name: "ids",
        about: "epochs, versions and checkpoint ids only grow, over leaders and restores",
    },
    OracleInfo {
        name: "restorable",
        about: "a listed checkpoint has all its files, whole, as long as it is listed, and restores cold; no object of several files is mostly garbage",
    },
    OracleInfo {
        name: "cut",
        about: "a checkpoint's state, and what was in flight, are exactly the input before its source positions",
    },
    OracleInfo {
        name: "exactly once",
        about: "committed output is of durable checkpoints, and in the end the known answer",
    },
    OracleInfo {
        name: "attempts",
        about: "no part of a checkpoint is refused; an attempt ends when too many expire, and the next begins when nothing is open",
    },
    OracleInfo {
        name: "list",
        about: "the fate of a checkpoint in the list is final, and what is retained is present",
    },
    OracleInfo {
        name: "no leak",
        about: "while a job runs undisturbed no shared object stays that no checkpoint names, and after the end none at all that nothing needs",
    },
    OracleInfo { name: "liveness", about: "once nothing breaks, the job ends within 180 s" },
];

/// The faults that a cluster must survive: all but lies. What is damaged on the disk of a worker can be had again, from the
/// object store and from the input.
pub(crate) fn faults() -> Vec<FaultClass> {
    FaultClass::ALL.iter().copied().filter(|class| *class != FaultClass::BeyondBudget).collect()
}

/// Of each file of a worker's store one copy stays whole, by the [`Atlas`]: its own or that of the object store. As the
/// object store is never damaged, only those files can be that are spared there.
fn spare_one_copy(world: &World) {
    const HERE: u64 = 1;
    const IN_THE_STORE: u64 = 2;
    let atlas = Atlas::new(world.key(), 900);
    for index in 0..world.count("worker") {
        let (atlas, node) = (atlas.clone(), world.node_id("worker", index));
        let is_spared = move |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            let number = digits.parse().unwrap_or(0);
            let chunk = Chunk { class: crate::classify(path), of: node.0, number };
            !atlas.may_damage(chunk, &[HERE, IN_THE_STORE], HERE)
        };
        world.env().disks().spare(node, Spared::new(is_spared));
    }
}

/// The points of a cluster: of the store only those that one without a log can pass.
pub(crate) fn points() -> Vec<Point> {
    let needs_a_log =
        |point: &Point| point.kind == Kind::Sometimes || point.name == "store.recovery.table_written";
    let store = cutwater_engine::store::points::ALL.iter().copied().filter(|point| !needs_a_log(point));
    let others = cutwater_engine::points::all().into_iter().filter(|point| !point.name.starts_with("store."));
    let mut points: Vec<Point> = others.chain(store).collect();
    points.sort();
    points
}

/// Kinds of nodes.
pub(crate) fn roles() -> Vec<Role> {
    vec![
        Role::new("coordinator", "a candidate for the leadership of the job", 1..=3),
        Role::new("worker", "runs tasks", 2..=4),
    ]
}

/// Settings of the job, the coordinator and the stores.
pub(crate) fn knobs() -> Vec<Knob> {
    let mut knobs = vec![
        crate::personality_knob(),
        Knob::new("query", "0: one keyed step, 1: two, from 2 on: Nexmark q0 to q8", 0, 0..=10),
        Knob::new("partitions", "partitions of the source", 3, 1..=6),
        Knob::new("events_per_partition", "records in each", 120, 1..=400),
        Knob::new(
            "input_ms",
            "until the last record is due, in milliseconds; 0: all at once",
            3000,
            0..=12_000,
        ),
        Knob::new("max_parallelism", "key groups", 8, 4..=64),
        Knob::new("parallelism", "subtasks of each vertex", 2, 1..=4),
        Knob::new("slots", "tasks of each vertex that a worker takes", 2, 1..=4),
        Knob::new("interval_ms", "from one checkpoint to the next, in milliseconds", 300, 30..=3000),
        Knob::new("min_pause_ms", "from a completion to the next trigger, in milliseconds", 20, 0..=500),
        Knob::new("timeout_ms", "until a checkpoint expires, in milliseconds", 3000, 200..=10_000),
        Knob::new("tolerable_failures", "checkpoints that may fail in a row", 3, 0..=10),
        Knob::new("retained", "completed checkpoints that are kept", 2, 1..=5),
        Knob::new("retention", "checkpoints of a job that is cancelled: 0 and 1 go, 2 stay", 2, 0..=2),
        Knob::new("max_concurrent", "checkpoints under way at once, if they are aligned", 1, 1..=3),
        Knob::new(
            "alignment",
            "0: barriers wait for each other, 1: for alignment_ms, 2: they overtake",
            0,
            0..=2,
        ),
        Knob::new("alignment_ms", "see alignment", 20, 0..=500),
        Knob::new(
            "channel_bytes",
            "what may wait at each end of a channel, in bytes",
            64 << 10,
            64..=64 << 10,
        ),
        Knob::new(
            "window_bytes",
            "what may be under way in a connection, in bytes",
            256 << 10,
            512..=256 << 10,
        ),
        Knob::new(
            "lease_ms",
            "silence of a leader before a takeover, in milliseconds, beyond what pings of the slowest link take",
            500,
            100..=4000,
        ),
        Knob::new("heartbeat_ms", "between two signs of life of a worker, in milliseconds", 200, 50..=1000),
        Knob::new("keep_versions", "versions of the register that are kept", KEEP_VERSIONS, 2..=32),
        Knob::new("sweep_ms", "from one sweep for orphans to the next, in milliseconds", 2000, 50..=20_000),
        Knob::new("write_buffer_bytes", "size of a memtable, in bytes", 1024, 256..=16 << 10),
        Knob::new(
            "state_cache_bytes",
            "of keyed state in memory before its store, in bytes",
            0,
            0..=16 << 10,
        ),
        Knob::new(
            "merge_files_below_bytes",
            "new tables that are shorter share an object, in bytes; 0: each has its own",
            0,
            0..=4096,
        ),
        crate::compression_knob(),
        Knob::new("net_us", "median latency between two machines, one way, in microseconds", 500, 50..=5_000),
        Knob::new(
            "store_spacing_us",
            "the object store lets a prefix have one request per so many microseconds; 0: as many as come",
            0,
            0..=20_000,
        ),
        Knob::new("page_keys", "keys in a page of a listing", 1000, 1..=1000),
    ];
    knobs.extend(crate::changelog::knobs());
    knobs
}

/// A running cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) world: World,
    oracles: Arc<Mutex<Oracles>>,
    job: JobSpec,
    pub(crate) client: Client,
}

impl Cluster {
    /// Starts the candidates and workers of the plan.
    pub(crate) fn start(world: &World) -> Cluster {
        let job = job(world);
        let graph = queries::build(&job).expect("the knobs are within the query's ranges");
        let oracles = Oracles::watch(world, Layout::new(JOB).expect("a plain name"));
        spare_one_copy(world);
        let candidates: Vec<SocketAddr> = (0..world.count("coordinator"))
            .map(|i| world.address(world.node_id("coordinator", i), RPC_PORT))
            .collect();
        for i in 0..world.count("coordinator") {
            let config = coordinator_config(world, i, job.clone(), graph.plan(), graph.max_parallelism);
            let log = world.clone();
            world.node("coordinator", i, move |_| {
                let (config, log) = (config.clone(), log.clone());
                async move {
                    if let Err(error) = coordinator::run(config).await {
                        log.note("process", &format!("coordinator: {error}"));
                    }
                }
            });
        }
        for i in 0..world.count("worker") {
            let config = worker_config(world, i, candidates.clone());
            let log = world.clone();
            world.node("worker", i, move |_| {
                let (config, log) = (config.clone(), log.clone());
                async move {
                    if let Err(error) = worker::run(config).await {
                        log.note("process", &format!("worker: {error}"));
                    }
                }
            });
        }
        let client = Client::new(candidates, Duration::from_millis(500));
        Cluster { world: world.clone(), oracles, job, client }
    }

    /// Runs the plan's operations until its horizon, heals, and judges the end.
    pub(crate) async fn run(&self) -> Result<(), Violation> {
        for actor in self.world.actors() {
            let cluster = self.clone();
            // Its end is that of the run.
            drop(self.world.client(&format!("client-{actor}"), async move {
                let mut ops = cluster.world.ops(actor);
                while let Some(op) = ops.next().await {
                    match cluster.apply(&op).await {
                        Ok(answer) => cluster.world.answered(&op, &answer),
                        Err(violation) => cluster.world.object(violation),
                    }
                }
            }));
        }
        self.world.until_horizon().await;
        self.world.heal().await;
        let judged = self.judge_retained();
        let cluster = self.clone();
        let ended = self.world.client("user", async move { cluster.bring_to_an_end().await });
        let whole =
            self.world.within(FINISH_LIMIT, "a healed cluster brings its job to an end", ended).await?;
        judged.await?;
        self.oracles().look(self.world.env())?;
        if is_undisturbed(&self.world) {
            attempts::judge_undisturbed(Passed::so_far(self.world.env()))?;
        }
        self.judge_output(whole)?;
        let swept = self.until(|cluster| cluster.oracles().job.leaks().is_empty());
        if self.world.within(SWEEP_LIMIT, "", swept).await.is_err() {
            let leaks: Vec<String> = self.oracles().job.leaks().into_iter().map(str::to_owned).collect();
            return Err(Violation::new("no leak", "a finished job leaves nothing that nothing needs")
                .of("object")
                .expected("no such object")
                .found(leaks.join(", ")));
        }
        let judged = self.judge_retained();
        self.world.within(SWEEP_LIMIT, "retained checkpoints restore", judged).await?
    }

    /// Begins to restore every checkpoint and savepoint that is present now, at each parallelism.
    fn judge_retained(&self) -> impl Future<Output = Result<(), Violation>> + use<> {
        let present = self.oracles().job.present();
        let cluster = self.clone();
        self.world.client("judge", async move {
            let parallelism_max = cluster.world.knob("max_parallelism").min(4);
            for (id, parallelism) in
                present.into_iter().flat_map(|id| (1..=parallelism_max).map(move |p| (id, p)))
            {
                cluster.inspect(id, parallelism, true).await?;
            }
            Ok(())
        })
    }

    pub(crate) fn oracles(&self) -> MutexGuard<'_, Oracles> {
        self.oracles.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.oracles().job.state().is_some_and(|state| state.status.is_terminal())
    }

    pub(crate) async fn until(&self, condition: impl Fn(&Cluster) -> bool) {
        while !condition(self) {
            time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Does `op`, and returns what its client was told.
    async fn apply(&self, op: &Op) -> Result<String, Violation> {
        match op.verb.as_str() {
            "rescale" => {
                let slots = self.world.knob("slots") * self.world.count("worker");
                let parallelism = op.args[0].min(slots).min(self.world.knob("max_parallelism"));
                let answer = self.client.rescale(u16::try_from(parallelism).expect("a small number")).await;
                Ok(told(&answer))
            }
            "inspect" => {
                let latest = self.oracles().job.state().and_then(|state| Some(state.latest()?.id));
                let Some(id) = latest else { return Ok("nothing to restore yet".into()) };
                let parallelism =
                    self.world.key().draw("inspect", &[id.0, self.world.now_us()]).between(1, 4);
                let parallelism = parallelism.min(self.world.knob("max_parallelism"));
                self.inspect(id, parallelism, false).await?;
                Ok(format!("checkpoint {id} restores"))
            }
            "outage" => {
                self.kill_all(op);
                Ok("every node is killed".into())
            }
            _ => self.manage(op).await,
        }
    }

    /// The whole cluster loses power at once.
    fn kill_all(&self, op: &Op) {
        let nodes = self.world.count("coordinator") + self.world.count("worker");
        let down_us = u32::try_from(op.args[0]).expect("within the vocabulary's range");
        for node in 1..=nodes {
            let kind = CrashKind::PowerFail(Survivors::Each { permille: 500, key: op.id });
            self.world.env().crash(NodeId(node), Crash { kind, down_us });
        }
    }

    /// Opens a checkpoint from its objects alone. One that is let go meanwhile is no loss.
    async fn inspect(&self, id: CheckpointId, parallelism: u64, is_healed: bool) -> Result<(), Violation> {
        let Some(metadata) = self.oracles().job.restorable(id).cloned() else { return Ok(()) };
        let parallelism = u16::try_from(parallelism).expect("at most 4");
        let found = cold::restore(&self.job, &metadata, parallelism, URL, &store_options(4096)).await;
        if self.oracles().job.restorable(id).is_none() {
            return Ok(());
        }
        match found {
            Ok(found) => cold::judge(&self.job, &metadata, &found),
            // The store of objects may be out of order for clients, too, as long as faults strike.
            Err(error) if error.is_transient() && !is_healed => {
                self.world.note("inspect", &error.to_string());
                Ok(())
            }
            Err(error) => Err(Violation::new("restorable", "a listed checkpoint restores cold")
                .of("checkpoint")
                .expected(format!("checkpoint {id} at parallelism {parallelism}"))
                .found(error)),
        }
    }

    /// The committed output is the known answer, or (of a job that did not come to the end of its input) a part of it.
    fn judge_output(&self, is_whole: bool) -> Result<(), Violation> {
        let expected = queries::expected(&self.job).expect("the knobs are within the query's ranges");
        let mut found = Rows::new();
        let prefix = Layout::new(JOB).expect("a plain name").output_prefix();
        let env = self.world.env();
        for path in env.objects().keys(BUCKET, &prefix) {
            let bytes = env.objects().peek(BUCKET, &path).expect("it was listed");
            let records = decode_output(&bytes).map_err(|error| {
                Violation::new("exactly once", "committed output can be read")
                    .of("output")
                    .found(format!("{path}: {error}"))
            })?;
            for record in records {
                *found.entry(record).or_default() += 1;
            }
        }
        let differs = |row: &&Record| {
            let (expected, found) = (expected.get(*row), found.get(*row));
            if is_whole { expected != found } else { expected < found }
        };
        let differs = expected.keys().chain(found.keys()).find(differs);
        match differs {
            None => Ok(()),
            Some(row) => Err(Violation::new("exactly once", "the committed output is the known answer")
                .of(if expected.get(row) > found.get(row) { "missing record" } else { "surplus record" })
                .expected(format!("{} {} times", queries::describe(row), expected.get(row).unwrap_or(&0)))
                .found(format!("{} times", found.get(row).unwrap_or(&0)))),
        }
    }
}

fn job(world: &World) -> JobSpec {
    let names = ["partitions", "events_per_partition", "max_parallelism"];
    let mut parameters: BTreeMap<String, u64> =
        names.iter().map(|name| ((*name).to_owned(), world.knob(name))).collect();
    let rate = (world.knob("events_per_partition") * 1000)
        .checked_div(world.knob("input_ms"))
        .map_or(0, |rate| rate.max(1));
    parameters.insert("events_per_second".into(), rate);
    parameters.insert("seed".into(), world.key().draw("bids", &[]).below(1 << 20));
    let query = queries::NAMES[usize::try_from(world.knob("query")).expect("a small number")];
    JobSpec { name: JOB.into(), query: query.into(), parameters }
}

fn coordinator_config(
    world: &World,
    index: u64,
    job: JobSpec,
    plan: Vec<cutwater_engine::checkpoint::assign::VertexPlan>,
    max_parallelism: u16,
) -> CoordinatorConfig {
    let ms = |name| Duration::from_millis(world.knob(name));
    let knob = |name| usize::try_from(world.knob(name)).expect("a small number");
    CoordinatorConfig {
        name: format!("coordinator-{index}"),
        bind: world.address(world.node_id("coordinator", index), RPC_PORT),
        advertise: None,
        objects_url: URL.into(),
        job,
        plan,
        max_parallelism,
        parallelism: u16::try_from(world.knob("parallelism").min(world.knob("max_parallelism")))
            .expect("at most 4"),
        start_from: None,
        allow_non_restored: false,
        restarts_max: None,
        checkpoint: CheckpointConfig {
            interval: ms("interval_ms"),
            min_pause: ms("min_pause_ms"),
            timeout: ms("timeout_ms") + longest_backlog(world),
            tolerable_failures: u32::try_from(knob("tolerable_failures")).expect("a small number"),
            retained: knob("retained"),
            retention: match world.knob("retention") {
                0 => Retention::Never,
                1 => Retention::DeleteOnCancellation,
                _ => Retention::RetainOnCancellation,
            },
            max_concurrent: max_concurrent(world),
            alignment: match world.knob("alignment") {
                0 => Alignment::Aligned,
                1 => Alignment::AlignedFor { timeout_us: world.knob("alignment_ms") * 1000 },
                _ => Alignment::Unaligned,
            },
            changelog: crate::changelog::options(world, index),
        },
        lease: ms("lease_ms") + slowest_ping(world) * 4,
        ping_limit: ms("lease_ms") / 4 + slowest_ping(world),
        heartbeat_timeout: ms("heartbeat_ms") * 5,
        slots_wait: Duration::from_millis(500),
        restart_delay: Duration::from_millis(100),
        deploy_timeout: Duration::from_secs(10),
        sweep_interval: ms("sweep_ms"),
        keep_versions: world.knob("keep_versions"),
    }
}

/// True if nothing in the plan is a reason for a task to end. An object store that lets requests wait is one.
pub(crate) fn is_undisturbed(world: &World) -> bool {
    let plan = world.plan();
    let disturbs = |op: &Op| matches!(op.verb.as_str(), "rescale" | "outage" | "stop" | "cancel" | "start");
    plan.faults.is_empty()
        && plan.buggify.is_empty()
        && world.knob("store_spacing_us") == 0
        && !plan.ops.iter().any(disturbs)
}

/// Only aligned checkpoints may be under way side by side.
pub(crate) fn max_concurrent(world: &World) -> usize {
    if world.knob("alignment") == 0 {
        usize::try_from(world.knob("max_concurrent")).expect("a small number")
    } else {
        1
    }
}

/// How long a barrier may wait behind records when all of them are due at once and each costs a flush of a tiny memtable.
/// A timeout below that could never be met, and the job would start over for ever.
fn longest_backlog(world: &World) -> Duration {
    let flushes = if counts(world) { 1 } else { 4 };
    let records = world.knob("partitions") * world.knob("events_per_partition");
    Duration::from_millis(records * flushes * 3 * 512 / world.knob("write_buffer_bytes").min(512))
}

/// How long a candidate may take to connect to a leader and to be answered, if their link is one of the slow ones: two round
/// trips, each twice as long as usual. A candidate gives it a quarter of the lease; a shorter lease could never be kept, and
/// the candidates would depose each other for ever.
fn slowest_ping(world: &World) -> Duration {
    let one_way_us = world.knob("net_us") * u64::from(crate::SLOW_LINK_FACTOR_MAX) * 2;
    Duration::from_micros(4 * one_way_us)
}

/// True if the query counts: it changes one entry of its state with each record. Others change many.
fn counts(world: &World) -> bool {
    world.knob("query") < 2
}

/// Where a record changes many entries, they are written some at a time: one by one, with the smallest of memtables, a job
/// would take longer than the simulation lasts.
fn state_cache_bytes(world: &World) -> usize {
    let least = if counts(world) { 0 } else { 2048 };
    usize::try_from(world.knob("state_cache_bytes").max(least)).expect("a small number")
}

fn worker_config(world: &World, index: u64, candidates: Vec<SocketAddr>) -> WorkerConfig {
    let bind = world.address(world.node_id("worker", index), DATA_PORT);
    let mut config = WorkerConfig::new(format!("worker-{index}"), bind, candidates, URL, "/worker");
    config.slots = u16::try_from(world.knob("slots")).expect("at most 4");
    config.heartbeat_interval = Duration::from_millis(world.knob("heartbeat_ms"));
    let waiting_bytes = usize::try_from(world.knob("channel_bytes")).expect("a small number");
    config.channel_limits = Limits {
        batch_bytes: (waiting_bytes / 2).min(16 << 10),
        output_bytes: waiting_bytes,
        input_bytes: waiting_bytes,
        ..Limits::default()
    };
    config.state_cache_bytes = state_cache_bytes(world);
    config.merge_files_below_bytes = world.knob("merge_files_below_bytes");
    config.store = store_options(world.knob("write_buffer_bytes"));
    config.store.family.compression = crate::compression(world.knob("compression"));
    config
}

fn store_options(write_buffer_bytes: u64) -> Options {
    Options {
        family: FamilyOptions {
            write_buffer_bytes,
            block_bytes: 256,
            target_file_bytes: 2048,
            max_bytes_for_level_base: 4096,
            level_multiplier: 4,
            level0_compaction_trigger: 3,
            level0_stop_writes_trigger: 12,
            ..FamilyOptions::default()
        },
        max_manifest_bytes: 4096,
        ..Options::default()
    }
}

pub(crate) fn told(answer: &Result<(), impl std::fmt::Display>) -> String {
    answer.as_ref().map_or_else(ToString::to_string, |()| "accepted".into())
}
