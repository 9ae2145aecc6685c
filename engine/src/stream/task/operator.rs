//! The task of an operator: its input, its barriers, its part in checkpoints. Records are processed in [`super::process`].
//!
//! The state of an operator without keys is part of the acknowledgement; that of a keyed one is uploaded beside the stream. If its
//! changes are logged, a checkpoint waits for the log instead of the store ([`super::changelog`]).

use std::collections::BTreeMap;
use std::path::PathBuf;

use cutwater_io::task::JoinError;
use cutwater_io::{point, sometimes, time};
use futures::FutureExt;
use tokio::sync::oneshot;

use super::background::Background;
use super::changelog::{self, Changelog};
use super::intake::Intake;
use super::process::{Body, Processing};
use super::timing::Timing;
use super::{
    CLOSE_LIMIT, Command, ELEMENTS_PER_LOOK, ELEMENTS_PER_ROUND, TaskContext, persist, until_cancelled,
};
use crate::checkpoint::barrier::Target;
use crate::checkpoint::snapshot::{CheckpointId, KeyedSnapshot, SubtaskState};
use crate::cluster::rpc::Declined;
use crate::state::backend::LinkedSnapshot;
use crate::state::operator_state::OperatorState;
use crate::state::upload::{self, Uploaded};
use crate::state::{self, KeyedState, dirs, restore};
use crate::stream::alignment::{Decision, Snapshot};
use crate::stream::emit::Emitter;
use crate::stream::operator::{KeyedOperator, PlainOperator};
use crate::stream::record::Element;
use crate::stream::{Error, points};

pub(super) async fn run_keyed(context: TaskContext, operator: Box<dyn KeyedOperator>) -> Result<(), Error> {
    let cancelled = context.cancelled.clone();
    // Outside of what is cancelled, so that it can be closed.
    let mut state = None;
    let result = until_cancelled(cancelled, async {
        let restored = restore_state(&context).await?;
        let state = state.insert(restored);
        OperatorTask::open(context, Body::Keyed(operator, state)).await?.work().boxed().await
    })
    .await;
    if let Some(state) = state {
        // A store that does not close in time is dropped, which writes nothing.
        let _ = time::timeout(CLOSE_LIMIT, state.close().boxed()).await;
    }
    result
}

pub(super) async fn run_plain(context: TaskContext, operator: Box<dyn PlainOperator>) -> Result<(), Error> {
    let cancelled = context.cancelled.clone();
    until_cancelled(cancelled, async {
        let parts = context.deployment.restore.iter().filter_map(|state| match state {
            SubtaskState::Plain(parts) => Some(parts),
            _ => None,
        });
        let state = OperatorState::new(context.uid(), parts.flatten().cloned())?;
        OperatorTask::open(context, Body::Plain(operator, state)).await?.work().boxed().await
    })
    .await
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
    let range = deployment.range;
    let mut state = restore::restore(&context.blobs, dir, options, range, max, &snapshots).boxed().await?;
    state.configure(context.uid(), context.state_cache_bytes);
    Ok(state)
}

struct OperatorTask<'a> {
    context: TaskContext,
    body: Body<'a>,
    processing: Processing,
    intake: Intake,
    output: Emitter,
    uploads: Background<Result<KeyedSnapshot, state::Error>>,
    /// What the uploads that have not ended may have written, their links if they have any, and how long they take.
    uploaded: BTreeMap<CheckpointId, (Uploaded, Option<PathBuf>, Timing)>,
    changelog: Option<Changelog>,
}

enum Happening {
    Command(Option<Command>),
    Upload(CheckpointId, Result<Result<KeyedSnapshot, state::Error>, JoinError>),
    Changelog(changelog::Happening),
    /// Something has come, or was sent, or can be processed.
    Flow(Result<(), Error>),
}

