//! Whole coordinators on tokio, loopback and a local directory, with workers that only speak the protocol.
#![cfg(not(madsim))]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutwater_engine::checkpoint::assign::{VertexKind, VertexPlan};
use cutwater_engine::checkpoint::barrier::Alignment;
use cutwater_engine::checkpoint::coordinator::CheckpointConfig;
use cutwater_engine::checkpoint::history::{Entry, EntryStatus};
use cutwater_engine::checkpoint::job_state::Retention;
use cutwater_engine::checkpoint::job_state::{Base, JobState, Status};
use cutwater_engine::checkpoint::layout::{Layout, Object};
use cutwater_engine::checkpoint::log::{Outcome, Record};
use cutwater_engine::checkpoint::read::{load_job_state, load_metadata, newest_record, verify_files};
use cutwater_engine::checkpoint::request::{Request, RequestKind};
use cutwater_engine::checkpoint::snapshot::*;
use cutwater_engine::checkpoint::write::append;
use cutwater_engine::cluster::client::Client;
use cutwater_engine::cluster::console::PartTimes;
use cutwater_engine::cluster::coordinator::{CoordinatorConfig, run};
use cutwater_engine::cluster::rpc::*;
use cutwater_io::net::{Connection, Sender};
use cutwater_io::task::{AbortOnDrop, spawn};
use cutwater_io::{entropy, objects, time};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

const MS: Duration = Duration::from_millis(1);

/// What the fake says of each part.
const TIMES: PartTimes = PartTimes { alignment_us: 7, sync_us: 5, async_us: 3, is_unaligned: true };

fn job() -> JobSpec {
    JobSpec { name: "job".into(), query: "count".into(), parameters: BTreeMap::new() }
}

fn config(name: &str, bind: SocketAddr, objects_url: &str) -> CoordinatorConfig {
    let vertex = |uid: &str, kind| VertexPlan { uid: uid.into(), kind, max: None };
    CoordinatorConfig {
        name: name.into(),
        bind,
        advertise: None,
        objects_url: objects_url.into(),
        job: job(),
        plan: vec![
            vertex("source", VertexKind::Source { partitions: 2 }),
            vertex("count", VertexKind::Keyed),
            vertex("sink", VertexKind::Sink),
        ],
        max_parallelism: 8,
        parallelism: 2,
        start_from: None,
        allow_non_restored: false,
        restarts_max: None,
        checkpoint: CheckpointConfig {
            interval: 20 * MS,
            min_pause: 5 * MS,
            timeout: 2_000 * MS,
            tolerable_failures: 0,
            retained: 2,
            max_concurrent: 1,
            retention: Retention::RetainOnCancellation,
            changelog: None,
            alignment: Alignment::Aligned,
        },
        lease: 200 * MS,
        ping_limit: 50 * MS,
        heartbeat_timeout: 500 * MS,
        slots_wait: 100 * MS,
        restart_delay: 20 * MS,
        deploy_timeout: 10_000 * MS,
        sweep_interval: 200 * MS,
        keep_versions: cutwater_engine::checkpoint::log::KEEP_VERSIONS,
    }
}

/// What the workers of a test did together.
#[derive(Default)]
struct Seen {
    /// Of each deployment of a keyed task: attempt, parallelism, and the checkpoint epochs its tables stem from.
    deployed: Vec<(Attempt, TaskId, u16, Vec<SubtaskState>)>,
    completed: Vec<(Attempt, CheckpointId)>,
    finished: bool,
}

/// A worker that acknowledges at once and stores a byte for each file it names.
struct FakeWorker {
    name: String,
    candidates: Vec<SocketAddr>,
    store: Arc<dyn ObjectStore>,
    seen: Arc<Mutex<Seen>>,
    exhausted: Arc<Mutex<bool>>,
}

impl FakeWorker {
    async fn run(self) {
        let mut next = 0;
        loop {
            let candidate = self.candidates[next % self.candidates.len()];
            next += 1;
            if let Ok(Ok(connection)) = time::timeout(100 * MS, Connection::connect(candidate)).await {
                self.serve(connection).await;
            }
            time::sleep(10 * MS).await;
        }
    }

