//! The node: one process with one store, and copies of partitions in it.
//!
//! It decides nothing. Facts go to the machines ([`super::replica`], [`super::partition`], [`super::membership`], [`super::near`],
//! [`super::settle`], [`super::cluster_state`]), and what they say is carried out. What runs beside each other, and why:
//! - one task per copy, which owns it: events in, in order (`copy`);
//! - one task for the register, so that a node has one change on its way (`register`);
//! - one task per connection (`peers`), and one per transaction that this node drives (`coordinate`);
//! - and the one here, which looks at the clock: signs of life, who is silent, which copies there should be, what became of the cut.
//!
//! **Nothing waits without a bound**: questions of one client, questions in one copy and messages to one node are limited, and who is over it is
//! told so, or loses messages as if the network had lost them.
//!
//! **An error of its store ends the node**, with a message. What it acknowledged last may not be on the disk, and only a restart, which reads
//! what is there, can tell. The others put it out of their views.
//!
//! *Not here*: operations on snapshots.

mod config;
mod coordinate;
mod copy;
mod peers;
mod register;
mod route;
mod serve;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cutwater_io::net::Listener;
use cutwater_io::task::AbortOnDrop;
use cutwater_io::{objects, reachable, task, time};
use futures::FutureExt;
use tokio::sync::mpsc;

pub use config::{NodeConfig, NodeError};

use super::cluster_state::{ClusterState, Refused};
use super::ids::{CutId, NodeId};
use super::membership::{Membership, Move};
use super::points;
use super::rpc::Payload;
use crate::checkpoint::layout::Layout;
use crate::store::Store;
use copy::{Copy, CopyEvent};
use register::{ChangeError, Command, Known, Register};
use shared::Shared;

/// The wall clock, in microseconds since 1970.
fn wall_us() -> u64 {
    time::micros(time::unix_time())
}

/// Runs a node until it has to step down.
///
/// # Errors
/// If it cannot start, or its store fails.
pub async fn run(config: NodeConfig) -> Result<(), NodeError> {
    Node::start(config).await?.run().await
}

struct Node {
    shared: Arc<Shared>,
    store: Store,
    membership: Membership,
    dialers: BTreeMap<NodeId, AbortOnDrop<()>>,
    /// Something is known that was not.
    changed: mpsc::UnboundedReceiver<()>,
    failed: mpsc::UnboundedReceiver<super::storage::Error>,
    beat_us: u64,
    /// The cut that is under way, and since when this node knows.
    cut_since: Option<(CutId, u64)>,
    is_ending_cut: Arc<std::sync::atomic::AtomicBool>,
    _register: AbortOnDrop<()>,
    _accepting: AbortOnDrop<()>,
}

/// Why the node looks around.
enum Woken {
    Failed(super::storage::Error),
    Changed,
    Ticked,
}

impl Node {
    async fn start(config: NodeConfig) -> Result<Node, NodeError> {
        check(&config)?;
        let layout = Layout::new(&config.cluster)?;
        let name = config.name.clone();
        let failed = |source| NodeError::Open { name: name.clone(), source };
        let store = Store::open(&config.data_dir, config.store.clone()).await.map_err(failed)?;
        let address = config.bind;
        let listener = Listener::bind(address).await;
        let listener = listener.map_err(|source| NodeError::Bind { name: name.clone(), address, source })?;
        let (commands, commanded) = mpsc::unbounded_channel();
        let register = Register {
            objects: objects::open(&config.objects_url)?,
            layout,
            poll: config.poll,
            keep_versions: config.keep_versions,
            commands: commanded,
        };
        // Everything else begins when it is known who this node is.
        let (learned, mut known) = mpsc::unbounded_channel::<Known>();
        let register = task::spawn(register.run(move |known| drop(learned.send(known)))).abort_on_drop();
        let joined = join(&config, store.identity(), &commands).await?;
        let own = joined.state.member(&config.name).expect("it has joined");
        let (changes, changed) = mpsc::unbounded_channel();
        let (failures, failed) = mpsc::unbounded_channel();
        let membership = Membership::new(own, config.membership, time::now().as_micros());
        let shared = Shared::new(config, own, joined, commands, changes, failures);
        let learning = shared.clone();
        task::spawn(async move {
            while let Some(known) = known.recv().await {
                learning.learn(known);
            }
        });
        let accepting = task::spawn(peers::accept(shared.clone(), listener)).abort_on_drop();
        Ok(Node {
            shared,
            store,
            membership,
            dialers: BTreeMap::new(),
            changed,
            failed,
            beat_us: 0,
            cut_since: None,
            is_ending_cut: Arc::default(),
            _register: register,
            _accepting: accepting,
        })
    }

    async fn run(mut self) -> Result<(), NodeError> {
        self.reconcile().await?;
        loop {
            let woken = {
                let tick = time::sleep(self.shared.config.tick).fuse();
                let (changed, failed) = (self.changed.recv().fuse(), self.failed.recv().fuse());
                futures::pin_mut!(tick, changed, failed);
                futures::select_biased! {
                    failure = failed => Woken::Failed(failure.expect("the node holds a sender")),
                    _ = changed => Woken::Changed,
                    () = tick => Woken::Ticked,
                }
            };
            match woken {
                Woken::Failed(source) => return Err(self.steps_down(source)),
                Woken::Changed => self.reconcile().await?,
                Woken::Ticked => self.tick(),
            }
        }
    }

    fn steps_down(&self, source: super::storage::Error) -> NodeError {
        NodeError::Store { name: self.shared.config.name.clone(), source }
    }

