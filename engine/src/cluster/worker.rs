//! The worker process: finds the leader, runs the tasks it is told to run, accepts their channels.
//!
//! Everything it decides is decided by [`super::worker_machine`]; here are the connections, the tasks and the directories.
//! - One connection to the leader. A writer of its own sends heartbeats also while tasks are being ended. A leader that
//!   says nothing for [`WorkerConfig::leader_timeout`] is lost, whatever the connection says.
//! - Without a leader no task runs: tasks end when the connection is lost, and the worker tries the candidates in turn.
//! - Local directories are `<data_dir>/<incarnation>/<attempt>/<task>`: never shared by two stores, and worthless to the
//!   next start of the process, which removes them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::net::{self, Connection, Listener};
use cutwater_io::task::{self, AbortOnDrop, JoinHandle};
use cutwater_io::{buggify, entropy, fs, objects, point, sometimes, time};
use futures::FutureExt;
use tokio::sync::{Semaphore, mpsc, watch};

use super::points;
use super::rpc::{self, Attempt, FromCoordinator, JobSpec, TaskId, ToCoordinator};
use super::worker_machine::{Decision, Deployment, Fact, Machine};
use crate::checkpoint::layout::Layout;
use crate::state::blob::{Blobs, Retry};
use crate::state::upload::UploadOptions;
use crate::state::{backend, dirs};
use crate::store;
use crate::stream::channel::{Hub, Limits};
use crate::stream::graph::JobGraph;
use crate::stream::queries::{self, UnknownQuery};
use crate::stream::task::{Command, TaskContext, channels_into};

/// Connections that have not yet said which channel they are.
const MAX_ARRIVING: usize = 1024;

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Unique in the cluster.
    pub name: String,
    /// Where it accepts channels: an address that the other workers can reach. Port 0 picks a free one.
    pub bind: SocketAddr,
    /// The coordinator candidates.
    pub coordinators: Vec<SocketAddr>,
    /// The object store of the cluster; see [`cutwater_io::objects`].
    pub objects_url: String,
    /// Local directory; what is in it belongs to this worker.
    pub data_dir: PathBuf,
    /// How many tasks of each vertex it takes.
    pub slots: u16,
    /// Pause between two signs of life.
    pub heartbeat_interval: Duration,
    /// A leader that said nothing for that long is lost.
    pub leader_timeout: Duration,
    /// How long a candidate may take to answer.
    pub connect_timeout: Duration,
    /// How long tasks wait for channels, and channels for tasks.
    pub channel_patience: Duration,
    /// How much lies at the ends of a channel.
    pub channel_limits: Limits,
    /// Of the stores of keyed state.
    pub store: store::Options,
    /// How much of a task's keyed state is kept in memory before its store, in bytes.
    pub state_cache_bytes: usize,
    /// Makes the graph of a job: [`queries::build`], or that of a program with jobs of its own.
    pub build: fn(&JobSpec) -> Result<JobGraph, UnknownQuery>,
    /// How requests to the object store are repeated.
    pub retry: Retry,
    /// Files of one snapshot that are uploaded at the same time.
    pub parallel_uploads: usize,
    /// New tables of one snapshot that are shorter go together into one object, in bytes; 0: each has its own.
    pub merge_files_below_bytes: u64,
}

impl WorkerConfig {
    /// With the defaults for times and stores.
    pub fn new(
        name: impl Into<String>,
        bind: SocketAddr,
        coordinators: Vec<SocketAddr>,
        objects_url: impl Into<String>,
        data_dir: impl Into<PathBuf>,
    ) -> WorkerConfig {
        WorkerConfig {
            name: name.into(),
            bind,
            coordinators,
            objects_url: objects_url.into(),
            data_dir: data_dir.into(),
            slots: 4,
            heartbeat_interval: Duration::from_millis(500),
            leader_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            channel_patience: Duration::from_secs(10),
            channel_limits: Limits::default(),
            store: store::Options::default(),
            state_cache_bytes: backend::CACHE_BYTES,
            build: queries::build,
            retry: Retry::default(),
            parallel_uploads: 4,
            merge_files_below_bytes: 0,
        }
    }
}

