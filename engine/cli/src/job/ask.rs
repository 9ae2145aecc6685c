//! What a user asks of a job as a whole.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use cutwater_engine::cluster::client::Client;
use cutwater_engine::cluster::rpc::JobStatus;
use serde_json::json;

use super::duration;
use super::origin::From;
use crate::output::{Failure, Output, Style, tell};

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub(crate) struct Coordinators {
    /// The coordinators of the job, with commas between them; the one that leads answers.
    #[arg(long, value_delimiter = ',', required = true, value_name = "ADDRESS,..")]
    coordinators: Vec<SocketAddr>,
    /// How long each may take to answer.
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    patience: Duration,
}

impl Coordinators {
    pub(super) fn client(&self) -> Client {
        Client::new(self.coordinators.clone(), self.patience)
    }
}

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    coordinators: Coordinators,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct Rescale {
    /// How many subtasks each vertex shall have; from 1 to the number of key groups.
    parallelism: u16,
    #[command(flatten)]
    coordinators: Coordinators,
}

#[derive(Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    coordinators: Coordinators,
}

#[derive(Args)]
pub(crate) struct Start {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    coordinators: Coordinators,
}

/// A status for people.
pub(super) fn line(status: &JobStatus) -> String {
    let checkpoint = status.latest_checkpoint.map_or_else(|| "none".into(), |id| id.to_string());
    let JobStatus { phase, attempt, running_tasks, total_tasks, parallelism, .. } = status;
    format!(
        "{phase:?}: attempt {attempt}, parallelism {parallelism}, {running_tasks} of {total_tasks} tasks run, latest checkpoint \
         {checkpoint}"
    )
}

pub(crate) async fn status(command: Status) -> Result<(), Failure> {
    let status = command.coordinators.client().status().await?;
    let mut out = Output::new(Style::plain(command.json));
    let json = json!({
        "phase": format!("{:?}", status.phase).to_lowercase(),
        "epoch": status.epoch,
        "attempt": status.attempt.number,
        "parallelism": status.parallelism,
        "running_tasks": status.running_tasks,
        "total_tasks": status.total_tasks,
        "latest_checkpoint": status.latest_checkpoint.map(|id| id.0),
    });
    out.say(&line(&status), &json)?;
    out.end()
}

pub(crate) async fn rescale(command: Rescale) -> Result<(), Failure> {
    command.coordinators.client().rescale(command.parallelism).await?;
    tell(&format!("the job restarts with parallelism {} from its latest checkpoint", command.parallelism));
    Ok(())
}

pub(crate) async fn cancel(command: Cancel) -> Result<(), Failure> {
    command.coordinators.client().cancel().await?;
    tell("the job is cancelled");
    Ok(())
}

pub(crate) async fn start(command: Start) -> Result<(), Failure> {
    let Start { from, coordinators } = command;
    coordinators.client().start(from.path(), from.claim(), from.allow_non_restored).await?;
    tell("the job starts");
    Ok(())
}
