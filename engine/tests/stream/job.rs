//! Whole jobs over loopback: coordinator, workers, channels, stores, objects. Workers and the coordinator are killed, the
//! parallelism changes, and what is committed is the known answer, each record once.
#![cfg(not(madsim))]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cutwater_engine::checkpoint::barrier::Alignment;
use cutwater_engine::checkpoint::coordinator::CheckpointConfig;
use cutwater_engine::checkpoint::job_state::Retention;
use cutwater_engine::cluster::client::Client;
use cutwater_engine::cluster::coordinator::{self, CoordinatorConfig};
use cutwater_engine::cluster::rpc::{JobPhase, JobSpec, JobStatus};
use cutwater_engine::cluster::worker::{self, WorkerConfig};
use cutwater_engine::state::changelog::ChangelogOptions;
use cutwater_engine::state::operator_state::{BroadcastState, OperatorListState, OperatorState};
use cutwater_engine::store::{FamilyOptions, Options};
use cutwater_engine::stream::Error;
use cutwater_engine::stream::functions::{BroadcastFunction, Collector};
use cutwater_engine::stream::graph::JobGraph;
use cutwater_engine::stream::job::Job;
use cutwater_engine::stream::operator::Moment;
use cutwater_engine::stream::queries::count::record;
use cutwater_engine::stream::queries::{self, Rows, UnknownQuery, bid_counts, bid_histogram};
use cutwater_engine::stream::sink::decode_output;
use cutwater_engine::stream::source::Generated;
use cutwater_io::net::Listener;
use cutwater_io::task::{self, AbortOnDrop};
use cutwater_io::{objects, time};
use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

const MS: Duration = Duration::from_millis(1);

type Build = fn(&JobSpec) -> Result<JobGraph, UnknownQuery>;

struct Cluster {
    dir: tempfile::TempDir,
    job: JobSpec,
    build: Build,
    coordinator: SocketAddr,
    alignment: Alignment,
    changelog: Option<ChangelogOptions>,
}

async fn free_address() -> SocketAddr {
    Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap().local_addr()
}

impl Cluster {
    async fn new(query: &str, parameters: &[(&str, u64)]) -> Cluster {
        let parameters = parameters.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let job = JobSpec { name: "job".into(), query: query.into(), parameters };
        let (coordinator, alignment) = (free_address().await, Alignment::Aligned);
        let build = queries::build;
        Cluster { dir: tempfile::tempdir().unwrap(), job, build, coordinator, alignment, changelog: None }
    }

    fn objects_url(&self) -> String {
        format!("file://{}", self.dir.path().join("objects").display())
    }

    fn coordinator(&self, parallelism: u16) -> AbortOnDrop<()> {
        let graph = (self.build)(&self.job).unwrap();
        let config = CoordinatorConfig {
            name: "coordinator".into(),
            bind: self.coordinator,
            advertise: None,
            objects_url: self.objects_url(),
            job: self.job.clone(),
            plan: graph.plan(),
            max_parallelism: graph.max_parallelism,
            parallelism,
            start_from: None,
            allow_non_restored: false,
            restarts_max: None,
            checkpoint: CheckpointConfig {
                interval: 100 * MS,
                min_pause: 10 * MS,
                timeout: Duration::from_secs(10),
                tolerable_failures: 3,
                retained: 2,
                max_concurrent: 1,
                retention: Retention::RetainOnCancellation,
                changelog: self.changelog,
                alignment: self.alignment,
            },
            lease: 200 * MS,
            ping_limit: 50 * MS,
            heartbeat_timeout: Duration::from_secs(2),
            slots_wait: Duration::from_secs(3),
            restart_delay: 20 * MS,
            deploy_timeout: 10_000 * MS,
            sweep_interval: 200 * MS,
            keep_versions: cutwater_engine::checkpoint::log::KEEP_VERSIONS,
        };
        // While nobody listens there, a worker that calls may be given the same port for its own end, and have it for a moment.
        let run = async move {
            loop {
                match coordinator::run(config.clone()).await {
                    Err(coordinator::Error::Bind { .. }) => time::sleep(50 * MS).await,
                    ended => return ended.unwrap(),
                }
            }
        };
        task::spawn(run).abort_on_drop()
    }

    fn worker(&self, name: &str) -> AbortOnDrop<()> {
        let mut config = WorkerConfig::new(
            name,
            "127.0.0.1:0".parse().unwrap(),
            vec![self.coordinator],
            self.objects_url(),
            self.dir.path().join(name),
        );
        config.build = self.build;
        config.slots = 2;
        config.heartbeat_interval = 100 * MS;
        config.store = Options {
            family: FamilyOptions {
                write_buffer_bytes: 8 << 10,
                target_file_bytes: 8 << 10,
                ..FamilyOptions::default()
            },
            ..Options::default()
        };
        task::spawn(async move { worker::run(config).await.unwrap() }).abort_on_drop()
    }

