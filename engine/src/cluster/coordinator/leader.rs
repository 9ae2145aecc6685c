//! A leader: the state of one term, and the execution of what the machines decide.

mod messages;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cutwater_io::task::AbortOnDrop;
use cutwater_io::{buggify, entropy, reachable, sometimes, time};

use super::connections::{ConnectionId, Connections};
use super::deployment::Cluster;
use super::io::{self, Fact};
use super::{Context, now_us, points};
use crate::checkpoint::coordinator::{Coordinator, Decision, ID_BLOCK};
use crate::checkpoint::log::{Change, JobState, Outcome, Record, Status};
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata};
use crate::checkpoint::{points as checkpoint_points, sweep};
use crate::cluster::rpc::{Attempt, FromCoordinator};

/// Until the next try, when a change of the register was under way.
const RETRY_SWEEP_US: u64 = 500_000;

pub(super) struct Leader {
    context: Arc<Context>,
    term: u64,
    version: u64,
    state: JobState,
    changes: VecDeque<(Change, Option<ConnectionId>)>,
    in_flight: Option<Flight>,
    /// Absent until the retained checkpoints are read.
    machine: Option<Coordinator>,
    /// Metadata of the retained checkpoints, and of those being written.
    metadata: BTreeMap<CheckpointId, CheckpointMetadata>,
    cluster: Cluster,
    attempts: u32,
    last_parallelism: u16,
    stage: Stage,
    restart: Option<String>,
    sweeping: bool,
    /// When the next sweep is due.
    sweep_at_us: u64,
    check_at_us: u64,
    finishing: bool,
    deposed: bool,
}

struct Flight {
    change: Change,
    next: JobState,
    reply: Option<ConnectionId>,
    since_us: u64,
    _append: AbortOnDrop<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Deploys when it may: not before the one, and with fewer slots than wanted not before the other.
    Waiting { not_before_us: u64, settled_us: u64 },
    /// The files of the checkpoint to restore are being looked at.
    Verifying,
    /// Tasks are deployed.
    Deployed,
    /// There is nothing left to do.
    Finished,
}

impl Leader {
    /// The leader that `record` made.
    pub fn new(context: Arc<Context>, term: u64, record: Record) -> Leader {
        let now = now_us();
        let Record { version, state, .. } = record;
        let sweep_at_us = now + micros(context.config.sweep_interval);
        io::spawn(&context, term, io::load(context.clone(), state.clone()));
        let stage = match state.status {
            Status::Running => {
                Stage::Waiting { not_before_us: now, settled_us: now + micros(context.config.slots_wait) }
            }
            Status::Finished => Stage::Finished,
        };
        Leader {
            check_at_us: now + micros(context.config.lease),
            context,
            term,
            version,
            last_parallelism: 0,
            state,
            changes: VecDeque::new(),
            in_flight: None,
            machine: None,
            metadata: BTreeMap::new(),
            cluster: Cluster::default(),
            attempts: 0,
            stage,
            restart: None,
            sweeping: false,
            sweep_at_us,
            finishing: false,
            deposed: false,
        }
    }

    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// When [`Leader::proceed`] has something to do at the latest.
    pub fn next_deadline_us(&self) -> u64 {
        let stage = match self.stage {
            Stage::Waiting { not_before_us, settled_us } => {
                let now = now_us();
                [not_before_us, settled_us].into_iter().filter(|at| *at > now).min()
            }
            _ => None,
        };
        let machine = self.machine.as_ref().and_then(Coordinator::next_deadline_us);
        let silence = self.cluster.next_silence_us(self.context.config.heartbeat_timeout);
        let sweep = (!self.sweeping).then_some(self.sweep_at_us);
        let overdue = self.cluster.next_due_us();
        let first = [stage, machine, silence, sweep, overdue].into_iter().flatten().min();
        first.unwrap_or(u64::MAX / 2).min(self.check_at_us)
    }

    /// Does what time and the last event made possible. False if it leads no more.
    pub fn proceed(&mut self, connections: &mut Connections) -> bool {
        let now = now_us();
        for connection in self.cluster.silent(self.context.config.heartbeat_timeout, now) {
            reachable!(points::WORKER_SILENT);
            connections.close(connection);
            self.worker_lost(connection, "was silent");
        }
        for connection in self.cluster.overdue(now) {
            reachable!(points::WORKER_OVERDUE);
            connections.close(connection);
            self.worker_lost(connection, "did not start its tasks in time");
        }
        if let Some(machine) = &mut self.machine {
            let decisions = machine.tick(now, unix_ms());
            self.execute(decisions, connections);
        }
        if let Some(reason) = self.restart.take() {
            self.end_attempt(&reason, connections);
        }
        self.finish_if_committed();
        self.flush_changes();
        self.sweep_if_due(now);
        self.deploy_if_possible();
        if now >= self.check_at_us {
            self.check_at_us = now + micros(self.context.config.lease);
            self.spawn(io::check_register(self.context.clone(), self.version));
        }
        !self.deposed
    }

