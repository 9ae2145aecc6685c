//! What all tasks of a node share: its cut, its clock, what it knows of the register, and how to reach others.
//!
//! **The rule of the cut lives here.** [`Shared::receive`] looks at an envelope before anybody looks at the payload: a higher cut is started,
//! which means that a `Mark` is put into the queue of each copy, and the payload goes into a queue only after that. Queues are first in, first out, so in no
//! partition is anything that came with the cut, or later, handled before its mark. Everything that is sent is stamped with the cut after that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use cutwater_io::{sometimes, time};
use tokio::sync::{mpsc, oneshot, watch};

use super::config::NodeConfig;
use super::copy::CopyEvent;
use super::register::{Change, ChangeError, Command, Known};
use super::{points, wall_us};
use crate::tables::clock::{HybridClock, TooFarAhead};
use crate::tables::cluster_state::Fate;
use crate::tables::ids::{CutId, HybridTime, LogIndex, NodeId, PartitionId};
use crate::tables::partition::Ledger;
use crate::tables::rpc::{self, Answer, Envelope, Payload, Question};
use crate::tables::storage;

/// How many messages may wait for one node.
pub(super) const PEER_QUEUE: usize = 4096;

/// See the module.
pub(super) struct Shared {
    pub config: NodeConfig,
    pub own: NodeId,
    inner: Mutex<Inner>,
    /// The last cut whose end is known: what was made before it or in it may be told to clients.
    released: watch::Sender<CutId>,
    register: mpsc::UnboundedSender<Command>,
    /// The register or the set of peers has changed.
    changed: mpsc::UnboundedSender<()>,
    /// The store of this node has failed.
    failed: mpsc::UnboundedSender<storage::Error>,
}

struct Inner {
    clock: HybridClock,
    cut: CutId,
    known: Known,
    /// How far each node has come with cuts, as it said itself.
    started: BTreeMap<NodeId, CutId>,
    heard_us: BTreeMap<NodeId, u64>,
    copies: BTreeMap<PartitionId, CopyHandle>,
    /// The partitions that this node leads, and that take requests.
    open: BTreeSet<PartitionId>,
    /// What is being removed from the store: nothing may be begun there.
    leaving: BTreeSet<PartitionId>,
    peers: BTreeMap<NodeId, Peer>,
    questions: BTreeMap<u64, (NodeId, oneshot::Sender<Answer>)>,
    next_question: u64,
}

/// The way to a copy.
pub(super) struct CopyHandle {
    pub events: mpsc::UnboundedSender<CopyEvent>,
    /// It has been told that time has passed, and has not looked yet.
    pub is_ticked: Arc<AtomicBool>,
}

/// The way to another node.
struct Peer {
    queue: mpsc::Sender<Bytes>,
    is_connected: bool,
}

