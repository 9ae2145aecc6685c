//! The task of a keyed operator.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cutwater_io::task::JoinError;
use cutwater_io::{point, sometimes, time};
use futures::FutureExt;

use super::background::Background;
use super::intake::Intake;
use super::{
    CLOSE_LIMIT, Command, ELEMENTS_PER_LOOK, ELEMENTS_PER_ROUND, RECORDS_PER_CHARGE, TaskContext, persist,
    until_cancelled,
};
use crate::checkpoint::snapshot::{CheckpointId, KeyedSnapshot, SubtaskState};
use crate::state::upload::{self, Uploaded};
use crate::state::{self, KeyedState, dirs, restore};
use crate::stream::alignment::{Decision, Snapshot};
use crate::stream::channel::Output;
use crate::stream::operator::KeyedOperator;
use crate::stream::record::{Element, Record};
use crate::stream::{Error, points};

pub(super) async fn run(mut context: TaskContext, operator: Box<dyn KeyedOperator>) -> Result<(), Error> {
    let cancelled = context.cancelled.clone();
    // Outside of what is cancelled, so that it can be closed.
    let mut state = None;
    let result = until_cancelled(cancelled, async {
        let restored = restore_state(&context).await?;
        let state = state.insert(restored);
        let output = context.open_output().await?;
        let intake = Intake::open(&mut context).await?;
        context.running();
        let uploads = Background::new();
        let uploaded = BTreeMap::new();
        let task = KeyedTask { context, operator, state, intake, output, uploads, uploaded, processed: 0 };
        task.work().boxed().await
    })
    .await;
    if let Some(state) = state {
        // A store that does not close in time is dropped, which writes nothing.
        let _ = time::timeout(CLOSE_LIMIT, state.close().boxed()).await;
    }
    result
}

async fn restore_state(context: &TaskContext) -> Result<KeyedState, Error> {
    let deployment = &context.deployment;
    let snapshots = deployment.restore.iter().filter_map(|state| match state {
        SubtaskState::Keyed(snapshot) => Some(snapshot.clone()),
        _ => None,
    });
    let snapshots: Vec<KeyedSnapshot> = snapshots.collect();
    let (dir, options) = (&context.dir, context.store.clone());
    let max = context.graph.max_parallelism;
    Ok(restore::restore(&context.blobs, dir, options, deployment.range, max, &snapshots).boxed().await?)
}

struct KeyedTask<'a> {
    context: TaskContext,
    operator: Box<dyn KeyedOperator>,
    state: &'a mut KeyedState,
    intake: Intake,
    output: Output,
    uploads: Background<Result<KeyedSnapshot, state::Error>>,
    /// What the uploads that have not ended may have written, and their links.
    uploaded: BTreeMap<CheckpointId, (Uploaded, PathBuf)>,
    processed: u32,
}

enum Happening {
    Command(Option<Command>),
    Upload(CheckpointId, Result<Result<KeyedSnapshot, state::Error>, JoinError>),
    /// Something has come, or was sent, or can be processed.
    Flow(Result<(), Error>),
}

