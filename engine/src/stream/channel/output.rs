//! The channels out of a task.
//!
//! Nothing here waits for the network: elements are put into frames, frames wait in a queue, and sending goes on beside
//! whatever the task does. That is what lets a barrier overtake when nothing moves. A task that finds [`Output::is_ready`]
//! false processes nothing until it has drained.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cutwater_io::{net, time};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{ChannelHello, Limits, connect};
use crate::checkpoint::barrier::Barrier;
use crate::cluster::rpc::{Attempt, TaskId};
use crate::stream::Error;
use crate::stream::record::{Element, Record};

/// The channels to all subtasks of each vertex that the task sends to.
pub struct Output {
    from: TaskId,
    limits: Limits,
    edges: Vec<Vec<OutputChannel>>,
}

struct OutputChannel {
    to: TaskId,
    connection: SendState,
    queue: VecDeque<Frame>,
    batch: BytesMut,
    /// What the queue and the batch hold.
    waiting_bytes: usize,
}

enum SendState {
    Idle(net::Sender),
    /// A frame is on its way into the connection. The future is kept: to drop it would leave open whether it was sent.
    Sending(BoxFuture<'static, (net::Sender, io::Result<()>)>),
    /// The connection broke.
    Broken,
}

enum Frame {
    Data(Bytes),
    Barrier(Bytes),
}

impl Output {
    /// Connects to the tasks of each edge, in order of the subtasks.
    ///
    /// # Errors
    /// If one cannot be connected to within `patience`.
    pub async fn open(
        attempt: Attempt,
        from: TaskId,
        edges: Vec<Vec<(TaskId, SocketAddr)>>,
        limits: Limits,
        patience: Duration,
    ) -> Result<Output, Error> {
        let deadline = time::now() + patience;
        let mut output = Output { from, limits, edges: Vec::new() };
        for edge in edges {
            let mut channels = Vec::with_capacity(edge.len());
            for (to, address) in edge {
                let sender = connect(ChannelHello { attempt, from, to }, address, deadline).await?;
                channels.push(OutputChannel {
                    to,
                    connection: SendState::Idle(sender),
                    queue: VecDeque::new(),
                    batch: BytesMut::new(),
                    waiting_bytes: 0,
                });
            }
            output.edges.push(channels);
        }
        Ok(output)
    }

    /// False if the task shall not process anything now.
    pub fn is_ready(&self) -> bool {
        self.edges.iter().flatten().all(|channel| channel.waiting_bytes < self.limits.output_bytes)
    }

    /// Puts a record into the batch for a subtask of the vertex of an edge.
    pub fn put(&mut self, edge: usize, to: usize, record: &Record) {
        self.edges[edge][to].put(self.limits, |batch| record.encode_as_element(batch));
    }

    /// Puts an element into the batches of all channels, behind all that was emitted.
    pub fn put_to_all(&mut self, element: &Element) {
        for channel in self.edges.iter_mut().flatten() {
            channel.put(self.limits, |batch| element.encode(batch));
        }
    }

    /// Puts a barrier behind all that was emitted, on all channels.
    pub fn barrier(&mut self, barrier: &Barrier) {
        let frame = frame(barrier);
        for channel in self.edges.iter_mut().flatten() {
            channel.close_batch();
            channel.waiting_bytes += frame.len();
            channel.queue.push_back(Frame::Barrier(frame.clone()));
        }
    }

    /// Puts a barrier before all that has not been sent, on all channels, and returns what it has overtaken on each: elements,
    /// without barriers.
    pub fn overtake(&mut self, barrier: &Barrier) -> Vec<(TaskId, Bytes)> {
        let frame = frame(barrier);
        let overtake = |channel: &mut OutputChannel| {
            channel.close_batch();
            let mut overtaken = BytesMut::new();
            for waiting in &channel.queue {
                if let Frame::Data(elements) = waiting {
                    overtaken.extend_from_slice(elements);
                }
            }
            channel.waiting_bytes += frame.len();
            channel.queue.push_front(Frame::Barrier(frame.clone()));
            (channel.to, overtaken.freeze())
        };
        self.edges.iter_mut().flatten().map(overtake).collect()
    }

    /// Closes batches behind which nothing waits, and sends what can be sent without waiting.
    ///
    /// # Errors
    /// If a channel is broken.
    pub fn flush(&mut self) -> Result<(), Error> {
        for channel in self.edges.iter_mut().flatten().filter(|channel| channel.queue.is_empty()) {
            channel.close_batch();
        }
        self.send()
    }

    /// Sends what can be sent without waiting.
    ///
    /// # Errors
    /// If a channel is broken.
    pub fn send(&mut self) -> Result<(), Error> {
        poll_fn(|cx| Poll::Ready(self.poll_send(cx).map(drop))).now_or_never().expect("it is always ready")
    }

    /// Waits until a frame was sent. For ever if there is none to send.
    ///
    /// # Errors
    /// If a channel is broken.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn progress(&mut self) -> Result<(), Error> {
        poll_fn(|cx| match self.poll_send(cx) {
            Ok(false) => Poll::Pending,
            Ok(true) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    /// True if a frame was sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let (from, mut sent) = (self.from, false);
        for channel in self.edges.iter_mut().flatten() {
            sent |=
                channel.poll_send(cx).map_err(|source| Error::Channel { from, to: channel.to, source })?;
        }
        Ok(sent)
    }
}

impl OutputChannel {
    fn put(&mut self, limits: Limits, encode: impl FnOnce(&mut BytesMut)) {
        let before = self.batch.len();
        encode(&mut self.batch);
        self.waiting_bytes += self.batch.len() - before;
        if self.batch.len() >= limits.batch_bytes {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        if !self.batch.is_empty() {
            self.queue.push_back(Frame::Data(self.batch.split().freeze()));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut sent = false;
        loop {
            match std::mem::replace(&mut self.connection, SendState::Broken) {
                SendState::Idle(mut sender) => {
                    let Some(Frame::Data(frame) | Frame::Barrier(frame)) = self.queue.pop_front() else {
                        self.connection = SendState::Idle(sender);
                        return Ok(sent);
                    };
                    self.waiting_bytes -= frame.len();
                    let sending = async move {
                        let result = sender.send(frame).await;
                        (sender, result)
                    };
                    self.connection = SendState::Sending(sending.boxed());
                }
                SendState::Sending(mut sending) => match sending.poll_unpin(cx) {
                    Poll::Pending => {
                        self.connection = SendState::Sending(sending);
                        return Ok(sent);
                    }
                    Poll::Ready((sender, result)) => {
                        result?;
                        self.connection = SendState::Idle(sender);
                        sent = true;
                    }
                },
                SendState::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

fn frame(barrier: &Barrier) -> Bytes {
    let mut frame = BytesMut::new();
    Element::Barrier(barrier.clone()).encode(&mut frame);
    frame.freeze()
}