    /// The connection is gone.
    pub fn closed(&mut self, connection: ConnectionId) {
        self.worker_lost(connection, "closed its connection");
    }

    /// Takes in the result of a call. False if it leads no more.
    pub fn fact(&mut self, fact: Fact, connections: &mut Connections) -> bool {
        match fact {
            Fact::Appended(outcome) => return self.appended(outcome, connections),
            Fact::Loaded(loaded) => self.loaded(loaded),
            Fact::Verified(Ok(())) => self.deploy(connections),
            Fact::Verified(Err(error)) => {
                reachable!(points::RESTORE_RETRIED);
                tracing::warn!(%error, "the latest checkpoint cannot be restored; trying again");
                self.wait();
            }
            Fact::MetadataWritten(id, Ok(handle)) => {
                let decisions = self.machine().metadata_written(id, handle);
                self.execute(decisions, connections);
            }
            Fact::MetadataWritten(id, Err(error)) => {
                let decisions = self.machine().metadata_failed(id, &error.to_string());
                self.execute(decisions, connections);
            }
            Fact::Deleted => self.machine().deleted(),
            Fact::Listed(listed) => self.sweep(listed),
            Fact::Swept => self.sweeping = false,
            Fact::Newest(newest) => {
                // A change of its own that is under way learns for itself whom it lost to.
                let foreign = newest.is_some_and(|newest| newest > self.version);
                self.deposed |= foreign && self.in_flight.is_none();
            }
            Fact::Observed(_) => {}
        }
        true
    }

    fn machine(&mut self) -> &mut Coordinator {
        self.machine
            .as_mut()
            .expect("nothing is deployed or written before the retained checkpoints are read")
    }

    fn spawn(&self, call: impl Future<Output = Fact> + Send + 'static) {
        io::spawn(&self.context, self.term, call);
    }

    /// Retained checkpoints are read: the registry is complete before anything can be subsumed.
    fn loaded(&mut self, loaded: Vec<CheckpointMetadata>) {
        let bound = self.state.next_id_bound;
        let machine = Coordinator::new(
            self.context.layout.clone(),
            self.context.config.checkpoint,
            self.context.config.plan.clone(),
            self.state.max_parallelism,
            bound - ID_BLOCK..bound,
            &loaded,
        );
        match machine {
            Ok(machine) => self.machine = Some(machine),
            Err(error) => {
                tracing::error!(%error, "the retained checkpoints contradict each other; reading them again");
                self.spawn(io::load(self.context.clone(), self.state.clone()));
                return;
            }
        }
        self.metadata = io::by_id(loaded);
        if self.stage == Stage::Finished {
            self.request_sweep();
        }
    }

    fn worker_lost(&mut self, connection: ConnectionId, how: &str) {
        if self.cluster.lost(connection) {
            self.restart.get_or_insert(format!("a worker {how}"));
        }
    }

    fn execute(&mut self, decisions: Vec<Decision>, connections: &mut Connections) {
        for decision in decisions {
            match decision {
                Decision::Trigger(barrier) => {
                    self.tell_tasks(connections, true, |attempt| FromCoordinator::Trigger {
                        attempt,
                        barrier: barrier.clone(),
                    });
                }
                Decision::NotifyComplete(checkpoint) => {
                    self.tell_tasks(connections, false, |attempt| FromCoordinator::NotifyComplete {
                        attempt,
                        checkpoint,
                    });
                }
                Decision::NotifyAborted(checkpoint) => {
                    self.tell_tasks(connections, false, |attempt| FromCoordinator::NotifyAborted {
                        attempt,
                        checkpoint,
                    });
                }
                Decision::ReserveIds(bound) => self.changes.push_back((Change::ReserveIds { bound }, None)),
                Decision::WriteMetadata(metadata) => {
                    self.metadata.insert(metadata.id, (*metadata).clone());
                    self.spawn(io::write_metadata(self.context.clone(), *metadata));
                }
                Decision::Complete(checkpoint) => {
                    let retain = self.context.config.checkpoint.retained;
                    self.changes.push_back((Change::Complete { checkpoint, retain }, None));
                }
                Decision::Delete(paths) => self.spawn(io::delete(self.context.clone(), paths)),
                Decision::Restart(reason) => {
                    self.restart.get_or_insert(reason);
                }
            }
        }
    }

