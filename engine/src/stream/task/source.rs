//! The task of a source: reads what is due and sends it on; at a trigger, sends the barrier and reports its positions.
//!
//! After each turn of reading it says how far event time has come, and at the end of its input that time has ended, once and
//! before it reports that it is exhausted: the last checkpoint has all that the end of time brings about.
//!
//! A source has nothing to align. Its barrier overtakes what it has not sent if that is what the checkpoint says from the
//! start; otherwise it waits behind that, which [`crate::stream::channel::Limits`] bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::task::JoinError;
use cutwater_io::{point, sometimes, task, time};
use futures::FutureExt;
use tokio::sync::mpsc::error::TryRecvError;

use super::background::Background;
use super::timing::Timing;
use super::{Command, RECORDS_PER_CHARGE, TaskContext, until_cancelled};
use crate::checkpoint::barrier::{Alignment, Barrier, Stop};
use crate::checkpoint::snapshot::{CheckpointId, SourcePosition, SourceSnapshot, SubtaskState};
use crate::cluster::rpc::{Declined, ToCoordinator};
use crate::state::blob;
use crate::state::upload::Uploaded;
use crate::stream::emit::Emitter;
use crate::stream::in_flight::{self, Content};
use crate::stream::source::{Reader, Schedule, Source, assigned};
use crate::stream::watermark::{Progress, SourceWatermarks};
use crate::stream::{Error, points};

/// Records read from one partition before commands are looked at again.
const RECORDS_PER_TURN: u64 = 64;

pub(super) async fn run(context: TaskContext, source: Arc<dyn Source>) -> Result<(), Error> {
    let cancelled = context.cancelled.clone();
    until_cancelled(cancelled, async move {
        let positions = positions(&context, &*source)?;
        sometimes!(points::SOURCE_RESUMED, positions.iter().any(|p| p.next_offset > 0));
        let readers =
            positions.iter().map(|p| (p.partition, source.reader(p.partition, p.next_offset))).collect();
        let partitions = positions.iter().map(|position| position.partition);
        let mut watermarks = SourceWatermarks::new(source.out_of_orderness_ms(), partitions);
        let schedule = Schedule::new(&*source, positions);
        schedule.ended().for_each(|partition| watermarks.ended(partition));
        let output = context.open_output().await?;
        context.running();
        let stopped = context.stopping.then_some(Stopped::ForGood);
        let mut task = SourceTask {
            context,
            output,
            schedule,
            watermarks,
            idle_after: source.idle_after(),
            is_idle: false,
            read_at: time::now(),
            readers,
            last: None,
            aborted: BTreeSet::new(),
            stopped,
            uploads: Background::new(),
            uploaded: BTreeMap::new(),
        };
        if task.stopped.is_none() {
            // What was read before may be all there is.
            task.advance();
        }
        task.work().await
    })
    .await
}

/// Where to begin: at the positions that were restored, which must be exactly those of this subtask's partitions.
fn positions(context: &TaskContext, source: &dyn Source) -> Result<Vec<SourcePosition>, Error> {
    let deployment = &context.deployment;
    let ours: Vec<u32> =
        assigned(source.partitions(), deployment.task.subtask, deployment.parallelism).collect();
    if deployment.restore.is_empty() {
        return Ok(ours.into_iter().map(|partition| SourcePosition { partition, next_offset: 0 }).collect());
    }
    let restored = deployment.restore.iter().flat_map(|state| match state {
        SubtaskState::Source(source) => source.positions.as_slice(),
        _ => &[],
    });
    let mut restored: Vec<SourcePosition> = restored.copied().collect();
    restored.sort_by_key(|position| position.partition);
    let same = restored.iter().map(|position| position.partition).eq(ours.iter().copied());
    let within = restored.iter().all(|position| position.next_offset <= source.records_per_partition());
    if !same || !within {
        let what = format!("partitions {ours:?} are handed positions {restored:?}");
        return Err(Error::Deployment { task: deployment.task, what });
    }
    Ok(restored)
}

