//! The task of a sink: see [`crate::stream::sink`] for the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutwater_io::task::JoinError;
use cutwater_io::{buggify, sometimes, time};
use futures::FutureExt;

use super::background::Background;
use super::intake::Intake;
use super::timing::Timing;
use super::{
    Command, ELEMENTS_PER_LOOK, ELEMENTS_PER_ROUND, RECORDS_PER_CHARGE, TaskContext, persist, until_cancelled,
};
use crate::checkpoint::barrier::Target;
use crate::checkpoint::snapshot::{CheckpointId, FileHandle, SinkSnapshot, SinkTransaction, SubtaskState};
use crate::cluster::rpc::{Declined, ToCoordinator};
use crate::state::blob;
use crate::state::upload::{Names, Uploaded};
use crate::stream::alignment::{Decision, Snapshot};
use crate::stream::record::Element;
use crate::stream::sink::transactions::{Transaction, Transactions};
use crate::stream::sink::{commit, recommit, stage, unstage};
use crate::stream::{Error, points};

type Staged = Result<SinkSnapshot, blob::Error>;

pub(super) async fn run(mut context: TaskContext) -> Result<(), Error> {
    let cancelled = context.cancelled.clone();
    until_cancelled(cancelled, async move {
        recommit_all(&context).await?;
        let intake = Intake::open(&mut context).await?;
        context.running();
        let task = SinkTask {
            transactions: Transactions::new(context.attempt, context.task()),
            staging: Background::new(),
            uploaded: BTreeMap::new(),
            committing: Background::new(),
            staged: BTreeMap::new(),
            open: BTreeMap::new(),
            garbage: BTreeSet::new(),
            deleting: Background::new(),
            processed: 0,
            context,
            intake,
        };
        task.work().await
    })
    .await
}

async fn recommit_all(context: &TaskContext) -> Result<(), Error> {
    for state in &context.deployment.restore {
        for transaction in state.transactions() {
            recommit(&context.blobs, &context.layout, transaction).await?;
        }
    }
    Ok(())
}