    fn tell_tasks(
        &mut self,
        connections: &mut Connections,
        sources_only: bool,
        message: impl Fn(Attempt) -> FromCoordinator,
    ) {
        let Some(current) = self.cluster.current() else { return };
        let plan = &self.context.config.plan;
        let workers = if sources_only { current.source_workers(plan) } else { current.all_workers() };
        let message = message(current.attempt);
        for worker in workers {
            if !connections.send(worker, &message) {
                self.worker_lost(worker, "does not read");
            }
        }
    }

    /// Begins the next change of the register. One at a time: each builds on the one before.
    fn flush_changes(&mut self) {
        while self.in_flight.is_none()
            && let Some((change, reply)) = self.changes.pop_front()
        {
            let next = self.state.changed(&change);
            let record = Record {
                version: self.version + 1,
                writer: entropy::uuid("log.writer"),
                state: next.clone(),
            };
            let append = io::append(self.context.clone(), record);
            let append = io::spawn(&self.context, self.term, append).abort_on_drop();
            self.in_flight = Some(Flight { change, next, reply, since_us: now_us(), _append: append });
        }
    }

    fn appended(&mut self, outcome: Outcome, connections: &mut Connections) -> bool {
        let Some(flight) = self.in_flight.take() else { return true };
        if outcome != Outcome::Landed {
            tracing::info!(?outcome, "lost a change of the register");
            return false;
        }
        self.version += 1;
        self.state = flight.next;
        match flight.change {
            Change::ReserveIds { bound } => self.machine().ids_reserved(bound),
            Change::Complete { checkpoint, .. } => self.completed(checkpoint.id, connections),
            Change::Rescale { parallelism } => {
                let running = self.cluster.current().map(|current| current.parallelism);
                if running.is_some_and(|running| running != parallelism.min(self.cluster.slots())) {
                    self.restart.get_or_insert(format!("another parallelism is wanted: {parallelism}"));
                }
            }
            Change::Finish => self.finished(connections),
        }
        if let Some(user) = flight.reply {
            connections.send(user, &FromCoordinator::Accepted);
        }
        true
    }

    fn completed(&mut self, id: CheckpointId, connections: &mut Connections) {
        let retained: Vec<_> = self.state.retained.iter().map(|checkpoint| checkpoint.id).collect();
        let decisions = self.machine().completed(id, &retained, now_us());
        // Those being written are newer than the latest; those that failed meanwhile are older.
        self.metadata.retain(|other, _| *other > id || retained.contains(other));
        self.execute(decisions, connections);
    }

    /// Everything is committed: says so in the register.
    fn finish_if_committed(&mut self) {
        let plan = &self.context.config.plan;
        let (Some(machine), Some(current)) = (&self.machine, self.cluster.current()) else { return };
        let committed = machine.last_checkpoint().is_some_and(|last| current.has_committed(plan, last));
        if committed && !self.finishing {
            self.finishing = true;
            self.changes.push_back((Change::Finish, None));
        }
    }

    fn finished(&mut self, connections: &mut Connections) {
        self.stage = Stage::Finished;
        self.restart = None;
        let attempt = Attempt { epoch: self.state.epoch, number: self.attempts };
        self.cluster.end_attempt();
        for worker in self.cluster.connections() {
            connections.send(worker, &FromCoordinator::Finish { attempt });
        }
        for (_, user) in std::mem::take(&mut self.changes) {
            if let Some(user) = user {
                connections.send(user, &FromCoordinator::Refused { reason: "the job is finished".into() });
            }
        }
        let decisions = self.machine().stop();
        self.execute(decisions, connections);
        self.request_sweep();
    }

    /// The attempt is lost: what it was about to complete is aborted, then comes the next.
    fn end_attempt(&mut self, reason: &str, connections: &mut Connections) {
        let Some(ended) = self.cluster.end_attempt() else { return };
        tracing::info!(attempt = %ended.attempt, reason, "attempt lost");
        let machine = self.machine();
        sometimes!(points::RESTORED_AFTER_ABORT, machine.pending().next().is_some());
        let decisions = machine.stop();
        self.execute(decisions, connections);
        for worker in self.cluster.connections() {
            connections.send(worker, &FromCoordinator::Cancel { attempt: ended.attempt });
        }
        self.restart = None;
        self.wait();
    }