struct SourceTask {
    context: TaskContext,
    output: Emitter,
    schedule: Schedule,
    watermarks: SourceWatermarks,
    idle_after: Option<Duration>,
    is_idle: bool,
    /// When something was read last.
    read_at: time::Instant,
    readers: BTreeMap<u32, Box<dyn Reader>>,
    last: Option<CheckpointId>,
    /// Aborted ids above `last`.
    aborted: BTreeSet<CheckpointId>,
    /// Nothing is read: the job is about to end.
    stopped: Option<Stopped>,
    uploads: Background<Result<SourceSnapshot, blob::Error>>,
    /// What the uploads that have not ended may have written, and how long they take.
    uploaded: BTreeMap<CheckpointId, (Uploaded, Timing)>,
}

/// Until when nothing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// The savepoint is complete.
    ForGood,
    /// Until this savepoint is aborted.
    With(CheckpointId),
}

impl SourceTask {
    async fn work(mut self) -> Result<(), Error> {
        let start = time::now();
        let mut said_exhausted = false;
        loop {
            match self.context.commands.try_recv() {
                Ok(command) => {
                    self.obey(command).await?;
                    continue;
                }
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            if let Some((checkpoint, result)) = self.uploads.next().now_or_never() {
                self.upload_ended(checkpoint, result)?;
                continue;
            }
            let is_ready = self.output.is_ready() && self.stopped.is_none();
            let due =
                if is_ready { self.schedule.due(start.elapsed(), RECORDS_PER_TURN) } else { Vec::new() };
            if !due.is_empty() {
                self.read(due).await?;
                continue;
            }
            self.output.flush()?;
            if self.schedule.is_exhausted() && !said_exhausted {
                said_exhausted = true;
                let (attempt, task) = (self.context.attempt, self.context.task());
                self.context.say(ToCoordinator::Exhausted { attempt, task });
            }
            let wake = self
                .schedule
                .next_due()
                .filter(|_| self.output.is_ready() && self.stopped.is_none())
                .map(|after| start + after);
            let idle_at = self.idle_after.filter(|_| !self.is_idle).map(|after| self.read_at + after);
            let becomes_idle = idle_at.filter(|idle| wake.is_some_and(|wake| *idle < wake));
            match self.wait(becomes_idle.or(wake)).await {
                Wait::Due if becomes_idle.is_some() => {
                    self.is_idle = true;
                    self.output.time(Progress::Idle);
                }
                Wait::Due => {}
                Wait::Sent(result) => result?,
                Wait::Upload(checkpoint, result) => self.upload_ended(checkpoint, result)?,
                Wait::Command(Some(command)) => self.obey(command).await?,
                Wait::Command(None) => return Ok(()),
            }
        }
    }

    async fn read(&mut self, due: Vec<(u32, u64)>) -> Result<(), Error> {
        let mut read = 0;
        self.read_at = time::now();
        if std::mem::take(&mut self.is_idle) {
            // Those downstream wait for this source again, from before the first record on.
            self.output.time(Progress::Watermark(self.watermarks.said_ms()));
        }
        for (partition, count) in due {
            for _ in 0..count {
                let reader = self.readers.get_mut(&partition).expect("a reader per partition");
                let record = reader.next();
                self.schedule.advance(partition);
                self.watermarks.read(partition, record.time_ms);
                self.output.emit(&record)?;
                read += 1;
            }
            if self.schedule.has_ended(partition) {
                self.watermarks.ended(partition);
            }
        }
        self.advance();
        self.output.send()?;
        let share = Duration::from_millis(1) * read / RECORDS_PER_CHARGE;
        time::charge(share.max(Duration::from_millis(1))).await;
        // Everything may have been taken without waiting: others want to run too.
        task::yield_now().await;
        Ok(())
    }

    /// Says how far event time has come, if it has.
    fn advance(&mut self) {
        if let Some(time_ms) = self.watermarks.advance() {
            self.output.time(Progress::Watermark(time_ms));
        }
    }

    async fn wait(&mut self, wake: Option<time::Instant>) -> Wait {
        let due = async move {
            match wake {
                Some(at) => time::sleep_until(at).await,
                None => futures::future::pending().await,
            }
        };
        let SourceTask { context, output, uploads, .. } = self;
        let (command, due) = (context.commands.recv().fuse(), due.fuse());
        let (sent, upload) = (output.progress().fuse(), uploads.next().fuse());
        futures::pin_mut!(command, upload, sent, due);
        futures::select_biased! {
            command = command => Wait::Command(command),
            (checkpoint, result) = upload => Wait::Upload(checkpoint, result),
            result = sent => Wait::Sent(result),
            () = due => Wait::Due,
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Trigger(barrier) => self.trigger(barrier).await,
            Command::Aborted(checkpoint) => {
                sometimes!(points::STOP_UNDONE, self.stopped == Some(Stopped::With(checkpoint)));
                self.stopped = self.stopped.filter(|stopped| *stopped != Stopped::With(checkpoint));
                if self.last.is_none_or(|last| checkpoint > last) {
                    self.aborted.insert(checkpoint);
                }
                if let Some((uploaded, _)) = self.uploaded.remove(&checkpoint) {
                    let blobs = self.context.blobs.clone();
                    self.uploads.cancel_and(checkpoint, async move { uploaded.discard(&blobs).await });
                }
                Ok(())
            }
            Command::Complete(_) => Ok(()),
        }
    }

    async fn trigger(&mut self, mut barrier: Barrier) -> Result<(), Error> {
        if !self.context.graph.may_overtake() {
            // All sources do the same, so that no task sees both kinds.
            barrier.options.alignment = Alignment::Aligned;
        }
        let checkpoint = barrier.checkpoint;
        if self.last.is_some_and(|last| checkpoint <= last) {
            return Ok(());
        }
        self.last = Some(checkpoint);
        let skipped = self.aborted.remove(&checkpoint);
        self.aborted = self.aborted.split_off(&checkpoint);
        if skipped {
            return Ok(());
        }
        if let Some(stop) = barrier.options.stop {
            self.stopped = Some(Stopped::With(checkpoint));
            if stop == Stop::Drain {
                self.watermarks.all_ended();
                self.advance();
            }
        }
        let is_unaligned = barrier.options.alignment() == Alignment::Unaligned;
        let mut timing = Timing::begin(None, is_unaligned);
        let unsent = if is_unaligned {
            self.output.overtake(&barrier)
        } else {
            self.output.barrier(&barrier);
            Vec::new()
        };
        self.output.send()?;
        let positions = self.schedule.positions();
        timing.fixed();
        if unsent.iter().all(|(_, elements)| elements.is_empty()) {
            point!(points::SOURCE_BEFORE_ACK);
            self.context.acknowledge(checkpoint, positions.into(), timing);
            return Ok(());
        }
        sometimes!(points::OVERTAKEN_OUTPUT, true);
        let (blobs, names, from) = (self.context.blobs.clone(), self.context.names(), self.context.task());
        let content = Content(unsent.into_iter().map(|(to, elements)| (from, to, elements)).collect());
        let uploaded = Uploaded::default();
        self.uploaded.insert(checkpoint, (uploaded.clone(), timing));
        self.uploads.start(checkpoint, async move {
            let in_flight = in_flight::upload(&blobs, &names, checkpoint, content, &uploaded).await?;
            Ok(SourceSnapshot { positions, in_flight })
        });
        Ok(())
    }

    fn upload_ended(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<Result<SourceSnapshot, blob::Error>, JoinError>,
    ) -> Result<(), Error> {
        let (uploaded, timing) = self.uploaded.remove(&checkpoint).expect("noted when the upload began");
        match result.map_err(|source| Error::Background { checkpoint, source })? {
            Ok(snapshot) => self.context.acknowledge(checkpoint, SubtaskState::Source(snapshot), timing),
            Err(error) => {
                self.context.decline(checkpoint, Declined::Failed(error.to_string()));
                let blobs = self.context.blobs.clone();
                task::spawn(async move { uploaded.discard(&blobs).await });
            }
        }
        Ok(())
    }
}

enum Wait {
    Due,
    Sent(Result<(), Error>),
    Upload(CheckpointId, Result<Result<SourceSnapshot, blob::Error>, JoinError>),
    Command(Option<Command>),
}
