//! A user of a running job: asks the leader, wherever it is.

use std::net::SocketAddr;
use std::time::Duration;

use cutwater_io::net::Connection;
use cutwater_io::time;

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

    /// Asks for a checkpoint. It returns when the request is taken, not when the checkpoint is complete.
    ///
    /// # Errors
    /// If it is refused, or no candidate answers as the leader.
    pub async fn trigger_checkpoint(&self) -> Result<(), ClientError> {
        self.accepted(ToCoordinator::TriggerCheckpoint).await
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