    fn wait(&mut self) {
        if self.stage == Stage::Finished {
            return;
        }
        let not_before_us = now_us() + micros(self.context.config.restart_delay);
        self.stage = Stage::Waiting {
            not_before_us,
            settled_us: not_before_us + micros(self.context.config.slots_wait),
        };
    }

    /// Starts to restore as soon as the fate of everything before is known and there is where to run.
    fn deploy_if_possible(&mut self) {
        let Stage::Waiting { not_before_us, settled_us } = self.stage else { return };
        let now = now_us();
        let settled = self.machine.as_ref().is_some_and(Coordinator::is_settled)
            && self.in_flight.is_none()
            && self.changes.is_empty();
        let slots = self.cluster.slots();
        let enough = slots >= self.state.parallelism || slots > 0 && now >= settled_us;
        if !settled || !enough || now < not_before_us {
            return;
        }
        self.stage = Stage::Verifying;
        let latest = self.latest_metadata().cloned();
        self.spawn(io::verify(self.context.clone(), latest));
    }

    fn latest_metadata(&self) -> Option<&CheckpointMetadata> {
        let latest = self.state.latest()?;
        Some(self.metadata.get(&latest.id).expect("the metadata of every retained checkpoint is kept"))
    }

    fn deploy(&mut self, connections: &mut Connections) {
        let parallelism = self.state.parallelism.min(self.cluster.slots());
        if self.stage != Stage::Verifying || parallelism == 0 {
            self.wait();
            return;
        }
        self.attempts += 1;
        let attempt = Attempt { epoch: self.state.epoch, number: self.attempts };
        let from = self.latest_metadata().cloned();
        sometimes!(points::RESTORED, from.is_some());
        sometimes!(points::SCALED_UP, self.last_parallelism != 0 && parallelism > self.last_parallelism);
        sometimes!(points::SCALED_DOWN, parallelism < self.last_parallelism);
        tracing::info!(%attempt, parallelism, from = ?from.as_ref().map(|from| from.id), "deploys");
        self.last_parallelism = parallelism;
        self.stage = Stage::Deployed;
        let due_us = now_us() + micros(self.context.config.deploy_timeout);
        let plan = &self.context.config.plan;
        let assignments = self.cluster.deploy(
            attempt,
            plan,
            from.as_ref(),
            parallelism,
            self.state.max_parallelism,
            due_us,
        );
        for assignment in assignments {
            let message = FromCoordinator::Deploy {
                attempt,
                job: self.context.config.job.clone(),
                tasks: assignment.tasks,
                placements: assignment.placements,
            };
            if !connections.send(assignment.connection, &message) {
                self.worker_lost(assignment.connection, "does not read");
            }
        }
    }

    /// A sweep is worth while now; one that is under way may have looked too early.
    pub(super) fn request_sweep(&mut self) {
        self.sweep_at_us = now_us();
    }

    fn sweep_if_due(&mut self, now: u64) {
        if !self.sweeping && (now >= self.sweep_at_us || buggify!(points::SWEEP_NOW)) {
            self.sweeping = true;
            self.sweep_at_us = now + micros(self.context.config.sweep_interval);
            self.spawn(io::list(self.context.clone()));
        }
    }

    /// The view is of now, and only taken while nothing is uncertain.
    fn sweep(&mut self, listed: Option<Vec<String>>) {
        let current = match (self.stage, self.cluster.current()) {
            (Stage::Finished, _) => Some(Attempt { epoch: self.state.epoch, number: u32::MAX }),
            (_, current) => current.map(|current| current.attempt),
        };
        let (Some(listed), Some(current), Some(machine)) = (listed, current, &self.machine) else {
            self.sweeping = false;
            return;
        };
        if machine.is_completing() {
            self.sweeping = false;
            self.sweep_at_us = now_us() + RETRY_SWEEP_US;
            return;
        }
        let orphans = sweep::orphans(&self.context.layout, &machine.sweep_view(current), &listed);
        sometimes!(checkpoint_points::SWEPT, !orphans.is_empty());
        self.spawn(io::sweep(self.context.clone(), orphans, self.version));
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// For people: the wall clock may be wrong.
fn unix_ms() -> u64 {
    u64::try_from(time::unix_time().as_millis()).unwrap_or(u64::MAX)
}
