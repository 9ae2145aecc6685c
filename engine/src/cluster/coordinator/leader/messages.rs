//! What a leader does with the messages of workers, users and candidates.
//!
//! A message about a task counts only if the task is one of the current attempt and the message comes from where it runs.

use cutwater_io::entropy;
use cutwater_io::time::micros;

use super::details::weigh_new;
use super::requests::refused;
use super::{Flight, Leader, Stage, unix_ms};
use crate::checkpoint::coordinator::Acknowledged;
use crate::checkpoint::job_state::{Change, Status};
use crate::checkpoint::snapshot::{CheckpointId, SubtaskState};
use crate::cluster::console::{PartTimes, SubtaskDetails};
use crate::cluster::coordinator::connections::{ConnectionId, Connections};
use crate::cluster::coordinator::deployment::Worker;
use crate::cluster::coordinator::now_us;
use crate::cluster::rpc::{Attempt, FromCoordinator, JobPhase, JobStatus, TaskId, ToCoordinator};

impl Leader {
    /// Takes in a message.
    pub fn message(&mut self, from: ConnectionId, message: ToCoordinator, connections: &mut Connections) {
        let now = now_us();
        self.cluster.heard(from, now);
        match message {
            ToCoordinator::Hello { worker, data_address, slots, epoch_seen, .. } => {
                if epoch_seen > self.state.epoch {
                    // Not believed, but looked into.
                    self.check_at_us = now;
                    connections.send(from, &FromCoordinator::NotLeader { leader: None });
                    connections.close(from);
                    return;
                }
                self.hello(
                    from,
                    worker,
                    Worker { connection: from, data_address, slots, last_heard_us: now },
                    connections,
                );
            }
            ToCoordinator::Heartbeat => {}
            ToCoordinator::Ping => {
                let stuck = |flight: &Flight| now - flight.since_us > micros(self.context.config.lease);
                if !self.in_flight.as_ref().is_some_and(stuck) {
                    connections.send(from, &FromCoordinator::Pong { epoch: self.state.epoch });
                }
            }
            ToCoordinator::Running { attempt, task }
            | ToCoordinator::Acknowledge { attempt, task, .. }
            | ToCoordinator::Decline { attempt, task, .. }
            | ToCoordinator::Failed { attempt, task, .. }
            | ToCoordinator::Exhausted { attempt, task }
            | ToCoordinator::Committed { attempt, task, .. } => {
                if self.runs(from, attempt, task) {
                    self.of_task(message, connections);
                }
            }
            message => self.of_user(from, message, connections),
        }
    }

    /// A task of the current attempt reports.
    fn of_task(&mut self, message: ToCoordinator, connections: &mut Connections) {
        match message {
            ToCoordinator::Running { attempt, task } => self.running(attempt, task),
            ToCoordinator::Acknowledge { attempt, checkpoint, task, state, times } => {
                self.weigh(attempt, checkpoint, task, &state, times);
                let (outcome, decisions) =
                    self.machine().acknowledge(attempt, checkpoint, task, state, unix_ms());
                if let Acknowledged::Refused(reason) = outcome {
                    tracing::warn!(%checkpoint, reason, "acknowledgement refused");
                }
                self.execute(decisions, connections);
            }
            ToCoordinator::Decline { attempt, checkpoint, task, why } => {
                let decisions = self.machine().decline(attempt, checkpoint, task, &why, unix_ms());
                self.execute(decisions, connections);
            }
            ToCoordinator::Failed { task, reason, .. } => {
                self.restart.get_or_insert(format!("{task} failed: {reason}"));
            }
            ToCoordinator::Exhausted { attempt, task } => self.exhausted(attempt, task),
            ToCoordinator::Committed { attempt, checkpoint, task } => {
                if let Some(current) = self.cluster.current_mut(attempt) {
                    let newest = current.committed.entry(task).or_insert(checkpoint);
                    *newest = checkpoint.max(*newest);
                }
            }
            other => unreachable!("not of a task: {other:?}"),
        }
    }

    /// A user asks for something.
    fn of_user(&mut self, from: ConnectionId, message: ToCoordinator, connections: &mut Connections) {
        match message {
            ToCoordinator::GetStatus => {
                connections.send(from, &FromCoordinator::Status(self.status()));
            }
            ToCoordinator::Rescale { parallelism } => self.rescale(from, parallelism, connections),
            ToCoordinator::Trigger(request) => {
                let answer = self.trigger(request).map_or_else(refused, |()| FromCoordinator::Accepted);
                connections.send(from, &answer);
            }
            ToCoordinator::GetTrigger { trigger_id } => {
                connections.send(from, &FromCoordinator::TriggerStatus(self.trigger_status(&trigger_id)));
            }
            ToCoordinator::GetCheckpoints => {
                connections.send(from, &FromCoordinator::Checkpoints(Box::new(self.list())));
            }
            ToCoordinator::GetCheckpoint { checkpoint } => {
                let answer = match self.checkpoint(checkpoint) {
                    Some(details) => FromCoordinator::Checkpoint(Box::new(details)),
                    None => refused(format!("there is no checkpoint {checkpoint}")),
                };
                connections.send(from, &answer);
            }
            ToCoordinator::DeleteCheckpoint { checkpoint } => {
                if let Err(reason) = self.delete(checkpoint, from) {
                    connections.send(from, &refused(format!("checkpoint {checkpoint}: {reason}")));
                }
            }
            ToCoordinator::Cancel => {
                if let Err(reason) = self.cancel(from, connections) {
                    connections.send(from, &refused(reason));
                }
            }
            ToCoordinator::Start { from: path, claim, allow_non_restored } => {
                if let Err(reason) = self.start(path, claim, allow_non_restored, from) {
                    connections.send(from, &refused(reason));
                }
            }
            other => unreachable!("not of a user: {other:?}"),
        }
    }

