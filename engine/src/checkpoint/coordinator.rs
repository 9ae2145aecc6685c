//! Who decides the fate of a checkpoint: a pure machine, facts in, decisions out.
//!
//! It triggers checkpoints and savepoints, collects the tasks' parts, and completes or aborts them, after Flink's
//! `CheckpointCoordinator`. The heart is the order in which a checkpoint completes:
//! 1. every task has acknowledged; the shared files of each were registered on arrival;
//! 2. [`Decision::WriteMetadata`]: `_metadata` is durable;
//! 3. [`Decision::Complete`]: the register names the checkpoint, and in the same record lets go of the surplus;
//! 4. [`Decision::NotifyComplete`]: only now may a sink commit;
//! 5. [`Decision::Delete`]: files that only the subsumed checkpoints referenced. Failing to delete fails nothing.
//!
//! A crash anywhere leaves the previous or the new checkpoint as the latest, and that one restores. Step 3 cannot be taken
//! back once begun: a checkpoint whose change of the register is under way is neither aborted nor expired, and nothing is
//! restored before its outcome is known.
//!
//! A savepoint goes the same way to the list, and no further: it is not what a failure restores from, nothing is committed
//! with it and nothing subsumed. The one with which a job stops is the exception.
//!
//! Time comes in as microseconds of the node's monotonic clock and decides only when to try, never what is true.

mod config;
mod files;
mod finalise;
mod pending;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};

use cutwater_io::time::micros;

use super::assign::VertexPlan;
use super::barrier::{Barrier, Target};
use super::history::{Entry, EntryStatus};
use super::job_state::ClaimMode;
use super::layout::Layout;
use super::points;
use super::registry::{RegisterError, Registry};
use super::request::Queue;
use super::snapshot::{CheckpointId, CheckpointMetadata};
use super::sweep::View;
use crate::cluster::rpc::{Attempt, Declined, TaskId};
use files::Retained;
use pending::{Pending, Phase};

pub use config::CheckpointConfig;
pub use finalise::Acknowledged;

/// How many ids are reserved in the register at once.
pub const ID_BLOCK: u64 = 16;

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Raise the register's bound of ids; answered by [`Coordinator::ids_reserved`].
    ReserveIds(u64),
    /// List what a user wants; answered by [`Coordinator::begun`].
    Begin(Box<Entry>),
    /// Tell the sources to emit this barrier.
    Trigger(Barrier),
    /// Make the metadata durable; answered by [`Coordinator::metadata_written`] or [`Coordinator::metadata_failed`].
    WriteMetadata {
        /// Where.
        path: String,
        /// What.
        metadata: Box<CheckpointMetadata>,
    },
    /// Add the checkpoint to the register; answered by [`Coordinator::completed`].
    Complete {
        /// Its entry, which is present.
        entry: Box<Entry>,
        /// The job ends with it.
        stops: bool,
    },
    /// Tell the tasks that it is durable.
    NotifyComplete(CheckpointId),
    /// Tell the tasks that it is none of their business any more: it was aborted, or is a savepoint that is complete.
    Forget(CheckpointId),
    /// Note in the list what became of one that did not complete. There is no hurry.
    Note(Box<Entry>),
    /// A request that was taken comes to nothing.
    GiveBack {
        /// Whose.
        trigger_id: String,
        /// Why.
        reason: String,
    },
    /// Delete these files, which nothing references; answered by [`Coordinator::deleted`].
    Delete(Vec<String>),
    /// The attempt is lost, because of this.
    Restart(String),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Coordinator {
    layout: Layout,
    config: CheckpointConfig,
    plan: Vec<VertexPlan>,
    max_parallelism: u16,
    job_version: u32,
    next_id: u64,
    bound: u64,
    reserving: bool,
    registry: Registry,
    retained: Vec<Retained>,
    origin: Option<Retained>,
    /// No checkpoint may reference what the job was started from.
    must_be_full: bool,
    queue: Queue,
    pending: BTreeMap<CheckpointId, Pending>,
    run: Option<Run>,
    deletions: usize,
}

/// What a new leader's coordinator begins with.
#[derive(Clone, Debug, Default)]
pub struct Found<'a> {
    /// The metadata of every checkpoint that the register retains, oldest first, without the savepoints among them.
    pub retained: Vec<&'a CheckpointMetadata>,
    /// What the register retains that is a savepoint.
    pub savepoints: Vec<CheckpointId>,
    /// What the job was started from and is not retained, where that is, and whose.
    pub origin: Option<(&'a CheckpointMetadata, String, ClaimMode)>,
    /// The how many-th start of the job.
    pub job_version: u32,
    /// Reserved ids.
    pub ids: std::ops::Range<u64>,
}

