//! The task of a source: reads what is due and sends it on; at a trigger, sends the barrier and reports its positions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{point, sometimes, task, time};
use futures::FutureExt;
use tokio::sync::mpsc::error::TryRecvError;

use super::{Command, RECORDS_PER_CHARGE, TaskContext, until_cancelled};
use crate::checkpoint::barrier::Barrier;
use crate::checkpoint::snapshot::{CheckpointId, SourcePosition, SubtaskState};
use crate::cluster::rpc::ToCoordinator;
use crate::stream::channel::Output;
use crate::stream::source::{Reader, Schedule, Source, assigned};
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
        let schedule = Schedule::new(&*source, positions);
        let output = context.open_output().await?;
        context.running();
        let stopped = context.stopping.then_some(Stopped::ForGood);
        let aborted = BTreeSet::new();
        SourceTask { context, output, schedule, readers, last: None, aborted, stopped }.work().await
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
    output: Output,
    schedule: Schedule,
    readers: BTreeMap<u32, Box<dyn Reader>>,
    last: Option<CheckpointId>,
    /// Aborted ids above `last`.
    aborted: BTreeSet<CheckpointId>,
    /// Nothing is read: the job is about to end.
    stopped: Option<Stopped>,
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
            let due = match self.stopped {
                None => self.schedule.due(start.elapsed(), RECORDS_PER_TURN),
                Some(_) => Vec::new(),
            };
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
            let next = self.schedule.next_due().filter(|_| self.stopped.is_none());
            let wake = next.map(|after| start + after);
            match self.wait(wake).await {
                Wait::Due => {}
                Wait::Command(Some(command)) => self.obey(command).await?,
                Wait::Command(None) => return Ok(()),
            }
        }
    }

    async fn read(&mut self, due: Vec<(u32, u64)>) -> Result<(), Error> {
        let mut read = 0;
        for (partition, count) in due {
            for _ in 0..count {
                let reader = self.readers.get_mut(&partition).expect("a reader per partition");
                let record = reader.next();
                self.schedule.advance(partition);
                self.output.emit(record).await?;
                read += 1;
            }
        }
        let share = Duration::from_millis(1) * read / RECORDS_PER_CHARGE;
        time::charge(share.max(Duration::from_millis(1))).await;
        // Everything may have been taken without waiting: others want to run too.
        task::yield_now().await;
        Ok(())
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
            Command::Trigger(barrier) => self.trigger(barrier).await,
            Command::Aborted(checkpoint) => {
                sometimes!(points::STOP_UNDONE, self.stopped == Some(Stopped::With(checkpoint)));
                self.stopped = self.stopped.filter(|stopped| *stopped != Stopped::With(checkpoint));
                if self.last.is_none_or(|last| checkpoint > last) {
                    self.aborted.insert(checkpoint);
                }
                Ok(())
            }
            Command::Complete(_) => Ok(()),
        }
    }

    async fn trigger(&mut self, barrier: Barrier) -> Result<(), Error> {
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
        if barrier.options.stop.is_some() {
            self.stopped = Some(Stopped::With(checkpoint));
        }
        self.output.barrier(&barrier).await?;
        point!(points::SOURCE_BEFORE_ACK);
        self.context.acknowledge(checkpoint, SubtaskState::Source(self.schedule.positions()));
        Ok(())
    }
}

enum Wait {
    Due,
    Command(Option<Command>),
}
