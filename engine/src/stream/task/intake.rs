//! The input of a task together with what its barriers are about: what both keyed operators and sinks do before they
//! process anything.
//!
//! An unaligned snapshot is taken in three steps. At the barrier the task fixes its own state and calls [`Intake::record`]:
//! what has arrived and was overtaken is copied. What arrives before the other barriers is added as it arrives, and is
//! processed like everything else. When the last barrier has come, whoever uploads the snapshot is sent the whole.

use bytes::{Bytes, BytesMut};
use cutwater_io::{sometimes, time};
use futures::FutureExt;
use tokio::sync::oneshot;

use crate::checkpoint::barrier::Barrier;
use crate::checkpoint::snapshot::{CheckpointId, InFlight, SubtaskState};
use crate::cluster::rpc::TaskId;
use crate::stream::alignment::{Aligner, Decision, Snapshot};
use crate::stream::channel::Input;
use crate::stream::in_flight::{self, Content};
use crate::stream::record::Element;
use crate::stream::{Error, points};

use super::TaskContext;
use super::timing::{FirstBarriers, Timing};

pub(super) struct Intake {
    input: Input,
    aligner: Aligner,
    recording: Option<Recording>,
    first: FirstBarriers,
    started: time::Instant,
}

/// A snapshot that was taken and some of whose input has not arrived.
struct Recording {
    checkpoint: CheckpointId,
    /// What the task itself had not sent.
    unsent: Vec<(TaskId, TaskId, Bytes)>,
    /// By channel.
    received: Vec<BytesMut>,
    done: oneshot::Sender<Content>,
}

impl Recording {
    fn len_bytes(&self) -> usize {
        self.received.iter().map(BytesMut::len).sum()
    }
}

impl Intake {
    /// Opens the channels, and puts what was in flight at the restored checkpoint before all that will come.
    pub(super) async fn open(context: &mut TaskContext) -> Result<Intake, Error> {
        let handed = context.deployment.restore.iter().filter_map(|state| match state {
            SubtaskState::InFlight(in_flight) => Some(in_flight.clone()),
            _ => None,
        });
        let handed: Vec<InFlight> = handed.collect();
        let (task, range) = (context.task(), context.deployment.range);
        let max = context.graph.max_parallelism;
        let replay = in_flight::read(&context.blobs, task, range, max, &handed).boxed().await?;
        let mut input = context.open_input().await?;
        for (from, elements) in replay {
            sometimes!(points::IN_FLIGHT_REPLAYED, !elements.is_empty());
            input.replay(from.vertex, elements);
        }
        let aligner = Aligner::new(input.channels());
        Ok(Intake { input, aligner, recording: None, first: FirstBarriers::default(), started: time::now() })
    }

    /// How many channels there are.
    pub(super) fn channels(&self) -> usize {
        self.input.channels()
    }

    /// Lets arrive what is there, until something is to be done about a barrier. To be called until it returns `None`.
    pub(super) fn arrive(&mut self) -> Result<Option<Decision>, Error> {
        let Intake { input, aligner, recording, first, started } = self;
        let now = time::now();
        let now_us = time::micros(now - *started);
        let decision = aligner.tick(now_us);
        if decision != Decision::default() {
            sometimes!(points::ALIGNMENT_TIMED_OUT, true);
            return Ok(Some(decision));
        }
        input.receive(|channel| aligner.is_awaited(channel))?;
        while let Some((channel, element)) = input.arrive() {
            match element {
                Element::Barrier(barrier) => {
                    first.arrived(barrier.checkpoint, now);
                    let decision = aligner.arrived(channel, barrier, now_us);
                    if decision != Decision::default() {
                        return Ok(Some(decision));
                    }
                }
                element => {
                    if let Some(recording) = recording
                        && aligner.is_recording(channel)
                    {
                        element.encode(&mut recording.received[channel]);
                    }
                }
            }
        }
        Ok(None)
    }

