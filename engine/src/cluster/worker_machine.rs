//! What a worker obeys, and what it ignores. Pure: facts in, decisions out.
//!
//! Fencing, in one place:
//! - a leader of a lower epoch than the highest ever heard of is not listened to;
//! - a deployment is started only if its attempt is above every one that was started or cancelled before;
//! - the tasks of the older attempt have ended before those of the newer start (the decisions come in that order);
//! - commands and events of another attempt than the running one are dropped;
//! - without a leader nothing runs: what the tasks would do could not be acknowledged anyway, and the leader deploys anew.

use crate::stream::task::Command;

use super::rpc::{Attempt, FromCoordinator, JobSpec, Placement, TaskDeployment, ToCoordinator};
use crate::state::changelog::ChangelogOptions;

/// What the machine knows.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    epoch: u64,
    floor: Attempt,
    running: Option<Attempt>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A candidate says that it leads.
    Welcomed {
        /// Its epoch.
        epoch: u64,
    },
    /// The leader says something.
    Heard(FromCoordinator),
    /// The connection to the leader is gone.
    LeaderLost,
    /// A task says something.
    Event(ToCoordinator),
}

/// What is to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave this coordinator and look for the leader.
    Disconnect,
    /// End all tasks, and wait until they have ended.
    EndTasks,
    /// Start these tasks.
    Start(Deployment),
    /// Hand a command to all tasks.
    Command(Command),
    /// Tell the leader.
    Say(ToCoordinator),
}

/// See [`FromCoordinator::Deploy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The attempt.
    pub attempt: Attempt,
    /// The job.
    pub job: JobSpec,
    /// Sources read nothing.
    pub stopping: bool,
    /// How changes of keyed state are logged, if they are.
    pub changelog: Option<ChangelogOptions>,
    /// The tasks of this worker.
    pub tasks: Vec<TaskDeployment>,
    /// All tasks of the job.
    pub placements: Vec<Placement>,
}

impl Machine {
    /// The highest epoch ever heard of.
    pub fn epoch_seen(&self) -> u64 {
        self.epoch
    }

    /// Takes a fact and says what to do.
    pub fn step(&mut self, fact: Fact) -> Vec<Decision> {
        match fact {
            Fact::Welcomed { epoch } if epoch < self.epoch => vec![Decision::Disconnect],
            Fact::Welcomed { epoch } => {
                self.epoch = epoch;
                Vec::new()
            }
            Fact::LeaderLost => self.end_tasks(),
            Fact::Event(event) => {
                let ours = attempt_of(&event).is_none_or(|attempt| self.running == Some(attempt));
                if ours { vec![Decision::Say(event)] } else { Vec::new() }
            }
            Fact::Heard(message) => self.heard(message),
        }
    }

    fn heard(&mut self, message: FromCoordinator) -> Vec<Decision> {
        match message {
            FromCoordinator::Deploy { attempt, job, stopping, changelog, tasks, placements } => {
                if attempt <= self.floor || attempt.epoch < self.epoch {
                    return Vec::new();
                }
                let mut decisions = self.end_tasks();
                self.epoch = attempt.epoch;
                self.floor = attempt;
                self.running = Some(attempt);
                let deployment = Deployment { attempt, job, stopping, changelog, tasks, placements };
                decisions.push(Decision::Start(deployment));
                decisions
            }
            FromCoordinator::Cancel { attempt } => {
                if attempt.epoch < self.epoch {
                    return Vec::new();
                }
                self.floor = self.floor.max(attempt);
                if self.running.is_some_and(|running| running <= attempt) {
                    self.end_tasks()
                } else {
                    Vec::new()
                }
            }
            FromCoordinator::Finish { attempt } if self.running == Some(attempt) => self.end_tasks(),
            FromCoordinator::Trigger { attempt, barrier } => self.command(attempt, Command::Trigger(barrier)),
            FromCoordinator::NotifyComplete { attempt, checkpoint } => {
                self.command(attempt, Command::Complete(checkpoint))
            }
            FromCoordinator::NotifyAborted { attempt, checkpoint } => {
                self.command(attempt, Command::Aborted(checkpoint))
            }
            FromCoordinator::NotLeader { .. } => vec![Decision::Disconnect],
            FromCoordinator::Welcome { epoch } => self.step(Fact::Welcomed { epoch }),
            FromCoordinator::Pong { epoch } if epoch < self.epoch => vec![Decision::Disconnect],
            // Of another attempt, or not for workers.
            FromCoordinator::Finish { .. }
            | FromCoordinator::Pong { .. }
            | FromCoordinator::Status(_)
            | FromCoordinator::TriggerStatus(_)
            | FromCoordinator::Checkpoints(_)
            | FromCoordinator::Checkpoint(_)
            | FromCoordinator::Accepted
            | FromCoordinator::Refused { .. } => Vec::new(),
        }
    }

    fn command(&self, attempt: Attempt, command: Command) -> Vec<Decision> {
        if self.running == Some(attempt) { vec![Decision::Command(command)] } else { Vec::new() }
    }

    fn end_tasks(&mut self) -> Vec<Decision> {
        match self.running.take() {
            Some(_) => vec![Decision::EndTasks],
            None => Vec::new(),
        }
    }
}

