//! A whole cluster in one process, for examples, tests and a first try: a coordinator and workers over loopback, with objects
//! and local state in a directory.
//!
//! It is no simulation: the processes are those of a real cluster, and what it leaves in the directory is what a cluster on
//! a shared file system leaves. Killed at any moment and started again, a job goes on from its last checkpoint.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cutwater_io::net::Listener;
use cutwater_io::task::{self, AbortOnDrop};
use cutwater_io::{objects, time};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::watch;

use super::client::Client;
use super::coordinator::{self, CoordinatorConfig};
use super::rpc::{JobPhase, JobSpec, JobStatus};
use super::worker::{self, WorkerConfig};
use crate::checkpoint::barrier::Alignment;
use crate::checkpoint::coordinator::CheckpointConfig;
use crate::checkpoint::job_state::Retention;
use crate::checkpoint::layout::{InvalidName, Layout};
use crate::checkpoint::log::KEEP_VERSIONS;
use crate::stream::graph::JobGraph;
use crate::stream::queries::UnknownQuery;
use crate::stream::record::Record;
use crate::stream::sink::{OutputError, decode_output};

/// How often the leader is asked how the job gets on.
const POLL: Duration = Duration::from_millis(100);

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Objects and local state.
    pub dir: PathBuf,
    /// The job.
    pub job: JobSpec,
    /// Makes its graph.
    pub build: fn(&JobSpec) -> Result<JobGraph, UnknownQuery>,
    /// How many workers.
    pub workers: u16,
    /// Subtasks of each vertex.
    pub parallelism: u16,
    /// From one checkpoint to the next.
    pub checkpoint_interval: Duration,
}

/// Why a local cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The job cannot be built.
    #[error(transparent)]
    Query(#[from] UnknownQuery),
    /// The job cannot be named so.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Its directory or a port.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Its object store.
    #[error(transparent)]
    Objects(#[from] object_store::Error),
    /// The name of its object store.
    #[error(transparent)]
    Url(#[from] objects::OpenError),
    /// Committed output cannot be read.
    #[error("{path}: {source}")]
    Output {
        /// The object.
        path: String,
        /// What is wrong with it.
        source: OutputError,
    },
    /// A process has ended.
    #[error("{0}")]
    Process(String),
}

/// A running one; its processes end with this.
#[derive(Debug)]
pub struct LocalCluster {
    client: Client,
    objects_url: String,
    layout: Layout,
    failed: watch::Receiver<Option<String>>,
    _processes: Vec<AbortOnDrop<()>>,
}

impl LocalConfig {
    /// A job without parameters, on two workers.
    pub fn new(
        dir: impl AsRef<Path>,
        job: &str,
        build: fn(&JobSpec) -> Result<JobGraph, UnknownQuery>,
    ) -> LocalConfig {
        LocalConfig {
            dir: dir.as_ref().into(),
            job: JobSpec { name: job.into(), query: job.into(), parameters: Default::default() },
            build,
            workers: 2,
            parallelism: 2,
            checkpoint_interval: Duration::from_millis(500),
        }
    }

    fn coordinator(&self, bind: SocketAddr, objects_url: &str) -> Result<CoordinatorConfig, LocalError> {
        let graph = (self.build)(&self.job)?;
        Ok(CoordinatorConfig {
            name: "coordinator".into(),
            bind,
            advertise: None,
            objects_url: objects_url.into(),
            job: self.job.clone(),
            plan: graph.plan(),
            max_parallelism: graph.max_parallelism,
            parallelism: self.parallelism,
            start_from: None,
            allow_non_restored: false,
            restarts_max: None,
            checkpoint: CheckpointConfig {
                interval: self.checkpoint_interval,
                min_pause: Duration::from_millis(100),
                timeout: Duration::from_secs(30),
                tolerable_failures: 3,
                retained: 3,
                max_concurrent: 1,
                retention: Retention::RetainOnCancellation,
                changelog: None,
                alignment: Alignment::Aligned,
            },
            lease: Duration::from_millis(500),
            ping_limit: Duration::from_millis(125),
            heartbeat_timeout: Duration::from_secs(3),
            slots_wait: Duration::from_millis(300),
            restart_delay: Duration::from_millis(100),
            deploy_timeout: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(20),
            keep_versions: KEEP_VERSIONS,
        })
    }
}

impl LocalCluster {
    /// Starts the processes.
    ///
    /// # Errors
    /// If the job cannot be built, or the directory or a port cannot be had.
    pub async fn start(config: &LocalConfig) -> Result<LocalCluster, LocalError> {
        // The store wants an absolute path.
        let dir = std::path::absolute(&config.dir)?;
        let objects_url = format!("file://{}", dir.join("objects").display());
        let layout = Layout::new(&config.job.name)?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = Listener::bind(loopback).await?.local_addr();
        let (report, failed) = watch::channel(None);
        let coordinator = config.coordinator(address, &objects_url)?;
        let mut processes = vec![until_error("coordinator".into(), report.clone(), async move {
            coordinator::run(coordinator).await.map_err(|error| error.to_string())
        })];
        for n in 1..=config.workers {
            let name = format!("worker-{n}");
            let mut worker = WorkerConfig::new(
                name.as_str(),
                loopback,
                vec![address],
                objects_url.as_str(),
                dir.join(&name),
            );
            worker.build = config.build;
            worker.slots = worker.slots.max(config.parallelism.div_ceil(config.workers));
            let run = async move { worker::run(worker).await.map_err(|error| error.to_string()) };
            processes.push(until_error(name, report.clone(), run));
        }
        let client = Client::new(vec![address], Duration::from_secs(1));
        Ok(LocalCluster { client, objects_url, layout, failed, _processes: processes })
    }

    /// A user of the job.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The object store, for [`objects::open`].
    pub fn objects_url(&self) -> &str {
        &self.objects_url
    }

    /// Why one of the processes has ended, if one has.
    pub fn failure(&self) -> Option<LocalError> {
        self.failed.borrow().clone().map(LocalError::Process)
    }

    /// Waits until the job is finished; `told` hears on the way how it gets on.
    ///
    /// # Errors
    /// If one of the processes ends before.
    pub async fn finished(&self, mut told: impl FnMut(&JobStatus)) -> Result<(), LocalError> {
        loop {
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            if let Ok(status) = self.client.status().await {
                told(&status);
                if status.phase == JobPhase::Finished {
                    return Ok(());
                }
            }
            time::sleep(POLL).await;
        }
    }

    /// All that is committed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn committed(&self) -> Result<Vec<Record>, LocalError> {
        let store = objects::open(&self.objects_url)?;
        let prefix = object_store::path::Path::from(self.layout.output_prefix());
        let listed: Vec<_> = store.list(Some(&prefix)).try_collect().await?;
        let mut records = Vec::new();
        for meta in listed {
            let bytes = store.get(&meta.location).await?.bytes().await?;
            let path = meta.location.to_string();
            records.extend(decode_output(&bytes).map_err(|source| LocalError::Output { path, source })?);
        }
        Ok(records)
    }
}

fn until_error(
    name: String,
    report: watch::Sender<Option<String>>,
    process: impl Future<Output = Result<(), String>> + Send + 'static,
) -> AbortOnDrop<()> {
    let process = async move {
        if let Err(error) = process.await {
            report.send_replace(Some(format!("{name}: {error}")));
        }
    };
    task::spawn(process).abort_on_drop()
}