    /// Two workers of which one dies after two checkpoints and comes back, and then another parallelism.
    async fn disturbed(&self) -> [AbortOnDrop<()>; 2] {
        let (a, b) = (self.worker("a"), self.worker("b"));
        self.checkpoints(2).await;
        drop(a);
        let a = self.worker("a");
        self.wait("a new attempt", |s| s.attempt.number > 1 && s.phase == JobPhase::Running).await;
        let client = Client::new(vec![self.coordinator], Duration::from_secs(1));
        client.rescale(2).await.unwrap();
        [a, b]
    }

    async fn wait(&self, what: &str, reached: impl Fn(&JobStatus) -> bool) -> JobStatus {
        let client = Client::new(vec![self.coordinator], Duration::from_secs(1));
        let mut last = None;
        for _ in 0..6000 {
            if let Ok(status) = client.status().await {
                if reached(&status) {
                    return status;
                }
                last = Some(status);
            }
            time::sleep(10 * MS).await;
        }
        panic!("never saw {what}: {last:?}")
    }

    async fn checkpoints(&self, more: u64) -> JobStatus {
        let now = self.wait("an answer", |_| true).await.latest_checkpoint.map_or(0, |id| id.0);
        self.wait("checkpoints", |s| s.latest_checkpoint.is_some_and(|id| id.0 >= now + more)).await
    }

    async fn committed(&self) -> Rows {
        let store = objects::open(&self.objects_url()).unwrap();
        let mut rows = Rows::new();
        let mut listed = store.list(Some(&"job/out".into()));
        while let Some(meta) = listed.next().await {
            let bytes = store.get(&meta.unwrap().location).await.unwrap().bytes().await.unwrap();
            for record in decode_output(&bytes).unwrap() {
                *rows.entry(record).or_insert(0) += 1;
            }
        }
        rows
    }

    async fn finish(&self) {
        self.finish_with(queries::expected(&self.job).unwrap()).await;
    }

    async fn finish_with(&self, expected: Rows) {
        self.wait("the end", |status| status.phase == JobPhase::Finished).await;
        let found = self.committed().await;
        let differs = |a: &Rows, b: &Rows| -> Vec<(String, u64)> {
            let others = a.iter().filter(|(row, n)| b.get(row) != Some(n));
            others.map(|(row, n)| (queries::describe(row), *n)).take(5).collect()
        };
        let (surplus, missing) = (differs(&found, &expected), differs(&expected, &found));
        assert!(
            found == expected,
            "committed, not expected: {surplus:?}; expected, not committed: {missing:?}"
        );
    }
}

