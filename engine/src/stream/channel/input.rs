//! The channels into a task.
//!
//! An element *arrives* when its frame is taken from the connection, and is *taken* when the task processes it. In between it
//! waits, in order, with the others of its channel. Arrival is an event of its own because a barrier counts for an unaligned
//! checkpoint when it arrives, not when its turn comes.
//!
//! Input that was in flight at the checkpoint a task was restored from waits in front of everything: nothing else is taken
//! before it. It stays with the first channel of its edge, so that a checkpoint that overtakes it again holds it there.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cutwater_io::{net, time};
use futures::FutureExt;
use futures::future::{pending, select_all};

use super::{Expected, Limits};
use crate::checkpoint::barrier::Barrier;
use crate::checkpoint::snapshot::CheckpointId;
use crate::cluster::rpc::TaskId;
use crate::stream::Error;
use crate::stream::record::{Decoder, Element, MAX_BATCH_BYTES, Malformed};

/// So many elements are taken from a channel before the others have their turn.
const ELEMENTS_PER_TURN: u32 = 64;

/// See the module.
#[derive(Debug)]
pub struct Input {
    to: TaskId,
    channels: Vec<InputChannel>,
    /// Elements of frames that were received, each with its channel, that have not arrived yet.
    arriving: VecDeque<(usize, Element)>,
    /// Restored elements, each with its channel.
    replay: VecDeque<(usize, Element)>,
    limits: Limits,
    /// Where to look first.
    turn: usize,
    /// How many elements were taken there.
    taken: u32,
}

#[derive(Debug)]
struct InputChannel {
    from: TaskId,
    receiver: net::Receiver,
    queue: VecDeque<Element>,
    /// What was received and not taken, in bytes.
    waiting_bytes: usize,
}

impl Input {
    /// Waits until all channels have come.
    ///
    /// # Errors
    /// If one has not come within `patience`.
    pub async fn open(
        to: TaskId,
        expected: Vec<Expected>,
        limits: Limits,
        patience: Duration,
    ) -> Result<Input, Error> {
        let deadline = time::now() + patience;
        let mut channels = Vec::with_capacity(expected.len());
        for (from, receiver) in expected {
            let missing = |_| Error::Connect { from, to, what: format!("did not come within {patience:?}") };
            let ended = |_| Error::Connect { from, to, what: "a newer attempt has begun".into() };
            let receiver =
                time::timeout(deadline - time::now(), receiver).await.map_err(missing)?.map_err(ended)?;
            channels.push(InputChannel { from, receiver, queue: VecDeque::new(), waiting_bytes: 0 });
        }
        let (arriving, replay) = (VecDeque::new(), VecDeque::new());
        Ok(Input { to, channels, arriving, replay, limits, turn: 0, taken: 0 })
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Elements of an edge that are to be processed before all that arrives. In the order in which they are given.
    pub fn replay(&mut self, from_vertex: u16, elements: impl IntoIterator<Item = Element>) {
        let of_edge = |channel: &InputChannel| channel.from.vertex == from_vertex;
        let channel = self.channels.iter().position(of_edge).unwrap_or(0);
        self.replay.extend(elements.into_iter().map(|element| (channel, element)));
    }

    /// Takes from the connections what is there, within the limits. `waits` says of which channels a barrier is waited for
    /// that was overtaken elsewhere.
    ///
    /// # Errors
    /// If a channel broke or ended, or brought something else than elements.
    pub fn receive(&mut self, waits: impl Fn(usize) -> bool) -> Result<(), Error> {
        for i in 0..self.channels.len() {
            while self.has_room(i, &waits)
                && let Some(frame) = self.channels[i].receiver.recv().now_or_never()
            {
                self.received(i, frame)?;
            }
        }
        Ok(())
    }

    /// Waits until something was received.
    ///
    /// # Errors
    /// As [`Input::receive`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn wait(&mut self, waits: impl Fn(usize) -> bool) -> Result<(), Error> {
        if !self.arriving.is_empty() {
            return Ok(());
        }
        let with_room: Vec<bool> = (0..self.channels.len()).map(|i| self.has_room(i, &waits)).collect();
        let channels = self.channels.iter_mut().enumerate().filter(|(i, _)| with_room[*i]);
        let frames: Vec<_> = channels
            .map(|(i, channel)| channel.receiver.recv().map(move |frame| (i, frame)).boxed())
            .collect();
        if frames.is_empty() {
            return pending().await;
        }
        let (i, frame) = select_all(frames).await.0;
        self.received(i, frame)
    }

