//! The processes of a cluster: coordinators, workers, and both in one for a quick start.
//!
//! A process runs until it is killed: coordinators and workers survive that by design, and there is nothing to shut down. `run` ends when
//! its job is finished.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use cutwater_engine::checkpoint::log::KEEP_VERSIONS;
use cutwater_engine::cluster::client::Client;
use cutwater_engine::cluster::coordinator::{self, CoordinatorConfig, StartFrom};
use cutwater_engine::cluster::rpc::JobPhase;
use cutwater_engine::cluster::worker::{self, WorkerConfig};
use cutwater_engine_cli::web::Server;
use cutwater_engine_cli::web::live::Live;
use cutwater_io::net::Listener;
use cutwater_io::{fs, time};

use super::ask;
use super::duration;
use super::options::CheckpointOptions;
use super::origin::From;
use super::spec::Query;
use crate::output::{Failure, Usage, tell};
use crate::place::objects_url;

/// In the directory that a worker is given: it deletes all that it finds in its own, and a mistyped path must cost nobody anything.
const WORKER_DIR: &str = "cutwater-worker";

#[derive(Args)]
pub(crate) struct Coordinator {
    /// Name of the job; what it leaves in the object store is below that.
    #[arg(long)]
    job: String,
    #[command(flatten)]
    query: Query,
    /// The object store: a directory, a file:// or an s3:// URL. All processes of the job share it.
    #[arg(long)]
    objects: String,
    /// Where workers, users and other coordinators connect.
    #[arg(long)]
    bind: SocketAddr,
    /// What they connect to, if that is another address.
    #[arg(long)]
    advertise: Option<SocketAddr>,
    /// Serve the job's page, Flink's endpoints and Prometheus' figures here. Whoever can connect may use them.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Other coordinators of the job, which --http asks, too, when this one does not lead.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS,..")]
    others: Vec<SocketAddr>,
    /// Subtasks of each vertex; once the job exists, `rescale` changes it.
    #[arg(long, default_value_t = 1)]
    parallelism: u16,
    /// How long a leader may be silent before another coordinator takes over.
    #[arg(long, default_value = "4s", value_parser = duration::parse)]
    lease: Duration,
    /// How often the job may be restarted without a checkpoint in between before it has failed; without this, for ever.
    #[arg(long, value_name = "N")]
    restarts_max: Option<u32>,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    checkpoints: CheckpointOptions,
}

#[derive(Args)]
pub(crate) struct Worker {
    /// The coordinators of the job, with commas between them.
    #[arg(long, value_delimiter = ',', required = true, value_name = "ADDRESS,..")]
    coordinators: Vec<SocketAddr>,
    /// The object store, as the coordinators have it.
    #[arg(long)]
    objects: String,
    /// A local directory of this worker alone. It works in `cutwater-worker` in there, and empties that at the start.
    #[arg(long)]
    data: PathBuf,
    /// Subtasks of each vertex that it takes.
    #[arg(long, default_value_t = 4)]
    slots: u16,
    /// Where other workers connect: an address that they can reach. Port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    bind: SocketAddr,
    /// Unique in the cluster; without it, one is drawn.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Args)]
pub(crate) struct Run {
    /// Name of the job.
    #[arg(default_value = "job")]
    job: String,
    #[command(flatten)]
    query: Query,
    /// Where all of it is: the object store, and local state. A job that is there goes on.
    #[arg(long)]
    dir: PathBuf,
    /// Serve the job's page, Flink's endpoints and Prometheus' figures here.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Workers in the process.
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// Subtasks of each vertex.
    #[arg(long, default_value_t = 1)]
    parallelism: u16,
    /// How often the job may be restarted without a checkpoint in between before it has failed; without this, for ever.
    #[arg(long, value_name = "N")]
    restarts_max: Option<u32>,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    checkpoints: CheckpointOptions,
}

pub(crate) async fn coordinator(command: Coordinator) -> Result<(), Failure> {
    let objects_url = objects_url(&command.objects)?;
    let mut others = vec![command.advertise.unwrap_or(command.bind)];
    others.extend(&command.others);
    let parts = Parts {
        job: command.job,
        query: command.query,
        objects_url,
        bind: command.bind,
        advertise: command.advertise,
        parallelism: command.parallelism,
        lease: command.lease,
        restarts_max: command.restarts_max,
        from: command.from,
        checkpoints: command.checkpoints,
    };
    let config = parts.config()?;
    match command.http {
        None => coordinator::run(config).await?,
        Some(address) => {
            let web = parts.web(address, others).await?;
            let leads = async { coordinator::run(config).await.map_err(Failure::from) };
            futures::future::try_join(leads, web).await?;
        }
    }
    Ok(())
}

/// What a coordinator and its page are made of.
struct Parts {
    job: String,
    query: Query,
    objects_url: String,
    bind: SocketAddr,
    advertise: Option<SocketAddr>,
    parallelism: u16,
    lease: Duration,
    restarts_max: Option<u32>,
    from: From,
    checkpoints: CheckpointOptions,
}

impl Parts {
    fn config(&self) -> Result<CoordinatorConfig, Failure> {
        let (job, graph) = self.query.job(&self.job)?;
        if self.parallelism == 0 || self.parallelism > graph.max_parallelism {
            let most = graph.max_parallelism;
            return Err(Usage(format!("--parallelism: from 1 to {most} is possible")).into());
        }
        let lease = self.lease;
        Ok(CoordinatorConfig {
            name: "coordinator".into(),
            bind: self.bind,
            advertise: self.advertise,
            objects_url: self.objects_url.clone(),
            job,
            plan: graph.plan(),
            max_parallelism: graph.max_parallelism,
            parallelism: self.parallelism,
            start_from: self.from.path().map(|path| StartFrom { path, claim: self.from.claim() }),
            allow_non_restored: self.from.allow_non_restored,
            restarts_max: self.restarts_max,
            checkpoint: self.checkpoints.config()?,
            lease,
            ping_limit: lease / 4,
            heartbeat_timeout: Duration::from_secs(5),
            slots_wait: Duration::from_secs(1),
            restart_delay: Duration::from_secs(1),
            deploy_timeout: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(60),
            keep_versions: KEEP_VERSIONS,
        })
    }

