//! Checkpoints and savepoints that a user asks for, and the list of what there is.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use cutwater_engine::checkpoint::barrier::{SavepointFormat, Stop};
use cutwater_engine::checkpoint::history::{Entry, EntryStatus, Kind};
use cutwater_engine::checkpoint::layout::Layout;
use cutwater_engine::checkpoint::request::{Request, RequestKind};
use cutwater_engine::checkpoint::snapshot::CheckpointId;
use cutwater_engine::cluster::client::Client;
use cutwater_engine::cluster::console::{PartTimes, TriggerStatus};
use cutwater_io::{entropy, time};
use serde_json::{Value, json};

use super::ask::Coordinators;
use crate::output::{Failure, Output, Style, tell};

/// From one look at what becomes of a request to the next.
const LOOK: Duration = Duration::from_millis(200);

/// How often a request may be unknown in a row before it is lost: its leader may just be gone, and come back.
const LOOKS_MAX: u32 = 50;

/// What is common to all requests.
#[derive(Args, Clone, Debug)]
pub(crate) struct Asked {
    #[command(flatten)]
    coordinators: Coordinators,
    /// For people; it stays with the checkpoint.
    #[arg(long, default_value = "")]
    description: String,
    /// Who asks again under the same id asks for nothing new; without it, one is drawn.
    #[arg(long)]
    trigger_id: Option<String>,
    /// Do not wait until it is complete.
    #[arg(long)]
    detached: bool,
}

#[derive(Args)]
pub(crate) struct Checkpoint {
    /// References nothing of earlier ones.
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    asked: Asked,
}

/// Where a savepoint goes, and what it looks like.
#[derive(Args, Clone, Debug)]
pub(crate) struct Savepoint {
    /// A directory in the object store, in which it gets one of its own; without this, one of the job's.
    #[arg(long, value_name = "PATH")]
    target: Option<String>,
    /// Entries that any backend can read, or the files of the backend as they are.
    #[arg(long = "type", value_enum, default_value_t = Format::Canonical)]
    format: Format,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args)]
pub(crate) struct StopJob {
    /// The job is over: time runs to its end before the savepoint, and all timers fire.
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    savepoint: Savepoint,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Canonical,
    Native,
}

