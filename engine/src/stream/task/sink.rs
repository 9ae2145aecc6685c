//! The task of a sink: see [`crate::stream::sink`] for the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutwater_io::task::JoinError;
use cutwater_io::{buggify, sometimes, time};
use futures::FutureExt;

use super::background::Background;
use super::{Command, RECORDS_PER_CHARGE, TaskContext, until_cancelled};
use crate::checkpoint::snapshot::{CheckpointId, FileHandle, SinkTransaction, SubtaskState};
use crate::cluster::rpc::ToCoordinator;
use crate::state::blob;
use crate::stream::alignment::Aligner;
use crate::stream::channel::Input;
use crate::stream::record::Element;
use crate::stream::sink::transactions::Transactions;
use crate::stream::sink::{commit, recommit, stage, unstage};
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
            staged: BTreeMap::new(),
            open: BTreeMap::new(),
            garbage: BTreeSet::new(),
            deleting: Background::new(),
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
    /// Where transactions that are not known to be committed are staged, by the transaction's id.
    staged: BTreeMap<String, FileHandle>,
    /// The staged objects that checkpoints name whose fate is open.
    open: BTreeMap<CheckpointId, BTreeSet<String>>,
    /// Staged objects of committed transactions, to be deleted when no open checkpoint names them.
    garbage: BTreeSet<String>,
    deleting: Background<()>,
    processed: u32,
}

/// How long a commit waits if it is made to.
const LATE: Duration = Duration::from_millis(200);

enum Happening {
    Command(Option<Command>),
    Staged(CheckpointId, Result<Staged, JoinError>),
    Committed(CheckpointId, Result<Result<(), Error>, JoinError>),
    Deleted,
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
                    // Output has no time.
                    Element::Watermark(_) | Element::Idle => {}
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
                    self.committed(checkpoint);
                }
                Happening::Deleted => self.report(),
                Happening::Input(result) => result?,
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let SinkTask { context, staging, committing, deleting, input, aligner, .. } = self;
        let buffered = input.has_buffered(|i| aligner.is_blocked(i));
        let input = async { if buffered { Ok(()) } else { input.wait(|i| aligner.is_blocked(i)).await } };
        let command = context.commands.recv().fuse();
        let (staged, committed, input) = (staging.next().fuse(), committing.next().fuse(), input.fuse());
        let deleted = deleting.next().fuse();
        futures::pin_mut!(command, staged, committed, deleted, input);
        futures::select_biased! {
            command = command => Happening::Command(command),
            (checkpoint, result) = staged => Happening::Staged(checkpoint, result),
            (checkpoint, result) = committed => Happening::Committed(checkpoint, result),
            _ = deleted => Happening::Deleted,
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
        // What is staged is named, what is not is staged now.
        let mut named = Vec::new();
        let mut to_stage = Vec::new();
        let mut paths = BTreeSet::new();
        for transaction in self.transactions.barrier(checkpoint) {
            paths.insert(self.path(&transaction.id));
            match self.staged.get(&transaction.id).cloned() {
                Some(staged) => named.push(SinkTransaction { id: transaction.id, staged }),
                None => to_stage.push(transaction),
            }
        }
        self.open.insert(checkpoint, paths);
        let (blobs, layout) = (self.context.blobs.clone(), self.context.layout.clone());
        let attempt = self.context.attempt;
        self.staging.start(checkpoint, async move {
            named.extend(stage(&blobs, &layout, attempt, checkpoint, to_stage).await?);
            Ok(named)
        });
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Barriers come through the input.
            Command::Trigger(_) => {}
            Command::Complete(checkpoint) => {
                self.open.retain(|open, _| *open > checkpoint);
                self.sweep();
                for transaction in self.transactions.complete(checkpoint) {
                    let (blobs, layout) = (self.context.blobs.clone(), self.context.layout.clone());
                    self.committing.start(transaction.checkpoint, async move {
                        if buggify!(points::COMMIT_LATE) {
                            time::sleep(LATE).await;
                        }
                        commit(&blobs, &layout, &transaction.id, transaction.content).await
                    });
                }
                self.report();
            }
            Command::Aborted(checkpoint) => {
                self.aligner.abort(checkpoint);
                self.staging.cancel(checkpoint);
                self.open.remove(&checkpoint);
                self.sweep();
            }
        }
    }

    fn staged(&mut self, checkpoint: CheckpointId, result: Result<Staged, JoinError>) -> Result<(), Error> {
        match result.map_err(|source| Error::Background { checkpoint, source })? {
            Ok(transactions) => {
                for SinkTransaction { id, staged } in &transactions {
                    if self.transactions.is_outstanding(id) {
                        self.staged.insert(id.clone(), staged.clone());
                    }
                }
                self.context.acknowledge(checkpoint, SubtaskState::Sink(transactions));
            }
            Err(error) => {
                self.open.remove(&checkpoint);
                self.sweep();
                self.context.decline(checkpoint, error.to_string());
            }
        }
        Ok(())
    }

    fn path(&self, transaction: &str) -> String {
        self.context.layout.staged(self.context.attempt, transaction)
    }

    /// A transaction is committed: its staged object goes, and only then is it reported.
    fn committed(&mut self, checkpoint: CheckpointId) {
        let id = self.transactions.committed(checkpoint);
        self.staged.remove(&id);
        self.garbage.insert(self.path(&id));
        let unneeded = self.unneeded();
        sometimes!(points::DELETE_DEFERRED, unneeded.is_empty());
        if unneeded.is_empty() {
            self.report();
        } else {
            let blobs = self.context.blobs.clone();
            self.deleting.start(checkpoint, async move { unstage(&blobs, &unneeded).await });
        }
    }

    /// Takes out what is to be deleted and is not named by a checkpoint that may yet be listed.
    fn unneeded(&mut self) -> Vec<String> {
        let open = &self.open;
        let unneeded: Vec<String> = self
            .garbage
            .iter()
            .filter(|path| !open.values().any(|named| named.contains(*path)))
            .cloned()
            .collect();
        unneeded.iter().for_each(|path| assert!(self.garbage.remove(path)));
        unneeded
    }

    fn sweep(&mut self) {
        let unneeded = self.unneeded();
        if !unneeded.is_empty() {
            let blobs = self.context.blobs.clone();
            cutwater_io::task::spawn(async move { unstage(&blobs, &unneeded).await });
        }
    }

    fn report(&mut self) {
        if !self.deleting.is_empty() {
            return;
        }
        if let Some(checkpoint) = self.transactions.to_report() {
            let (attempt, task) = (self.context.attempt, self.context.task());
            self.context.say(ToCoordinator::Committed { attempt, checkpoint, task });
        }
    }
}