    /// Serves the page, once it listens.
    async fn web(
        &self,
        address: SocketAddr,
        coordinators: Vec<SocketAddr>,
    ) -> Result<impl Future<Output = Result<(), Failure>> + use<>, Failure> {
        let (_, graph) = self.query.job(&self.job)?;
        let server = Server::bind(address).await.map_err(|error| format!("--http {address}: {error}"))?;
        tell(&format!("http://{}/ shows the job", server.local_addr()?));
        let vertices = graph.plan().into_iter().map(|vertex| vertex.uid).collect();
        let view = Arc::new(Live::new(&self.job, coordinators, &self.objects_url, vertices));
        Ok(async move { server.run(view).await.map_err(Failure::from) })
    }
}

pub(crate) async fn worker(command: Worker) -> Result<(), Failure> {
    if command.slots == 0 {
        return Err(Usage("--slots must be at least 1".into()).into());
    }
    let name = command.name.unwrap_or_else(|| cutwater_io::entropy::uuid("engine.cli.worker"));
    let url = objects_url(&command.objects)?;
    let config = WorkerConfig {
        slots: command.slots,
        ..WorkerConfig::new(name, command.bind, command.coordinators, url, command.data.join(WORKER_DIR))
    };
    Ok(worker::run(config).await?)
}

pub(crate) async fn run(command: Run) -> Result<(), Failure> {
    if command.workers == 0 {
        return Err(Usage("--workers must be at least 1".into()).into());
    }
    let dir = std::path::absolute(&command.dir).map_err(|error| Usage(error.to_string()))?;
    fs::create_dir_all(&dir).await.map_err(|error| format!("{}: {error}", dir.display()))?;
    // The address is known before the coordinator listens, for those who are to find it.
    let bind = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?.local_addr();
    let parts = Parts {
        job: command.job,
        query: command.query,
        objects_url: format!("file://{}", dir.join("objects").display()),
        bind,
        advertise: None,
        parallelism: command.parallelism,
        // Nobody else wants to lead: what a leader before this left is soon given up.
        lease: Duration::from_millis(500),
        restarts_max: command.restarts_max,
        from: command.from,
        checkpoints: command.checkpoints,
    };
    let config = parts.config()?;
    tell(&format!("job {} in {}, coordinator on {bind}", parts.job, dir.display()));
    let web = match command.http {
        Some(address) => Some(parts.web(address, vec![bind]).await?),
        None => None,
    };
    let mut processes: Vec<futures::future::BoxFuture<'_, Result<(), Failure>>> = Vec::new();
    processes.push(Box::pin(async { Ok(coordinator::run(config).await?) }));
    for number in 1..=command.workers {
        let name = format!("worker-{number}");
        let data = dir.join(format!("{WORKER_DIR}-{number}"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = WorkerConfig::new(name, any, vec![bind], parts.objects_url.clone(), data);
        processes.push(Box::pin(async { Ok(worker::run(config).await?) }));
    }
    processes.extend(web.map(|web| -> futures::future::BoxFuture<'_, _> { Box::pin(web) }));
    processes.push(Box::pin(watch(bind)));
    // Only the watcher ever ends well; whatever ends first ends all.
    futures::future::select_all(processes).await.0
}

/// Says how the job gets on until it is finished.
async fn watch(coordinator: SocketAddr) -> Result<(), Failure> {
    let client = Client::new(vec![coordinator], Duration::from_secs(1));
    let mut shown = String::new();
    loop {
        if let Ok(status) = client.status().await {
            let line = ask::line(&status);
            if line != shown {
                tell(&line);
                shown = line;
            }
            match status.phase {
                JobPhase::Finished | JobPhase::Cancelled => return Ok(()),
                JobPhase::Failed => return Err("the job has failed: it was restarted too often".into()),
                JobPhase::Waiting | JobPhase::Deploying | JobPhase::Running | JobPhase::Finishing => {}
            }
        }
        time::sleep(Duration::from_millis(250)).await;
    }
}
