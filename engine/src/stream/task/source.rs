//! The task of a source: reads what is due and sends it on; at a trigger, sends the barrier and reports its positions.
//!
//! After each turn of reading it says how far event time has come, and at the end of its input that time has ended, once and
//! before it reports that it is exhausted: the last checkpoint has all that the end of time brings about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{point, sometimes, task, time};
use futures::FutureExt;
use tokio::sync::mpsc::error::TryRecvError;

use super::{Command, RECORDS_PER_CHARGE, TaskContext, until_cancelled};
use crate::checkpoint::snapshot::{CheckpointId, SourcePosition, SubtaskState};
use crate::cluster::rpc::ToCoordinator;
use crate::stream::emit::Emitter;
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
        let mut task = SourceTask {
            context,
            output,
            schedule,
            watermarks,
            idle_after: source.idle_after(),
            is_idle: false,
            readers,
            last: None,
            aborted: BTreeSet::new(),
        };
        // What was read before may be all there is.
        task.advance().await?;
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
        SubtaskState::Source(positions) => positions.as_slice(),
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
    readers: BTreeMap<u32, Box<dyn Reader>>,
    last: Option<CheckpointId>,
    /// Aborted ids above `last`.
    aborted: BTreeSet<CheckpointId>,
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
            let due = self.schedule.due(start.elapsed(), RECORDS_PER_TURN);
            if !due.is_empty() {
                self.read(due).await?;
                continue;
            }
            self.output.flush().await?;
            if self.schedule.is_exhausted() && !said_exhausted {
                said_exhausted = true;
                let (attempt, task) = (self.context.attempt, self.context.task());
                self.context.say(ToCoordinator::Exhausted { attempt, task });
            }
            let wake = self.schedule.next_due().map(|after| start + after);
            let idle_at = self.idle_after.filter(|_| !self.is_idle).map(|after| time::now() + after);
            let becomes_idle = idle_at.filter(|idle| wake.is_some_and(|wake| *idle < wake));
            match self.wait(becomes_idle.or(wake)).await {
                Wait::Due if becomes_idle.is_some() => {
                    self.is_idle = true;
                    self.output.progress(Progress::Idle).await?;
                }
                Wait::Due => {}
                Wait::Command(Some(command)) => self.obey(command).await?,
                Wait::Command(None) => return Ok(()),
            }
        }
    }

    async fn read(&mut self, due: Vec<(u32, u64)>) -> Result<(), Error> {
        let mut read = 0;
        if std::mem::take(&mut self.is_idle) {
            // Those downstream wait for this source again, from before the first record on.
            self.output.progress(Progress::Watermark(self.watermarks.said_ms())).await?;
        }
        for (partition, count) in due {
            for _ in 0..count {
                let reader = self.readers.get_mut(&partition).expect("a reader per partition");
                let record = reader.next();
                self.schedule.advance(partition);
                self.watermarks.read(partition, record.time_ms);
                self.output.emit(&record).await?;
                read += 1;
            }
            if self.schedule.has_ended(partition) {
                self.watermarks.ended(partition);
            }
        }
        self.advance().await?;
        let share = Duration::from_millis(1) * read / RECORDS_PER_CHARGE;
        time::charge(share.max(Duration::from_millis(1))).await;
        // Everything may have been taken without waiting: others want to run too.
        task::yield_now().await;
        Ok(())
    }

    /// Says how far event time has come, if it has.
    async fn advance(&mut self) -> Result<(), Error> {
        match self.watermarks.advance() {
            Some(time_ms) => self.output.progress(Progress::Watermark(time_ms)).await,
            None => Ok(()),
        }
    }

    async fn wait(&mut self, wake: Option<time::Instant>) -> Wait {
        let due = async move {
            match wake {
                Some(at) => time::sleep_until(at).await,
                None => futures::future::pending().await,
            }
        };
        let (command, due) = (self.context.commands.recv().fuse(), due.fuse());
        futures::pin_mut!(command, due);
        futures::select_biased! {
            command = command => Wait::Command(command),
            () = due => Wait::Due,
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Trigger(checkpoint) => self.trigger(checkpoint).await,
            Command::Aborted(checkpoint) => {
                if self.last.is_none_or(|last| checkpoint > last) {
                    self.aborted.insert(checkpoint);
                }
                Ok(())
            }
            Command::Complete(_) => Ok(()),
        }
    }

    async fn trigger(&mut self, checkpoint: CheckpointId) -> Result<(), Error> {
        if self.last.is_some_and(|last| checkpoint <= last) {
            return Ok(());
        }
        self.last = Some(checkpoint);
        let skipped = self.aborted.remove(&checkpoint);
        self.aborted = self.aborted.split_off(&checkpoint);
        if skipped {
            return Ok(());
        }
        self.output.barrier(checkpoint).await?;
        point!(points::SOURCE_BEFORE_ACK);
        self.context.acknowledge(checkpoint, SubtaskState::Source(self.schedule.positions()));
        Ok(())
    }
}

enum Wait {
    Due,
    Command(Option<Command>),
}