#[derive(Subcommand)]
pub(crate) enum Checkpoints {
    /// All that are known.
    List {
        #[command(flatten)]
        coordinators: Coordinators,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// One, and the parts of its subtasks.
    Show {
        /// Its number.
        id: u64,
        #[command(flatten)]
        coordinators: Coordinators,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Deletes one, or the files of a savepoint: the job cannot be started from it any more.
    Delete {
        /// Its number.
        id: u64,
        #[command(flatten)]
        coordinators: Coordinators,
    },
}

impl Savepoint {
    fn kind(&self, stop: Option<Stop>) -> RequestKind {
        RequestKind::Savepoint {
            target: self.target.as_ref().map(|target| target.trim_matches('/').to_owned()),
            format: match self.format {
                Format::Canonical => SavepointFormat::Canonical,
                Format::Native => SavepointFormat::Native,
            },
            stop,
        }
    }
}

pub(crate) async fn checkpoint(command: Checkpoint) -> Result<(), Failure> {
    ask(&command.asked, RequestKind::Checkpoint { full: command.full }).await
}

pub(crate) async fn savepoint(command: Savepoint) -> Result<(), Failure> {
    ask(&command.asked, command.kind(None)).await
}

pub(crate) async fn stop(command: StopJob) -> Result<(), Failure> {
    let stop = if command.drain { Stop::Drain } else { Stop::Suspend };
    ask(&command.savepoint.asked, command.savepoint.kind(Some(stop))).await
}

/// Asks, and waits for what becomes of it.
async fn ask(asked: &Asked, kind: RequestKind) -> Result<(), Failure> {
    let client = asked.coordinators.client();
    let trigger_id =
        asked.trigger_id.clone().unwrap_or_else(|| entropy::uuid("engine.cli.trigger").replace('-', ""));
    let description = asked.description.clone();
    client.trigger(Request { trigger_id: trigger_id.clone(), kind, description }).await?;
    if asked.detached {
        tell(&format!("asked for, trigger id {trigger_id}"));
        return Ok(());
    }
    let entry = outcome(&client, &trigger_id).await?;
    match entry.location() {
        Some(metadata) => {
            let place = Layout::directory_of(metadata).unwrap_or(metadata);
            tell(&format!("{} {} is complete: {place}", kind_of(&entry), entry.id));
            Ok(())
        }
        None => Err(format!("{} {}: {}", kind_of(&entry), entry.id, entry.status).into()),
    }
}

async fn outcome(client: &Client, trigger_id: &str) -> Result<Entry, Failure> {
    let mut unknown = 0;
    loop {
        match client.trigger_status(trigger_id).await {
            Ok(TriggerStatus::Triggered(entry)) if entry.status != EntryStatus::Creating => {
                return Ok(*entry);
            }
            Ok(TriggerStatus::GivenBack { reason }) => return Err(reason.into()),
            Ok(TriggerStatus::Waiting | TriggerStatus::Triggered(_)) => unknown = 0,
            Ok(TriggerStatus::Unknown) if unknown >= LOOKS_MAX => {
                return Err("nobody knows of the request any more: its leader is gone".into());
            }
            Err(error) if unknown >= LOOKS_MAX => return Err(error.into()),
            Ok(TriggerStatus::Unknown) | Err(_) => unknown += 1,
        }
        time::sleep(LOOK).await;
    }
}

fn kind_of(entry: &Entry) -> &'static str {
    if entry.is_savepoint() { "savepoint" } else { "checkpoint" }
}

pub(crate) async fn list(command: Checkpoints) -> Result<(), Failure> {
    match command {
        Checkpoints::List { coordinators, json } => {
            let list = coordinators.client().checkpoints().await?;
            let mut out = Output::new(Style::plain(json));
            for entry in &list.entries {
                out.say(&line(entry), &fields(entry))?;
            }
            out.end()
        }
        Checkpoints::Show { id, coordinators, json } => {
            let details = coordinators.client().checkpoint(CheckpointId(id)).await?;
            let mut out = Output::new(Style::plain(json));
            out.say(&line(&details.entry), &fields(&details.entry))?;
            for vertex in &details.vertices {
                let uid = &vertex.uid;
                for (index, part) in vertex.subtasks.iter().enumerate() {
                    let text = match part {
                        None => format!("  {uid} {index}: not acknowledged"),
                        Some(part) => {
                            let log = match part.log_bytes {
                                0 => String::new(),
                                log_bytes => format!(", {log_bytes} of them log"),
                            };
                            format!(
                                "  {uid} {index}: {} bytes, {} of them new{log}{}",
                                part.state_bytes,
                                part.new_bytes,
                                took(part.times)
                            )
                        }
                    };
                    let json = json!({
                        "vertex": uid, "subtask": index,
                        "state_bytes": part.map(|part| part.state_bytes),
                        "new_bytes": part.map(|part| part.new_bytes),
                        "persisted_bytes": part.map(|part| part.persisted_bytes),
                        "log_bytes": part.map(|part| part.log_bytes),
                        "acknowledged_unix_ms": part.and_then(|part| part.acknowledged_unix_ms),
                        "times": part.and_then(|part| part.times),
                    });
                    out.say(&text, &json)?;
                }
            }
            out.end()
        }
        Checkpoints::Delete { id, coordinators } => {
            coordinators.client().delete_checkpoint(CheckpointId(id)).await?;
            tell(&format!("{id} is deleted"));
            Ok(())
        }
    }
}

fn took(times: Option<PartTimes>) -> String {
    times.map_or_else(String::new, |PartTimes { alignment_us, sync_us, async_us, is_unaligned }| {
        let kind = if is_unaligned { "overtook" } else { "aligned" };
        format!("; {kind} after {alignment_us} us, sync {sync_us} us, async {async_us} us")
    })
}

fn was(entry: &Entry) -> Option<&cutwater_engine::checkpoint::history::Present> {
    match &entry.status {
        EntryStatus::Present(was) | EntryStatus::Cleared { was, .. } => Some(was),
        EntryStatus::Creating | EntryStatus::TimedOut { .. } | EntryStatus::Failed { .. } => None,
    }
}

/// An entry for people. A description may hold anything.
fn line(entry: &Entry) -> String {
    let took = was(entry).map_or_else(String::new, |was| {
        let ms = was.completed_unix_ms.saturating_sub(entry.triggered_unix_ms);
        format!(", {ms} ms, {} bytes, {} of them new", was.state_bytes, was.new_bytes)
    });
    let place = entry.location().map_or_else(String::new, |location| format!("  {location}"));
    format!(
        "{} {} ({:?}, {}): {}{took}{place}",
        kind_of(entry),
        entry.id,
        entry.source,
        entry.description.escape_debug(),
        entry.status.to_string().escape_debug(),
    )
}

fn fields(entry: &Entry) -> Value {
    let was = was(entry);
    let (status, reason) = {
        let text = entry.status.to_string();
        match text.split_once(": ") {
            Some((status, reason)) => (status.to_owned(), Some(reason.to_owned())),
            None => (text, None),
        }
    };
    json!({
        "id": entry.id.0,
        "kind": kind_of(entry),
        "full": matches!(entry.kind, Kind::Checkpoint { full: true }),
        "source": format!("{:?}", entry.source),
        "description": entry.description,
        "trigger_id": entry.trigger_id,
        "job_version": entry.job_version,
        "status": status,
        "reason": reason,
        "triggered_unix_ms": entry.triggered_unix_ms,
        "completed_unix_ms": was.map(|was| was.completed_unix_ms),
        "state_bytes": was.map(|was| was.state_bytes),
        "new_bytes": was.map(|was| was.new_bytes),
        "location": entry.location(),
    })
}
