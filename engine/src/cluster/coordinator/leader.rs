//! A leader: the state of one term, and the execution of what the machines decide.

mod details;
mod messages;
mod requests;
mod restore;
mod sweeping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cutwater_io::task::AbortOnDrop;
use cutwater_io::time::micros;
use cutwater_io::{entropy, reachable, sometimes, time};

use super::connections::{ConnectionId, Connections};
use super::deployment::Cluster;
use super::io::{self, Fact};
use super::{Context, now_us, points};
use crate::checkpoint::coordinator::{Coordinator, Decision};
use crate::checkpoint::history::{self, Entry};
use crate::checkpoint::job_state::{Change, JobState, Status};
use crate::checkpoint::log::{Outcome, Record};
use crate::checkpoint::snapshot::{CheckpointId, CheckpointMetadata};
use crate::cluster::console::Restored;
use crate::cluster::rpc::{Attempt, FromCoordinator};
use details::Details;

pub(super) struct Leader {
    context: Arc<Context>,
    term: u64,
    version: u64,
    state: JobState,
    changes: VecDeque<(Change, Option<ConnectionId>)>,
    in_flight: Option<Flight>,
    /// The retained checkpoints are being read, the how many-th time.
    loading: Option<AbortOnDrop<()>>,
    loads: u64,
    /// The how many-th look at what is to be restored.
    verifications: u64,
    /// Absent until they were read for the first time.
    machine: Option<Coordinator>,
    /// Metadata of the retained checkpoints, and of those being written.
    metadata: BTreeMap<CheckpointId, CheckpointMetadata>,
    /// Metadata of what the job was started from, if that is not retained.
    origin: Option<CheckpointMetadata>,
    /// What became of checkpoints that did not complete; goes into the list with the next change.
    notes: Vec<Entry>,
    /// Directories that were found empty twice; the list of removals forgets them with the next change.
    removed: BTreeSet<String>,
    /// Those that were found empty once.
    once_empty: BTreeSet<String>,
    /// Why requests of users came to nothing, the oldest first.
    given_back: VecDeque<(String, String)>,
    details: Details,
    /// Who waits for a job to be brought back, while it is looked at what from.
    starting: Option<ConnectionId>,
    cluster: Cluster,
    attempts: u32,
    last_parallelism: u16,
    stage: Stage,
    restart: Option<String>,
    /// Attempts that were lost since a checkpoint completed.
    restarts: u32,
    /// The attempt ends because another parallelism is wanted, which is no failure.
    is_rescaling: bool,
    restores: u64,
    restored: Option<Restored>,
    sweeping: bool,
    /// When the next sweep is due.
    sweep_at_us: u64,
    check_at_us: u64,
    /// The end is on its way to the register.
    ending: bool,
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
    /// There is nothing left to do, unless a user brings the job back.
    Ended,
}

