//! A user of a running job: asks the leader, wherever it is.

use std::net::SocketAddr;
use std::time::Duration;

use cutwater_io::net::Connection;
use cutwater_io::time;

use crate::checkpoint::job_state::ClaimMode;
use crate::checkpoint::request::Request;
use crate::checkpoint::snapshot::CheckpointId;

use super::console::{CheckpointDetails, CheckpointList, TriggerStatus};
use super::rpc::{DecodeError, FromCoordinator, JobStatus, ToCoordinator, decode, encode};

/// A user of a job.
#[derive(Clone, Debug)]
pub struct Client {
    candidates: Vec<SocketAddr>,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// None of the candidates leads, or none answers in time.
    #[error("no leader among {candidates:?}")]
    NoLeader {
        /// Whom it asked.
        candidates: Vec<SocketAddr>,
    },
    /// The leader refused.
    #[error("{leader} refused: {reason}")]
    Refused {
        /// The leader.
        leader: SocketAddr,
        /// Its reason.
        reason: String,
    },
    /// The leader said something else.
    #[error("{leader} answered with something else: {answer:?}")]
    Unexpected {
        /// The leader.
        leader: SocketAddr,
        /// What it said.
        answer: Box<FromCoordinator>,
    },
}

/// Why one address did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("closed without an answer")]
    Closed,
    #[error(transparent)]
    Elapsed(#[from] time::Elapsed),
}

/// Asks one address one question.
pub(super) async fn ask(
    address: SocketAddr,
    question: &ToCoordinator,
    limit: Duration,
) -> Result<FromCoordinator, AskError> {
    time::timeout(limit, async {
        let mut connection = Connection::connect(address).await?;
        connection.sender.send(encode(question)).await?;
        let frame = connection.receiver.recv().await?.ok_or(AskError::Closed)?;
        Ok(decode(&frame)?)
    })
    .await?
}

impl Client {
    /// A client that asks the coordinator candidates in turn, each for at most `timeout`.
    pub fn new(candidates: Vec<SocketAddr>, timeout: Duration) -> Client {
        Client { candidates, timeout }
    }

    /// What the job is doing.
    ///
    /// # Errors
    /// If no candidate answers as the leader.
    pub async fn status(&self) -> Result<JobStatus, ClientError> {
        match self.ask_leader(ToCoordinator::GetStatus).await? {
            (_, FromCoordinator::Status(status)) => Ok(status),
            (leader, answer) => Err(unexpected(leader, answer)),
        }
    }

    /// Asks for another parallelism. Once it returns, the wish is durable.
    ///
    /// # Errors
    /// If it is refused, or no candidate answers as the leader: then the wish may or may not be durable.
    pub async fn rescale(&self, parallelism: u16) -> Result<(), ClientError> {
        self.accepted(ToCoordinator::Rescale { parallelism }).await
    }

    /// Asks for a checkpoint or a savepoint. It returns when the request is taken, not when anything is complete: see
    /// [`Client::trigger_status`]. Asking again under the same trigger id asks for nothing new.
    ///
    /// # Errors
    /// If it is refused, or no candidate answers as the leader: then it may or may not have been taken.
    pub async fn trigger(&self, request: Request) -> Result<(), ClientError> {
        self.accepted(ToCoordinator::Trigger(request)).await
    }

    /// What became of a request.
    ///
    /// # Errors
    /// If no candidate answers as the leader.
    pub async fn trigger_status(&self, trigger_id: &str) -> Result<TriggerStatus, ClientError> {
        match self.ask_leader(ToCoordinator::GetTrigger { trigger_id: trigger_id.into() }).await? {
            (_, FromCoordinator::TriggerStatus(status)) => Ok(status),
            (leader, answer) => Err(unexpected(leader, answer)),
        }
    }

    /// The list of checkpoints.
    ///
    /// # Errors
    /// If no candidate answers as the leader.
    pub async fn checkpoints(&self) -> Result<CheckpointList, ClientError> {
        match self.ask_leader(ToCoordinator::GetCheckpoints).await? {
            (_, FromCoordinator::Checkpoints(list)) => Ok(*list),
            (leader, answer) => Err(unexpected(leader, answer)),
        }
    }

    /// One checkpoint, with the parts of its tasks.
    ///
    /// # Errors
    /// If there is none of that id, or no candidate answers as the leader.
    pub async fn checkpoint(&self, checkpoint: CheckpointId) -> Result<CheckpointDetails, ClientError> {
        match self.ask_leader(ToCoordinator::GetCheckpoint { checkpoint }).await? {
            (_, FromCoordinator::Checkpoint(details)) => Ok(*details),
            (leader, FromCoordinator::Refused { reason }) => Err(ClientError::Refused { leader, reason }),
            (leader, answer) => Err(unexpected(leader, answer)),
        }
    }

    /// Deletes a checkpoint, or the files of a savepoint. Once it returns, it cannot be started from any more.
    ///
    /// # Errors
    /// If it is refused, or no candidate answers as the leader: then it may or may not be deleted.
    pub async fn delete_checkpoint(&self, checkpoint: CheckpointId) -> Result<(), ClientError> {
        self.accepted(ToCoordinator::DeleteCheckpoint { checkpoint }).await
    }

    /// Ends the job at once. Once it returns, that is durable.
    ///
    /// # Errors
    /// If it has ended, or no candidate answers as the leader: then it may or may not end.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        self.accepted(ToCoordinator::Cancel).await
    }

    /// Brings a job back that has ended: from nothing, or from a checkpoint or savepoint, which is `from`'s directory or its
    /// metadata object. Once it returns, that is durable.
    ///
    /// # Errors
    /// If the job has not ended, or cannot start from it; or no candidate answers as the leader: then it may or may not start.
    pub async fn start(
        &self,
        from: Option<String>,
        claim: ClaimMode,
        allow_non_restored: bool,
    ) -> Result<(), ClientError> {
        self.accepted(ToCoordinator::Start { from, claim, allow_non_restored }).await
    }

    async fn accepted(&self, question: ToCoordinator) -> Result<(), ClientError> {
        match self.ask_leader(question).await? {
            (_, FromCoordinator::Accepted) => Ok(()),
            (leader, FromCoordinator::Refused { reason }) => Err(ClientError::Refused { leader, reason }),
            (leader, answer) => Err(unexpected(leader, answer)),
        }
    }

    async fn ask_leader(
        &self,
        question: ToCoordinator,
    ) -> Result<(SocketAddr, FromCoordinator), ClientError> {
        for &candidate in &self.candidates {
            match ask(candidate, &question, self.timeout).await {
                Ok(FromCoordinator::NotLeader { .. }) => {}
                Ok(answer) => return Ok((candidate, answer)),
                Err(error) => tracing::debug!(%candidate, %error, "no answer"),
            }
        }
        Err(ClientError::NoLeader { candidates: self.candidates.clone() })
    }
}

fn unexpected(leader: SocketAddr, answer: FromCoordinator) -> ClientError {
    ClientError::Unexpected { leader, answer: Box::new(answer) }
}
