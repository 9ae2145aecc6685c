//! Channels: one connection per pair of tasks, also between tasks of one worker.
//!
//! The sender connects to the data address of the receiver's worker and says in its first frame which channel of which
//! attempt this is. A channel of an older attempt is refused (closed); one that comes before its deployment has reached
//! this worker waits, for a bounded time. After that, frames are batches of elements ([`super::record`]); back-pressure is
//! the connection's window. A channel that breaks or ends fails the task that reads it: nothing is resumed, the attempt is
//! restarted from the latest checkpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cutwater_io::net::{self, Connection};
use cutwater_io::time;
use futures::FutureExt;
use futures::future::{pending, select_all};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::Error;
use super::record::{Decoder, Element, MAX_BATCH_BYTES, Malformed, Record};
use crate::checkpoint::snapshot::CheckpointId;
use crate::cluster::rpc::{self, Attempt, TaskId};

/// A batch is sent when it has this many bytes.
const BATCH_BYTES: usize = 16 << 10;
/// Pause between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The first frame of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelHello {
    /// The deployment.
    pub attempt: Attempt,
    /// The sending task.
    pub from: TaskId,
    /// The receiving task.
    pub to: TaskId,
}

/// An input that will come.
pub type Expected = (TaskId, oneshot::Receiver<net::Receiver>);

/// Brings the connections that a worker accepts to the tasks that wait for them.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<HubState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct HubState {
    /// The newest attempt heard of.
    attempt: Attempt,
    /// Channels of that attempt that have not come, by receiving and sending task.
    waiting: BTreeMap<(TaskId, TaskId), oneshot::Sender<net::Receiver>>,
}

/// What became of a connection.
enum Arrival {
    Done,
    Early(net::Receiver),
}

