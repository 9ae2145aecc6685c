//! Tasks: the loops that run the subtasks of a deployment and take their part in checkpoints.
//!
//! - [`source`]: reads partitions, and emits a barrier when the coordinator says so.
//! - [`intake`]: the input of the other two, and what its barriers ask for.
//! - [`operator`]: snapshots its state; [`process`]: records, watermarks, timers.
//! - [`changelog`]: uploads the log of its changes, if they are logged.
//! - [`sink`]: stages and commits output.
//! - [`timing`]: how long a part in a checkpoint takes.
//!
//! Each is one loop over what may happen next: a command, the end of an asynchronous part, room in the output, an element of
//! the input. An element is processed to its end before the next thing is looked at, so that barrier and snapshot are atomic
//! with respect to records. A task never waits for room in its output in any other place: a barrier must reach it when
//! nothing moves. The barrier goes downstream *before* the local snapshot (Flink: `SubtaskCheckpointCoordinatorImpl`), so that
//! alignment does not wait for disks.
//!
//! A task that meets an error ends, and the attempt with it. A task that is cancelled closes its store before [`run`]
//! returns.

mod background;
mod changelog;
mod intake;
mod operator;
mod process;
mod sink;
mod source;
mod timing;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::entropy;
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};

use self::timing::Timing;
use super::Error;
use super::channel::{Expected, Input, Limits, Output};
use super::emit::{Emitter, Route};
use super::exchange::Exchange;
use super::graph::{JobGraph, VertexKind};
use super::in_flight::{self, Content};
use crate::checkpoint::barrier::Barrier;
use crate::checkpoint::layout::Layout;
use crate::checkpoint::snapshot::{CheckpointId, InFlight, SubtaskState};
use crate::cluster::rpc::{Attempt, Declined, Placement, TaskDeployment, TaskId, ToCoordinator};
use crate::state::blob::{self, Blobs};
use crate::state::changelog::ChangelogOptions;
use crate::state::key_groups;
use crate::state::upload::{self, UploadOptions, Uploaded};
use crate::store;

/// After how many elements a task looks whether more has arrived and sends what it can.
const ELEMENTS_PER_LOOK: u32 = 8;
/// After how many elements commands and the ends of uploads have their turn.
const ELEMENTS_PER_ROUND: u32 = 64;
/// After how many records a millisecond of CPU is charged in the simulation.
const RECORDS_PER_CHARGE: u32 = 256;
/// Closing a store after a cancellation may not hold up the next deployment for longer.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What the coordinator wants of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Emit this barrier; for sources.
    Trigger(Barrier),
    /// The checkpoint is durable.
    Complete(CheckpointId),
    /// The checkpoint will never be.
    Aborted(CheckpointId),
}

/// Everything a task is given.
pub struct TaskContext {
    /// The deployment it belongs to.
    pub attempt: Attempt,
    /// The job is about to end with a savepoint: sources read nothing.
    pub stopping: bool,
    /// What to run, from what.
    pub deployment: TaskDeployment,
    /// The job.
    pub graph: Arc<JobGraph>,
    /// Where the other tasks are.
    pub placements: Arc<Vec<Placement>>,
    /// The job's objects.
    pub layout: Layout,
    /// The object store.
    pub blobs: Blobs,
    /// Its directory, which nobody else uses.
    pub dir: PathBuf,
    /// Of its store.
    pub store: store::Options,
    /// How much of its state is kept in memory before the store, in bytes.
    pub state_cache_bytes: usize,
    /// How snapshots are uploaded.
    pub upload: UploadOptions,
    /// How changes of keyed state are logged, if they are.
    pub changelog: Option<ChangelogOptions>,
    /// How much lies at the ends of its channels.
    pub channel_limits: Limits,
    /// How long to wait for channels.
    pub channel_patience: Duration,
    /// The channels into it.
    pub inputs: Vec<Expected>,
    /// From the coordinator. Its end is the end of the task.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// To the coordinator.
    pub events: mpsc::UnboundedSender<ToCoordinator>,
    /// Becomes true when the task shall end.
    pub cancelled: watch::Receiver<bool>,
}