/// Why a worker cannot run. What goes wrong later is reported to the leader, or ends the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration.
    #[error("worker {name}: {what}")]
    Config {
        /// The worker.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The address for channels.
    #[error("worker {name}: listening on {address}: {source}")]
    Bind {
        /// The worker.
        name: String,
        /// The address.
        address: SocketAddr,
        /// What the network said.
        source: std::io::Error,
    },
    /// The local directory.
    #[error("worker {name}: {dir}: {source}")]
    DataDir {
        /// The worker.
        name: String,
        /// The directory.
        dir: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// The object store.
    #[error(transparent)]
    Objects(#[from] objects::OpenError),
}

/// Runs a worker for as long as the process lives.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: WorkerConfig) -> Result<(), Error> {
    let mut worker = Worker::start(config).await?;
    let mut candidate = 0;
    loop {
        let Some(connection) = worker.find_leader(&mut candidate).await else {
            time::sleep(worker.config.heartbeat_interval).await;
            continue;
        };
        worker.follow(connection).await;
        let decisions = worker.machine.step(Fact::LeaderLost);
        worker.execute(decisions, None).await;
    }
}

struct Worker {
    config: Arc<WorkerConfig>,
    incarnation: String,
    /// `<data_dir>/<incarnation>`.
    dir: PathBuf,
    data_address: SocketAddr,
    blobs: Blobs,
    hub: Arc<Hub>,
    machine: Machine,
    running: Option<RunningTasks>,
    events: mpsc::UnboundedSender<ToCoordinator>,
    said: mpsc::UnboundedReceiver<ToCoordinator>,
    _accepting: AbortOnDrop<()>,
}

struct RunningTasks {
    dir: PathBuf,
    cancel: watch::Sender<bool>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    handles: Vec<JoinHandle<()>>,
}

/// A connection to the leader whose sending half belongs to a writer.
struct Leader {
    say: mpsc::UnboundedSender<ToCoordinator>,
    _writing: AbortOnDrop<()>,
}

impl Worker {
    async fn start(config: WorkerConfig) -> Result<Worker, Error> {
        let name = config.name.clone();
        let wrong = |what: &str| Err(Error::Config { name: name.clone(), what: what.into() });
        if config.coordinators.is_empty() {
            return wrong("there are no coordinator candidates");
        }
        if config.bind.ip().is_unspecified() {
            return wrong("`bind` must be an address that other workers can reach");
        }
        if config.slots == 0 {
            return wrong("`slots` must be at least 1");
        }
        let blobs = Blobs::new(objects::open(&config.objects_url)?, config.retry);
        let incarnation = entropy::uuid("worker.incarnation");
        let dir = config.data_dir.join(&incarnation);
        prepare(&config.data_dir, &dir).await.map_err(|source| Error::DataDir {
            name: name.clone(),
            dir: config.data_dir.clone(),
            source,
        })?;
        let address = config.bind;
        let listener =
            Listener::bind(address).await.map_err(|source| Error::Bind { name, address, source })?;
        let data_address = listener.local_addr();
        let hub = Arc::new(Hub::default());
        let accepting = task::spawn(accept(listener, hub.clone(), config.channel_patience)).abort_on_drop();
        let (events, said) = mpsc::unbounded_channel();
        Ok(Worker {
            config: Arc::new(config),
            incarnation,
            dir,
            data_address,
            blobs,
            hub,
            machine: Machine::default(),
            running: None,
            events,
            said,
            _accepting: accepting,
        })
    }

    /// Tries the candidates in turn, and those that they name; `None` if none leads now.
    async fn find_leader(&mut self, candidate: &mut usize) -> Option<Connection> {
        let count = self.config.coordinators.len();
        for _ in 0..count {
            let address = self.config.coordinators[*candidate % count];
            let asked = time::timeout(self.config.connect_timeout, self.ask(address)).await;
            match asked {
                Ok(Ok(Asked::Leads(connection))) => return Some(*connection),
                // Only a candidate of ours is worth a visit.
                Ok(Ok(Asked::Follows(hint))) => {
                    let named =
                        self.config.coordinators.iter().position(|c| Some(*c) == hint && *c != address);
                    *candidate = named.unwrap_or(*candidate + 1);
                }
                Ok(Err(_)) | Err(_) => *candidate += 1,
            }
        }
        None
    }

    async fn ask(&mut self, address: SocketAddr) -> std::io::Result<Asked> {
        let mut connection = Connection::connect(address).await?;
        let hello = ToCoordinator::Hello {
            worker: self.config.name.clone(),
            incarnation: self.incarnation.clone(),
            data_address: self.data_address,
            slots: self.config.slots,
            epoch_seen: self.machine.epoch_seen(),
        };
        connection.sender.send(rpc::encode(&hello)).await?;
        let answer = connection.receiver.recv().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        match rpc::decode(&answer) {
            Ok(FromCoordinator::Welcome { epoch }) => {
                let stale = !self.machine.step(Fact::Welcomed { epoch }).is_empty();
                Ok(if stale { Asked::Follows(None) } else { Asked::Leads(Box::new(connection)) })
            }
            Ok(FromCoordinator::NotLeader { leader }) => Ok(Asked::Follows(leader)),
            Ok(_) | Err(_) => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }

    /// Does what the leader says until it is lost.
    async fn follow(&mut self, connection: Connection) {
        let Connection { sender, mut receiver } = connection;
        let (say, to_write) = mpsc::unbounded_channel();
        let writing = task::spawn(write(sender, to_write, self.config.heartbeat_interval)).abort_on_drop();
        let leader = Leader { say, _writing: writing };
        // What tasks of an earlier attempt said meanwhile is dropped by the machine.
        let mut heard_at = time::now();
        loop {
            let fact = {
                let deadline = time::sleep_until(heard_at + self.config.leader_timeout).fuse();
                let (heard, said) = (receiver.recv().fuse(), self.said.recv().fuse());
                futures::pin_mut!(heard, said, deadline);
                futures::select_biased! {
                    heard = heard => {
                        heard_at = time::now();
                        let Some(message) = understand(heard) else { return };
                        Fact::Heard(message)
                    }
                    said = said => Fact::Event(said.expect("this worker holds a sender")),
                    () = deadline => {
                        sometimes!(points::LEADER_SILENT, true);
                        return;
                    }
                }
            };
            let decisions = self.machine.step(fact);
            if !self.execute(decisions, Some(&leader)).await {
                return;
            }
        }
    }

    /// Executes decisions in order; false if the leader is to be left.
    async fn execute(&mut self, decisions: Vec<Decision>, leader: Option<&Leader>) -> bool {
        for decision in decisions {
            match decision {
                Decision::Disconnect => return false,
                Decision::EndTasks => self.end_tasks().await,
                Decision::Start(deployment) => self.start_tasks(deployment).await,
                Decision::Command(command) => {
                    for commands in self.running.iter().flat_map(|running| &running.commands) {
                        // A task that has ended has said why.
                        let _ = commands.send(command.clone());
                    }
                }
                Decision::Say(event) => {
                    if leader.is_none_or(|leader| leader.say.send(event).is_err()) {
                        return false;
                    }
                }
            }
        }
        true
    }

    async fn end_tasks(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.cancel.send_replace(true);
        for handle in running.handles {
            // A panic was reported by the task's guard.
            drop(handle.await);
        }
        dirs::remove(&running.dir).await;
        point!(points::TASKS_ENDED);
    }

    async fn start_tasks(&mut self, deployment: Deployment) {
        assert!(self.running.is_none(), "tasks of an older attempt have ended before {}", deployment.attempt);
        let Deployment { attempt, job, stopping, changelog, tasks, placements } = deployment;
        let built = (self.config.build)(&job).map_err(|e| e.to_string());
        let layout = Layout::new(&job.name).map_err(|e| e.to_string());
        let (graph, layout) = match built.and_then(|graph| layout.map(|layout| (graph, layout))) {
            Ok((graph, layout)) => (Arc::new(graph), layout),
            Err(reason) => {
                let failed = |task| ToCoordinator::Failed { attempt, task, reason: reason.clone() };
                tasks.iter().for_each(|t| drop(self.events.send(failed(t.task))));
                return;
            }
        };
        let channels = channels_into(&graph, &placements, tasks.iter().map(|deployment| deployment.task));
        let mut expected = self.hub.begin(attempt, &channels);
        let placements = Arc::new(placements);
        let dir = self.dir.join(format!("{}-{}", attempt.epoch, attempt.number));
        let (cancel, cancelled) = watch::channel(false);
        let mut running =
            RunningTasks { dir: dir.clone(), cancel, commands: Vec::new(), handles: Vec::new() };
        for deployment in tasks {
            let (commands, to_obey) = mpsc::unbounded_channel();
            let TaskId { vertex, subtask } = deployment.task;
            let context = TaskContext {
                attempt,
                stopping,
                inputs: expected.remove(&deployment.task).unwrap_or_default(),
                dir: dir.join(format!("{vertex}-{subtask}")),
                deployment,
                graph: graph.clone(),
                placements: placements.clone(),
                layout: layout.clone(),
                blobs: self.blobs.clone(),
                store: self.config.store.clone(),
                state_cache_bytes: self.config.state_cache_bytes,
                upload: UploadOptions {
                    parallel: self.config.parallel_uploads,
                    merge_files_below_bytes: self.config.merge_files_below_bytes,
                },
                changelog,
                channel_limits: self.config.channel_limits,
                channel_patience: self.config.channel_patience,
                commands: to_obey,
                events: self.events.clone(),
                cancelled: cancelled.clone(),
            };
            running.commands.push(commands);
            running.handles.push(task::spawn(run_task(context)));
        }
        self.running = Some(running);
        point!(points::TASKS_STARTED);
    }
}

enum Asked {
    Leads(Box<Connection>),
    Follows(Option<SocketAddr>),
}

/// Creates the directory of this incarnation and removes those of earlier ones, as far as possible.
async fn prepare(data_dir: &Path, ours: &Path) -> std::io::Result<()> {
    fs::create_dir_all(data_dir).await?;
    for entry in fs::read_dir(data_dir).await? {
        let path = data_dir.join(&entry.name);
        let removed =
            if entry.is_dir { fs::remove_dir_all(&path).await } else { fs::remove_file(&path).await };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "left by an earlier start of this worker");
        }
    }
    fs::create_dir_all(ours).await
}

