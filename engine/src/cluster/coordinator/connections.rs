//! The coordinator's connections: bytes to events, messages to bytes, and nothing else.
//!
//! Each connection has a task that reads and a task that writes. What is read goes to the one owner of all state as
//! events; what is to be written waits in a bounded queue. A peer that does not read until the queue is full is given up: the
//! owner never waits for anybody.

use std::collections::BTreeMap;

use bytes::Bytes;
use cutwater_io::net::{Connection, Listener, Receiver, Sender};
use cutwater_io::task::{self, AbortOnDrop};
use cutwater_io::{buggify, time};
use tokio::sync::mpsc;

use super::{Event, points};
use crate::cluster::rpc::{FromCoordinator, ToCoordinator, decode, encode};

/// How many messages may wait for a peer.
const QUEUE: usize = 1024;

/// Number of a connection within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub u64);

/// The connections that are open.
#[derive(Default)]
pub(super) struct Connections {
    open: BTreeMap<ConnectionId, Open>,
}

struct Open {
    queue: mpsc::Sender<Bytes>,
    _reader: AbortOnDrop<()>,
}

impl Connections {
    /// Adopts a connection.
    pub fn add(&mut self, id: ConnectionId, connection: Connection, events: &mpsc::Sender<Event>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        // The writer ends by itself, after it has sent what waits, when the queue is dropped.
        task::spawn(write(connection.sender, waiting));
        let reader = task::spawn(read(id, connection.receiver, events.clone())).abort_on_drop();
        self.open.insert(id, Open { queue, _reader: reader });
    }

    /// Sends a message. False if the connection is gone, or given up now.
    pub fn send(&mut self, id: ConnectionId, message: &FromCoordinator) -> bool {
        let Some(open) = self.open.get(&id) else { return false };
        let sent = open.queue.try_send(encode(message)).is_ok();
        if !sent {
            self.open.remove(&id);
        }
        sent
    }

    /// Closes a connection after what was sent.
    pub fn close(&mut self, id: ConnectionId) {
        self.open.remove(&id);
    }

    /// Closes all.
    pub fn close_all(&mut self) {
        self.open.clear();
    }
}

/// Accepts connections for the life of the process.
pub(super) async fn accept(mut listener: Listener, events: mpsc::Sender<Event>) {
    let mut next = 0;
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                next += 1;
                if events.send(Event::Connected(ConnectionId(next), connection)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

async fn read(id: ConnectionId, mut receiver: Receiver, events: mpsc::Sender<Event>) {
    while let Ok(Some(frame)) = receiver.recv().await {
        match decode::<ToCoordinator>(&frame) {
            Ok(message) => {
                if events.send(Event::Message(id, message)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "connection broken off");
                break;
            }
        }
    }
    // Whether anybody still listens does not matter any more.
    let _ = events.send(Event::Closed(id)).await;
}

async fn write(mut sender: Sender, mut waiting: mpsc::Receiver<Bytes>) {
    while let Some(frame) = waiting.recv().await {
        if buggify!(points::MESSAGE_LATE) {
            time::sleep(std::time::Duration::from_millis(30)).await;
        }
        if sender.send(frame).await.is_err() {
            return;
        }
    }
}