    fn has_room(&self, channel: usize, waits: &impl Fn(usize) -> bool) -> bool {
        let limit_bytes = if waits(channel) { self.limits.overtaken_bytes } else { self.limits.input_bytes };
        self.channels[channel].waiting_bytes < limit_bytes
    }

    fn received(&mut self, channel: usize, frame: std::io::Result<Option<Bytes>>) -> Result<(), Error> {
        let (from, to) = (self.channels[channel].from, self.to);
        let broken = |source| Error::Channel { from, to, source };
        let malformed = |source| Error::Malformed { from, to, source };
        let frame = frame.map_err(broken)?.ok_or_else(|| broken(std::io::ErrorKind::UnexpectedEof.into()))?;
        if frame.len() > MAX_BATCH_BYTES {
            return Err(malformed(Malformed { at_byte: MAX_BATCH_BYTES, what: "a batch that is too long" }));
        }
        let mut batch = Decoder::new(frame);
        while let Some(element) = batch.element().map_err(malformed)? {
            self.channels[channel].waiting_bytes += element.len_bytes();
            self.arriving.push_back((channel, element));
        }
        Ok(())
    }

    /// The next element to arrive; from now on it waits for its turn.
    pub fn arrive(&mut self) -> Option<(usize, &Element)> {
        let (channel, element) = self.arriving.pop_front()?;
        let queue = &mut self.channels[channel].queue;
        queue.push_back(element);
        Some((channel, queue.back().expect("it was pushed")))
    }

    /// The next element of a channel that is not blocked.
    pub fn take(&mut self, blocked: impl Fn(usize) -> bool) -> Option<(usize, Element)> {
        if let Some(replayed) = self.replay.pop_front() {
            return Some(replayed);
        }
        let count = self.channels.len();
        for i in (0..count).map(|i| (self.turn + i) % count).filter(|i| !blocked(*i)) {
            let channel = &mut self.channels[i];
            let Some(element) = channel.queue.pop_front() else { continue };
            channel.waiting_bytes -= element.len_bytes();
            self.taken = if i == self.turn { self.taken + 1 } else { 1 };
            self.turn = i;
            if self.taken == ELEMENTS_PER_TURN {
                (self.turn, self.taken) = ((i + 1) % count, 0);
            }
            return Some((i, element));
        }
        None
    }

    /// True if [`Input::take`] has something to give.
    pub fn has_waiting(&self, blocked: impl Fn(usize) -> bool) -> bool {
        let waits = |i: usize| !blocked(i) && !self.channels[i].queue.is_empty();
        !self.replay.is_empty() || (0..self.channels.len()).any(waits)
    }

    /// What the barrier of `checkpoint` overtakes of a channel: all that waits before it, or all that waits if it has not
    /// arrived. Older barriers are left out.
    pub fn overtaken(&self, channel: usize, checkpoint: CheckpointId) -> BytesMut {
        let replayed = self.replay.iter().filter(|(i, _)| *i == channel).map(|(_, element)| element);
        let is_it = |element: &Element| matches!(element, Element::Barrier(Barrier { checkpoint: id, .. }) if *id == checkpoint);
        let waiting = self.channels[channel].queue.iter().take_while(|element| !is_it(element));
        let mut bytes = BytesMut::new();
        for element in replayed.chain(waiting).filter(|element| !matches!(element, Element::Barrier(_))) {
            element.encode(&mut bytes);
        }
        bytes
    }

    /// What was restored and lies with a channel whose barrier has been processed cannot be: it is taken first.
    pub fn is_replaying(&self) -> bool {
        !self.replay.is_empty()
    }

    /// Who sends through a channel.
    pub fn sender(&self, channel: usize) -> TaskId {
        self.channels[channel].from
    }
}