/// Accepts channels for ever.
async fn accept(mut listener: Listener, hub: Arc<Hub>, patience: Duration) {
    let arriving = Arc::new(Semaphore::new(MAX_ARRIVING));
    loop {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::warn!(%error, "accepting a channel");
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Beyond that many, connections are closed: a flood of them must not take the memory.
        let Ok(permit) = arriving.clone().try_acquire_owned() else { continue };
        let hub = hub.clone();
        task::spawn(async move {
            hub.arrive(connection, patience).await;
            drop(permit);
        });
    }
}

/// Sends what there is to say, and signs of life. Ends when the connection breaks, which the reader notices too.
async fn write(
    mut sender: net::Sender,
    mut to_write: mpsc::UnboundedReceiver<ToCoordinator>,
    heartbeat_interval: Duration,
) {
    let mut alive_at = time::now();
    loop {
        let mut left = (alive_at + heartbeat_interval) - time::now();
        if buggify!(points::HEARTBEAT_LATE) {
            left += heartbeat_interval * 2;
        }
        let message = match time::timeout(left, to_write.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(_) => {
                alive_at = time::now();
                ToCoordinator::Heartbeat
            }
        };
        // A ping with each heartbeat: its answer is the leader's sign of life.
        let ping = (message == ToCoordinator::Heartbeat).then_some(ToCoordinator::Ping);
        for message in std::iter::once(message).chain(ping) {
            if let Err(error) = sender.send(rpc::encode(&message)).await {
                tracing::debug!(%error, "the connection to the leader broke");
                return;
            }
        }
    }
}

