//! Who decides the fate of a checkpoint: a pure machine, facts in, decisions out.
//!
//! It triggers checkpoints, collects the tasks' parts, and completes or aborts them, after Flink's
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
//! Time comes in as microseconds of the node's monotonic clock and decides only when to try, never what is true.
//! Not modelled: savepoints, claim modes.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::acknowledge;
use super::assign::VertexPlan;
use super::barrier::{Alignment, Barrier, CheckpointOptions, Target};
use super::layout::Layout;
use super::log::CompletedCheckpoint;
use super::metadata;
use super::registry::{RegisterError, Registry};
use super::snapshot::{CheckpointId, CheckpointMetadata, FileHandle, SubtaskState, VertexState};
use super::sweep::View;
use crate::cluster::rpc::{Attempt, TaskId};
use files::{Retained, all_files, own_paths, shared_paths};

/// How many ids are reserved in the register at once.
pub const ID_BLOCK: u64 = 16;

/// When checkpoints are taken, and what may go wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// From one periodic trigger to the next.
    pub interval: Duration,
    /// From a completion to the next periodic trigger, at least.
    pub min_pause: Duration,
    /// From a trigger to its abort, unless it has completed.
    pub timeout: Duration,
    /// How many checkpoints in a row may fail without a restart of the job.
    pub tolerable_failures: u32,
    /// How many completed checkpoints are kept; at least one.
    pub retained: usize,
    /// How many may be under way at once; at least one, and exactly one if a barrier may overtake.
    pub max_concurrent: usize,
    /// Whether barriers wait for the records before them.
    pub alignment: Alignment,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Tell the sources to emit this barrier.
    Trigger(Barrier),
    /// Raise the register's bound of ids; answered by [`Coordinator::ids_reserved`].
    ReserveIds(u64),
    /// Make the metadata durable; answered by [`Coordinator::metadata_written`] or [`Coordinator::metadata_failed`].
    WriteMetadata(Box<CheckpointMetadata>),
    /// Add the checkpoint to the register; answered by [`Coordinator::completed`].
    Complete(CompletedCheckpoint),
    /// Tell the tasks that it is durable.
    NotifyComplete(CheckpointId),
    /// Tell the tasks that it will never be.
    NotifyAborted(CheckpointId),
    /// Delete these files, which nothing references; answered by [`Coordinator::deleted`].
    Delete(Vec<String>),
    /// Too many checkpoints have failed in a row: the attempt is lost.
    Restart(String),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Coordinator {
    layout: Layout,
    config: CheckpointConfig,
    plan: Vec<VertexPlan>,
    max_parallelism: u16,
    next_id: u64,
    bound: u64,
    reserving: bool,
    registry: Registry,
    retained: Vec<Retained>,
    pending: BTreeMap<CheckpointId, Pending>,
    run: Option<Run>,
    deletions: usize,
}

/// A checkpoint under way.
#[derive(Clone, Debug)]
struct Pending {
    attempt: Attempt,
    triggered_us: u64,
    triggered_unix_ms: u64,
    completed_unix_ms: u64,
    description: String,
    states: BTreeMap<TaskId, SubtaskState>,
    phase: Phase,
    /// Lasts as long as the checkpoint is under way.
    _span: tracing::Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Tasks have yet to acknowledge, or another checkpoint is being written.
    Collecting,
    /// The metadata is being written.
    Writing,
    /// The register is being changed.
    Completing,
}

/// A deployment whose tasks all run.
#[derive(Clone, Debug)]
struct Run {
    attempt: Attempt,
    parallelism: Vec<u16>,
    next_periodic_us: u64,
    requested: Option<String>,
    failures: u32,
    last_stage: Option<LastStage>,
}

#[derive(Clone, Copy, Debug)]
struct LastStage {
    /// Checkpoints from this one on contain all there is to read.
    from: CheckpointId,
    done: Option<CheckpointId>,
}