    fn weigh(
        &mut self,
        attempt: Attempt,
        checkpoint: CheckpointId,
        task: TaskId,
        state: &SubtaskState,
        times: PartTimes,
    ) {
        let registry = self.machine.as_ref().map(|machine| machine.registry());
        let is_known = |path: &str| registry.is_some_and(|registry| registry.contains(path));
        let part = weigh_new(&self.context.layout, attempt, state, is_known);
        let part = SubtaskDetails { acknowledged_unix_ms: Some(unix_ms()), times: Some(times), ..part };
        let parallelism = self.parallelism();
        self.details.add(checkpoint, &parallelism, task, part);
    }

    fn hello(&mut self, from: ConnectionId, name: String, worker: Worker, connections: &mut Connections) {
        connections.send(from, &FromCoordinator::Welcome { epoch: self.state.epoch });
        if self.cluster.hello(name.clone(), worker) {
            self.restart.get_or_insert(format!("worker {name} came back"));
        }
        match &mut self.stage {
            Stage::Ended => {
                let attempt = Attempt { epoch: self.state.epoch, number: self.attempts };
                connections.send(from, &FromCoordinator::Finish { attempt });
            }
            // More may follow.
            Stage::Waiting { settled_us, .. } => {
                *settled_us = now_us() + micros(self.context.config.slots_wait)
            }
            Stage::Verifying | Stage::Deployed => {}
        }
    }

    /// True if the task is one of the attempt, and the message comes from where it runs.
    fn runs(&self, from: ConnectionId, attempt: Attempt, task: TaskId) -> bool {
        let current = self.cluster.current().filter(|current| current.attempt == attempt);
        current.is_some_and(|current| current.workers.get(&task) == Some(&from))
    }

    fn running(&mut self, attempt: Attempt, task: TaskId) {
        // Of a job whose end is on its way nothing is begun any more.
        if self.ending {
            return;
        }
        let Some(current) = self.cluster.current_mut(attempt) else { return };
        if current.running.insert(task) && current.running.len() == current.workers.len() {
            // There is nothing left but to commit.
            if current.stopping {
                return;
            }
            let parallelism = current.parallelism;
            let jitter = entropy::u64("checkpoint.first");
            self.machine().start(attempt, parallelism, now_us(), jitter);
            self.request_last_if_exhausted();
            self.request_sweep();
        }
    }

    fn exhausted(&mut self, attempt: Attempt, task: TaskId) {
        if let Some(current) = self.cluster.current_mut(attempt) {
            current.exhausted.insert(task);
        }
        self.request_last_if_exhausted();
    }

    /// A source may be exhausted before another task runs: then this waits for it.
    fn request_last_if_exhausted(&mut self) {
        let plan = &self.context.config.plan;
        if self.cluster.current().is_some_and(|current| current.phase(plan) == JobPhase::Finishing) {
            self.machine().request_last();
        }
    }

    fn rescale(&mut self, from: ConnectionId, parallelism: u16, connections: &mut Connections) {
        let max = self.state.max_parallelism;
        if parallelism == 0 || parallelism > max {
            let reason = format!("parallelism {parallelism} is not from 1 to {max}");
            connections.send(from, &FromCoordinator::Refused { reason });
        } else if self.stage == Stage::Ended {
            connections.send(from, &FromCoordinator::Refused { reason: "the job has ended".into() });
        } else {
            self.changes.push_back((Change::Rescale { parallelism }, Some(from)));
        }
    }

    fn status(&self) -> JobStatus {
        let current = self.cluster.current();
        let phase = match (&self.state.status, current) {
            (Status::Finished, _) => JobPhase::Finished,
            (Status::Cancelled, _) => JobPhase::Cancelled,
            (Status::Failed { .. }, _) => JobPhase::Failed,
            (Status::Stopping { .. }, Some(current)) if current.all_run() => JobPhase::Finishing,
            (_, Some(current)) => current.phase(&self.context.config.plan),
            (_, None) => JobPhase::Waiting,
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        JobStatus {
            epoch: self.state.epoch,
            attempt: Attempt { epoch: self.state.epoch, number: self.attempts },
            phase,
            running_tasks: count(current.map_or(0, |current| current.running.len())),
            total_tasks: count(current.map_or(0, |current| current.workers.len())),
            latest_checkpoint: self.state.newest_completed(),
            parallelism: current.map_or(0, |current| current.parallelism),
        }
    }
}