    async fn serve(&self, connection: Connection) {
        let Connection { mut sender, mut receiver } = connection;
        let hello = ToCoordinator::Hello {
            worker: self.name.clone(),
            incarnation: entropy::uuid("test"),
            data_address: "127.0.0.1:1".parse().unwrap(),
            slots: 2,
            epoch_seen: 0,
        };
        say(&mut sender, hello).await;
        let mut tasks: BTreeMap<TaskId, (KeyGroupRange, u16, Vec<StoreFile>)> = BTreeMap::new();
        let mut attempt = Attempt::default();
        let mut told = false;
        loop {
            if !tasks.is_empty() && !told && *self.exhausted.lock().unwrap() {
                told = true;
                for task in tasks.keys().filter(|task| task.vertex == 0) {
                    say(&mut sender, ToCoordinator::Exhausted { attempt, task: *task }).await;
                }
            }
            let frame = match time::timeout(30 * MS, receiver.recv()).await {
                Err(time::Elapsed) => {
                    say(&mut sender, ToCoordinator::Heartbeat).await;
                    continue;
                }
                Ok(Ok(Some(frame))) => frame,
                Ok(_) => return,
            };
            match decode(&frame).unwrap() {
                FromCoordinator::Welcome { .. } => {}
                FromCoordinator::NotLeader { .. } => return,
                FromCoordinator::Deploy { attempt: new, tasks: deployed, .. } => {
                    (attempt, told) = (new, false);
                    tasks.clear();
                    for task in deployed {
                        let mut seen = self.seen.lock().unwrap();
                        let (id, restore) = (task.task, task.restore);
                        let tables = restore.iter().flat_map(|state| match state {
                            SubtaskState::Keyed(keyed) => keyed.shared.clone(),
                            _ => Vec::new(),
                        });
                        tasks.insert(id, (task.range, task.parallelism, tables.collect()));
                        seen.deployed.push((attempt, id, task.parallelism, restore));
                    }
                    for task in tasks.keys() {
                        say(&mut sender, ToCoordinator::Running { attempt, task: *task }).await;
                    }
                }
                FromCoordinator::Trigger { attempt: of, barrier } if of == attempt => {
                    let checkpoint = barrier.checkpoint;
                    // The fake needs no barriers: each worker runs a source, and each task snapshots at once.
                    for (task, (range, parallelism, tables)) in &mut tasks {
                        let state =
                            self.snapshot(attempt, checkpoint, *task, *range, *parallelism, tables).await;
                        let times = TIMES;
                        say(
                            &mut sender,
                            ToCoordinator::Acknowledge { attempt, checkpoint, task: *task, state, times },
                        )
                        .await;
                    }
                }
                FromCoordinator::NotifyComplete { attempt: of, checkpoint } if of == attempt => {
                    self.seen.lock().unwrap().completed.push((attempt, checkpoint));
                    for task in tasks.keys().filter(|task| task.vertex == 2) {
                        say(&mut sender, ToCoordinator::Committed { attempt, checkpoint, task: *task }).await;
                    }
                }
                FromCoordinator::Cancel { .. } => tasks.clear(),
                FromCoordinator::Finish { .. } => {
                    self.seen.lock().unwrap().finished = true;
                    tasks.clear();
                }
                _ => {}
            }
        }
    }

    async fn put(&self, path: String) -> FileHandle {
        self.store.put(&objects::Path::from(path.as_str()), "x".into()).await.unwrap();
        FileHandle { path, len_bytes: 1, crc32c: crc32c::crc32c(b"x") }
    }

    async fn snapshot(
        &self,
        attempt: Attempt,
        id: CheckpointId,
        task: TaskId,
        range: KeyGroupRange,
        parallelism: u16,
        tables: &mut Vec<StoreFile>,
    ) -> SubtaskState {
        let layout = Layout::new("job").unwrap();
        match task.vertex {
            0 => {
                let own =
                    (0..2).filter(|partition| partition % u32::from(parallelism) == u32::from(task.subtask));
                let position = |partition| SourcePosition { partition, next_offset: id.0 };
                SubtaskState::from(own.map(position).collect::<Vec<_>>())
            }
            1 => {
                let unique = entropy::uuid("test");
                let table = self.put(layout.shared(attempt, &unique)).await;
                tables.push(StoreFile::whole(unique.clone(), table));
                if tables.len() > 3 {
                    tables.remove(0);
                }
                let manifest = self.put(layout.private(id, attempt, task, &unique)).await;
                let private = vec![StoreFile::whole("MANIFEST", manifest)];
                SubtaskState::Keyed(KeyedSnapshot {
                    range,
                    states: Vec::new(),
                    format: StateFormat::store(),
                    shared: tables.clone(),
                    private,
                    changelog: None,
                    in_flight: None,
                })
            }
            _ => {
                let name = format!("{attempt}-{id}-{}", task.subtask);
                let staged = self.put(layout.staged(attempt, &name)).await;
                self.put(layout.output(&name)).await;
                SubtaskState::from(vec![SinkTransaction { id: name, staged }])
            }
        }
    }
}