/// A deployment whose tasks all run.
#[derive(Clone, Debug)]
struct Run {
    attempt: Attempt,
    parallelism: Vec<u16>,
    next_periodic_us: u64,
    failures: u32,
    last_stage: Option<LastStage>,
    /// The savepoint with which the job is to end.
    stopping: Option<CheckpointId>,
    /// Where the files of savepoints go, also of those that are under way no more: parts may come late.
    savepoints: BTreeMap<CheckpointId, Target>,
}

#[derive(Clone, Copy, Debug)]
struct LastStage {
    /// Checkpoints from this one on contain all there is to read.
    from: CheckpointId,
    done: Option<CheckpointId>,
}

/// Why a checkpoint does not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// A task cannot do its part.
    Declined,
    /// A task has passed on to a newer one. It is not counted, as in Flink (`CHECKPOINT_DECLINED_SUBSUMED`): checkpoints that
    /// are more than one at a time must not end an attempt by that alone.
    Superseded,
    /// It took too long.
    Expired,
    /// It could not be made durable.
    Finalise,
}

impl Coordinator {
    /// The machine of a new leader.
    ///
    /// # Errors
    /// If two retained checkpoints disagree about a file.
    ///
    /// # Panics
    /// If the configuration asks for nothing retained or nothing concurrent.
    pub fn new(
        layout: Layout,
        config: CheckpointConfig,
        plan: Vec<VertexPlan>,
        max_parallelism: u16,
        found: Found<'_>,
    ) -> Result<Coordinator, RegisterError> {
        assert_eq!(config.check(), Ok(()), "{config:?}");
        let Found { retained, savepoints, origin, job_version, ids } = found;
        let claimed = origin.as_ref().filter(|(_, _, claim)| *claim == ClaimMode::Claim);
        let registered = retained.iter().copied().chain(claimed.map(|(metadata, ..)| *metadata));
        let registry = Registry::rebuilt(registered)?;
        let of_job = retained.iter().map(|metadata| Retained::of(metadata, layout.metadata(metadata.id)));
        let stopped = savepoints.into_iter().map(Retained::nothing);
        let mut retained: Vec<_> = of_job.chain(stopped).collect();
        retained.sort_by_key(|retained| retained.id);
        Ok(Coordinator {
            registry,
            retained,
            must_be_full: origin.as_ref().is_some_and(|(_, _, claim)| *claim == ClaimMode::NoClaim),
            origin: claimed.map(|(metadata, path, _)| Retained::of(metadata, path.clone())),
            layout,
            config,
            plan,
            max_parallelism,
            job_version,
            next_id: ids.start,
            bound: ids.end,
            reserving: false,
            queue: Queue::default(),
            pending: BTreeMap::new(),
            run: None,
            deletions: 0,
        })
    }

    /// The job was brought back by a user: what it may be restored from is another.
    ///
    /// # Errors
    /// As [`Coordinator::new`]; then nothing has changed.
    ///
    /// # Panics
    /// If tasks run or a checkpoint is under way.
    pub fn adopt(&mut self, found: Found<'_>) -> Result<(), RegisterError> {
        assert!(self.run.is_none() && self.is_settled(), "a job is brought back after it has ended");
        let plan = self.plan.clone();
        let fresh = Coordinator::new(self.layout.clone(), self.config, plan, self.max_parallelism, found)?;
        *self = Coordinator { deletions: self.deletions, ..fresh };
        Ok(())
    }

    /// All tasks of `attempt` run, in a deployment of `parallelism`. `jitter` is any number.
    pub fn start(&mut self, attempt: Attempt, parallelism: u16, now_us: u64, jitter: u64) {
        assert!(
            self.is_settled(),
            "a deployment starts after the fate of every checkpoint of the last is known"
        );
        let (first, last) = (micros(self.config.min_pause), self.config.base_interval_us());
        self.registry.forget_condemned();
        self.run = Some(Run {
            attempt,
            parallelism: self.plan.iter().map(|vertex| vertex.parallelism(parallelism)).collect(),
            next_periodic_us: now_us + first + jitter % (last - first + 1),
            failures: 0,
            last_stage: None,
            stopping: None,
            savepoints: BTreeMap::new(),
        });
    }