impl Shared {
    /// Of the node `own`, as the register says.
    pub fn new(
        config: NodeConfig,
        own: NodeId,
        known: Known,
        register: mpsc::UnboundedSender<Command>,
        changed: mpsc::UnboundedSender<()>,
        failed: mpsc::UnboundedSender<storage::Error>,
    ) -> Arc<Shared> {
        let cut = known.state.last_cut;
        let ended = if known.state.cut_under_way().is_some() { cut - 1 } else { cut };
        Arc::new(Shared {
            config,
            own,
            inner: Mutex::new(Inner {
                clock: HybridClock::default(),
                cut,
                known,
                started: BTreeMap::new(),
                heard_us: BTreeMap::new(),
                copies: BTreeMap::new(),
                open: BTreeSet::new(),
                leaving: BTreeSet::new(),
                peers: BTreeMap::new(),
                questions: BTreeMap::new(),
                next_question: 0,
            }),
            released: watch::channel(ended).0,
            register,
            changed,
            failed,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }

    /// What is known of the register.
    pub fn known(&self) -> Known {
        self.inner().known.clone()
    }

    /// The node's time.
    pub fn now(&self) -> HybridTime {
        self.inner().clock.now(wall_us())
    }

    /// The last cut that this node has started.
    pub fn cut(&self) -> CutId {
        self.inner().cut
    }

    /// Waits until what was made in `cut` may be told to clients.
    pub async fn released(&self, cut: CutId) {
        let mut released = self.released.subscribe();
        sometimes!(points::ANSWER_HELD, *released.borrow() < cut);
        // The sender lives as long as this does.
        let _ = released.wait_for(|ended| *ended >= cut).await;
    }

    /// A newer version of the register is known: its cut is started first, as everything that follows from the version comes after it.
    pub fn learn(&self, known: Known) {
        let mut inner = self.inner();
        if known.version <= inner.known.version {
            return;
        }
        sometimes!(points::CUT_BY_REGISTER, known.state.last_cut > inner.cut);
        inner.start_cut(known.state.last_cut);
        let state = known.state.clone();
        inner.known = known;
        drop(inner);
        let is_under_way = state.cut_under_way().is_some();
        let ended = if is_under_way { state.last_cut - 1 } else { state.last_cut };
        sometimes!(points::CUT_GIVEN_UP, state.fate(ended) == Some(Fate::GivenUp));
        self.released.send_if_modified(|released| {
            let is_news = ended > *released;
            *released = ended.max(*released);
            is_news
        });
        let _ = self.changed.send(());
    }

    /// Looks at an envelope, before anybody looks at the payload. `from` is nothing for a client.
    ///
    /// # Errors
    /// If the sender's time cannot be: the payload is not to be looked at.
    pub fn receive(&self, envelope: &Envelope, from: Option<NodeId>) -> Result<(), TooFarAhead> {
        let mut inner = self.inner();
        inner.clock.heard(envelope.time, wall_us())?;
        // A client repeats what it was told. What it cannot have been told starts nothing.
        let is_possible = from.is_some() || envelope.cut <= inner.known.state.last_cut;
        if is_possible && envelope.cut > inner.cut {
            sometimes!(points::CUT_BY_MESSAGE, envelope.cut > inner.known.state.last_cut);
            inner.start_cut(envelope.cut);
        }
        if let Some(node) = from {
            let started = inner.started.entry(node).or_default();
            *started = envelope.cut.max(*started);
            inner.heard_us.insert(node, time::now().as_micros());
        }
        let is_behind = envelope.register > inner.known.version && from.is_some();
        drop(inner);
        if is_behind {
            self.refresh();
        }
        Ok(())
    }

    /// The frame of a message.
    pub fn stamp(&self, payload: Payload) -> Bytes {
        let mut inner = self.inner();
        let time = inner.clock.now(wall_us());
        let (cut, register) = (inner.cut, inner.known.version);
        drop(inner);
        rpc::encode(&Envelope { cut, time, register, payload })
    }

    /// How far each node has come with cuts, this one with it.
    pub fn started(&self) -> BTreeMap<NodeId, CutId> {
        let inner = self.inner();
        let mut started = inner.started.clone();
        started.insert(self.own, inner.cut);
        started
    }

    /// The nodes that were heard of lately, this one with them.
    pub fn alive(&self) -> BTreeSet<NodeId> {
        let now_us = time::now().as_micros();
        let limit_us = self.config.membership.suspect_after_us;
        let heard =
            self.heard_us().into_iter().filter(|(_, heard_us)| now_us.saturating_sub(*heard_us) < limit_us);
        heard.map(|(node, _)| node).chain([self.own]).collect()
    }

    /// When each node was heard last.
    pub fn heard_us(&self) -> BTreeMap<NodeId, u64> {
        self.inner().heard_us.clone()
    }

    /// The lowest index of a log that the snapshots need which are pinned in the register: all of it, if it does not know the cut.
    pub fn pinned(&self, ledger: &Ledger) -> LogIndex {
        let state = self.known().state;
        let pinned = state.pins.values().filter(|pin| !pin.broken).map(|pin| pin.cut);
        let since = |cut| ledger.cuts().get(&cut).map_or(0, |waiting| waiting.since);
        pinned.map(since).min().unwrap_or(LogIndex::MAX)
    }

    /// Has the register read soon.
    pub fn refresh(&self) {
        let _ = self.register.send(Command::Refresh);
    }

    /// Changes the register.
    ///
    /// # Errors
    /// If it may not be changed so, or nobody knows whether it was.
    pub async fn change(&self, change: Change) -> Result<Known, ChangeError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.register.send(Command::Change(change, reply));
        answer.await.unwrap_or(Err(ChangeError::Unknown))
    }

    /// Gives an event to a copy. False if there is none.
    pub fn tell(&self, partition: PartitionId, event: CopyEvent) -> bool {
        match self.inner().copies.get(&partition) {
            Some(copy) => copy.events.send(event).is_ok(),
            None => false,
        }
    }

    /// Tells all copies that time has passed, and who is suspected. A copy that is busy is told once.
    pub fn tick(&self, suspects: &Arc<BTreeSet<NodeId>>) {
        for copy in self.inner().copies.values() {
            if !copy.is_ticked.swap(true, Ordering::Relaxed) {
                let _ = copy.events.send(CopyEvent::Tick(suspects.clone()));
            }
        }
    }

    /// The partitions of which there is a copy.
    pub fn copies(&self) -> BTreeSet<PartitionId> {
        self.inner().copies.keys().copied().collect()
    }

    /// A copy is there, and hears of the cut that the node is in.
    pub fn add_copy(&self, partition: PartitionId, copy: CopyHandle) {
        let mut inner = self.inner();
        let _ = copy.events.send(CopyEvent::Cut(inner.cut));
        inner.copies.insert(partition, copy);
    }

    /// A copy takes requests now, or does not any more.
    pub fn opened(&self, partition: PartitionId, is_open: bool) {
        let mut inner = self.inner();
        if is_open {
            inner.open.insert(partition);
        } else {
            inner.open.remove(&partition);
        }
    }

    /// The partitions that this node leads, and that take requests.
    pub fn open_copies(&self) -> BTreeSet<PartitionId> {
        self.inner().open.clone()
    }

    /// The store has failed: the node steps down.
    pub fn fail(&self, error: storage::Error) {
        let _ = self.failed.send(error);
    }

    /// A copy goes.
    pub fn remove_copy(&self, partition: PartitionId) {
        let mut inner = self.inner();
        inner.open.remove(&partition);
        let removed = inner.copies.remove(&partition);
        if let Some(copy) = removed {
            inner.leaving.insert(partition);
            let _ = copy.events.send(CopyEvent::Destroy);
        }
    }

    /// A copy is gone, and another may be begun.
    pub fn destroyed(&self, partition: PartitionId) {
        self.inner().leaving.remove(&partition);
        let _ = self.changed.send(());
    }

    /// True while a copy is being removed.
    pub fn is_leaving(&self, partition: PartitionId) -> bool {
        self.inner().leaving.contains(&partition)
    }

    /// A way to another node.
    pub fn add_peer(&self, node: NodeId, queue: mpsc::Sender<Bytes>) {
        self.inner().peers.insert(node, Peer { queue, is_connected: false });
    }

    /// The nodes to which there is a way.
    pub fn peers(&self) -> BTreeSet<NodeId> {
        self.inner().peers.keys().copied().collect()
    }

    /// The connection to a node is there, or broke: what was asked of it is not answered any more, and what was on its way may be lost.
    pub fn connected(&self, node: NodeId, is_connected: bool) {
        let mut inner = self.inner();
        if let Some(peer) = inner.peers.get_mut(&node) {
            peer.is_connected = is_connected;
        }
        if !is_connected {
            inner.questions.retain(|_, (asked, _)| *asked != node);
            for copy in inner.copies.values() {
                let _ = copy.events.send(CopyEvent::Disconnected(node));
            }
        }
    }

    /// Sends a message to a node. False if it certainly does not arrive.
    pub fn post(&self, to: NodeId, payload: Payload) -> bool {
        let frame = self.stamp(payload);
        let inner = self.inner();
        inner.peers.get(&to).is_some_and(|peer| peer.is_connected && peer.queue.try_send(frame).is_ok())
    }

    /// Asks another node. Nothing if it does not answer in time; an error if it was certainly not asked.
    pub async fn ask(
        &self,
        node: NodeId,
        question: Question,
        limit: Duration,
    ) -> Result<Option<Answer>, NotAsked> {
        let (reply, answer) = oneshot::channel();
        let id = {
            let mut inner = self.inner();
            inner.next_question += 1;
            let id = inner.next_question;
            inner.questions.insert(id, (node, reply));
            id
        };
        if !self.post(node, Payload::Ask { id, question }) {
            self.inner().questions.remove(&id);
            return Err(NotAsked);
        }
        let answer = time::timeout(limit, answer).await;
        self.inner().questions.remove(&id);
        Ok(answer.ok().and_then(Result::ok))
    }

    /// An answer came.
    pub fn answered(&self, from: NodeId, id: u64, answer: Answer) {
        let mut inner = self.inner();
        if inner.questions.get(&id).is_some_and(|(asked, _)| *asked == from) {
            let (_, reply) = inner.questions.remove(&id).expect("it is there");
            // Who does not wait any more does not want to know.
            let _ = reply.send(answer);
        }
    }
}

/// A question certainly did not reach anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAsked;

impl Inner {
    fn start_cut(&mut self, cut: CutId) {
        if cut > self.cut {
            self.cut = cut;
            for copy in self.copies.values() {
                let _ = copy.events.send(CopyEvent::Cut(cut));
            }
        }
    }
}