async fn say(sender: &mut Sender, message: ToCoordinator) {
    // A connection that broke is noticed when nothing can be received.
    let _ = sender.send(encode(&message)).await;
}

struct Test {
    url: String,
    store: Arc<dyn ObjectStore>,
    candidates: Vec<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
    exhausted: Arc<Mutex<bool>>,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Test {
    async fn new(candidates: usize) -> Test {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display());
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for _ in 0..candidates {
            let listener = cutwater_io::net::Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            addresses.push(listener.local_addr());
            listeners.push(listener);
        }
        Test {
            store: objects::open(&url).unwrap(),
            client: Client::new(addresses.clone(), 500 * MS),
            url,
            candidates: addresses,
            seen: Arc::default(),
            exhausted: Arc::default(),
            _dir: dir,
        }
    }

    fn coordinator(&self, i: usize) -> AbortOnDrop<()> {
        let config = config(&format!("c{i}"), self.candidates[i], &self.url);
        spawn(async move { run(config).await.unwrap() }).abort_on_drop()
    }

    fn worker(&self, name: &str) -> AbortOnDrop<()> {
        let worker = FakeWorker {
            name: name.into(),
            candidates: self.candidates.clone(),
            store: self.store.clone(),
            seen: self.seen.clone(),
            exhausted: self.exhausted.clone(),
        };
        spawn(worker.run()).abort_on_drop()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&JobStatus) -> bool) -> JobStatus {
        let started = time::now();
        let mut last = None;
        while started.elapsed() < Duration::from_secs(20) {
            if let Ok(status) = self.client.status().await {
                if holds(&status) {
                    return status;
                }
                last = Some(status);
            }
            time::sleep(10 * MS).await;
        }
        panic!("not reached: {what}; last status {last:?}");
    }

    async fn until_checkpoint(&self, beyond: Option<CheckpointId>) -> JobStatus {
        self.until(&format!("a checkpoint beyond {beyond:?}"), |s| {
            s.phase == JobPhase::Running && s.latest_checkpoint > beyond
        })
        .await
    }

    async fn check_restorable(&self) {
        let layout = Layout::new("job").unwrap();
        let state = load_job_state(&*self.store, "job").await.unwrap().unwrap();
        assert!(state.retained.len() <= 2);
        for checkpoint in &state.retained {
            let metadata = load_metadata(&*self.store, checkpoint).await.unwrap();
            verify_files(&*self.store, &layout, &metadata).await.unwrap();
        }
    }

    /// Ends the job, and checks that what is left in the store is exactly what the retained checkpoints name.
    async fn finish(&self) {
        *self.exhausted.lock().unwrap() = true;
        self.until("finished", |s| s.phase == JobPhase::Finished).await;
        let state = load_job_state(&*self.store, "job").await.unwrap().unwrap();
        assert_eq!(state.status, Status::Finished);
        self.check_restorable().await;
        let layout = Layout::new("job").unwrap();
        let started = time::now();
        loop {
            let mut needed = std::collections::BTreeSet::new();
            for checkpoint in &state.retained {
                let metadata = load_metadata(&*self.store, checkpoint).await.unwrap();
                needed.insert(checkpoint.metadata.path.clone());
                let states = metadata.vertices.iter().flat_map(|v| &v.subtasks);
                for state in states {
                    needed.extend(state.shared_files().map(|h| h.path.clone()));
                    needed.extend(state.private_files().iter().map(|h| h.path.clone()));
                }
            }
            let all: Vec<_> =
                self.store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
            let judged = |path: &&String| {
                !matches!(layout.parse(path), Some(Object::Log { .. } | Object::Output { .. }))
            };
            let left: Vec<_> = all.iter().filter(judged).filter(|path| !needed.contains(*path)).collect();
            if left.is_empty() && self.seen.lock().unwrap().finished {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "left over: {left:?}");
            time::sleep(20 * MS).await;
        }
    }
}