impl<'a> OperatorTask<'a> {
    async fn open(mut context: TaskContext, mut body: Body<'a>) -> Result<OperatorTask<'a>, Error> {
        let changelog = match (&mut body, context.changelog) {
            (Body::Keyed(_, state), Some(options)) => Some(Changelog::start(options, state)),
            _ => None,
        };
        let output = context.open_output().await?;
        let intake = Intake::open(&mut context).await?;
        context.running();
        Ok(OperatorTask {
            body,
            processing: Processing::new(intake.channels()),
            uploads: Background::new(),
            uploaded: BTreeMap::new(),
            changelog,
            context,
            intake,
            output,
        })
    }

    async fn work(mut self) -> Result<(), Error> {
        loop {
            self.arrive().await?;
            let mut taken = 0;
            let elements = if self.is_full() { 0 } else { ELEMENTS_PER_ROUND };
            while taken < elements && self.output.is_ready() {
                let (body, output) = (&mut self.body, &mut self.output);
                if self.processing.is_firing() {
                    self.processing.go_on(body, output).await?;
                    self.output.send()?;
                    self.arrive().await?;
                    continue;
                }
                let Some((channel, element)) = self.intake.take() else { break };
                match element {
                    Element::Record(record) => self.processing.record(record, body, output).await?,
                    Element::Watermark(ms) => self.processing.watermark(channel, ms, body, output).await?,
                    Element::Idle => self.processing.idle(channel, body, output).await?,
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
            if let Some((changelog, state, context)) = self.changelog() {
                changelog.look(context, state);
            }
            match self.next().await {
                Happening::Command(None) => {
                    let (task, late) = (self.context.task(), self.processing.late());
                    tracing::debug!(%task, late, "records that came too late");
                    return Ok(());
                }
                Happening::Command(Some(command)) => self.obey(command),
                Happening::Upload(checkpoint, result) => self.upload_ended(checkpoint, result)?,
                Happening::Changelog(happening) => {
                    let (changelog, state, context) = self.changelog().expect("only a changelog says that");
                    changelog.happened(happening, context, state).await?;
                }
                Happening::Flow(result) => result?,
            }
        }
    }

    /// If changes are logged: who does it, of what.
    fn changelog(&mut self) -> Option<(&mut Changelog, &mut KeyedState, &TaskContext)> {
        match (&mut self.changelog, &mut self.body) {
            (Some(changelog), Body::Keyed(_, state)) => Some((changelog, state, &self.context)),
            _ => None,
        }
    }

    async fn next(&mut self) -> Happening {
        let is_full = self.is_full();
        let OperatorTask { context, uploads, intake, output, changelog, processing, .. } = self;
        let has_more = intake.has_waiting() || processing.is_firing();
        let may_process = output.is_ready() && has_more && !is_full;
        let input = async { if may_process { Ok(()) } else { intake.wait().await } };
        let (command, upload) = (context.commands.recv().fuse(), uploads.next().fuse());
        let logged = async {
            match changelog {
                Some(changelog) => changelog.next().await,
                None => std::future::pending().await,
            }
        };
        let (sent, input, logged) = (output.progress().fuse(), input.fuse(), logged.fuse());
        futures::pin_mut!(command, upload, logged, sent, input);
        futures::select_biased! {
            command = command => Happening::Command(command),
            (checkpoint, result) = upload => Happening::Upload(checkpoint, result),
            happening = logged => Happening::Changelog(happening),
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
            self.context.decline(checkpoint, Declined::Failed("too much is in flight".into()));
        }
        Ok(())
    }

    async fn decided(&mut self, decision: Decision) -> Result<(), Error> {
        if let Some(older) = decision.declined {
            sometimes!(points::ALIGNMENT_SUPERSEDED, true);
            self.give_up(older);
            self.context.decline(older, Declined::Superseded);
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
        let mut timing = self.intake.timing(&snapshot);
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
        let state = match &mut self.body {
            Body::Keyed(_, state) => state,
            Body::Plain(_, state) => {
                assert!(in_flight.is_none(), "records without keys are not overtaken: see JobGraph");
                let state = SubtaskState::Plain(state.snapshot()?);
                timing.fixed();
                self.context.acknowledge(checkpoint, state, timing);
                return Ok(());
            }
        };
        let target = &snapshot.barrier.options.target;
        // The store holds all that the log does: what stands for itself is taken from there.
        let part = match &mut self.changelog {
            Some(changelog) if !matches!(target, Target::Savepoint { .. }) => {
                Fixed::Logged(changelog.begin(&self.context, state, checkpoint, target).boxed().await?)
            }
            _ => Fixed::Linked(Box::new(state.link(checkpoint, target).boxed().await?)),
        };
        timing.fixed();
        let uploaded = Uploaded::default();
        self.uploaded.insert(checkpoint, (uploaded.clone(), part.links(), timing));
        let (blobs, names) = (self.context.blobs.clone(), self.context.names());
        let options = self.context.upload;
        self.uploads.start(checkpoint, async move {
            let keyed = match part {
                Fixed::Linked(linked) => upload::upload(&blobs, &names, &linked, options, &uploaded).await?,
                Fixed::Logged(part) => logged(part).await?,
            };
            let in_flight = persist(in_flight, &blobs, &names, checkpoint, &uploaded).await?;
            Ok(KeyedSnapshot { in_flight, ..keyed })
        });
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Barriers come through the input.
            Command::Trigger(_) => {}
            Command::Complete(checkpoint) => {
                if let Body::Keyed(_, state) = &mut self.body {
                    state.complete(checkpoint);
                }
                self.settle();
            }
            Command::Aborted(checkpoint) => self.give_up(checkpoint),
        }
    }

    fn give_up(&mut self, checkpoint: CheckpointId) {
        self.intake.abort(checkpoint);
        if let Body::Keyed(_, state) = &mut self.body {
            state.abort(checkpoint);
        }
        if let Some((uploaded, links, _)) = self.uploaded.remove(&checkpoint) {
            let blobs = self.context.blobs.clone();
            self.uploads.cancel_and(checkpoint, discard(blobs, uploaded, links));
        }
        if let Some(changelog) = &mut self.changelog {
            changelog.abort(checkpoint);
        }
        self.settle();
    }

    /// The fate of a checkpoint is known: something may not be needed any more.
    fn settle(&mut self) {
        if let Some((changelog, state, context)) = self.changelog() {
            changelog.settle(context, state);
        }
    }

    /// True if the log cannot take more.
    fn is_full(&mut self) -> bool {
        self.changelog().is_some_and(|(changelog, state, _)| changelog.is_full(state))
    }

    /// An upload that ends after its checkpoint was aborted is not heard of here: it was cancelled.
    fn upload_ended(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<Result<KeyedSnapshot, state::Error>, JoinError>,
    ) -> Result<(), Error> {
        let (uploaded, links, timing) =
            self.uploaded.remove(&checkpoint).expect("noted when the upload began");
        let Body::Keyed(_, state) = &mut self.body else { unreachable!("only keyed state is uploaded") };
        match result.map_err(|source| Error::Background { checkpoint, source })? {
            Ok(snapshot) => {
                state.uploaded(checkpoint, &snapshot);
                self.context.acknowledge(checkpoint, SubtaskState::Keyed(snapshot), timing);
            }
            Err(error) => {
                self.intake.abort(checkpoint);
                state.abort(checkpoint);
                self.context.decline(checkpoint, Declined::Failed(error.to_string()));
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
async fn discard(blobs: state::blob::Blobs, uploaded: Uploaded, links: Option<PathBuf>) {
    uploaded.discard(&blobs).await;
    if let Some(links) = links {
        dirs::remove(&links).await;
    }
}

/// Keyed state at a barrier.
enum Fixed {
    /// Links to the files of its store.
    Linked(Box<LinkedSnapshot>),
    /// A place in its log; the part comes when all of it is in the object store.
    Logged(oneshot::Receiver<changelog::Part>),
}

impl Fixed {
    fn links(&self) -> Option<PathBuf> {
        match self {
            Fixed::Linked(linked) => Some(linked.dir.clone()),
            Fixed::Logged(_) => None,
        }
    }
}

async fn logged(part: oneshot::Receiver<changelog::Part>) -> Result<KeyedSnapshot, state::Error> {
    let part = part.await.unwrap_or_else(|_| Err("the checkpoint was given up".into()));
    part.map_err(|reason| state::Error::Changelog { reason })
}