impl Default for Hub {
    fn default() -> Self {
        Hub { state: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Hub {
    /// An attempt begins: its tasks expect these channels, (from, to). Those of older ones are refused from now on.
    ///
    /// # Panics
    /// If a newer attempt has begun.
    pub fn begin(&self, attempt: Attempt, channels: &[(TaskId, TaskId)]) -> BTreeMap<TaskId, Vec<Expected>> {
        let mut expected: BTreeMap<TaskId, Vec<Expected>> = BTreeMap::new();
        let mut state = self.state.lock().expect("no panic under the lock");
        assert!(attempt > state.attempt, "attempt {attempt} begins after {}", state.attempt);
        *state = HubState { attempt, waiting: BTreeMap::new() };
        for (from, to) in channels {
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert((*to, *from), sender);
            expected.entry(*to).or_default().push((*from, receiver));
        }
        drop(state);
        self.changed.send_replace(());
        expected
    }

    /// Takes an accepted connection: reads which channel it is and hands it over. Waits for at most `patience` for the
    /// first frame, and as long for the channel's deployment.
    pub async fn arrive(&self, connection: Connection, patience: Duration) {
        // Only the receiving half is of use; the sender learns of the end when it is dropped.
        let mut receiver = connection.receiver;
        let Ok(Ok(Some(frame))) = time::timeout(patience, receiver.recv()).await else { return };
        let Ok(hello) = rpc::decode::<ChannelHello>(&frame) else {
            tracing::warn!(len_bytes = frame.len(), "a connection that is no channel");
            return;
        };
        let mut changed = self.changed.subscribe();
        let deadline = time::now() + patience;
        loop {
            receiver = match self.hand_over(hello, receiver) {
                Arrival::Done => return,
                Arrival::Early(receiver) => receiver,
            };
            let left = deadline - time::now();
            if left.is_zero() || !matches!(time::timeout(left, changed.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn hand_over(&self, hello: ChannelHello, receiver: net::Receiver) -> Arrival {
        let mut state = self.state.lock().expect("no panic under the lock");
        if hello.attempt > state.attempt {
            return Arrival::Early(receiver);
        }
        if hello.attempt == state.attempt
            && let Some(waiting) = state.waiting.remove(&(hello.to, hello.from))
        {
            // A task that has ended meanwhile does not want it: then it is closed.
            drop(waiting.send(receiver));
        }
        Arrival::Done
    }
}

/// The channels into a task.
#[derive(Debug)]
pub struct Input {
    to: TaskId,
    channels: Vec<InputChannel>,
    /// Where to look first: channels take turns.
    turn: usize,
}

#[derive(Debug)]
struct InputChannel {
    from: TaskId,
    receiver: net::Receiver,
    batch: Decoder,
}

impl Input {
    /// Waits until all channels have come.
    ///
    /// # Errors
    /// If one has not come within `patience`.
    pub async fn open(to: TaskId, expected: Vec<Expected>, patience: Duration) -> Result<Input, Error> {
        let deadline = time::now() + patience;
        let mut channels = Vec::with_capacity(expected.len());
        for (from, receiver) in expected {
            let missing = |_| Error::Connect { from, to, what: format!("did not come within {patience:?}") };
            let ended = |_| Error::Connect { from, to, what: "a newer attempt has begun".into() };
            let receiver =
                time::timeout(deadline - time::now(), receiver).await.map_err(missing)?.map_err(ended)?;
            channels.push(InputChannel { from, receiver, batch: Decoder::new(Bytes::new()) });
        }
        Ok(Input { to, channels, turn: 0 })
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The next element that has arrived on a channel that is not blocked; `None` if one must be waited for.
    ///
    /// # Errors
    /// If a channel brought something else than elements.
    pub fn buffered(&mut self, blocked: impl Fn(usize) -> bool) -> Result<Option<(usize, Element)>, Error> {
        let count = self.channels.len();
        for i in (0..count).map(|i| (self.turn + i) % count).filter(|i| !blocked(*i)) {
            let channel = &mut self.channels[i];
            let (from, to) = (channel.from, self.to);
            let element = channel.batch.element().map_err(|source| Error::Malformed { from, to, source })?;
            if let Some(element) = element {
                self.turn = i;
                return Ok(Some((i, element)));
            }
        }
        Ok(None)
    }

    /// True if something has arrived on a channel that is not blocked.
    pub fn has_buffered(&self, blocked: impl Fn(usize) -> bool) -> bool {
        (0..self.channels.len()).any(|i| !blocked(i) && !self.channels[i].batch.is_empty())
    }

    /// Waits for a batch on a channel that is not blocked. To be called when nothing is buffered.
    ///
    /// # Errors
    /// If a channel broke or ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn wait(&mut self, blocked: impl Fn(usize) -> bool) -> Result<(), Error> {
        let (to, count, turn) = (self.to, self.channels.len(), self.turn);
        let mut open: Vec<(usize, &mut InputChannel)> =
            self.channels.iter_mut().enumerate().filter(|(i, _)| !blocked(*i)).collect();
        // The channel that was read last comes last.
        open.sort_by_key(|(i, _)| (i + count - turn - 1) % count);
        if open.is_empty() {
            return pending().await;
        }
        select_all(open.into_iter().map(|(_, channel)| channel.receive(to).boxed())).await.0
    }
}

impl InputChannel {
    /// Waits for the next batch.
    async fn receive(&mut self, to: TaskId) -> Result<(), Error> {
        let from = self.from;
        let broken = |source| Error::Channel { from, to, source };
        let Some(frame) = self.receiver.recv().await.map_err(broken)? else {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
        };
        if frame.len() > MAX_BATCH_BYTES {
            let source = Malformed { at_byte: MAX_BATCH_BYTES, what: "a batch that is too long" };
            return Err(Error::Malformed { from, to, source });
        }
        self.batch = Decoder::new(frame);
        Ok(())
    }
}

/// The channels out of a task, to all subtasks of each vertex that it sends to.
#[derive(Debug)]
pub struct Output {
    from: TaskId,
    edges: Vec<Vec<OutputChannel>>,
}

#[derive(Debug)]
struct OutputChannel {
    to: TaskId,
    sender: net::Sender,
    batch: BytesMut,
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
        patience: Duration,
    ) -> Result<Output, Error> {
        let deadline = time::now() + patience;
        let mut output = Output { from, edges: Vec::new() };
        for edge in edges {
            let mut channels = Vec::with_capacity(edge.len());
            for (to, address) in edge {
                let sender = connect(ChannelHello { attempt, from, to }, address, deadline).await?;
                channels.push(OutputChannel { to, sender, batch: BytesMut::new() });
            }
            output.edges.push(channels);
        }
        Ok(output)
    }

    /// Sends a record to a subtask of the vertex of an edge. It may stay in a batch until [`Output::flush`].
    ///
    /// # Errors
    /// If a channel is broken.
    pub async fn send(&mut self, edge: usize, to: usize, record: &Record) -> Result<(), Error> {
        let channel = &mut self.edges[edge][to];
        record.encode_as_element(&mut channel.batch);
        channel.flush_if_full(self.from).await
    }

    /// Sends an element on all channels, after all that was sent before it. It may stay in a batch.
    ///
    /// # Errors
    /// If a channel is broken.
    pub async fn send_to_all(&mut self, element: &Element) -> Result<(), Error> {
        for channel in self.edges.iter_mut().flatten() {
            element.encode(&mut channel.batch);
            channel.flush_if_full(self.from).await?;
        }
        Ok(())
    }

    /// Sends a barrier on all channels, after all that was emitted before it.
    ///
    /// # Errors
    /// If a channel is broken.
    pub async fn barrier(&mut self, checkpoint: CheckpointId) -> Result<(), Error> {
        for channel in self.edges.iter_mut().flatten() {
            Element::Barrier(checkpoint).encode(&mut channel.batch);
        }
        self.flush().await
    }

    /// Sends what lies in batches.
    ///
    /// # Errors
    /// If a channel is broken.
    pub async fn flush(&mut self) -> Result<(), Error> {
        for channel in self.edges.iter_mut().flatten() {
            channel.flush(self.from).await?;
        }
        Ok(())
    }
}

impl OutputChannel {
    async fn flush_if_full(&mut self, from: TaskId) -> Result<(), Error> {
        if self.batch.len() >= BATCH_BYTES { self.flush(from).await } else { Ok(()) }
    }

    async fn flush(&mut self, from: TaskId) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let to = self.to;
        let frame = self.batch.split().freeze();
        self.sender.send(frame).await.map_err(|source| Error::Channel { from, to, source })
    }
}

async fn connect(
    hello: ChannelHello,
    address: SocketAddr,
    deadline: time::Instant,
) -> Result<net::Sender, Error> {
    let ChannelHello { from, to, .. } = hello;
    let mut last = "no time was left".to_string();
    loop {
        let left = deadline - time::now();
        if left.is_zero() {
            return Err(Error::Connect { from, to, what: format!("{address}: {last}") });
        }
        last = match time::timeout(left, introduce(hello, address)).await {
            Ok(Ok(sender)) => return Ok(sender),
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn introduce(hello: ChannelHello, address: SocketAddr) -> std::io::Result<net::Sender> {
    let mut connection = Connection::connect(address).await?;
    connection.sender.send(rpc::encode(&hello)).await?;
    Ok(connection.sender)
}