#[tokio::test]
async fn deploys_checkpoints_restores_rescales_and_finishes() {
    let test = Test::new(1).await;
    // What somebody left behind.
    for orphan in ["job/shared/0-7/x", "job/sink/staged/0-7/x", "job/chk-0/_metadata", "job/chk-1/0-7-1-0-x"]
    {
        test.store.put(&objects::Path::from(orphan), "x".into()).await.unwrap();
    }
    let _coordinator = test.coordinator(0);
    // It has slots for all tasks, and whoever comes later gets none.
    let first = test.worker("a");
    let status = test.until_checkpoint(None).await;
    assert_eq!((status.epoch, status.parallelism), (1, 2));
    let _second = test.worker("b");
    let before = test.until_checkpoint(status.latest_checkpoint).await;
    let list = test.client.checkpoints().await.unwrap();
    assert_eq!(list.entries.len(), list.progress.len());
    let complete = |(entry, _): &(&Entry, _)| matches!(entry.status, EntryStatus::Present(_));
    let (entry, progress) = list.entries.iter().zip(&list.progress).rfind(complete).unwrap();
    assert_eq!((progress.acknowledged, progress.total), (6, 6), "three vertices, twice");
    let details = test.client.checkpoint(entry.id).await.unwrap();
    let parts = || details.vertices.iter().flat_map(|vertex| &vertex.subtasks);
    assert_eq!(parts().count(), 6);
    assert!(parts().all(|part| part.is_some_and(|part| part.times == Some(TIMES))), "{details:?}");

    // A worker dies: the job goes on from the latest checkpoint on what is left.
    drop(first);
    let after =
        test.until("another attempt", |s| s.attempt > before.attempt && s.phase == JobPhase::Running).await;
    assert_eq!(after.parallelism, 2, "one worker has two slots");
    let restored = test
        .seen
        .lock()
        .unwrap()
        .deployed
        .iter()
        .filter(|d| d.0 == after.attempt)
        .cloned()
        .collect::<Vec<_>>();
    assert!(restored.iter().all(|(_, _, _, states)| !states.is_empty()), "{restored:?}");
    let status = test.until_checkpoint(after.latest_checkpoint).await;
    test.check_restorable().await;

    // Up, with the help of a third worker, and down again.
    let _third = test.worker("c");
    test.client.rescale(4).await.unwrap();
    let up = test.until("scaled up", |s| s.parallelism == 4 && s.phase == JobPhase::Running).await;
    let up = test.until_checkpoint(up.latest_checkpoint.max(status.latest_checkpoint)).await;
    test.client.rescale(1).await.unwrap();
    let down = test.until("scaled down", |s| s.parallelism == 1 && s.phase == JobPhase::Running).await;
    test.until_checkpoint(down.latest_checkpoint.max(up.latest_checkpoint)).await;
    let refused = test.client.rescale(9).await.unwrap_err().to_string();
    assert!(refused.contains("parallelism 9 is not from 1 to 8"), "{refused}");
    let kind = RequestKind::Checkpoint { full: false };
    let request = Request { trigger_id: "by hand".into(), kind, description: String::new() };
    test.client.trigger(request).await.unwrap();
    test.check_restorable().await;

    test.finish().await;
    let seen = test.seen.lock().unwrap();
    let ids: Vec<_> = seen.completed.iter().map(|(_, id)| *id).collect();
    assert!(ids.is_sorted(), "ids grow over attempts: {ids:?}");
}

#[tokio::test]
async fn another_candidate_takes_over_and_ids_still_grow() {
    let test = Test::new(2).await;
    let first = test.coordinator(0);
    let _workers = [test.worker("a"), test.worker("b")];
    let before = test.until_checkpoint(None).await;
    let second = test.coordinator(1);
    time::sleep(600 * MS).await;
    let still = test.until_checkpoint(before.latest_checkpoint).await;
    assert_eq!(still.epoch, 1, "a leader that answers is left alone");

    drop(first);
    let after = test.until("second epoch", |s| s.epoch == 2 && s.phase == JobPhase::Running).await;
    assert!(after.latest_checkpoint >= still.latest_checkpoint);
    let after = test.until_checkpoint(after.latest_checkpoint).await;
    assert!(after.latest_checkpoint.unwrap().0 > 16, "from the second leader's block: {after:?}");
    test.check_restorable().await;

    // The first comes back and waits; then the second dies too.
    let _first = test.coordinator(0);
    time::sleep(100 * MS).await;
    drop(second);
    let last = test.until("third epoch", |s| s.epoch == 3 && s.phase == JobPhase::Running).await;
    test.until_checkpoint(last.latest_checkpoint).await;
    test.finish().await;
}

