//! The view of a running job: its leader is asked, whichever candidate that is.
//!
//! The list of checkpoints is in the job's register, and survives the leader. The sizes of parts can be had from the metadata as long as
//! that is there; when they came and how long they took is known as long as their leader lives.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use cutwater_engine::checkpoint::barrier::{Alignment, SavepointFormat, Stop};
use cutwater_engine::checkpoint::history::{self, Entry, EntryStatus, Kind};
use cutwater_engine::checkpoint::job_state::{ClaimMode, Retention};
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::request::{Request, RequestKind};
use cutwater_engine::checkpoint::snapshot::CheckpointId;
use cutwater_engine::cluster::client::{Client, ClientError};
use cutwater_engine::cluster::console::{
    self, CheckpointList, PartTimes, SubtaskDetails, TriggerStatus, VertexDetails,
};
use cutwater_engine::cluster::rpc::JobPhase;

use super::view::{
    Checkpoint, Config, JobView, Overview, Progress, Source, Status, SubtaskPart, Vertex, VertexPart,
    ViewError, Wish,
};

/// How long a candidate may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may look at what a job is to be started from: every file of it is asked for.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The view of a running job.
#[derive(Debug)]
pub struct Live {
    name: String,
    client: Client,
    starter: Client,
    objects_url: String,
    vertices: Vec<String>,
}

impl Live {
    /// A view of the job `name`, whose vertices have those ids.
    pub fn new(name: &str, coordinators: Vec<SocketAddr>, objects_url: &str, vertices: Vec<String>) -> Live {
        let starter = Client::new(coordinators.clone(), START_PATIENCE);
        let client = Client::new(coordinators, PATIENCE);
        let objects_url = objects_url.trim_end_matches('/').into();
        Live { name: name.into(), client, starter, objects_url, vertices }
    }

    fn location(&self, metadata: &str) -> String {
        let directory = Layout::directory_of(metadata).unwrap_or(metadata);
        format!("{}/{directory}", self.objects_url)
    }

    /// The path in the store of what is named by its path or its URL.
    fn path_of(&self, place: &str) -> String {
        let below = place.strip_prefix(&self.objects_url).filter(|rest| rest.starts_with('/'));
        below.unwrap_or(place).trim_matches('/').to_owned()
    }

    fn all(&self, list: &CheckpointList) -> Vec<Checkpoint> {
        let progress = list.progress.iter().copied().map(Some).chain(std::iter::repeat(None));
        let shown = |(entry, progress): (_, Option<_>)| self.shown(entry, progress.unwrap_or_default());
        list.entries.iter().zip(progress).map(shown).collect()
    }

    fn shown(&self, entry: &Entry, progress: console::Progress) -> Checkpoint {
        let (status, was) = match &entry.status {
            EntryStatus::Creating => (Status::Creating, None),
            EntryStatus::Present(was) => (Status::Present, Some(was)),
            EntryStatus::Cleared { was, .. } => (Status::Cleared, Some(was)),
            EntryStatus::TimedOut { .. } => (Status::Timeout, None),
            EntryStatus::Failed { .. } => (Status::Failed, None),
        };
        // The status in words is its name, and the reason behind a colon.
        let reason = entry.status.to_string().split_once(": ").map(|(_, reason)| reason.to_owned());
        Checkpoint {
            id: entry.id.0,
            description: entry.description.clone(),
            status,
            reason,
            source: match entry.source {
                history::Source::Periodic => Source::Periodic,
                history::Source::Manual => Source::Manual,
                history::Source::OnStop => Source::OnStop,
                history::Source::EndOfInput => Source::EndOfInput,
            },
            savepoint: match &entry.kind {
                Kind::Checkpoint { .. } => None,
                Kind::Savepoint { format: SavepointFormat::Canonical, .. } => Some("CANONICAL"),
                Kind::Savepoint { format: SavepointFormat::Native, .. } => Some("NATIVE"),
            },
            triggered_unix_ms: entry.triggered_unix_ms,
            acknowledged_unix_ms: was.map(|was| was.completed_unix_ms),
            new_bytes: was.map(|was| was.new_bytes),
            full_bytes: was.map_or(0, |was| was.state_bytes),
            job_version: Some(entry.job_version.into()),
            location: entry.location().map(|path| self.location(path)),
            acknowledged: (progress.acknowledged, progress.total),
            persisted_bytes: progress.persisted_bytes,
        }
    }
}