    /// True if more was recorded than a snapshot may hold.
    pub(super) fn too_much(&self) -> Option<CheckpointId> {
        let recording = self.recording.as_ref()?;
        (recording.len_bytes() > in_flight::MAX_BYTES).then_some(recording.checkpoint)
    }

    /// The next element that may be processed.
    pub(super) fn take(&mut self) -> Option<(usize, Element)> {
        let Intake { input, aligner, .. } = self;
        input.take(|channel| aligner.is_blocked(channel))
    }

    /// True if [`Intake::take`] has something to give.
    pub(super) fn has_waiting(&self) -> bool {
        self.input.has_waiting(|channel| self.aligner.is_blocked(channel))
    }

    /// All before the barrier was processed.
    pub(super) fn reached(&mut self, channel: usize, barrier: &Barrier) -> Decision {
        self.aligner.reached(channel, barrier)
    }

    /// The snapshot begins: how long its alignment took.
    pub(super) fn timing(&mut self, snapshot: &Snapshot) -> Timing {
        let first = self.first.snapshotted(snapshot.barrier.checkpoint);
        Timing::begin(first, snapshot.overtakes.is_some())
    }

    /// Begins the part in flight of a snapshot that overtakes; `unsent` is what lay in the output. The content comes when it
    /// is complete, and never if the checkpoint is given up.
    pub(super) fn record(
        &mut self,
        task: TaskId,
        snapshot: &Snapshot,
        unsent: Vec<(TaskId, Bytes)>,
    ) -> Option<oneshot::Receiver<Content>> {
        let reached = snapshot.overtakes.as_ref()?;
        let checkpoint = snapshot.barrier.checkpoint;
        let overtaken = |channel| match reached.contains(&channel) {
            true => BytesMut::new(),
            false => self.input.overtaken(channel, checkpoint),
        };
        let received: Vec<BytesMut> = (0..self.input.channels()).map(overtaken).collect();
        sometimes!(points::OVERTAKEN_INPUT, received.iter().any(|elements| !elements.is_empty()));
        sometimes!(points::OVERTAKEN_OUTPUT, unsent.iter().any(|(_, elements)| !elements.is_empty()));
        sometimes!(points::OVERTAKEN_REPLAY, self.input.is_replaying());
        let unsent = unsent.into_iter().map(|(to, elements)| (task, to, elements)).collect();
        let (done, content) = oneshot::channel();
        self.recording = Some(Recording { checkpoint, unsent, received, done });
        Some(content)
    }

    /// All barriers of the checkpoint have arrived.
    pub(super) fn recorded(&mut self, task: TaskId, checkpoint: CheckpointId) {
        let recording = self.recording.take_if(|recording| recording.checkpoint == checkpoint);
        let Recording { unsent, received, done, .. } = recording.expect("it began with the snapshot");
        let received = received
            .into_iter()
            .enumerate()
            .map(|(channel, elements)| (self.input.sender(channel), task, elements.freeze()));
        // Nobody listens if the upload has failed meanwhile.
        drop(done.send(Content(received.chain(unsent).collect())));
    }

    /// The checkpoint will never be.
    pub(super) fn abort(&mut self, checkpoint: CheckpointId) {
        self.aligner.abort(checkpoint);
        self.first.aborted(checkpoint);
        self.recording.take_if(|recording| recording.checkpoint == checkpoint);
    }

    /// Waits until something has come, or an alignment has lasted too long.
    pub(super) async fn wait(&mut self) -> Result<(), Error> {
        let Intake { input, aligner, started, .. } = self;
        let deadline = aligner.deadline_us().map(|us| *started + std::time::Duration::from_micros(us));
        let timeout = async {
            match deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => futures::future::pending().await,
            }
        };
        let received = input.wait(|channel| aligner.is_awaited(channel)).fuse();
        let timeout = timeout.fuse();
        futures::pin_mut!(timeout, received);
        futures::select_biased! {
            () = timeout => Ok(()),
            result = received => result,
        }
    }
}