/// What became of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It counts.
    Taken,
    /// It came before.
    Duplicate,
    /// It is of an older attempt; nothing was done.
    Stale,
    /// Its checkpoint is gone. Its shared files are in the registry.
    Late,
    /// It cannot be part of a checkpoint, which was aborted.
    Refused(String),
}

impl Coordinator {
    /// The machine of a new leader: `retained` is the metadata of every checkpoint that the register names, oldest first, and
    /// `ids` are reserved.
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
        ids: std::ops::Range<u64>,
        retained: &[CheckpointMetadata],
    ) -> Result<Coordinator, RegisterError> {
        assert!(config.retained > 0 && config.max_concurrent > 0, "{config:?}");
        let alone = config.alignment == Alignment::Aligned || config.max_concurrent == 1;
        assert!(alone, "checkpoints whose barriers may overtake go one at a time: {config:?}");
        let retained_files = retained.iter().map(|metadata| Retained::of(metadata, &layout)).collect();
        Ok(Coordinator {
            registry: Registry::rebuilt(retained)?,
            retained: retained_files,
            layout,
            config,
            plan,
            max_parallelism,
            next_id: ids.start,
            bound: ids.end,
            reserving: false,
            pending: BTreeMap::new(),
            run: None,
            deletions: 0,
        })
    }

    /// All tasks of `attempt` run, in a deployment of `parallelism`. `jitter` is any number.
    pub fn start(&mut self, attempt: Attempt, parallelism: u16, now_us: u64, jitter: u64) {
        assert!(
            self.is_settled(),
            "a deployment starts after the fate of every checkpoint of the last is known"
        );
        let (first, last) = (us(self.config.min_pause), self.base_interval_us());
        self.registry.forget_condemned();
        self.run = Some(Run {
            attempt,
            parallelism: self.plan.iter().map(|vertex| vertex.parallelism(parallelism)).collect(),
            next_periodic_us: now_us + first + jitter % (last - first + 1),
            requested: None,
            failures: 0,
            last_stage: None,
        });
    }

    /// The attempt is lost: aborts all that can still be aborted. Tasks need not be told, they are cancelled.
    pub fn stop(&mut self) -> Vec<Decision> {
        self.run = None;
        let undecided = |(id, p): (&CheckpointId, &Pending)| (p.phase != Phase::Completing).then_some(*id);
        let ids: Vec<_> = self.pending.iter().filter_map(undecided).collect();
        let mut decisions = Vec::new();
        for id in ids {
            self.abort(id, &mut decisions);
        }
        decisions.retain(|decision| matches!(decision, Decision::Delete(_)));
        decisions
    }

    /// True if no checkpoint is under way: what the register names is what there is to restore from.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// A user wants a checkpoint. False if nothing runs.
    pub fn request(&mut self, description: String) -> bool {
        let Some(run) = &mut self.run else { return false };
        run.requested.get_or_insert(description);
        true
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
        let trigger = (self.may_trigger() && run.last_stage.is_none()).then_some(run.next_periodic_us);
        expiries.chain(trigger).min()
    }

    /// Time has passed, or a request was made.
    pub fn tick(&mut self, now_us: u64, unix_ms: u64) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let expired = |p: &Pending| p.phase != Phase::Completing && self.expiry_us(p) <= now_us;
        let expired: Vec<_> = self.pending.iter().filter(|(_, p)| expired(p)).map(|(id, _)| *id).collect();
        for id in expired {
            cutwater_io::reachable!(super::points::EXPIRED);
            self.fail(id, "was not acknowledged in time", &mut decisions);
        }
        self.reserve_ids(&mut decisions);
        self.trigger(now_us, unix_ms, &mut decisions);
        decisions
    }

    /// A task's part of a checkpoint is durable.
    pub fn acknowledge(
        &mut self,
        attempt: Attempt,
        id: CheckpointId,
        task: TaskId,
        state: SubtaskState,
        unix_ms: u64,
    ) -> (Acknowledged, Vec<Decision>) {
        let mut decisions = Vec::new();
        let Some(run) = self.run.as_ref().filter(|run| run.attempt == attempt) else {
            return (Acknowledged::Stale, decisions);
        };
        let part = acknowledge::Part {
            layout: &self.layout,
            plan: &self.plan,
            parallelism: &run.parallelism,
            attempt,
            target: &Target::Increment,
        };
        // The base of a late part may have been given up since the task began; nothing will be restored from that part.
        let is_late = !self.pending.contains_key(&id);
        let known = |path: &str| {
            is_late || self.registry.contains(path) || self.retained.iter().any(|r| r.files.contains(path))
        };
        let given_out = if id.0 < self.next_id { Ok(()) } else { Err("no such checkpoint".to_owned()) };
        let checked = given_out.and_then(|()| part.check(id, task, &state, self.max_parallelism, known));
        // Before anybody looks at the fate of the checkpoint: from now on the registry owns the shared files.
        let checked = checked.and_then(|()| self.register(id, &state, is_late));
        if let Err(reason) = checked {
            let reason = format!("acknowledgement of {task}: {reason}");
            self.fail(id, &reason, &mut decisions);
            return (Acknowledged::Refused(reason), decisions);
        }
        let needed = self.tasks();
        let Some(pending) = self.pending.get_mut(&id) else {
            cutwater_io::sometimes!(super::points::LATE_ACK, state.shared_files().next().is_some());
            self.delete_private(&state, &mut decisions);
            return (Acknowledged::Late, decisions);
        };
        if pending.states.contains_key(&task) {
            return (Acknowledged::Duplicate, decisions);
        }
        pending.states.insert(task, state);
        if pending.states.len() == needed {
            pending.completed_unix_ms = unix_ms;
        }
        self.finalise(&mut decisions);
        (Acknowledged::Taken, decisions)
    }

    /// A task cannot do its part.
    pub fn decline(&mut self, attempt: Attempt, id: CheckpointId, reason: &str) -> Vec<Decision> {
        let mut decisions = Vec::new();
        if self.run.as_ref().is_some_and(|run| run.attempt == attempt) {
            self.fail(id, reason, &mut decisions);
        }
        decisions
    }

    /// See [`Decision::WriteMetadata`].
    pub fn metadata_written(&mut self, id: CheckpointId, metadata: FileHandle) -> Vec<Decision> {
        let Some(pending) = self.pending.get_mut(&id) else {
            // Aborted in the meantime; its id is dead and its metadata nobody's.
            self.deletions += 1;
            return vec![Decision::Delete(vec![metadata.path])];
        };
        assert!(pending.phase == Phase::Writing, "{pending:?}");
        pending.phase = Phase::Completing;
        let files: BTreeMap<&str, u64> = pending.states.values().flat_map(all_files).collect();
        vec![Decision::Complete(CompletedCheckpoint {
            id,
            state_bytes: files.values().fold(metadata.len_bytes, |sum, len| sum.saturating_add(*len)),
            metadata,
            description: pending.description.clone(),
            triggered_unix_ms: pending.triggered_unix_ms,
            completed_unix_ms: pending.completed_unix_ms,
        })]
    }

    /// See [`Decision::WriteMetadata`]. The object may exist all the same; the sweeper knows.
    pub fn metadata_failed(&mut self, id: CheckpointId, reason: &str) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.fail(id, reason, &mut decisions);
        decisions
    }

    /// The register names the checkpoint: see [`Decision::Complete`]. `retained` is what the register names now.
    pub fn completed(&mut self, id: CheckpointId, retained: &[CheckpointId], now_us: u64) -> Vec<Decision> {
        let pending = self.pending.remove(&id).expect("a checkpoint that completes is pending until it has");
        assert!(pending.phase == Phase::Completing, "{pending:?}");
        tracing::debug!(checkpoint = %id, "completed");
        let mut files: BTreeSet<String> = pending.states.values().flat_map(own_paths).collect();
        files.insert(self.layout.metadata(id));
        let shared = pending.states.values().flat_map(shared_paths).collect();
        self.retained.push(Retained { id, files, shared });

        let mut decisions = Vec::new();
        let base_us = us(self.config.min_pause);
        if let Some(run) = self.run.as_mut().filter(|run| run.attempt == pending.attempt) {
            run.failures = 0;
            run.next_periodic_us = run.next_periodic_us.max(now_us + base_us);
            if let Some(last) = run.last_stage.as_mut().filter(|last| last.from <= id) {
                last.done.get_or_insert(id);
            }
            decisions.push(Decision::NotifyComplete(id));
        }
        // Completion is in order of ids: whatever is older will never be.
        let subsumed: Vec<_> = self.pending.range(..id).map(|(id, _)| *id).collect();
        for id in subsumed {
            self.abort(id, &mut decisions);
        }
        self.subsume(retained, &mut decisions);
        self.finalise(&mut decisions);
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

    /// What a sweep must not touch. `current` is the attempt from which on everything is left alone.
    ///
    /// # Panics
    /// If the register is being changed: what is retained is not certain then.
    pub fn sweep_view(&self, current: Attempt) -> View {
        assert!(self.pending.values().all(|p| p.phase != Phase::Completing), "a completion is under way");
        let own = self.retained.iter().flat_map(|retained| retained.files.iter().chain(&retained.shared));
        // While tasks run, what only an aborted checkpoint registered may still be referenced by the next one; later never.
        let registered = self.run.as_ref().map(|_| self.registry.entries().keys());
        View {
            current,
            next_id: CheckpointId(self.next_id),
            pending: self.pending.keys().copied().collect(),
            referenced: own.chain(registered.into_iter().flatten()).cloned().collect(),
        }
    }

    /// True while the outcome of a completion is awaited.
    pub fn is_completing(&self) -> bool {
        self.pending.values().any(|p| p.phase == Phase::Completing)
    }

    /// Checkpoints under way.
    pub fn pending(&self) -> impl Iterator<Item = CheckpointId> {
        self.pending.keys().copied()
    }

    /// The registry of shared state.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn base_interval_us(&self) -> u64 {
        us(self.config.interval).max(us(self.config.min_pause))
    }

    fn expiry_us(&self, pending: &Pending) -> u64 {
        pending.triggered_us.saturating_add(us(self.config.timeout))
    }

    fn tasks(&self) -> usize {
        self.run.iter().flat_map(|run| &run.parallelism).map(|p| usize::from(*p)).sum()
    }

    /// Deletions must not fall behind without bound (Flink: no trigger while more than that are being cleaned).
    fn may_trigger(&self) -> bool {
        self.pending.len() < self.config.max_concurrent
            && self.deletions <= self.config.max_concurrent
            && self.next_id < self.bound
    }

    fn reserve_ids(&mut self, decisions: &mut Vec<Decision>) {
        if self.run.is_some() && !self.reserving && self.bound - self.next_id < ID_BLOCK / 2 {
            self.reserving = true;
            decisions.push(Decision::ReserveIds(self.bound + ID_BLOCK));
        }
    }

    fn trigger(&mut self, now_us: u64, unix_ms: u64, decisions: &mut Vec<Decision>) {
        let may = self.may_trigger();
        let base_us = self.base_interval_us();
        let Some(run) = self.run.as_mut().filter(|_| may) else { return };
        let description = match run.last_stage {
            Some(last) if last.done.is_some() || !self.pending.is_empty() => return,
            Some(_) => "end of input".into(),
            None => match run.requested.take() {
                Some(description) => description,
                None if run.next_periodic_us <= now_us => "periodic".into(),
                None => return,
            },
        };
        run.next_periodic_us = now_us + base_us;
        let is_last = run.last_stage.is_some();
        let attempt = run.attempt;
        let id = CheckpointId(self.next_id);
        self.next_id += 1;
        self.pending.insert(
            id,
            Pending {
                attempt,
                triggered_us: now_us,
                triggered_unix_ms: unix_ms,
                completed_unix_ms: 0,
                description,
                states: BTreeMap::new(),
                phase: Phase::Collecting,
                _span: tracing::debug_span!("checkpoint", %id),
            },
        );
        // After the last one nothing is processed: it may leave nothing in flight.
        let alignment = if is_last { Alignment::Aligned } else { self.config.alignment };
        let options = CheckpointOptions { alignment, ..CheckpointOptions::default() };
        decisions.push(Decision::Trigger(Barrier { checkpoint: id, options }));
    }

    fn register(&mut self, id: CheckpointId, state: &SubtaskState, is_late: bool) -> Result<(), String> {
        for handle in state.shared_files() {
            let registered = self.registry.register(handle, id);
            let is_condemned = matches!(registered, Err(RegisterError::Condemned { .. }));
            if is_late && is_condemned {
                continue;
            }
            cutwater_io::never!(super::points::CONDEMNED_REFERENCE, is_condemned);
            registered.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Begins to write the oldest checkpoint that has all its parts, one at a time.
    fn finalise(&mut self, decisions: &mut Vec<Decision>) {
        let needed = self.tasks();
        if needed == 0 || self.pending.values().any(|p| p.phase != Phase::Collecting) {
            return;
        }
        let Some((id, pending)) = self.pending.iter_mut().find(|(_, p)| p.states.len() == needed) else {
            return;
        };
        pending.phase = Phase::Writing;
        let vertices = (0u16..).zip(&self.plan).map(|(vertex, plan)| {
            let first = TaskId { vertex, subtask: 0 }..=TaskId { vertex, subtask: u16::MAX };
            let subtasks = pending.states.range(first).map(|(_, state)| state.clone()).collect();
            VertexState { uid: plan.uid.clone(), subtasks }
        });
        let checkpoint = CheckpointMetadata {
            job: self.layout.job().into(),
            id: *id,
            max_parallelism: self.max_parallelism,
            triggered_unix_ms: pending.triggered_unix_ms,
            completed_unix_ms: pending.completed_unix_ms,
            vertices: vertices.collect(),
        };
        // What a restore would refuse must not complete.
        match metadata::validate(&checkpoint, &self.layout, *id, &self.plan, self.max_parallelism) {
            Ok(()) => decisions.push(Decision::WriteMetadata(Box::new(checkpoint))),
            Err(error) => {
                let id = *id;
                self.fail(id, &error.to_string(), decisions);
            }
        }
    }

    /// Aborts a checkpoint for a reason that counts against the tolerable failures.
    fn fail(&mut self, id: CheckpointId, reason: &str, decisions: &mut Vec<Decision>) {
        if !self.abort(id, decisions) {
            return;
        }
        tracing::info!(checkpoint = %id, reason, "checkpoint failed");
        let Some(run) = &mut self.run else { return };
        run.failures += 1;
        if run.failures > self.config.tolerable_failures {
            decisions.push(Decision::Restart(format!("checkpoint {id} failed: {reason}")));
        } else {
            self.finalise(decisions);
        }
    }

    /// Forgets a checkpoint that is not completing. False if there is nothing to abort.
    fn abort(&mut self, id: CheckpointId, decisions: &mut Vec<Decision>) -> bool {
        if self.pending.get(&id).is_none_or(|p| p.phase == Phase::Completing) {
            return false;
        }
        let pending = self.pending.remove(&id).expect("looked up above");
        cutwater_io::reachable!(super::points::ABORTED);
        tracing::debug!(checkpoint = %id, "aborted");
        decisions.push(Decision::NotifyAborted(id));
        for state in pending.states.values() {
            self.delete_private(state, decisions);
        }
        true
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}