#[tokio::test]
async fn a_leader_that_somebody_deposed_completes_nothing_more() {
    let test = Test::new(1).await;
    let _coordinator = test.coordinator(0);
    let _worker = test.worker("a");
    let status = test.until_checkpoint(None).await;
    // Another takes over, and is never heard of again.
    let layout = Layout::new("job").unwrap();
    let foreign = loop {
        let previous: Record = newest_record(&*test.store, &layout).await.unwrap().unwrap();
        let state = JobState::taken_over(
            Some(&previous.state),
            "127.0.0.1:1".parse().unwrap(),
            16,
            8,
            2,
            Base::Newest,
        );
        let record = Record { version: previous.version + 1, writer: "test".into(), state: Box::new(state) };
        if append(&*test.store, &layout, record.clone()).await == Outcome::Landed {
            break record;
        }
    };
    let latest = foreign.state.latest().map(|latest| latest.id);
    assert!(latest >= status.latest_checkpoint);
    time::sleep(150 * MS).await;
    let truth = newest_record(&*test.store, &layout).await.unwrap().unwrap();
    assert_eq!(truth, foreign, "within the lease nobody changes the register any more");
    let completed = |seen: &Seen| seen.completed.iter().map(|(_, id)| *id).max();
    assert!(
        completed(&test.seen.lock().unwrap()) <= latest,
        "nothing was called complete that is not in the register"
    );

    let after = test.until("third epoch", |s| s.epoch == 3 && s.phase == JobPhase::Running).await;
    test.until_checkpoint(after.latest_checkpoint).await;
    test.finish().await;
}

#[tokio::test]
async fn a_checkpoint_that_lost_a_file_is_never_passed_over() {
    let test = Test::new(1).await;
    let coordinator = test.coordinator(0);
    let worker = test.worker("a");
    test.until_checkpoint(Some(CheckpointId(2))).await;
    drop((worker, coordinator));
    time::sleep(100 * MS).await;
    let state = load_job_state(&*test.store, "job").await.unwrap().unwrap();
    assert_eq!(state.retained.len(), 2, "there is an older one to fall back to");
    let metadata = load_metadata(&*test.store, state.latest().unwrap()).await.unwrap();
    let states = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
    let lost = states.flat_map(|state| state.shared_files()).last().unwrap().clone();
    let path = objects::Path::from(lost.path.as_str());
    test.store.delete(&path).await.unwrap();
    let deployed = test.seen.lock().unwrap().deployed.len();

    let _coordinator = test.coordinator(0);
    let _worker = test.worker("a");
    test.until("a leader", |s| s.epoch == 2).await;
    time::sleep(500 * MS).await;
    assert_eq!(test.seen.lock().unwrap().deployed.len(), deployed, "nothing starts");
    test.store.put(&path, "x".into()).await.unwrap();
    test.until_checkpoint(state.latest().map(|latest| latest.id)).await;
    test.finish().await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_once() {
    let test = Test::new(1).await;
    let good = config("c", test.candidates[0], &test.url);
    let said = |config: CoordinatorConfig| async { run(config).await.unwrap_err().to_string() };
    let url = said(CoordinatorConfig { objects_url: "nfs://x".into(), ..good.clone() }).await;
    assert!(url.starts_with("nfs://x: "), "{url}");
    let name = JobSpec { name: "a/b".into(), ..job() };
    assert!(said(CoordinatorConfig { job: name, ..good.clone() }).await.contains("a/b"));
    assert!(said(CoordinatorConfig { parallelism: 9, ..good.clone() }).await.contains("parallelism"));

    let coordinator = test.coordinator(0);
    test.until("a leader", |s| s.epoch == 1).await;
    drop(coordinator);
    time::sleep(50 * MS).await;
    let other = said(CoordinatorConfig { max_parallelism: 16, ..good }).await;
    assert_eq!(other, "job job has 8 key groups, configured are 16");
}
