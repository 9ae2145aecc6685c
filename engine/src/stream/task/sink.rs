//! The task of a sink: see [`crate::stream::sink`] for the protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use cutwater_io::task::JoinError;
use cutwater_io::{sometimes, time};
use futures::FutureExt;

use super::background::Background;
use super::{Command, RECORDS_PER_CHARGE, TaskContext, until_cancelled};
use crate::checkpoint::snapshot::{CheckpointId, SinkTransaction, SubtaskState};
use crate::cluster::rpc::ToCoordinator;
use crate::state::blob;
use crate::state::upload::Uploaded;
use crate::stream::alignment::Aligner;
use crate::stream::channel::Input;
use crate::stream::record::Element;
use crate::stream::sink::transactions::Transactions;
use crate::stream::sink::{commit, recommit, stage};
use crate::stream::{Error, points};

type Staged = Result<Vec<SinkTransaction>, blob::Error>;

pub(super) async fn run(mut context: TaskContext) -> Result<(), Error> {
    let cancelled = context.cancelled.clone();
    until_cancelled(cancelled, async move {
        recommit_all(&context).await?;
        let input = context.open_input().await?;
        context.running();
        let task = SinkTask {
            transactions: Transactions::new(context.attempt, context.task()),
            aligner: Aligner::new(input.channels()),
            staging: Background::new(),
            committing: Background::new(),
            uploaded: BTreeMap::new(),
            processed: 0,
            context,
            input,
        };
        task.work().await
    })
    .await
}

async fn recommit_all(context: &TaskContext) -> Result<(), Error> {
    for state in &context.deployment.restore {
        let SubtaskState::Sink(transactions) = state else { continue };
        for transaction in transactions {
            recommit(&context.blobs, &context.layout, transaction).await?;
        }
    }
    Ok(())
}

struct SinkTask {
    context: TaskContext,
    input: Input,
    aligner: Aligner,
    transactions: Transactions,
    staging: Background<Staged>,
    committing: Background<Result<(), Error>>,
    /// What was or may have been staged under each checkpoint whose fate is open.
    uploaded: BTreeMap<CheckpointId, Uploaded>,
    processed: u32,
}

enum Happening {
    Command(Option<Command>),
    Staged(CheckpointId, Result<Staged, JoinError>),
    Committed(CheckpointId, Result<Result<(), Error>, JoinError>),
    Input(Result<(), Error>),
}

impl SinkTask {
    async fn work(mut self) -> Result<(), Error> {
        loop {
            while let Some((channel, element)) = self.input.buffered(|i| self.aligner.is_blocked(i))? {
                match element {
                    Element::Record(record) => {
                        self.transactions.push(&record);
                        self.charge().await;
                    }
                    Element::Barrier(checkpoint) => {
                        self.barrier(channel, checkpoint);
                        break;
                    }
                }
            }
            match self.next().await {
                Happening::Command(None) => return Ok(()),
                Happening::Command(Some(command)) => self.obey(command),
                Happening::Staged(checkpoint, result) => self.staged(checkpoint, result)?,
                Happening::Committed(checkpoint, result) => {
                    result.map_err(|source| Error::Background { checkpoint, source })??;
                    self.transactions.committed(checkpoint);
                    self.report();
                }
                Happening::Input(result) => result?,
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let SinkTask { context, staging, committing, input, aligner, .. } = self;
        let buffered = input.has_buffered(|i| aligner.is_blocked(i));
        let input = async { if buffered { Ok(()) } else { input.wait(|i| aligner.is_blocked(i)).await } };
        let command = context.commands.recv().fuse();
        let (staged, committed, input) = (staging.next().fuse(), committing.next().fuse(), input.fuse());
        futures::pin_mut!(command, staged, committed, input);
        futures::select_biased! {
            command = command => Happening::Command(command),
            (checkpoint, result) = staged => Happening::Staged(checkpoint, result),
            (checkpoint, result) = committed => Happening::Committed(checkpoint, result),
            result = input => Happening::Input(result),
        }
    }

    async fn charge(&mut self) {
        self.processed += 1;
        if self.processed >= RECORDS_PER_CHARGE {
            self.processed = 0;
            time::charge(Duration::from_millis(1)).await;
        }
    }

    fn barrier(&mut self, channel: usize, checkpoint: CheckpointId) {
        let decision = self.aligner.barrier(channel, checkpoint);
        if let Some(older) = decision.declined {
            sometimes!(points::ALIGNMENT_SUPERSEDED, true);
            self.context.decline(older, format!("superseded by checkpoint {checkpoint}"));
        }
        let Some(checkpoint) = decision.snapshot else { return };
        sometimes!(points::ALIGNED_BLOCKED, self.input.channels() > 1);
        let transactions = self.transactions.barrier(checkpoint);
        let uploaded = Uploaded::default();
        self.uploaded.insert(checkpoint, uploaded.clone());
        let (blobs, layout) = (self.context.blobs.clone(), self.context.layout.clone());
        let attempt = self.context.attempt;
        self.staging.start(checkpoint, async move {
            stage(&blobs, &layout, attempt, checkpoint, transactions, &uploaded).await
        });
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Barriers come through the input.
            Command::Trigger(_) => {}
            Command::Complete(checkpoint) => {
                self.uploaded.retain(|open, _| *open > checkpoint);
                for transaction in self.transactions.complete(checkpoint) {
                    let (blobs, layout) = (self.context.blobs.clone(), self.context.layout.clone());
                    self.committing.start(transaction.checkpoint, async move {
                        commit(&blobs, &layout, &transaction.id, transaction.content).await
                    });
                }
                self.report();
            }
            Command::Aborted(checkpoint) => {
                self.aligner.abort(checkpoint);
                if let Some(uploaded) = self.uploaded.remove(&checkpoint) {
                    sometimes!(points::STAGED_CLEANED, true);
                    // Also what was acknowledged: the next checkpoint has staged, or will stage, its own copies.
                    let blobs = self.context.blobs.clone();
                    let discard = async move { uploaded.discard(&blobs).await };
                    self.staging.cancel_and(checkpoint, discard);
                }
            }
        }
    }

    fn staged(&mut self, checkpoint: CheckpointId, result: Result<Staged, JoinError>) -> Result<(), Error> {
        match result.map_err(|source| Error::Background { checkpoint, source })? {
            Ok(transactions) => self.context.acknowledge(checkpoint, SubtaskState::Sink(transactions)),
            Err(error) => {
                self.context.decline(checkpoint, error.to_string());
                if let Some(uploaded) = self.uploaded.remove(&checkpoint) {
                    let blobs = self.context.blobs.clone();
                    cutwater_io::task::spawn(async move { uploaded.discard(&blobs).await });
                }
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        if let Some(checkpoint) = self.transactions.to_report() {
            let (attempt, task) = (self.context.attempt, self.context.task());
            self.context.say(ToCoordinator::Committed { attempt, checkpoint, task });
        }
    }
}