    /// The attempt is over because of `reason`: aborts all that can still be aborted. Tasks need not be told, they are
    /// cancelled.
    pub fn stop(&mut self, reason: &str, unix_ms: u64) -> Vec<Decision> {
        self.run = None;
        let mut decisions = Vec::new();
        for waiting in self.queue.drain() {
            let trigger_id = waiting.request.trigger_id;
            decisions.push(Decision::GiveBack { trigger_id, reason: reason.into() });
        }
        let undecided = |(id, p): (&CheckpointId, &Pending)| (p.phase != Phase::Completing).then_some(*id);
        let ids: Vec<_> = self.pending.iter().filter_map(undecided).collect();
        for id in ids {
            self.abort(id, reason, unix_ms, &mut decisions);
        }
        decisions.retain(|decision| !matches!(decision, Decision::Forget(_) | Decision::Restart(_)));
        decisions
    }

    /// True if no checkpoint is under way: what the register names is what there is to restore from.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// All input has been read: takes checkpoints until one completes that contains it all.
    pub fn request_last(&mut self) {
        let from = CheckpointId(self.next_id);
        if let Some(run) = &mut self.run {
            run.last_stage.get_or_insert(LastStage { from, done: None });
        }
    }

    /// The completed checkpoint that contains all input, once there is one.
    pub fn last_checkpoint(&self) -> Option<CheckpointId> {
        self.run.as_ref()?.last_stage?.done
    }

    /// When [`Coordinator::tick`] has something to do at the latest, if nothing else happens before.
    pub fn next_deadline_us(&self) -> Option<u64> {
        let run = self.run.as_ref()?;
        let expiries =
            self.pending.values().filter(|p| p.phase != Phase::Completing).map(|p| self.expiry_us(p));
        let may = self.may_trigger() && self.has_room() && run.last_stage.is_none();
        expiries.chain(may.then_some(run.next_periodic_us)).min()
    }