fn unavailable(error: ClientError) -> ViewError {
    match error {
        ClientError::Refused { reason, .. } => ViewError::Refused(reason),
        ClientError::NoLeader { .. } | ClientError::Unexpected { .. } => {
            ViewError::Unavailable(error.to_string())
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn vertex_part(vertex: VertexDetails) -> VertexPart {
    let part = |subtask: Option<SubtaskDetails>| match subtask {
        None => SubtaskPart::default(),
        Some(SubtaskDetails {
            acknowledged_unix_ms,
            state_bytes,
            new_bytes,
            persisted_bytes,
            log_bytes,
            times,
        }) => {
            let ms = |of: fn(&PartTimes) -> u64| times.as_ref().map(|times| of(times) / 1000);
            SubtaskPart {
                is_acknowledged: true,
                acknowledged_unix_ms,
                full_bytes: state_bytes,
                new_bytes: Some(new_bytes),
                sync_ms: ms(|times| times.sync_us),
                async_ms: ms(|times| times.async_us),
                alignment_ms: ms(|times| times.alignment_us),
                start_delay_ms: None,
                persisted_bytes,
                log_bytes,
                is_unaligned: times.is_some_and(|times| times.is_unaligned),
            }
        }
    };
    VertexPart { uid: vertex.uid, subtasks: vertex.subtasks.into_iter().map(part).collect() }
}

fn format_of(name: &str) -> SavepointFormat {
    match name {
        "NATIVE" => SavepointFormat::Native,
        _ => SavepointFormat::Canonical,
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
            JobPhase::Cancelled => "CANCELED",
            JobPhase::Failed => "FAILED",
        };
        let vertex = |uid: &String| Vertex { uid: uid.clone(), parallelism: status.parallelism.into() };
        Ok(Overview {
            name: self.name.clone(),
            state: state.into(),
            attempt: (status.epoch, status.attempt.number),
            tasks: (status.running_tasks, status.total_tasks),
            vertices: self.vertices.iter().map(vertex).collect(),
        })
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ViewError> {
        let list = self.client.checkpoints().await.map_err(unavailable)?;
        Ok(self.all(&list))
    }

    async fn parts(&self, id: u64) -> Result<Option<Vec<VertexPart>>, ViewError> {
        match self.client.checkpoint(CheckpointId(id)).await {
            Ok(details) => Ok(Some(details.vertices.into_iter().map(vertex_part).collect())),
            Err(ClientError::Refused { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn restored(&self) -> Result<Option<Checkpoint>, ViewError> {
        let list = self.client.checkpoints().await.map_err(unavailable)?;
        let Some(restored) = &list.restored else { return Ok(None) };
        // The checkpoint of another job may have the id of one of ours.
        let location = self.location(&restored.location);
        let known = self.all(&list).into_iter().find(|checkpoint| {
            checkpoint.id == restored.id.0 && checkpoint.location.as_ref() == Some(&location)
        });
        Ok(Some(Checkpoint {
            id: restored.id.0,
            savepoint: known.as_ref().and_then(|known| known.savepoint),
            acknowledged_unix_ms: Some(restored.at_unix_ms),
            location: Some(location),
            description: known.map_or_else(String::new, |known| known.description),
            status: Status::Present,
            reason: None,
            source: Source::Periodic,
            triggered_unix_ms: 0,
            new_bytes: None,
            full_bytes: 0,
            job_version: None,
            acknowledged: (0, 0),
            persisted_bytes: 0,
        }))
    }

    async fn config(&self) -> Result<Config, ViewError> {
        let config = self.client.checkpoints().await.map_err(unavailable)?.config;
        Ok(Config {
            interval_ms: ms(config.interval),
            timeout_ms: ms(config.timeout),
            min_pause_ms: ms(config.min_pause),
            max_concurrent: config.max_concurrent as u64,
            tolerable_failures: config.tolerable_failures.into(),
            retained: config.retained as u64,
            retain_on_cancel: config.retention == Retention::RetainOnCancellation,
            unaligned: config.alignment != Alignment::Aligned,
            aligned_timeout_ms: match config.alignment {
                Alignment::AlignedFor { timeout_us } => timeout_us / 1000,
                Alignment::Aligned | Alignment::Unaligned => 0,
            },
            changelog: config.changelog.is_some(),
            materialise_every_ms: config.changelog.map_or(0, |changelog| ms(changelog.materialise_every)),
            storage: self.objects_url.clone(),
        })
    }

    async fn wish(&self, trigger: &str, wish: Wish, description: &str) -> Result<(), ViewError> {
        let savepoint = |target: Option<String>, format: &str, stop| RequestKind::Savepoint {
            target: target.map(|target| target.trim_matches('/').to_owned()),
            format: format_of(format),
            stop,
        };
        let kind = match wish {
            Wish::Checkpoint { full } => RequestKind::Checkpoint { full },
            Wish::Savepoint { target, format, cancel } => {
                savepoint(target, &format, cancel.then_some(Stop::Suspend))
            }
            Wish::Stop { target, format, drain } => {
                savepoint(target, &format, Some(if drain { Stop::Drain } else { Stop::Suspend }))
            }
            Wish::Cancel => return self.client.cancel().await.map_err(unavailable),
            Wish::Start { from, claim, allow_non_restored } => {
                let claim = if claim { ClaimMode::Claim } else { ClaimMode::NoClaim };
                let from = from.map(|place| self.path_of(&place));
                return self.starter.start(from, claim, allow_non_restored).await.map_err(unavailable);
            }
            Wish::Delete { id } => {
                return self.client.delete_checkpoint(CheckpointId(id)).await.map_err(unavailable);
            }
        };
        let request = Request { trigger_id: trigger.into(), kind, description: description.into() };
        self.client.trigger(request).await.map_err(unavailable)
    }

    async fn progress(&self, trigger: &str) -> Result<Option<Progress>, ViewError> {
        Ok(match self.client.trigger_status(trigger).await.map_err(unavailable)? {
            TriggerStatus::Unknown => None,
            TriggerStatus::Waiting => Some(Progress::Working),
            TriggerStatus::GivenBack { reason } => Some(Progress::Failed { reason }),
            TriggerStatus::Triggered(entry) => Some(match &entry.status {
                EntryStatus::Creating => Progress::Working,
                EntryStatus::Present(_) | EntryStatus::Cleared { .. } => Progress::Done {
                    id: Some(entry.id.0),
                    location: entry.location().map(|path| self.location(path)),
                },
                EntryStatus::TimedOut { .. } | EntryStatus::Failed { .. } => {
                    Progress::Failed { reason: entry.status.to_string() }
                }
            }),
        })
    }
}