struct SinkTask {
    context: TaskContext,
    intake: Intake,
    transactions: Transactions,
    staging: Background<Staged>,
    /// What was in flight, as far as the stagings that have not ended may have written it, and how long they take.
    uploaded: BTreeMap<CheckpointId, (Uploaded, Timing)>,
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
            self.arrive()?;
            let mut taken = 0;
            while taken < ELEMENTS_PER_ROUND {
                let Some((channel, element)) = self.intake.take() else { break };
                match element {
                    Element::Record(record) => {
                        self.transactions.push(&record);
                        self.charge().await;
                    }
                    // Output has no time.
                    Element::Watermark(_) | Element::Idle => {}
                    Element::Barrier(barrier) => {
                        let decision = self.intake.reached(channel, &barrier);
                        self.decided(decision);
                    }
                }
                taken += 1;
                if taken % ELEMENTS_PER_LOOK == 0 {
                    self.arrive()?;
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
        let SinkTask { context, staging, committing, deleting, intake, .. } = self;
        let has_waiting = intake.has_waiting();
        let input = async { if has_waiting { Ok(()) } else { intake.wait().await } };
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

    fn arrive(&mut self) -> Result<(), Error> {
        while let Some(decision) = self.intake.arrive()? {
            self.decided(decision);
        }
        if let Some(checkpoint) = self.intake.too_much() {
            self.give_up(checkpoint);
            self.context.decline(checkpoint, Declined::Failed("too much is in flight".into()));
        }
        Ok(())
    }

    async fn charge(&mut self) {
        self.processed += 1;
        if self.processed >= RECORDS_PER_CHARGE {
            self.processed = 0;
            time::charge(Duration::from_millis(1)).await;
        }
    }

    fn decided(&mut self, decision: Decision) {
        if let Some(older) = decision.declined {
            sometimes!(points::ALIGNMENT_SUPERSEDED, true);
            self.give_up(older);
            self.context.decline(older, Declined::Superseded);
        }
        if let Some(snapshot) = decision.snapshot {
            self.snapshot(&snapshot);
        }
        if let Some(checkpoint) = decision.recorded {
            self.intake.recorded(self.context.task(), checkpoint);
        }
    }

    /// Ends the epoch. What the barrier has overtaken is processed later and belongs to the next one.
    fn snapshot(&mut self, snapshot: &Snapshot) {
        let checkpoint = snapshot.barrier.checkpoint;
        let timing = self.intake.timing(snapshot);
        let overtakes = snapshot.overtakes.is_some();
        sometimes!(points::ALIGNED_BLOCKED, !overtakes && self.intake.channels() > 1);
        let in_flight = self.intake.record(self.context.task(), snapshot, Vec::new());
        if let Target::Savepoint { directory, .. } = &snapshot.barrier.options.target {
            self.save(checkpoint, directory.clone(), timing);
            return;
        }
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
        let (attempt, names) = (self.context.attempt, self.context.names());
        let uploaded = self.begin(checkpoint, timing);
        self.staging.start(checkpoint, async move {
            named.extend(stage(&blobs, &layout, attempt, checkpoint, to_stage).await?);
            let in_flight = persist(in_flight, &blobs, &names, checkpoint, &uploaded).await?;
            Ok(SinkSnapshot { transactions: named, in_flight })
        });
    }

    /// The part of a savepoint: a copy of everything that is not known to be committed, wherever else it is staged.
    fn save(&mut self, checkpoint: CheckpointId, directory: String, timing: Timing) {
        let transactions = self.transactions.barrier(checkpoint);
        let (blobs, names) = (self.context.blobs.clone(), self.context.names());
        let uploaded = self.begin(checkpoint, timing);
        self.staging.start(checkpoint, async move {
            let mut saved = Vec::with_capacity(transactions.len());
            for Transaction { id, content, .. } in transactions {
                let path = names.savepoint(&directory);
                uploaded.note(&path);
                saved.push(SinkTransaction { id, staged: blobs.create(&path, content).await? });
            }
            Ok(SinkSnapshot { transactions: saved, in_flight: None })
        });
    }

    /// The epoch has ended, and its staging begins.
    fn begin(&mut self, checkpoint: CheckpointId, mut timing: Timing) -> Uploaded {
        timing.fixed();
        let uploaded = Uploaded::default();
        self.uploaded.insert(checkpoint, (uploaded.clone(), timing));
        uploaded
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
            Command::Aborted(checkpoint) => self.give_up(checkpoint),
        }
    }

    fn give_up(&mut self, checkpoint: CheckpointId) {
        self.intake.abort(checkpoint);
        if let Some((uploaded, _)) = self.uploaded.remove(&checkpoint) {
            let blobs = self.context.blobs.clone();
            self.staging.cancel_and(checkpoint, async move { uploaded.discard(&blobs).await });
        }
        self.open.remove(&checkpoint);
        self.sweep();
    }

    fn staged(&mut self, checkpoint: CheckpointId, result: Result<Staged, JoinError>) -> Result<(), Error> {
        let (uploaded, timing) = self.uploaded.remove(&checkpoint).expect("noted when the staging began");
        match result.map_err(|source| Error::Background { checkpoint, source })? {
            Ok(snapshot) => {
                for SinkTransaction { id, staged } in &snapshot.transactions {
                    // A copy in a savepoint is not ours to name again.
                    if self.transactions.is_outstanding(id) && staged.path == self.path(id) {
                        self.staged.insert(id.clone(), staged.clone());
                    }
                }
                self.context.acknowledge(checkpoint, SubtaskState::Sink(snapshot), timing);
            }
            Err(error) => {
                let blobs = self.context.blobs.clone();
                cutwater_io::task::spawn(async move { uploaded.discard(&blobs).await });
                self.intake.abort(checkpoint);
                self.open.remove(&checkpoint);
                self.sweep();
                self.context.decline(checkpoint, Declined::Failed(error.to_string()));
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