/// Runs a task until it fails or is cancelled. When this returns, its store is closed.
///
/// # Errors
/// What made it fail.
pub async fn run(context: TaskContext) -> Result<(), Error> {
    validate(&context)?;
    // Boxed, here and at the parts of a task: the compiler gives up on the type of the whole.
    let work = match context.kind() {
        VertexKind::Source(source) => source::run(context, source).boxed(),
        VertexKind::Keyed(factory) => operator::run_keyed(context, factory()).boxed(),
        VertexKind::Plain(factory) => operator::run_plain(context, factory()).boxed(),
        VertexKind::Sink => sink::run(context).boxed(),
    };
    work.await
}

/// The deployment came over the network, and from a process that may have been built with other queries.
fn validate(context: &TaskContext) -> Result<(), Error> {
    let TaskDeployment { task, parallelism, range, restore } = &context.deployment;
    let wrong = |what: String| Err(Error::Deployment { task: *task, what });
    let max = context.graph.max_parallelism;
    let Some(vertex) = context.graph.vertices.get(usize::from(task.vertex)) else {
        return wrong(format!("the query has {} vertices", context.graph.vertices.len()));
    };
    if !(1..=max).contains(parallelism) || task.subtask >= *parallelism {
        return wrong(format!("subtask {} of {parallelism}, max parallelism {max}", task.subtask));
    }
    let is_source = matches!(vertex.kind, VertexKind::Source(_));
    if !is_source && *range != key_groups::range(task.subtask, *parallelism, max) {
        return wrong(format!("range {range:?} is not that of {} of {parallelism}, max {max}", task.subtask));
    }
    let fits = |state: &SubtaskState| {
        matches!(
            (&vertex.kind, state),
            (VertexKind::Source(_), SubtaskState::Source(_))
                | (VertexKind::Keyed(_), SubtaskState::Keyed(_))
                | (VertexKind::Plain(_), SubtaskState::Plain(_))
                | (VertexKind::Sink, SubtaskState::Sink(_))
                | (VertexKind::Keyed(_) | VertexKind::Plain(_) | VertexKind::Sink, SubtaskState::InFlight(_))
        )
    };
    let in_flight = restore.iter().filter_map(SubtaskState::in_flight);
    if let Some(channel) = in_flight.flat_map(|f| &f.channels).find(|c| c.to.vertex != task.vertex) {
        return wrong(format!("it is handed what was in flight to {}", channel.to));
    }
    match restore.iter().find(|state| !fits(state)) {
        Some(_) => {
            wrong(format!("{} is a {:?} and is handed a state of another kind", vertex.uid, vertex.kind))
        }
        None => Ok(()),
    }
}

impl TaskContext {
    fn task(&self) -> TaskId {
        self.deployment.task
    }

    fn kind(&self) -> VertexKind {
        self.graph.vertices[usize::from(self.task().vertex)].kind.clone()
    }

    fn uid(&self) -> &str {
        &self.graph.vertices[usize::from(self.task().vertex)].uid
    }

    async fn open_input(&mut self) -> Result<Input, Error> {
        let inputs = std::mem::take(&mut self.inputs);
        let input = Input::open(self.task(), inputs, self.channel_limits, self.channel_patience).await?;
        if input.channels() == 0 {
            return Err(Error::Deployment { task: self.task(), what: "no task sends to it".into() });
        }
        Ok(input)
    }

    async fn open_output(&self) -> Result<Emitter, Error> {
        let task = self.task();
        let (mut channels, mut routes) = (Vec::new(), Vec::new());
        let max_parallelism = self.graph.max_parallelism;
        for (i, vertex) in self.graph.outputs(task.vertex).into_iter().enumerate() {
            let to: Vec<(TaskId, SocketAddr)> = targets(&self.placements, vertex);
            let in_order = (0u16..).zip(&to).all(|(i, (task, _))| task.subtask == i);
            let parallelism = u16::try_from(to.len()).unwrap_or(u16::MAX);
            if !in_order || !(1..=max_parallelism).contains(&parallelism) {
                let what = format!("placements of vertex {vertex} are not its subtasks: {to:?}");
                return Err(Error::Deployment { task, what });
            }
            for edge in self.graph.edges.iter().filter(|edge| (edge.from, edge.to) == (task.vertex, vertex)) {
                let exchange = Exchange::new(edge.partitioning, task.subtask, parallelism, max_parallelism);
                routes.push(Route { vertex: i, exchange, input: edge.input, step: edge.step.clone() });
            }
            channels.push(to);
        }
        let output =
            Output::open(self.attempt, task, channels, self.channel_limits, self.channel_patience).await?;
        Ok(Emitter::new(output, routes))
    }

