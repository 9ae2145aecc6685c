//! Channels: one connection per pair of tasks, also between tasks of one worker.
//!
//! The sender connects to the data address of the receiver's worker and says in its first frame which channel of which
//! attempt this is. A channel of an older attempt is refused (closed); one that comes before its deployment has reached
//! this worker waits, for a bounded time. After that, frames are batches of elements ([`super::record`]). A channel that
//! breaks or ends fails the task that reads it: nothing is resumed, the attempt is restarted from the latest checkpoint.
//!
//! Between two tasks an element lies in one of three places: with the sender until it is sent ([`output`]), in the
//! connection, with the receiver until it is processed ([`input`]). The first and the last are bounded by [`Limits`], the
//! second by the connection's window; when all are full, the sender's task processes nothing. An unaligned barrier overtakes
//! what lies at the two ends. What is in the connection it cannot overtake, so its receiver takes more than usual out of
//! there while it waits for one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use cutwater_io::net::{self, Connection};
use cutwater_io::time;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::Error;
use crate::cluster::rpc::{self, Attempt, TaskId};

pub mod input;
pub mod output;

pub use input::Input;
pub use output::Output;

/// Pause between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How much lies at the ends of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A batch is closed when it has this many bytes.
    pub batch_bytes: usize,
    /// A task processes nothing while so many bytes wait to be sent.
    pub output_bytes: usize,
    /// No more is received while so many bytes wait to be processed.
    pub input_bytes: usize,
    /// The same while a barrier is waited for that others have overtaken.
    pub overtaken_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_bytes: 16 << 10,
            output_bytes: 32 << 10,
            input_bytes: 64 << 10,
            overtaken_bytes: 4 << 20,
        }
    }
}

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