fn attempt_of(event: &ToCoordinator) -> Option<Attempt> {
    match event {
        ToCoordinator::Running { attempt, .. }
        | ToCoordinator::Acknowledge { attempt, .. }
        | ToCoordinator::Decline { attempt, .. }
        | ToCoordinator::Failed { attempt, .. }
        | ToCoordinator::Exhausted { attempt, .. }
        | ToCoordinator::Committed { attempt, .. } => Some(*attempt),
        ToCoordinator::Hello { .. }
        | ToCoordinator::Heartbeat
        | ToCoordinator::GetStatus
        | ToCoordinator::Rescale { .. }
        | ToCoordinator::Trigger(_)
        | ToCoordinator::GetTrigger { .. }
        | ToCoordinator::GetCheckpoints
        | ToCoordinator::GetCheckpoint { .. }
        | ToCoordinator::DeleteCheckpoint { .. }
        | ToCoordinator::Cancel
        | ToCoordinator::Start { .. }
        | ToCoordinator::Ping => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::barrier::Barrier;
    use crate::checkpoint::snapshot::CheckpointId;
    use crate::cluster::rpc::TaskId;
    use proptest::prelude::*;

    fn attempt(epoch: u64, number: u32) -> Attempt {
        Attempt { epoch, number }
    }

    fn deploy(attempt: Attempt) -> Fact {
        let job = JobSpec { name: "job".into(), query: "q".into(), parameters: Default::default() };
        Fact::Heard(FromCoordinator::Deploy {
            attempt,
            job,
            stopping: false,
            changelog: None,
            tasks: Vec::new(),
            placements: Vec::new(),
        })
    }

    fn cancel(attempt: Attempt) -> Fact {
        Fact::Heard(FromCoordinator::Cancel { attempt })
    }

    fn started(decisions: &[Decision]) -> Option<Attempt> {
        decisions.iter().find_map(|d| match d {
            Decision::Start(deployment) => Some(deployment.attempt),
            _ => None,
        })
    }

    #[test]
    fn older_attempts_end_before_newer_start() {
        let mut machine = Machine::default();
        assert_eq!(started(&machine.step(deploy(attempt(1, 1)))), Some(attempt(1, 1)));
        let decisions = machine.step(deploy(attempt(1, 2)));
        assert_eq!(decisions[0], Decision::EndTasks);
        assert_eq!(started(&decisions[1..]), Some(attempt(1, 2)));
        assert!(machine.step(deploy(attempt(1, 2))).is_empty(), "a repetition");
        assert!(machine.step(deploy(attempt(1, 1))).is_empty());
        assert_eq!(started(&machine.step(deploy(attempt(2, 1)))), Some(attempt(2, 1)));
        assert!(machine.step(deploy(attempt(1, 9))).is_empty(), "of an older leader");
        assert_eq!(machine.step(Fact::Welcomed { epoch: 1 }), [Decision::Disconnect]);
    }

    #[test]
    fn a_cancelled_attempt_does_not_start_afterwards() {
        let mut machine = Machine::default();
        assert!(machine.step(cancel(attempt(1, 2))).is_empty());
        assert!(machine.step(deploy(attempt(1, 2))).is_empty(), "the cancellation overtook it");
        machine.step(deploy(attempt(1, 3)));
        assert!(machine.step(cancel(attempt(1, 2))).is_empty());
        assert_eq!(machine.step(cancel(attempt(1, 3))), [Decision::EndTasks]);
        assert!(machine.step(Fact::LeaderLost).is_empty(), "nothing runs");
    }

    #[test]
    fn commands_and_events_are_of_the_running_attempt() {
        let mut machine = Machine::default();
        machine.step(deploy(attempt(3, 1)));
        let trigger = |attempt| {
            Fact::Heard(FromCoordinator::Trigger { attempt, barrier: Barrier::aligned(CheckpointId(1)) })
        };
        assert_eq!(
            machine.step(trigger(attempt(3, 1))),
            [Decision::Command(Command::Trigger(Barrier::aligned(CheckpointId(1))))]
        );
        assert!(machine.step(trigger(attempt(3, 2))).is_empty());
        let running = |attempt| ToCoordinator::Running { attempt, task: TaskId { vertex: 0, subtask: 0 } };
        assert_eq!(
            machine.step(Fact::Event(running(attempt(3, 1)))),
            [Decision::Say(running(attempt(3, 1)))]
        );
        assert!(machine.step(Fact::Event(running(attempt(2, 1)))).is_empty());
        assert_eq!(machine.step(Fact::LeaderLost), [Decision::EndTasks]);
        assert!(machine.step(Fact::Event(running(attempt(3, 1)))).is_empty(), "it ended");
        assert!(machine.step(trigger(attempt(3, 1))).is_empty());
    }

    proptest! {
        #[test]
        fn attempts_only_grow_and_never_overlap(steps in proptest::collection::vec((0u8..4, 0u64..4, 0u32..4), 0..60)) {
            let mut machine = Machine::default();
            let (mut running, mut last, mut epoch) = (None, Attempt::default(), 0);
            for (kind, e, n) in steps {
                let decisions = machine.step(match kind {
                    0 | 1 => deploy(attempt(e, n)),
                    2 => cancel(attempt(e, n)),
                    _ => Fact::LeaderLost,
                });
                for decision in decisions {
                    match decision {
                        Decision::EndTasks => prop_assert!(running.take().is_some(), "ends what runs"),
                        Decision::Start(deployment) => {
                            prop_assert!(running.is_none(), "two attempts at once");
                            prop_assert!(deployment.attempt > last && deployment.attempt.epoch >= epoch);
                            (running, last, epoch) = (Some(deployment.attempt), deployment.attempt, deployment.attempt.epoch);
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
            }
        }
    }
}