    fn say(&self, event: ToCoordinator) {
        // The worker has ended if nobody listens, and so will this task.
        drop(self.events.send(event));
    }

    fn running(&self) {
        self.say(ToCoordinator::Running { attempt: self.attempt, task: self.task() });
    }

    fn acknowledge(&self, checkpoint: CheckpointId, state: SubtaskState, timing: Timing) {
        let (attempt, task, times) = (self.attempt, self.task(), timing.acknowledged());
        self.say(ToCoordinator::Acknowledge { attempt, checkpoint, task, state, times });
    }

    fn decline(&self, checkpoint: CheckpointId, why: Declined) {
        let (attempt, task) = (self.attempt, self.task());
        self.say(ToCoordinator::Decline { attempt, checkpoint, task, why });
    }

    fn names(&self) -> TaskNames {
        TaskNames { layout: self.layout.clone(), attempt: self.attempt, task: self.task() }
    }
}

fn targets(placements: &[Placement], vertex: u16) -> Vec<(TaskId, SocketAddr)> {
    let of_vertex = placements.iter().filter(|placement| placement.task.vertex == vertex);
    let mut targets: Vec<_> = of_vertex.map(|placement| (placement.task, placement.data_address)).collect();
    targets.sort();
    targets
}

/// The channels into the tasks of a worker: every subtask of every vertex that sends to theirs.
pub fn channels_into(
    graph: &JobGraph,
    placements: &[Placement],
    tasks: impl Iterator<Item = TaskId>,
) -> Vec<(TaskId, TaskId)> {
    let senders = |to: TaskId| {
        let vertices = graph.inputs(to.vertex);
        vertices.into_iter().flat_map(|vertex| targets(placements, vertex)).map(move |(from, _)| (from, to))
    };
    tasks.flat_map(senders).collect()
}

/// Waits until what is in flight is complete, and makes it durable. For ever if the checkpoint is given up: whoever does that
/// ends this too.
async fn persist(
    content: Option<oneshot::Receiver<Content>>,
    blobs: &Blobs,
    names: &TaskNames,
    checkpoint: CheckpointId,
    uploaded: &Uploaded,
) -> Result<Option<InFlight>, blob::Error> {
    let Some(content) = content else { return Ok(None) };
    let Ok(content) = content.await else { return std::future::pending().await };
    in_flight::upload(blobs, names, checkpoint, content, uploaded).await
}

/// Names for the objects of one task.
struct TaskNames {
    layout: Layout,
    attempt: Attempt,
    task: TaskId,
}

impl upload::Names for TaskNames {
    fn shared(&self) -> String {
        self.layout.shared(self.attempt, &entropy::uuid("state.shared"))
    }
    fn private(&self, checkpoint: CheckpointId) -> String {
        self.layout.private(checkpoint, self.attempt, self.task, &entropy::uuid("state.private"))
    }
    fn savepoint(&self, directory: &str) -> String {
        format!("{directory}/{}", entropy::uuid("state.savepoint"))
    }
}

/// Runs `work` until it ends or the task is cancelled; `Ok` if cancelled.
async fn until_cancelled(
    mut cancelled: watch::Receiver<bool>,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let end = async move { drop(cancelled.wait_for(|cancelled| *cancelled).await) };
    let (end, work) = (end.fuse(), work.fuse());
    futures::pin_mut!(end, work);
    futures::select_biased! {
        () = end => Ok(()),
        result = work => result,
    }
}