    /// Time has passed, or a request was made.
    pub fn tick(&mut self, now_us: u64, unix_ms: u64) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let expired = |p: &Pending| p.phase != Phase::Completing && self.expiry_us(p) <= now_us;
        let expired: Vec<_> = self.pending.iter().filter(|(_, p)| expired(p)).map(|(id, _)| *id).collect();
        for id in expired {
            let is_savepoint = self.pending[&id].is_savepoint();
            cutwater_io::sometimes!(points::EXPIRED, !is_savepoint);
            cutwater_io::sometimes!(points::SAVEPOINT_EXPIRED, is_savepoint);
            let reason = self.what_is_missing(id);
            self.fail(id, Failure::Expired, &reason, unix_ms, &mut decisions);
        }
        self.reserve_ids(&mut decisions);
        self.trigger(now_us, unix_ms, &mut decisions);
        decisions
    }

    /// A task does not do its part.
    pub fn decline(
        &mut self,
        attempt: Attempt,
        id: CheckpointId,
        task: TaskId,
        why: &Declined,
        unix_ms: u64,
    ) -> Vec<Decision> {
        let mut decisions = Vec::new();
        if self.run.as_ref().is_some_and(|run| run.attempt == attempt) {
            let failure = match why {
                Declined::Failed(_) => Failure::Declined,
                Declined::Superseded => Failure::Superseded,
            };
            self.fail(id, failure, &format!("{task} declined: {why}"), unix_ms, &mut decisions);
        }
        decisions
    }

    /// The register's bound of ids was raised.
    pub fn ids_reserved(&mut self, bound: u64) {
        assert!(bound >= self.bound, "{bound} < {}", self.bound);
        self.bound = bound;
        self.reserving = false;
    }

    /// See [`Decision::Delete`]; also if it failed.
    pub fn deleted(&mut self) {
        self.deletions -= 1;
    }

    /// What a sweep must not touch. `current` is the attempt from which on everything is left alone, `abandoned`
    /// are the directories of savepoints that the list says failed or were deleted.
    ///
    /// # Panics
    /// If the register is being changed: what is retained is not certain then.
    pub fn sweep_view(&self, current: Attempt, abandoned: BTreeSet<String>) -> View {
        assert!(!self.is_completing(), "a completion is under way");
        let held = self.retained.iter().chain(&self.origin);
        let own = held.flat_map(|retained| retained.files.iter().chain(&retained.shared));
        // While tasks run, what only an aborted checkpoint registered may still be referenced by the next one; later never.
        let registered = self.run.as_ref().map(|_| self.registry.entries().keys());
        View {
            current,
            next_id: CheckpointId(self.next_id),
            pending: self.pending.keys().copied().collect(),
            referenced: own.chain(registered.into_iter().flatten()).cloned().collect(),
            abandoned,
        }
    }

    /// True while the outcome of a completion is awaited.
    pub fn is_completing(&self) -> bool {
        self.pending.values().any(|p| p.phase == Phase::Completing)
    }

    /// Checkpoints under way, in order of their ids.
    pub fn pending(&self) -> impl Iterator<Item = &Entry> {
        self.pending.values().map(|pending| &pending.entry)
    }

    /// The tasks that have acknowledged a checkpoint under way.
    pub fn acknowledged(
        &self,
        id: CheckpointId,
    ) -> impl Iterator<Item = (TaskId, &super::snapshot::SubtaskState)> {
        self.pending.get(&id).into_iter().flat_map(|p| p.states.iter().map(|(task, state)| (*task, state)))
    }

    /// The savepoint with which the job is to end, while it is under way.
    pub fn stopping(&self) -> Option<CheckpointId> {
        self.run.as_ref()?.stopping
    }

    /// The registry of shared state.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn expiry_us(&self, pending: &Pending) -> u64 {
        pending.triggered_us.saturating_add(micros(self.config.timeout))
    }

    fn what_is_missing(&self, id: CheckpointId) -> String {
        let pending = &self.pending[&id];
        let vertices = (0u16..).zip(self.run.iter().flat_map(|run| &run.parallelism));
        let tasks = vertices.flat_map(|(vertex, parallelism)| {
            (0..*parallelism).map(move |subtask| TaskId { vertex, subtask })
        });
        let missing: Vec<String> =
            tasks.filter(|task| !pending.states.contains_key(task)).map(|task| task.to_string()).collect();
        match missing.is_empty() {
            true => "was not written in time".into(),
            false => format!("was not acknowledged in time by {}", missing.join(", ")),
        }
    }

    /// Aborts a checkpoint for a reason that counts against the tolerable failures, unless it is a savepoint: that is its
    /// user's concern.
    fn fail(
        &mut self,
        id: CheckpointId,
        failure: Failure,
        reason: &str,
        unix_ms: u64,
        decisions: &mut Vec<Decision>,
    ) {
        let is_savepoint = self.pending.get(&id).is_some_and(Pending::is_savepoint);
        if !self.abort_because(id, failure, reason, unix_ms, decisions) {
            return;
        }
        tracing::info!(checkpoint = %id, reason, "checkpoint failed");
        let Some(run) = &mut self.run else { return };
        run.failures += u32::from(!is_savepoint && failure != Failure::Superseded);
        if run.failures > self.config.tolerable_failures {
            decisions.push(Decision::Restart(format!("checkpoint {id} failed: {reason}")));
        } else {
            self.finalise(unix_ms, decisions);
        }
    }

    fn abort(&mut self, id: CheckpointId, reason: &str, unix_ms: u64, decisions: &mut Vec<Decision>) -> bool {
        self.abort_because(id, Failure::Declined, reason, unix_ms, decisions)
    }

    /// Forgets a checkpoint that is not completing. False if there is nothing to abort.
    fn abort_because(
        &mut self,
        id: CheckpointId,
        failure: Failure,
        reason: &str,
        at_unix_ms: u64,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        if self.pending.get(&id).is_none_or(|p| p.phase == Phase::Completing) {
            return false;
        }
        let pending = self.pending.remove(&id).expect("looked up above");
        cutwater_io::reachable!(points::ABORTED);
        tracing::debug!(checkpoint = %id, "aborted");
        decisions.push(Decision::Forget(id));
        let reason: String = reason.into();
        let status = match failure {
            Failure::Expired => EntryStatus::TimedOut { reason, at_unix_ms },
            Failure::Declined | Failure::Superseded | Failure::Finalise => {
                EntryStatus::Failed { reason, at_unix_ms }
            }
        };
        decisions.push(Decision::Note(Box::new(Entry { status, ..pending.entry.clone() })));
        for state in pending.states.values() {
            self.delete_private(id, state, decisions);
        }
        self.resume(&pending, decisions);
        true
    }

    /// A job that was to stop with this goes on. After a drain it cannot: its timers have fired.
    fn resume(&mut self, aborted: &Pending, decisions: &mut Vec<Decision>) {
        let Some(run) = self.run.as_mut().filter(|run| run.stopping == Some(aborted.entry.id)) else {
            return;
        };
        run.stopping = None;
        if aborted.options.stop == Some(super::barrier::Stop::Drain) {
            decisions
                .push(Decision::Restart(format!("savepoint {} failed after the drain", aborted.entry.id)));
        }
    }
}