    /// Makes connections and copies what the register says they should be.
    async fn reconcile(&mut self) -> Result<(), NodeError> {
        let state = self.shared.known().state;
        for node in state.nodes().filter(|node| *node != self.shared.own) {
            let shared = &self.shared;
            self.dialers.entry(node).or_insert_with(|| peers::dial(shared, node));
        }
        let here = self.shared.copies();
        for (partition, table, view) in state.partitions() {
            if self.shared.is_leaving(partition) {
                continue;
            }
            if view.names(self.shared.own) {
                if !here.contains(&partition) {
                    let started = Copy::start(&self.shared, &self.store, partition).await;
                    started.map_err(|source| self.steps_down(source))?;
                }
                self.shared.tell(partition, CopyEvent::View(view.clone()));
            } else if here.contains(&partition) {
                // As long as copies are missing it may be wanted back, with the log that it has.
                if view.backups.len() < usize::from(table.backups) {
                    self.shared.tell(partition, CopyEvent::View(view.clone()));
                } else {
                    self.shared.remove_copy(partition);
                }
            }
        }
        for partition in here.into_iter().filter(|partition| state.view(*partition).is_none()) {
            self.shared.remove_copy(partition);
        }
        self.watch_cut(&state);
        Ok(())
    }

    fn tick(&mut self) {
        let now_us = time::now().as_micros();
        let state = self.shared.known().state;
        for (node, heard_us) in self.shared.heard_us() {
            self.membership.heard(node, heard_us);
        }
        if now_us >= self.beat_us {
            self.beat_us = now_us + time::micros(self.shared.config.heartbeat);
            for node in self.shared.peers() {
                self.shared.post(node, Payload::Heartbeat);
            }
        }
        let suspects = Arc::new(self.membership.suspects(&state, now_us));
        self.shared.tick(&suspects);
        self.balance(&state, now_us);
        self.watch_cut(&state);
        self.end_cut(&state, now_us);
    }

    fn balance(&mut self, state: &ClusterState, now_us: u64) {
        let led = self.shared.open_copies();
        let mut views = BTreeMap::new();
        for (partition, chosen) in self.membership.moves(state, &led, now_us) {
            match chosen {
                Move::Invite(node) => {
                    self.shared.tell(partition, CopyEvent::Invite(node));
                }
                Move::View(view) => {
                    views.insert(partition, view);
                }
            }
        }
        for (partition, view) in views {
            let (shared, own) = (self.shared.clone(), self.shared.own);
            task::spawn(async move {
                let views = BTreeMap::from([(partition, view)]);
                let changed = shared.change(Box::new(move |state| state.changed_views(&views, own))).await;
                if let Err(error) = changed {
                    tracing::debug!(%partition, %error, "a partition was not moved");
                }
            });
        }
    }

    fn watch_cut(&mut self, state: &ClusterState) {
        let under_way = state.cut_under_way();
        if self.cut_since.map(|(cut, _)| cut) != under_way {
            self.cut_since = under_way.map(|cut| (cut, time::now().as_micros()));
        }
    }

    /// Has a cut end in the register that every primary has started, or that takes too long. Who announced it does so at once, the others
    /// when it has not done so for a while.
    fn end_cut(&self, state: &ClusterState, now_us: u64) {
        use std::sync::atomic::Ordering;
        let Some((cut, since_us)) = self.cut_since else { return };
        let timeout_us = time::micros(self.shared.config.cut_timeout);
        let is_mine = state.cuts.get(&cut).is_some_and(|known| known.by == self.shared.own);
        let patience_us = if is_mine { 0 } else { timeout_us / 2 };
        let waited_us = now_us.saturating_sub(since_us);
        let started = self.shared.started();
        let is_everywhere = state.cut_missing(cut, &started).is_empty() && waited_us >= patience_us;
        let is_too_late = waited_us >= timeout_us + patience_us;
        if !(is_everywhere || is_too_late) || self.is_ending_cut.swap(true, Ordering::Relaxed) {
            return;
        }
        let (shared, is_ending) = (self.shared.clone(), self.is_ending_cut.clone());
        task::spawn(async move {
            let ended = shared.change(Box::new(move |state| match state.cut_started(cut, &started) {
                Err(Refused::NotStarted { .. }) if is_too_late => state.cut_given_up(cut),
                other => other,
            }));
            match ended.await {
                Ok(_) => reachable!(points::CUT_STARTED),
                Err(error) => tracing::debug!(cut, %error, "the cut was not ended"),
            }
            is_ending.store(false, Ordering::Relaxed);
        });
    }
}

fn check(config: &NodeConfig) -> Result<(), NodeError> {
    let wrong = |what: &str| Err(NodeError::Config { name: config.name.clone(), what: what.into() });
    if config.address().ip().is_unspecified() {
        return wrong("the address must be one that other nodes can reach");
    }
    if config.max_waiting == 0 {
        return wrong("`max_waiting` must be at least 1");
    }
    if time::micros(config.heartbeat) * 2 > config.membership.suspect_after_us {
        return wrong("nodes would be suspected between two signs of life");
    }
    Ok(())
}

/// Takes part in the cluster, for as long as it takes.
async fn join(
    config: &NodeConfig,
    identity: &str,
    commands: &mpsc::UnboundedSender<Command>,
) -> Result<Known, NodeError> {
    loop {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let (name, identity, address) = (config.name.clone(), identity.to_owned(), config.address());
        let change = Box::new(move |state: &ClusterState| state.joined(&name, &identity, address));
        let _ = commands.send(Command::Change(change, reply));
        match answer.await {
            Ok(Ok(known)) => return Ok(known),
            Ok(Err(ChangeError::Refused(source))) => {
                return Err(NodeError::Join { name: config.name.clone(), source });
            }
            // It may have been made: asking again does no harm.
            Ok(Err(ChangeError::Unknown)) | Err(_) => time::sleep(Duration::from_millis(50)).await,
        }
    }
}