fn understand(heard: std::io::Result<Option<bytes::Bytes>>) -> Option<FromCoordinator> {
    match heard {
        Ok(Some(frame)) => rpc::decode(&frame)
            .inspect_err(|error| tracing::warn!(%error, "the leader is not understood"))
            .ok(),
        Ok(None) => None,
        Err(error) => {
            tracing::debug!(%error, "the connection to the leader broke");
            None
        }
    }
}

async fn run_task(context: TaskContext) {
    let (attempt, task) = (context.attempt, context.deployment.task);
    let mut guard = PanicGuard { attempt, task, events: Some(context.events.clone()) };
    let result = crate::stream::task::run(context).await;
    let events = guard.events.take().expect("taken once");
    if let Err(error) = result {
        let reason = error.to_string();
        tracing::info!(%attempt, %task, reason, "task failed");
        drop(events.send(ToCoordinator::Failed { attempt, task, reason }));
    }
}

/// Reports a task that panicked: the attempt is lost, and the leader should not wait for a time-out to learn it.
struct PanicGuard {
    attempt: Attempt,
    task: TaskId,
    events: Option<mpsc::UnboundedSender<ToCoordinator>>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if let Some(events) = &self.events {
            let reason = "the task panicked or was aborted".to_string();
            drop(events.send(ToCoordinator::Failed { attempt: self.attempt, task: self.task, reason }));
        }
    }
}