impl Leader {
    /// The leader that `record` made.
    pub fn new(context: Arc<Context>, term: u64, record: Record) -> Leader {
        let now = now_us();
        let Record { version, state, .. } = record;
        let sweep_at_us = now + micros(context.config.sweep_interval);
        let settled_us = now + micros(context.config.slots_wait);
        let stage = match state.status.is_terminal() {
            false => Stage::Waiting { not_before_us: now, settled_us },
            true => Stage::Ended,
        };
        let abandoned = state.abandoned().into_iter().cloned();
        let notes = abandoned.map(|entry| entry.failed("its leader was lost", unix_ms())).collect();
        let mut leader = Leader {
            check_at_us: now + micros(context.config.lease),
            context,
            term,
            version,
            last_parallelism: 0,
            state: *state,
            changes: VecDeque::new(),
            in_flight: None,
            loading: None,
            loads: 0,
            verifications: 0,
            machine: None,
            metadata: BTreeMap::new(),
            origin: None,
            notes,
            removed: BTreeSet::new(),
            once_empty: BTreeSet::new(),
            given_back: VecDeque::new(),
            details: Details::default(),
            starting: None,
            cluster: Cluster::default(),
            attempts: 0,
            stage,
            restart: None,
            restarts: 0,
            is_rescaling: false,
            restores: 0,
            restored: None,
            sweeping: false,
            sweep_at_us,
            ending: false,
            deposed: false,
        };
        leader.load(std::time::Duration::ZERO);
        leader
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
        self.end_if_committed(connections);
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
            Fact::Loaded(number, loaded) if number == self.loads => self.loaded(*loaded),
            // Of what was there before a user changed it.
            Fact::Loaded(..) => {}
            Fact::Resolved(resolved) => self.resolved(resolved, connections),
            Fact::Verified(number, _) if number != self.verifications => {}
            Fact::Verified(_, Ok(())) => self.deploy(connections),
            Fact::Verified(_, Err(error)) => {
                reachable!(points::RESTORE_RETRIED);
                tracing::warn!(%error, "the latest checkpoint cannot be restored; trying again");
                self.wait();
            }
            Fact::MetadataWritten(id, Ok(handle)) => {
                let decisions = self.machine().metadata_written(id, handle);
                self.execute(decisions, connections);
            }
            Fact::MetadataWritten(id, Err(error)) => {
                let decisions = self.machine().metadata_failed(id, &error.to_string(), unix_ms());
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

    fn worker_lost(&mut self, connection: ConnectionId, how: &str) {
        if self.cluster.lost(connection) {
            self.restart.get_or_insert(format!("a worker {how}"));
        }
    }

    fn execute(&mut self, decisions: Vec<Decision>, connections: &mut Connections) {
        for decision in decisions {
            match decision {
                Decision::ReserveIds(bound) => self.changes.push_back((Change::ReserveIds { bound }, None)),
                Decision::Begin(entry) => self.changes.push_back((Change::Begin(entry), None)),
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
                Decision::Forget(checkpoint) => {
                    self.tell_tasks(connections, false, |attempt| FromCoordinator::NotifyAborted {
                        attempt,
                        checkpoint,
                    });
                }
                Decision::WriteMetadata { path, metadata } => {
                    self.metadata.insert(metadata.id, (*metadata).clone());
                    self.spawn(io::write_metadata(self.context.clone(), path, *metadata));
                }
                Decision::Complete { entry, stops } => {
                    let retain = self.context.config.checkpoint.retained;
                    let change = match entry.is_savepoint() && !stops {
                        true => Change::Savepoint(entry),
                        false => Change::Complete { entry, retain, stops },
                    };
                    self.changes.push_back((change, None));
                }
                Decision::Note(entry) => self.note(*entry),
                Decision::GiveBack { trigger_id, reason } => self.give_back(trigger_id, reason),
                Decision::Delete(paths) => self.spawn(io::delete(self.context.clone(), paths)),
                Decision::Restart(reason) => {
                    self.restart.get_or_insert(reason);
                }
            }
        }
    }

    /// Beyond the bound of the list a note would be forgotten there at once.
    fn note(&mut self, entry: Entry) {
        if self.notes.len() == history::ENTRIES {
            self.notes.remove(0);
        }
        self.notes.push(entry);
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

    /// Begins the next change of the register. One at a time: each builds on the one before. Notes travel with it; alone they
    /// go only when nothing waits for the register.
    fn flush_changes(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let quiet = matches!(self.stage, Stage::Deployed | Stage::Ended) && self.restart.is_none();
        self.drop_what_is_over();
        let alone = || (quiet && !self.notes.is_empty()).then_some((Change::Note, None));
        let Some((change, reply)) = self.changes.pop_front().or_else(alone) else { return };
        let next = self
            .state
            .changed(&change)
            .noted(&std::mem::take(&mut self.notes), &std::mem::take(&mut self.removed));
        // A record that contradicts itself could be read by nobody, and the job would be lost.
        assert_eq!(next.check(), Ok(()), "after {change:?}");
        let record = Record {
            version: self.version + 1,
            writer: entropy::uuid("log.writer"),
            state: Box::new(next.clone()),
        };
        let append = io::append(self.context.clone(), record);
        let append = io::spawn(&self.context, self.term, append).abort_on_drop();
        self.in_flight = Some(Flight { change, next, reply, since_us: now_us(), _append: append });
    }

    /// A checkpoint that was given up before it could be listed is not listed as begun after its fate was.
    fn drop_what_is_over(&mut self) {
        let Some(machine) = &self.machine else { return };
        let is_over = |id| machine.pending().all(|entry| entry.id != id);
        self.changes.retain(|(change, _)| !matches!(change, Change::Begin(entry) if is_over(entry.id)));
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
            Change::Begin(entry) => {
                let decisions = self.machine().begun(entry.id, now_us());
                self.execute(decisions, connections);
            }
            Change::Complete { entry, .. } | Change::Savepoint(entry) => {
                self.completed(entry.id, connections)
            }
            Change::Note => {}
            Change::Clear { id, .. } => self.cleared(id, connections),
            Change::Rescale { parallelism } => {
                let running = self.cluster.current().map(|current| current.parallelism);
                if running.is_some_and(|running| running != parallelism.min(self.cluster.slots())) {
                    self.is_rescaling = true;
                    self.restart.get_or_insert(format!("another parallelism is wanted: {parallelism}"));
                }
            }
            Change::End { keep, .. } => self.ended(keep, connections),
            Change::Start { .. } => self.started(),
        }
        if let Some(user) = flight.reply {
            connections.send(user, &FromCoordinator::Accepted);
        }
        true
    }

    fn retained_ids(&self) -> Vec<CheckpointId> {
        self.state.retained.iter().map(|checkpoint| checkpoint.id).collect()
    }

    fn completed(&mut self, id: CheckpointId, connections: &mut Connections) {
        let retained = self.retained_ids();
        let decisions = self.machine().completed(id, &retained, now_us(), unix_ms());
        // Those being written may be newer or older than this one.
        let pending: Vec<_> = self.machine().pending().map(|entry| entry.id).collect();
        self.metadata.retain(|other, _| pending.contains(other) || retained.contains(other));
        if self.state.origin().is_none() {
            self.origin = None;
        }
        self.restarts = 0;
        self.execute(decisions, connections);
    }

    /// What is last is committed, or there is nothing left to commit: says so in the register.
    fn end_if_committed(&mut self, connections: &mut Connections) {
        let plan = &self.context.config.plan;
        let (Some(machine), Some(current)) = (&self.machine, self.cluster.current()) else { return };
        let is_committed = match self.state.status {
            Status::Running => {
                machine.last_checkpoint().is_some_and(|last| current.has_committed(plan, last))
            }
            // A sink that runs has committed what it was restored with.
            Status::Stopping { savepoint } => {
                current.all_run() && current.stopping || current.has_committed(plan, savepoint)
            }
            Status::Finished | Status::Cancelled | Status::Failed { .. } => false,
        };
        if is_committed {
            self.end(Status::Finished, None, connections);
        }
    }

    /// Puts the end on its way to the register. What can still be given up is given up now, so that nothing completes after.
    fn end(&mut self, status: Status, reply: Option<ConnectionId>, connections: &mut Connections) {
        if self.ending || self.state.status.is_terminal() {
            return;
        }
        self.ending = true;
        let keep = self.context.config.checkpoint.retention.keeps(&status);
        if let Some(machine) = &mut self.machine {
            let decisions = machine.stop("the job ended", unix_ms());
            self.execute(decisions, connections);
        }
        self.changes.push_back((Change::End { status, keep, at_unix_ms: unix_ms() }, reply));
    }

    fn ended(&mut self, keep: bool, connections: &mut Connections) {
        tracing::info!(status = ?self.state.status, "the job has ended");
        self.ending = false;
        self.stage = Stage::Ended;
        self.restart = None;
        let attempt = Attempt { epoch: self.state.epoch, number: self.attempts };
        self.cluster.end_attempt();
        for worker in self.cluster.connections() {
            connections.send(worker, &FromCoordinator::Finish { attempt });
        }
        for (_, user) in std::mem::take(&mut self.changes) {
            if let Some(user) = user {
                connections.send(user, &FromCoordinator::Refused { reason: "the job has ended".into() });
            }
        }
        // What it was started from, and claimed, stays with the rest.
        self.let_go(keep, connections);
        self.request_sweep();
    }

    /// Deletes the files of what the register does not name any more.
    fn let_go(&mut self, has_origin: bool, connections: &mut Connections) {
        let retained = self.retained_ids();
        let Some(machine) = &mut self.machine else { return };
        let decisions = machine.let_go(&retained, has_origin);
        self.metadata.retain(|id, _| retained.contains(id));
        if !has_origin {
            self.origin = None;
        }
        self.execute(decisions, connections);
    }

    /// The attempt is lost: what it was about to complete is aborted, then comes the next.
    fn end_attempt(&mut self, reason: &str, connections: &mut Connections) {
        let Some(ended) = self.cluster.end_attempt() else { return };
        tracing::info!(attempt = %ended.attempt, reason, "attempt lost");
        let machine = self.machine();
        sometimes!(points::RESTORED_AFTER_ABORT, machine.pending().next().is_some());
        let decisions = machine.stop(&format!("the attempt was lost: {reason}"), unix_ms());
        self.execute(decisions, connections);
        for worker in self.cluster.connections() {
            connections.send(worker, &FromCoordinator::Cancel { attempt: ended.attempt });
        }
        self.restart = None;
        self.restarts += u32::from(!std::mem::take(&mut self.is_rescaling));
        if self.context.config.restarts_max.is_some_and(|max| self.restarts > max) {
            self.end(Status::Failed { reason: reason.into() }, None, connections);
        }
        self.wait();
    }

    fn wait(&mut self) {
        if self.stage == Stage::Ended {
            return;
        }
        let not_before_us = now_us() + micros(self.context.config.restart_delay);
        self.stage = Stage::Waiting {
            not_before_us,
            settled_us: not_before_us + micros(self.context.config.slots_wait),
        };
    }
}

/// For people: the wall clock may be wrong.
pub(super) fn unix_ms() -> u64 {
    u64::try_from(time::unix_time().as_millis()).unwrap_or(u64::MAX)
}
