//! A client's connections to nodes: one to each, made when it is needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::net::{Connection, Receiver, Sender};
use cutwater_io::task::{self, AbortOnDrop};
use cutwater_io::time;
use tokio::sync::{mpsc, oneshot};

use crate::tables::clock::HybridClock;
use crate::tables::ids::CutId;
use crate::tables::rpc::{self, Answer, Envelope, Payload, Question};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many questions may wait for a connection.
const QUEUE: usize = 1024;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The question certainly reached nobody.
    NotSent,
    /// It may have.
    Unknown,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Network {
    shared: Arc<Mutex<Shared>>,
    cluster: String,
}

#[derive(Default)]
struct Shared {
    links: BTreeMap<SocketAddr, Link>,
    clock: HybridClock,
    cut: CutId,
    next_question: u64,
    next_link: u64,
}

/// A connection that is there.
struct Link {
    number: u64,
    queue: mpsc::Sender<Bytes>,
    questions: BTreeMap<u64, oneshot::Sender<Answer>>,
    _tasks: [AbortOnDrop<()>; 2],
}

impl Network {
    /// Without a connection yet.
    pub fn new(cluster: &str) -> Network {
        Network { shared: Arc::default(), cluster: cluster.into() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics with it")
    }

    /// Asks a node.
    pub async fn ask(&self, node: SocketAddr, question: Question, limit: Duration) -> Result<Answer, Lost> {
        let is_there = self.shared().links.contains_key(&node);
        if !is_there {
            self.connect(node).await.ok_or(Lost::NotSent)?;
        }
        let (reply, answer) = oneshot::channel();
        let id = {
            let mut shared = self.shared();
            shared.next_question += 1;
            let id = shared.next_question;
            let frame = shared.stamp(Payload::Ask { id, question });
            let link = shared.links.get_mut(&node).ok_or(Lost::NotSent)?;
            link.queue.try_send(frame).map_err(|_| Lost::NotSent)?;
            link.questions.insert(id, reply);
            id
        };
        match time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Lost::Unknown),
            Err(time::Elapsed) => {
                if let Some(link) = self.shared().links.get_mut(&node) {
                    link.questions.remove(&id);
                }
                Err(Lost::Unknown)
            }
        }
    }

    async fn connect(&self, node: SocketAddr) -> Option<()> {
        let connection = time::timeout(CONNECT_TIMEOUT, Connection::connect(node)).await;
        let Ok(Ok(Connection { sender, receiver })) = connection else { return None };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let mut shared = self.shared();
        shared.next_link += 1;
        let number = shared.next_link;
        let hello = shared.stamp(Payload::Hello { cluster: self.cluster.clone(), node: None });
        let writing =
            task::spawn(write(self.clone(), (node, number), sender, hello, waiting)).abort_on_drop();
        let reading = task::spawn(read(self.clone(), (node, number), receiver)).abort_on_drop();
        // Another question may have connected meanwhile: the newer connection stays.
        let link = Link { number, queue, questions: BTreeMap::new(), _tasks: [writing, reading] };
        shared.links.entry(node).or_insert(link);
        Some(())
    }

    /// The connection is gone, and those who wait for its answers learn it.
    fn lost(&self, (node, number): (SocketAddr, u64)) {
        let mut shared = self.shared();
        let link = match shared.links.get(&node) {
            Some(link) if link.number == number => shared.links.remove(&node),
            _ => None,
        };
        drop(shared);
        // The task that says so is among those that are aborted here, so nothing may come after.
        drop(link);
    }

    /// Takes in an answer. False if the node is not to be believed.
    fn heard(&self, (node, number): (SocketAddr, u64), envelope: Envelope) -> bool {
        let mut shared = self.shared();
        let wall_us = time::micros(time::unix_time());
        if shared.clock.heard(envelope.time, wall_us).is_err() {
            return false;
        }
        shared.cut = shared.cut.max(envelope.cut);
        if let Payload::Answer { id, answer } = envelope.payload
            && let Some(link) = shared.links.get_mut(&node).filter(|link| link.number == number)
            && let Some(reply) = link.questions.remove(&id)
        {
            // Who does not wait any more does not want to know.
            let _ = reply.send(*answer);
        }
        true
    }
}

impl Shared {
    fn stamp(&mut self, payload: Payload) -> Bytes {
        let time = self.clock.now(time::micros(time::unix_time()));
        rpc::encode(&Envelope { cut: self.cut, time, register: 0, payload })
    }
}

async fn write(
    network: Network,
    link: (SocketAddr, u64),
    mut sender: Sender,
    hello: Bytes,
    mut waiting: mpsc::Receiver<Bytes>,
) {
    let mut next = Some(hello);
    while let Some(frame) = next {
        if sender.send(frame).await.is_err() {
            return network.lost(link);
        }
        next = waiting.recv().await;
    }
}

async fn read(network: Network, link: (SocketAddr, u64), mut receiver: Receiver) {
    while let Ok(Some(frame)) = receiver.recv().await {
        let is_understood = match rpc::decode(&frame) {
            Ok(envelope) => network.heard(link, envelope),
            Err(error) => {
                tracing::warn!(%error, "a node is not understood");
                false
            }
        };
        if !is_understood {
            break;
        }
    }
    network.lost(link);
}