impl KeyedTask<'_> {
    async fn work(mut self) -> Result<(), Error> {
        let mut out = Vec::new();
        loop {
            self.arrive().await?;
            let mut taken = 0;
            while taken < ELEMENTS_PER_ROUND && self.output.is_ready() {
                let Some((channel, element)) = self.intake.take() else { break };
                match element {
                    Element::Record(record) => self.process(record, &mut out).await?,
                    Element::Barrier(barrier) => {
                        let decision = self.intake.reached(channel, &barrier);
                        self.decided(decision).await?;
                    }
                }
                taken += 1;
                if taken % ELEMENTS_PER_LOOK == 0 {
                    self.output.send()?;
                    self.arrive().await?;
                }
            }
            self.output.flush()?;
            match self.next().await {
                Happening::Command(None) => return Ok(()),
                Happening::Command(Some(command)) => self.obey(command),
                Happening::Upload(checkpoint, result) => self.upload_ended(checkpoint, result)?,
                Happening::Flow(result) => result?,
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let KeyedTask { context, uploads, intake, output, .. } = self;
        let may_process = output.is_ready() && intake.has_waiting();
        let input = async { if may_process { Ok(()) } else { intake.wait().await } };
        let (command, upload) = (context.commands.recv().fuse(), uploads.next().fuse());
        let (sent, input) = (output.progress().fuse(), input.fuse());
        futures::pin_mut!(command, upload, sent, input);
        futures::select_biased! {
            command = command => Happening::Command(command),
            (checkpoint, result) = upload => Happening::Upload(checkpoint, result),
            result = sent => Happening::Flow(result),
            result = input => Happening::Flow(result),
        }
    }

    async fn arrive(&mut self) -> Result<(), Error> {
        while let Some(decision) = self.intake.arrive()? {
            self.decided(decision).await?;
        }
        if let Some(checkpoint) = self.intake.too_much() {
            self.give_up(checkpoint);
            self.context.decline(checkpoint, "too much is in flight".into());
        }
        Ok(())
    }

    async fn process(&mut self, record: Record, out: &mut Vec<Record>) -> Result<(), Error> {
        self.operator.process(record, self.state, out).await?;
        for record in out.drain(..) {
            self.output.emit(&record);
        }
        self.processed += 1;
        if self.processed >= RECORDS_PER_CHARGE {
            self.processed = 0;
            time::charge(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn decided(&mut self, decision: Decision) -> Result<(), Error> {
        if let Some(older) = decision.declined {
            sometimes!(points::ALIGNMENT_SUPERSEDED, true);
            self.give_up(older);
            self.context.decline(older, "superseded by a newer one".into());
        }
        if let Some(snapshot) = decision.snapshot {
            self.snapshot(snapshot).await?;
        }
        if let Some(checkpoint) = decision.recorded {
            self.intake.recorded(self.context.task(), checkpoint);
        }
        Ok(())
    }

    async fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        let checkpoint = snapshot.barrier.checkpoint;
        let unsent = if snapshot.overtakes.is_some() {
            self.output.overtake(&snapshot.barrier)
        } else {
            sometimes!(points::ALIGNED_BLOCKED, self.intake.channels() > 1);
            self.output.barrier(&snapshot.barrier);
            Vec::new()
        };
        self.output.send()?;
        let in_flight = self.intake.record(self.context.task(), &snapshot, unsent);
        if in_flight.is_some() {
            point!(points::OVERTOOK);
        }
        point!(points::BARRIER_SENT);
        let linked = self.state.link(checkpoint, &snapshot.barrier.options.target).boxed().await?;
        let uploaded = Uploaded::default();
        self.uploaded.insert(checkpoint, (uploaded.clone(), linked.dir.clone()));
        let (blobs, names) = (self.context.blobs.clone(), self.context.names());
        let parallel = self.context.parallel_uploads;
        self.uploads.start(checkpoint, async move {
            let keyed = upload::upload(&blobs, &names, &linked, parallel, &uploaded).await?;
            let in_flight = persist(in_flight, &blobs, &names, checkpoint, &uploaded).await?;
            Ok(KeyedSnapshot { in_flight, ..keyed })
        });
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Barriers come through the input.
            Command::Trigger(_) => {}
            Command::Complete(checkpoint) => self.state.complete(checkpoint),
            Command::Aborted(checkpoint) => self.give_up(checkpoint),
        }
    }

    fn give_up(&mut self, checkpoint: CheckpointId) {
        self.intake.abort(checkpoint);
        self.state.abort(checkpoint);
        if let Some((uploaded, links)) = self.uploaded.remove(&checkpoint) {
            let blobs = self.context.blobs.clone();
            self.uploads.cancel_and(checkpoint, discard(blobs, uploaded, links));
        }
    }

    /// An upload that ends after its checkpoint was aborted is not heard of here: it was cancelled.
    fn upload_ended(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<Result<KeyedSnapshot, state::Error>, JoinError>,
    ) -> Result<(), Error> {
        let (uploaded, links) = self.uploaded.remove(&checkpoint).expect("noted when the upload began");
        match result.map_err(|source| Error::Background { checkpoint, source })? {
            Ok(snapshot) => {
                self.state.uploaded(checkpoint, &snapshot.shared);
                self.context.acknowledge(checkpoint, SubtaskState::Keyed(snapshot));
            }
            Err(error) => {
                self.intake.abort(checkpoint);
                self.state.abort(checkpoint);
                self.context.decline(checkpoint, error.to_string());
                let blobs = self.context.blobs.clone();
                cutwater_io::task::spawn(discard(blobs, uploaded, links));
                // Damage does not go away: only a restore replaces the file.
                if matches!(error, state::Error::Damaged { .. }) {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

/// Deletes what an upload that was never acknowledged may have left, there and here.
async fn discard(blobs: state::blob::Blobs, uploaded: Uploaded, links: PathBuf) {
    uploaded.discard(&blobs).await;
    dirs::remove(&links).await;
}
