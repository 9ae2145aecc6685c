//! The view of a running job: its leader is asked what it does, the register in the object store what it retains.
//!
//! A checkpoint that was seen in the register and is there no more is shown as cleared; the list keeps the newest
//! [`REMEMBERED`]. Failed checkpoints are in no register, and are not shown. How long a subtask took is not in the metadata, so parts
//! have sizes alone.
//!
//! A wish for a checkpoint counts as fulfilled by the first later one that the leader did not take by itself; other wishes are refused,
//! as the leader cannot fulfil them. Numbers tell what is later: clocks of two machines do not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cutwater_engine::checkpoint::log::{CompletedCheckpoint, JobState};
use cutwater_engine::checkpoint::read;
use cutwater_engine::checkpoint::snapshot::SubtaskState;
use cutwater_engine::cluster::client::{Client, ClientError};
use cutwater_engine::cluster::rpc::JobPhase;
use cutwater_io::time;
use object_store::ObjectStore;

use super::view::{
    Checkpoint, Config, JobView, Overview, Progress, Source, Status, SubtaskPart, Vertex, VertexPart,
    ViewError, Wish,
};

/// How many checkpoints are remembered, retained or not.
pub const REMEMBERED: usize = 200;

/// How many triggers are remembered.
const TRIGGERS: u64 = 1000;

/// How long a candidate may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The view of a running job.
pub struct Live {
    name: String,
    client: Client,
    store: Arc<dyn ObjectStore>,
    objects_url: String,
    config: Config,
    vertices: Vec<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By number.
    checkpoints: BTreeMap<u64, (CompletedCheckpoint, Status)>,
    /// Of each trigger, the how many-th it was, and the latest checkpoint before it.
    triggers: BTreeMap<String, (u64, u64)>,
    /// How many triggers there were.
    triggered: u64,
}

impl Live {
    /// A view of the job `name`, whose vertices have those ids.
    pub fn new(
        name: &str,
        coordinators: Vec<SocketAddr>,
        store: Arc<dyn ObjectStore>,
        objects_url: &str,
        config: Config,
        vertices: Vec<String>,
    ) -> Live {
        Live {
            name: name.into(),
            client: Client::new(coordinators, PATIENCE),
            store,
            objects_url: objects_url.into(),
            config,
            vertices,
            seen: Mutex::default(),
        }
    }

    /// Looks at the register from time to time, so that short-lived checkpoints are seen, too; for ever.
    pub async fn watch(self: Arc<Live>, pause: Duration) {
        loop {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the register cannot be read");
            }
            time::sleep(pause).await;
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // What is remembered is whole between any two statements.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) -> Result<Option<JobState>, ViewError> {
        let state = read::load_job_state(&*self.store, &self.name).await;
        let state = state.map_err(|error| ViewError::Unavailable(error.to_string()))?;
        let mut seen = self.seen();
        for (_, status) in seen.checkpoints.values_mut() {
            *status = Status::Cleared;
        }
        for completed in state.iter().flat_map(|state| &state.retained) {
            seen.checkpoints.insert(completed.id.0, (completed.clone(), Status::Present));
        }
        while seen.checkpoints.len() > REMEMBERED {
            seen.checkpoints.pop_first();
        }
        drop(seen);
        Ok(state)
    }

    fn shown(&self, completed: &CompletedCheckpoint, status: Status) -> Checkpoint {
        Checkpoint {
            id: completed.id.0,
            description: completed.description.clone(),
            status,
            reason: (status == Status::Cleared).then(|| "newer checkpoints took its place".into()),
            // These are the leader's words for what it takes by itself.
            source: match completed.description.as_str() {
                "periodic" => Source::Periodic,
                "end of input" => Source::OnStop,
                _ => Source::Manual,
            },
            savepoint: None,
            triggered_unix_ms: completed.triggered_unix_ms,
            acknowledged_unix_ms: Some(completed.completed_unix_ms),
            new_bytes: None,
            full_bytes: completed.state_bytes,
            job_version: None,
            location: completed
                .metadata
                .path
                .strip_suffix("/_metadata")
                .map(|path| format!("{}/{path}", self.objects_url.trim_end_matches('/'))),
            acknowledged: (0, 0),
        }
    }
}

