//! The node's hand on the register: reads it, and changes it by the protocol of [`crate::checkpoint::log`].
//!
//! One task does both, so a node has one change on its way at a time. What is asked for meanwhile goes together into the next change: after the death
//! of a node a hundred partitions get their views by one put.
//!
//! A change is refused only by the newest value there is, never by one that was read before the request came.

use std::sync::Arc;
use std::time::Duration;

use cutwater_io::{entropy, task, time};
use object_store::ObjectStore;
use tokio::sync::{mpsc, oneshot};

use super::points;
use crate::checkpoint::layout::Layout;
use crate::checkpoint::log::{Outcome, Record};
use crate::checkpoint::{read, write};
use crate::tables::cluster_state::{ClusterState, Refused};
use cutwater_io::{point, sometimes};

/// A version of the register that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub version: u64,
    pub state: Arc<ClusterState>,
}

/// A pure change.
pub(super) type Change = Box<dyn Fn(&ClusterState) -> Result<ClusterState, Refused> + Send>;

/// Why a change was not made, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    /// It may not be made.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It may have been made and replaced by another since.
    #[error("the outcome of a change of the register is unknown")]
    Unknown,
}

/// What the task is asked.
pub(super) enum Command {
    /// Read it now.
    Refresh,
    /// Change it.
    Change(Change, oneshot::Sender<Result<Known, ChangeError>>),
}

struct Wanted {
    change: Change,
    reply: oneshot::Sender<Result<Known, ChangeError>>,
}

/// See the module.
pub(super) struct Register {
    pub objects: Arc<dyn ObjectStore>,
    pub layout: Layout,
    pub poll: Duration,
    pub keep_versions: u64,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

impl Register {
    /// Runs for the life of the node. Everything that is learned goes to `learned`, before anybody gets an answer that follows from it.
    pub async fn run(mut self, learned: impl Fn(Known)) {
        let mut known = Known::default();
        let mut wanted: Vec<Wanted> = Vec::new();
        loop {
            match time::timeout(self.poll, self.commands.recv()).await {
                Ok(Some(command)) => wanted.extend(Wanted::of(command)),
                Ok(None) => return,
                Err(time::Elapsed) => {}
            }
            while let Ok(command) = self.commands.try_recv() {
                wanted.extend(Wanted::of(command));
            }
            match read::newest_record::<ClusterState>(&*self.objects, &self.layout).await {
                Ok(record) => self.learn(&mut known, record, &learned),
                Err(error) => {
                    tracing::warn!(%error, "the register cannot be read");
                    time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
            self.change(&mut known, std::mem::take(&mut wanted), &learned).await;
        }
    }

    fn learn(&self, known: &mut Known, record: Option<Record<ClusterState>>, learned: &impl Fn(Known)) {
        let Some(record) = record.filter(|record| record.version > known.version) else { return };
        *known = Known { version: record.version, state: Arc::from(record.state) };
        learned(known.clone());
    }

    async fn change(&self, known: &mut Known, mut wanted: Vec<Wanted>, learned: &impl Fn(Known)) {
        loop {
            let (next, accepted) = fold(&known.state, wanted);
            wanted = accepted;
            if next == *known.state {
                wanted.into_iter().for_each(|wanted| wanted.answer(Ok(known.clone())));
                return;
            }
            let record = Record {
                version: known.version + 1,
                writer: entropy::uuid("tables.register"),
                state: Box::new(next),
            };
            point!(points::BEFORE_REGISTER);
            let outcome = write::append(&*self.objects, &self.layout, record.clone()).await;
            sometimes!(points::REGISTER_CONTENDED, matches!(outcome, Outcome::Lost(_)));
            match outcome {
                Outcome::Landed => {
                    point!(points::AFTER_REGISTER);
                    let newest = record.version;
                    self.learn(known, Some(record), learned);
                    wanted.into_iter().for_each(|wanted| wanted.answer(Ok(known.clone())));
                    self.trim(newest);
                    return;
                }
                Outcome::Lost(found) => self.learn(known, Some(*found), learned),
                Outcome::Superseded => {
                    wanted.into_iter().for_each(|wanted| wanted.answer(Err(ChangeError::Unknown)));
                    return;
                }
                Outcome::Unreadable(malformed) => {
                    tracing::error!(%malformed, version = record.version, "the register is damaged");
                    wanted.into_iter().for_each(|wanted| wanted.answer(Err(ChangeError::Unknown)));
                    return;
                }
            }
        }
    }

    /// Beside, so that nobody waits for it.
    fn trim(&self, newest: u64) {
        let (objects, layout, keep) = (self.objects.clone(), self.layout.clone(), self.keep_versions);
        task::spawn(async move { write::trim(&*objects, &layout, newest, keep).await });
    }
}

/// Makes the changes one after the other; who is refused gets the answer at once.
fn fold(state: &ClusterState, wanted: Vec<Wanted>) -> (ClusterState, Vec<Wanted>) {
    let mut next = state.clone();
    let mut accepted = Vec::new();
    for wanted in wanted {
        match (wanted.change)(&next) {
            Ok(changed) => {
                next = changed;
                accepted.push(wanted);
            }
            Err(refused) => wanted.answer(Err(refused.into())),
        }
    }
    (next, accepted)
}

impl Wanted {
    fn of(command: Command) -> Option<Wanted> {
        match command {
            Command::Refresh => None,
            Command::Change(change, reply) => Some(Wanted { change, reply }),
        }
    }

    fn answer(self, answer: Result<Known, ChangeError>) {
        // Who does not wait any more does not want to know.
        let _ = self.reply.send(answer);
    }
}