fn is_empty_dir(path: &Path) -> bool {
    std::path::Path::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end() {
    let cluster = Cluster::new(bid_counts::NAME, &[("events_per_partition", 2000), ("seed", 3)]).await;
    let _coordinator = cluster.coordinator(2);
    let _workers = (cluster.worker("a"), cluster.worker("b"));
    cluster.finish().await;
    assert!(!is_empty_dir(&cluster.dir.path().join("a")), "its incarnation's directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keyed_stages_and_one_worker() {
    let parameters = [("events_per_partition", 500), ("events_per_second", 1000), ("partitions", 3)];
    let cluster = Cluster::new(bid_histogram::NAME, &parameters).await;
    let _coordinator = cluster.coordinator(2);
    let _worker = cluster.worker("a");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_another_parallelism_and_another_leader_change_nothing() {
    let parameters = [("events_per_partition", 4000), ("events_per_second", 500), ("max_parallelism", 32)];
    let cluster = Cluster::new(bid_counts::NAME, &parameters).await;
    // More than one worker has slots for: both have tasks.
    let coordinator = cluster.coordinator(3);
    let (a, _b) = (cluster.worker("a"), cluster.worker("b"));
    cluster.checkpoints(2).await;
    drop(a);
    let _a = cluster.worker("a");
    cluster.wait("a new attempt", |s| s.attempt.number > 1 && s.phase == JobPhase::Running).await;
    cluster.checkpoints(2).await;
    let client = Client::new(vec![cluster.coordinator], Duration::from_secs(1));
    client.rescale(4).await.unwrap();
    cluster.wait("parallelism 4", |s| s.parallelism == 4 && s.phase == JobPhase::Running).await;
    let before = cluster.checkpoints(2).await;
    drop(coordinator);
    let _coordinator = cluster.coordinator(2);
    let after =
        cluster.wait("another leader", |s| s.epoch > before.epoch && s.phase == JobPhase::Running).await;
    assert_eq!(after.parallelism, 4, "the register remembers");
    client.rescale(1).await.unwrap();
    let status = cluster.wait("parallelism 1", |s| s.parallelism == 1 || s.phase == JobPhase::Finished).await;
    assert_ne!(status.phase, JobPhase::Finished, "the job was to be restarted in its middle");
    cluster.finish().await;
}

/// Each Nexmark query, with a worker that dies in its middle and another parallelism afterwards.
async fn nexmark(query: &str) {
    nexmark_with(query, None).await;
}

async fn nexmark_with(query: &str, changelog: Option<ChangelogOptions>) {
    let parameters = |seed| {
        [("events_per_partition", 300), ("events_per_second", 120), ("seed", seed), ("max_parallelism", 16)]
    };
    // Not all people sell, not all auctions are of the right category: of some seeds nothing is expected.
    let mut seed = 1;
    let mut cluster = Cluster::new(query, &parameters(seed)).await;
    while queries::expected(&cluster.job).unwrap().is_empty() {
        seed += 1;
        cluster = Cluster::new(query, &parameters(seed)).await;
    }
    // What is overtaken is processed after a restore, and nothing of it is late.
    cluster.alignment = Alignment::Unaligned;
    cluster.changelog = changelog;
    let _coordinator = cluster.coordinator(3);
    let _workers = cluster.disturbed().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_without_state() {
    for query in ["q0", "q1", "q2"] {
        nexmark(query).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_joins() {
    for query in ["q3", "q8"] {
        nexmark(query).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_winning_bids() {
    for query in ["q4", "q6"] {
        nexmark(query).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_windows() {
    for query in ["q5", "q7"] {
        nexmark(query).await;
    }
}

/// Windows keep timers, joins maps; the log holds them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_survives_a_kill_and_another_parallelism() {
    let changelog =
        ChangelogOptions { materialise_every: 400 * MS, upload_bytes: 2000, upload_every: 50 * MS };
    for query in ["q5", "q8"] {
        nexmark_with(query, Some(changelog)).await;
    }
}

const ITEMS: u64 = 400;
const FACTOR: u64 = 1000;

/// Holds numbers back until it is told by what to multiply them.
struct Multiply;

const WAITING: OperatorListState<u64> = OperatorListState::new("waiting");
const TOLD: BroadcastState<String, u64> = BroadcastState::new("told");

impl BroadcastFunction<u64, u64> for Multiply {
    type Out = (u64, u64);

    fn process(
        &mut self,
        item: u64,
        _: Moment,
        state: &mut OperatorState,
        out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), Error> {
        match TOLD.get(state, &"factor".into())? {
            None => WAITING.add(state, &item)?,
            Some(factor) => out.collect((item, item * factor)),
        }
        Ok(())
    }

    fn process_broadcast(
        &mut self,
        factor: u64,
        state: &mut OperatorState,
        out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), Error> {
        TOLD.put(state, &"factor".into(), &factor)?;
        for item in WAITING.get(state)? {
            out.collect((item, item * factor));
        }
        Ok(WAITING.set(state, &[])?)
    }
}

fn multiply(_: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    let numbers = Generated {
        partitions: 2,
        per_partition: ITEMS / 2,
        per_second: 100,
        out_of_orderness_ms: 0,
        item: |partition: u32, offset: u64| (offset * 2 + u64::from(partition), 0),
    };
    // Its only item is due when half of the numbers were read.
    let factor = Generated {
        partitions: 1,
        per_partition: 1,
        per_second: 1,
        out_of_orderness_ms: 0,
        item: |_: u32, _: u64| (FACTOR, 0),
    };
    let job = Job::new("multiply").max_parallelism(16);
    let factor = job.source("factor", factor);
    job.source("numbers", numbers)
        .rebalance()
        .process_with("multiply", factor, || Multiply)
        .sink("sink", |(item, product)| record(item, product));
    Ok(job.build())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_without_keys_is_handed_out_anew() {
    let mut cluster = Cluster::new("multiply", &[]).await;
    cluster.build = multiply;
    let _coordinator = cluster.coordinator(3);
    let _workers = cluster.disturbed().await;
    cluster.finish_with((0..ITEMS).map(|n| (record(n, n * FACTOR), 1)).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn barriers_that_overtake_change_nothing() {
    let parameters = [("events_per_partition", 3000), ("events_per_second", 600), ("max_parallelism", 32)];
    for alignment in [Alignment::Unaligned, Alignment::AlignedFor { timeout_us: 500 }] {
        let cluster = Cluster { alignment, ..Cluster::new(bid_histogram::NAME, &parameters).await };
        // More than one worker has slots for: both have tasks.
        let _coordinator = cluster.coordinator(3);
        let (a, _b) = (cluster.worker("a"), cluster.worker("b"));
        cluster.checkpoints(2).await;
        drop(a);
        let _a = cluster.worker("a");
        cluster.wait("a new attempt", |s| s.attempt.number > 1 && s.phase == JobPhase::Running).await;
        cluster.checkpoints(2).await;
        Client::new(vec![cluster.coordinator], Duration::from_secs(1)).rescale(2).await.unwrap();
        cluster.wait("parallelism 2", |s| s.parallelism == 2 || s.phase == JobPhase::Finished).await;
        cluster.finish().await;
    }
}