fn unavailable(error: ClientError) -> ViewError {
    match error {
        ClientError::Refused { .. } => ViewError::Refused(error.to_string()),
        ClientError::NoLeader { .. } | ClientError::Unexpected { .. } => {
            ViewError::Unavailable(error.to_string())
        }
    }
}

#[async_trait]
impl JobView for Live {
    fn name(&self) -> &str {
        &self.name
    }

    async fn overview(&self) -> Result<Overview, ViewError> {
        let status = self.client.status().await.map_err(unavailable)?;
        let state = match status.phase {
            JobPhase::Waiting => "CREATED",
            JobPhase::Deploying if status.attempt.number > 1 => "RESTARTING",
            JobPhase::Deploying => "INITIALIZING",
            JobPhase::Running | JobPhase::Finishing => "RUNNING",
            JobPhase::Finished => "FINISHED",
        };
        let register = self.look().await?;
        let vertex = |uid: &String| Vertex { uid: uid.clone(), parallelism: status.parallelism.into() };
        Ok(Overview {
            name: self.name.clone(),
            state: state.into(),
            attempt: (status.epoch, status.attempt.number),
            max_parallelism: register.map_or(0, |register| register.max_parallelism.into()),
            tasks: (status.running_tasks, status.total_tasks),
            vertices: self.vertices.iter().map(vertex).collect(),
        })
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ViewError> {
        self.look().await?;
        let seen = self.seen();
        Ok(seen.checkpoints.values().map(|(completed, status)| self.shown(completed, *status)).collect())
    }

    async fn parts(&self, id: u64) -> Result<Option<Vec<VertexPart>>, ViewError> {
        let found = self.seen().checkpoints.get(&id).cloned();
        let Some((completed, Status::Present)) = found else { return Ok(None) };
        let content = read::load_metadata(&*self.store, &completed).await;
        let content = content.map_err(|error| ViewError::Unavailable(error.to_string()))?;
        let bytes = |state: &SubtaskState| {
            let files = state.shared_files().chain(state.private_files());
            files.map(|handle| handle.len_bytes).sum()
        };
        let part = |state: &SubtaskState| SubtaskPart {
            acknowledged_unix_ms: Some(completed.completed_unix_ms),
            full_bytes: bytes(state),
            ..SubtaskPart::default()
        };
        let vertices = content.vertices.iter();
        Ok(Some(
            vertices
                .map(|vertex| VertexPart {
                    uid: vertex.uid.clone(),
                    subtasks: vertex.subtasks.iter().map(part).collect(),
                })
                .collect(),
        ))
    }

    async fn restored(&self) -> Result<Option<Checkpoint>, ViewError> {
        Ok(None)
    }

    async fn config(&self) -> Result<Config, ViewError> {
        Ok(self.config.clone())
    }

    async fn wish(&self, trigger: &str, wish: Wish, description: &str) -> Result<(), ViewError> {
        match wish {
            Wish::Checkpoint { full: false } if description.is_empty() => {}
            Wish::Checkpoint { full: false } => {
                return Err(ViewError::Refused("the leader takes no description yet".into()));
            }
            _ => return Err(ViewError::Refused("the leader cannot do that yet".into())),
        }
        if self.seen().triggers.contains_key(trigger) {
            return Ok(());
        }
        self.look().await?;
        let before = self.seen().checkpoints.last_key_value().map_or(0, |(id, _)| *id);
        self.client.trigger_checkpoint().await.map_err(unavailable)?;
        let mut seen = self.seen();
        seen.triggered += 1;
        let nth = seen.triggered;
        seen.triggers.insert(trigger.into(), (nth, before));
        seen.triggers.retain(|_, (of, _)| *of + TRIGGERS > nth);
        Ok(())
    }

    async fn progress(&self, trigger: &str) -> Result<Option<Progress>, ViewError> {
        let Some((_, before)) = self.seen().triggers.get(trigger).copied() else { return Ok(None) };
        let all = self.checkpoints().await?;
        let led_to =
            all.into_iter().find(|checkpoint| checkpoint.id > before && checkpoint.source == Source::Manual);
        Ok(Some(led_to.map_or(Progress::Working, |checkpoint| Progress::Done {
            id: Some(checkpoint.id),
            location: checkpoint.location,
        })))
    }
}
